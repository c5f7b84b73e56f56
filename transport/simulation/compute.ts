/**
 * What a step costs in compute: the arithmetic of each segment between two messages, in one place,
 * and how long a party takes for it. The emulated parties of `@edgetuner/transport` and the forecast
 * in `transport/simulation/plan.ts` share both.
 *
 * T tokens of the step (B sequences of S tokens), L layers, H heads, d hidden size, D head size,
 * F inner size of the feed-forward network, V vocabulary, r LoRA rank, c LoRA targets, n kept heads.
 * A product of [m, k] and [k, n] counts 2 m k n operations.
 *
 * @module
 */

import {
  describeStep,
  headSizeOf,
  INPUT_MODES,
  type LoraForm,
  modeSize,
  type StepDescriptionOptions,
  type StepWork,
  workOf,
} from "@edgetuner/core";

/** Shape of a model. */
export interface ModelSize {
  /** L, layers. */
  readonly layers: number;
  /** H, heads per layer. */
  readonly heads: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** D, head size. @default {hidden / heads} */
  readonly headSize?: number | undefined;
  /** G, heads of keys and values. @default {heads} */
  readonly kvHeads?: number | undefined;
  /** V, vocabulary. */
  readonly vocabulary: number;
  /** F, inner size of the feed-forward network. @default {4 d} */
  readonly inner?: number;
  /** True if the feed-forward network has a gate, which is a third product. @default {false} */
  readonly gated?: boolean;
  /** False if the LM head is a matrix of its own, not the token embedding. @default {true} */
  readonly tied?: boolean;
}

/** Shapes of models of the literature. */
export const MODEL_SIZES: Readonly<
  Record<"gpt2-medium" | "gpt2-large" | "llama2-7b" | "llama2-13b" | "opt-6.7b" | "opt-13b", ModelSize>
> = {
  "gpt2-medium": { layers: 24, heads: 16, hidden: 1024, vocabulary: 50_257 },
  "gpt2-large": { layers: 36, heads: 20, hidden: 1280, vocabulary: 50_257 },
  "llama2-7b": {
    layers: 32,
    heads: 32,
    hidden: 4096,
    vocabulary: 32_000,
    inner: 11_008,
    gated: true,
    tied: false,
  },
  "llama2-13b": {
    layers: 40,
    heads: 40,
    hidden: 5120,
    vocabulary: 32_000,
    inner: 13_824,
    gated: true,
    tied: false,
  },
  "opt-6.7b": { layers: 32, heads: 32, hidden: 4096, vocabulary: 50_272 },
  "opt-13b": { layers: 40, heads: 40, hidden: 5120, vocabulary: 50_272 },
};

/** What the arithmetic of a step depends on. */
export interface StepShape {
  /** The model. */
  readonly model: ModelSize;
  /** LoRA settings. */
  readonly lora: LoraForm;
  /** S, tokens of each sequence: attention grows with it. */
  readonly length: number;
}

/**
 * A piece of work without a message inside.
 *
 * | name | who | what |
 * | --- | --- | --- |
 * | prune | edge server | the pruner's decision |
 * | norm | edge server | norm before the attention, columns of the kept heads |
 * | projectInput, projectInputBackward | edge server | frozen A of the kept heads, in modes that have it |
 * | projectDelta, projectDeltaBackward | edge server | frozen B of the kept heads, in modes that have it |
 * | qkv | edge server | base product of Q, K and V, while the devices compute |
 * | rest | edge server | attention, output projection, norm, feed-forward network |
 * | restBackward | edge server | gradients through rest |
 * | qkvBackward | edge server | gradient through the base product, while the devices compute |
 * | headsForward | device | Deltas of its kept heads of a layer |
 * | headsBackward | device | gradients of A and B, and of X unless it is the lowest layer |
 * | update | device | AdamW and statistics of its kept heads |
 * | embed | data device | E |
 * | loss | data device | final norm, logits, loss and, in training, dh_L |
 */
export type SegmentName =
  | "prune"
  | "norm"
  | "projectInput"
  | "projectDelta"
  | "projectDeltaBackward"
  | "projectInputBackward"
  | "qkv"
  | "rest"
  | "restBackward"
  | "qkvBackward"
  | "headsForward"
  | "headsBackward"
  | "update"
  | "embed"
  | "loss";

/** Work of one segment. */
export interface Segment {
  /** Which one; names beyond {@linkcode SegmentName} are for protocols of your own. */
  readonly name: SegmentName | (string & Record<never, never>);
  /** Operations. */
  readonly flops: number;
}

/** The pruner's decision; its time is a fixed one. */
export function pruneWork(): Segment {
  return { name: "prune", flops: 0 };
}

