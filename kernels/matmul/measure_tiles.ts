/**
 * Measures the tiles of the GPU form on an adapter.
 *
 * @module
 */

import { type Engine, prepareEngines } from "../engine/engine.ts";
import { matmul } from "./matmul.ts";
import {
  fastestTiles,
  fitsDevice,
  MATMUL_TILES,
  type MatmulTiles,
  matmulTiles,
  setMatmulTiles,
  TILE_PROBES,
  type TileTimes,
} from "./tiles.ts";

/** Products in a row that are timed together. */
const IN_A_ROW = 8;
/** Rounds, each with every tile; the fastest of a tile counts, as anything else only adds time. */
const ROUNDS = 3;

/**
 * Times every tile at both probe products: some tens of milliseconds on a GPU.
 *
 * @param engine Where; its tiles are changed meanwhile and put back.
 * @param probes m, k, n of the products. @default {TILE_PROBES}
 * @returns Milliseconds of one product.
 */
export async function measureTiles(
  engine: Engine,
  probes: Readonly<Record<keyof MatmulTiles, readonly [number, number, number]>> = TILE_PROBES,
): Promise<TileTimes> {
  const before = matmulTiles(engine);
  try {
    const measure = async ([m, k, n]: readonly [number, number, number]) => {
      using a = engine.zeros(m, k, "tile probe");
      using b = engine.zeros(k, n, "tile probe");
      using out = engine.tensor(m, n, "tile probe");
      using last = engine.zeros(1, 4, "tile probe");
      const times = MATMUL_TILES.map(() => Infinity);
      // Round 0 compiles.
      for (let round = 0; round <= ROUNDS; round++) {
        for (const [i, tile] of MATMUL_TILES.entries()) {
          if (!fitsDevice(engine, tile)) continue;
          setMatmulTiles(engine, { few: tile, many: tile });
          const started = performance.now();
          for (let run = 0; run < (round === 0 ? 1 : IN_A_ROW); run++) matmul(a, b, { out });
          await last.read();
          if (round > 0) times[i] = Math.min(times[i]!, (performance.now() - started) / IN_A_ROW);
        }
      }
      return times;
    };
    return { few: await measure(probes.few), many: await measure(probes.many) };
  } finally {
    setMatmulTiles(engine, before);
  }
}

prepareEngines(async (engine) => setMatmulTiles(engine, fastestTiles(await measureTiles(engine))));
