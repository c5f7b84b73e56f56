/**
 * Measuring how fast this machine's adapter computes the segments of a step, for a compute model of
 * real kernels instead of a guess.
 *
 * @module
 */

import { gatherHeadColumns, scatterAddHeadColumns, type Tensor } from "@edgetuner/kernels";
import {
  attentionOp,
  embedTokens,
  feedForwardOp,
  type Gpt2EmbeddingAndHead,
  type Gpt2Layers,
  HeadModules,
  inputRows,
  linearOp,
  loraLinearOp,
  type LossSettings,
  modelLoss,
  normOp,
  type RunSettings,
  Tape,
  type TokenBatch,
} from "@edgetuner/core";

import {
  type ComputeModel,
  type ComputeRate,
  embedWork,
  headsBackwardWork,
  headsForwardWork,
  layerWork,
  lossWork,
  type Segment,
  type StepShape,
  updateWork,
} from "./compute.ts";

/** Options of {@linkcode measureCompute}. */
export interface MeasureOptions {
  /** The base model's layers. */
  readonly layers: Gpt2Layers;
  /** Embedding and LM head, on the same engine. */
  readonly ends: Gpt2EmbeddingAndHead;
  /** Settings of the run: LoRA and optimizer. */
  readonly settings: RunSettings;
  /** A batch like those of the run. */
  readonly batch: TokenBatch;
  /** Settings of the loss. @default {{ labelSmoothing: 0.1 }} */
  readonly loss?: LossSettings;
  /** How often each segment is timed, after two times to warm up; the median counts. @default {7} */
  readonly rounds?: number;
}

/** One timed segment. */
interface Sample {
  readonly segment: Segment;
  readonly ms: number;
}

/**
 * Times the segments of a step with real kernels at the run's shapes: the edge server's at the whole
 * batch and at one sequence of it, a device's with all heads and with one, so that a segment's fixed part and its
 * speed can be told apart. All parties get the figures of this machine's adapter.
 *
 * @returns A compute model; save it to have the same virtual times again.
 */
export async function measureCompute(options: MeasureOptions): Promise<ComputeModel> {
  const { layers, ends, settings, batch } = options;
  const { loss = { labelSmoothing: 0.1 }, rounds = 7 } = options;
  const { n_layer, n_head, n_embd, vocab_size } = layers.config;
  const size: StepShape = {
    model: { layers: n_layer, heads: n_head, hidden: n_embd, vocabulary: vocab_size },
    lora: settings.lora,
    length: batch.length,
  };
  const samples: Sample[] = [];
  const one = oneSequence(batch);
  for (const part of batch.batch > 1 ? [one, batch] : [batch]) {
    samples.push(...await medians(rounds, () => timeLayer(layers, size, part.batch)));
    samples.push(...await medians(rounds, () => timeData(ends, size, part, loss)));
  }
  const tokens = batch.batch * batch.length;
  for (const heads of n_head > 1 ? [1, n_head] : [1]) {
    const engine = ends.tokens.value.engine;
    using modules = new HeadModules(engine, {
      ...settings,
      layers: 1,
      heads: n_head,
      hidden: n_embd,
      range: { first: 0, count: heads },
    });
    samples.push(...await medians(rounds, () => timeHeads(modules, size, tokens, n_layer)));
  }
  waves.clear();
  const segments: Record<string, ComputeRate> = {};
  for (const { segment: { name } } of samples) segments[name] ??= fit(samples, name);
  // What has no segment of its own goes as fast as the largest one.
  const party = { gflops: segments.rest!.gflops, overheadMs: 0, segments };
  return { edgeServer: party, device: party };
}

/** A line through the first and the last sample of a segment; through one sample and 0 if there is no other. */
function fit(samples: readonly Sample[], name: string): ComputeRate {
  const own = samples.filter((s) => s.segment.name === name);
  const [small, large] = [own[0]!, own.at(-1)!];
  const rise = (large.ms - small.ms) / (large.segment.flops - small.segment.flops);
  // Where noise or pure overhead hides the slope, nearly all of the time is a fixed part.
  if (own.length > 1 && !(rise > 0)) {
    return { gflops: large.segment.flops / 1e6 / (0.01 * large.ms), overheadMs: 0.99 * large.ms };
  }
  const perFlop = own.length > 1
    ? Math.min(rise, large.ms / large.segment.flops)
    : large.ms / large.segment.flops;
  return { gflops: 1 / (perFlop * 1e6), overheadMs: Math.max(0, large.ms - perFlop * large.segment.flops) };
}

/** Median time of each segment over the rounds. */
async function medians(rounds: number, measure: () => Promise<Sample[]>): Promise<Sample[]> {
  const all: Sample[][] = [];
  for (let i = 0; i < rounds + 2; i++) all.push(await measure());
  const warm = all.slice(2);
  return warm[0]!.map(({ segment }, k) => {
    const times = warm.map((samples) => samples[k]!.ms).sort((a, b) => a - b);
    return { segment, ms: times[Math.floor(times.length / 2)]! };
  });
}

function oneSequence({ tokens, targets, mask, length }: TokenBatch): TokenBatch {
  return {
    tokens: tokens.subarray(0, length),
    targets: targets.subarray(0, length),
    mask: mask.subarray(0, length),
    batch: 1,
    length,
  };
}

async function timed(work: () => unknown): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}

