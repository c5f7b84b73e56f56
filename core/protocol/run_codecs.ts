/**
 * The codecs of a run: one for all tensors of a step, or one for each of them.
 *
 * @module
 */

import type { WireCodec } from "../contracts/codec.ts";
import { HandshakeError } from "../contracts/errors.ts";
import { f32Codec, findCodec } from "./codec.ts";
import { CODED_TENSORS, type CodedTensor, type FrameKind, MESSAGES } from "./messages.ts";

/** Which codec each kind of message is written with. */
export interface RunCodecs {
  /** As in the run settings: `int8`, or `f16,x=int8,delta=int4`. */
  readonly name: string;
  /** The codec of a kind of message. */
  of(kind: FrameKind): WireCodec;
}

/** The names in the text of a run setting. */
export interface CodecNames {
  /** The codec of all tensors that are not named. */
  readonly rest: string;
  /** Codecs of single tensors. */
  readonly of: ReadonlyMap<CodedTensor, string>;
}

/** One codec for all tensors of a run. */
export function oneCodec(codec: WireCodec): RunCodecs {
  return { name: codec.name, of: () => codec };
}

/**
 * Reads which codecs a text names: one name for all tensors, or names for single ones as in
 * `f16,x=int8,delta=int4`. Tensors that are not named are `f32`, unless a name stands alone.
 *
 * @param text The text, as in the run settings.
 * @throws {HandshakeError} If a tensor is not known or named twice.
 *
 * @example
 * ```ts
 * import { codecNames } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * const { rest, of } = codecNames("f16,delta=int4");
 * assertEquals([rest, of.get("delta")], ["f16", "int4"]);
 * ```
 */
export function codecNames(text: string): CodecNames {
  const of = new Map<CodedTensor, string>();
  let rest: string | null = null;
  const refuse = (rule: string): never => {
    throw new HandshakeError(`Cannot use codecs "${text.slice(0, 200)}" as ${rule}`);
  };
  for (const part of text.split(",")) {
    const at = part.indexOf("=");
    if (at < 0) {
      if (rest !== null) refuse(`one codec must be for all other tensors: they are "${rest}" and "${part}"`);
      rest = part;
      continue;
    }
    const tensor = part.slice(0, at) as CodedTensor;
    if (!CODED_TENSORS.includes(tensor)) {
      refuse(`tensors must be ${CODED_TENSORS.join(", ")}: current value is "${tensor}"`);
    }
    if (of.has(tensor)) refuse(`each tensor must have one codec: ${tensor} has two`);
    of.set(tensor, part.slice(at + 1));
  }
  return { rest: rest ?? "f32", of };
}

/** The text that means these names, the same however they were written. */
export function codecsText({ rest, of }: CodecNames): string {
  const own = CODED_TENSORS.flatMap((tensor) => {
    const name = of.get(tensor);
    return name === undefined || name === rest ? [] : [`${tensor}=${name}`];
  });
  return own.length > 0 && rest === "f32" ? own.join(",") : [rest, ...own].join(",");
}

/**
 * Finds the codecs that a run setting names, among the built-in ones and others.
 *
 * @param text The setting, see {@linkcode codecNames}.
 * @param others Codecs from elsewhere. @default {[]}
 * @throws {HandshakeError} If a codec or a tensor is not known.
 * @throws {TypeError} If two codecs have the same name, a name is not allowed, or one of `others` is no codec.
 *
 * @example
 * ```ts
 * import { findRunCodecs } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * const codecs = findRunCodecs("f16,delta=int4");
 * assertEquals(codecs.of("delta").name, "int4");
 * assertEquals(codecs.of("hidden").name, "f16");
 * ```
 */
export function findRunCodecs(text: string, others: readonly WireCodec[] = []): RunCodecs {
  const names = codecNames(text);
  const rest = findCodec(names.rest, others);
  if (names.of.size === 0) return oneCodec(rest);
  const found = new Map([...names.of].map(([tensor, name]) => [tensor, findCodec(name, others)]));
  return {
    name: codecsText(names),
    of: (kind) => {
      const tensor = MESSAGES[kind].tensors?.tensor;
      return (tensor && found.get(tensor)) ?? rest;
    },
  };
}

/** Bytes of the coded tensors of a message, by the codecs of a run or the one codec of all. */
export function codedBytes(
  codec: WireCodec | RunCodecs = f32Codec(),
): (shape: readonly number[], kind: FrameKind) => number {
  return "of" in codec
    ? (shape, kind) => codec.of(kind).byteLength(shape)
    : (shape) => codec.byteLength(shape);
}
