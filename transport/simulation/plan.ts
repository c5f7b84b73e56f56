/**
 * What a step will take, before anything runs: bytes from the formula of `core/protocol/traffic.ts`, seconds
 * from the critical path of its messages and computations. One link per device, all computers
 * and links at once, expected values where a link draws.
 *
 * M devices, L layers, H heads, d hidden size, D head size, T tokens, c LoRA targets, n kept heads of a device in a layer.
 *
 * @module
 */

import {
  allocateHeads,
  DEFAULT_LORA,
  INPUT_MODES,
  inputNumbers,
  type LoraSettings,
  lowestLayer,
  stepTraffic,
} from "@edgetuner/core";

import {
  ATTENTION_BACKWARD,
  checkCompute,
  type ComputeModel,
  embedWork,
  headsBackwardWork,
  headsForwardWork,
  layerFlops,
  layerWork,
  lossWork,
  type ModelSize,
  type PartyCompute,
  pruneWork,
  type Segment,
  segmentMs,
  type StepShape,
  TYPICAL_COMPUTE,
  updateWork,
  wholeStepWork,
} from "./compute.ts";
import {
  DEFAULT_MTU_BYTES,
  expectedResends,
  LINK_PROFILES,
  type LinkProfile,
  occupiedMs,
  resendMs,
} from "./link_profile.ts";

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
  /** Bytes of a number on the wire: 4 as float32. @default {4} */
  readonly bytesPerNumber?: number;
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
 * A mask that keeps a share of the heads, evenly over the layers that keep any, and in each of them over
 * the devices.
 *
 * @param headsPerDevice H_m of each device.
 * @param options L, share of the heads kept, share of the layers that keep any.
 * @returns z, [L * H], 1 = pruned.
 * @throws {RangeError} If a share is not in [0, 1].
 */
export function evenMask(
  headsPerDevice: readonly number[],
  options: { readonly layers: number; readonly keep: number; readonly keepLayers?: number },
): Uint8Array {
  const { layers, keep, keepLayers = 1 } = options;
  for (const [name, share] of Object.entries({ keep, keepLayers })) {
    if (!(share >= 0 && share <= 1)) {
      throw new RangeError(`Cannot plan as ${name} must be from 0 to 1: current value is ${share}`);
    }
  }
  const heads = headsPerDevice.reduce((a, b) => a + b, 0);
  const mask = new Uint8Array(layers * heads).fill(1);
  // Differences of a rounded ramp: as even as whole numbers can be.
  const ramp = (share: number, at: number) => Math.round(share * at);
  const open: number[] = [];
  for (let l = 0; l < layers; l++) if (ramp(keepLayers, l + 1) > ramp(keepLayers, l)) open.push(l);
  const total = Math.min(Math.round(keep * layers * heads), open.length * heads);
  open.forEach((l, i) => {
    const kept = ramp(total / open.length, i + 1) - ramp(total / open.length, i);
    let first = 0;
    for (const count of headsPerDevice) {
      const own = ramp(kept / heads, first + count) - ramp(kept / heads, first);
      mask.fill(0, l * heads + first, l * heads + first + own);
      first += count;
    }
  });
  return mask;
}

