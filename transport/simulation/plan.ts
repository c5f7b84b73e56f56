/**
 * What a step will take, before anything runs: bytes and frames are sums over its description, seconds come from when
 * its messages come and go. One link per device, all computers and links at once, expected values where a link draws.
 *
 * M devices, L layers, H heads, d hidden size.
 *
 * @module
 */

import {
  allocateHeads,
  codedBytes,
  DEFAULT_LORA,
  describeDecoding,
  describeStep,
  describeTensorParallelStep,
  type LoraSettings,
  messageBytes,
  messagesOf,
  modeSize,
  type PartDescription,
  type RunCodecs,
  type StepMessage,
  type StepParty,
  type StepWork,
  type WireCodec,
  workOf,
} from "@edgetuner/core";
import { forecast } from "./_forecast.ts";
import {
  checkCompute,
  type ComputeModel,
  type ModelSize,
  segmentMs,
  segmentOf,
  type StepShape,
  TYPICAL_COMPUTE,
  wholeStepWork,
} from "./compute.ts";
import { evenMask } from "./even_mask.ts";
import { LINK_PROFILES, type LinkProfile } from "./link_profile.ts";

/**
 * How the work is divided: `serverTuner` all on the edge server; `split` as EdgeTuner, vEdgeTuner and
 * DLoRA do, which differ by the heads that they keep; `tensorParallel` the base model's heads and
 * feed-forward columns over edge server and devices, with two all-reduces a layer each way.
 */
export type PlanSystem = "serverTuner" | "split" | "tensorParallel";

/** A device of a plan. */
export interface PlanDevice {
  /** gamma, which decides its number of heads. @default {1} */
  readonly capacity?: number;
  /** How many times as fast as the compute model's device it is. @default {1} */
  readonly speed?: number;
  /** Its link. @default {the plan's} */
  readonly link?: LinkProfile;
}

/** Options of {@linkcode plan}. */
export interface PlanOptions {
  /** Shape of the model. */
  readonly model: ModelSize;
  /** B, sequences of a step. */
  readonly batch: number;
  /** Tokens of each sequence. */
  readonly length: number;
  /** How the work is divided. @default {"split"} */
  readonly system?: PlanSystem;
  /** The devices, or their number if they are all alike; the first is the data device. @default {1} */
  readonly devices?: number | readonly PlanDevice[];
  /** LoRA. @default {DEFAULT_LORA} */
  readonly lora?: Pick<LoraSettings, "mode" | "targets" | "rank">;
  /** Head mask z, [L * H], 1 = pruned. @default {evenMask of `keep`} */
  readonly mask?: Uint8Array;
  /** Share of the heads that a pruner keeps. @default {1} */
  readonly keep?: number;
  /** Share of the layers in which any is kept; the others are pruned whole. @default {1} */
  readonly keepLayers?: number;
  /** Number of statistics that the pruner asks the devices for. @default {0} */
  readonly statistics?: number;
  /** Share of the tokens whose loss counts. @default {1} */
  readonly counted?: number;
  /** True if the data device tells its loss. @default {false} */
  readonly sharesLoss?: boolean;
  /**
   * What the step is for. In `generate` it is one more token for each of `batch` rows that have `length` tokens so far.
   *
   * @default {"train"}
   */
  readonly purpose?: "train" | "evaluate" | "generate";
  /** Micro-batches, as in the run setting of that name. @default {1} */
  readonly microBatches?: number;
  /** Parts of a training step, as in the run setting of that name. @default {1} */
  readonly accumulate?: number;
  /** True if gradients are clipped by their global norm. @default {false} */
  readonly clip?: boolean;
  /** True if the pruner asks for a probe in every training step. @default {false} */
  readonly probe?: boolean;
  /** False if the edge server computes nothing while it waits, as with the run setting of that name. @default {true} */
  readonly overlap?: boolean;
  /** Bytes of a number on the wire: 4 as float32. Not with `codec`. @default {4} */
  readonly bytesPerNumber?: number;
  /** The codec of the run, or its codecs. @default {as bytesPerNumber says} */
  readonly codec?: WireCodec | RunCodecs;
  /**
   * Rows of E that travel for each part of the step, where equal ones do only once: it depends on the tokens. Without
   * it all count, which is the most that can travel.
   *
   * @default {all}
   */
  readonly embeddingRows?: readonly number[];
  /** The link of each device, unless it has its own. @default {LINK_PROFILES["wifi-5"]} */
  readonly link?: LinkProfile;
  /** How fast the parties compute. @default {TYPICAL_COMPUTE} */
  readonly compute?: ComputeModel;
}

