import { assert, assertEquals, assertGreater, assertThrows } from "@std/assert";
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
import type { Engine } from "../engine/engine.ts";
import type { Tensor } from "../engine/tensor.ts";
import { matmul } from "./matmul.ts";
import type { Causal, MatmulOptions } from "./options.ts";
import { batchedMatmulReference, matmulReference } from "./matmul_reference.ts";

type Shape = readonly [m: number, n: number, k: number];

const LAYOUTS = [
  { transposeA: false, transposeB: false, name: "NN" },
  { transposeA: false, transposeB: true, name: "NT" },
  { transposeA: true, transposeB: false, name: "TN" },
] as const;

// One element; odd; prime; one tile of either form; more than one tile in every dimension.
const SHAPES: readonly Shape[] = [[1, 1, 1], [3, 1, 2], [1, 5, 9], [7, 13, 5], [16, 64, 32], [65, 67, 37], [
  130,
  71,
  66,
]];

function operands(engine: Engine, [m, n, k]: Shape, transposeA: boolean, transposeB: boolean) {
  const a = normal(m * k, 1 + m);
  const b = normal(k * n, 2 + n);
  return {
    a,
    b,
    aTensor: transposeA ? engine.upload(a, k, m, "a") : engine.upload(a, m, k, "a"),
    bTensor: transposeB ? engine.upload(b, n, k, "b") : engine.upload(b, k, n, "b"),
  };
}

function shapeName(layout: string, [m, n, k]: Shape): string {
  return `${layout} [${m}, ${k}] x [${k}, ${n}]`;
}

testForms("matmul() equals the reference at every layout and shape [slow]", async (engine) => {
  for (const { transposeA, transposeB, name } of LAYOUTS) {
    for (const shape of SHAPES) {
      const { a, b, aTensor, bTensor } = operands(engine, shape, transposeA, transposeB);
      using _a = aTensor;
      using _b = bTensor;
      using c = matmul(aTensor, bTensor, { transposeA, transposeB, alpha: -1.5 });
      assertEquals([c.rows, c.columns], [shape[0], shape[1]]);
      const [m, n, k] = shape;
      const expected = matmulReference(a, b, { m, n, k, transposeA, transposeB, alpha: -1.5 });
      assertClose(await readOne(c), expected.c, TOLERANCE.sum, shapeName(name, shape));
    }
  }
});

// Every epilogue, alone or with the others that it is used with; each is a kernel of its own.
const EPILOGUES = [
  { kind: "plain", withBias: true, accumulate: false },
  { kind: "plain", withBias: false, accumulate: true },
  { kind: "gelu", withBias: true, accumulate: false },
  { kind: "gelu", withBias: false, accumulate: true },
  { kind: "residual", withBias: false, accumulate: false },
  { kind: "residual", withBias: true, accumulate: true },
  { kind: "geluGradOf", withBias: false, accumulate: false },
  { kind: "geluGradOf", withBias: true, accumulate: true },
] as const;

testForms("matmul() applies every epilogue [slow]", async (engine) => {
  for (const [m, n, k] of [[1, 3, 2], [19, 70, 9]] as const) {
    const a = normal(m * k, 3);
    const b = normal(k * n, 4);
    const biasValues = normal(n, 5);
    const auxValues = normal(m * n, 6);
    const before = normal(m * n, 7);
    using aTensor = engine.upload(a, m, k);
    using bTensor = engine.upload(b, k, n);
    using bias = engine.upload(biasValues, 1, n);
    using aux = engine.upload(auxValues, m, n);
    for (const { kind, withBias, accumulate } of EPILOGUES) {
      using geluInput = engine.tensor(m, n, "gelu input");
      using out = engine.upload(before, m, n, "out");
      matmul(aTensor, bTensor, {
        alpha: 0.75,
        out,
        accumulate,
        ...(withBias ? { bias } : {}),
        ...(kind === "gelu" ? { geluInput } : {}),
        ...(kind === "residual" ? { residual: aux } : {}),
        ...(kind === "geluGradOf" ? { geluGradOf: aux } : {}),
      });
      const expected = matmulReference(a, b, {
        m,
        n,
        k,
        alpha: 0.75,
        gelu: kind === "gelu",
        ...(withBias ? { bias: biasValues } : {}),
        ...(kind === "residual" ? { residual: auxValues } : {}),
        ...(kind === "geluGradOf" ? { geluGradOf: auxValues } : {}),
        ...(accumulate ? { before } : {}),
      });
      const what = `${kind}${withBias ? " + bias" : ""}${accumulate ? ", accumulated" : ""}`;
      assertClose(await readOne(out), expected.c, TOLERANCE.sum, what);
      if (kind === "gelu") {
        assertClose(await readOne(geluInput), expected.sum, TOLERANCE.sum, `${what}: input`);
      }
    }
  }
});

