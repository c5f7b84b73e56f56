/**
 * Bodies and headers of the HTTP transport, the same in both directions.
 *
 * @module
 */

import type { CloseInfo } from "@edgetuner/core/contracts";
import type { Frame } from "./_wire_channel.ts";

/** Names of the headers. */
export const HEADER = {
  session: "edgetuner-session",
  open: "edgetuner-open",
  seq: "edgetuner-seq",
  ack: "edgetuner-ack",
  grant: "edgetuner-grant",
  close: "edgetuner-close",
  maxFrame: "edgetuner-max-frame",
  idle: "edgetuner-idle",
  hold: "edgetuner-hold",
} as const;

/** Frames share a body up to this size, so that many small ones do not need a request each. */
const BATCH_BYTES = 2 ** 20;

const LENGTH_BYTES = 4;

/** Largest body of a peer that keeps to `maxFrameBytes`. */
export function maxBodyBytes(maxFrameBytes: number): number {
  return Math.max(BATCH_BYTES, maxFrameBytes + LENGTH_BYTES);
}

/** Returns how many of the first frames go into one body: at least one if there is any. */
export function batchLength(frames: readonly Frame[]): number {
  let bytes = 0;
  let length = 0;
  for (const frame of frames) {
    bytes += LENGTH_BYTES + frame.byteLength;
    if (length > 0 && bytes > BATCH_BYTES) break;
    length++;
  }
  return length;
}

/** Returns a body: each frame after its length as 32 bits, low byte first. */
export function joinFrames(frames: readonly Frame[]): Frame {
  const body = new Uint8Array(frames.reduce((sum, frame) => sum + LENGTH_BYTES + frame.byteLength, 0));
  const view = new DataView(body.buffer);
  let at = 0;
  for (const frame of frames) {
    view.setUint32(at, frame.byteLength, true);
    body.set(frame, at + LENGTH_BYTES);
    at += LENGTH_BYTES + frame.byteLength;
  }
  return body;
}

/** Splits a body; `undefined` if it is malformed, a frame is too large, or a batch is. */
export function splitFrames(body: Frame, maxFrameBytes: number): Frame[] | undefined {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const frames: Frame[] = [];
  for (let at = 0; at < body.byteLength;) {
    if (body.byteLength - at < LENGTH_BYTES) return undefined;
    const start = at + LENGTH_BYTES;
    at = start + view.getUint32(at, true);
    if (at > body.byteLength || at - start > maxFrameBytes) return undefined;
    // Only one frame on its own may take more than a batch: a large body of empty frames would
    // turn into far more memory than it has bytes.
    if (at < body.byteLength && body.byteLength > BATCH_BYTES) return undefined;
    // A copy, so that a small frame does not keep the whole body, and numbers in it are aligned.
    frames.push(body.slice(start, at));
  }
  return frames;
}

/** Limits of `readBody`. */
export interface BodyLimits {
  /** Largest size. */
  readonly maxBytes: number;
  /** Longest time in milliseconds without any progress. */
  readonly timeoutMs: number;
  /** Called for each piece that arrives. */
  readonly progress?: () => void;
}

/** Reads a body; `undefined` if it is too large. Throws if it stops half way. */
export async function readBody(message: Request | Response, limits: BodyLimits): Promise<Frame | undefined> {
  const { maxBytes, timeoutMs, progress } = limits;
  if (!message.body) return new Uint8Array();
  const reader = message.body.getReader();
  let late = false;
  let moved = true;
  const timer = setInterval(() => {
    late = !moved;
    moved = false;
    if (late) reader.cancel().catch(() => {});
  }, timeoutMs);
  const pieces: Uint8Array[] = [];
  let bytes = Number(message.headers.get("content-length") ?? 0) > maxBytes ? Infinity : 0;
  try {
    while (bytes <= maxBytes) {
      const { done, value } = await reader.read();
      if (late) throw new Error(`no progress for ${timeoutMs} ms`);
      if (done) return concat(pieces, bytes);
      moved = true;
      progress?.();
      bytes += value.byteLength;
      pieces.push(value);
    }
    await reader.cancel();
    return undefined;
  } finally {
    clearInterval(timer);
  }
}

function concat(pieces: readonly Uint8Array[], bytes: number): Frame {
  const whole = new Uint8Array(bytes);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.byteLength;
  }
  return whole;
}

/** Reads a number as it travels in a header; `undefined` if it is not one. */
export function readCount(headers: Headers, name: string): number | undefined {
  const text = headers.get(name);
  return text !== null && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/** Returns `info` as it travels in a header. */
export function formatClose({ clean, reason }: CloseInfo): string {
  // Headers are short by rule in many proxies, and a cut must not split an escape or a surrogate pair.
  return `${clean ? "clean" : "broken"} ${encodeURIComponent(reason.slice(0, 200).toWellFormed())}`;
}

/** Reads what `formatClose` wrote; `undefined` if the header is absent. */
export function parseClose(headers: Headers): CloseInfo | undefined {
  const match = /^(clean|broken)(?: (.*))?$/.exec(headers.get(HEADER.close) ?? "");
  if (!match) return undefined;
  let reason = "";
  try {
    reason = decodeURIComponent(match[2] ?? "");
  } catch {
    // The end itself matters more than its reason.
  }
  return { clean: match[1] === "clean", reason };
}
