/**
 * What an edge server tells about a run: events and records.
 *
 * @module
 */

import type { HeadRange } from "../lora/allocation.ts";
import type { DeviceLink } from "../contracts/links.ts";
import type { StepMode } from "../contracts/ports.ts";
import type { SharedValidationEvent } from "./shared_validation.ts";

/** A device that joined. */
export interface JoinedDevice {
  /** Name it gave. */
  readonly name: string;
  /** The first eight characters of its id, which tells devices of one name apart; empty if it has none. */
  readonly id: string;
  /** gamma, its capacity; 0 without heads. */
  readonly capacity: number;
  /** True if it is the data device. */
  readonly data: boolean;
  /** Its heads, once the run has started. */
  range: HeadRange | null;
  /** False once its connection has ended. */
  connected: boolean;
}

/** Where the time of a step went, in milliseconds. */
export interface StepTimes {
  /** The whole step. */
  readonly total: number;
  /** The pruner's decision, with the probe if it needs one. */
  readonly prune: number;
  /** Waiting for results of the own GPU. */
  readonly readback: number;
  /** Encoding and decoding frames. */
  readonly codec: number;
  /** Waiting for devices with nothing else left to do. */
  readonly wait: number;
}

/** How long a device took to answer in a step. */
export interface AnswerTime {
  /** Its first head, which tells devices apart. */
  readonly first: number;
  /**
   * Milliseconds in which something was sent to it or awaited of it: its computing and the wire. More where the edge
   * server asks for several micro-batches at once.
   */
  readonly ms: number;
  /**
   * Milliseconds of these in which the device had something to answer, as it measured: the rest is the wire's. Left out
   * if the device does not tell, as in simulations.
   */
  readonly computeMs?: number;
  /** Its link, where the run measures links. */
  readonly link?: Pick<DeviceLink, "roundTripSeconds" | "bytesPerSecond">;
}

/** How long the data device, or one of several owners, took to answer the last hidden states of a step. */
export interface DataAnswerTime extends Pick<AnswerTime, "ms" | "computeMs"> {
  /** Name of the device. */
  readonly name: string;
}

/** What is known of a step after it. */
export interface StepRecord {
  /** Training steps before this one. */
  readonly step: number;
  /** Train or evaluate. */
  readonly mode: StepMode;
  /** The loss, if the data device shares it. */
  readonly loss: number | null;
  /** In evaluation how many tokens the loss is the mean of, if the data device shares it. */
  readonly counted?: number;
  /** Where the time went. */
  readonly times: StepTimes;
  /** Bytes of frames sent and received in this step, without a probe's. */
  readonly bytes: number;
  /**
   * Bytes of frames of the probe that the pruner needed: those of an unpruned step with one statistic,
   * without E, which is not sent again. Left out if it needed none.
   */
  readonly probeBytes?: number;
  /** Global norm of the gradients before they were clipped; left out where they are not. */
  readonly gradientNorm?: number;
  /** Head mask, [L * H], 1 = pruned. */
  readonly mask: Uint8Array;
  /** Heads of every layer whose devices were away: they are pruned in `mask`, whatever was decided. Left out if none was. */
  readonly away?: readonly number[];
  /** Kept heads of each layer, [L]. */
  readonly kept: readonly number[];
  /** The pruner's importance per head, [L * H], if it gives one. */
  readonly scores: Float32Array | null;
  /** Numbers that the pruner tells of its decision, such as what it gave up; left out where it tells none. */
  readonly figures?: Readonly<Record<string, number>>;
  /** Tokens of the step. */
  readonly tokens: number;
  /** B, sequences of the step. */
  readonly batch: number;
  /** Names of the owners whose data it was; left out where there is one data device. */
  readonly owners?: readonly string[];
  /** How long each device with heads took to answer; left out where none was asked. */
  readonly answers?: readonly AnswerTime[];
  /** How long each device whose data it was took to answer the last hidden states. */
  readonly dataAnswers?: readonly DataAnswerTime[];
  /** Rows of E that travelled for each part of the step, where equal ones did only once. */
  readonly embeddingRows?: readonly number[];
}

/** What is known of a pass of generation after it. */
export interface DecodingRecord {
  /** R, continuations side by side. */
  readonly rows: number;
  /** New tokens of each row: those of the prompt, then one. */
  readonly tokens: number;
  /** Tokens of each row so far, the prompt's too. */
  readonly length: number;
  /** Where the time from E to h_L went, in milliseconds. */
  readonly times: Pick<StepTimes, "total" | "readback" | "codec" | "wait">;
  /** Bytes of frames sent and received in this pass, E's too. */
  readonly bytes: number;
  /** Bytes of the keys and values that are kept. */
  readonly cacheBytes: number;
  /** Heads of every layer whose devices were away: what comes of the pass is without them. Left out if none was. */
  readonly away?: readonly number[];
}

/** State of a run. */
export type RunStatus = "waiting" | "running" | "paused" | "ended" | "failed";

/** Something that happened. */
export type EdgeServerEvent =
  | { readonly type: "joined" | "left"; readonly device: JoinedDevice }
  | {
    /** A device is lost, and its heads are pruned until it comes back. */
    readonly type: "away";
    readonly device: JoinedDevice;
    /** Training steps before the one that it is missed in. */
    readonly step: number;
    /** Why. */
    readonly reason: string;
  }
  | {
    /** A device that was away takes part again. */
    readonly type: "back";
    readonly device: JoinedDevice;
    /** Training steps before the next one. */
    readonly step: number;
  }
  | { readonly type: "refused"; readonly peer: string; readonly reason: string }
  | { readonly type: "status"; readonly status: RunStatus; readonly reason: string }
  | { readonly type: "step"; readonly record: StepRecord }
  | { readonly type: "decoding"; readonly record: DecodingRecord }
  /** A validation on several people's data is done. */
  | ({ readonly type: "validation" } & SharedValidationEvent);

/** How a run ended without a fault. */
export interface RunEnding {
  /** Training steps done. */
  readonly step: number;
  /** True if the head modules at the end are the best of the run. */
  readonly best: boolean;
  /** Heads of every layer whose devices were away then. Left out if none was. */
  readonly away?: readonly number[];
  /** Training steps that each head missed as its device was away, [H]. Left out if none missed any. */
  readonly missed?: readonly number[];
}
