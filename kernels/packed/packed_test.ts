import { assert, assertEquals, assertThrows } from "@std/assert";
import { engineOf, integers, normal, readOne, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { embeddingGather } from "../embedding/embedding.ts";
import type { Engine } from "../engine/engine.ts";
import { matmul } from "../matmul/matmul.ts";
import { matmulReference } from "../matmul/matmul_reference.ts";
import { type GroupsAlong, type PackedFormat, weightBytes } from "./formats.ts";
import { PackedMatrix } from "./packed_matrix.ts";
import { packedReference } from "./packed_reference.ts";

type Shape = readonly [m: number, n: number, k: number];

const FORMATS = ["f16", "int8", "int4"] as const;
const DIRECTIONS = ["columns", "rows"] as const;

// One element; odd; prime; K no multiple of a group, widths no multiple of a word; whole groups; more than a
// tile and more than a group in every dimension.
const SHAPES: readonly Shape[] = [[1, 1, 1], [3, 1, 2], [1, 5, 9], [7, 13, 5], [16, 64, 64], [65, 67, 37], [
  33,
  131,
  197,
], [5, 260, 500]];

/** Weights of different sizes, some zero, so that groups have different scales and one has none. */
function weights(rows: number, columns: number, seed: number): Float32Array<ArrayBuffer> {
  const all = normal(rows * columns, seed);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      all[r * columns + c]! *= r % 7 === 3 ? 0 : 2 ** (c % 5 - 3) * (1 + r % 3);
    }
  }
  return all;
}

function pack(
  engine: Engine,
  data: Float32Array,
  [rows, columns]: readonly [number, number],
  format: PackedFormat,
  groupsAlong: GroupsAlong,
): PackedMatrix {
  const packed = new PackedMatrix(engine, { format, rows, columns, groupsAlong }, "w");
  packed.write(0, data);
  return packed;
}

for (const format of FORMATS) {
  for (const groupsAlong of DIRECTIONS) {
    const name = `${format}, groups along ${groupsAlong}`;
    for (const limits of [{}, { maxBindingBytes: 40 * 1024, maxTextureSide: 128 }]) {
      const where = limits.maxBindingBytes === undefined ? "" : " in pieces";
      testForms(`matmul() by packed weights equals the reference${where}: ${name} [slow]`, async (engine) => {
        for (const [m, n, k] of SHAPES) {
          for (const transposeB of [false, true]) {
            const stored = transposeB ? [n, k] as const : [k, n] as const;
            const [rows, columns] = stored;
            const w = weights(rows, columns, 3 + n);
            const a = normal(m * k, 5 + m);
            using aTensor = engine.upload(a, m, k, "a");
            using packed = pack(engine, w, stored, format, groupsAlong);
            using c = matmul(aTensor, packed, { transposeB, alpha: -1.5 });
            const real = packedReference(w, { format, rows, columns, groupsAlong });
            const expected = matmulReference(a, real, { m, n, k, transposeB, alpha: -1.5 });
            const what = `${name}: [${m}, ${k}] x [${k}, ${n}]${transposeB ? ", transposed" : ""}`;
            assertClose(await readOne(c), expected.c, TOLERANCE.sum, what);
          }
        }
      }, limits);

      testForms(
        `embeddingGather() from packed weights equals the reference${where}: ${name} [slow]`,
        async (engine) => {
          for (
            const [entries, columns, rows] of [[1, 1, 1], [7, 5, 3], [5, 64, 67], [211, 33, 65]] as const
          ) {
            const w = weights(entries, columns, 1);
            const ids = integers(rows, entries, 2);
            ids[rows - 1] = entries - 1;
            using packed = pack(engine, w, [entries, columns], format, groupsAlong);
            using out = embeddingGather(packed, ids);
            const real = packedReference(w, { format, rows: entries, columns, groupsAlong });
            const expected = Float64Array.from(
              { length: rows * columns },
              (_, i) => real[ids[Math.floor(i / columns)]! * columns + i % columns]!,
            );
            const what = `${name}: ${rows} of [${entries}, ${columns}]`;
            // One product in f32 is what the reference does too.
            assertClose(await readOne(out), expected, TOLERANCE.exact, what);
            const before = normal(rows * columns, 3);
            using sum = engine.upload(before, rows, columns);
            embeddingGather(packed, ids, sum);
            assertClose(
              await readOne(sum),
              expected.map((v, i) => v + before[i]!),
              TOLERANCE.sum,
              `${what}, added`,
            );
          }
        },
        limits,
      );
    }

    testForms(`matmul() by packed weights gives the bits of plain ones: ${name} [slow]`, async (engine) => {
      const [m, n, k] = [33, 131, 197];
      const w = weights(k, n, 8);
      using a = engine.upload(normal(m * k, 9), m, k);
      using packed = pack(engine, w, [k, n], format, groupsAlong);
      using plain = engine.upload(packedReference(w, { format, rows: k, columns: n, groupsAlong }), k, n);
      using c = matmul(a, packed);
      using expected = matmul(a, plain);
      // The same sums in the same order.
      assertEquals(await readOne(c), await readOne(expected));
    });
  }
}

