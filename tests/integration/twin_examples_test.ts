import {
  BASE_WEIGHTS,
  baseWeightBytes,
  DEFAULT_LORA,
  gpt2Config,
  memoryModelOf,
  stepMemory,
} from "@edgetuner/core";
import { LINK_PROFILES, MODEL_SIZES } from "@edgetuner/transport";
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { inThread } from "../support/in_thread.ts";
import { EXAMPLES, FIXTURES } from "../support/places.ts";

/** Runs an example to its end. */
async function run(name: string, ...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${EXAMPLES}${name}`, ...args],
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** The same in this thread, for what needs no GPU. */
async function here(name: string, ...args: string[]) {
  const { code, out: stdout, errors: stderr } = await inThread(name, args);
  return { code, stdout, stderr };
}

const TINY = ["--layers", "2", "--heads", "2", "--hidden", "16", "--batch", "1", "--length", "8"];

Deno.test("sweep.ts: a table over the devices, which must not be more than heads [slow]", async () => {
  const { code, stdout, stderr } = await run("sweep.ts", "--devices", "1,2", "--link", "lte", ...TINY);
  assertEquals(code, 0, stderr);
  const lines = stdout.trim().split("\n");
  assertEquals(lines.length, 5);
  assert(lines[1]!.startsWith("devices  s/step  planned"));
  assert(/^Fastest: \d devices?, [\d.]+ s a step$/.test(lines[4]!), lines[4]);
  assert(/^Done: 2 numbers of devices in .*\nNext: .*\n$/.test(stderr), stderr);
  for (const [list, rule] of [["1,3", "from 1 to the model's 2 heads"], ["0", "whole numbers from 1"]]) {
    const wrong = await here("sweep.ts", "--devices", list!, ...TINY);
    assertEquals([wrong.code, wrong.stdout], [2, ""]);
    assert(wrong.stderr.includes(rule!), wrong.stderr);
  }
  const many = await here("sweep.ts", "--devices", "1,100");
  assertEquals([many.code, many.stdout], [2, ""]);
  assert(many.stderr.includes("64 heads, of which each device has one at least: current value is 100"));
});

Deno.test("sweep.ts: a model from a GGUF file, packed, with texts [slow]", async () => {
  const gguf = `${FIXTURES}gguf/bpe.gguf`;
  const data = await Deno.makeTempFile({ suffix: ".jsonl" });
  try {
    await Deno.writeTextFile(
      data,
      '{"prompt": "the", "completion": "food"}\n{"text": "the food and the foo"}\n',
    );
    const args = ["--model", gguf, "--base-weights", "int8", "--devices", "1,4", "--steps", "2", "--json"];
    const { code, stdout, stderr } = await run("sweep.ts", ...args, "--data", data, "--length", "12");
    assertEquals(code, 0, stderr);
    const { lines } = JSON.parse(stdout);
    assertEquals(lines.map((l: { headsPerDevice: number[] }) => l.headsPerDevice), [[4], [1, 1, 1, 1]]);
    assert(lines.every((l: { losses: number[] }) => l.losses.every((loss) => loss > 0 && loss < 20)), stdout);
    const packed = lines[0].edgeMemoryBytes;
    const plain = await run("sweep.ts", ...args.with(3, "f32"), "--length", "12");
    assert(JSON.parse(plain.stdout).lines[0].edgeMemoryBytes > packed, plain.stderr);
    const five = await here("sweep.ts", "--model", gguf, "--devices", "5");
    assertEquals(five.code, 2, five.stderr);
    assertEquals((await here("sweep.ts", "--data", data)).code, 2);
  } finally {
    await Deno.remove(data);
  }
});

Deno.test("sweep.ts: the same as JSON, with a link from a file [slow]", async () => {
  const file = await Deno.makeTempFile({ suffix: ".json" });
  try {
    await Deno.writeTextFile(file, JSON.stringify({ ...LINK_PROFILES.dsl, name: "mine" }));
    const args = ["--devices", "2", "--link", file, "--json", "--keep", "0.5", ...TINY];
    const { code, stdout, stderr } = await run("sweep.ts", ...args);
    assertEquals(code, 0, stderr);
    const { link, lines: [line] } = JSON.parse(stdout);
    assertEquals(link.name, "mine");
    assertEquals(line.headsPerDevice, [1, 1]);
    assertAlmostEquals(line.plannedMsPerStep, line.msPerStep, 0.1 * line.msPerStep);
    await Deno.writeTextFile(file, JSON.stringify({ ...LINK_PROFILES.dsl, up: {} }));
    const wrong = await here("sweep.ts", ...args);
    assertEquals(wrong.code, 2);
    assert(wrong.stderr.includes("--link: Cannot use the link profile as up.bandwidthMbit must be a number"));
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("sweep.ts --availability: loss over seconds where devices come and go, as a table, a page and a plot [slow]", async () => {
  const out = await Deno.makeTempDir();
  try {
    const args = ["--devices", "2", "--steps", "12", "--link", "lte", "--away", "0.3", ...TINY];
    const { code, stdout, stderr } = await run("sweep.ts", "--availability", "100,60", "--out", out, ...args);
    assertEquals(code, 0, stderr);
    const [, head, ...rows] = stdout.trim().split("\n");
    assert(/^availability +heads there +lost +seconds/.test(head!), stdout);
    const lost = rows.map((row) => Number(row.split(/ {2,}/)[2]));
    assertEquals([lost.length, lost[0]], [2, 0], stdout);
    assert(lost[1]! > 0, stdout);
    const page = await Deno.readTextFile(`${out}/index.html`);
    for (const text of ["60 % there", "100 % there", "<svg"]) assert(page.includes(text), text);
    for (
      const [list, more, rule] of [
        ["0", [], "percentages above 0"],
        ["50", ["--devices", "1,2"], "one number of --devices"],
      ] as const
    ) {
      const wrong = await here("sweep.ts", "--availability", list, ...args, ...more);
      assertEquals(wrong.code, 2, wrong.stderr);
      assert(wrong.stderr.includes(rule), wrong.stderr);
    }
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("plan.ts: five systems for each shape, as text and as JSON [slow]", async () => {
  const { code, stdout } = await here("plan.ts");
  assertEquals(code, 0);
  for (const system of ["ServerTuner", "TPTensor", "vEdgeTuner", "DLoRA", "EdgeTuner"]) {
    assertEquals(stdout.split("\n").filter((line) => line.startsWith(`${system} `)).length, 3);
  }
  const json = JSON.parse((await here("plan.ts", "--models", "gpt2-large", "--json")).stdout);
  assertEquals(json.models[0].model, MODEL_SIZES["gpt2-large"]);
  const ms = json.models[0].systems.map((s: { msPerStep: number }) => s.msPerStep);
  const [server, tensor, all, , kept] = ms;
  assert(server < kept && kept < all && all < tensor, ms.join());
  // Layers are matrices but for norms and biases.
  const large = gpt2Config({
    ...{ n_layer: 36, n_head: 20, n_embd: 1280, vocab_size: 50_257, n_positions: 1024 },
  });
  const { weights, step } = json.models[0].memory;
  for (const format of BASE_WEIGHTS) {
    const { layers } = baseWeightBytes(large, format);
    assertAlmostEquals(weights[format].layers, layers, 0.01 * layers);
  }
  const lora = { ...DEFAULT_LORA, mode: "slice", targets: ["q", "v"] } as const;
  const { edgeServer, dataDevice } = stepMemory({ model: memoryModelOf(large), batch: 4, length: 512, lora });
  assertEquals([step.edgeServer, step.dataDevice], [edgeServer, dataDevice]);
  assert(/^edge server +\S+ GB/m.test(stdout), stdout);
  const own = await here("plan.ts", "--layers", "3", "--heads", "5", "--hidden", "16");
  assertEquals(own.code, 2);
  assert(own.stderr.includes("--hidden be a multiple of --heads"), own.stderr);
});
