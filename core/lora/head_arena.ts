/**
 * Where the weights of head modules lie on the GPU.
 *
 * The parameters of a layer lie in one arena [heads, segment]: row i holds, for each target in
 * order, A [r, inputs] then B [outputs, r], with r rounded up to a multiple of four (the rest is zero
 * and stays zero).
 *
 * @module
 */

import { type ArenaMatrix, roundUp4 } from "@edgetuner/kernels";
import { randomStream } from "../model/random.ts";
import type { HeadRange } from "./allocation.ts";
import { INPUT_MODES } from "./input_modes.ts";
import { LORA_TARGETS, type LoraSettings } from "./settings.ts";

/**
 * Weights of one head module and target: whatever of them is trained, as `InputMode` says. Files call the matrices by
 * `InputMode.matrixNames`.
 */
export interface HeadWeights {
  /** [r, inputs], row-major: the matrix that reads the input. */
  readonly a: Float32Array;
  /** [outputs, r], row-major: the matrix behind it; without rows in modes that train one alone. */
  readonly b: Float32Array;
}

/** All that the head modules of a device are between two steps: what a run goes on from. */
export interface HeadModulesState {
  /** Weights, for each layer, head of the range and target. */
  readonly weights: readonly (readonly (readonly HeadWeights[])[])[];
  /** AdamW's first moments, as `weights`. */
  readonly m: readonly (readonly (readonly HeadWeights[])[])[];
  /** AdamW's second moments, as `weights`. */
  readonly v: readonly (readonly (readonly HeadWeights[])[])[];
  /** Updates of each head module so far, [L * H_m]. */
  readonly updates: Uint32Array;
}

/**
 * The A that a head module starts with: Kaiming-uniform with a = sqrt 5, that is uniform in
 * +-1 / sqrt(inputs), drawn from (seed, layer, head, target) so that it does not depend on the
 * partition. B starts at zero.
 *
 * @returns [r, inputs], row-major.
 */
export function initialA(options: {
  readonly seed: number;
  readonly layer: number;
  readonly head: number;
  readonly target: number;
  readonly rank: number;
  readonly inputs: number;
}): Float32Array {
  const { seed, layer, head, target, rank, inputs } = options;
  const random = randomStream(seed >>> 0, (layer * 4096 + head) * 4 + target);
  const bound = 1 / Math.sqrt(inputs);
  return Float32Array.from({ length: rank * inputs }, () => (2 * random.float() - 1) * bound);
}

/** Shapes of the head modules of a device. */
export interface HeadArenaShape {
  /** LoRA settings. */
  readonly lora: LoraSettings;
  /** Columns that A has. */
  readonly inputs: number;
  /** Rows that B has. */
  readonly outputs: number;
  /** The heads of the device. */
  readonly range: HeadRange;
}

/** The layout of a layer's arena: between weights by head and target, and what lies on the GPU. */
export class HeadArena {
  /** Numbers of one head: the columns of the arena. */
  readonly segment: number;
  /** Where A and B of each target lie in a segment. */
  readonly matrices: readonly { readonly a: ArenaMatrix; readonly b: ArenaMatrix }[];
  readonly #shape: HeadArenaShape;

  /** Lays the matrices out. */
  constructor(shape: HeadArenaShape) {
    const { lora, inputs, outputs } = shape;
    const rank4 = roundUp4(lora.rank);
    const sizeA = rank4 * roundUp4(inputs);
    const sizeB = outputs * rank4;
    const segment = lora.targets.length * (sizeA + sizeB);
    this.#shape = shape;
    this.segment = segment;
    this.matrices = lora.targets.map((_, k) => ({
      a: { rows: rank4, columns: inputs, first: k * (sizeA + sizeB), segment },
      b: { rows: outputs, columns: rank4, first: k * (sizeA + sizeB) + sizeA, segment },
    }));
  }