/** What a step will take. */
export interface Plan {
  /** Time of a step in the middle of a run, in milliseconds. */
  readonly msPerStep: number;
  /** Bytes of all tensors, both directions and all devices together. */
  readonly tensorBytes: number;
  /** Bytes of whole frames: with envelopes, of which each is taken to have {@linkcode ENVELOPE_BYTES}. */
  readonly frameBytes: number;
  /** Frames. */
  readonly frames: number;
  /** Milliseconds that the edge server computes. */
  readonly edgeComputeMs: number;
  /** Milliseconds that each device computes, [M]. */
  readonly deviceComputeMs: readonly number[];
  /** Heads of each device, [M]; empty without devices. */
  readonly headsPerDevice: readonly number[];
  /** Kept heads of all layers together. */
  readonly kept: number;
}

/** Bytes around the tensors of a frame, about: it depends on how many digits its numbers have. */
export const ENVELOPE_BYTES = 108;

/**
 * Forecasts a step. It is one in which nothing goes wrong: the failures of a link's profile are left out
 * of account, `simulate` of `@edgetuner/transport` has them. Losses and jitter count with their expected values.
 *
 * @throws {RangeError} If there are more devices than heads, a number is out of range, or a setting does not fit the
 * system or the purpose.
 * @category Simulation
 *
 * @example Usage
 * ```ts
 * import { MODEL_SIZES, plan } from "@edgetuner/transport";
 * import { assert } from "@std/assert";
 *
 * const common = { model: MODEL_SIZES["gpt2-medium"], batch: 4, length: 512, devices: 3 };
 * assert(plan({ ...common, keep: 0.5 }).msPerStep < plan(common).msPerStep);
 * ```
 */
export function plan(options: PlanOptions): Plan {
  const { model, system = "split", lora = DEFAULT_LORA } = options;
  checkOptions(options);
  const compute = checkCompute(options.compute ?? TYPICAL_COMPUTE);
  const size = { model, lora, length: options.length };
  if (system === "serverTuner") return serverPlan(options, size, compute);
  const { devices = 1, link = LINK_PROFILES["wifi-5"], keep = 1, keepLayers = 1 } = options;
  const list: readonly PlanDevice[] = typeof devices === "number"
    ? Array.from({ length: devices }, () => ({}))
    : devices;
  const headsPerDevice = allocateHeads(model.heads, list.map((d) => d.capacity ?? 1)).map((r) => r.count);
  const mask = options.mask ?? evenMask(headsPerDevice, { layers: model.layers, keep, keepLayers });
  const step = describe(options, { headsPerDevice, mask });
  const ms = timesOf(options, { size, compute, devices: list });
  const { bytesPerNumber = 4, overlap = true } = options;
  const tensorBytes = (message: StepMessage) =>
    messageBytes(
      message,
      options.codec === undefined
        ? (shape) => shape.reduce((a, b) => a * b, bytesPerNumber)
        : codedBytes(options.codec),
    );
  const messages = [...messagesOf(step)].filter(({ kind }) => kind !== null);
  // The first step waits for its embedding; the later ones have it early, and are all alike.
  const [first, second] = forecast([step, step, step], {
    links: list.map((d) => d.link ?? link),
    ms,
    bytes: (message) => tensorBytes(message) + ENVELOPE_BYTES,
    overlap,
  });
  const sum = messages.reduce((total, message) => total + tensorBytes(message), 0);
  const spent = (test: (party: StepParty) => boolean) =>
    [...workOf(step)].reduce((total, { party, work }) => test(party) ? total + ms(party, work) : total, 0);
  return {
    msPerStep: second! - first!,
    tensorBytes: sum,
    frameBytes: sum + messages.length * ENVELOPE_BYTES,
    frames: messages.length,
    edgeComputeMs: spent((party) => party === "edge"),
    deviceComputeMs: list.map((_, m) => spent((party) => party === m || (m === 0 && party === "data"))),
    headsPerDevice,
    kept: system === "split" ? mask.reduce((total, z) => total + 1 - z, 0) : mask.length,
  };
}

