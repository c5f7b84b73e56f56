/**
 * One pass through the layers, before it runs: every message, in order, with its shapes and with the work around it.
 * Edge server and devices take from here what comes next, and check it.
 *
 * A pass has a flow for each micro-batch: exchanges in strict order, while flows may overtake each other.
 *
 * B sequences, T tokens of each, d hidden size, D head size, L layers, H_m heads of a device, n of them kept, c targets.
 *
 * @module
 */

import type { ModelShape } from "../contracts/model_shape.ts";
import type { HeadMode } from "../contracts/ports.ts";
import { type AccumulationStep, type MicroBatch, WHOLE_STEP } from "../contracts/micro_batches.ts";
import { keptHeads, maskOfRange } from "../lora/head_mask.ts";
import { INPUT_MODES } from "../lora/input_modes.ts";
import { type LoraForm, type LoraSettings, modeSize } from "../lora/settings.ts";
import { placeBytes } from "./distinct_rows.ts";
import { type FrameKind, type Lane, MESSAGES } from "./messages.ts";

/** Who takes part: the edge server, the data device, or a device with heads, by its place in their order. */
export type StepParty = "edge" | "data" | number;

/** Work of one party without a message inside. */
export type StepWork =
  | { readonly name: "prune" }
  | {
    readonly name: "norm" | "qkv" | "rest" | "restBackward" | "qkvBackward" | "embed";
    /** Rows (tokens of all sequences). */
    readonly rows: number;
  }
  | {
    /** The edge server, for n kept heads: between X and what travels, or what came and Q, K and V; and back. */
    readonly name: "projectInput" | "projectDelta" | "projectInputBackward" | "projectDeltaBackward";
    readonly rows: number;
    readonly kept: number;
  }
  | { readonly name: "headsForward"; readonly rows: number; readonly kept: number }
  | {
    readonly name: "headsBackward";
    readonly rows: number;
    readonly kept: number;
    /** False in the lowest layer with a kept head: nothing trainable lies below it. */
    readonly needsInput: boolean;
  }
  | {
    readonly name: "update";
    /** Kept heads of all layers. */
    readonly kept: number;
  }
  | { readonly name: "loss"; readonly rows: number; readonly training: boolean }
  | {
    /** Tensor parallelism: a party's share of half a layer. */
    readonly name: "attentionShare" | "feedForwardShare";
    readonly rows: number;
    readonly backward: boolean;
  }
  | { readonly name: "updateShare" };

/** A message, and the sender's work for it. */
export interface StepMessage {
  /** Who sends it. */
  readonly from: StepParty;
  /** Who gets it. */
  readonly to: StepParty;
  /** Its kind; `null` for work that nothing travels for. */
  readonly kind: FrameKind | null;
  /** Layer; in tensor parallelism block. */
  readonly layer: number;
  /** Micro-batch. */
  readonly microBatch: number;
  /** Part of the step. */
  readonly part: number;
  /** Shapes of its tensors. */
  readonly shapes: readonly (readonly number[])[];
  /** What the sender computes for it alone, before it leaves. */
  readonly work: readonly StepWork[];
}

/** What the edge server sends to one or more parties at once, and what each of them answers. */
export interface Exchange {
  /** What the edge server computes before the messages leave. */
  readonly work: readonly StepWork[];
  /** What it sends. */
  readonly messages: readonly StepMessage[];
  /** What it computes while it waits for the answers. */
  readonly meanwhile: readonly StepWork[];
  /** The answers, those of one party in their order. */
  readonly answers: readonly StepMessage[];
}

/** One pass through the layers. */
export interface PassDescription {
  /** The mask, to all devices with heads. */
  readonly begin: Exchange;
  /** For each micro-batch its exchanges. */
  readonly flows: readonly (readonly Exchange[])[];
  /** What devices send or do once all their layers have gone back. */
  readonly settle: readonly StepMessage[];
  /** What follows once all of that has come; `null` if nothing does. */
  readonly clip: Exchange | null;
}

/** A part of a step: E, and the passes that follow it (a probe first, if there is one). */
export interface PartDescription {
  /** Where several people's data takes turns: the word that this part is the beginning of one's turn. @default {none} */
  readonly turn?: StepMessage;
  /** E. */
  readonly embedding: StepMessage;
  /** The passes. */
  readonly passes: readonly PassDescription[];
}

/** Heads of a device in a pass. */
export interface DeviceHeads {
  /** H_m, its heads in each layer. */
  readonly count: number;
  /** Its part of the head mask, [L * H_m], 1 = pruned. */
  readonly mask: Uint8Array;
}

