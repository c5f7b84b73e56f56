import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { parse as parseYaml } from "yaml";
import { FLAGS_PAGE, flagsPage } from "../tests/support/flags_page.ts";
import { ROOT } from "../tests/support/places.ts";
import { printedBy } from "../tests/support/printed.ts";
import { ProgramEnd, UsageError } from "./flags/flags.ts";
import { exampleLines, helpText } from "./flags/help.ts";
import { COMMAND_NAMES, loadCommand } from "./main.ts";
import { inColumns } from "../tests/support/columns.ts";

/** What a call prints that ends before the command does anything, such as one with `--help`. */
async function printed(name: string, args: readonly string[]): Promise<string> {
  return await printedBy(async () => {
    const { run } = await loadCommand(name).load();
    await assertRejects(async () => await run({ args, form: "command" }), ProgramEnd);
  });
}

/** Values that a call gives, by flag. */
async function given(name: string, args: readonly string[]): Promise<Record<string, unknown>> {
  return parseYaml(await printed(name, [...args, "--print-config"])) ?? {};
}

/** Names of a command's flags, but for those of all commands. */
async function flagsOf(name: string): Promise<string[]> {
  const [, ...groups] = (await printed(name, ["-h"])).split("\n\n");
  const text = groups.join("\n\n").split("\nGeneral\n")[0]!;
  return [...text.matchAll(/^ {2}--([a-z-]+)/gm)].map(([, flag]) => flag!);
}