testForms("matmul() evaluates gelu far from zero", async (engine) => {
  const x = Float32Array.of(-1e4, -60, -20, -5, -1e-4, 0, 1e-4, 5, 20, 60, 1e4);
  using ones = engine.upload(Float32Array.of(1), 1, 1);
  using b = engine.upload(x, 1, x.length);
  using geluInput = engine.tensor(1, x.length);
  using y = matmul(ones, b, { geluInput });
  using dx = matmul(ones, b, { geluGradOf: geluInput });
  const options = { m: 1, n: x.length, k: 1 };
  assertClose(await readOne(y), matmulReference([1], x, { ...options, gelu: true }).c, TOLERANCE.sum, "gelu");
  assertClose(
    await readOne(dx),
    matmulReference([1], x, { ...options, geluGradOf: x }).c,
    TOLERANCE.sum,
    "gelu'",
  );
});

testForms("matmul() takes some rows of B", async (engine) => {
  const [m, rows, columns] = [5, 90, 22];
  const b = normal(rows * columns, 8);
  using bTensor = engine.upload(b, rows, columns);
  for (const [first, count] of [[0, 1], [7, 13], [64, 26], [3, 80]] as const) {
    const part = b.subarray(first * columns, (first + count) * columns);
    const a = normal(m * columns, 9);
    using aTensor = engine.upload(a, m, columns);
    using c = matmul(aTensor, bTensor, { transposeB: true, rowsOfB: { first, rows: count } });
    const expected = matmulReference(a, part, { m, n: count, k: columns, transposeB: true });
    assertClose(await readOne(c), expected.c, TOLERANCE.sum, `rows ${first} + ${count} of [n, k]`);

    const a2 = normal(m * count, 10);
    using aTensor2 = engine.upload(a2, m, count);
    using c2 = matmul(aTensor2, bTensor, { rowsOfB: { first, rows: count } });
    const expected2 = matmulReference(a2, part, { m, n: columns, k: count });
    assertClose(await readOne(c2), expected2.c, TOLERANCE.sum, `rows ${first} + ${count} of [k, n]`);
  }
});

interface BatchCase {
  readonly name: string;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly causal: Causal;
}

const BATCHES: readonly BatchCase[] = [
  { name: "NN", transposeA: false, transposeB: false, causal: "none" },
  { name: "NT", transposeA: false, transposeB: true, causal: "none" },
  { name: "TN", transposeA: true, transposeB: false, causal: "none" },
  { name: "NT, upper triangle skipped", transposeA: false, transposeB: true, causal: "skipUpper" },
  { name: "NN, op(A) zero above", transposeA: false, transposeB: false, causal: "innerBelow" },
  { name: "TN, op(A) zero below", transposeA: true, transposeB: false, causal: "innerAbove" },
];

