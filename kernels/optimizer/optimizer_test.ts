import { assertEquals } from "@std/assert";
import { normal, readAll, readOne, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import type { Engine } from "../engine/engine.ts";
import {
  adamw,
  adamwControl,
  type AdamWSettings,
  clipScale,
  fadeSegments,
  segmentChange,
  segmentNorms,
} from "./optimizer.ts";
import {
  adamwReference,
  clipScaleReference,
  fadeReference,
  segmentChangeReference,
  segmentNormsReference,
} from "./optimizer_reference.ts";

const SETTINGS: AdamWSettings = { rate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 0.1 };

/** Parameters, gradients and moments, with v not negative. */
function state(count: number) {
  return {
    parameters: normal(count, 1),
    gradients: normal(count, 2),
    m: normal(count, 3, 0.1),
    v: normal(count, 4, 0.1).map(Math.abs),
  };
}

function upload(engine: Engine, values: ReturnType<typeof state>, rows: number, columns: number) {
  return {
    parameters: engine.upload(values.parameters, rows, columns),
    gradients: engine.upload(values.gradients, rows, columns),
    m: engine.upload(values.m, rows, columns),
    v: engine.upload(values.v, rows, columns),
  };
}

async function check(
  engine: Engine,
  [rows, columns]: readonly [number, number],
  counts: number[],
  clip?: number,
): Promise<void> {
  const before = state(rows * columns);
  const tensors = upload(engine, before, rows, columns);
  using control = engine.upload(adamwControl(counts, SETTINGS.beta1, SETTINGS.beta2), counts.length, 4);
  using clipTensor = clip === undefined ? undefined : engine.upload(Float32Array.of(clip, 99, 99, 99), 1, 4);
  const paddedSegment = tensors.parameters.rows * tensors.parameters.pitch / counts.length;
  adamw(tensors, { segment: paddedSegment, control, clip: clipTensor }, SETTINGS);
  const expected = {
    parameters: Float64Array.from(before.parameters),
    m: Float64Array.from(before.m),
    v: Float64Array.from(before.v),
  };
  adamwReference(expected, { gradients: before.gradients, counts, scale: clip }, SETTINGS);
  const [parameters, m, v, gradients] = await readAll(
    tensors.parameters,
    tensors.m,
    tensors.v,
    tensors.gradients,
  );
  for (const tensor of Object.values(tensors)) tensor.dispose();
  const what = `[${rows}, ${columns}], counts [${counts}]`;
  assertClose(parameters!, expected.parameters, TOLERANCE.sum, `${what}: parameters`);
  assertClose(m!, expected.m, TOLERANCE.sum, `${what}: m`);
  assertClose(v!, expected.v, TOLERANCE.sum, `${what}: v`);
  assertEquals(gradients, before.gradients, `${what}: gradients must stay`);
  // What is skipped keeps its bits.
  const segment = rows * columns / counts.length;
  counts.forEach((count, s) => {
    if (count > 0) return;
    const part = (x: Float32Array) => x.subarray(s * segment, (s + 1) * segment);
    assertEquals(part(parameters!), part(before.parameters), `${what}: parameters of segment ${s}`);
    assertEquals(part(m!), part(before.m), `${what}: m of segment ${s}`);
    assertEquals(part(v!), part(before.v), `${what}: v of segment ${s}`);
  });
}

testForms("adamw() equals the reference, per segment", async (engine) => {
  await check(engine, [1, 4], [1]);
  await check(engine, [1, 3], [1000]);
  await check(engine, [7, 13], [5]);
  await check(engine, [1, 60], [1, 0, 3, 0, 100]);
  await check(engine, [1, 7 * 68], [0, 2, 7, 1, 0, 0, 20]);
  await check(engine, [1, 60], [1, 0, 3, 0, 100], 0.125);
  await check(engine, [5, 33], [3], 0.5);
});

testForms("adamw() equals the reference in windows", async (engine) => {
  // Segments of 1100 elements do not end where windows of 16 rows do.
  await check(engine, [110, 20], [4, 0]);
}, { maxBindingBytes: 4096 });

testForms("adamw() repeats: ten updates equal ten of the reference", async (engine) => {
  const [count, segments] = [24, 3];
  const before = state(count);
  before.m.fill(0);
  before.v.fill(0);
  const tensors = upload(engine, before, 1, count);
  const expected = {
    parameters: Float64Array.from(before.parameters),
    m: new Float64Array(count),
    v: new Float64Array(count),
  };
  const updates = new Array<number>(segments).fill(0);
  for (let step = 0; step < 10; step++) {
    const gradients = normal(count, 100 + step);
    const counts = updates.map((n, s) => (step + s) % 3 === 0 ? 0 : updates[s] = n + 1);
    engine.write(tensors.gradients, gradients);
    using control = engine.upload(adamwControl(counts, SETTINGS.beta1, SETTINGS.beta2), segments, 4);
    adamw(tensors, { segment: count / segments, control }, SETTINGS);
    adamwReference(expected, { gradients, counts }, SETTINGS);
  }
  const parameters = await readOne(tensors.parameters);
  for (const tensor of Object.values(tensors)) tensor.dispose();
  assertClose(parameters, expected.parameters, TOLERANCE.sum);
});

testForms("segmentNorms() equals the reference", async (engine) => {
  for (const [segments, segment] of [[1, 4], [3, 12], [7, 260], [67, 8]] as const) {
    const x = normal(segments * segment, 5);
    const active = Array.from({ length: segments }, (_, s) => s % 3 === 1 ? 0 : s + 1);
    using xTensor = engine.upload(x, 1, segments * segment);
    using control = engine.upload(adamwControl(active, 0.9, 0.999), segments, 4);
    using norms = segmentNorms(xTensor, { segment, control });
    using scaled = segmentNorms(xTensor, { segment, control, scale: 1 / 3 });
    const expected = segmentNormsReference(x, active);
    const [normValues, scaledValues] = await readAll(norms, scaled);
    assertClose(normValues!, expected, TOLERANCE.sum, `${segments} segments of ${segment}`);
    assertClose(
      scaledValues!,
      expected.map((n) => n / 3),
      TOLERANCE.sum,
      `${segments} segments of ${segment} / 3`,
    );
  }
});

testForms("segmentNorms() counts nothing of segments that are not active, not even NaN", async (engine) => {
  using x = engine.upload(Float32Array.of(NaN, NaN, NaN, NaN, 3, 4, 0, 0), 1, 8);
  using control = engine.upload(adamwControl([0, 1], 0.9, 0.999), 2, 4);
  using norms = segmentNorms(x, { segment: 4, control });
  assertEquals(await readOne(norms), Float32Array.of(0, 5));
});

testForms("segmentChange() equals the reference", async (engine) => {
  for (const [segments, segment] of [[1, 4], [3, 12], [7, 260], [67, 8]] as const) {
    const before = normal(segments * segment, 6);
    const x = before.map((value, i) => value + 0.01 * Math.sin(i)); // an optimizer's step is small
    const active = Array.from({ length: segments }, (_, s) => s % 3 === 1 ? 0 : s + 1);
    using xTensor = engine.upload(x, 1, segments * segment);
    using beforeTensor = engine.upload(before, 1, segments * segment);
    using control = engine.upload(adamwControl(active, 0.9, 0.999), segments, 4);
    using change = segmentChange(xTensor, beforeTensor, { segment, control });
    const expected = segmentChangeReference(x, before, active);
    assertClose(await readOne(change), expected, TOLERANCE.sum, `${segments} segments of ${segment}`);
  }
});

testForms(
  "segmentChange() is 0 for segments that are not active or all zero, even where NaN is",
  async (engine) => {
    using x = engine.upload(Float32Array.of(NaN, 1, 1, 1, 0, 0, 0, 0, 3, 4, 0, 0), 1, 12);
    using before = engine.upload(Float32Array.of(0, 0, 0, 0, 1, 1, 1, 1, 3, 4, 0, 5), 1, 12);
    using control = engine.upload(adamwControl([0, 1, 1], 0.9, 0.999), 3, 4);
    using change = segmentChange(x, before, { segment: 4, control });
    assertEquals(await readOne(change), Float32Array.of(0, 0, 1));
  },
);

for (const limits of [{}, { maxBindingBytes: 16 * 1024 }]) {
  const where = limits.maxBindingBytes === undefined ? "" : " in windows";
  testForms(`clipScale() equals the reference${where}`, async (engine) => {
    // One value; padding; more than one partial sum of 4096; several tensors.
    for (const shapes of [[[1, 1]], [[3, 5]], [[97, 131]], [[1, 3], [64, 64], [65, 66]]] as const) {
      const gradients = shapes.map(([rows, columns], i) => normal(rows * columns, 6 + i));
      const tensors = shapes.map(([rows, columns], i) => engine.upload(gradients[i]!, rows, columns));
      for (const limit of [0.5, 1e6]) {
        using clip = clipScale(engine, tensors, limit);
        const [scale, norm] = await readOne(clip);
        const expected = clipScaleReference(gradients, limit);
        assertClose(
          [scale!, norm!],
          expected,
          { ...TOLERANCE.sum, ofLargest: false },
          `${shapes}, limit ${limit}`,
        );
      }
      for (const tensor of tensors) tensor.dispose();
    }
  }, limits);
}

testForms("clipScale() of zeros is 1", async (engine) => {
  using gradients = engine.zeros(3, 3);
  using clip = clipScale(engine, [gradients], 1);
  assertEquals((await readOne(clip)).subarray(0, 2), Float32Array.of(1, 0));
});

testForms(
  "fadeSegments() multiplies matrices of segments that are not active, and nothing else",
  async (engine) => {
    const segment = 600;
    const active = [1, 0, 3, 0, 0];
    const x = normal(active.length * segment, 1);
    using tensor = engine.upload(x, active.length, segment);
    using control = engine.upload(adamwControl(active, 0.9, 0.999), active.length, 4);
    const matrices = [
      { rows: 5, columns: 8, first: 40, segment },
      { rows: 20, columns: 16, first: 240, segment },
    ];
    const factor = Math.fround(0.7);
    fadeSegments(tensor, { matrices, control, factor });
    const once = fadeReference(x, active, { first: 40, size: 40, factor });
    const both = fadeReference(once, active, { first: 240, size: 320, factor });
    assertEquals(await tensor.read(), Float32Array.from(both));
    fadeSegments(tensor, { matrices: [{ rows: 150, columns: 4, first: 0, segment }], control, factor: 0 });
    const cleared = await tensor.read();
    for (const [s, t] of active.entries()) {
      assertEquals(cleared.subarray(s * segment, (s + 1) * segment).some((value) => value !== 0), t > 0);
    }
  },
);
