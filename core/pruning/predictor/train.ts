/**
 * Training the predictor on the GPU: mean squared error, Adam, early stop; and how good it is.
 *
 * L = layers, H = heads per layer, B = windows of a batch.
 *
 * @module
 */

import { type Engine, sigmoidLoss } from "@edgetuner/kernels";
import { permutation, type RandomStream, randomStream } from "../../model/random.ts";
import { Tape } from "../../model/tape.ts";
import { predictorForward } from "./forward.ts";
import { PredictorNetwork } from "./network.ts";
import type { Predictor } from "./predictor.ts";
import {
  embeddingStatistics,
  meanImportance,
  type PredictorFeatures,
  predictorFeatures,
  type PredictorWindow,
  type TrackedStep,
  windowsOf,
} from "./windows.ts";

/** Settings of a training. */
export interface PredictorTraining {
  /** Most passes over the training windows. @default {100} */
  readonly epochs?: number;
  /** Epochs without a better validation error after which training stops. @default {15} */
  readonly patience?: number;
  /** Windows per update. @default {16} */
  readonly batch?: number;
  /** Adam's learning rate. @default {1e-3} */
  readonly rate?: number;
  /** Decoupled weight decay. @default {0.01} */
  readonly decay?: number;
  /**
   * Deviation of the noise that is added to standardised embeddings while training: so few samples are
   * learnt by heart from them otherwise.
   *
   * @default {1}
   */
  readonly noise?: number;
  /** Seed of order and noise. @default {0} */
  readonly seed?: number;
  /** Hears of every epoch. */
  readonly onEpoch?: (epoch: PredictorEpoch) => void;
  /** Ends the training. */
  readonly signal?: AbortSignal;
  /** Asked before each batch: if it returns true, training ends with the best predictor so far. */
  readonly shouldStop?: (() => boolean) | undefined;
}

/** One pass over the training windows. */
export interface PredictorEpoch {
  /** From 1; 0 is before training. */
  readonly epoch: number;
  /** Mean squared error over the training windows, during the pass; `NaN` for epoch 0. */
  readonly train: number;
  /** Mean squared error over the validation windows after the pass. */
  readonly valid: number;
}

/** What came of a training. */
export interface PredictorResult {
  /** The best predictor by validation error. */
  readonly predictor: Predictor;
  /** Its epoch; 0 = the start was best. */
  readonly best: PredictorEpoch;
  /** All epochs, the one before training first. */
  readonly epochs: readonly PredictorEpoch[];
}

/**
 * Learning rate of everything but the convolutions, as a share of theirs. The convolutions say the same of
 * every head, which a few hundred steps can teach; the rest says something else of each head, and learns the
 * steps by heart if it may go first.
 */
const DENSE_RATE = 0.1;

interface Labelled {
  readonly features: PredictorFeatures;
  readonly window: PredictorWindow;
}

/**
 * Trains a predictor. The embeddings' standardisation is taken from the training windows if the start has
 * none of its own (a scale of ones). The same arguments give the same predictor on the same adapter.
 *
 * @param engine Where.
 * @param start The predictor to start from; not changed.
 * @param data Windows to fit, windows to stop by, and ||W||_F per head.
 * @param options See `PredictorTraining`.
 * @throws {RangeError} If there are no training or no validation windows.
 */
export async function trainPredictor(
  engine: Engine,
  start: Predictor,
  data: {
    readonly train: readonly PredictorWindow[];
    readonly valid: readonly PredictorWindow[];
    readonly baseNorm: Float32Array | null;
  },
  options: PredictorTraining = {},
): Promise<PredictorResult> {
  const { epochs = 100, patience = 15, batch = 16, rate = 1e-3, decay = 0.01, noise = 1, seed = 0 } = options;
  for (const name of ["train", "valid"] as const) {
    if (data[name].length === 0) {
      throw new RangeError(
        `Cannot train the predictor as there must be windows in "${name}": there are none; collect more steps`,
      );
    }
  }
  const weights = { ...start.weights };
  if (weights["embedding.scale"]!.every((x) => x === 1)) {
    const { mean, scale } = embeddingStatistics(data.train, start.config.hidden);
    weights["embedding.mean"] = mean;
    weights["embedding.scale"] = scale;
  }
  let predictor: Predictor = { config: start.config, weights };
  const label = (window: PredictorWindow): Labelled => ({
    window,
    features: predictorFeatures(predictor, window.before, window.now, data.baseNorm),
  });
  const train = data.train.map(label);
  const valid = data.valid.map(label);
  using network = new PredictorNetwork(engine, predictor);
  const adamw = { rate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay };
  const slow = { ...adamw, rate: rate * DENSE_RATE };
  const first = { epoch: 0, train: NaN, valid: await meanError(network, valid, batch) };
  let best: PredictorEpoch = first;
  const all = [first];
  options.onEpoch?.(first);
  for (let epoch = 1; epoch <= epochs && epoch - best.epoch <= patience; epoch++) {
    options.signal?.throwIfAborted();
    const random = randomStream(seed, epoch);
    const order = [...permutation(train.length, random)].map((i) => withNoise(train[i]!, noise, random));
    const error = await meanError(network, order, batch, () => {
      if (options.shouldStop?.()) return false;
      for (const [name, parameter] of network.parameters) {
        parameter.update(name.startsWith("maps.") ? adamw : slow);
      }
      return true;
    });
    if (options.shouldStop?.()) break;
    const now = { epoch, train: error, valid: await meanError(network, valid, batch) };
    all.push(now);
    options.onEpoch?.(now);
    if (now.valid < best.valid) {
      best = now;
      predictor = { config: start.config, weights: { ...weights, ...await network.read() } };
    }
  }
  return { predictor, best, epochs: all };
}

