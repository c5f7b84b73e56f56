/**
 * Counters of an engine.
 *
 * @module
 */

import type { PoolStats } from "./pool.ts";
import type { QueueStats } from "./queue.ts";

/** Counters of an engine: a step that returns to the same figures does not leak. */
export interface EngineStats extends PoolStats, QueueStats {
  /** Live tensors. */
  tensors: number;
  /** Readbacks so far. */
  readbacks: number;
  /** Readbacks and yields to the event loop under way: while there are any, work goes on by itself. */
  pending: number;
  /** Milliseconds spent waiting for readbacks so far. */
  readbackMs: number;
  /** Bind groups kept for use again. */
  bindGroups: number;
  /** Compute pipelines compiled so far. */
  pipelines: number;
}

/** All counters at zero. */
export function noStats(): EngineStats {
  return {
    allocatedBytes: 0,
    allocatedCount: 0,
    liveBytes: 0,
    liveCount: 0,
    tensors: 0,
    dispatches: 0,
    submits: 0,
    readbacks: 0,
    pending: 0,
    readbackMs: 0,
    bindGroups: 0,
    pipelines: 0,
  };
}
