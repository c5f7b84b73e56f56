import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { normal } from "../../../tests/support/kernels.ts";
import { ModelFileError } from "../../contracts/errors.ts";
import { DEFAULT_OPTIMIZER } from "../../lora/settings.ts";
import type { RunSettings } from "../../train/run_settings.ts";
import {
  loadSamples,
  type PrunerSample,
  readSamples,
  sampleSettings,
  type SampleSource,
  SampleWriter,
} from "./samples.ts";
import { splitSteps, splitWindows, trackSamples, windowsOf } from "./windows.ts";

const SOURCE: SampleSource = {
  layers: 2,
  heads: 3,
  hidden: 5,
  fingerprint: "abc",
  headsPerDevice: [2, 1],
  capacities: [2, 1],
  baseNorm: normal(6, 1).map(Math.abs),
};

function sampleOf(step: number, seed = 7): PrunerSample {
  return {
    seed,
    step,
    embeddingMean: normal(5, 100 * seed + step),
    loraNorm: normal(6, 200 * seed + step).map(Math.abs),
    gradientNorm: normal(6, 300 * seed + step).map(Math.abs),
  };
}

/** A folder of the test's own, with a file of the samples of steps 0 to 2 in it. */
async function withFile(test: (path: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/samples.bin`;
    using writer = await SampleWriter.open(path, SOURCE);
    for (const step of [0, 1, 2]) await writer.write(sampleOf(step));
    assertEquals([writer.count, writer.bytes], [3, (await Deno.stat(path)).size]);
    await test(path);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("SampleWriter writes what loadSamples() reads, and appends to it", async () => {
  await withFile(async (path) => {
    const { source, samples, tornBytes } = await loadSamples(path);
    assertEquals({ source, samples, tornBytes }, {
      source: SOURCE,
      samples: [0, 1, 2].map((step) => sampleOf(step)),
      tornBytes: 0,
    });
    using writer = await SampleWriter.open(path, SOURCE);
    assertEquals([writer.count, writer.cutBytes], [3, 0]);
    await writer.write(sampleOf(0, 9));
    assertEquals((await loadSamples(path)).samples.at(-1), sampleOf(0, 9));
  });
});

Deno.test("a last record that was not written whole is left out, and overwritten when going on", async () => {
  await withFile(async (path) => {
    const whole = await Deno.readFile(path);
    const record = 4 * (2 + 5 + 12 + 1);
    const broken: [string, Uint8Array][] = [
      ["cut", whole.subarray(0, whole.length - 11)],
      ["zeros", whole.slice().fill(0, whole.length - 40)],
      ["one byte", whole.subarray(0, whole.length - record + 1)],
    ];
    for (const [how, bytes] of broken) {
      await Deno.writeFile(path, bytes);
      const { samples, tornBytes } = await loadSamples(path);
      assertEquals(samples.map((s) => s.step), [0, 1], how);
      assertEquals(tornBytes, bytes.length - (whole.length - record), how);
      using writer = await SampleWriter.open(path, SOURCE);
      assertEquals([writer.count, writer.cutBytes], [2, tornBytes], how);
      await writer.write(sampleOf(2));
      assertEquals(await Deno.readFile(path), whole, how);
    }
  });
});

Deno.test("readSamples() refuses what is damaged or something else", async () => {
  await withFile(async (path) => {
    const whole = await Deno.readFile(path);
    const refused = (bytes: Uint8Array) => assertThrows(() => readSamples(bytes), ModelFileError).message;
    const header = whole.length - 3 * 4 * 20;
    assertStringIncludes(refused(new Uint8Array(0)), "does not begin like a file of pruner samples");
    assertStringIncludes(refused(whole.with(0, 0)), "does not begin like a file of pruner samples");
    assertStringIncludes(refused(whole.with(8, 2)), "version must be 1: current value is 2");
    assertStringIncludes(refused(whole.subarray(0, header - 1)), "base norms are cut off");
    assertStringIncludes(refused(whole.subarray(0, 40)), "description is cut off");
    assertStringIncludes(refused(whole.with(16, 0)), "is not JSON");
    assertStringIncludes(refused(whole.with(header + 30, whole[header + 30]! ^ 1)), "record 0 must be whole");
    for (let length = 0; length < header; length++) refused(whole.subarray(0, length));
    assertEquals(readSamples(whole.subarray(0, header)).samples, []);
  });
  await assertRejects(() => loadSamples("/no/such/file"), ModelFileError, "there is no such file");
});

Deno.test("SampleWriter refuses samples of other settings and says which; another seed and more steps are none of them", async () => {
  const run = {
    lora: { mode: "full", targets: ["q", "k"], rank: 4, alpha: 8, dropout: 0 },
    optimizer: DEFAULT_OPTIMIZER,
    steps: 80,
    seed: 1,
  } satisfies RunSettings;
  const of = (settings: RunSettings, more = {}) => ({
    ...SOURCE,
    settings: sampleSettings(settings, { batch: 4, data: "abc", ...more }),
  });
  const folder = await Deno.makeTempDir();
  const path = `${folder}/samples.bin`;
  {
    using writer = await SampleWriter.open(path, of(run));
    await writer.write(sampleOf(1));
  }
  assertEquals((await loadSamples(path)).source, of(run));
  const { lora, optimizer } = run;
  for (
    const [name, now, then, settings, more] of [
      ["lora.mode", '"slice"', '"full"', { ...run, lora: { ...lora, mode: "slice" } }],
      ["lora.targets", '["q"]', '["q","k"]', { ...run, lora: { ...lora, targets: ["q"] } }],
      ["lora.rank", "2", "4", { ...run, lora: { ...lora, rank: 2 } }],
      ["optimizer.learningRate", "0.5", "", { ...run, optimizer: { ...optimizer, learningRate: 0.5 } }],
      ["codec", '"int8"', '"f32"', { ...run, codec: "int8" }],
      ["clipNorm", "1", "null", { ...run, clipNorm: 1 }],
      ["batch", "2", "4", run, { batch: 2 }],
      ["data", '"abd"', '"abc"', run, { data: "abd" }],
      ["length", "48", "none", run, { length: 48 }],
      ["batch", "which has none", "4", run, { batch: undefined }],
    ] as [string, string, string, RunSettings, object?][]
  ) {
    const error = await assertRejects(() => SampleWriter.open(path, of(settings, more)), ModelFileError);
    assertStringIncludes(error.message, `must have the same "${name}" as the run, ${now}: they have ${then}`);
  }
  await assertRejects(() => SampleWriter.open(path, SOURCE), ModelFileError, "which has none");
  {
    using writer = await SampleWriter.open(path, of({ ...run, seed: 2, steps: 90, microBatches: 2 }));
    await writer.write(sampleOf(1, 2));
  }
  assertEquals((await loadSamples(path)).samples, [sampleOf(1), sampleOf(1, 2)]);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("files from before there were settings are read as ever, and not appended to with settings", async () => {
  await withFile(async (path) => {
    const { source, samples } = await loadSamples(path);
    assertEquals([source.settings, samples.length], [undefined, 3]);
    const bytes = await Deno.readFile(path);
    await assertRejects(
      () => SampleWriter.open(path, { ...SOURCE, settings: {} }),
      ModelFileError,
      "must say with which settings its samples were collected",
    );
    assertEquals(await Deno.readFile(path), bytes);
  });
});

Deno.test("SampleWriter refuses samples of another model, other devices or another shape", async () => {
  await withFile(async (path) => {
    for (
      const other of [
        { fingerprint: "abd" },
        { hidden: 6 },
        { headsPerDevice: [1, 2] },
        { layers: 3, baseNorm: new Float32Array(9) },
      ]
    ) {
      const error = await assertRejects(
        () => SampleWriter.open(path, { ...SOURCE, ...other }),
        ModelFileError,
      );
      assertStringIncludes(error.message, `the same "${Object.keys(other)[0]}"`);
    }
    using writer = await SampleWriter.open(path, SOURCE);
    const wrong = { ...sampleOf(3), loraNorm: new Float32Array(5) };
    await assertRejects(() => writer.write(wrong), RangeError, '"loraNorm" must be 6 finite numbers');
    const infinite = { ...sampleOf(3), gradientNorm: new Float32Array(6).fill(NaN) };
    await assertRejects(() => writer.write(infinite), RangeError, '"gradientNorm"');
    assertEquals((await loadSamples(path)).samples.length, 3);
  });
});

Deno.test("trackSamples() begins anew where steps are missing or another run begins", () => {
  const samples = [0, 1, 2, 4, 5, 6].map((step) => sampleOf(step)).concat(sampleOf(7, 8));
  const runs = trackSamples({ source: SOURCE, samples, tornBytes: 0 }, 0.8);
  assertEquals(runs.map((run) => run.length), [3, 3, 1]);
  assertEquals(runs[1]![0]!.importance, runs[1]![0]!.gradient);
  const [first, second] = runs[0]!;
  second!.importance.forEach((s, i) =>
    assert(Math.abs(s - (0.8 * second!.gradient[i]! + 0.2 * first!.importance[i]!)) < 1e-6)
  );
});

Deno.test("splitWindows() shows no step to two parts", () => {
  const samples = Array.from({ length: 60 }, (_, step) => sampleOf(step, step < 25 ? 1 : 2));
  const runs = trackSamples({ source: SOURCE, samples, tornBytes: 0 }, 0.8);
  const split = splitWindows(runs, 3, { valid: 0.25, test: 0.25 });
  const parts = [split.train, split.valid, split.test].map((windows) =>
    new Set(windows.flatMap(({ before, now }) => [...before, now]))
  );
  assert(parts.every((part) => part.size > 5));
  for (const [a, b] of [[0, 1], [0, 2], [1, 2]] as const) {
    assertEquals(parts[a]!.intersection(parts[b]!).size, 0);
  }
  // In time: nothing that is trained on comes after something held out of the same run.
  const order = new Map(runs.flatMap((run, r) => run.map((step, i) => [step, { r, i }] as const)));
  for (const early of parts[0]!) {
    for (const late of parts[2]!) {
      const [e, l] = [order.get(early)!, order.get(late)!];
      assert(e.r !== l.r || e.i < l.i);
    }
  }
  assertEquals(windowsOf(runs[0]!, 3)[0], { before: runs[0]!.slice(0, 3), now: runs[0]![3]! });
});

Deno.test("splitSteps() gives every step to one part, as many as splitWindows() takes", () => {
  const shares = { valid: 0.15, test: 0.15 };
  assertEquals(splitSteps(100, shares), { train: 70, valid: 15, test: 15 });
  for (let steps = 0; steps < 60; steps++) {
    const parts = splitSteps(steps, shares);
    assertEquals(parts.train + parts.valid + parts.test, steps);
    const samples = Array.from({ length: steps }, (_, step) => sampleOf(step));
    const runs = trackSamples({ source: SOURCE, samples, tornBytes: 0 }, 0.8);
    const { train, valid, test } = splitWindows(runs, 1, shares);
    assertEquals(
      [train.length, valid.length, test.length],
      [parts.train, parts.valid, parts.test].map((count) => Math.max(0, count - 1)),
    );
  }
});
