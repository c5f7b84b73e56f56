import { assertThrows } from "@std/assert";
import { differences, dot, engineOf, normal, readOne, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { headNorm, headNormBackward } from "./head_norm.ts";
import { headNormBackwardReference, headNormReference } from "./head_norm_reference.ts";

const EPSILON = 1e-5;
const SHAPES = [
  { rows: 1, heads: 1, kvHeads: 1, headSize: 4 },
  { rows: 7, heads: 3, kvHeads: 3, headSize: 12 },
  { rows: 67, heads: 6, kvHeads: 2, headSize: 8 },
  { rows: 5, heads: 4, kvHeads: 1, headSize: 256 },
];

for (const limits of [{}, { maxBindingBytes: 8 * 1024 }]) {
  const where = limits.maxBindingBytes === undefined ? "" : " in windows";
  testForms(`headNorm() and its gradient equal the reference${where}`, async (engine) => {
    for (const { rows, ...shape } of SHAPES) {
      const { heads, kvHeads, headSize } = shape;
      if (where !== "" && headSize > 64) continue; // a window has 16 rows
      const columns = (heads + 2 * kvHeads) * headSize;
      const [x, dy] = [normal(rows * columns, 1), normal(rows * columns, 2)];
      const gains = normal(2 * headSize, 3).map((v) => v + 1);
      using xTensor = engine.upload(x, rows, columns);
      using dyTensor = engine.upload(dy, rows, columns);
      using gainTensor = engine.upload(gains, 1, 2 * headSize);
      const options = { gains: gainTensor, heads, kvHeads, epsilon: EPSILON };
      using y = headNorm(xTensor, options);
      headNormBackward(xTensor, dyTensor, options);
      const what = (name: string) => `${name}, ${rows} rows, H ${heads}, G ${kvHeads}, D ${headSize}`;
      assertClose(await readOne(y), headNormReference(x, gains, shape, EPSILON), TOLERANCE.sum, what("y"));
      const expected = headNormBackwardReference({ x, dy }, gains, shape, EPSILON);
      assertClose(await readOne(dyTensor), expected, TOLERANCE.sum, what("dx"));
    }
  }, limits);
}

testForms("headNorm() has the gradient of its forward pass", async (engine) => {
  const [rows, columns] = [2, 16];
  const [x, dy] = [normal(32, 4), normal(32, 5)];
  using xTensor = engine.upload(x, rows, columns);
  using gradient = engine.upload(dy, rows, columns);
  using gains = engine.upload(normal(8, 6), 1, 8);
  const options = { gains, heads: 2, kvHeads: 1, epsilon: EPSILON };
  headNormBackward(xTensor, gradient, options);
  const expected = await differences(x, async (values) => {
    engine.write(xTensor, values);
    using y = headNorm(xTensor, options);
    return dot(await y.read(), dy);
  });
  assertClose(await readOne(gradient), expected, TOLERANCE.difference);
});

Deno.test({
  name: "headNorm() throws on columns that are not those of heads",
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    const engine = await engineOf("software");
    using x = engine.zeros(2, 16);
    using gains = engine.zeros(1, 8);
    using odd = engine.zeros(1, 12);
    const options = { heads: 2, kvHeads: 1, epsilon: EPSILON };
    assertThrows(() => headNorm(x, { ...options, gains, heads: 4 }), TypeError, "at least 5 heads of 4");
    assertThrows(() => headNorm(x, { ...options, gains: odd }), TypeError, "a multiple of 4");
    using narrow = engine.zeros(2, 12);
    assertThrows(() => headNormBackward(x, narrow, { ...options, gains }), TypeError, "[2, 12]");
  },
});
