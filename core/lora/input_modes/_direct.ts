/**
 * What modes have in common whose devices train A and B, and answer with Deltas.
 *
 * @module
 */

import type { InputMode, InputModelSize } from "../input_mode.ts";

/** Hidden size of the model that the largest rate was measured with. */
const NARROW = 128;
/** Its best rate of 0.003, 0.01 and 0.03; narrower models get no larger one. */
const NARROW_RATE = 1e-2;

const headSize = ({ heads, hidden, headSize: own = hidden / heads }: InputModelSize) => own;

/** Both matrices of every target are trained on the device, and the edge server computes nothing. */
export const directMode: Pick<
  InputMode,
  | "projects"
  | "matrixNames"
  | "start"
  | "learningRate"
  | "outputs"
  | "inputParts"
  | "deltaColumns"
  | "edgeWork"
> = {
  projects: false,
  matrixNames: { a: "A", b: "B" },
  start: "random",
  // A change of one size in each number of A changes A x by a sum over d inputs.
  learningRate: ({ hidden }) => NARROW_RATE * Math.min(1, NARROW / hidden),
  outputs: headSize,
  inputParts: () => 1,
  deltaColumns: headSize,
  edgeWork: () => ({ input: 0, delta: 0 }),
};
