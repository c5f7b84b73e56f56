import { assertThrows } from "@std/assert";
import { differences, dot, engineOf, normal, readOne, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { rope, ropeTable } from "./rope.ts";
import { ropeReference } from "./rope_reference.ts";

// Frequencies that f32 holds, so that the angles are the same on both sides.
const frequencies = (headSize: number) =>
  Float32Array.from({ length: headSize / 2 }, (_, i) => 100 ** (-2 * i / headSize));

// One token; odd; prime; longer than a workgroup. `rest` columns stay as they are.
const SHAPES = [
  { batch: 1, length: 1, heads: 1, headSize: 8, rest: 0, first: 0 },
  { batch: 3, length: 5, heads: 2, headSize: 16, rest: 7, first: 3 },
  { batch: 1, length: 17, heads: 5, headSize: 24, rest: 48, first: 0 },
  { batch: 2, length: 67, heads: 3, headSize: 64, rest: 64, first: 11 },
] as const;

for (const limits of [{}, { maxBindingBytes: 20 * 1024 }]) {
  const where = limits.maxBindingBytes === undefined ? "" : " in windows";
  testForms(`rope() and its inverse equal the reference${where}`, async (engine) => {
    for (const { batch, length, heads, headSize, rest, first } of SHAPES) {
      const rows = batch * length;
      const columns = heads * headSize + rest;
      const x = normal(rows * columns, 1);
      using table = ropeTable(engine, frequencies(headSize), first + length);
      for (const inverse of [false, true]) {
        using tensor = engine.upload(x, rows, columns);
        rope(tensor, { table, heads, length, first, inverse });
        const shape = { columns, heads, length, first };
        const expected = ropeReference(x, frequencies(headSize), shape, inverse ? -1 : 1);
        assertClose(
          await readOne(tensor),
          expected,
          TOLERANCE.sum,
          `[${rows}, ${columns}], inverse ${inverse}`,
        );
      }
    }
  }, limits);
}

testForms("rope() depends on the distance of two tokens alone, and keeps lengths", async (engine) => {
  const [q, k] = [normal(16, 2), normal(16, 3)];
  const product = async (first: number): Promise<number> => {
    using table = ropeTable(engine, frequencies(16), 64);
    using pair = engine.upload(Float32Array.of(...q, ...k), 2, 16);
    rope(pair, { table, heads: 1, length: 2, first });
    const turned = await readOne(pair);
    assertClose([dot(turned, turned)], [dot(q, q) + dot(k, k)], TOLERANCE.sum, "length");
    return dot(turned.subarray(0, 16), turned.subarray(16));
  };
  assertClose([await product(40)], [await product(3)], { ...TOLERANCE.sum, relative: 1e-5 }, "product");
});

testForms("rope() has the gradient of its forward pass, longer heads too", async (engine) => {
  const [rows, columns, options] = [3, 20, { heads: 2, length: 3, first: 2 }] as const;
  const x = normal(rows * columns, 4);
  const dy = normal(rows * columns, 5);
  using table = ropeTable(engine, frequencies(8), 5, 1.3);
  using tensor = engine.upload(dy, rows, columns);
  rope(tensor, { table, ...options, inverse: true });
  const gradient = await readOne(tensor);
  const expected = await differences(x, async (values) => {
    engine.write(tensor, values);
    rope(tensor, { table, ...options });
    return dot(await tensor.read(), dy);
  });
  assertClose(gradient, expected, TOLERANCE.difference);
});

Deno.test("rope() throws on shapes that do not fit", async () => {
  const engine = await engineOf("software");
  using x = engine.zeros(4, 16);
  using odd = ropeTable(engine, [1, 1, 1, 1, 1, 1], 4);
  assertThrows(() => rope(x, { table: odd, heads: 1, length: 4 }), TypeError, "multiple of 8");
  using table = ropeTable(engine, [1, 1, 1, 1], 4);
  for (
    const options of [{ heads: 3, length: 4 }, { heads: 2, length: 3 }, { heads: 2, length: 4, first: 1 }]
  ) {
    assertThrows(() => rope(x, { table, ...options }), TypeError, "it is [4, 16]");
  }
});
