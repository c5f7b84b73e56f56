/**
 * What one step puts on the wire: the sum over its description, which a real run's ledger is compared with.
 *
 * @module
 */

import type { WireCodec } from "../contracts/codec.ts";
import type { FrameKind } from "./frame.ts";
import { MESSAGES } from "./messages.ts";
import { codedBytes, type RunCodecs } from "./run_codecs.ts";
import {
  type DecodingDescriptionOptions,
  describeDecoding,
  describeStep,
  describeTensorParallelStep,
  messagesOf,
  type StepDescriptionOptions,
  type TensorParallelStepOptions,
} from "./step.ts";
import type { PartDescription, StepMessage } from "./pass.ts";

/** What the traffic of a step depends on. */
export interface TrafficShape extends StepDescriptionOptions {
  /** The codec of the run, or its codecs. @default {f32Codec()} */
  readonly codec?: WireCodec | RunCodecs | undefined;
}

/** Bytes of a message's tensors; `coded` gives those of one that is written with a codec of the run. */
export function messageBytes(
  { kind, shapes }: StepMessage,
  coded: (shape: readonly number[], kind: FrameKind) => number,
): number {
  if (kind === null) return 0;
  const { as, count: [, most] = [0, 0] } = MESSAGES[kind].tensors ?? {};
  let sum = 0;
  for (const [i, shape] of shapes.entries()) {
    const numbers = shape.reduce((a, b) => a * b, 1);
    sum += i >= most ? numbers : as === "codec" ? coded(shape, kind) : as === "f32" ? 4 * numbers : numbers;
  }
  return sum;
}

/** Tensor bytes by kind of message; kinds without tensors are left out. */
function bytesByKind(
  parts: readonly PartDescription[],
  codec?: WireCodec | RunCodecs,
): Map<FrameKind, number> {
  const bytes = new Map<FrameKind, number>();
  const coded = codedBytes(codec);
  for (const message of messagesOf(parts)) {
    const { kind, shapes } = message;
    if (kind === null || shapes.length === 0) continue;
    const more = messageBytes(message, coded);
    bytes.set(kind, (bytes.get(kind) ?? 0) + more);
  }
  return bytes;
}

/** Tensor bytes of one step by kind of message, edge server and all devices together. */
export function stepTraffic(shape: TrafficShape): Map<FrameKind, number> {
  return bytesByKind(describeStep(shape), shape.codec);
}

/**
 * Tensor bytes of one pass of generation by kind of message, edge server and all devices together: what a
 * forward pass of a step takes for the new tokens of all rows, with every head kept.
 *
 * @param shape The pass, and the codec.
 */
export function decodingTraffic(
  shape: DecodingDescriptionOptions & Pick<TrafficShape, "codec">,
): Map<FrameKind, number> {
  return bytesByKind([describeDecoding(shape)], shape.codec);
}

/**
 * Tensor bytes of one tensor-parallel step by kind of message, server and all devices together: E and
 * h_L and dh_L as in a split run, and per device 8 L - 1 times T * d numbers in training, 4 L in
 * evaluation. The output of the last block goes to the data device alone, and nothing is trained below
 * the first one: so an all-reduce has its way back only where something follows.
 *
 * @param shape `devices` is M, devices with a share; the rest as in `TrafficShape`.
 */
export function tensorParallelTraffic(
  shape: TensorParallelStepOptions & Pick<TrafficShape, "codec">,
): Map<FrameKind, number> {
  return bytesByKind([describeTensorParallelStep(shape)], shape.codec);
}
