import { assertThrows } from "@std/assert";
import {
  differences,
  dot,
  engineOf,
  integers,
  normal,
  readOne,
  testForms,
} from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { embeddingGather, embeddingScatterAdd } from "./embedding.ts";
import { embeddingGatherReference, embeddingScatterAddReference } from "./embedding_reference.ts";

// Entries, columns, rows: one of each, odd, prime, more rows than entries (duplicates), more entries than a window.
const SHAPES = [[1, 1, 1], [7, 5, 3], [5, 64, 67], [211, 33, 65]] as const;

for (const limits of [{}, { maxBindingBytes: 20 * 1024 }]) {
  const where = limits.maxBindingBytes === undefined ? "" : " in windows";
  testForms(`embeddingGather() equals the reference${where}`, async (engine) => {
    for (const [entries, columns, rows] of SHAPES) {
      const table = normal(entries * columns, 1);
      const ids = integers(rows, entries, 2);
      ids[rows - 1] = entries - 1;
      ids[0] = 0;
      const expected = embeddingGatherReference(table, ids, columns);
      using tableTensor = engine.upload(table, entries, columns);
      using out = embeddingGather(tableTensor, ids);
      const what = `${rows} of [${entries}, ${columns}]`;
      assertClose(await readOne(out), expected, TOLERANCE.exact, what);
      const before = normal(rows * columns, 3);
      using sum = engine.upload(before, rows, columns);
      embeddingGather(tableTensor, ids, sum);
      assertClose(
        await readOne(sum),
        expected.map((v, i) => v + before[i]!),
        TOLERANCE.sum,
        `${what}, added`,
      );
    }
  }, limits);

  testForms(`embeddingScatterAdd() equals the reference${where}`, async (engine) => {
    for (const [entries, columns, rows] of SHAPES) {
      const dOut = normal(rows * columns, 4);
      const before = normal(entries * columns, 5);
      const ids = integers(rows, entries, 6);
      ids.fill(entries - 1, 0, Math.ceil(rows / 3)); // one entry many times
      using dOutTensor = engine.upload(dOut, rows, columns);
      using dTable = engine.upload(before, entries, columns);
      embeddingScatterAdd(dOutTensor, ids, dTable);
      const expected = Float64Array.from(before);
      embeddingScatterAddReference(dOut, ids, expected, columns);
      assertClose(await readOne(dTable), expected, TOLERANCE.sum, `${rows} to [${entries}, ${columns}]`);
    }
  }, limits);
}

testForms("embeddingScatterAdd() is the gradient of embeddingGather()", async (engine) => {
  const [entries, columns] = [4, 3];
  const ids = Uint32Array.of(2, 0, 2, 2, 1);
  const table = normal(entries * columns, 7);
  const dOut = normal(ids.length * columns, 8);
  using tableTensor = engine.upload(table, entries, columns);
  using dOutTensor = engine.upload(dOut, ids.length, columns);
  using dTable = engine.zeros(entries, columns);
  embeddingScatterAdd(dOutTensor, ids, dTable);
  const gradient = await readOne(dTable);
  const expected = await differences(table, async (values) => {
    engine.write(tableTensor, values);
    using out = embeddingGather(tableTensor, ids);
    return dot(await out.read(), dOut);
  });
  assertClose(gradient, expected, TOLERANCE.difference);
});

Deno.test("embeddingGather() and embeddingScatterAdd() throw on ids outside the table", async () => {
  const engine = await engineOf("software");
  using table = engine.zeros(3, 4);
  using rows = engine.zeros(2, 4);
  assertThrows(() => embeddingGather(table, Uint32Array.of(0, 3)), RangeError, "id 1 is 3");
  assertThrows(() => embeddingScatterAdd(rows, Uint32Array.of(7, 0), table), RangeError, "id 0 is 7");
});