async function multiplyBatches(
  engine: Engine,
  groups: number,
  heads: number,
  inRuns: boolean,
): Promise<void> {
  for (const { name, transposeA, transposeB, causal } of BATCHES) {
    // Causal products are square in (m, n) or (m, k), whichever is masked.
    for (const [m, other] of [[1, 4], [7, 8], [67, 12]] as const) {
      const n = causal === "skipUpper" ? m : other;
      const k = causal === "none" || causal === "skipUpper" ? 8 : m;
      const pad = (x: number) => Math.ceil(x / 4) * 4;
      const aStride = pad(transposeA ? m : k), bStride = pad(transposeB ? k : n), cStride = pad(n);
      const aFirst = 4, bFirst = 8, cFirst = 0;
      const aRows = groups * (transposeA ? k : m), bRows = groups * (transposeB ? n : k);
      const aColumns = aFirst + heads * aStride, bColumns = bFirst + heads * bStride;
      const a = normal(aRows * aColumns, 11);
      const b = normal(bRows * bColumns, 12);
      for (let row = 0; row < aRows; row++) {
        for (let column = 0; column < aColumns; column++) {
          const inHead = (column - aFirst) % aStride;
          const padding = column >= aFirst && inHead >= (transposeA ? m : k);
          const r = row % (transposeA ? k : m);
          const [mIndex, kIndex] = transposeA ? [inHead, r] : [r, inHead];
          const zero = causal === "innerBelow" ? kIndex > mIndex : causal === "innerAbove" && kIndex < mIndex;
          if (column >= aFirst && (padding || zero)) a[row * aColumns + column] = 0;
        }
      }
      if (transposeB) {
        for (let i = 0; i < b.length; i++) {
          const column = i % bColumns - bFirst;
          if (column >= 0 && column % bStride >= k) b[i] = 0;
        }
      }
      const batch = {
        groups,
        heads,
        m,
        n,
        k,
        a: { first: aFirst, stride: aStride },
        b: { first: bFirst, stride: bStride },
        c: { first: cFirst, stride: cStride },
        causal,
      };
      using aTensor = engine.upload(a, aRows, aColumns);
      using bTensor = engine.upload(b, bRows, bColumns);
      const columns = heads * cStride;
      using out = engine.upload(new Float32Array(groups * m * columns).fill(99), groups * m, columns);
      const { dispatches } = engine.stats;
      matmul(aTensor, bTensor, { transposeA, transposeB, alpha: 0.5, out, batch });
      if (inRuns && m === 67 && causal !== "none") {
        assert(engine.stats.dispatches - dispatches >= groups, "not split");
      }
      const expected = { data: new Float64Array(groups * m * columns), columns };
      batchedMatmulReference({ data: a, columns: aColumns }, { data: b, columns: bColumns }, expected, {
        ...batch,
        transposeA,
        transposeB,
        alpha: 0.5,
      });
      const actual = await readOne(out);
      if (causal === "skipUpper") {
        // What lies above the diagonal is undefined.
        for (let i = 0; i < actual.length; i++) {
          const column = i % columns % cStride;
          if (column > Math.floor(i / columns) % m) actual[i] = expected.data[i] = 0;
        }
      }
      assertClose(actual, expected.data, TOLERANCE.sum, `${name}, m = ${m}`);
    }
  }
}

testForms(
  "matmul() multiplies batches of heads in every causal mode",
  (engine) => multiplyBatches(engine, 2, 3, false),
);

// One group of 67 rows fits, two do not; groups start at any row.
testForms(
  "matmul() multiplies batches larger than a binding or texture in runs of groups [slow]",
  (engine) => multiplyBatches(engine, 5, 3, true),
  { maxBindingBytes: 80_000, maxTextureSide: 96 },
);

testForms("matmul() fills the tail of a head's columns with zeros", async (engine) => {
  using a = engine.upload(normal(8, 13), 2, 4);
  using b = engine.upload(normal(8 * 8, 14), 8, 8); // more rows and columns than take part
  for (const transposeB of [false, true]) {
    using out = engine.upload(new Float32Array(2 * 16).fill(7), 2, 16);
    const whole = { first: 0, stride: 0 };
    const batch = { groups: 1, heads: 1, m: 2, n: 5, k: 4, a: whole, b: whole, c: { first: 4, stride: 8 } };
    matmul(a, b, { transposeB, out, batch });
    const values = await readOne(out);
    for (const row of [0, 16]) {
      assertEquals([...values.subarray(row, row + 4)], [7, 7, 7, 7]);
      assertEquals([...values.subarray(row + 9, row + 16)], [0, 0, 0, 7, 7, 7, 7]);
    }
  }
});

/** 64 rows to a texture and 16 KiB to a binding: m, n and k are all cut. */
const SMALL = { maxBindingBytes: 16 * 1024, maxTextureSide: 64 };

testForms(
  "matmul() multiplies in pieces where a binding or a texture is too small [slow]",
  async (engine) => {
    const [m, n, k] = [150, 140, 133];
    for (const { transposeA, transposeB, name } of LAYOUTS) {
      const { a, b, aTensor, bTensor } = operands(engine, [m, n, k], transposeA, transposeB);
      using _a = aTensor;
      using _b = bTensor;
      const dispatches = engine.stats.dispatches;
      using c = matmul(aTensor, bTensor, { transposeA, transposeB, alpha: 2 });
      assertGreater(engine.stats.dispatches - dispatches, 4, `${name}: expected several pieces`);
      const expected = matmulReference(a, b, { m, n, k, transposeA, transposeB, alpha: 2 });
      assertClose(await readOne(c), expected.c, TOLERANCE.sum, name);
    }
  },
  SMALL,
);

