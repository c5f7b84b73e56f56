import { assert, assertEquals } from "@std/assert";
import { engineOf, normal, readOne } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import type { Engine } from "../engine/engine.ts";
import { matmul } from "./matmul.ts";
import type { Causal } from "./options.ts";
import { matmulReference } from "./matmul_reference.ts";
import { measureTiles } from "./measure_tiles.ts";
import {
  DEFAULT_TILES,
  fastestTiles,
  fitsDevice,
  MATMUL_TILES,
  type MatmulTile,
  matmulTiles,
  setMatmulTiles,
  tileFor,
} from "./tiles.ts";

async function withTile<T>(engine: Engine, tile: MatmulTile, run: () => Promise<T>): Promise<T> {
  setMatmulTiles(engine, { few: tile, many: tile });
  try {
    return await run();
  } finally {
    setMatmulTiles(engine, DEFAULT_TILES);
  }
}

Deno.test("every tile equals the reference, and the others to the bit [slow]", async () => {
  const engine = await engineOf("hardware");
  for (const [m, n, k] of [[1, 1, 1], [33, 65, 7], [130, 71, 66]] as const) {
    for (const [transposeA, transposeB] of [[false, false], [false, true], [true, false]] as const) {
      const a = normal(m * k, 1);
      const b = normal(k * n, 2);
      using aTensor = transposeA ? engine.upload(a, k, m) : engine.upload(a, m, k);
      using bTensor = transposeB ? engine.upload(b, n, k) : engine.upload(b, k, n);
      const expected = matmulReference(a, b, { m, n, k, transposeA, transposeB }).c;
      let first: Float32Array | undefined;
      for (const tile of MATMUL_TILES) {
        const values = await withTile(engine, tile, async () => {
          using c = matmul(aTensor, bTensor, { transposeA, transposeB });
          return await readOne(c);
        });
        const what = `${tile.rows} x ${tile.columns} at ${m} x ${k} x ${n}`;
        assertClose(values, expected, TOLERANCE.sum, what);
        assertEquals(values, first ??= values, what);
      }
    }
  }
});

Deno.test("every tile leaves out the same triangle", async () => {
  const engine = await engineOf("hardware");
  const length = 97;
  const batch = (causal: Causal) => ({
    groups: 2,
    heads: 1,
    m: length,
    n: length,
    k: length,
    a: { first: 0, stride: 0 },
    b: { first: 0, stride: 0 },
    c: { first: 0, stride: 0 },
    causal,
  });
  const lower = normal(2 * length * length, 3).map((x, i) =>
    i % length <= Math.floor(i / length) % length ? x : 0
  );
  using a = engine.upload(lower, 2 * length, length);
  using b = engine.upload(normal(2 * length * length, 4), 2 * length, length);
  for (const causal of ["skipUpper", "innerBelow"] as const) {
    let first: Float32Array | undefined;
    for (const tile of MATMUL_TILES) {
      const values = await withTile(engine, tile, async () => {
        using out = engine.zeros(2 * length, length);
        matmul(a, b, { batch: batch(causal), out });
        return await readOne(out);
      });
      // Above the diagonal a skipping product may write or not.
      const counted = causal === "skipUpper"
        ? values.map((x, i) => i % length <= Math.floor(i / length) % length ? x : 0)
        : values;
      assertEquals(counted, first ??= counted, `${causal}, ${tile.rows} x ${tile.columns}`);
    }
  }
});

Deno.test("measureTiles() times every tile and leaves the engine as it was", async () => {
  const engine = await engineOf("hardware");
  const tensors = engine.stats.tensors;
  const times = await measureTiles(engine, { few: [32, 32, 64], many: [128, 32, 64] });
  for (const ms of [times.few, times.many]) {
    assertEquals(ms.length, MATMUL_TILES.length);
    assert(ms.every((t) => t > 0 && t < Infinity), `${ms}`);
  }
  assertEquals(matmulTiles(engine), DEFAULT_TILES);
  assertEquals(engine.stats.tensors, tensors);
});

Deno.test("a device of 128 invocations a workgroup gets tiles that fit", () => {
  const weak = { device: { limits: { maxComputeInvocationsPerWorkgroup: 128 } } } as unknown as Engine;
  assertEquals(MATMUL_TILES.map((tile) => fitsDevice(weak, tile)), [false, true, true, true]);
  assertEquals(matmulTiles(weak), { few: MATMUL_TILES[1]!, many: MATMUL_TILES[1]! });
});

Deno.test("fastestTiles() and tileFor() choose by time and by number of tiles", () => {
  const tiles = fastestTiles({ few: [4, 3, 2, 1], many: [1, 2, 3, 4] });
  assertEquals(tiles, { few: MATMUL_TILES[3]!, many: MATMUL_TILES[0]! });
  assertEquals(tileFor(tiles, 512, 512, 1), tiles.few);
  assertEquals(tileFor(tiles, 512, 512, 2), tiles.many);
  assertEquals(tileFor(tiles, 1, 64 * 128, 1), tiles.many);
});
