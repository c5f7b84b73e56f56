import { assertThrows } from "@std/assert";
import { engineOf, normal, readOne, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { addScaled } from "./elementwise.ts";
import { addScaledReference } from "./elementwise_reference.ts";

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
}

Deno.test({
  name: "addScaled() throws on shapes that differ",
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    const engine = await engineOf("cpu");
    using x = engine.zeros(2, 4);
    using y = engine.zeros(4, 2);
    assertThrows(() => addScaled(x, y), TypeError, "x is [2, 4], y is [4, 2]");
  },
});
