/**
 * The messages that both ends of a channel send each other through a broker; `mod.ts` has the protocol.
 *
 * @module
 */

import type { Frame } from "../_wire_channel.ts";

/** Bytes in front of what a message carries. */
export const HEADER_BYTES = 24;

/** What a message is. */
export const Kind = {
  /** A part of a frame that goes on. */
  part: 0,
  /** The last or only part of a frame. */
  last: 1,
  /** Nothing but acknowledgement and grant: a sign of life. */
  status: 2,
  /** The same, and the message that is wanted next is missing. */
  again: 3,
  /** The sender closes; its reason follows. */
  close: 4,
  /** The sender ends after a failure; its reason follows. */
  broken: 5,
} as const;

/** A message. */
export interface Packet {
  readonly kind: number;
  /** Number of a part or of a farewell, from 0. */
  readonly seq: number;
  /** Number of the message that the sender wants next. */
  readonly ack: number;
  /** Bytes in all that the other side may send. */
  readonly grant: number;
  readonly body: Uint8Array;
}

/** Writes a message. */
export function encodePacket({ kind, seq, ack, grant, body }: Packet): Frame {
  const bytes = new Uint8Array(HEADER_BYTES + body.byteLength);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, kind);
  view.setUint32(4, seq, true);
  view.setUint32(8, ack, true);
  view.setFloat64(16, grant, true);
  bytes.set(body, HEADER_BYTES);
  return bytes;
}

/** Reads a message; `undefined` if it is none. */
export function decodePacket(bytes: Uint8Array): Packet | undefined {
  if (bytes.byteLength < HEADER_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kind = view.getUint8(0);
  const grant = view.getFloat64(16, true);
  if (kind > Kind.broken || !(grant >= 0 && grant <= Number.MAX_SAFE_INTEGER)) return undefined;
  return {
    kind,
    seq: view.getUint32(4, true),
    ack: view.getUint32(8, true),
    grant,
    body: bytes.subarray(HEADER_BYTES),
  };
}