/** Adds uniform noise of a given deviation to the embeddings. */
function withNoise(item: Labelled, deviation: number, random: RandomStream): Labelled {
  const bound = Math.sqrt(3) * deviation;
  const tokens = item.features.tokens.map((x) => x + bound * (2 * random.float() - 1));
  return { ...item, features: { ...item.features, tokens } };
}

/**
 * Mean squared error over windows, in batches.
 *
 * @param update Called after the gradients of each batch are there; without it nothing is trained. False ends it.
 */
async function meanError(
  network: PredictorNetwork,
  all: readonly Labelled[],
  size: number,
  update?: () => boolean,
): Promise<number> {
  let sum = 0, total = 0;
  for (let i = 0; i < all.length; i += size) {
    const batch = all.slice(i, i + size);
    const error = await batchError(network, batch, { training: update !== undefined });
    if (update?.() === false) break;
    sum += error.sum;
    total += error.total;
  }
  return total > 0 ? sum / total : 0;
}

/** Sum of squared errors of a batch, and of their weights; adds up the gradients if asked for. */
export async function batchError(
  network: PredictorNetwork,
  batch: readonly { readonly features: PredictorFeatures; readonly window: PredictorWindow }[],
  { training }: { readonly training: boolean },
): Promise<{ readonly sum: number; readonly total: number }> {
  const { layers, heads } = network.config;
  const size = layers * heads;
  const join = (part: (item: typeof batch[number]) => ArrayLike<number>) => {
    const data = new Float32Array(batch.length * size);
    batch.forEach((item, i) => data.set(part(item), i * size));
    return data;
  };
  const labels = join(({ window }) => window.now.importance);
  const seen = join(({ window }) => window.now.seen);
  const total = seen.reduce((a, b) => a + b, 0);
  if (training) { for (const parameter of network.parameters.values()) parameter.zeroGradient(); }
  const { engine } = [...network.parameters.values()][0]!.value;
  using tape = new Tape(engine, { training });
  const z = await network.forward(tape, batch.map(({ features }) => features));
  using offset = engine.upload(join(({ features }) => features.offset), batch.length, size, "offset");
  using target = engine.upload(labels, batch.length, size, "labels");
  using weight = engine.upload(seen, batch.length, size, "seen");
  const { p, dz } = sigmoidLoss(z.value, { offset, target, weight, total: Math.max(1, total) });
  const values = p.read();
  p.dispose();
  if (training) {
    z.addGradient(dz);
    await tape.backward();
  } else dz.dispose();
  const predicted = await values;
  return { sum: predicted.reduce((sum, x, i) => sum + seen[i]! * (x - labels[i]!) ** 2, 0), total };
}

/** How good a way to predict importance is. */
export interface PredictionQuality {
  /** Mean squared error against the smoothed importance of the step itself. */
  readonly mse: number;
  /** Spearman's rank correlation over the heads of a step, mean over the steps; 0 where all are equal. */
  readonly spearman: number;
}

/** The predictor beside three simple ways. */
export interface PredictorComparison {
  /** The predictor. */
  readonly predictor: PredictionQuality;
  /** The last step's gradients, normalised. */
  readonly lastGradient: PredictionQuality;
  /** The mean of the last K smoothed maps. */
  readonly runningMean: PredictionQuality;
  /** One number for all heads: the mean label of the training windows. */
  readonly uniform: PredictionQuality;
}

