/**
 * The mode `core`: rank space, after LoRA-XS (arXiv 2405.17604). The edge server holds frozen A [r, d] and B [D, r] of
 * each head and target; a device trains a core R [r, r] between them, zero at the start. Delta = (alpha / r) B R A x.
 *
 * So r numbers a token travel where `slice` has D: u = A x to the device, v = R u back, and their gradients.
 *
 * @module
 */

import { headGradient, headProduct } from "@edgetuner/kernels";
import type { HeadSlots, InputMode, InputModelSize } from "../input_mode.ts";
import { ProjectingEdge } from "./_projecting_edge.ts";

function rankOf({ rank }: InputModelSize): number {
  if (rank === undefined) {
    throw new TypeError(`Cannot size the mode "core" as the LoRA rank must be given: it is not`);
  }
  return rank;
}

const partsOf = ({ targets = 1, sharesInput = false }: InputModelSize) => sharesInput ? 1 : targets;

/** First row of the part of the input that a target reads; each part has n * T. */
const firstRow = (rows: number, { part = 0, parts = 1 }: HeadSlots) => part * rows / parts;

/** What the edge server sends is u, [n, T, r] or, for each target, [c, n, T, r]; what devices answer is v. */
export const coreInput: InputMode = {
  name: "core",
  summary: "r numbers of X, projected by frozen matrices",
  copies: true,
  projects: true,
  matrixNames: { a: "R", b: null },
  start: "zero",
  // Measured: docs/choosing_settings.md.
  learningRate: () => 3e-2,
  columns: rankOf,
  outputs: () => 0,
  firstColumn: () => 0,
  inputParts: partsOf,
  shape(heads, tokens, model) {
    const parts = partsOf(model);
    const shape = [heads, tokens, rankOf(model)];
    return parts === 1 ? shape : [parts, ...shape];
  },
  deltaColumns: rankOf,
  shareOf(values, { heads, before, of, tokens }, model) {
    const parts = partsOf(model);
    const perHead = tokens * rankOf(model);
    const share = (part: number) =>
      values.subarray((part * of + before) * perHead, (part * of + before + heads) * perHead);
    if (parts === 1) return share(0);
    const joined = new Float32Array(parts * heads * perHead);
    for (let part = 0; part < parts; part++) joined.set(share(part), part * heads * perHead);
    return joined;
  },
  join(answers, model) {
    const parts = partsOf(model);
    const joined = new Float32Array(answers.reduce((sum, answer) => sum + answer.length, 0));
    let at = 0;
    for (let part = 0; part < parts; part++) {
      for (const answer of answers) {
        const size = answer.length / parts;
        joined.set(answer.subarray(part * size, (part + 1) * size), at);
        at += size;
      }
    }
    return [joined];
  },
  dropoutHeads: () => null,
  down(x, slots) {
    const rows = x.rows / (slots.parts ?? 1);
    const out = x.engine.tensor(rows, slots.matrix.columns, "answers of cores");
    return headProduct({ x, ...slots, rows, rowOfX: firstRow(x.rows, slots), transpose: true, out });
  },
  inputGradient(dDown, slots, sum) {
    const { parts = 1 } = slots;
    const out = sum ??
      dDown.engine.tensor(parts * dDown.rows, slots.matrix.columns, "input gradient of cores");
    const accumulate = sum !== undefined && parts === 1;
    return headProduct({ x: dDown, ...slots, out, rowOfOut: firstRow(out.rows, slots), accumulate });
  },
  gradientOfA(a, b, slots, options) {
    headGradient({ a, b, ...slots, ...options, rowOfB: firstRow(b.rows, slots) });
  },
  edge: (options) => new ProjectingEdge(options),
  edgeWork(heads, tokens, { hidden, heads: all, headSize = hidden / all, ...model }) {
    const size = { hidden, heads: all, headSize, ...model };
    const rank = rankOf(size);
    return {
      // Of all heads: it is one product.
      input: tokens * hidden * all * partsOf(size) * rank,
      delta: tokens * heads * (size.targets ?? 1) * rank * headSize,
    };
  },
};
