/**
 * Numbers of a frame that are not finite, and how all parties hear of them.
 *
 * @module
 */

import { TrainingError } from "../contracts/errors.ts";
import { firstNotFinite } from "./finite.ts";
import type { Envelope } from "./frame.ts";
import type { FrameKind, Side } from "./messages.ts";
import type { EndMeta } from "./metas.ts";

/**
 * What is not finite goes no further: neither to a layer, nor to the optimizer of another device.
 *
 * @param frame The frame, decoded.
 * @param sender Who sent it, for the message.
 * @param side What the sender is, if that is known.
 * @throws {TrainingError} If a number is not finite; with the device, if one sent it.
 */
export function requireFiniteFrame(
  { kind, step, layer, tensors }: Envelope & { readonly kind: FrameKind },
  sender: string,
  side: Side | undefined,
): void {
  for (const { data } of tensors) {
    const at = data instanceof Float32Array ? firstNotFinite(data) : -1;
    if (at < 0) continue;
    const place = `in step ${step}, layer ${layer} number ${at} is ${data[at]}`;
    throw new TrainingError(
      `Cannot go on training as "${kind}" of ${sender} must be finite: ${place}; lower the learning rate or clip the gradients`,
      { device: side === "device" ? sender : null },
    );
  }
}

/** What a party is told of it. The device that is at fault hears what it would hear if the whole run had diverged. */
export function divergenceMeta(error: TrainingError, receiver: string): EndMeta {
  const elsewhere = error.device !== null && error.device !== receiver;
  return { reason: error.message, diverged: true, elsewhere };
}

/** The error of a party that is told of it. */
export function divergenceOf({ reason, elsewhere = false }: EndMeta): TrainingError {
  return new TrainingError(reason, { device: elsewhere ? "another device" : null });
}
