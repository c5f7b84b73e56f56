/**
 * Frames: what travels over a channel. A versioned envelope in CBOR around tensors.
 *
 * @module
 */

import { HandshakeError, ProtocolError } from "../contracts/errors.ts";
import { elementsOf } from "../contracts/codec.ts";
import { showValue } from "../contracts/plain_text.ts";
import { FRAME_LIMITS, readCbor, writeCbor } from "./cbor.ts";
import { integer, name, readFields } from "./fields.ts";
import {
  FRAME_KINDS,
  type FrameKind,
  isFrameKind,
  MESSAGES,
  type MessageTensors,
  type MetaOf,
  PROTOCOL_VERSION,
} from "./messages.ts";

export { FRAME_KINDS, type FrameKind, PROTOCOL_VERSION };

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

/** What every frame has, whatever its kind. */
export interface Envelope {
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
  /** Times that a step has begun again in the run so far, as the sender knows. @default {0} */
  readonly attempt?: number;
  /** Tensors. */
  readonly tensors: readonly WireTensor[];
}

/** A frame as it is written, whatever its fields: a decoder checks them. */
export interface RawFrame extends Envelope {
  /** What it is, see `MESSAGES`. */
  readonly kind: FrameKind;
  /** Small plain data. */
  readonly meta: object;
}

/** A frame of one kind. */
export interface FrameOf<K extends FrameKind> extends Envelope {
  /** What it is. */
  readonly kind: K;
  /** Its fields. */
  readonly meta: MetaOf<K>;
}

/** A frame of one of some kinds. */
export type Frame<K extends FrameKind = FrameKind> = { [P in K]: FrameOf<P> }[K];

/** The other side speaks another version of the protocol. */
export class OtherVersionError extends HandshakeError {
  /** Its version; `null` if that is no version at all. */
  readonly version: number | null;

  /** Says what its version is. */
  constructor(version: unknown) {
    super(
      `Cannot read frame as its protocol version must be ${PROTOCOL_VERSION}: current value is ${
        showValue(version)
      }`,
    );
    this.version = Number.isInteger(version) && (version as number) > 0 ? version as number : null;
  }
}

const BYTES_OF = { f32: 4, u8: 1 } as const;
const MAX_CODEC_NAME = 32;
const UINT32 = 0xffff_ffff;
const ENVELOPE = ["v", "kind", "run", "seq", "step", "layer", "micro", "attempt", "meta", "tensors"];
const RUN = name(0, 64);
const COUNTER = integer(0, UINT32);
const DTYPE = name(1, MAX_CODEC_NAME);

/** Bytes of a frame's tensors, without envelope. */
export function tensorBytes(tensors: readonly WireTensor[]): number {
  return tensors.reduce((sum, t) => sum + t.data.byteLength, 0);
}

/**
 * Encodes a frame.
 *
 * @param frame The frame; its fields are not checked.
 * @param version Protocol version to say, for a last word to a peer of another one. @default {PROTOCOL_VERSION}
 */
export function encodeFrame(frame: RawFrame, version: number = PROTOCOL_VERSION): Uint8Array<ArrayBuffer> {
  return writeCbor({
    v: version,
    kind: frame.kind,
    run: frame.run,
    seq: frame.sequence,
    step: frame.step,
    layer: frame.layer,
    ...(frame.microBatch ? { micro: frame.microBatch } : {}),
    ...(frame.attempt ? { attempt: frame.attempt } : {}),
    meta: frame.meta,
    tensors: frame.tensors.map(({ dtype, shape, data }) => ({
      dtype,
      shape,
      data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    })),
  });
}

/**
 * Decodes and checks a frame.
 *
 * @throws {OtherVersionError} If it is of another protocol version.
 * @throws {ProtocolError} If it is no frame: no CBOR or more than plain data within bounds, missing, unknown or
 * wrong fields, tensors that its kind does not have, tensor data that does not fit its shape.
 */
export function decodeFrame(bytes: Uint8Array): Frame {
  return measureFrame(bytes).frame;
}

/**
 * Decodes a frame, and says what it takes in memory.
 *
 * @param bytes The frame.
 * @returns The frame and its cost in bytes: data and objects, about.
 * @throws {OtherVersionError} If it is of another protocol version.
 * @throws {ProtocolError} If it is no frame, see `decodeFrame`.
 */