/** Shapes of a run that the messages of its steps follow from. */
export interface SplitShape {
  /** L, layers. */
  readonly layers: number;
  /** H, heads of the model. */
  readonly heads: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** D, head size. */
  readonly headSize: number;
  /** c, number of LoRA targets. */
  readonly targets: number;
  /** r, LoRA rank; needed in modes in which what travels depends on it. */
  readonly rank?: number | undefined;
  /** True if the targets of a head read the same input, in modes where that is a choice. */
  readonly sharesInput?: boolean | undefined;
  /** LoRA input. */
  readonly mode: LoraSettings["mode"];
  /** Number of statistics that devices send after a training step. */
  readonly statistics: number;
  /** True if gradients are clipped by their global norm. */
  readonly clip: boolean;
  /** True if the data device tells its loss. */
  readonly sharesLoss: boolean;
}

/**
 * Shapes of a run.
 *
 * @param model Shape of the model.
 * @param settings Settings of the run.
 * @param more Statistics that devices send after a training step (0); whether the data device tells its loss (false).
 */
export function splitShape(
  model: ModelShape,
  { lora, clipNorm }: {
    readonly lora: LoraForm;
    readonly clipNorm: number | null;
  },
  more: { readonly statistics?: number; readonly sharesLoss?: boolean } = {},
): SplitShape {
  const { statistics = 0, sharesLoss = false } = more;
  return {
    ...modeSize(lora, model),
    ...{ layers: model.layers, mode: lora.mode },
    ...{ statistics, clip: clipNorm !== null, sharesLoss },
  };
}

/** What a pass depends on. A party that knows only itself names only itself: its own messages are then the same. */
export interface PassShape {
  /** Shapes of the run. */
  readonly run: SplitShape;
  /** What the pass is for. */
  readonly mode: HeadMode;
  /** The micro-batches. */
  readonly microBatches: readonly Pick<MicroBatch, "rows">[];
  /** Which part of the step it is. @default {WHOLE_STEP} */
  readonly accumulation?: AccumulationStep | undefined;
  /** The devices with heads, in order of their heads. */
  readonly devices: readonly DeviceHeads[];
  /** The lowest layer with a kept head on any device; L if there is none. */
  readonly lowest: number;
}

/** Number of a device's kept heads in a layer; without a layer in all of them. */
function keptOf({ mask, count }: DeviceHeads, layer?: number): number {
  const heads = layer === undefined ? mask : mask.subarray(layer * count, (layer + 1) * count);
  return heads.reduce((sum, z) => sum + 1 - z, 0);
}

/** Describes a pass. */
export function describePass(shape: PassShape): PassDescription {
  const { run, mode, devices, accumulation = WHOLE_STEP } = shape;
  const at = { layer: 0, microBatch: 0, part: accumulation.index };
  const asksPruner = mode === "train" && accumulation.index === 0;
  const begin: Exchange = {
    work: asksPruner ? [{ name: "prune" }] : [],
    messages: devices.map(({ count }, to) => ({
      ...at,
      from: "edge",
      to,
      kind: "mask",
      shapes: [[run.layers, count]],
      work: [],
    })),
    meanwhile: [],
    answers: [],
  };
  const flows = shape.microBatches.map((_, microBatch) => [...flowOf(shape, microBatch)]);
  const isLast = mode !== "evaluate" && accumulation.index + 1 === accumulation.count;
  return { begin, flows, ...(isLast ? settling(shape) : { settle: [], clip: null }) };
}

/** A micro-batch's way through the layers: forward, the loss and, unless in evaluation, back. */
function* flowOf(shape: PassShape, microBatch: number): Generator<Exchange> {
  const { run, lowest, mode } = shape;
  const { rows } = shape.microBatches[microBatch]!;
  let work: StepWork[] = [];
  for (let layer = 0; layer < run.layers; layer++) {
    work.push({ name: "norm", rows });
    const exchange = forwardExchange(shape, layer, microBatch);
    if (exchange === null) work.push({ name: "qkv", rows });
    else {
      work.push(...projection(shape, exchange, { name: "projectInput", rows }));
      yield { ...exchange, work, meanwhile: [{ name: "qkv", rows }] };
      work = projection(shape, exchange, { name: "projectDelta", rows });
    }
    work.push({ name: "rest", rows });
  }
  yield { ...lossExchange(shape, microBatch), work, meanwhile: [] };
  if (mode === "evaluate") return;
  work = [];
  for (let layer = run.layers - 1; layer >= lowest; layer--) {
    work.push({ name: "restBackward", rows });
    const base: StepWork[] = layer > lowest ? [{ name: "qkvBackward", rows }] : [];
    const exchange = backwardExchange(shape, layer, microBatch);
    if (exchange === null) work.push(...base);
    else {
      work.push(...projection(shape, exchange, { name: "projectDeltaBackward", rows }));
      yield { ...exchange, work, meanwhile: base };
      work = layer > lowest ? projection(shape, exchange, { name: "projectInputBackward", rows }) : [];
    }
  }
}

