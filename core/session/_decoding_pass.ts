/**
 * One pass of generation at the edge server: h_L of the new tokens of a data device.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { CachedLayers } from "../generation/cached_layers.ts";
import { Tape } from "../model/tape.ts";
import type { DecodingRequest, DecodingSource } from "./data_source.ts";
import type { DecodingRecord } from "./run_events.ts";
import type { Attempts } from "./step_attempts.ts";

/** Most bytes of keys and values, unless someone says another number. */
export const MAX_CACHE_BYTES = 2 ** 30;

/** What a pass works with. */
export interface DecodingPass {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** The layers, with the keys and values of the data device's tokens. */
  readonly cached: CachedLayers;
  /** The data device. */
  readonly data: DecodingSource;
  /** Most bytes of keys and values. */
  readonly maxCacheBytes: number;
  /** Training steps done. */
  readonly step: number;
  /** The clock, in milliseconds. */
  readonly now: () => number;
  /** Milliseconds and bytes spent so far. */
  readonly counters: () => Record<"readback" | "codec" | "wait" | "bytes", number>;
  /** Bytes before E came. */
  readonly bytesBefore: number;
  /** Does the pass again where devices are lost in it. */
  readonly attempts: Attempts;
}

/**
 * Answers new tokens; their keys and values stay here.
 *
 * @returns What it took.
 * @throws {ProtocolError} If the tokens continue rows that there are not, or there is no room for their keys and
 * values; the data device is closed.
 */
export async function decodingPass(request: DecodingRequest, pass: DecodingPass): Promise<DecodingRecord> {
  const { engine, cached, data, maxCacheBytes, step, now, counters, bytesBefore, attempts } = pass;
  const { embedding, rows, length, parents } = request;
  const started = now();
  const before = counters();
  using owner = new DisposableStack();
  owner.use(embedding);
  const total = length + (parents === null ? 0 : cached.length);
  const cacheBytes = cached.bytesFor(rows, total);
  if (parents?.some((p) => p < 0 || p >= cached.rows)) {
    data.refuse(
      `new tokens must continue rows below ${cached.rows}: current value is [${parents.slice(0, 16)}]`,
    );
  }
  if (cacheBytes > maxCacheBytes) {
    data.refuse(
      `keys and values must take at most ${maxCacheBytes} bytes: ${rows} rows of ${total} tokens take ${cacheBytes}`,
    );
  }
  let away: readonly number[] = [];
  await attempts.decode(step, async () => {
    using tape = new Tape(engine, { training: false });
    const input = engine.tensor(embedding.rows, embedding.columns, "embedding of new tokens");
    engine.copy(embedding, input);
    const hidden = await cached.forward(tape, input, { rows, parents, step, repeats: true });
    away = attempts.away;
    await data.answer(step, hidden.value, away);
  });
  const after = counters();
  const spent = (what: keyof typeof after) => after[what] - before[what];
  const times = {
    total: now() - started,
    readback: spent("readback"),
    codec: spent("codec"),
    wait: spent("wait"),
  };
  const bytes = after.bytes - bytesBefore;
  const record = { rows, tokens: length, length: total, times, bytes, cacheBytes };
  return away.length === 0 ? record : { ...record, away };
}
