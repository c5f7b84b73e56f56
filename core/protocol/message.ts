/**
 * What is said of a kind of message.
 *
 * @module
 */

import type { FieldsOf } from "./fields.ts";

/** An end of a channel: the edge server, or a device. */
export type Side = "server" | "device";

/** Lane that a message belongs to: the handshake, the data device or the head modules. */
export type Lane = "control" | "data" | "heads";

/**
 * Tensors of a step that may have codecs of their own: E, the last hidden state and its gradient, X, Deltas, their
 * gradients and that of X. What tensor parallelism sends in place of one of them is written as it is.
 */
export const CODED_TENSORS = ["e", "h", "dh", "x", "delta", "ddelta", "dx"] as const;

/** See `CODED_TENSORS`. */
export type CodedTensor = typeof CODED_TENSORS[number];

/** Tensors of a kind of message. */
export interface MessageTensors {
  /** How they are written: with a codec of the run, as floats, or as bytes. */
  readonly as: "codec" | "f32" | "u8";
  /** Which of the coded tensors it is. @default {it has no codec} */
  readonly tensor?: CodedTensor;
  /** Fewest and most of them. */
  readonly count: readonly [number, number];
  /** Shapes that each may have, one letter a dimension. */
  readonly shapes: readonly (readonly string[])[];
  /**
   * Letters of the shape of a tensor of bytes that may follow: which of the rows, each of which came once, is in each
   * place. @default {none}
   */
  readonly places?: readonly string[];
}

/** A kind of message. What it is for stands above it, for people: pages need not load that. */
export interface Message<M = Readonly<Record<string, unknown>>> {
  /** Who sends it. */
  readonly from: readonly Side[];
  /** Its lane. */
  readonly lane: Lane;
  /** Its tensors; `null` if it has none. */
  readonly tensors: MessageTensors | null;
  /** Fields of its `meta`. */
  readonly meta: FieldsOf<M>;
}