/** Everything on one machine: the sum of its work. */
function serverPlan(options: PlanOptions, size: StepShape, compute: ComputeModel): Plan {
  const { batch, length, counted = 1, purpose = "train", accumulate = 1, model } = options;
  const tokens = purpose === "generate" ? batch : batch * length;
  const more = { batch, accumulate, purpose: purpose === "train" ? purpose : "evaluate" } as const;
  const ms = wholeStepWork(size, tokens, Math.round(counted * tokens), more)
    .reduce((sum, segment) => sum + segmentMs(compute.edgeServer, segment), 0);
  return {
    ...{ msPerStep: ms, tensorBytes: 0, frameBytes: 0, frames: 0, edgeComputeMs: ms, deviceComputeMs: [] },
    headsPerDevice: [],
    kept: model.layers * model.heads,
  };
}

/** The step's messages, part for part. */
function describe(
  options: PlanOptions,
  { headsPerDevice, mask }: { readonly headsPerDevice: readonly number[]; readonly mask: Uint8Array },
): PartDescription[] {
  const { model, batch, length, lora = DEFAULT_LORA, statistics = 0, purpose = "train" } = options;
  const { layers, hidden } = model;
  const shape = { ...modeSize(lora, model), layers, mode: lora.mode, headsPerDevice };
  if (purpose === "generate") return [describeDecoding({ ...shape, rows: batch, length: 1 })];
  const tokens = batch * length;
  if (options.system !== "tensorParallel") {
    return describeStep({ ...options, ...shape, tokens, statistics, mask, purpose });
  }
  const devices = headsPerDevice.length;
  const { sharesLoss = false } = options;
  return [describeTensorParallelStep({ layers, hidden, tokens, batch, devices, mode: purpose, sharesLoss })];
}

/** How long each party takes for a piece of work. In tensor parallelism the parties' shares are equal. */
function timesOf(
  { batch, length, counted = 1, purpose = "train" }: PlanOptions,
  { size, compute, devices }: {
    readonly size: StepShape;
    readonly compute: ComputeModel;
    readonly devices: readonly PlanDevice[];
  },
): (party: StepParty, work: StepWork) => number {
  const { heads, hidden, inner = 4 * hidden } = size.model;
  const tokens = purpose === "generate" ? batch : batch * length;
  const countedTokens = Math.round(counted * tokens);
  const ranks = devices.length + 1;
  const context = {
    size,
    counted: (rows: number) => rows * countedTokens / tokens,
    share: { heads: heads / ranks, columns: inner / ranks },
  };
  return (party, work) => {
    const segment = segmentOf(work, context);
    if (party === "edge") return segmentMs(compute.edgeServer, segment);
    const own = party === "data" ? compute.dataDevice ?? compute.device : compute.device;
    return segmentMs(own, segment) / (devices[party === "data" ? 0 : party]!.speed ?? 1);
  };
}

/** Checks numbers, and that settings fit the system and the purpose. */
function checkOptions(options: PlanOptions): void {
  const { batch, length, microBatches = 1, accumulate = 1, system = "split", purpose = "train" } = options;
  for (const [name, value] of Object.entries({ batch, length, microBatches, accumulate })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new RangeError(`Cannot plan as ${name} must be a positive integer: current value is ${value}`);
    }
  }
  const { clip = false, probe = false } = options;
  const rules: readonly (readonly [string, unknown, unknown, boolean])[] = [
    ["microBatches", microBatches, 1, system === "split" && purpose !== "generate"],
    ["accumulate", accumulate, 1, system !== "tensorParallel" && purpose === "train"],
    ["clip", clip, false, system !== "tensorParallel" && purpose === "train"],
    ["probe", probe, false, system === "split" && purpose === "train" && accumulate === 1],
    ["purpose", purpose, "train", system !== "tensorParallel" || purpose !== "generate"],
  ];
  for (const [name, value, must, isFree] of rules) {
    if (isFree || value === must) continue;
    throw new RangeError(
      `Cannot plan as ${name} must be ${must} for system "${system}", purpose "${purpose}": current value is ${value}`,
    );
  }
}
