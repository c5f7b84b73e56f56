/**
 * Frames: what travels over a channel. A versioned envelope in CBOR around tensors.
 *
 * @module
 */

import { Encoder } from "cbor-x";
import { ProtocolError } from "../errors.ts";

/** Version of envelope and step protocol. Peers with another one are refused. */
export const PROTOCOL_VERSION = 2;

/**
 * What a frame is. ES = edge server, UD = user device, D = data device, T tokens, n kept heads,
 * D head size, c targets.
 *
 * | kind | direction | tensors |
 * | --- | --- | --- |
 * | hello, welcome, refuse, end | handshake and end | none |
 * | embedding | D to ES | E [T, d] of a batch, or of a part of a step's; with `best: true` if the head modules are the best so far |
 * | decode | D to ES | generation: E of new tokens of R rows [R, T, d], with the row that each continues; answered with hidden |
 * | mask | ES to UD | z of the device's heads [L, H_m], for each part of a step; with mode and the lowest layer with a kept head |
 * | input | ES to UD | X [n, T, D], in full mode [T, d] |
 * | delta | UD to ES | Deltas [c, n, T, D] |
 * | hidden | ES to D | h_L [T, d]; with `probe: true` the gradient is answered and the step itself still comes |
 * | hiddenGradient | D to ES | dh_L [T, d] |
 * | deltaGradient | ES to UD | [c, n, T, D] |
 * | inputGradient | UD to ES | dX [n, T, D], in full mode [T, d]; not for the lowest layer with a kept head |
 * | squaredNorm | UD to ES | what the device's gradients add to the squared global norm [1]; only if gradients are clipped |
 * | clip | ES to UD | the factor of the gradients [1] |
 * | statistics | UD to ES | one map [L, H_m] per statistic the pruner needs |
 * | shard | ES to UD | tensor parallelism: a device's share of a layer, once at the start |
 * | activation, activationGradient | ES to UD | tensor parallelism: a block's input, its output's gradient [T, d] |
 * | partial, partialGradient | UD to ES | tensor parallelism: a device's part of a block's output, of its input's gradient [T, d] |
 * | loss | D to ES | none: one number, only if the data device shares it |
 * | finished | D to ES | none: there is no further batch |
 */
export const FRAME_KINDS = [
  "hello",
  "welcome",
  "refuse",
  "end",
  "embedding",
  "decode",
  "mask",
  "input",
  "delta",
  "hidden",
  "hiddenGradient",
  "deltaGradient",
  "inputGradient",
  "squaredNorm",
  "clip",
  "statistics",
  "shard",
  "activation",
  "partial",
  "activationGradient",
  "partialGradient",
  "loss",
  "finished",
] as const;

/** See `FRAME_KINDS`. */
export type FrameKind = typeof FRAME_KINDS[number];

/** How the data of a tensor is to be read: as floats, as bytes, or with the codec of this name. */
export type WireDType = "f32" | "u8" | (string & Record<never, never>);

/** A tensor on the wire. */
export interface WireTensor {
  /** Element type, or name of the codec that wrote the data. */
  readonly dtype: WireDType;
  /** Shape. */
  readonly shape: readonly number[];
  /** Values, row-major; with a codec the bytes that it wrote. */
  readonly data: Float32Array | Uint8Array;
}

/** A frame. */
export interface Frame {
  /** What it is. */
  readonly kind: FrameKind;
  /** Run it belongs to; empty in `hello`. */
  readonly run: string;
  /** Number of the frame in its direction of the channel, from 0. */
  readonly sequence: number;
  /** Step, from 0. */
  readonly step: number;
  /** Layer, from 0; 0 where there is none. */
  readonly layer: number;
  /** Micro-batch, from 0. @default {0} */
  readonly microBatch?: number;
  /** Small plain data: settings, names, numbers. */
  readonly meta: Readonly<Record<string, unknown>>;
  /** Tensors. */
  readonly tensors: readonly WireTensor[];
}

const BYTES_OF = { f32: 4, u8: 1 } as const;
const MAX_CODEC_NAME = 32;
const encoder = new Encoder({ useRecords: false, tagUint8Array: false, mapsAsObjects: true });

/** Elements of a shape. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

/** Bytes of a frame's tensors, without envelope. */
export function tensorBytes(tensors: readonly WireTensor[]): number {
  return tensors.reduce((sum, t) => sum + t.data.byteLength, 0);
}

