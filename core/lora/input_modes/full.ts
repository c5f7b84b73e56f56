/**
 * The input mode `full`: every head module reads all of X, as in standard LoRA.
 *
 * @module
 */

import { addScaled, headGradient, headProduct } from "@edgetuner/kernels";
import { DirectEdge } from "../edge_heads.ts";
import type { InputMode } from "../input_mode.ts";
import { directMode } from "./_direct.ts";

/** X itself, [T, d]: every device receives all of it, and the heads' gradients of X are summed. */
export const fullInput: InputMode = {
  ...directMode,
  name: "full",
  summary: "all of X",
  copies: false,
  columns: ({ hidden }) => hidden,
  firstColumn: () => 0,
  shape: (_heads, tokens, { hidden }) => [tokens, hidden],
  shareOf: (values) => values,
  join: (answers) => answers,
  // The mask is that of one head with d columns.
  dropoutHeads: () => [0],
  down: (x, slots) => headProduct({ x, ...slots, transpose: true, sharedInput: true }),
  inputGradient: (x, slots, out) =>
    headProduct({ x, ...slots, sumOverHeads: true, out, accumulate: out !== undefined }),
  gradientOfA: (a, b, slots, options) => headGradient({ a, b, ...slots, ...options, sharedB: true }),
  edge: (options) =>
    new DirectEdge(options, {
      gather: (input) => ({ input, owned: false }),
      addGradient: (dx, target) => addScaled(dx, target),
    }),
};