testForms("matmul() applies bias, residual and gelu in pieces [slow]", async (engine) => {
  const [m, n, k] = [150, 140, 45];
  const biasValues = normal(n, 15);
  const auxValues = normal(m * n, 16);
  const { a, b, aTensor, bTensor } = operands(engine, [m, n, k], false, true);
  using _a = aTensor;
  using _b = bTensor;
  using bias = engine.upload(biasValues, 1, n);
  using aux = engine.upload(auxValues, m, n);
  using geluInput = engine.tensor(m, n);
  const shape = { m, n, k, transposeB: true };
  using sum = matmul(aTensor, bTensor, { transposeB: true, bias, residual: aux });
  using y = matmul(aTensor, bTensor, { transposeB: true, geluInput });
  using dx = matmul(aTensor, bTensor, { transposeB: true, geluGradOf: aux });
  const [sumValues, yValues, inputValues, dxValues] = await readAll(sum, y, geluInput, dx);
  const summed = matmulReference(a, b, { ...shape, bias: biasValues, residual: auxValues });
  assertClose(sumValues!, summed.c, TOLERANCE.sum, "bias and residual");
  const gelu = matmulReference(a, b, { ...shape, gelu: true });
  assertClose(yValues!, gelu.c, TOLERANCE.sum, "gelu");
  assertClose(inputValues!, gelu.sum, TOLERANCE.sum, "gelu's input");
  assertClose(
    dxValues!,
    matmulReference(a, b, { ...shape, geluGradOf: auxValues }).c,
    TOLERANCE.sum,
    "times gelu'",
  );
}, SMALL);

testForms("matmul() applies bias and residual once where the inner length is cut [slow]", async (engine) => {
  const [m, n, k] = [5, 17, 150];
  const biasValues = normal(n, 17);
  const residualValues = normal(m * n, 18);
  const before = normal(m * n, 19);
  const { a, b, aTensor, bTensor } = operands(engine, [m, n, k], false, false);
  using _a = aTensor;
  using _b = bTensor;
  using bias = engine.upload(biasValues, 1, n);
  using residual = engine.upload(residualValues, m, n);
  using out = engine.upload(before, m, n);
  matmul(aTensor, bTensor, { bias, residual, out, accumulate: true });
  const expected = matmulReference(a, b, { m, n, k, bias: biasValues, residual: residualValues, before });
  assertClose(await readOne(out), expected.c, TOLERANCE.sum);
}, SMALL);

testForms("matmul() takes some rows of B in pieces", async (engine) => {
  const [m, rows, columns] = [6, 200, 30];
  const b = normal(rows * columns, 20);
  using bTensor = engine.upload(b, rows, columns);
  const [first, count] = [60, 133];
  const part = b.subarray(first * columns, (first + count) * columns);
  const a = normal(m * columns, 21);
  using aTensor = engine.upload(a, m, columns);
  using c = matmul(aTensor, bTensor, { transposeB: true, rowsOfB: { first, rows: count } });
  const expected = matmulReference(a, part, { m, n: count, k: columns, transposeB: true });
  assertClose(await readOne(c), expected.c, TOLERANCE.sum, "rows of [n, k]");
  const a2 = normal(m * count, 22);
  using aTensor2 = engine.upload(a2, m, count);
  using c2 = matmul(aTensor2, bTensor, { rowsOfB: { first, rows: count } });
  const expected2 = matmulReference(a2, part, { m, n: columns, k: count });
  assertClose(await readOne(c2), expected2.c, TOLERANCE.sum, "rows of [k, n]");
  // Four columns of C cannot come from two pieces.
  assertThrows(
    () => matmul(aTensor, bTensor, { transposeB: true, rowsOfB: { first: 62, rows: count } }),
    RangeError,
    "multiple of 4",
  );
}, SMALL);

testForms(
  "matmul() applies gelu once, to the whole sum, where the inner length is cut [slow]",
  async (engine) => {
    const [m, n, k] = [5, 17, 150];
    const biasValues = normal(n, 30);
    const { a, b, aTensor, bTensor } = operands(engine, [m, n, k], false, false);
    using _a = aTensor;
    using _b = bTensor;
    using bias = engine.upload(biasValues, 1, n);
    using geluInput = engine.zeros(m, n);
    using c = matmul(aTensor, bTensor, { bias, geluInput });
    const expected = matmulReference(a, b, { m, n, k, bias: biasValues, gelu: true });
    assertClose(await readOne(c), expected.c, TOLERANCE.sum);
  },
  SMALL,
);

testForms("matmul() refuses to batch or to add gelu where the inner length is cut", (engine) => {
  const { aTensor: a, bTensor: b } = operands(engine, [4, 32, 200], false, false);
  using _a = a;
  using _b = b;
  using aux = engine.zeros(4, 32);
  using out = engine.zeros(4, 32);
  assertThrows(
    () => matmul(a, b, { geluInput: aux, out, accumulate: true }),
    RangeError,
    "must fit one binding",
  );
  const all = { first: 0, stride: 0 };
  const batch = { groups: 1, heads: 1, m: 4, n: 32, k: 200, a: all, b: all, c: all };
  assertThrows(() => matmul(a, b, { out, batch }), RangeError, "one group must fit a binding");
}, SMALL);