/** Operations of the parts of one layer of the base model, forward. */
export function layerFlops({ model, length }: StepShape, tokens: number): {
  readonly norm: number;
  readonly qkv: number;
  readonly attention: number;
  readonly projection: number;
  readonly feedForward: number;
} {
  const { hidden: d, heads, kvHeads = heads, inner = 4 * d, gated = false } = model;
  const queries = heads * headSizeOf(model);
  return {
    norm: 8 * tokens * d,
    qkv: 2 * tokens * d * queries * (1 + 2 * kvHeads / heads),
    // Scores and mixture, of which causality leaves half.
    attention: 2 * tokens * length * queries,
    projection: 2 * tokens * d * queries,
    feedForward: (gated ? 6 : 4) * tokens * d * inner,
  };
}

/**
 * How much more than forward the attention costs on the way back: it computes its scores again and
 * then has four products. Frozen weights need no gradient, so the other parts cost the same both ways.
 */
export const ATTENTION_BACKWARD = 2.5;

/** One segment of the edge server in one layer. */
export function layerWork(
  size: StepShape,
  name: "norm" | "qkv" | "rest" | "restBackward" | "qkvBackward",
  tokens: number,
): Segment {
  const { norm, qkv, attention, projection, feedForward } = layerFlops(size, tokens);
  const flops = {
    norm,
    qkv,
    rest: attention + projection + norm + feedForward,
    restBackward: ATTENTION_BACKWARD * attention + projection + 2 * norm + feedForward,
    qkvBackward: qkv,
  }[name];
  return { name, flops };
}

/** The edge server's work for frozen projections in one layer, for n kept heads. */
export function projectionWork(
  { model, lora }: StepShape,
  { name, rows, kept }: Extract<StepWork, { readonly name: `project${string}` }>,
): Segment {
  const work = INPUT_MODES[lora.mode].edgeWork(kept, rows, modeSize(lora, model));
  return {
    name,
    flops: 2 * work[name === "projectInput" || name === "projectInputBackward" ? "input" : "delta"],
  };
}

/** A device's forward work in one layer. */
export function headsForwardWork({ model, lora }: StepShape, tokens: number, kept: number): Segment {
  const { outputs, inputs } = moduleSize(model, lora);
  return {
    name: "headsForward",
    flops: 2 * kept * lora.targets.length * tokens * lora.rank * (inputs + outputs),
  };
}

/** A device's backward work in one layer; `needsInput` is false in the lowest layer with a kept head. */
export function headsBackwardWork(
  { model, lora }: StepShape,
  { tokens, kept, needsInput }: {
    readonly tokens: number;
    readonly kept: number;
    readonly needsInput: boolean;
  },
): Segment {
  const { outputs, inputs } = moduleSize(model, lora);
  return {
    name: "headsBackward",
    flops: 2 * kept * lora.targets.length * tokens * lora.rank *
      (2 * outputs + (needsInput ? 2 : 1) * inputs),
  };
}

/** A device's update of `kept` head modules, all layers together. */
export function updateWork({ model, lora }: StepShape, kept: number): Segment {
  const { outputs, inputs } = moduleSize(model, lora);
  return { name: "update", flops: 14 * kept * lora.targets.length * lora.rank * (inputs + outputs) };
}

/** The data device's embedding. */
export function embedWork({ model }: StepShape, tokens: number): Segment {
  return { name: "embed", flops: 2 * tokens * model.hidden };
}

/** The data device's loss; `counted` is the number of tokens that it counts, the only ones with logits. */
export function lossWork(
  { model }: StepShape,
  { tokens, counted, training }: {
    readonly tokens: number;
    readonly counted: number;
    readonly training: boolean;
  },
): Segment {
  const { hidden: d, vocabulary } = model;
  const forward = 8 * tokens * d + counted * vocabulary * (2 * d + 6);
  return { name: "loss", flops: training ? 2 * forward : forward };
}

/** A party's share of the base model, in tensor parallelism; parts of a head or column are allowed. */
export interface ModelShare {
  /** Attention heads, of each layer. */
  readonly heads: number;
  /** Columns of the feed-forward network. */
  readonly columns: number;
}

/** What the work of a step depends on beside its description. */
export interface WorkContext {
  /** Shapes of model and LoRA. */
  readonly size: StepShape;
  /** Tokens whose loss counts, of so many. */
  readonly counted: (tokens: number) => number;
  /** The party's share, in tensor parallelism. @default {all of the model} */
  readonly share?: ModelShare | undefined;
}

/** What a piece of work of a step's description costs. */
export function segmentOf(work: StepWork, { size, counted, share }: WorkContext): Segment {
  switch (work.name) {
    case "prune":
      return pruneWork();
    case "embed":
      return embedWork(size, work.rows);
    case "projectInput":
    case "projectDelta":
    case "projectDeltaBackward":
    case "projectInputBackward":
      return projectionWork(size, work);
    case "headsForward":
      return headsForwardWork(size, work.rows, work.kept);
    case "headsBackward":
      return headsBackwardWork(size, { tokens: work.rows, kept: work.kept, needsInput: work.needsInput });
    case "update":
      return updateWork(size, work.kept);
    case "loss":
      return lossWork(size, { tokens: work.rows, counted: counted(work.rows), training: work.training });
    case "attentionShare":
    case "feedForwardShare":
    case "updateShare":
      return shareSegment(work, size, share);
    default:
      return layerWork(size, work.name, work.rows);
  }
}

