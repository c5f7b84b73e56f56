import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  type Flag,
  flagArgs,
  type FlagValues,
  type GivenFlags,
  integer,
  number,
  ProgramEnd,
  type ProgramText,
  readFlags as readCall,
  readGiven as readGivenOfCall,
  text,
  toggle,
  UsageError,
  withDefaults,
} from "./flags.ts";
import { RUN_FLAGS } from "./run_flags.ts";
import { loraTargets } from "./tuning_flags.ts";

const PROGRAM = { name: "trial.ts", about: "Nothing.", examples: [] };
const FLAGS = {
  steps: integer("N", 10, "steps", { min: 1 }),
  rate: number("X", 0.5, "rate"),
  targets: text("LIST", "q", "targets"),
  mode: text("MODE", "full", "mode", ["slice", "full"]),
  quiet: toggle("say nothing"),
};

function readFlags<const S extends Record<string, Flag>>(
  program: ProgramText,
  flags: S,
  args: readonly string[],
): FlagValues<S> {
  return readCall(program, flags, { args, form: "command" });
}

function readGiven<const S extends Record<string, Flag>>(
  program: ProgramText,
  flags: S,
  args: readonly string[],
): GivenFlags<S> {
  return readGivenOfCall(program, flags, { args, form: "command" });
}

async function withFile(name: string, content: string, run: (path: string) => void): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/${name}`, content);
    run(`${folder}/${name}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Nine lists, each of the one before nine times: nine to the power of nine numbers in 300 bytes. */
const ALIASES = Array.from("abcdefghi", (name, i) => {
  const inside = i === 0 ? "1" : `*${"abcdefghi"[i - 1]}`;
  return `${name}: &${name} [${Array(9).fill(inside)}]`;
}).join("\n");

Deno.test("readFlags() takes defaults, then the config file, then the command line", async () => {
  const yaml = "steps: 20\nrate: 1e-3\ntargets: [q, v]\nquiet: true\n";
  await withFile("run.yaml", yaml, (path) => {
    assertEquals(readFlags(PROGRAM, FLAGS, ["--config", path]), {
      steps: 20,
      rate: 0.001,
      targets: "q,v",
      mode: "full",
      quiet: true,
    });
    const both = readFlags(PROGRAM, FLAGS, ["--steps", "3", "--config", path, "--targets", "k"]);
    assertEquals([both.steps, both.targets, both.rate], [3, "k", 0.001]);
  });
  await withFile("run.json", '{"mode": "slice", "steps": "7"}', (path) => {
    const { mode, steps } = readFlags(PROGRAM, FLAGS, ["--config", path]);
    assertEquals([mode, steps], ["slice", 7]);
  });
  assertEquals(readFlags(PROGRAM, FLAGS, []).steps, 10);
});

Deno.test("readFlags() says what is wrong with a config file", async () => {
  const cases = [
    ["a.json", "{", "must be a file of JSON or YAML"],
    ["a.json", '{\n "steps": 5,\n}', "(line 3 column 1)"],
    ["a.yaml", "steps: 5\nmode: [1, 2\nquiet: true\n", "at line 3, column 1)"],
    ["a.yaml", "- 1\n- 2\n", "must hold names of flags"],
    ["a.yaml", "steps: &a [*a]\n", "Alias resolution is disabled"],
    ["a.yaml", "&a\nsteps: *a\n", "Alias resolution is disabled"],
    ["a.yaml", ALIASES, "Alias resolution is disabled"],
    ["a.yaml", `steps: ${"[".repeat(100_000)}`, "must be a file of JSON or YAML"],
    ["a.json", `{"steps": ${"[".repeat(100_000)}`, "at most 128 within each other"],
    ["a.json", `{"steps": "${"x".repeat(300_000)}"}`, "at most 262144 bytes"],
    ["a.yaml", "stepz: 3\n", '"stepz" in'],
    ["a.yaml", "steps: 0\n", '--steps must be an integer of at least 1: current value is "0"'],
    ["a.yaml", "steps: {a: 1}\n", "must be a text, a number or a list"],
    ["a.yaml", "quiet: 1\n", "must be true or false: current value is 1"],
    // YAML's false is no text: a folder of that name is not what is meant.
    ["a.yaml", "targets: false\n", '"targets" in'],
    ["a.yaml", "steps: true\n", "must be a text, a number or a list of them: current value is true"],
    ["a.yaml", "mode: other\n", "--mode must be one of slice, full"],
  ] as const;
  for (const [name, content, message] of cases) {
    await withFile(name, content, (path) => {
      const error = assertThrows(() => readFlags(PROGRAM, FLAGS, ["--config", path]), UsageError, message);
      assertEquals(error.message.split("\n").length, 1, error.message);
      if (!message.startsWith("--")) assert(error.message.includes(path), error.message);
    });
  }
  assertThrows(() => readFlags(PROGRAM, FLAGS, ["--config", "/nowhere.yaml"]), UsageError, "/nowhere.yaml");
});