/** Encodes a frame. */
export function encodeFrame(frame: Frame): Uint8Array<ArrayBuffer> {
  const bytes = encoder.encode({
    v: PROTOCOL_VERSION,
    kind: frame.kind,
    run: frame.run,
    seq: frame.sequence,
    step: frame.step,
    layer: frame.layer,
    ...(frame.microBatch ? { micro: frame.microBatch } : {}),
    meta: frame.meta,
    tensors: frame.tensors.map(({ dtype, shape, data }) => ({
      dtype,
      shape,
      data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    })),
  });
  return new Uint8Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Decodes and checks a frame.
 *
 * @throws {ProtocolError} If it is not one: malformed CBOR, another version, missing or wrong fields, tensor data that does not fit its shape.
 */
export function decodeFrame(bytes: Uint8Array): Frame {
  let value: unknown;
  try {
    value = encoder.decode(bytes);
  } catch (cause) {
    throw new ProtocolError(`Cannot read frame as it must be CBOR: ${(cause as Error).message}`, { cause });
  }
  if (typeof value !== "object" || value === null) {
    throw new ProtocolError(`Cannot read frame as it must be a map: current value is ${typeof value}`);
  }
  const { v, kind, run, seq, step, layer, micro = 0, meta, tensors } = value as Record<string, unknown>;
  if (v !== PROTOCOL_VERSION) {
    throw new ProtocolError(
      `Cannot read frame as its version must be ${PROTOCOL_VERSION}: current value is ${text(v)}`,
    );
  }
  if (!FRAME_KINDS.includes(kind as FrameKind)) {
    throw new ProtocolError(`Cannot read frame as its kind must be known: current value is ${text(kind)}`);
  }
  if (typeof run !== "string" || run.length > 64) {
    throw new ProtocolError(
      `Cannot read frame as its run must be a string of at most 64 characters: current value is ${text(run)}`,
    );
  }
  for (const [name, number] of [["seq", seq], ["step", step], ["layer", layer], ["micro", micro]] as const) {
    if (typeof number !== "number" || !Number.isInteger(number) || number < 0 || number > 0xffff_ffff) {
      throw new ProtocolError(
        `Cannot read frame as "${name}" must be a 32-bit unsigned integer: current value is ${text(number)}`,
      );
    }
  }
  if (typeof meta !== "object" || meta === null || Array.isArray(meta)) {
    throw new ProtocolError(`Cannot read frame as "meta" must be a map: current value is ${text(meta)}`);
  }
  if (!Array.isArray(tensors) || tensors.length > 16) {
    throw new ProtocolError(
      `Cannot read frame as "tensors" must be a list of at most 16: current value is ${text(tensors)}`,
    );
  }
  return {
    kind: kind as FrameKind,
    run,
    sequence: seq as number,
    step: step as number,
    layer: layer as number,
    ...(micro === 0 ? {} : { microBatch: micro as number }),
    meta: meta as Record<string, unknown>,
    tensors: tensors.map(decodeTensor),
  };
}

function decodeTensor(value: unknown): WireTensor {
  const { dtype, shape, data } = (value ?? {}) as Record<string, unknown>;
  if (typeof dtype !== "string" || dtype.length < 1 || dtype.length > MAX_CODEC_NAME) {
    throw new ProtocolError(
      `Cannot read tensor as its dtype must be "f32", "u8" or the name of a codec: current value is ${
        text(dtype)
      }`,
    );
  }
  const isShape = Array.isArray(shape) && shape.length <= 4 &&
    shape.every((n) => Number.isInteger(n) && n > 0 && n <= 0x7fff_ffff);
  if (!isShape) {
    throw new ProtocolError(
      `Cannot read tensor as its shape must be at most 4 positive integers: current value is ${text(shape)}`,
    );
  }
  const plain = dtype === "f32" || dtype === "u8";
  // How many bytes a codec writes is checked by whoever knows the codec.
  const bytes = plain ? elementsOf(shape as number[]) * BYTES_OF[dtype] : null;
  if (!(data instanceof Uint8Array) || (bytes !== null && data.length !== bytes)) {
    const what = data instanceof Uint8Array ? `${data.length} bytes` : typeof data;
    throw new ProtocolError(
      `Cannot read tensor [${shape}] as it needs ${bytes ?? "some"} bytes of data: current value is ${what}`,
    );
  }
  // The bytes lie anywhere in the frame; floats need an aligned buffer of their own.
  const own = Uint8Array.from(data);
  return { dtype, shape: shape as number[], data: dtype === "f32" ? new Float32Array(own.buffer) : own };
}

/** A value for an error message: short, whatever it is. */
function text(value: unknown): string {
  try {
    const json = JSON.stringify(value) ?? String(value);
    return json.length > 80 ? `${json.slice(0, 80)}...` : json;
  } catch {
    return typeof value;
  }
}