/**
 * Forecasts a training step. It is one in which nothing goes wrong: the failures of a link's profile are left out
 * of account, `simulate` of `@edgetuner/transport` has them. Losses and jitter count with their expected values.
 *
 * @throws {RangeError} If there are more devices than heads, or a number is out of range.
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
  const { model, batch, length, system = "split", counted = 1, lora = DEFAULT_LORA } = options;
  for (const [name, value] of Object.entries({ batch, length })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new RangeError(`Cannot plan as ${name} must be a positive integer: current value is ${value}`);
    }
  }
  const tokens = batch * length;
  const size = { model, lora, length };
  const compute = checkCompute(options.compute ?? TYPICAL_COMPUTE);
  const countedTokens = Math.round(counted * tokens);
  if (system === "serverTuner") {
    const ms = wholeStepWork(size, tokens, countedTokens)
      .reduce((sum, segment) => sum + segmentMs(compute.edgeServer, segment), 0);
    return {
      msPerStep: ms,
      tensorBytes: 0,
      frameBytes: 0,
      frames: 0,
      edgeComputeMs: ms,
      deviceComputeMs: [],
      headsPerDevice: [],
      kept: model.layers * model.heads,
    };
  }
  const { devices = 1, link = LINK_PROFILES["wifi-5"] } = options;
  const list: readonly PlanDevice[] = typeof devices === "number"
    ? Array.from({ length: devices }, () => ({}))
    : devices;
  const ranges = allocateHeads(model.heads, list.map((d) => d.capacity ?? 1));
  const headsPerDevice = ranges.map((r) => r.count);
  const parties = new Parties(compute, list.map((d) => ({ link: d.link ?? link, speed: d.speed ?? 1 })));
  const { keep = 1, keepLayers = 1 } = options;
  const mask = options.mask ?? evenMask(headsPerDevice, { layers: model.layers, keep, keepLayers });
  const step: Step = {
    ...options,
    size,
    tokens,
    countedTokens,
    headsPerDevice,
    mask,
    bytesPerNumber: options.bytesPerNumber ?? 4,
    statistics: options.statistics ?? 0,
  };
  const runStep = system === "split" ? splitStep : tensorParallelStep;
  // The first step waits for its embedding; the later ones have it early, and are all alike.
  runStep(parties, step);
  const before = parties.snapshot();
  runStep(parties, step);
  const after = parties.snapshot();
  const tensorBytes = system === "split" ? tensorBytesOf(step) : after.bytes - before.bytes;
  const frames = after.frames - before.frames;
  return {
    msPerStep: after.edgeFree - before.edgeFree,
    tensorBytes,
    frameBytes: tensorBytes + frames * ENVELOPE_BYTES,
    frames,
    edgeComputeMs: after.edgeMs - before.edgeMs,
    deviceComputeMs: after.deviceMs.map((ms, m) => ms - before.deviceMs[m]!),
    headsPerDevice,
    kept: system === "split" ? mask.reduce((sum, z) => sum + 1 - z, 0) : mask.length,
  };
}

/** What a step is made of. */
interface Step {
  readonly size: StepShape;
  readonly tokens: number;
  readonly countedTokens: number;
  readonly headsPerDevice: readonly number[];
  readonly mask: Uint8Array;
  readonly bytesPerNumber: number;
  readonly statistics: number;
  readonly sharesLoss?: boolean;
}

/** METHOD's count of numbers, with as many bytes as a number has on the wire. */
function tensorBytesOf({ size, tokens, headsPerDevice, mask, statistics, bytesPerNumber }: Step): number {
  const { layers, heads, hidden } = size.model;
  const { mode, targets } = size.lora;
  const shape = {
    layers,
    heads,
    hidden,
    tokens,
    targets: targets.length,
    mode,
    headsPerDevice,
    statistics,
    mask,
  };
  let sum = 0;
  for (const [kind, bytes] of stepTraffic(shape)) {
    sum += kind === "mask" || kind === "statistics" ? bytes : bytes / 4 * bytesPerNumber;
  }
  return sum;
}

interface Snapshot {
  readonly edgeFree: number;
  readonly edgeMs: number;
  readonly deviceMs: readonly number[];
  readonly frames: number;
  readonly bytes: number;
}

/** When edge server, devices and links are free; what has been asked of them so far. */
class Parties {
  readonly #compute: ComputeModel;
  readonly #devices: readonly { readonly link: LinkProfile; readonly speed: number }[];
  readonly #linkFree: { up: number; down: number }[];
  /** When shared links are free, by name. */
  readonly #mediumFree = new Map<string, number>();
  readonly #deviceMs: number[];
  readonly deviceFree: number[];
  edgeFree = 0;
  /** When the next step's E is at the edge server. */
  embeddingAt: number | null = null;
  #edgeMs = 0;
  #frames = 0;
  #bytes = 0;

  constructor(
    compute: ComputeModel,
    devices: readonly { readonly link: LinkProfile; readonly speed: number }[],
  ) {
    this.#compute = compute;
    this.#devices = devices;
    this.#linkFree = devices.map(() => ({ up: 0, down: 0 }));
    this.#deviceMs = devices.map(() => 0);
    this.deviceFree = devices.map(() => 0);
  }

