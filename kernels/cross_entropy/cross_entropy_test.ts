import { assertEquals } from "@std/assert";
import { differences, integers, normal, readAll, readOne, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import type { Engine } from "../engine/engine.ts";
import { crossEntropy, type LogitsChunk } from "./cross_entropy.ts";
import { crossEntropyReference } from "./cross_entropy_reference.ts";

interface Case {
  readonly rows: number;
  readonly vocabulary: number;
  readonly smoothing: number;
  /** Columns of each chunk. */
  readonly chunks: readonly number[];
}

/** Uploads columns [first, first + count) of logits [rows, V] for each chunk. */
function uploadChunks(
  engine: Engine,
  logits: Float32Array,
  { rows, vocabulary, chunks }: Case,
): LogitsChunk[] {
  let first = 0;
  return chunks.map((count) => {
    const part = new Float32Array(rows * count);
    for (let r = 0; r < rows; r++) {
      part.set(logits.subarray(r * vocabulary + first, r * vocabulary + first + count), r * count);
    }
    first += count;
    return { logits: engine.upload(part, rows, count, "logits"), first: first - count };
  });
}

/** Puts chunks [rows, count] side by side again. */
function joinChunks(parts: readonly Float32Array[], { rows, vocabulary, chunks }: Case): Float32Array {
  const all = new Float32Array(rows * vocabulary);
  let first = 0;
  parts.forEach((part, c) => {
    const count = chunks[c]!;
    for (let r = 0; r < rows; r++) all.set(part.subarray(r * count, (r + 1) * count), r * vocabulary + first);
    first += count;
  });
  return all;
}

async function check(engine: Engine, test: Case, logits: Float32Array, what: string): Promise<void> {
  const { rows, vocabulary, smoothing } = test;
  const targets = integers(rows, vocabulary, 3);
  targets[0] = 0;
  targets[rows - 1] = vocabulary - 1;
  const weights = normal(rows, 4).map(Math.abs);
  if (rows > 2) weights[1] = 0;
  using targetTensor = engine.upload(targets, 1, rows);
  using weightTensor = engine.upload(weights, 1, rows);
  const chunks = uploadChunks(engine, logits, test);
  const options = { chunks, targets: targetTensor, weights: weightTensor, vocabulary, smoothing };
  using lossOnly = crossEntropy({ ...options, gradient: false });
  const untouched = await readAll(...chunks.map((c) => c.logits));
  assertEquals(joinChunks(untouched, test), logits, `${what}: logits must stay`);
  using losses = crossEntropy({ ...options, gradient: true });
  const [lossOnlyValues, lossValues, ...gradients] = await readAll(
    lossOnly,
    losses,
    ...chunks.map((c) => c.logits),
  );
  for (const { logits } of chunks) logits.dispose();
  const expected = crossEntropyReference(logits, { targets, weights, smoothing });
  assertEquals(lossOnlyValues, lossValues, `${what}: losses with and without the gradient`);
  assertClose(lossValues!, expected.losses, TOLERANCE.sum, `${what}: losses`);
  assertClose(joinChunks(gradients, test), expected.gradient, TOLERANCE.sum, `${what}: gradient`);
}

testForms("crossEntropy() equals the reference, whole and in chunks", async (engine) => {
  const cases: Case[] = [
    { rows: 1, vocabulary: 1, smoothing: 0, chunks: [1] },
    { rows: 1, vocabulary: 5, smoothing: 0, chunks: [5] },
    { rows: 3, vocabulary: 67, smoothing: 0.1, chunks: [67] },
    { rows: 9, vocabulary: 301, smoothing: 0.1, chunks: [301] },
    { rows: 3, vocabulary: 301, smoothing: 0.1, chunks: [128, 128, 45] },
    { rows: 5, vocabulary: 66, smoothing: 0, chunks: [1, 64, 1] },
    { rows: 67, vocabulary: 270, smoothing: 0.25, chunks: [4, 263, 3] },
  ];
  for (const test of cases) {
    const { rows, vocabulary, chunks } = test;
    await check(engine, test, normal(rows * vocabulary, 1, 3), `[${rows}, ${vocabulary}] in [${chunks}]`);
  }
});

testForms("crossEntropy() stays finite and exact for huge logits", async (engine) => {
  const test: Case = { rows: 4, vocabulary: 131, smoothing: 0.1, chunks: [64, 67] };
  await check(engine, test, normal(4 * 131, 2, 3e4), "scale 3e4");
  // The sum of all logits, which smoothing needs, loses digits to a common offset; nothing else does.
  await check(engine, test, normal(4 * 131, 2).map((v) => v - 500), "offset -500");
  await check(engine, { ...test, smoothing: 0 }, normal(4 * 131, 2).map((v) => v - 1e4), "offset -1e4");
  await check(engine, { ...test, smoothing: 0 }, normal(4 * 131, 2).map((v) => v + 1e4), "offset 1e4");
});

testForms("crossEntropy() of equal logits is log V", async (engine) => {
  const test: Case = { rows: 2, vocabulary: 50, smoothing: 0.1, chunks: [50] };
  const chunks = uploadChunks(engine, new Float32Array(100).fill(-3), test);
  using logits = chunks[0]!.logits;
  using targets = engine.upload(Uint32Array.of(7, 49), 1, 2);
  using weights = engine.upload(Float32Array.of(1, 0.5), 1, 2);
  using losses = crossEntropy({
    chunks: [{ logits, first: 0 }],
    targets,
    weights,
    vocabulary: 50,
    smoothing: 0.1,
    gradient: false,
  });
  assertClose(await readOne(losses), [Math.log(50), Math.log(50) / 2], TOLERANCE.sum);
});

testForms("crossEntropy() has the gradient of its losses", async (engine) => {
  const test: Case = { rows: 3, vocabulary: 11, smoothing: 0.1, chunks: [8, 3] };
  const logits = normal(33, 5);
  using targets = engine.upload(Uint32Array.of(0, 9, 4), 1, 3);
  using weights = engine.upload(Float32Array.of(0.5, 1, 0), 1, 3);
  const run = async (values: Float32Array, gradient: boolean) => {
    const chunks = uploadChunks(engine, values, test);
    using losses = crossEntropy({ chunks, targets, weights, vocabulary: 11, smoothing: 0.1, gradient });
    const [lossValues, ...parts] = await readAll(losses, ...chunks.map((c) => c.logits));
    for (const { logits } of chunks) logits.dispose();
    return { loss: lossValues!.reduce((a, b) => a + b, 0), parts };
  };
  const { parts } = await run(logits, true);
  const expected = await differences(logits, async (v) => (await run(v, false)).loss);
  assertClose(joinChunks(parts, test), expected, TOLERANCE.difference);
});
