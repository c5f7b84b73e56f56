import { assertEquals, assertThrows } from "@std/assert";
import {
  differences,
  dot,
  engineOf,
  normal,
  readAll,
  readOne,
  testForms,
} from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import {
  type ArenaMatrix,
  gatherHeadColumns,
  headGradient,
  headProduct,
  scatterAddHeadColumns,
} from "./lora.ts";
import {
  arenaIndex,
  gatherHeadColumnsReference,
  headGradientReference,
  headProductReference,
  scatterAddHeadColumnsReference,
} from "./lora_reference.ts";

/** An arena of `heads` modules with NaN wherever the listed heads' matrix does not lie. */
function arenaOf(
  matrix: ArenaMatrix,
  heads: number,
  listed: Uint32Array,
  seed: number,
): Float32Array<ArrayBuffer> {
  const arena = new Float32Array(matrix.first + heads * matrix.segment).fill(NaN);
  const values = normal(matrix.rows * matrix.columns * heads, seed);
  let next = 0;
  for (const head of listed) {
    for (let r = 0; r < matrix.rows; r++) {
      for (let c = 0; c < Math.ceil(matrix.columns / 4) * 4; c++) {
        arena[arenaIndex(matrix, head, r, c)] = c < matrix.columns ? values[next++]! : 0;
      }
    }
  }
  return arena;
}

const MATRICES: readonly ArenaMatrix[] = [
  { rows: 4, columns: 1, first: 0, segment: 16 },
  { rows: 8, columns: 12, first: 8, segment: 256 },
  { rows: 12, columns: 7, first: 4, segment: 128 },
  { rows: 64, columns: 8, first: 0, segment: 512 },
];

testForms("headProduct() equals the reference in all modes", async (engine) => {
  const total = 5;
  for (const matrix of MATRICES) {
    for (const [length, list] of [[1, [3]], [7, [4, 0]], [65, [1, 4, 2]]] as const) {
      const heads = Uint32Array.from(list);
      const arena = arenaOf(matrix, total, heads, 1);
      using arenaTensor = engine.upload(arena, 1, arena.length);
      using headTensor = engine.upload(heads, 1, heads.length);
      for (let mode = 0; mode < 8; mode++) {
        const [transpose, sharedInput, sumOverHeads] = [(mode & 1) > 0, (mode & 2) > 0, (mode & 4) > 0];
        const k = transpose ? matrix.columns : matrix.rows;
        const n = transpose ? matrix.rows : matrix.columns;
        const rows = (sharedInput ? 1 : heads.length) * length;
        const outRows = (sumOverHeads ? 1 : heads.length) * length;
        const x = normal(rows * k, 2);
        const before = normal(outRows * n, 3);
        using xTensor = engine.upload(x, rows, k);
        using out = engine.upload(before, outRows, n);
        const options = {
          x: xTensor,
          arena: arenaTensor,
          matrix,
          heads: headTensor,
          transpose,
          sharedInput,
          sumOverHeads,
        };
        using fresh = headProduct(options);
        headProduct({ ...options, alpha: -0.5, accumulate: true, out });
        const reference = { x, arena, matrix, heads, length, transpose, sharedInput, sumOverHeads };
        const expected = headProductReference({ ...reference, alpha: 1 });
        const what = `[${matrix.rows}, ${matrix.columns}], T ${length}, heads [${list}]${
          transpose ? ", transposed" : ""
        }${sharedInput ? ", shared input" : ""}${sumOverHeads ? ", summed" : ""}`;
        const [freshValues, outValues] = await readAll(fresh, out);
        assertClose(freshValues!, expected, TOLERANCE.sum, what);
        const accumulated = expected.map((v, i) => before[i]! - 0.5 * v);
        assertClose(outValues!, accumulated, TOLERANCE.sum, `${what}, accumulated`);
      }
    }
  }
});

