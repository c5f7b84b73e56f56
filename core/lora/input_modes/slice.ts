/**
 * The input mode `slice`: a head module reads its own d / H columns of X.
 *
 * @module
 */

import { gatherHeadColumns, headGradient, headProduct, scatterAddHeadColumns } from "@edgetuner/kernels";
import { DirectEdge } from "../edge_heads.ts";
import type { InputMode, InputModelSize } from "../input_mode.ts";
import { directMode } from "./_direct.ts";

const width = ({ heads, hidden }: InputModelSize) => hidden / heads;

/** Head-major blocks [n * T, d / H], one for each kept head: devices receive only their own heads' blocks. */
export const sliceInput: InputMode = {
  ...directMode,
  name: "slice",
  summary: "its own columns of X",
  copies: true,
  // A head module reads H times fewer columns than in mode "full"; measured: docs/choosing_settings.md.
  learningRate: (model) => Math.sqrt(model.heads) * directMode.learningRate(model),
  columns: width,
  firstColumn: (head, model) => head * width(model),
  shape: (heads, tokens, model) => [heads, tokens, width(model)],
  shareOf(values, { heads, before, tokens }, model) {
    const perHead = tokens * width(model);
    return values.subarray(before * perHead, (before + heads) * perHead);
  },
  join(answers) {
    const joined = new Float32Array(answers.reduce((sum, answer) => sum + answer.length, 0));
    let at = 0;
    for (const answer of answers) {
      joined.set(answer, at);
      at += answer.length;
    }
    return [joined];
  },
  dropoutHeads: (heads) => heads,
  down: (x, slots) => headProduct({ x, ...slots, transpose: true }),
  inputGradient: (x, slots, out) => headProduct({ x, ...slots, out, accumulate: out !== undefined }),
  gradientOfA: (a, b, slots, options) => headGradient({ a, b, ...slots, ...options }),
  edge: (options) =>
    new DirectEdge(options, {
      gather: (x, columns) => ({ input: gatherHeadColumns(x, { first: 0, ...columns }), owned: true }),
      addGradient: (dx, target, columns) => scatterAddHeadColumns(dx, target, { first: 0, ...columns }),
    }),
};