export function measureFrame(bytes: Uint8Array): { readonly frame: Frame; readonly cost: number } {
  let read: { readonly value: unknown; readonly cost: number };
  try {
    read = readCbor(bytes, FRAME_LIMITS);
  } catch (cause) {
    throw new ProtocolError(`Cannot read frame as ${(cause as Error).message}`, { cause });
  }
  const { value, cost } = read;
  if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Uint8Array) {
    throw new ProtocolError(`Cannot read frame as it must be a map: current value is ${showValue(value)}`);
  }
  const { v, kind, run, seq, step, layer, micro = 0, meta, tensors } = value as Record<string, unknown>;
  const { attempt: tried = 0 } = value as Record<string, unknown>;
  if (v !== PROTOCOL_VERSION) throw new OtherVersionError(v);
  const unknown = Object.keys(value).find((key) => !ENVELOPE.includes(key));
  if (unknown !== undefined) {
    throw new ProtocolError(
      `Cannot read frame as its fields must be ${ENVELOPE}: current value is ${showValue(unknown)}`,
    );
  }
  if (!isFrameKind(kind)) {
    throw new ProtocolError(
      `Cannot read frame as its kind must be known: current value is ${showValue(kind)}`,
    );
  }
  const message = MESSAGES[kind];
  const microBatch = COUNTER.read(micro, "micro");
  const attempt = COUNTER.read(tried, "attempt");
  const frame = {
    kind,
    run: RUN.read(run, "run"),
    sequence: COUNTER.read(seq, "seq"),
    step: COUNTER.read(step, "step"),
    layer: COUNTER.read(layer, "layer"),
    ...(microBatch === 0 ? {} : { microBatch }),
    ...(attempt === 0 ? {} : { attempt }),
    meta: readFields(message.meta, meta, kind),
    tensors: decodeTensors(kind, message.tensors, tensors),
  };
  return { frame: frame as Frame, cost };
}

function decodeTensors(kind: FrameKind, rule: MessageTensors | null, value: unknown): WireTensor[] {
  const [least, mostOfKind] = rule?.count ?? [0, 0];
  const most = rule?.places === undefined ? mostOfKind : mostOfKind + 1;
  if (!Array.isArray(value) || value.length < least || value.length > most) {
    throw new ProtocolError(
      `Cannot read frame as the tensors of "${kind}" must be a list of ${
        least === most ? least : `${least} to ${most}`
      }: current value is ${Array.isArray(value) ? `one of ${value.length}` : showValue(value)}`,
    );
  }
  const { places } = rule ?? {};
  return value.map((tensor, i) =>
    decodeTensor(kind, i < mostOfKind ? rule! : { as: "u8", count: [1, 1], shapes: [places!] }, tensor)
  );
}

function decodeTensor(kind: FrameKind, rule: MessageTensors, value: unknown): WireTensor {
  if (typeof value !== "object" || value === null || Object.keys(value).length !== 3) {
    throw new ProtocolError(
      `Cannot read tensor as it must be a map of dtype, shape and data: current value is ${showValue(value)}`,
    );
  }
  const given = value as Record<string, unknown>;
  const dtype = DTYPE.read(given.dtype, "dtype");
  const { shape, data } = given;
  const isShape = Array.isArray(shape) && shape.length <= 4 &&
    shape.every((n) => Number.isInteger(n) && n > 0 && n <= 0x7fff_ffff);
  if (!isShape) {
    throw new ProtocolError(
      `Cannot read tensor as its shape must be at most 4 positive integers: current value is ${
        showValue(shape)
      }`,
    );
  }
  if (rule.as === "codec" ? dtype === "u8" : dtype !== rule.as) {
    const must = rule.as === "codec" ? "written with a codec" : rule.as;
    throw new ProtocolError(
      `Cannot read tensor as the tensors of "${kind}" must be ${must}: one is ${showValue(dtype)}`,
    );
  }
  const fits = rule.shapes.some((letters) =>
    letters.length === shape.length && letters.every((letter, i) => letter !== "1" || shape[i] === 1)
  );
  if (!fits) {
    const shapes = rule.shapes.map((letters) => `[${letters.join(", ")}]`).join(" or ");
    throw new ProtocolError(
      `Cannot read tensor as the shape of "${kind}" must be ${shapes}: current value is [${shape}]`,
    );
  }
  const plain = dtype === "f32" || dtype === "u8";
  // How many bytes a codec writes is checked by whoever knows the codec.
  const bytes = plain ? elementsOf(shape) * BYTES_OF[dtype] : null;
  if (!(data instanceof Uint8Array) || (bytes !== null && data.length !== bytes)) {
    throw new ProtocolError(
      `Cannot read tensor [${shape}] as it needs ${bytes ?? "some"} bytes of data: current value is ${
        showValue(data)
      }`,
    );
  }
  // The data is a copy of its own, at the start of its buffer: floats can be read from it.
  return { dtype, shape, data: dtype === "f32" ? new Float32Array(data.buffer) : data };
}