/** Work of a party of tensor parallelism, of which every party has its share. */
function shareSegment(
  work: Extract<StepWork, { readonly name: "attentionShare" | "feedForwardShare" | "updateShare" }>,
  size: StepShape,
  share: ModelShare | undefined,
): Segment {
  const { layers, heads: all, hidden, inner = 4 * hidden } = size.model;
  const { heads, columns } = share ?? { heads: all, columns: inner };
  if (work.name === "updateShare") return updateWork(size, layers * heads);
  const { rows, backward } = work;
  const { norm, qkv, attention, projection, feedForward } = layerFlops(size, rows);
  const own = backward
    ? headsBackwardWork(size, { tokens: rows, kept: heads, needsInput: true }).flops
    : headsForwardWork(size, rows, heads).flops;
  const flops = work.name === "feedForwardShare"
    ? norm + feedForward * columns / inner
    : norm + own + heads / all * (qkv + (backward ? ATTENTION_BACKWARD : 1) * attention + projection);
  return { name: backward ? "restBackward" : "rest", flops };
}

/**
 * A training step with everything on one machine and no head pruned (ServerTuner): the work of all parties, less the
 * pruner's decision.
 */
export function wholeStepWork(
  size: StepShape,
  tokens: number,
  counted: number,
  more: Pick<StepDescriptionOptions, "accumulate" | "purpose" | "batch"> = {},
): Segment[] {
  const { layers, heads } = size.model;
  const parts = describeStep({
    ...modeSize(size.lora, size.model),
    ...{ layers, tokens, mode: size.lora.mode, statistics: 0 },
    headsPerDevice: [heads],
    mask: new Uint8Array(layers * heads),
    ...more,
  });
  const context = { size, counted: (rows: number) => rows * counted / tokens };
  return [...workOf(parts)].flatMap(({ work }) => work.name === "prune" ? [] : [segmentOf(work, context)]);
}

/** Rows of B and columns of A. */
function moduleSize(model: ModelSize, lora: LoraForm): { outputs: number; inputs: number } {
  const mode = INPUT_MODES[lora.mode];
  const size = modeSize(lora, model);
  return { outputs: mode.outputs(size), inputs: mode.columns(size) };
}

/** How fast something is computed. */
export interface ComputeRate {
  /** Effective speed in GFLOP/s. */
  readonly gflops: number;
  /** Time in milliseconds that a segment takes on top, however small it is. */
  readonly overheadMs: number;
}

/** How fast a party computes. */
export interface PartyCompute extends ComputeRate {
  /** Speeds of single segments, where they are known. */
  readonly segments?: Readonly<Record<string, ComputeRate>>;
}

/**
 * How fast all parties compute. Plain data: given by hand, or measured once by `measureCompute` and
 * used as often as wanted, which gives the same times every time.
 */
export interface ComputeModel {
  /** The edge server. */
  readonly edgeServer: PartyCompute;
  /** A device with heads, of speed factor 1. */
  readonly device: PartyCompute;
  /** The data device's side of the loss. @default {as `device`} */
  readonly dataDevice?: PartyCompute;
}

/** A ready-made guess, all of it our choice: a good single GPU and phones or laptops, at a third of their peak. */
export const TYPICAL_COMPUTE: ComputeModel = {
  edgeServer: { gflops: 8000, overheadMs: 0.2, segments: { prune: { gflops: 8000, overheadMs: 2 } } },
  device: { gflops: 300, overheadMs: 0.5 },
};

/** Milliseconds that a party takes for a segment. */
export function segmentMs(party: PartyCompute, { name, flops }: Segment): number {
  const { gflops, overheadMs } = party.segments?.[name] ?? party;
  return overheadMs + flops / (gflops * 1e6);
}

/**
 * Checks a compute model.
 *
 * @throws {TypeError} If a party or a number is missing.
 * @throws {RangeError} If a speed is not positive or an overhead negative.
 */
export function checkCompute(model: ComputeModel): ComputeModel {
  const { edgeServer, device, dataDevice = device } = model ?? {};
  for (const [name, party] of Object.entries({ edgeServer, device, dataDevice })) {
    if (party === undefined) {
      throw new TypeError(`Cannot use the compute model as ${name} must be given: current value is ${party}`);
    }
    for (const [segment, rate] of Object.entries({ ...party.segments, all: party })) {
      const { gflops, overheadMs } = rate;
      if (typeof gflops !== "number" || typeof overheadMs !== "number") {
        throw new TypeError(
          `Cannot use the compute model as gflops and overheadMs of ${name}, segment ${segment}, must be numbers: current values are ${gflops} and ${overheadMs}`,
        );
      }
      if (!(gflops > 0 && overheadMs >= 0 && overheadMs < Infinity)) {
        throw new RangeError(
          `Cannot use the compute model as gflops must be positive and overheadMs not negative in ${name}, segment ${segment}: current values are ${gflops} and ${overheadMs}`,
        );
      }
    }
  }
  return model;
}