/** Commands in the help of a command, each as its words; variables before it and a pipe into it are left out. */
async function examplesOf(name: string): Promise<[command: string, args: string[]][]> {
  const [, text = ""] = (await printed(name, ["-h"])).split("\nExamples\n");
  const lines = text.replaceAll("\\\n", " ").split("\n").map((line) => line.trim());
  return lines.filter((line) => line !== "" && !line.startsWith("#")).map((line) => {
    const words = line.replace(/\s+#.*$/, "").match(/(?:[^\s"]|"[^"]*")+/g)!;
    const rest = words.slice(words.indexOf("edgetuner") + 1).map((word) => word.replaceAll('"', ""));
    const two = rest.slice(0, 2).join(" ");
    return COMMAND_NAMES.includes(two) ? [two, rest.slice(2)] : [rest[0]!, rest.slice(1)];
  });
}

/** True for what stands for something of the user's own: a name in capitals, alone or before an extension. */
const isPlaceholder = (value: string) => value.split(",").every((one) => /^[A-Z_]+(\.[a-z]+)?$/.test(one));

Deno.test("help and examples of each command fit 60 columns; only a word that is longer does not", async () => {
  await inColumns(60, async () => {
    for (const name of COMMAND_NAMES) {
      for (const line of (await printed(name, ["-h"])).split("\n")) {
        const longest = Math.max(...line.trim().split(" ").map((word) => word.length));
        assert(line.length <= 60 || longest > 40, `${name}: ${line}`);
      }
    }
  });
});

Deno.test("a long example is broken between arguments, and what is said of it stands above", () => {
  const example = 'edgetuner x --one 1 --two "a b" --three 3 three   # what it does';
  assertEquals(exampleLines(example, 100), [`  ${example}`]);
  assertEquals(exampleLines(example, 40), [
    "  # what it does",
    '  edgetuner x --one 1 --two "a b" \\',
    "    --three 3 three",
  ]);
  const help = helpText({ name: "plan.ts", about: "x", examples: [example] }, {}, 42, "program");
  assert(help.split("\n").every((line) => line.length <= 42), help);
});

Deno.test("the examples of each command have flags that there are, and files that there are", async () => {
  let count = 0;
  for (const name of COMMAND_NAMES) {
    const examples = await examplesOf(name);
    assert(examples.length > 0, `${name} has no example`);
    for (const [command, args] of examples) {
      count++;
      // What is not known, or out of range, is refused before the settings are printed.
      const values = await given(command, args).catch((error) => {
        throw new Error(`${name}: edgetuner ${command} ${args.join(" ")}`, { cause: error });
      });
      assertEquals(typeof values, "object");
      for (const value of args.filter((arg) => !arg.startsWith("-"))) {
        // Made by another command, an address, a model of the hub, a placeholder, or there.
        const isPath = /\//.test(value) || /\.(txt|jsonl?|csv|gguf)$/.test(value);
        if (!isPath || isPlaceholder(value) || /^runs\/|^wss?:|\s/.test(value)) continue;
        if (command.endsWith("pull") || command === "e2e run") continue;
        assert(await Deno.stat(`${ROOT}/${value}`).then(() => true, () => false), `${name}: ${value}`);
      }
    }
  }
  assert(count > 50, `${count} examples`);
});

Deno.test("settings that are printed read back as the same", async () => {
  const file = await Deno.makeTempFile({ suffix: ".yaml" });
  try {
    for (const name of COMMAND_NAMES) {
      for (const [command, args] of await examplesOf(name)) {
        if (args.includes("--token") || args.includes("--join-token")) continue; // secrets are not printed
        const text = await printed(command, [...args, "--print-config"]);
        await Deno.writeTextFile(file, text);
        assertEquals(await printed(command, ["--config", file, "--print-config"]), text, command);
      }
    }
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("other names that people try work in each command that has what they mean", async () => {
  const aliases = [
    ["lr", "rate", 0.125],
    ["batch-size", "batch", 3],
    ["max-length", "length", 33],
    ["max-new-tokens", "max-tokens", 5],
    ["lora-rank", "rank", 4],
  ] as const;
  const found = new Map<string, number>();
  for (const name of COMMAND_NAMES) {
    const flags = await flagsOf(name);
    for (const [alias, meant, value] of aliases) {
      if (!flags.includes(meant) || flags.includes(alias)) continue;
      found.set(alias, (found.get(alias) ?? 0) + 1);
      // Beside what was chosen to fit the model.
      assertEquals((await given(name, [`--${alias}`, `${value}`]))[meant], value, `${name} --${alias}`);
    }
    // What an epoch is knows who has the data and says how long the run is.
    if (flags.includes("epochs")) assertEquals((await given(name, ["--epochs", "2"])).epochs, 2, name);
    else if (flags.includes("steps")) {
      const { run } = await loadCommand(name).load();
      const ask = async () => void await run({ args: ["--epochs", "2"], form: "command" });
      await assertRejects(ask, UsageError, name === "serve" ? "edgetuner join --epochs" : "; use --steps");
    }
  }
  for (const [alias] of aliases) assert(found.get(alias)! >= 2, `${alias}: ${found.get(alias)}`);
  for (const name of ["tune", "demo"]) assertStringIncludes(`${await flagsOf(name)}`, "epochs");
});

Deno.test("negative values are values in each command: they are taken, or refused by their range", async () => {
  for (const name of COMMAND_NAMES) {
    const flags = await flagsOf(name);
    if (flags.includes("seed")) {
      const { run } = await loadCommand(name).load();
      await assertRejects(
        async () => void await run({ args: ["--seed", "-1"], form: "command" }),
        UsageError,
        '--seed must be an integer from 0 to 4294967295: current value is "-1"',
      );
    }
    if (flags.includes("length-penalty")) {
      assertEquals(await given(name, ["--length-penalty", "-5"]), { "length-penalty": -5 });
    }
  }
});

Deno.test("a model of the hub: each command with --model downloads it or says the command that does", async () => {
  const downloads = ["pull", "e2e pull", "e2e run"];
  let count = 0;
  for (const name of COMMAND_NAMES) {
    if (!(await flagsOf(name)).includes("model")) continue;
    const model = "openai-community/gpt2-medium";
    if (downloads.includes(name)) {
      assertEquals(await given(name, ["--model", model]), { model });
      continue;
    }
    count++;
    const { run } = await loadCommand(name).load();
    await assertRejects(
      async () => void await run({ args: ["--model", model], form: "command" }),
      UsageError,
      `downloads it and prints its folder: edgetuner pull --model ${model}`,
      name,
    );
  }
  assert(count >= 12, `${count} commands`);
});

/** Where nobody listens. */
const AWAY = ["--server", "ws://127.0.0.1:9/join/ws", "--token", "12345678"];

Deno.test("a value out of range is refused by the name of its flag and the rule", async () => {
  const cases = [
    ["generate", ["--repetition-penalty", "0"], "--repetition-penalty must be a number from 0.01 to 100"],
    ["generate", ["--temperature", "1e-40"], "--temperature must be 0, or a number from 0.001 to 1000"],
    ["generate", ["--length-penalty", "1e300"], "--length-penalty must be a number from -10 to 10"],
    ["generate", ["--top-p", "2"], "--top-p must be a number from 0 to 1"],
    ["chat", ["--temperature", "-1"], "--temperature must be 0, or a number from 0.001 to 1000"],
    ["tune", ["--batch", "0"], "--batch must be an integer from 1 to 65536"],
    ["tune", ["--batch", "1e9"], "--batch must be an integer from 1 to 65536"],
    ["tune", ["--length", "1e9"], "--length must be an integer from 2 to 1048576"],
    ["tune", ["--steps", "0"], "--steps must be an integer of at least 1:"],
    ["tune", ["--steps", "1e12"], "--steps must be an integer from 1 to 2147483647"],
    ["tune", ["--alpha", "1e60"], "--alpha must be a number from 0.000001 to 1000000"],
    ["tune", ["--rate", "Infinity"], "--rate must be a number from 1e-9 to 1000"],
    ["tune", ["--save", "false"], "--save must be a path: current value is"],
    ["demo", ["--out", "true"], "--out must be a path: current value is"],
    ["join", ["--name", "a".repeat(65), ...AWAY], "--name must have at most 64 characters"],
    ["join", ["--capacity", "-1"], "--capacity must be a number of at least 0"],
    ["join", ["--smoothing", "nan"], "--smoothing must be a number from 0 to 0.99"],
    ["join", ["--server", "ftp://a", "--token", "12345678"], "--server must begin with ws, wss,"],
  ] as const;
  for (const [name, args, message] of cases) {
    const { run } = await loadCommand(name).load();
    const error = await assertRejects(
      async () => void await run({ args, form: "command" }),
      UsageError,
      message,
    );
    assertStringIncludes(error.message, `current value is "${args[1]}"`);
  }
  // A token is not shown.
  const { run } = await loadCommand("serve").load();
  const args = ["--join-token", "12345678", "--admin-token", "12345678"];
  await assertRejects(async () => void await run({ args, form: "command" }), UsageError, "must differ");
  for (const [flag, value] of [["temperature", 0], ["temperature", 0.7], ["repetition-penalty", 1.2]]) {
    assertEquals(await given("generate", [`--${flag}`, `${value}`]), { [flag as string]: value });
  }
});

Deno.test("no flag of a command is lost or new unseen: docs/flags.md lists them all", async () => {
  assertEquals(
    await Deno.readTextFile(FLAGS_PAGE),
    await flagsPage(),
    "if a flag was meant to come or go: deno run -A tests/support/flags_page.ts",
  );
});
