/**
 * The input mode `slice`: a head module reads its own D columns of X.
 *
 * @module
 */

import { gatherHeadColumns, headGradient, headProduct, scatterAddHeadColumns } from "@edgetuner/kernels";
import type { InputMode, InputModelSize } from "../input_mode.ts";

const headSize = ({ heads, hidden }: InputModelSize) => hidden / heads;

/** Head-major blocks [n * T, D], one for each kept head: devices receive only their own heads' blocks. */
export const sliceInput: InputMode = {
  name: "slice",
  summary: "its own columns of X",
  copies: true,
  columns: headSize,
  firstColumn: (head, model) => head * headSize(model),
  shape: (heads, tokens, model) => [heads, tokens, headSize(model)],
  gather: (x, columns) => ({ input: gatherHeadColumns(x, columns), owned: true }),
  shareOf(values, { heads, before, tokens }, model) {
    const perHead = tokens * headSize(model);
    return values.subarray(before * perHead, (before + heads) * perHead);
  },
  addGradient: scatterAddHeadColumns,
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
};
