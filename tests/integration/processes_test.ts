/**
 * The examples as people run them: processes, signals, mistakes.
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { loadAdapter } from "@edgetuner/core";
import { commandOf } from "../../cli/process/places.ts";
import { type Ended, inThread } from "../support/in_thread.ts";
import { EXAMPLES } from "../support/places.ts";
import { until } from "../support/until.ts";
import { assertQuick } from "../support/quick.ts";

/** Starts a program of `examples/`. */
function start(
  program: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${EXAMPLES}${program}`, ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    env,
  }).spawn();
}

/** Settings that make steps and validations short. */
const SMALL = ["--batch", "2", "--length", "48", "--valid-batches", "1"];

/** Without what Mesa prints where there is no desktop. */
async function end(process: Deno.ChildProcess): Promise<Ended> {
  const { code, stdout, stderr } = await process.output();
  const decoder = new TextDecoder();
  const errors = decoder.decode(stderr).split("\n").filter((l) => l !== "" && !l.includes("XDG_RUNTIME_DIR"));
  return { code, out: decoder.decode(stdout), errors: errors.join("\n") };
}

function assertOneLine({ errors }: Ended, ...parts: string[]): void {
  assertEquals(errors.split("\n").length, 1, `one line expected, got:\n${errors}`);
  for (const part of parts) assertStringIncludes(errors, part);
}

Deno.test("demo.ts fine-tunes in four processes, prunes, saves an adapter and reports what was measured [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const report = `${folder}/report.json`;
  const args = [
    ...["--steps", "8", "--prompts", "3", "--batch", "2", "--length", "48", "--valid-batches", "2"],
    "--pruner",
    `${EXAMPLES}custom_pruner.ts`,
    "--out",
    folder,
    "--report",
    report,
  ];
  const ended = await end(start("demo.ts", args));
  assertEquals(ended.code, 0, ended.errors);
  const result = JSON.parse(await Deno.readTextFile(report));
  const train = result.steps.filter((s: { mode: string }) => s.mode === "train");
  assertEquals(train.length, 8);
  assertLess(result.summary.validAfter, result.summary.validBefore);
  assertLess(result.summary.bytes, result.summary.unprunedBytes);
  assertEquals(result.summary.headsPerDevice, [4, 3, 1]);
  assertEquals(result.samples.length, 3);
  assertGreater(result.slots.before.all, 8);
  assertEquals(result.slots.after.all, result.slots.before.all);
  assertEquals(Object.keys(result.devices).sort(), ["device-1", "device-2", "device-3"]);
  // The edge server's ledger and the sum of its devices' are two views of the same frames.
  const sent = (entries: { kind: string; direction: string; frameBytes: number }[], direction: string) =>
    entries.filter((e) => e.direction === direction).reduce((sum, e) => sum + e.frameBytes, 0);
  const devices = Object.values(result.devices) as {
    traffic: { kind: string; direction: string; frameBytes: number }[];
  }[];
  assertEquals(
    sent(result.run.traffic, "received"),
    devices.reduce((sum, d) => sum + sent(d.traffic, "sent"), 0),
  );
  const adapter = await loadAdapter(`${folder}/adapter`);
  assertEquals(adapter.arrays.size, 4 * 8 * adapter.lora.targets.length * 2);
  const generated = await end(
    start("generate.ts", ["--adapter", `${folder}/adapter`, "--count", "2", "--max-tokens", "8"]),
  );
  assertEquals(generated.code, 0, generated.errors);
  assertMatch(generated.out, /reference:/);
  // The parts that the devices saved are the same adapter.
  const parts = [1, 2, 3].map((i) => `${folder}/device-${i}`).join(",");
  const joined = await end(start("generate.ts", ["--adapter", parts, "--count", "2", "--max-tokens", "8"]));
  assertEquals([joined.code, joined.out], [0, generated.out], joined.errors);
  const part = await end(
    start("generate.ts", ["--adapter", `${folder}/device-1`, "--count", "2", "--max-tokens", "8"]),
  );
  assert(part.out !== generated.out, "one part alone is another adapter");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("demo.ts ends all processes on Ctrl-C and saves what was learnt [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const process = start("demo.ts", [
    ...["--steps", "4000", ...SMALL, "--out", folder, "--report", `${folder}/report.json`],
    ...["--metrics", folder, "--capacities", "2,1"],
  ]);
  await untilSteps(folder);
  process.kill("SIGINT");
  const asked = performance.now();
  const ended = await end(process);
  assertEquals(ended.code, 130, ended.errors);
  assertQuick(performance.now() - asked, 3000);
  const result = JSON.parse(await Deno.readTextFile(`${folder}/report.json`));
  const steps = result.steps.filter((s: { mode: string }) => s.mode === "train").length;
  assertGreater(steps, 0);
  assertLess(steps, 4000);
  const adapter = await loadAdapter(`${folder}/adapter`);
  const b = [...adapter.arrays].filter(([name]) => name.endsWith(".B"));
  assert(b.some(([, { data }]) => data.some((x) => x !== 0)), "B has moved from its start at zero");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("demo.ts and server_tuner.ts end with code 1 and save nothing where the loss becomes NaN [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const args = [
    "--steps",
    "8",
    ...SMALL,
    "--rate",
    "1000",
    "--alpha",
    "1e6",
    "--warmup",
    "0",
  ];
  const demo = await end(start("demo.ts", [...args, "--prompts", "1", "--out", `${folder}/demo`]));
  assertEquals(demo.code, 1);
  for (const party of ["edge server", "device-1", "device-2", "device-3"]) {
    assertStringIncludes(demo.errors, `${party}: Cannot go on training as `);
  }
  assert(!demo.out.includes("saved"), demo.out);
  // A state that is due by the clock would say first that its weights are not finite.
  const save = ["--save", `${folder}/tuner`, "--state-every", "100"];
  const tuner = await end(start("server_tuner.ts", [...args, ...save]));
  assertEquals(tuner.code, 1);
  assertStringIncludes(tuner.errors, "Cannot go on training as the loss must be finite: step ");
  for (const name of ["demo/adapter", "demo/device-1", "demo/device-2", "tuner"]) {
    const files = await Array.fromAsync(Deno.readDir(`${folder}/${name}`), (f) => f.name).catch(() => []);
    assertEquals(files, []);
  }
  await Deno.remove(folder, { recursive: true });
});

/** Waits until a run has taken steps, by the metrics that it writes. */
async function untilSteps(folder: string): Promise<void> {
  const rows = () => Deno.readTextFile(`${folder}/metrics.csv`).catch(() => "");
  await until(async () => (await rows()).split("\n").length > 8, "steps", 60_000);
}

Deno.test({
  name: "demo.ts saves what was learnt on a terminal's Ctrl-C, which goes to its processes too [slow]",
  ignore: Deno.build.os === "windows",
  async fn() {
    const folder = await Deno.makeTempDir();
    const process = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--quiet", `${EXAMPLES}demo.ts`, "--steps", "4000", ...SMALL, "--out", folder],
        ...["--metrics", folder, "--capacities", "2,1"],
      ],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      // A process group of its own, as a shell gives it to what it starts.
      detached: true,
    }).spawn();
    await untilSteps(folder);
    Deno.kill(-process.pid, "SIGINT");
    const ended = await end(process);
    assertEquals(ended.code, 130, ended.errors);
    const adapter = await loadAdapter(`${folder}/adapter`);
    const b = [...adapter.arrays].filter(([name]) => name.endsWith(".B"));
    assert(b.some(([, { data }]) => data.some((x) => x !== 0)), "B has moved from its start at zero");
    await Deno.remove(folder, { recursive: true });
  },
});

/** The process whose command line has all these parts; Linux. */
async function processWith(...parts: string[]): Promise<number> {
  for await (const { name } of Deno.readDir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const line = await Deno.readTextFile(`/proc/${name}/cmdline`).catch(() => "");
    if (parts.every((part) => line.split("\0").includes(part))) return Number(name);
  }
  throw new Error(`No process has ${parts.join(" ")}`);
}

Deno.test({
  name: "demo.ts says where the other devices' heads are when one device is killed [slow]",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const folder = await Deno.makeTempDir();
    const report = `${folder}/report.json`;
    const process = start("demo.ts", [
      ...["--steps", "4000", ...SMALL, "--out", folder, "--metrics", folder, "--report", report],
      ...["--retry-timeout", "2"],
    ]);
    await untilSteps(folder);
    Deno.kill(await processWith("--save", `${folder}/device-2`), "SIGKILL");
    const ended = await end(process);
    assertEquals(ended.code, 4, ended.errors);
    assertStringIncludes(ended.errors, `${folder}/device-1, ${folder}/device-3`);
    for (const [name, heads] of [["device-1", 4], ["device-3", 1]] as const) {
      const { lora, arrays } = await loadAdapter(`${folder}/${name}`);
      assertEquals(arrays.size, 4 * heads * lora.targets.length * 2);
    }
    assertEquals(JSON.parse(await Deno.readTextFile(report)).adapterFolder, null);
    await Deno.remove(folder, { recursive: true });
  },
});

Deno.test("what cannot be written is refused in one line before anything starts [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const file = `${folder}/file`;
  await Deno.writeTextFile(file, "");
  for (
    const [program, flag, ...others] of [
      ["demo.ts", "report"],
      ["demo.ts", "out"],
      ["server_tuner.ts", "save"],
      ["server_tuner.ts", "report"],
      ["user_device.ts", "save", "--token", "some-token"],
      ["edge_server.ts", "report", "--port", "0"],
      ["train_pruner.ts", "out"],
      ["train_pruner.ts", "samples", "--out", `${folder}/predictor`],
      ["server_tuner.ts", "metrics"],
      ["generate.ts", "predictions"],
      ["evaluate.ts", "report", "--references", "no-such", "--predictions", "no-such"],
      ["evaluate.ts", "pretty", "--references", "no-such", "--predictions", "no-such"],
      ["format_data.ts", "output", "--input", "no-such"],
    ] as const
  ) {
    const ended = await inThread(program, [`--${flag}`, `${file}/below`, ...others]);
    assertEquals(ended.code, 2, `${program} --${flag}`);
    assertOneLine(ended, `--${flag}`, `${file}/below`);
  }
  const left = await Array.fromAsync(Deno.readDir(folder));
  assertEquals(left.map(({ name }) => name), ["file"]);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a parameter that the chosen pruner does not take is refused, not left out of account [slow]", async () => {
  for (
    const [program, pruner, flag] of [
      ["demo.ts", "none", "tau"],
      ["demo.ts", "random", "keep"],
      ["demo.ts", "magnitude", "share"],
      ["demo.ts", "iheadpruner", "lambda"],
      ["edge_server.ts", "greedy", "keep"],
    ] as const
  ) {
    const ended = await inThread(program, ["--pruner", pruner, `--${flag}`, "0.5"]);
    assertEquals(ended.code, 2);
    assertOneLine(ended, pruner, `--${flag}`);
  }
});

Deno.test("a codec whose name no run can use is refused in one line, before anything starts [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const core = new URL("../../core/mod.ts", import.meta.url).href;
  for (
    const [name, program] of [
      ["f16", "demo.ts"],
      ["int8", "edge_server.ts"],
      ["u8", "demo.ts"],
      ["", "edge_server.ts"],
    ] as const
  ) {
    const file = `${folder}/codec.ts`;
    const source = `import { f16Codec } from "${core}";\n` +
      `export default () => ({ ...f16Codec(), name: ${JSON.stringify(name)} });\n`;
    await Deno.writeTextFile(file, source);
    const ended = await inThread(program, ["--codec", file]);
    assertEquals(ended.code, 2, `${program} ${name}: ${ended.errors}`);
    assertOneLine(ended, `Cannot use codec "${name}" as names must`, file);
  }
  await Deno.remove(folder, { recursive: true });
});

Deno.test("pull.ts names the data sets that there are, and refuses a revision that is named twice [slow]", async () => {
  const unknown = await inThread("pull.ts", ["--dataset", "foo"]);
  assertEquals(unknown.code, 2);
  assertOneLine(unknown, "one of e2e, ", '"foo"');
  const twice = await inThread("pull.ts", ["--model", "a/b@main", "--revision", "v2"]);
  assertEquals(twice.code, 2);
  assertOneLine(twice, "a/b@main", "v2");
});

Deno.test("user_device.ts says so and fails within its limit when the server cannot be reached [slow]", async () => {
  const began = performance.now();
  const args = ["--server", "ws://127.0.0.1:1/join/ws", "--token", "some-token", "--connect-timeout", "3"];
  const ended = await end(start("user_device.ts", args));
  assertEquals(ended.code, 4);
  assertMatch(ended.errors, /Cannot connect to ws:\/\/127\.0\.0\.1:1.*; \d+ attempts within 3000 ms/);
  assertQuick(performance.now() - began, 15_000);
});

Deno.test("user_device.ts says so and fails within its limit when the server never answers [slow]", async () => {
  using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = silent.addr;
  for (const path of [`ws://127.0.0.1:${port}/join/ws`, `http://127.0.0.1:${port}/join/http`]) {
    const args = ["--server", path, "--token", "some-token", "--connect-timeout", "2"];
    const ended = await end(start("user_device.ts", args));
    assertEquals(ended.code, 4);
    assertMatch(ended.errors, /^Cannot connect to .*no answer.*; one attempt within 2000 ms$/m);
  }
});