testForms("headGradient() equals the reference and leaves other heads alone", async (engine) => {
  const total = 5;
  // Rows of a gradient need not fill a block of four.
  for (const matrix of [...MATRICES, { rows: 6, columns: 5, first: 12, segment: 64 }]) {
    for (const [length, list] of [[1, [3]], [7, [4, 0]], [65, [1, 4, 2]]] as const) {
      for (const sharedB of [false, true]) {
        const heads = Uint32Array.from(list);
        const a = normal(heads.length * length * matrix.rows, 4);
        const bRows = (sharedB ? 1 : heads.length) * length;
        const b = normal(bRows * matrix.columns, 5);
        const before = normal(matrix.first + total * matrix.segment, 6);
        using aTensor = engine.upload(a, heads.length * length, matrix.rows);
        using bTensor = engine.upload(b, bRows, matrix.columns);
        using headTensor = engine.upload(heads, 1, heads.length);
        using arena = engine.upload(before, 1, before.length);
        headGradient({
          a: aTensor,
          b: bTensor,
          heads: headTensor,
          arena,
          matrix,
          length,
          sharedB,
          alpha: 1.5,
        });
        const expected = Float64Array.from(before);
        headGradientReference({ a, b, arena: expected, matrix, heads, length, sharedB, alpha: 1.5 });
        const what = `[${matrix.rows}, ${matrix.columns}], T ${length}, heads [${list}]${
          sharedB ? ", shared b" : ""
        }`;
        const actual = await readOne(arena);
        assertClose(actual, expected, TOLERANCE.sum, what);
        const untouched = before.filter((v, i) => v === expected[i]);
        assertEquals(actual.filter((_, i) => before[i] === expected[i]), untouched, `${what}: other heads`);
        const more = { a: aTensor, b: bTensor, heads: headTensor, arena, matrix, length, sharedB };
        headGradient({ ...more, alpha: -0.5, accumulate: true });
        const added = expected.map((v, i) => v === before[i] ? v : v - v / 3);
        assertClose(await readOne(arena), added, TOLERANCE.sum, `${what}, accumulated`);
      }
    }
  }
});

testForms("gatherHeadColumns() and scatterAddHeadColumns() equal the reference", async (engine) => {
  for (
    const [length, headSize, total, first, list] of [
      [1, 4, 1, 0, [0]],
      [7, 12, 5, 8, [3, 0]],
      [65, 8, 4, 32, [2, 3, 1, 0]],
      [13, 64, 3, 192, [1]],
    ] as const
  ) {
    const columns = first + total * headSize + 3; // other columns after them, and padding
    const heads = Uint32Array.from(list);
    const wide = normal(length * columns, 7);
    const blocks = normal(heads.length * length * headSize, 8);
    using wideTensor = engine.upload(wide, length, columns);
    using headTensor = engine.upload(heads, 1, heads.length);
    using blockTensor = engine.upload(blocks, heads.length * length, headSize);
    using gathered = gatherHeadColumns(wideTensor, { first, headSize, heads: headTensor });
    const what = `T ${length}, D ${headSize}, heads [${list}]`;
    const expectedBlocks = gatherHeadColumnsReference(wide, { columns, first, headSize, heads });
    assertClose(await readOne(gathered), expectedBlocks, TOLERANCE.exact, `${what}: gathered`);
    scatterAddHeadColumns(blockTensor, wideTensor, { first, headSize, heads: headTensor });
    const expectedWide = Float64Array.from(wide);
    scatterAddHeadColumnsReference(blocks, expectedWide, { columns, first, headSize, heads });
    assertClose(await readOne(wideTensor), expectedWide, TOLERANCE.sum, `${what}: scattered`);
    // Slots left out: the first one goes nowhere.
    const some = Uint32Array.from(list, (h, slot) => slot === 0 ? 0xffff_ffff : h);
    using someTensor = engine.upload(some, 1, some.length);
    scatterAddHeadColumns(blockTensor, wideTensor, { first, headSize, heads: someTensor });
    scatterAddHeadColumnsReference(blocks, expectedWide, { columns, first, headSize, heads: some });
    assertClose(await readOne(wideTensor), expectedWide, TOLERANCE.sum, `${what}: some scattered`);
  }
});

testForms("headProduct() and headGradient() are the gradients of headProduct()", async (engine) => {
  // y_z = alpha * x W_h with one x for all heads: dx is sumOverHeads over the heads.
  const [length, alpha] = [3, 0.75];
  const matrix = { rows: 4, columns: 4, first: 0, segment: 16 };
  const heads = Uint32Array.of(1, 0);
  const x = normal(length * 4, 9);
  const weights = normal(32, 10);
  const dy = normal(2 * length * 4, 11);
  using xTensor = engine.upload(x, length, 4);
  using arena = engine.upload(weights, 1, 32);
  using headTensor = engine.upload(heads, 1, 2);
  using dyTensor = engine.upload(dy, 2 * length, 4);
  const loss = async () => {
    using y = headProduct({ x: xTensor, arena, matrix, heads: headTensor, sharedInput: true, alpha });
    return dot(await y.read(), dy);
  };
  using dx = headProduct({
    x: dyTensor,
    arena,
    matrix,
    heads: headTensor,
    transpose: true,
    sumOverHeads: true,
    alpha,
  });
  // dW^T = dy^T x: the gradient of the matrix stored the other way round.
  using dTransposed = engine.zeros(1, 32);
  headGradient({
    a: dyTensor,
    b: xTensor,
    heads: headTensor,
    arena: dTransposed,
    matrix,
    length,
    sharedB: true,
    alpha,
  });
  const [dxValues, dTransposedValues] = await readAll(dx, dTransposed);
  const byX = await differences(x, (values) => {
    engine.write(xTensor, values);
    return loss();
  });
  engine.write(xTensor, x);
  const byWeights = await differences(weights, (values) => {
    engine.write(arena, values);
    return loss();
  });
  assertClose(dxValues!, byX, TOLERANCE.difference, "dx");
  const dWeights = dTransposedValues!.map((_, i) =>
    dTransposedValues![(i & 16) + (i % 4) * 4 + ((i >> 2) & 3)]!
  );
  assertClose(dWeights, byWeights, TOLERANCE.difference, "dW");
});

