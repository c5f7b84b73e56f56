/**
 * The input mode `full`: every head module reads all of X, as in standard LoRA.
 *
 * @module
 */

import { addScaled, headGradient, headProduct } from "@edgetuner/kernels";
import type { InputMode } from "../input_mode.ts";

/** X itself, [T, d]: every device receives all of it, and the heads' gradients of X are summed. */
export const fullInput: InputMode = {
  name: "full",
  summary: "all of X",
  copies: false,
  columns: ({ hidden }) => hidden,
  firstColumn: () => 0,
  shape: (_heads, tokens, { hidden }) => [tokens, hidden],
  gather: (input) => ({ input, owned: false }),
  shareOf: (values) => values,
  addGradient: (dx, target) => addScaled(dx, target),
  join: (answers) => answers,
  // The mask is that of one head with d columns.
  dropoutHeads: () => [0],
  down: (x, slots) => headProduct({ x, ...slots, transpose: true, sharedInput: true }),
  inputGradient: (x, slots, out) =>
    headProduct({ x, ...slots, sumOverHeads: true, out, accumulate: out !== undefined }),
  gradientOfA: (a, b, slots, options) => headGradient({ a, b, ...slots, ...options, sharedB: true }),
};
