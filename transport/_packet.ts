/**
 * The messages of a session, the same over WebSocket and through a broker. Numbers are low byte first:
 *
 * | at | what                                                                           |
 * | -- | ------------------------------------------------------------------------------ |
 * | 0  | kind, 8 bits, see `Kind`                                                       |
 * | 4  | bytes of the whole frame, 32 bits; of parts alone                              |
 * | 8  | number of a part or of a farewell, from 0, as a float of 64 bits               |
 * | 16 | number of the message that the sender wants next: it has all before it         |
 * | 24 | bytes that the other side may send, in all, see `Flow`                         |
 * | 32 | the part, or the reason of a farewell as UTF-8                                 |
 *
 * @module
 */

import type { Frame } from "./_wire_channel.ts";

/** Bytes in front of what a message carries: as many as keep the numbers of a frame aligned. */
export const HEADER_BYTES = 32;

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
  /** Bytes of the whole frame that a part belongs to; 0 of other messages. */
  readonly total: number;
  /** Number of a part or of a farewell, from 0. */
  readonly seq: number;
  /** Number of the message that the sender wants next. */
  readonly ack: number;
  /** Bytes in all that the other side may send. */
  readonly grant: number;
  readonly body: Uint8Array;
}

/** Writes a message. */
export function encodePacket({ kind, total, seq, ack, grant, body }: Packet): Frame {
  const bytes = new Uint8Array(HEADER_BYTES + body.byteLength);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, kind);
  view.setUint32(4, total, true);
  view.setFloat64(8, seq, true);
  view.setFloat64(16, ack, true);
  view.setFloat64(24, grant, true);
  bytes.set(body, HEADER_BYTES);
  return bytes;
}

/** Reads a message; `undefined` if it is none. */
export function decodePacket(bytes: Uint8Array): Packet | undefined {
  if (bytes.byteLength < HEADER_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kind = view.getUint8(0);
  const [seq, ack, grant] = [8, 16, 24].map((at) => view.getFloat64(at, true)) as [number, number, number];
  if (kind > Kind.broken || !isCount(seq) || !isCount(ack) || !isCount(grant)) return undefined;
  return { kind, total: view.getUint32(4, true), seq, ack, grant, body: bytes.subarray(HEADER_BYTES) };
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}