Deno.test("readGiven() returns what is given and nothing else; withDefaults() adds the rest", async () => {
  assertEquals(readGiven(PROGRAM, FLAGS, []), {});
  assertEquals(readGiven(PROGRAM, FLAGS, ["--steps", "10", "--quiet"]), { steps: 10, quiet: true });
  await withFile("run.json", '{"rate": 2, "quiet": false}', (path) => {
    assertEquals(readGiven(PROGRAM, FLAGS, ["--config", path]), { rate: 2 });
  });
  assertEquals(withDefaults(FLAGS, { rate: 2 }), {
    steps: 10,
    rate: 2,
    targets: "q",
    mode: "full",
    quiet: false,
  });
});

Deno.test("an empty text is a value, given either way", () => {
  assertEquals(readGiven(PROGRAM, FLAGS, ["--targets", "", "--steps", "3"]), { targets: "", steps: 3 });
  assertEquals(readGiven(PROGRAM, FLAGS, ["--targets="]), { targets: "" });
});

Deno.test("flagArgs() writes values so that readGiven() reads them again", () => {
  const given = { steps: 12, rate: -0.5, targets: "q,v", quiet: true } as const;
  assertEquals(readGiven(PROGRAM, FLAGS, flagArgs(given)), given);
  assertEquals(flagArgs({ mode: "", quiet: false, steps: undefined }), []);
});

Deno.test("loraTargets() takes projections, each once, and nothing else", () => {
  assertEquals(loraTargets("v, q"), ["v", "q"]);
  for (const given of ["", "q,x", "q,q", "q,", "Q"]) {
    assertThrows(() => loraTargets(given), UsageError, `must be some of q, k, v, each once`);
  }
});

Deno.test("other names that people try are the flags that they mean", async () => {
  const flags = { ...FLAGS, batch: integer("N", 8, "sequences"), length: integer("N", 80, "tokens") };
  const args = ["--lr", "0.1", "--batch-size=4", "--max-length", "16"];
  assertEquals(readGiven(PROGRAM, flags, args), { rate: 0.1, batch: 4, length: 16 });
  await withFile("a.yaml", "lr: 2\n", (path) => {
    assertEquals(readGiven(PROGRAM, flags, ["--config", path]), { rate: 2 });
  });
  assertThrows(() => readGiven(PROGRAM, FLAGS, ["--batch-size", "4"]), UsageError, '"--batch-size" is not');
  const saving = ["--checkpoint", "", "--checkpoint-every=3", "--checkpoint-seconds", "2"];
  const expected = { state: "", "state-every": 3, "state-seconds": 2 };
  assertEquals(readGiven(PROGRAM, RUN_FLAGS, saving), expected);
});

Deno.test("a name that is not known comes with the one that is most like it", () => {
  const cases = [
    [["--stepps", "3"], "did you mean --steps?"],
    [["--target=q"], "did you mean --targets?"],
    [["--learning-rat", "1"], "did you mean --learning-rate?"],
    [["--mode", "ful"], "did you mean full?"],
    [["--zebra"], "see --help"],
  ] as const;
  for (const [args, message] of cases) {
    assertThrows(() => readGiven(PROGRAM, FLAGS, args), UsageError, message);
  }
});

Deno.test("a text that begins with a dash is a value", () => {
  assertEquals(readGiven(PROGRAM, FLAGS, ["--targets", "-q", "--rate", "-1e-3"]), {
    targets: "-q",
    rate: -1e-3,
  });
});

Deno.test("--print-config prints a file that says the same", async () => {
  const printed: string[] = [];
  const log = console.log;
  console.log = (line: string) => void printed.push(line);
  try {
    assertThrows(
      () => readGiven(PROGRAM, FLAGS, ["--steps", "7", "--targets", "", "--quiet", "--print-config"]),
      ProgramEnd,
    );
  } finally {
    console.log = log;
  }
  const [file] = printed;
  assert(file!.includes("# rate: 0.5"), file);
  await withFile("a.yaml", file!, (path) => {
    assertEquals(readGiven(PROGRAM, FLAGS, ["--config", path]), { steps: 7, targets: "", quiet: true });
  });
  await withFile("a.yaml", "# steps: 3\n", (path) => {
    assertEquals(readGiven(PROGRAM, FLAGS, ["--config", path]), {});
  });
});
