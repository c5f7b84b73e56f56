/**
 * Which tile of C a workgroup of the GPU form computes: chosen by a table that is measured on the
 * adapter when its engine is created. The software form has one tile, measured before.
 *
 * @module
 */

import type { Engine } from "../engine/engine.ts";

/** Rows and columns of C that one workgroup computes. */
export interface MatmulTile {
  /** Rows; a multiple of 4. */
  readonly rows: number;
  /** Columns; a multiple of 4. */
  readonly columns: number;
}

/** The tile for products of few tiles, which must fill the GPU, and for those of many, which need not. */
export interface MatmulTiles {
  /** For products of less than `FEW` tiles of 64 x 64. */
  readonly few: MatmulTile;
  /** For the others. */
  readonly many: MatmulTile;
}

/** All tiles there are; each gives the same bits. */
export const MATMUL_TILES: readonly MatmulTile[] = [
  { rows: 64, columns: 64 },
  { rows: 64, columns: 32 },
  { rows: 32, columns: 64 },
  { rows: 32, columns: 32 },
];

/** What is used until something was measured. */
export const DEFAULT_TILES: MatmulTiles = { few: MATMUL_TILES[0]!, many: MATMUL_TILES[0]! };

const chosen = new WeakMap<Engine, MatmulTiles>();

/** The tiles that products on an engine use. */
export function matmulTiles(engine: Engine): MatmulTiles {
  const known = chosen.get(engine);
  if (known !== undefined) return known;
  const largest = MATMUL_TILES.find((tile) => fitsDevice(engine, tile))!;
  return { few: largest, many: largest };
}

/** Whether a workgroup of an engine's device may have as many invocations as a tile needs: weak devices allow 128. */
export function fitsDevice({ device }: Engine, { rows, columns }: MatmulTile): boolean {
  return (rows / 4) * (columns / 4) <= device.limits.maxComputeInvocationsPerWorkgroup;
}

/** Chooses the tiles that products on an engine use from now on, in the place of those that were measured. */
export function setMatmulTiles(engine: Engine, tiles: MatmulTiles): void {
  chosen.set(engine, tiles);
}

/** Number of 64 x 64 tiles between the two products that are measured. */
const FEW = 128;

/** The tile for C [m, n], `count` times. */
export function tileFor({ few, many }: MatmulTiles, m: number, n: number, count: number): MatmulTile {
  return Math.ceil(m / 64) * Math.ceil(n / 64) * count < FEW ? few : many;
}

/** Products that stand for the two kinds: m, k, n. */
export const TILE_PROBES: Readonly<Record<keyof MatmulTiles, readonly [number, number, number]>> = {
  few: [512, 128, 384],
  many: [2048, 512, 2048],
};

/** Milliseconds of each tile, in the order of `MATMUL_TILES`, for both kinds of product. */
export type TileTimes = Readonly<Record<keyof MatmulTiles, readonly number[]>>;

/** The fastest tile of each kind. */
export function fastestTiles(times: TileTimes): MatmulTiles {
  const fastest = (ms: readonly number[]) => MATMUL_TILES[ms.indexOf(Math.min(...ms))]!;
  return { few: fastest(times.few), many: fastest(times.many) };
}
