/**
 * Whether a frame is the one that must come.
 *
 * @module
 */

import type { Envelope } from "./frame.ts";
import type { FrameKind } from "./messages.ts";
import type { Expectation } from "./peer_options.ts";

/** The first rule that a frame breaks, in words; `null` if it breaks none. */
export function brokenRule(
  { kind, step, layer, microBatch = 0, tensors }: Envelope & { readonly kind: FrameKind },
  expected: Expectation,
  dtype: string | undefined,
): string | null {
  if (expected.step !== undefined && step !== expected.step) {
    return `"${kind}" must be of step ${expected.step}: it is of step ${step}`;
  }
  if (expected.layer !== undefined && layer !== expected.layer) {
    return `"${kind}" must be of layer ${expected.layer}: it is of layer ${layer}`;
  }
  if (microBatch !== (expected.microBatch ?? 0)) {
    return `"${kind}" must be of micro-batch ${expected.microBatch ?? 0}: it is of micro-batch ${microBatch}`;
  }
  // Places of rows are bytes, whatever the codec.
  const other = tensors.find((t, i) => t.dtype !== (i > 0 && t.dtype === "u8" ? "u8" : dtype));
  if (other !== undefined) return `the tensors of "${kind}" must be ${dtype}: one is ${other.dtype}`;
  const { shapes } = expected;
  if (shapes === undefined) return null;
  const fits = tensors.length === shapes.length && shapes.every((shape, i) => {
    const have = tensors[i]!.shape;
    return have.length === shape.length && shape.every((n, k) => n === null || n === have[k]);
  });
  if (fits) return null;
  const wanted = shapes.map((s) => `[${s.map((n) => n ?? "any")}]`).join(" ");
  return `the tensors of "${kind}" must be ${wanted}: they are ${
    tensors.map((t) => `[${t.shape}]`).join(" ")
  }`;
}