Deno.test("edge_server.ts says in one line that a pruner is not known [slow]", async () => {
  const ended = await inThread("edge_server.ts", ["--port", "0", "--pruner", "nope"]);
  assertEquals(ended.code, 2);
  assertOneLine(ended, "nope");
});

/** Starts an edge server and waits until it listens. */
async function startServer(args: readonly string[]) {
  const process = start("edge_server.ts", [
    "--port",
    "0",
    "--join-token",
    "the-join-token",
    "--events",
    ...args,
  ]);
  const reader = process.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("\n")) text += (await reader.read()).value ?? "";
  const { address } = JSON.parse(text.split("\n")[0]!);
  return {
    address: String(address),
    async stop() {
      process.kill("SIGINT");
      while (!(await reader.read()).done);
      await process.stderr.cancel();
      return (await process.status).code;
    },
  };
}

Deno.test("a device with a wrong or missing token is told so in one line [slow]", async () => {
  const server = await startServer([]);
  const url = `ws://${server.address}/join/ws`;
  const wrong = await end(start("user_device.ts", ["--server", url, "--token", "not-the-token"]));
  assertEquals(wrong.code, 3);
  assertOneLine(wrong, "token");
  const missing = await inThread("user_device.ts", ["--server", url]);
  assertEquals(missing.code, 2);
  assertOneLine(missing, "--token");
  assertEquals(await server.stop(), 130);
});