  snapshot(): Snapshot {
    return {
      edgeFree: this.edgeFree,
      edgeMs: this.#edgeMs,
      deviceMs: [...this.#deviceMs],
      frames: this.#frames,
      bytes: this.#bytes,
    };
  }

  /** The edge server works on, not before a time. Returns when it is done. */
  edge(segments: readonly Segment[], fromMs = 0): number {
    const ms = segments.reduce((sum, s) => sum + segmentMs(this.#compute.edgeServer, s), 0);
    this.#edgeMs += ms;
    return this.edgeFree = Math.max(this.edgeFree, fromMs) + ms;
  }

  /** A device works, not before a time. Returns when it is done. */
  device(m: number, segment: Segment, fromMs = 0, party: PartyCompute = this.#compute.device): number {
    const ms = segmentMs(party, segment) / this.#devices[m]!.speed;
    this.#deviceMs[m]! += ms;
    return this.deviceFree[m] = Math.max(this.deviceFree[m]!, fromMs) + ms;
  }

  /** The data device works for the loss, not before a time. Returns when it is done. */
  data(segment: Segment, fromMs = 0): number {
    return this.device(0, segment, fromMs, this.#compute.dataDevice ?? this.#compute.device);
  }

  /**
   * Sends a frame.
   *
   * @param m Device.
   * @param bytes Bytes of its tensors.
   * @param fromMs When it leaves.
   * @param peers Devices in the same exchange, of which the slowest counts: with many of them jitter
   *     and losses come closer to their worst.
   * @returns When it arrives, expected.
   */
  send(m: number, way: "up" | "down", bytes: number, fromMs: number, peers = 1): number {
    const { link } = this.#devices[m]!;
    const direction = link[way];
    const { jitterMs = 0, loss = 0 } = direction;
    const whole = bytes + ENVELOPE_BYTES;
    const own = this.#linkFree[m]!;
    const free = link.shared ? this.#mediumFree.get(link.name) ?? 0 : own[way];
    const leaves = Math.max(free, fromMs) + occupiedMs(direction, whole) / (1 - loss);
    if (link.shared) this.#mediumFree.set(link.name, leaves);
    else own[way] = leaves;
    this.#frames++;
    this.#bytes += bytes;
    const parts = Math.ceil(whole / (link.mtuBytes ?? DEFAULT_MTU_BYTES));
    return leaves + direction.latencyMs + jitterMs * halfOfWorst(peers) +
      expectedResends(parts * peers, loss) * resendMs(link);
  }
}

/** Half of the expected largest of `peers` sums of two even draws from [0, 1]: one way's part of a round trip. */
function halfOfWorst(peers: number): number {
  const pieces = 64;
  let sum = 0;
  for (let i = 0; i < pieces; i++) {
    const x = 2 * (i + 0.5) / pieces;
    const below = x < 1 ? x * x / 2 : 1 - (2 - x) ** 2 / 2;
    sum += 1 - below ** peers;
  }
  return sum / pieces;
}

/** One step of the split: the same messages in the same order as the sessions send them. */
function splitStep(parties: Parties, step: Step): void {
  const { size, tokens, headsPerDevice, mask, bytesPerNumber } = step;
  const { model, lora } = size;
  const { layers, heads, hidden } = model;
  const headSize = hidden / heads;
  const targets = lora.targets.length;
  const work = (name: Parameters<typeof layerWork>[1]) => layerWork(size, name, tokens);
  const inputBytes = (n: number) => inputNumbers(INPUT_MODES[lora.mode], n, tokens, model) * bytesPerNumber;
  const deltaBytes = (n: number) => targets * n * tokens * headSize * bytesPerNumber;
  /** Devices with kept heads in a layer. */
  const partsOf = (l: number) => {
    let first = l * heads;
    return headsPerDevice.map((count, m) => {
      const n = mask.subarray(first, first += count).reduce((sum, z) => sum + 1 - z, 0);
      return { m, n };
    }).filter(({ n }) => n > 0);
  };
  /** One round trip to the devices of a layer; the edge server works on meanwhile. */
  const exchange = (
    l: number,
    bytes: { readonly there: (n: number) => number; readonly back: ((n: number) => number) | null },
    task: (n: number) => Segment,
    meanwhile: readonly Segment[],
  ) => {
    const parts = partsOf(l);
    const departs = parties.edgeFree;
    parties.edge(meanwhile);
    const done = parts.map(({ m, n }) => {
      const there = parties.send(m, "down", bytes.there(n), departs, parts.length);
      return { m, n, at: parties.device(m, task(n), there) };
    });
    const { back } = bytes;
    if (back === null) return;
    // On a shared link whoever is ready first is first.
    for (const { m, n, at } of done.sort((a, b) => a.at - b.at)) {
      const there = parties.send(m, "up", back(n), at, parts.length);
      parties.edgeFree = Math.max(parties.edgeFree, there);
    }
  };

  beginStep(parties, step);
  parties.edge([pruneWork()]);
  for (const [m, count] of headsPerDevice.entries()) {
    parties.send(m, "down", layers * count, parties.edgeFree);
  }
  const lowest = lowestLayer(mask, heads);
  for (let l = 0; l < layers; l++) {
    parties.edge([work("norm")]);
    if (partsOf(l).length === 0) parties.edge([work("qkv")]);
    else {
      const bytes = { there: inputBytes, back: deltaBytes };
      exchange(l, bytes, (n) => headsForwardWork(size, tokens, n), [work("qkv")]);
    }
    parties.edge([work("rest")]);
  }
  endForward(parties, step);
  for (let l = layers - 1; l >= lowest; l--) {
    parties.edge([work("restBackward")]);
    const needsInput = l > lowest;
    const base = needsInput ? [work("qkvBackward")] : [];
    if (partsOf(l).length === 0) parties.edge(base);
    else {
      const bytes = { there: deltaBytes, back: needsInput ? inputBytes : null };
      exchange(l, bytes, (n) => headsBackwardWork(size, tokens, n, needsInput), base);
    }
  }
  let first = 0;
  for (const [m, count] of headsPerDevice.entries()) {
    let kept = 0;
    for (let l = 0; l < layers; l++) {
      for (let h = first; h < first + count; h++) kept += 1 - mask[l * heads + h]!;
    }
    first += count;
    const done = kept > 0 ? parties.device(m, updateWork(size, kept)) : parties.deviceFree[m]!;
    if (step.statistics === 0) continue;
    const there = parties.send(m, "up", step.statistics * layers * count * 4, done, headsPerDevice.length);
    parties.edgeFree = Math.max(parties.edgeFree, there);
  }
}

/**
 * One step of tensor parallelism: each party computes its share of heads and feed-forward columns of every
 * layer; the edge server sends each block's input to all and adds up what they make of it. The parties' shares are
 * equal, and each trains the LoRA of its own heads.
 */
function tensorParallelStep(parties: Parties, step: Step): void {
  const { size, tokens, headsPerDevice, bytesPerNumber } = step;
  const { layers, heads, hidden } = size.model;
  const M = headsPerDevice.length;
  const share = 1 / (M + 1);
  const bytes = tokens * hidden * bytesPerNumber;
  const everyone = [...headsPerDevice.keys()];
  /** Every rank computes its part of a block from what it is sent; the edge server adds them up. */
  const block = (work: Segment, summed: boolean) => {
    const departs = parties.edgeFree;
    parties.edge([work]);
    const there = everyone.map((m) => parties.send(m, "down", bytes, departs, M));
    const done = everyone.map((m) => ({ m, at: parties.device(m, work, there[m]!) }));
    if (!summed) return;
    for (const { m, at } of done.sort((a, b) => a.at - b.at)) {
      parties.edgeFree = Math.max(parties.edgeFree, parties.send(m, "up", bytes, at, M));
    }
  };
  const { norm, qkv, attention, projection, feedForward } = layerFlops(size, tokens);
  const forward = headsForwardWork(size, tokens, heads).flops;
  const backward = headsBackwardWork(size, tokens, heads, true).flops;
  beginStep(parties, step);
  for (let l = 0; l < layers; l++) {
    block({ name: "rest", flops: norm + share * (qkv + attention + projection + forward) }, true);
    block({ name: "rest", flops: norm + share * feedForward }, true);
  }
  endForward(parties, step);
  const attentionBack = norm + share * (qkv + ATTENTION_BACKWARD * attention + projection + backward);
  for (let l = layers - 1; l >= 0; l--) {
    block({ name: "restBackward", flops: norm + share * feedForward }, true);
    // Nothing is trained below the first block, so nobody needs the gradient of its input.
    block({ name: "restBackward", flops: attentionBack }, l > 0);
  }
  const { name, flops } = updateWork(size, layers * heads);
  for (const m of everyone) parties.device(m, { name, flops: share * flops });
}

/** The edge server waits for E. */
function beginStep(parties: Parties, { size, tokens, bytesPerNumber }: Step): void {
  parties.embeddingAt ??= parties.send(
    0,
    "up",
    tokens * size.model.hidden * bytesPerNumber,
    parties.data(embedWork(size, tokens)),
  );
  parties.edgeFree = Math.max(parties.edgeFree, parties.embeddingAt);
}

/** h_L goes to the data device, dh_L comes back, and E of the next step follows it. */
function endForward(
  parties: Parties,
  { size, tokens, countedTokens, bytesPerNumber, sharesLoss }: Step,
): void {
  const bytes = tokens * size.model.hidden * bytesPerNumber;
  const there = parties.send(0, "down", bytes, parties.edgeFree);
  const done = parties.data(lossWork(size, tokens, countedTokens, true), there);
  parties.edgeFree = parties.send(0, "up", bytes, done);
  if (sharesLoss) parties.edgeFree = Math.max(parties.edgeFree, parties.send(0, "up", 0, done));
  parties.embeddingAt = parties.send(0, "up", bytes, parties.data(embedWork(size, tokens), done));
}