/**
 * Compares the predictor with three simple ways on windows that it has not seen.
 *
 * @param predictor The predictor.
 * @param windows Held-out windows; heads that were not seen are left out.
 * @param options ||W||_F per head, and the mean label of the training windows.
 */
export function comparePredictors(
  predictor: Predictor,
  windows: readonly PredictorWindow[],
  options: { readonly baseNorm: Float32Array | null; readonly meanLabel: number },
): PredictorComparison {
  const quality = (predict: (window: PredictorWindow) => Float32Array): PredictionQuality => {
    let squares = 0, count = 0, correlation = 0;
    for (const window of windows) {
      const { importance, seen } = window.now;
      const shown = [...seen.keys()].filter((i) => seen[i] === 1);
      const predicted = predict(window);
      for (const i of shown) squares += (predicted[i]! - importance[i]!) ** 2;
      count += shown.length;
      correlation += rankCorrelation(shown.map((i) => predicted[i]!), shown.map((i) => importance[i]!));
    }
    return { mse: squares / count, spearman: correlation / windows.length };
  };
  return {
    predictor: quality(({ before, now }) =>
      predictorForward(predictor, predictorFeatures(predictor, before, now, options.baseNorm))
    ),
    lastGradient: quality(({ before }) => before.at(-1)!.gradient),
    runningMean: quality(({ before }) => meanImportance(before)),
    uniform: quality(({ now }) => now.importance.map(() => options.meanLabel)),
  };
}

/** Mean label over windows, of the heads that were seen. */
export function meanLabel(windows: readonly PredictorWindow[]): number {
  let sum = 0, count = 0;
  for (const { now } of windows) {
    now.importance.forEach((x, i) => {
      sum += now.seen[i]! * x;
      count += now.seen[i]!;
    });
  }
  return count > 0 ? sum / count : 0;
}

/** Ranks from 0; equal values share the mean of theirs. */
function ranksOf(values: readonly number[]): number[] {
  const order = values.map((_, i) => i).sort((i, j) => values[i]! - values[j]!);
  const ranks = new Array<number>(values.length);
  for (let from = 0, to = 0; from < order.length; from = to) {
    while (to < order.length && values[order[to]!] === values[order[from]!]) to++;
    for (let k = from; k < to; k++) ranks[order[k]!] = (from + to - 1) / 2;
  }
  return ranks;
}

/**
 * Spearman's rank correlation of two lists.
 *
 * @example
 * ```ts
 * import { rankCorrelation } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(rankCorrelation([1, 5, 9], [0.1, 0.2, 0.7]), 1);
 * ```
 *
 * @returns In [-1, 1]; 0 if all values of a list are equal.
 */
export function rankCorrelation(a: readonly number[], b: readonly number[]): number {
  const [x, y] = [ranksOf(a), ranksOf(b)];
  const mean = (a.length - 1) / 2;
  let xy = 0, xx = 0, yy = 0;
  for (let i = 0; i < x.length; i++) {
    const [dx, dy] = [x[i]! - mean, y[i]! - mean];
    xy += dx * dy;
    xx += dx * dx;
    yy += dy * dy;
  }
  return xx > 0 && yy > 0 ? xy / Math.sqrt(xx * yy) : 0;
}

/** What a predictor is trained on during a run. */
export interface PredictorRequest {
  /** The predictor to start from. */
  readonly start: Predictor;
  /** Consecutive steps of the run, at least 2 K + 4. */
  readonly run: readonly TrackedStep[];
  /** ||W||_F per head, [L * H]; `null` if not known. */
  readonly baseNorm: Float32Array | null;
  /** Seed of the order. */
  readonly seed: number;
}

/** Trains a predictor during a run; the same request gives the same predictor. */
export type PredictorTrainer = (request: PredictorRequest) => Promise<Predictor>;

/**
 * A trainer for pruners that train online. Training stops by the last fifth of the steps, at least by K + 2.
 *
 * @param engine Where.
 * @param options As `trainPredictor` has them. @default {at most 40 epochs, patience 5}
 */
export function predictorTrainer(engine: Engine, options: PredictorTraining = {}): PredictorTrainer {
  return async ({ start, run, baseNorm, seed }) => {
    const { history } = start.config;
    const from = run.length - Math.max(history + 2, Math.ceil(run.length / 5));
    const data = {
      train: windowsOf(run.slice(0, from), history),
      valid: windowsOf(run.slice(from), history),
      baseNorm,
    };
    const settings = { epochs: 40, patience: 5, ...options, seed };
    return (await trainPredictor(engine, start, data, settings)).predictor;
  };
}
