import { assertEquals, assertThrows } from "@std/assert";
import { differences, engineOf, normal, readAll, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { sigmoidLoss } from "./sigmoid_loss.ts";
import { sigmoidLossReference } from "./sigmoid_loss_reference.ts";

function valuesOf(count: number) {
  return {
    offset: normal(count, 2),
    target: normal(count, 3).map((x) => Math.min(1, Math.abs(x))),
    weight: normal(count, 4).map((x) => x > 0.5 ? 0 : 1),
  };
}

for (const [rows, columns] of [[1, 1], [3, 5], [7, 64], [67, 33]] as const) {
  testForms(`sigmoidLoss() equals the reference at [${rows}, ${columns}]`, async (engine) => {
    const z = normal(rows * columns, 1, 3);
    const values = valuesOf(rows * columns);
    const total = 3.5;
    using zTensor = engine.upload(z, rows, columns);
    using offset = engine.upload(values.offset, rows, columns);
    using target = engine.upload(values.target, rows, columns);
    using weight = engine.upload(values.weight, rows, columns);
    const { p, dz } = sigmoidLoss(zTensor, { offset, target, weight, total });
    using _p = p;
    using _dz = dz;
    const [pValues, dzValues] = await readAll(p, dz);
    const expected = sigmoidLossReference(z, { ...values, total });
    assertClose(pValues!, expected.p, TOLERANCE.sum, "p");
    assertClose(dzValues!, expected.dz, TOLERANCE.sum, "dz");
  });
}

testForms("sigmoidLoss() stays finite far from 0", async (engine) => {
  using z = engine.upload(Float32Array.of(-1e30, -100, 100, 3e38), 1, 4);
  using zeros = engine.zeros(1, 4);
  using ones = engine.upload(new Float32Array(4).fill(1), 1, 4);
  const { p, dz } = sigmoidLoss(z, { offset: zeros, target: zeros, weight: ones, total: 1 });
  using _p = p;
  using _dz = dz;
  const [pValues, dzValues] = await readAll(p, dz);
  assertClose(pValues!, [0, 0, 1, 1], { absolute: 1e-6, relative: 0, ofLargest: false });
  assertEquals(dzValues!.every(Number.isFinite), true);
});

testForms("sigmoidLoss() has the gradient of its loss", async (engine) => {
  const [rows, columns] = [3, 7];
  const z = normal(21, 1);
  const values = valuesOf(21);
  const total = 21;
  using zTensor = engine.upload(z, rows, columns);
  using offset = engine.upload(values.offset, rows, columns);
  using target = engine.upload(values.target, rows, columns);
  using weight = engine.upload(values.weight, rows, columns);
  const run = async () => {
    const { p, dz } = sigmoidLoss(zTensor, { offset, target, weight, total });
    using _p = p;
    using _dz = dz;
    const [pValues, dzValues] = await readAll(p, dz);
    const loss = pValues!.reduce((sum, s, i) => sum + values.weight[i]! * (s - values.target[i]!) ** 2, 0);
    return { loss: loss / total, dz: dzValues! };
  };
  const { dz } = await run();
  const expected = await differences(z, async (changed) => {
    engine.write(zTensor, changed);
    return (await run()).loss;
  });
  assertClose(dz, expected, TOLERANCE.difference);
});

Deno.test("sigmoidLoss() throws on what does not fit", async () => {
  const engine = await engineOf("software");
  using z = engine.zeros(2, 4);
  using other = engine.zeros(4, 2);
  const shapes = { offset: z, target: other, weight: z, total: 1 };
  assertThrows(() => sigmoidLoss(z, shapes), TypeError, "must be [2, 4]: it is [4, 2]");
  assertThrows(() => sigmoidLoss(z, { ...shapes, target: z, total: 0 }), RangeError, "above 0");
});