Deno.test("matmul() throws on shapes that do not fit", async () => {
  const engine = await engineOf("software");
  using a = engine.zeros(3, 4);
  using b = engine.zeros(4, 5);
  using square = engine.zeros(4, 4);
  using c = engine.zeros(3, 5);
  using row = engine.zeros(1, 5);
  const layout = { first: 0, stride: 4 };
  const batch = { groups: 1, heads: 1, m: 3, n: 4, k: 4, a: layout, b: layout, c: layout };
  const cases: [string, Tensor, Tensor, MatmulOptions, string][] = [
    ["inner lengths", a, a, {}, "inner lengths must be equal"],
    ["inner lengths of NT", a, b, { transposeB: true }, "inner lengths must be equal"],
    ["inner lengths of TN", a, b, { transposeA: true }, "inner lengths must be equal"],
    [
      "inner length with rows of B",
      a,
      b,
      { rowsOfB: { first: 0, rows: 3 } },
      "inner lengths must be equal",
    ],
    ["both transposed", a, b, { transposeA: true, transposeB: true }, "only one operand"],
    ["output", a, b, { out: a }, "must be [3, 5]"],
    ["bias", a, b, { bias: c }, "must be [1, 5]"],
    ["residual", a, b, { residual: row }, "must be [3, 5]"],
    ["gelu input", a, b, { geluInput: a }, "must be [3, 5]"],
    ["gelu gradient", a, b, { geluGradOf: square }, "must be [3, 5]"],
    ["two epilogues", a, b, { geluInput: c, residual: c }, "at most one"],
    ["output used twice", square, square, { out: square }, "must not be used twice"],
    ["residual used twice", a, b, { residual: c, out: c }, "must not be used twice"],
    ["accumulation without output", a, b, { accumulate: true }, 'needs "out"'],
    ["batch without output", a, square, { batch }, 'needs "out"'],
    [
      "rows of B past its end",
      a,
      square,
      { transposeB: true, rowsOfB: { first: 2, rows: 3 } },
      "rows of B",
    ],
    ["batch with epilogue", a, square, { batch, out: a, bias: row }, "epilogue"],
    ["batch past the rows", a, square, { batch: { ...batch, groups: 2 }, out: a }, "op(A)"],
    ["batch past the columns", a, square, { batch: { ...batch, heads: 2 }, out: a }, "op(A)"],
    [
      "batch off the grid",
      a,
      square,
      { batch: { ...batch, b: { first: 2, stride: 4 } }, out: a },
      "multiples of 4",
    ],
  ];
  for (const [name, x, y, options, message] of cases) {
    assertThrows(() => matmul(x, y, options), TypeError, message, name);
  }
});

testForms("matmul() has the gradients of its product and of gelu", async (engine) => {
  // y = gelu(x w + b); loss = sum(y * dy). dx = (dy * gelu'(sum)) w^T, dw = x^T (...).
  const [m, n, k] = [3, 5, 2];
  const x = normal(m * k, 22);
  const w = normal(k * n, 23);
  const dyValues = normal(m * n, 24);
  using bias = engine.upload(normal(n, 25), 1, n);
  using dy = engine.upload(dyValues, m, n);
  using xTensor = engine.upload(x, m, k);
  using wTensor = engine.upload(w, k, n);
  using geluInput = engine.tensor(m, n);
  const loss = async () => {
    using y = matmul(xTensor, wTensor, { bias, geluInput });
    return dot(await y.read(), dyValues);
  };
  await loss();
  using identity = engine.upload(
    Float32Array.from({ length: n * n }, (_, i) => i % (n + 1) === 0 ? 1 : 0),
    n,
    n,
  );
  using dSum = matmul(dy, identity, { geluGradOf: geluInput });
  using dx = matmul(dSum, wTensor, { transposeB: true });
  using dw = matmul(xTensor, dSum, { transposeA: true });
  const [dxValues, dwValues] = await readAll(dx, dw);
  const byX = await differences(x, (v) => {
    engine.write(xTensor, v);
    return loss();
  });
  engine.write(xTensor, x);
  const byW = await differences(w, (v) => {
    engine.write(wTensor, v);
    return loss();
  });
  assertClose(dxValues!, byX, TOLERANCE.difference, "dx");
  assertClose(dwValues!, byW, TOLERANCE.difference, "dw");
});