Deno.test("head module kernels throw on shapes that do not fit", async () => {
  const engine = await engineOf("software");
  using x = engine.zeros(2, 8);
  using arena = engine.zeros(1, 64);
  using heads = engine.upload(Uint32Array.of(0), 1, 1);
  const matrix = { rows: 8, columns: 4, first: 0, segment: 32 };
  assertThrows(
    () => headProduct({ x, arena, matrix, heads, transpose: true }),
    TypeError,
    "must have 4 columns",
  );
  const odd = { ...matrix, rows: 6 };
  using six = engine.zeros(2, 6);
  assertThrows(() => headProduct({ x: six, arena, matrix: odd, heads }), TypeError, "multiple of 4 rows");
  assertThrows(() => gatherHeadColumns(x, { first: 2, headSize: 4, heads }), TypeError, "multiples of 4");
  assertThrows(() => gatherHeadColumns(x, { first: 0, headSize: 3, heads }), TypeError, "multiples of 4");
  assertThrows(
    () => scatterAddHeadColumns(x, x, { first: 0, headSize: 4, heads }),
    TypeError,
    "blocks must be [2, 4]",
  );
});

testForms("headProduct() and headGradient() take and write some rows of a tensor alone", async (engine) => {
  // Three parts of two heads and five rows, of which the second is read, and the third is written.
  const [length, part, rank, columns] = [5, 10, 8, 6];
  const matrix = { rows: rank, columns, first: 0, segment: 64 };
  const heads = Uint32Array.of(2, 0);
  const [xs, as] = [normal(3 * part * columns, 1), arenaOf(matrix, 3, Uint32Array.of(0, 1, 2), 2)];
  using x = engine.upload(xs, 3 * part, columns);
  using arena = engine.upload(as, 1, as.length);
  using list = engine.upload(heads, 1, 2);
  using out = engine.upload(new Float32Array(3 * part * rank).fill(7), 3 * part, rank);
  headProduct({
    x,
    arena,
    matrix,
    heads: list,
    transpose: true,
    rows: part,
    rowOfX: part,
    rowOfOut: 2 * part,
    out,
  });
  const own = xs.subarray(part * columns, 2 * part * columns);
  const shared = { arena: as, matrix, heads, length, sharedInput: false, sumOverHeads: false, alpha: 1 };
  const expected = headProductReference({ x: own, ...shared, transpose: true });
  const all = await out.read();
  assertClose(all.subarray(2 * part * rank), expected, TOLERANCE.sum, "product");
  assertEquals(new Set(all.subarray(0, 2 * part * rank)), new Set([7]), "other rows");

  const as8 = normal(part * rank, 3);
  using a = engine.upload(as8, part, rank);
  using gradients = engine.zeros(1, as.length);
  headGradient({ a, b: x, rowOfB: part, heads: list, arena: gradients, matrix, length });
  const wanted = new Float64Array(as.length);
  headGradientReference({ a: as8, b: own, heads, arena: wanted, matrix, length, sharedB: false, alpha: 1 });
  assertClose(await gradients.read(), wanted, TOLERANCE.sum, "gradient");
  assertThrows(
    () => headProduct({ x, arena, matrix, heads: list, transpose: true, rows: part, rowOfX: 2 * part + 1 }),
    TypeError,
    "rows 21 to 31 of x",
  );
});

testForms("gatherHeadColumns() leaves out the columns that are padding", async (engine) => {
  // Heads of three columns, each padded to four.
  const [length, headSize, columns] = [5, 4, 3];
  const wide = normal(length * 12, 1).map((v, i) => i % 4 === 3 ? 0 : v);
  using tensor = engine.upload(wide, length, 12);
  using list = engine.upload(Uint32Array.of(2, 0), 1, 2);
  const options = { first: 0, headSize, heads: list, columns };
  using blocks = gatherHeadColumns(tensor, options);
  const expected = gatherHeadColumnsReference(wide, { columns: 12, first: 0, headSize, heads: [2, 0] });
  assertEquals(await blocks.read(), Float32Array.from(expected.filter((_, i) => i % 4 !== 3)));
  using back = engine.zeros(length, 12);
  scatterAddHeadColumns(blocks, back, options);
  assertEquals(await back.read(), wide.map((v, i) => Math.floor(i % 12 / 4) === 1 ? 0 : v));
});
