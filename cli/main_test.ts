import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { ProgramEnd } from "./flags/flags.ts";
import { helpText } from "./flags/help.ts";
import { COMMAND_NAMES, loadCommand } from "./main.ts";
import type { CallForm } from "./process/invocation.ts";
import { inColumns } from "../tests/support/columns.ts";

/** What a task prints on standard output. */
async function printed(task: () => Promise<unknown>): Promise<string> {
  const lines: string[] = [];
  const log = console.log;
  console.log = (line: string) => void lines.push(line);
  try {
    await task();
  } finally {
    console.log = log;
  }
  return lines.join("\n");
}

/** The help of a command. */
async function helpOf(name: string, form: CallForm): Promise<string> {
  return await printed(async () => {
    const { run } = await loadCommand(name).load();
    await assertRejects(async () => await run({ args: ["-h"], form }), ProgramEnd);
  });
}

/** The table of commands in a terminal of so many columns. */
async function tableOf(columns: number): Promise<string> {
  return await inColumns(
    columns,
    () => printed(async () => await (await loadCommand("help").load()).run({ args: [], form: "command" })),
  );
}

Deno.test("each flag of each command is in a group of the help", async () => {
  for (const name of COMMAND_NAMES) {
    const help = await helpOf(name, "command");
    assert(!/^Others$/m.test(help), `${name}: ${/^Others$[^]*?\n\n/m.exec(help)?.[0]}`);
    assertStringIncludes(help, "-h, --help");
  }
});

Deno.test("help names commands as the person called them", async () => {
  const command = await helpOf("tune", "command");
  assertStringIncludes(command, "edgetuner tune --steps 50");
  assert(!command.includes("examples/"), command);
  const program = await helpOf("tune", "program");
  assertStringIncludes(program, "deno run -A examples/server_tuner.ts --steps 50");
  assert(!program.includes("edgetuner tune"), program);
  for (const name of COMMAND_NAMES) {
    assert(!/examples\/|\bdeno task/.test(await helpOf(name, "command")), name);
  }
});

Deno.test("the table of commands and help fit terminals of 60 and 120 columns", async () => {
  const flags = {
    steps: { kind: "integer", value: "N", default: 3, help: "how many ".repeat(30).trim() },
    "a-flag-with-a-long-name": { kind: "switch", help: "yes or no" },
  } as const;
  for (const width of [60, 120]) {
    const help = helpText(
      { name: "x.ts", about: "What it does. ".repeat(20), examples: [] },
      flags,
      width,
      "command",
    );
    for (const line of [...help.split("\n"), ...(await tableOf(width)).split("\n")]) {
      assert(line.length <= width, `${width}: ${line}`);
    }
  }
  const table = await tableOf(120);
  for (const name of COMMAND_NAMES.filter((name) => !name.startsWith("evaluate "))) {
    assertStringIncludes(table, `  ${name} `);
  }
});

Deno.test("a command that is not known comes with the one that is most like it", async () => {
  const run = async (args: readonly string[]) => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", import.meta.resolve("./main.ts"), ...args],
    }).output();
    const decoder = new TextDecoder();
    return { code, out: decoder.decode(stdout), error: decoder.decode(stderr) };
  };
  const [wrong, none, help, inside] = await Promise.all([
    run(["tun3"]),
    run([]),
    run(["help", "evaluate", "choice"]),
    run(["plan", "--model", "gpt2-medium"]),
  ]);
  assertEquals(wrong.code, 2);
  assertStringIncludes(wrong.error, "did you mean edgetuner tune?");
  assertEquals(none.code, 2);
  assertStringIncludes(none.out, "train-pruner");
  assertEquals(help.code, 0);
  assertStringIncludes(help.out, "edgetuner choice [flags]");
  assertEquals(
    inside.error,
    'Cannot run edgetuner plan as flags must be known: "--model" is not; did you mean --models?\n',
  );
});
