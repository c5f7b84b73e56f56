/**
 * Arrays with names and shapes, as model files hold them.
 *
 * @module
 */

/** One weight of a checkpoint. */
export interface NamedArray {
  /** Shape as in the file. */
  readonly shape: readonly number[];
  /** Values, row-major. */
  readonly data: Float32Array;
}

/** Weights by name, as `readSafetensors` returns them. */
export type NamedArrays = ReadonlyMap<string, NamedArray>;
