import { assertThrows } from "@std/assert";
import { differences, dot, engineOf, normal, readOne, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { addScaled, relu, reluBackward } from "./elementwise.ts";
import { addScaledReference, reluBackwardReference, reluReference } from "./elementwise_reference.ts";

for (const limits of [{}, { maxBindingBytes: 8 * 1024 }]) {
  const where = limits.maxBindingBytes === undefined ? "" : " in windows";
  testForms(`addScaled() equals the reference${where}`, async (engine) => {
    for (const [rows, columns] of [[1, 1], [3, 5], [67, 64], [130, 31]] as const) {
      for (const alpha of [undefined, -0.5, 0]) {
        const x = normal(rows * columns, 1);
        const y = normal(rows * columns, 2);
        using xTensor = engine.upload(x, rows, columns);
        using yTensor = engine.upload(y, rows, columns);
        addScaled(xTensor, yTensor, alpha);
        const expected = addScaledReference(x, y, alpha ?? 1);
        assertClose(await readOne(yTensor), expected, TOLERANCE.sum, `[${rows}, ${columns}], alpha ${alpha}`);
      }
    }
  }, limits);

  testForms(`relu() and its gradient equal the reference${where}`, async (engine) => {
    for (const [rows, columns] of [[1, 1], [3, 5], [67, 64], [130, 31]] as const) {
      const x = normal(rows * columns, 3);
      x[0] = 0; // no gradient, as PyTorch has it
      const dy = normal(rows * columns, 4);
      using y = engine.upload(x, rows, columns);
      using dx = engine.upload(dy, rows, columns);
      relu(y);
      reluBackward(y, dx);
      assertClose(await readOne(y), reluReference(x), TOLERANCE.exact, `y of [${rows}, ${columns}]`);
      assertClose(await readOne(dx), reluBackwardReference(x, dy), TOLERANCE.exact, `[${rows}, ${columns}]`);
    }
  }, limits);
}

testForms("relu() has the gradient of its forward pass", async (engine) => {
  // Away from 0, where there is none.
  const x = normal(10, 5).map((v) => v + Math.sign(v) * 0.1);
  const dy = normal(10, 6);
  using tensor = engine.upload(x, 2, 5);
  relu(tensor);
  using dx = engine.upload(dy, 2, 5);
  reluBackward(tensor, dx);
  const expected = await differences(x, async (values) => {
    engine.write(tensor, values);
    relu(tensor);
    return dot(await tensor.read(), dy);
  });
  assertClose(await readOne(dx), expected, TOLERANCE.difference);
});

Deno.test("addScaled() and reluBackward() throw on shapes that differ", async () => {
  const engine = await engineOf("software");
  using x = engine.zeros(2, 4);
  using y = engine.zeros(4, 2);
  assertThrows(() => addScaled(x, y), TypeError, "x is [2, 4], y is [4, 2]");
  assertThrows(() => reluBackward(x, y), TypeError, "y is [2, 4], dy is [4, 2]");
});