Deno.test("edge_server.ts says in one line that a port is in use or a model is unreadable [slow]", async () => {
  const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const port = (taken.addr as Deno.NetAddr).port;
  const inUse = await inThread("edge_server.ts", ["--port", `${port}`]);
  taken.close();
  assertEquals(inUse.code, 2);
  assertOneLine(inUse, `${port}`, "in use");
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/config.json`, "{ not json");
  const unreadable = await inThread("edge_server.ts", ["--port", "0", "--model", folder]);
  assertEquals(unreadable.code, 1);
  assertOneLine(unreadable, `${folder}/config.json`);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("each program of examples/ calls the command that it stands for, has --help with examples and refuses unknown flags [slow]", async () => {
  const programs: string[] = [];
  for (const folder of ["", "e2e/"]) {
    for await (const { name, isFile } of Deno.readDir(`${EXAMPLES}${folder}`)) {
      const source = isFile && name.endsWith(".ts")
        ? await Deno.readTextFile(`${EXAMPLES}${folder}${name}`)
        : "";
      if (!source.includes("import.meta.main")) continue;
      assertStringIncludes(source, `await runCommand("${commandOf(`${folder}${name}`)}");`, name);
      programs.push(`${folder}${name}`);
    }
  }
  assertGreater(programs.length, 20);
  for (const program of programs) {
    const help = await inThread(program, ["--help"]);
    assertEquals(help.code, 0, help.errors);
    assertMatch(help.out, /Examples\n[^]*deno (run|task)/);
    assertStringIncludes(help.out, "--help");
    const unknown = await inThread(program, ["--no-such-flag", "1"]);
    assertEquals(unknown.code, 2);
    assertStringIncludes(unknown.errors, "no-such-flag");
  }
});

for (const program of ["pretrain.ts", "make_data.ts", "train_tokenizer.ts"]) {
  Deno.test(`${program} has --help with examples and refuses unknown flags [slow]`, async () => {
    const help = await end(start(`../bench/tiny_model/${program}`, ["--help"]));
    assertEquals(help.code, 0, help.errors);
    assertMatch(help.out, /deno (run|task)/);
    assertStringIncludes(help.out, "--help");
    const unknown = await end(start(`../bench/tiny_model/${program}`, ["--no-such-flag", "1"]));
    assertEquals(unknown.code, 2);
    assertStringIncludes(unknown.errors, "no-such-flag");
  });
}
