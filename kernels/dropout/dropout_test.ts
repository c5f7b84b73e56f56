import { assert, assertEquals, assertThrows } from "@std/assert";
import { differences, dot, engineOf, normal, readOne, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import type { Engine } from "../engine/engine.ts";
import { dropout, type DropoutKey } from "./dropout.ts";
import { dropoutFactorsReference } from "./dropout_reference.ts";

const KEY: DropoutKey = { rate: 0.25, seed: 7, step: 3, layer: 2 };

/** Factor of each element of [rows, columns], as the kernel draws it. */
async function factors(
  engine: Engine,
  rows: number,
  columns: number,
  key: DropoutKey,
): Promise<Float32Array> {
  using ones = engine.upload(new Float32Array(rows * columns).fill(1), rows, columns);
  using heads = engine.upload(Uint32Array.of(0), 1, 1);
  using out = dropout(ones, heads, key);
  return await readOne(out);
}

testForms("dropout() draws the reference's mask", async (engine) => {
  for (const [rows, columns] of [[1, 1], [3, 5], [7, 64], [65, 67]] as const) {
    for (
      const key of [KEY, { ...KEY, rate: 0 }, {
        rate: 0.9,
        seed: 0xffffffff,
        step: 0,
        layer: 0,
      }] satisfies DropoutKey[]
    ) {
      const x = normal(rows * columns, 1);
      using xTensor = engine.upload(x, rows, columns);
      using heads = engine.upload(Uint32Array.of(0), 1, 1);
      using out = dropout(xTensor, heads, key);
      const expected = dropoutFactorsReference(rows, columns, key).map((factor, i) => factor * x[i]!);
      const actual = await readOne(out);
      assertEquals(actual.map((v) => v === 0 ? 0 : 1), Float32Array.from(expected, (v) => v === 0 ? 0 : 1));
      assertClose(actual, expected, TOLERANCE.sum, `[${rows}, ${columns}], rate ${key.rate}`);
    }
  }
});

testForms("dropout() drops the share that the rate says", async (engine) => {
  const [rows, columns] = [256, 96];
  const count = rows * columns;
  for (const rate of [0.1, 0.5, 0.9]) {
    const values = await factors(engine, rows, columns, { ...KEY, rate });
    const dropped = values.filter((v) => v === 0).length;
    const deviation = Math.sqrt(count * rate * (1 - rate));
    assert(Math.abs(dropped - count * rate) < 4 * deviation, `rate ${rate}: ${dropped} of ${count} dropped`);
    // No row and no column is special.
    for (
      const [name, lines, perLine, at] of [
        ["row", rows, columns, (r: number, i: number) => r * columns + i],
        ["column", columns, rows, (c: number, i: number) => i * columns + c],
      ] as const
    ) {
      for (let line = 0; line < lines; line++) {
        let n = 0;
        for (let i = 0; i < perLine; i++) if (values[at(line, i)] === 0) n++;
        const lineDeviation = Math.sqrt(perLine * rate * (1 - rate));
        assert(
          Math.abs(n - perLine * rate) < 5 * lineDeviation,
          `rate ${rate}: ${n} dropped in ${name} ${line}`,
        );
      }
    }
  }
});

testForms("dropout() draws the same mask for the same key only", async (engine) => {
  const [rows, columns] = [64, 64];
  const base = await factors(engine, rows, columns, KEY);
  assertEquals(await factors(engine, rows, columns, KEY), base);
  for (
    const other of [{ ...KEY, step: 4 }, { ...KEY, layer: 3 }, { ...KEY, seed: 8 }, {
      ...KEY,
      step: 2,
      layer: 3,
    }]
  ) {
    const values = await factors(engine, rows, columns, other);
    const both = values.filter((v, i) => v === 0 && base[i] === 0).length;
    // Independent masks share rate^2 of the elements: 256 of 4096, give or take four deviations.
    assert(Math.abs(both - 256) < 64, `${JSON.stringify(other)}: ${both} dropped in both`);
  }
});

testForms("dropout() of some heads equals those columns of the wide mask", async (engine) => {
  const [length, heads, headSize] = [13, 5, 12];
  const wide = await factors(engine, length, heads * headSize, KEY);
  const list = Uint32Array.of(4, 0, 3);
  using ones = engine.upload(
    new Float32Array(list.length * length * headSize).fill(1),
    list.length * length,
    headSize,
  );
  using headTensor = engine.upload(list, 1, list.length);
  using out = dropout(ones, headTensor, KEY);
  const blocks = await readOne(out);
  list.forEach((head, slot) => {
    for (let row = 0; row < length; row++) {
      const block = blocks.subarray((slot * length + row) * headSize, (slot * length + row + 1) * headSize);
      const columns = wide.subarray((row * heads + head) * headSize, (row * heads + head + 1) * headSize);
      assertEquals(block, columns, `head ${head}, row ${row}`);
    }
  });
});

testForms("dropout() of some rows equals those rows of the whole mask", async (engine) => {
  const [rows, columns] = [13, 20];
  const whole = await factors(engine, rows, columns, KEY);
  for (const [firstRow, end] of [[0, 4], [4, 5], [5, 13]] as const) {
    const part = await factors(engine, end - firstRow, columns, { ...KEY, firstRow });
    assertEquals(part, whole.subarray(firstRow * columns, end * columns));
  }
});

testForms("dropout() is its own backward pass", async (engine) => {
  const [rows, columns] = [3, 6];
  const x = normal(rows * columns, 2);
  const dy = normal(rows * columns, 3);
  using xTensor = engine.upload(x, rows, columns);
  using dyTensor = engine.upload(dy, rows, columns);
  using heads = engine.upload(Uint32Array.of(0), 1, 1);
  using dx = dropout(dyTensor, heads, KEY);
  const expected = await differences(x, async (values) => {
    engine.write(xTensor, values);
    using y = dropout(xTensor, heads, KEY);
    return dot(await y.read(), dy);
  });
  assertClose(await readOne(dx), expected, TOLERANCE.difference);
});

Deno.test("dropout() throws on rates outside [0, 1)", async () => {
  const engine = await engineOf("software");
  using x = engine.zeros(1, 4);
  using heads = engine.upload(Uint32Array.of(0), 1, 1);
  for (const rate of [-0.1, 1, NaN]) {
    assertThrows(() => dropout(x, heads, { ...KEY, rate }), RangeError, `current value is ${rate}`);
  }
});