/** What the edge server computes for a layer's kept heads, in modes where it does. */
function projection(
  { run }: PassShape,
  { answers }: Messages,
  { name, rows }: {
    readonly name: Extract<StepWork, { kept: number; name: `project${string}` }>["name"];
    readonly rows: number;
  },
): StepWork[] {
  if (!INPUT_MODES[run.mode].projects) return [];
  const kept = answers.flatMap(({ work }) => work).reduce(
    (sum, own) => sum + ("kept" in own ? own.kept : 0),
    0,
  );
  return [{ name, rows, kept }];
}

/** Messages and answers of an exchange; the edge server's work is added by whoever knows it. */
export type Messages = Pick<Exchange, "messages" | "answers">;

/** What a device gets and gives in a layer. */
interface LayerTask {
  /** The device. */
  readonly device: number;
  readonly kept: number;
  readonly rows: number;
  /** Shape of X and of its gradient. */
  readonly input: readonly number[];
  /** Shape of what it answers, and of the gradient of that. */
  readonly delta: readonly number[];
}

/** The devices with kept heads in a layer. */
function tasksOf({ run, devices, microBatches }: PassShape, layer: number, microBatch: number): LayerTask[] {
  const mode = INPUT_MODES[run.mode];
  const { rows } = microBatches[microBatch]!;
  return devices.flatMap((heads, device) => {
    const kept = keptOf(heads, layer);
    if (kept === 0) return [];
    const input = mode.shape(kept, rows, run);
    return [{ device, kept, rows, input, delta: [run.targets, kept, rows, mode.deltaColumns(run)] }];
  });
}

function forwardExchange(shape: PassShape, layer: number, microBatch: number): Messages | null {
  const tasks = tasksOf(shape, layer, microBatch);
  if (tasks.length === 0) return null;
  const at = { layer, microBatch, part: shape.accumulation?.index ?? 0 };
  return {
    messages: tasks.map(({ device, input }) => (
      { ...at, from: "edge", to: device, kind: "input", shapes: [input], work: [] }
    )),
    answers: tasks.map(({ device, delta, rows, kept }) => ({
      ...at,
      from: device,
      to: "edge",
      kind: "delta",
      shapes: [delta],
      work: [{ name: "headsForward", rows, kept }],
    })),
  };
}

function backwardExchange(shape: PassShape, layer: number, microBatch: number): Messages | null {
  const tasks = tasksOf(shape, layer, microBatch);
  if (tasks.length === 0) return null;
  const at = { layer, microBatch, part: shape.accumulation?.index ?? 0 };
  // Nothing is trained below the lowest layer with a kept head, so it needs no gradient of X.
  const needsInput = layer > shape.lowest;
  return {
    messages: tasks.map(({ device, delta }) => (
      { ...at, from: "edge", to: device, kind: "deltaGradient", shapes: [delta], work: [] }
    )),
    answers: tasks.map(({ device, input, rows, kept }) => ({
      ...at,
      from: device,
      to: needsInput ? "edge" : device,
      kind: needsInput ? "inputGradient" : null,
      shapes: needsInput ? [input] : [],
      work: [{ name: "headsBackward", rows, kept, needsInput }],
    })),
  };
}

/** h_L goes to the data device; its gradient and, after the step's last one, the loss come back. Without the edge server's work. */
export function lossExchange(
  { run, mode, microBatches, accumulation = WHOLE_STEP }: PassShape,
  microBatch: number,
): Messages {
  const { rows } = microBatches[microBatch]!;
  const at = { layer: 0, microBatch, part: accumulation.index };
  const training = mode !== "evaluate";
  const shapes = [[rows, run.hidden]];
  const tellsLoss = run.sharesLoss && mode !== "probe" && microBatch + 1 === microBatches.length &&
    accumulation.index + 1 === accumulation.count;
  const answer = (kind: FrameKind | null, of: readonly (readonly number[])[], work: readonly StepWork[]) => (
    { ...at, from: "data", to: kind === null ? "data" : "edge", kind, shapes: of, work } satisfies StepMessage
  );
  return {
    messages: [{ ...at, from: "edge", to: "data", kind: "hidden", shapes, work: [] }],
    answers: [
      answer(training ? "hiddenGradient" : null, training ? shapes : [], [{ name: "loss", rows, training }]),
      ...(tellsLoss ? [{ ...answer("loss", [], []), microBatch: 0 }] : []),
    ],
  };
}