const EPILOGUES = [
  { kind: "plain", withBias: true, accumulate: false },
  { kind: "plain", withBias: false, accumulate: true },
  { kind: "gelu", withBias: true, accumulate: false },
  { kind: "residual", withBias: true, accumulate: false },
  { kind: "geluGradOf", withBias: false, accumulate: false },
  { kind: "residual", withBias: true, accumulate: true },
] as const;

for (const limits of [{}, { maxBindingBytes: 16 * 1024 }]) {
  const where = limits.maxBindingBytes === undefined ? "" : " in pieces";
  testForms(`matmul() by packed weights applies every epilogue${where} [slow]`, async (engine) => {
    for (const [m, n, k] of [[1, 3, 2], [19, 230, 90]] as const) {
      const a = normal(m * k, 3);
      const w = weights(k, n, 4);
      const biasValues = normal(n, 5);
      const auxValues = normal(m * n, 6);
      const before = normal(m * n, 7);
      using aTensor = engine.upload(a, m, k);
      using b = pack(engine, w, [k, n], "int8", "rows");
      const real = packedReference(w, { format: "int8", rows: k, columns: n, groupsAlong: "rows" });
      using bias = engine.upload(biasValues, 1, n);
      using aux = engine.upload(auxValues, m, n);
      for (const { kind, withBias, accumulate } of EPILOGUES) {
        using geluInput = engine.tensor(m, n, "gelu input");
        using out = engine.upload(before, m, n, "out");
        matmul(aTensor, b, {
          alpha: 0.75,
          out,
          accumulate,
          ...(withBias ? { bias } : {}),
          ...(kind === "gelu" ? { geluInput } : {}),
          ...(kind === "residual" ? { residual: aux } : {}),
          ...(kind === "geluGradOf" ? { geluGradOf: aux } : {}),
        });
        const expected = matmulReference(a, real, {
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
  }, limits);

  testForms(`matmul() takes some rows of packed weights${where} [slow]`, async (engine) => {
    const [rows, d, m] = [211, 70, 5];
    const w = weights(rows, d, 1);
    for (const groupsAlong of DIRECTIONS) {
      using table = pack(engine, w, [rows, d], "int4", groupsAlong);
      const real = packedReference(w, { format: "int4", rows, columns: d, groupsAlong });
      for (const [first, count] of [[0, 80], [80, 131], [40, 57]] as const) {
        const part = real.subarray(first * d, (first + count) * d);
        const x = normal(m * d, 2);
        using xTensor = engine.upload(x, m, d);
        using y = matmul(xTensor, table, { transposeB: true, rowsOfB: { first, rows: count } });
        const forward = matmulReference(x, part, { m, n: count, k: d, transposeB: true }).c;
        const what = `rows ${first} to ${first + count}, groups along ${groupsAlong}`;
        assertClose(await readOne(y), forward, TOLERANCE.sum, `${what}, forward`);
        const dy = normal(m * count, 3);
        using dyTensor = engine.upload(dy, m, count);
        using dx = matmul(dyTensor, table, { rowsOfB: { first, rows: count } });
        const back = matmulReference(dy, part, { m, n: d, k: count }).c;
        assertClose(await readOne(dx), back, TOLERANCE.sum, `${what}, back`);
      }
    }
  }, limits);
}

testForms(
  "packed weights far from one: halves below the normal ones, groups of almost nothing",
  async (engine) => {
    const small = Float32Array.from({ length: 64 }, (_, i) => (i - 31) * 2 ** -24 * (i % 2 === 0 ? 1 : 300));
    const ids = Uint32Array.of(0);
    for (const format of FORMATS) {
      for (const scale of [1, 1e3, 1e9, 2 ** -120]) {
        if (format === "f16" && scale === 1e9) continue; // out of range
        const data = small.map((x) => x * scale);
        using packed = pack(engine, data, [1, 64], format, "columns");
        using out = embeddingGather(packed, ids);
        const real = packedReference(data, { format, rows: 1, columns: 64, groupsAlong: "columns" });
        assertClose(await readOne(out), real, TOLERANCE.exact, `${format} of ${scale}`);
      }
    }
  },
);

testForms("PackedMatrix.write() packs parts as the whole", async (engine) => {
  const [rows, columns] = [131, 50];
  const data = weights(rows, columns, 1);
  const ids = Uint32Array.from({ length: rows }, (_, i) => i);
  for (const format of FORMATS) {
    for (const groupsAlong of DIRECTIONS) {
      using whole = pack(engine, data, [rows, columns], format, groupsAlong);
      using parts = new PackedMatrix(engine, { format, rows, columns, groupsAlong });
      parts.write(64, data.subarray(64 * columns));
      parts.write(0, data.subarray(0, 64 * columns));
      using a = embeddingGather(whole, ids);
      using b = embeddingGather(parts, ids);
      assertEquals(await readOne(b), await readOne(a));
    }
  }
});

testForms("weightBytes() is what the engine counts", (engine) => {
  for (const [rows, columns] of [[1, 1], [33, 70], [128, 384], [257, 64]] as const) {
    for (const format of FORMATS) {
      for (const groupsAlong of DIRECTIONS) {
        const before = engine.stats.liveBytes;
        using packed = new PackedMatrix(engine, { format, rows, columns, groupsAlong });
        const counted = engine.stats.liveBytes - before;
        assertEquals(weightBytes({ format, rows, columns, groupsAlong }), counted);
        assertEquals(packed.bytes, counted);
      }
    }
    const before = engine.stats.liveBytes;
    using plain = engine.allocateExact(rows, columns);
    const bytes = weightBytes({ format: "f32", rows, columns, groupsAlong: "rows" });
    assertEquals(bytes, engine.stats.liveBytes - before);
    assert(bytes >= plain.bytes);
  }
});

Deno.test("packed weights throw on what they cannot hold or do", async () => {
  const engine = await engineOf("software");
  const data = new Float32Array(64 * 8).fill(1);
  data[9] = 7e4;
  assertThrows(
    () => pack(engine, data, [64, 8], "f16", "columns"),
    RangeError,
    'Cannot pack "w" as f16 as its weights must be from -65504 to 65504: current value is 70000',
  );
  data[9] = NaN;
  assertThrows(
    () => pack(engine, data, [64, 8], "int4", "columns"),
    RangeError,
    "must be finite: current value is NaN",
  );
  data[9] = 1;
  using packed = new PackedMatrix(
    engine,
    { format: "int8", rows: 128, columns: 8, groupsAlong: "rows" },
    "w",
  );
  assertThrows(() => packed.write(1, data), RangeError, "in groups of 64: 512 values from row 1 on");
  assertThrows(() => packed.write(128, data), RangeError, "lie in it");
  packed.write(0, data);
  packed.write(64, data);
  using a = engine.zeros(8, 128);
  using y = engine.zeros(128, 8);
  assertThrows(() => matmul(y, packed, { transposeA: true }), TypeError, "with A transposed");
  assertThrows(() => matmul(a, packed, { transposeB: true }), TypeError, "inner lengths must be equal");
  assertThrows(() => matmul(a, packed, { rowsOfB: { first: 4, rows: 124 } }), TypeError, "multiple of 8");
  assertThrows(() => matmul(a, packed, { accumulate: true }), TypeError, 'needs "out"');
  assertThrows(() => embeddingGather(packed, Uint32Array.of(128)), RangeError, "ids must be below 128");
});