  /** What is zero at the start, and what a pruned head's Delta needs: B of each target or, without one, the core. */
  get faded(): readonly ArenaMatrix[] {
    const { lora: { mode } } = this.#shape;
    return this.matrices.map(({ a, b }) => INPUT_MODES[mode].matrixNames.b === null ? a : b);
  }

  /** The arena that a layer starts with: A as `initialA` draws it or, as the mode says, zero; B zero. */
  initial(layer: number, seed: number): Float32Array {
    const { lora: { mode, rank, targets }, inputs, range } = this.#shape;
    const arena = new Float32Array(range.count * this.segment);
    if (INPUT_MODES[mode].start === "zero") return arena;
    for (let i = 0; i < range.count; i++) {
      targets.forEach((name, k) => {
        const target = LORA_TARGETS.indexOf(name);
        const a = initialA({ seed, layer, head: range.first + i, target, rank, inputs });
        writeRows(arena, i * this.segment + this.matrices[k]!.a.first, a, inputs);
      });
    }
    return arena;
  }

  /**
   * A layer's weights, by head and target, as they lie on the GPU.
   *
   * @throws {TypeError} If an array has another length.
   */
  pack(weights: readonly (readonly HeadWeights[])[] | undefined, layer: number): Float32Array {
    const { lora: { rank }, inputs, outputs, range } = this.#shape;
    const arena = new Float32Array(range.count * this.segment);
    for (let i = 0; i < range.count; i++) {
      this.matrices.forEach(({ a, b }, k) => {
        const head = weights?.[i]?.[k];
        if (head?.a.length !== rank * inputs || head.b.length !== outputs * rank) {
          throw new TypeError(
            `Cannot load head module ${range.first + i} of layer ${layer} as A must have ${
              rank * inputs
            } and B ${outputs * rank} values: they have ${head?.a.length} and ${head?.b.length}`,
          );
        }
        writeRows(arena, i * this.segment + a.first, head.a, inputs);
        writeRows(arena, i * this.segment + b.first, head.b, rank);
      });
    }
    return arena;
  }

  /** A layer's weights by head and target, from what lies on the GPU. */
  unpack(arena: Float32Array): HeadWeights[][] {
    const { lora: { rank }, inputs, outputs, range } = this.#shape;
    return Array.from({ length: range.count }, (_, i) =>
      this.matrices.map(({ a, b }) => ({
        a: rowsOf(arena.subarray(i * this.segment + a.first), rank, inputs),
        b: rowsOf(arena.subarray(i * this.segment + b.first), outputs, rank),
      })));
  }
}

/** A matrix of a head module and target, as files have it. */
export interface NamedMatrix {
  /** Its name: `layer0.head3.q.A`, with `.m` or `.v` behind for moments. */
  readonly name: string;
  /** Which of the weights it is. */
  readonly which: keyof HeadWeights;
}

/**
 * The matrices of a head module and target, by the names that files have.
 *
 * @param mode Input mode.
 * @param at Layer, head of the model, target.
 */
export function namedMatrices(
  mode: LoraSettings["mode"],
  { layer, head, target }: { readonly layer: number; readonly head: number; readonly target: string },
): NamedMatrix[] {
  const { a, b } = INPUT_MODES[mode].matrixNames;
  const name = (matrix: string) => `layer${layer}.head${head}.${target}.${matrix}`;
  return [{ name: name(a), which: "a" }, ...(b === null ? [] : [{ name: name(b), which: "b" } as const])];
}

/** Writes a matrix into an arena, each row padded to a multiple of four. */
function writeRows(arena: Float32Array, first: number, values: Float32Array, columns: number): void {
  const pitch = roundUp4(columns);
  for (let r = 0; r * columns < values.length; r++) {
    arena.set(values.subarray(r * columns, (r + 1) * columns), first + r * pitch);
  }
}

/** Rows of the matrix that an arena begins with, without padding. */
function rowsOf(arena: Float32Array, rows: number, columns: number): Float32Array {
  const pitch = roundUp4(columns);
  const out = new Float32Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    out.set(arena.subarray(r * pitch, r * pitch + columns), r * columns);
  }
  return out;
}
