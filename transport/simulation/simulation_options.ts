/**
 * What simulations are given, and what comes of them.
 *
 * @module
 */

import type {
  BaseLayers,
  EdgeServerEvent,
  EdgeServerOptions,
  EmbeddingAndHead,
  HeadModules,
  HeadRange,
  LedgerEntry,
  LossSettings,
  RunSettings,
  StepRecord,
  TokenBatch,
  WireCodec,
} from "@edgetuner/core";
import type { ComputeModel } from "./compute.ts";
import type { LinkProfile } from "./link_profile.ts";
import type { FrameRule } from "./network.ts";

/** The model of a simulation, on the GPU; stays the caller's. */
export interface SimulatedModel {
  /** Engine of the base model. */
  readonly engine: EdgeServerOptions["engine"];
  /** The base model's layers, on `engine`. */
  readonly layers: BaseLayers;
  /** Embedding and LM head, on `deviceEngine`. */
  readonly ends: EmbeddingAndHead;
  /** Engine of the devices; one of their own shows what memory the edge server takes. @default {engine} */
  readonly deviceEngine?: EdgeServerOptions["engine"];
  /** Frozen projections, where the LoRA settings ask for such from the base model: see `baseProjections`. */
  readonly projections?: EdgeServerOptions["projections"];
}

/** A device of a simulation. */
export interface SimulatedDevice {
  /** gamma, which decides its number of heads; 0 for a data device without heads. @default {1} */
  readonly capacity?: number;
  /** How many times as fast as the compute model's device it is. @default {1} */
  readonly speed?: number;
  /** Its link. @default {the simulation's} */
  readonly link?: LinkProfile;
  /** True for the data device. @default {true for the first device, if none says so} */
  readonly data?: boolean;
  /** Bytes that it can give to its share of the base model; of interest for tensor parallelism. @default {no limit} */
  readonly memory?: number;
}

/** Options of {@linkcode simulateServerTuner}, and what {@linkcode simulate} has in common with it. */
export interface SimulationOptions {
  /** The model. */
  readonly model: SimulatedModel;
  /** Settings of the run: LoRA, optimizer, steps, seed. */
  readonly settings: RunSettings;
  /** The batch of a training step. */
  readonly batches: (step: number) => TokenBatch;
  /** Settings of the loss in training. @default {{ labelSmoothing: 0.1 }} */
  readonly loss?: LossSettings;
  /**
   * Batches on which the loss is taken before and after the run, at no virtual time and outside of
   * the ledger. Devices must share the edge server's engine.
   *
   * @default {[]}
   */
  readonly evaluation?: readonly TokenBatch[];
  /**
   * Steps from one evaluation to the next, for the result's `curve`; 0 for none in between. In a network devices save
   * after so many steps, unless the settings say otherwise. Tensor parallelism has none in between.
   *
   * @default {0}
   */
  readonly evaluateEvery?: number | undefined;
  /** How fast the parties compute. @default {TYPICAL_COMPUTE} */
  readonly compute?: ComputeModel;
  /** Called after each step. */
  onStep?(step: SimulatedStep): void;
  /** Called at the end with the trained head modules in the order of their heads, before they are freed. */
  onTrained?(modules: readonly HeadModules[]): void | Promise<void>;
  /** Ends the run early. */
  readonly signal?: AbortSignal;
}

/** Options that simulations with devices have in common. */
export interface NetworkSimulationOptions extends SimulationOptions {
  /** The devices, or their number if they are all alike. */
  readonly devices: number | readonly SimulatedDevice[];
  /** The link of each device, unless it has its own. @default {LINK_PROFILES["wifi-5"]} */
  readonly link?: LinkProfile;
  /** Seed of jitter, losses and failures. @default {1} */
  readonly linkSeed?: number;
  /** True to let links and kernels take the time of the wall. @default {false} */
  readonly realTime?: boolean;
  /** Work that comes with kinds of frames that are not of the step protocol. @default {{}} */
  readonly rules?: Readonly<Record<string, FrameRule>>;
  /** Called with whatever happens at the edge server: devices that are away and back, steps. */
  onEvent?(event: EdgeServerEvent): void;
  /** Longest wait for an answer of a device, in milliseconds of the wall. @default {120000} */
  readonly timeoutMs?: number;
  /** Codecs that the run may use besides the built-in ones. @default {[]} */
  readonly codecs?: readonly WireCodec[] | undefined;
}

/** A training step of a simulation. In virtual time `times.readback` and `times.codec` are 0. */
export interface SimulatedStep extends StepRecord {
  /** Milliseconds that the edge server computed; 0 in real time. */
  readonly edgeComputeMs: number;
  /** Milliseconds from the start of the run to the end of the step. */
  readonly atMs: number;
}

/** The evaluation loss after so many training steps. */
export interface CurvePoint {
  /** Training steps. */
  readonly step: number;
  /** Mean loss of the evaluation batches. */
  readonly loss: number;
}

/** A device after a simulation. */
export interface SimulatedDeviceResult {
  /** Its name. */
  readonly name: string;
  /** Its heads in every layer; `null` without heads. */
  readonly range: HeadRange | null;
  /** Milliseconds that it computed; 0 in real time. */
  readonly computeMs: number;
  /** Training steps done. */
  readonly steps: number;
  /** What ended its part early; `null` if nothing did. */
  readonly error: unknown;
}

/** What came of a simulation. */
export interface SimulationResult {
  /** Training steps, in order; of those that were done again after the edge server was lost, the last. */
  readonly steps: readonly SimulatedStep[];
  /** Mean time of a step in milliseconds, without the first one, which waits for its embedding. */
  readonly msPerStep: number;
  /** Mean bytes of a step, whole frames in both directions. */
  readonly bytesPerStep: number;
  /** Time of the whole run in milliseconds, joining included. */
  readonly totalMs: number;
  /** What was sent and received, all devices together, as the edge server counts it. */
  readonly ledger: readonly LedgerEntry[];
  /** Mean loss of the evaluation batches before and after; `null` without any. */
  readonly evaluation: { readonly before: number; readonly after: number } | null;
  /** The evaluation losses, in the order of the steps; empty without evaluation batches. */
  readonly curve: readonly CurvePoint[];
  /** GPU memory that the edge server's engine has taken in bytes; with the devices' if they share it. */
  readonly edgeMemoryBytes: number;
  /** The devices, in the order of the options. */
  readonly devices: readonly SimulatedDeviceResult[];
  /** What ended the run early, such as a device whose link was cut; `null` if nothing did. */
  readonly error: unknown;
}