/** The end of a training step or a probe: clipping, the update, statistics. */
function settling(
  { run, mode, devices, accumulation = WHOLE_STEP }: PassShape,
): Pick<PassDescription, "settle" | "clip"> {
  const at = { layer: 0, microBatch: 0, part: accumulation.index };
  const statistics = mode === "probe" ? 1 : run.statistics;
  const last = devices.map((heads, device): StepMessage[] => {
    const kept = keptOf(heads);
    const work: StepWork[] = mode === "probe" || kept === 0 ? [] : [{ name: "update", kept }];
    const shapes = Array.from({ length: statistics }, () => [run.layers, heads.count]);
    if (statistics > 0) return [{ ...at, from: device, to: "edge", kind: "statistics", shapes, work }];
    return work.length === 0 ? [] : [{ ...at, from: device, to: device, kind: null, shapes: [], work }];
  });
  if (mode === "probe" || !run.clip) return { settle: last.flat(), clip: null };
  return {
    settle: devices.map((_, device) => (
      { ...at, from: device, to: "edge", kind: "squaredNorm", shapes: [[1]], work: [] }
    )),
    clip: {
      work: [],
      messages: devices.map((_, to) => ({ ...at, from: "edge", to, kind: "clip", shapes: [[1]], work: [] })),
      meanwhile: [],
      answers: last.flat(),
    },
  };
}

/** E of a batch, or of a part of one. */
export function describeEmbedding(
  { batch, length, hidden, accumulation = WHOLE_STEP, rows = batch * length }: {
    readonly batch: number;
    readonly length: number;
    readonly hidden: number;
    readonly accumulation?: AccumulationStep | undefined;
    /** Rows that travel, where equal ones do only once. @default {all} */
    readonly rows?: number | undefined;
  },
): StepMessage {
  return {
    from: "data",
    to: "edge",
    kind: "embedding",
    layer: 0,
    microBatch: 0,
    part: accumulation.index,
    shapes: rows === batch * length
      ? [[batch, length, hidden]]
      : [[rows, hidden], [batch, length, placeBytes(rows)]],
    work: [{ name: "embed", rows: batch * length }],
  };
}

/** The word to one of several owners of data that it is its turn. */
export function describeTurn(accumulation: AccumulationStep = WHOLE_STEP): StepMessage {
  const at = { layer: 0, microBatch: 0, part: accumulation.index };
  return { ...at, from: "edge", to: "data", kind: "turn", shapes: [], work: [] };
}

/** Each device's heads, from the head mask of all. */
export function headsOfDevices(
  mask: Uint8Array,
  heads: number,
  headsPerDevice: readonly number[],
): DeviceHeads[] {
  let first = 0;
  return headsPerDevice.map((count) => {
    const own = maskOfRange(mask, heads, { first, count });
    first += count;
    return { count, mask: own };
  });
}

/** All exchanges of a pass. */
export function exchangesOf({ begin, flows, clip }: PassDescription): Exchange[] {
  return [begin, ...flows.flat(), ...(clip === null ? [] : [clip])];
}

/** The exchanges of a flow that are in a lane. */
export function inLane(flow: readonly Exchange[], lane: Lane): Exchange[] {
  return flow.filter(({ messages }) => {
    const kind = messages[0]?.kind ?? null;
    return kind !== null && MESSAGES[kind].lane === lane;
  });
}

/** Where a party is within a flow. */
export class FlowCursor {
  readonly #exchanges: readonly Exchange[];
  #at = 0;

  /** Begins before the first exchange. */
  constructor(exchanges: readonly Exchange[]) {
    this.#exchanges = exchanges;
  }

  /** What comes next; `null` after the last one. */
  get next(): Exchange | null {
    return this.#exchanges[this.#at] ?? null;
  }

  /** Goes on to the exchange after `next`. */
  advance(): void {
    this.#at++;
  }

  /** True once nothing more comes. */
  get isDone(): boolean {
    return this.#at >= this.#exchanges.length;
  }
}

/** The kept heads of a device in a layer, as indices within its range. */
export function keptOfDevice({ mask, count }: DeviceHeads, layer: number): number[] {
  return keptHeads(mask, count, layer, { first: 0, count });
}
