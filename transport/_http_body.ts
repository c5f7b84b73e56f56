/**
 * Bodies and headers of the HTTP transport, the same in both directions.
 *
 * @module
 */

import { type CloseInfo, DeadlineError } from "@edgetuner/core/contracts";
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

/** Bytes per millisecond that a body must bring on the whole: 32 kbit/s, the slowest of mobile networks. */
const MIN_BYTES_PER_MS = 4;

/** Limits of `readBody`. */
export interface BodyLimits {
  /** Largest size. */
  readonly maxBytes: number;
  /**
   * Longest time in milliseconds without any progress. It is also the start that a body has before it must have
   * brought 4 bytes for every millisecond: so reading ends after `timeoutMs + maxBytes / 4` at the latest.
   */
  readonly timeoutMs: number;
  /** Ends the reading. */
  readonly signal?: AbortSignal | undefined;
  /** Called for each piece that arrives. */
  readonly progress?: () => void;
}

/**
 * Reads a body.
 *
 * @returns The body; `undefined` if it is too large.
 * @throws {DeadlineError} If it comes too slowly.
 * @throws The signal's reason; the stream's error if it breaks.
 */
export async function readBody(message: Request | Response, limits: BodyLimits): Promise<Frame | undefined> {
  const { maxBytes, timeoutMs, signal, progress } = limits;
  if (signal?.aborted) void message.body?.cancel().catch(() => {});
  signal?.throwIfAborted();
  if (!message.body) return new Uint8Array();
  const reader = message.body.getReader();
  const ended = Promise.withResolvers<never>();
  ended.promise.catch(() => {}); // whoever reads gets it
  // The stream of a peer that is gone may never answer a cancellation.
  const cancel = () => void reader.cancel().catch(() => {});
  const end = (reason: unknown) => {
    ended.reject(reason);
    cancel();
  };
  const onAbort = () => end(signal!.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const started = performance.now();
  let moved = started;
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  const check = () => {
    const now = performance.now();
    const stillMs = moved + timeoutMs - now;
    const leftMs = Math.min(stillMs, started + timeoutMs + bytes / MIN_BYTES_PER_MS - now);
    if (leftMs > 0) timer = setTimeout(check, Math.ceil(leftMs));
    else end(stillMs <= 0 ? nothingCame(bytes, timeoutMs) : tooSlow(bytes, timeoutMs));
  };
  let timer = setTimeout(check, timeoutMs);
  try {
    if (Number(message.headers.get("content-length") ?? 0) > maxBytes) {
      cancel();
      return undefined;
    }
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), ended.promise]);
      if (done) return concat(pieces, bytes);
      moved = performance.now();
      progress?.();
      bytes += value.byteLength;
      pieces.push(value);
      if (bytes > maxBytes) {
        cancel();
        return undefined;
      }
    }
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

function nothingCame(bytes: number, timeoutMs: number): DeadlineError {
  return new DeadlineError(
    `Cannot read the body as some of it must come every ${timeoutMs} ms: nothing came after ${bytes} bytes`,
  );
}

function tooSlow(bytes: number, timeoutMs: number): DeadlineError {
  return new DeadlineError(
    `Cannot read the body as it must bring ${MIN_BYTES_PER_MS} bytes a millisecond after the first ${timeoutMs} ms: it brought ${bytes} bytes`,
  );
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
