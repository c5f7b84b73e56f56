/**
 * One step, before it runs: its parts (accumulation), each with its passes through the layers. Edge server and devices
 * obey it pass by pass; the traffic formulas sum its bytes, forecasts its seconds.
 *
 * B sequences, T tokens of each, d hidden size, L layers, H_m heads of a device, c targets, M devices.
 *
 * @module
 */

import { headSizeOf } from "../contracts/model_shape.ts";
import type { HeadMode, StepMode } from "../contracts/ports.ts";
import { type AccumulationStep, splitBatch } from "../contracts/micro_batches.ts";
import { lowestLayer } from "../lora/head_mask.ts";
import type { LoraSettings } from "../lora/settings.ts";
import {
  describeEmbedding,
  describePass,
  describeTurn,
  type Exchange,
  headsOfDevices,
  lossExchange,
  type PartDescription,
  type PassShape,
  type SplitShape,
  type StepMessage,
  type StepParty,
  type StepWork,
} from "./pass.ts";

/** What a step of the split depends on, known before anything runs. */
export interface StepDescriptionOptions {
  /** L, layers. */
  readonly layers: number;
  /** H, heads per layer. */
  readonly heads: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** D, head size. @default {hidden / heads} */
  readonly headSize?: number | undefined;
  /** Tokens of the step, all sequences together. */
  readonly tokens: number;
  /** c, number of LoRA targets. */
  readonly targets: number;
  /** r, LoRA rank: what travels depends on it in some modes. */
  readonly rank: number;
  /** True if the targets of a head read the same input, in modes where that is a choice. @default {false} */
  readonly sharesInput?: boolean | undefined;
  /** LoRA input. */
  readonly mode: LoraSettings["mode"];
  /** Heads of each device, H_m. */
  readonly headsPerDevice: readonly number[];
  /** Number of statistics the pruner asks the devices for. */
  readonly statistics: number;
  /** Head mask z, [L * H], 1 = pruned. */
  readonly mask: Uint8Array;
  /** B, sequences of the step. @default {1} */
  readonly batch?: number;
  /** Micro-batches that the batch, or each part of it, is split into. @default {1} */
  readonly microBatches?: number;
  /** Parts that a training batch is split into and that are computed one after the other. @default {1} */
  readonly accumulate?: number;
  /** True if gradients are clipped by their global norm. @default {false} */
  readonly clip?: boolean;
  /** True if the data device tells its loss. @default {false} */
  readonly sharesLoss?: boolean;
  /** Whether the step trains. @default {"train"} */
  readonly purpose?: StepMode;
  /** True if a probe, an unpruned pass, comes before the pruner's decision. @default {false} */
  readonly probe?: boolean;
  /**
   * Rows of E that travel for each part, where equal ones do only once: it depends on the tokens, and a real run's
   * record says it. @default {all}
   */
  readonly embeddingRows?: readonly number[] | undefined;
  /**
   * Where several people's data takes turns: the parts that begin a turn, from 0; several where a step is mixed.
   *
   * @default {none: there is one data device}
   */
  readonly turns?: readonly number[] | undefined;
}

/** Describes a whole step of the split, part for part. */
export function describeStep(options: StepDescriptionOptions): PartDescription[] {
  const { layers, heads, hidden, tokens, headsPerDevice, batch = 1, microBatches = 1 } = options;
  const { accumulate = 1, clip = false, sharesLoss = false, purpose = "train", probe = false } = options;
  const { targets, rank, sharesInput, mode, statistics } = options;
  const length = tokens / batch;
  const headSize = headSizeOf(options);
  const run = {
    layers,
    heads,
    hidden,
    headSize,
    targets,
    rank,
    sharesInput,
    mode,
    statistics,
    clip,
    sharesLoss,
  };
  // Evaluation prunes nothing.
  const none = new Uint8Array(layers * heads);
  const mask = purpose === "train" ? options.mask : none;
  const parts = splitBatch({ batch, length }, purpose === "train" ? accumulate : 1);
  const pass = (mode: HeadMode, mask: Uint8Array, of: { batch: number; accumulation: AccumulationStep }) =>
    describePass({
      run,
      mode,
      accumulation: of.accumulation,
      microBatches: splitBatch({ batch: of.batch, length }, microBatches),
      devices: headsOfDevices(mask, heads, headsPerDevice),
      lowest: lowestLayer(mask, heads),
    });
  return parts.map(({ batch, index, firstRow }) => {
    const accumulation = { index, count: parts.length, firstRow };
    const probes = probe && index === 0 && purpose === "train";
    return {
      ...(options.turns?.includes(index) ? { turn: describeTurn(accumulation) } : {}),
      embedding: describeEmbedding({
        ...{ batch, length, hidden, accumulation },
        rows: options.embeddingRows?.[index],
      }),
      passes: [
        ...(probes ? [pass("probe", none, { batch, accumulation })] : []),
        pass(purpose, mask, { batch, accumulation }),
      ],
    };
  });
}

/** A pass of generation. */
export type DecodingDescriptionOptions =
  & Pick<
    StepDescriptionOptions,
    | "layers"
    | "heads"
    | "hidden"
    | "headSize"
    | "targets"
    | "rank"
    | "sharesInput"
    | "mode"
    | "headsPerDevice"
  >
  & {
    /** R, continuations side by side (beams). */
    readonly rows: number;
    /** New tokens of each: those of the prompt, then one. */
    readonly length: number;
  };