/** The edge server's segments in one layer. What it reads back for the devices belongs to them. */
async function timeLayer(base: Gpt2Layers, size: StepShape, batch: number): Promise<Sample[]> {
  const layer = base.layers[0]!;
  const { n_head: heads, n_embd: d, layer_norm_epsilon: epsilon } = base.config;
  const { engine } = layer.qkv[0].value;
  const tokens = batch * size.length;
  const headSize = d / heads;
  const values = (columns: number, label: string) =>
    engine.upload(wave(tokens * columns), tokens, columns, label);
  const sample = (name: Parameters<typeof layerWork>[1], ms: number): Sample => ({
    segment: layerWork(size, name, tokens),
    ms: Math.max(ms, 1e-3),
  });
  using list = engine.upload(Uint32Array.from({ length: heads }, (_, h) => h), 1, heads, "all heads");
  const columns = (from: Tensor, first: number) => gatherHeadColumns(from, { first, headSize, heads: list });
  await engine.idle();
  const idle = await timed(() => engine.idle());
  using first = new Tape(engine, { training: true });
  using second = new Tape(engine, { training: true });
  const h = first.variable(values(d, "h"), { needsGradient: true });
  const norm = await timed(async () => {
    const normed = normOp(first, h, layer.norm1, epsilon);
    using blocks = columns(normed.value, 0);
    await engine.read([blocks]);
    normed.addGradient(values(d, "d norm"));
  });
  const x = first.variable(values(d, "x"), { needsGradient: true });
  const products = await timed(async () => {
    const qkv = await loraLinearOp(first, x, layer.qkv);
    qkv.addGradient(values(3 * d, "dqkv"));
    await engine.idle();
  });
  const qkv = second.variable(values(3 * d, "qkv"), { needsGradient: true });
  const residual = second.variable(values(d, "residual"), { needsGradient: true });
  let out = residual;
  const rest = await timed(async () => {
    for (const target of size.lora.targets.keys()) {
      using deltas = engine.upload(wave(tokens * d), heads * tokens, headSize, "deltas");
      scatterAddHeadColumns(deltas, qkv.value, { first: target * d, headSize, heads: list });
    }
    const mixed = attentionOp(second, qkv, { batch, length: size.length, heads });
    out = linearOp(second, mixed, layer.projection, residual);
    out = feedForwardOp(second, normOp(second, out, layer.norm2, epsilon), layer, out);
    await engine.idle();
  });
  out.addGradient(values(d, "dh"));
  const restBackward = await timed(async () => {
    await second.backward();
    const blocks = [...size.lora.targets.keys()].map((target) => columns(qkv.gradient!, target * d));
    await engine.read(blocks);
    for (const block of blocks) block.dispose();
  });
  const productsBackward = await timed(async () => {
    await first.backward();
    await engine.idle();
  });
  return [
    sample("norm", norm),
    sample("qkv", products - idle),
    sample("rest", rest - idle),
    sample("restBackward", restBackward),
    sample("qkvBackward", productsBackward - idle),
  ];
}

/** The data device's segments. */
async function timeData(
  ends: Gpt2EmbeddingAndHead,
  size: StepShape,
  batch: TokenBatch,
  settings: LossSettings,
): Promise<Sample[]> {
  const { engine } = ends.tokens.value;
  const tokens = batch.batch * batch.length;
  const { hidden } = size.model;
  const embed = await timed(async () => {
    using embedding = embedTokens(ends, batch);
    await engine.read([embedding]);
  });
  const h = wave(tokens * hidden);
  const loss = await timed(async () => {
    using state = engine.upload(h, tokens, hidden, "h_L");
    const { losses, gradient } = modelLoss(ends, state, batch, { ...settings, gradient: true });
    await engine.read([gradient!, ...losses]);
    for (const tensor of [gradient!, ...losses]) tensor.dispose();
  });
  const counted = batch.mask.reduce((sum, m) => sum + (m === 0 ? 0 : 1), 0);
  return [
    { segment: embedWork(size, tokens), ms: embed },
    { segment: lossWork(size, { tokens, counted, training: true }), ms: loss },
  ];
}

/** A device's segments, with as many heads as its modules have. The update is that of `layers` layers. */
async function timeHeads(
  modules: HeadModules,
  size: StepShape,
  tokens: number,
  layers: number,
): Promise<Sample[]> {
  const { lora, range: { count } } = modules.options;
  const kept = Array.from({ length: count }, (_, i) => i);
  const engine = modules.headList(kept).engine;
  const width = modules.input.deltaColumns(modules.size);
  const blocks = (label: string) => engine.upload(wave(count * tokens * width), count * tokens, width, label);
  const { rows, columns } = inputRows(modules.input.shape(count, tokens, modules.size));
  const input = wave(rows * columns);
  const forward = await timed(async () => {
    const x = engine.upload(input, rows, columns, "input");
    const deltas = modules.forward(0, kept, x, { step: 0, mode: "train", ownsInput: true });
    await engine.read(deltas);
    for (const delta of deltas) delta.dispose();
  });
  const backward = await timed(async () => {
    const dDeltas = lora.targets.map(() => blocks("delta gradient"));
    using dx = modules.backward(0, dDeltas, { step: 0, needsInput: true });
    await engine.read([dx!]);
    for (const tensor of dDeltas) tensor.dispose();
  });
  const update = await timed(() => modules.update(0, new Uint8Array(count), ["gradientNorm"]));
  return [
    { segment: headsForwardWork(size, tokens, count), ms: forward },
    { segment: headsBackwardWork(size, { tokens, kept: count, needsInput: true }), ms: backward },
    { segment: updateWork(size, layers * count), ms: layers * update },
  ];
}

const waves = new Map<number, Float32Array>();

/** Values that are neither zero nor large; made once for each length, as making them takes longer than most segments. */
function wave(length: number): Float32Array {
  let values = waves.get(length);
  if (values === undefined) {
    waves.set(length, values = Float32Array.from({ length }, (_, i) => 0.5 * Math.sin(i)));
  }
  return values;
}