/** Describes a pass of generation: E of new tokens of R rows, then as in evaluation, with every head kept. */
export function describeDecoding(options: DecodingDescriptionOptions): PartDescription {
  const { rows, length, layers, heads } = options;
  const mask = new Uint8Array(layers * heads);
  const [part] = describeStep({
    ...options,
    tokens: rows * length,
    batch: rows,
    statistics: 0,
    mask,
    purpose: "evaluate",
  });
  return { ...part!, embedding: { ...part!.embedding, kind: "decode" } };
}

/** What a tensor-parallel step depends on. */
export interface TensorParallelStepOptions {
  /** L, layers. */
  readonly layers: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** Tokens of the step, all sequences together. */
  readonly tokens: number;
  /** B, sequences of the step. @default {1} */
  readonly batch?: number;
  /** M, devices with a share. */
  readonly devices: number;
  /** Whether the step trains. */
  readonly mode: StepMode;
  /** True if the data device tells its loss. @default {false} */
  readonly sharesLoss?: boolean;
  /** Rows of E that travel, where equal ones do only once. @default {all} */
  readonly embeddingRows?: readonly number[] | undefined;
}

/**
 * Describes a tensor-parallel step. Every party computes its share of a block, an attention or a feed-forward
 * network; the edge server sends each block's input to all and sums what they answer.
 */
export function describeTensorParallelStep(options: TensorParallelStepOptions): PartDescription {
  const { layers, hidden, tokens: rows, batch = 1, devices, mode, sharesLoss = false } = options;
  const all = [...Array(devices).keys()];
  const run: SplitShape = {
    ...{ layers, heads: 1, hidden, headSize: hidden, targets: 0, mode: "full", statistics: 0, clip: false },
    sharesLoss,
  };
  const shape: PassShape = { run, mode, microBatches: [{ rows }], devices: [], lowest: layers };
  const at = { microBatch: 0, part: 0, shapes: [[rows, hidden]] };
  const block = (layer: number, { backward }: { readonly backward: boolean }): Exchange => {
    const work: StepWork = { name: layer % 2 === 1 ? "feedForwardShare" : "attentionShare", rows, backward };
    // Nothing is trained below the first block, so nobody needs the gradient of its input.
    const summed = !backward || layer > 0;
    return {
      work: [],
      messages: all.map((to) => (
        { ...at, layer, from: "edge", to, kind: backward ? "activationGradient" : "activation", work: [] }
      )),
      meanwhile: [work],
      answers: all.map((from) => ({
        ...at,
        layer,
        from,
        to: summed ? "edge" : from,
        kind: summed ? backward ? "partialGradient" : "partial" : null,
        shapes: summed ? at.shapes : [],
        work: [work],
      })),
    };
  };
  const blocks = [...Array(2 * layers).keys()];
  const flow = blocks.map((layer) => block(layer, { backward: false }));
  flow.push({ ...lossExchange(shape, 0), work: [], meanwhile: [] });
  if (mode === "train") flow.push(...blocks.toReversed().map((layer) => block(layer, { backward: true })));
  const update = (from: number): StepMessage => (
    { ...at, layer: 0, from, to: from, kind: null, shapes: [], work: [{ name: "updateShare" }] }
  );
  return {
    embedding: describeEmbedding({ batch, length: rows / batch, hidden, rows: options.embeddingRows?.[0] }),
    passes: [{
      begin: { work: [], messages: [], meanwhile: [], answers: [] },
      flows: [flow],
      settle: mode === "train" ? all.map(update) : [],
      clip: null,
    }],
  };
}

/** All messages of a step in one order in which they may come, and all work that nothing travels for. */
export function* messagesOf(parts: Iterable<PartDescription>): Generator<StepMessage> {
  const both = function* ({ messages, answers }: Exchange) {
    yield* messages;
    yield* answers;
  };
  for (const { turn, embedding, passes } of parts) {
    if (turn !== undefined) yield turn;
    yield embedding;
    for (const { begin, flows, settle, clip } of passes) {
      yield* both(begin);
      for (const exchange of flows.flat()) yield* both(exchange);
      yield* settle;
      if (clip !== null) yield* both(clip);
    }
  }
}

/** Work and who does it. */
export interface PartyWork {
  /** Who. */
  readonly party: StepParty;
  /** What. */
  readonly work: StepWork;
}

/** All work of a step, party for party in the order in which each of them does it. */
export function* workOf(parts: Iterable<PartDescription>): Generator<PartyWork> {
  const of = function* (party: StepParty, list: readonly StepWork[]) {
    for (const work of list) yield { party, work };
  };
  const ofExchange = function* ({ work, messages, meanwhile, answers }: Exchange) {
    yield* of("edge", work);
    for (const message of messages) yield* of(message.from, message.work);
    yield* of("edge", meanwhile);
    for (const answer of answers) yield* of(answer.from, answer.work);
  };
  for (const { embedding, passes } of parts) {
    yield* of(embedding.from, embedding.work);
    for (const { begin, flows, settle, clip } of passes) {
      yield* ofExchange(begin);
      for (const exchange of flows.flat()) yield* ofExchange(exchange);
      for (const message of settle) yield* of(message.from, message.work);
      if (clip !== null) yield* ofExchange(clip);
    }
  }
}
