/**
 * What the predictor sees: windows of K steps, and the numbers made of them.
 *
 * L = layers, H = heads per layer, d = hidden size, K = history length, C = channels of the maps.
 *
 * @module
 */

import { minMaxNormalise, smoothImportance } from "../importance.ts";
import { MAP_CHANNELS, type Predictor } from "./predictor.ts";
import type { SampleSet } from "./samples.ts";

/** What is known of a step before it. */
export interface StepView {
  /** Mean over tokens of its embeddings E, [d]; `null` if not known. */
  readonly embedding: Float32Array | null;
  /** ||Delta W||_F per head before the step, [L * H]; `null` if not known. */
  readonly loraNorm: Float32Array | null;
}

/** What is known of a step after it. */
export interface TrackedStep extends StepView {
  /** G, min-max normalised, [L * H]; 0 for heads that were not seen. */
  readonly gradient: Float32Array;
  /** S, smoothed, [L * H]; in [0, 1]. */
  readonly importance: Float32Array;
  /** 1 for heads whose gradient was observed, [L * H]. */
  readonly seen: Uint8Array;
  /** Mean of S since the start of the run, of about the last 33 steps later on, [L * H]. */
  readonly longRun: Float32Array;
  /** Steps tracked so far, this one included. */
  readonly age: number;
}

/** Weight of the newest step in the long-run mean, once there are enough. */
const LONG_RUN = 0.03;

/**
 * Adds what a step has shown to a run.
 *
 * @param previous The step before; `null` at the start of a run.
 * @param shown The step; its S is already smoothed.
 */
export function trackStep(
  previous: TrackedStep | null,
  shown: Omit<TrackedStep, "longRun" | "age">,
): TrackedStep {
  const age = (previous?.age ?? 0) + 1;
  const weight = Math.max(LONG_RUN, 1 / age);
  const longRun = shown.importance.map((x, i) => {
    const before = previous?.longRun[i] ?? x;
    return before + weight * (x - before);
  });
  return { ...shown, longRun, age };
}

/** K steps and the one whose importance is to be predicted. */
export interface PredictorWindow {
  /** The steps before, oldest first; K of them, fewer at the start of a run. */
  readonly before: readonly TrackedStep[];
  /** The step itself. Its embedding and LoRA norms are inputs, the rest is the label. */
  readonly now: TrackedStep;
}

/** Runs of steps without a gap in a sample file, tracked from the start of each. */
export function trackSamples({ samples }: SampleSet, lambda: number): TrackedStep[][] {
  const runs: TrackedStep[][] = [];
  samples.forEach((sample, i) => {
    const last = samples[i - 1];
    if (last === undefined || last.seed !== sample.seed || last.step + 1 !== sample.step) runs.push([]);
    const run = runs.at(-1)!;
    const gradient = minMaxNormalise(sample.gradientNorm);
    const previous = run.at(-1) ?? null;
    run.push(trackStep(previous, {
      embedding: sample.embeddingMean,
      loraNorm: sample.loraNorm,
      gradient,
      importance: smoothImportance(gradient, previous?.importance ?? null, lambda),
      seen: new Uint8Array(gradient.length).fill(1),
    }));
  });
  return runs;
}

/** All whole windows of a run of steps, in order: the first one predicts step K. */
export function windowsOf(run: readonly TrackedStep[], history: number): PredictorWindow[] {
  return run.slice(history).map((now, i) => ({ before: run.slice(i, i + history), now }));
}

/** Windows to train on, to stop by and to report on. */
export interface WindowSplit {
  /** The weights are fitted to these. */
  readonly train: readonly PredictorWindow[];
  /** The number of epochs is chosen by these. */
  readonly valid: readonly PredictorWindow[];
  /** Neither: figures to report. */
  readonly test: readonly PredictorWindow[];
}

/** Shares of the steps of a run, which are the last ones. */
export interface HeldOutShares {
  /** To stop by. */
  readonly valid: number;
  /** To report on. */
  readonly test: number;
}

/**
 * How many steps of a run each part gets.
 *
 * @param steps Steps of the run.
 * @param shares Shares of the parts that are held out.
 */
export function splitSteps(
  steps: number,
  shares: HeldOutShares,
): { readonly train: number; readonly valid: number; readonly test: number } {
  const testFrom = Math.round(steps * (1 - shares.test));
  const validFrom = Math.round(steps * (1 - shares.test - shares.valid));
  return { train: validFrom, valid: testFrom - validFrom, test: steps - testFrom };
}

/**
 * Splits the steps of each run in time, then cuts windows within each part: no step is seen from two parts,
 * neither as a label nor as an input.
 *
 * @param runs Runs of steps without a gap.
 * @param history K.
 * @param shares Shares of the steps for `valid` and `test`, which are the last ones.
 */
export function splitWindows(
  runs: readonly (readonly TrackedStep[])[],
  history: number,
  shares: HeldOutShares,
): WindowSplit {
  const split = {
    train: [] as PredictorWindow[],
    valid: [] as PredictorWindow[],
    test: [] as PredictorWindow[],
  };
  for (const run of runs) {
    const { train, valid } = splitSteps(run.length, shares);
    split.train.push(...windowsOf(run.slice(0, train), history));
    split.valid.push(...windowsOf(run.slice(train, train + valid), history));
    split.test.push(...windowsOf(run.slice(train + valid), history));
  }
  return split;
}

/** Mean of the importance maps, [L * H]. */
export function meanImportance(steps: readonly TrackedStep[]): Float32Array {
  return steps[0]!.importance.map((_, i) =>
    steps.reduce((sum, s) => sum + s.importance[i]!, 0) / steps.length
  );
}

/** The numbers that the network reads for one window. */
export interface PredictorFeatures {
  /** Standardised embeddings of the last K steps, this one last, [K, d]. */
  readonly tokens: Float32Array;
  /** [C, L, H]. */
  readonly maps: Float32Array;
  /** logit of the mean of the last K maps, [L * H]. */
  readonly offset: Float32Array;
}

/** Keeps the logit of a mean finite. */
const MARGIN = 0.01;
/** Standardised values are cut off here, so that no outlier carries far. */
const LIMIT = 5;
/** Keeps the slope of the logit finite. */
const LEAST_SLOPE = 0.05;

function clamp(x: number): number {
  return Math.max(-LIMIT, Math.min(LIMIT, x));
}

/** Logarithms with mean 0 and deviation 1 over the map; zeros if the map is flat or not known. */
function standardisedLogs(map: Float32Array | null, size: number): Float32Array {
  if (map === null || !map.every(Number.isFinite)) return new Float32Array(size);
  const logs = Float64Array.from(map, (x) => Math.log(Math.max(x, 1e-12)));
  const mean = logs.reduce((a, b) => a + b, 0) / size;
  const deviation = Math.sqrt(logs.reduce((sum, x) => sum + (x - mean) ** 2, 0) / size);
  return deviation > 1e-6
    ? Float32Array.from(logs, (x) => clamp((x - mean) / deviation))
    : new Float32Array(size);
}

/**
 * Makes the network's inputs. The C = 7 maps are: the logit of the mean of the last K maps (halved), the newest
 * map less the mean, the mean of the newer half less the mean, the long-run mean less the mean and the
 * deviation over the K maps, each divided by the slope of the logit, and the base and LoRA norms, standardised logarithms.
 *
 * @param predictor For K, d and the standardisation of embeddings.
 * @param before The steps before, oldest first, at least one; maps of missing ones are left out of the means,
 * their embeddings are taken as average.
 * @param now What is known of the step to come.
 * @param baseNorm ||W||_F per head, [L * H]; `null` if not known.
 */
export function predictorFeatures(
  { config, weights }: Predictor,
  before: readonly TrackedStep[],
  now: StepView,
  baseNorm: Float32Array | null,
): PredictorFeatures {
  const { layers, heads, hidden, history } = config;
  const size = layers * heads;
  const tokens = new Float32Array(history * hidden);
  const [mean, scale] = [weights["embedding.mean"]!, weights["embedding.scale"]!];
  [...before.slice(-(history - 1)), now].slice(-history).forEach(({ embedding }, i, all) => {
    if (embedding === null || embedding.length !== hidden) return;
    const at = (history - all.length + i) * hidden;
    for (let j = 0; j < hidden; j++) {
      const x = clamp((embedding[j]! - mean[j]!) * scale[j]!);
      tokens[at + j] = Number.isNaN(x) ? 0 : x;
    }
  });
  const average = meanImportance(before);
  const newer = meanImportance(before.slice(-Math.ceil(before.length / 2)));
  const { importance: newest, longRun } = before.at(-1)!;
  const offset = average.map((x) => {
    const inside = Math.max(MARGIN, Math.min(1 - MARGIN, x));
    return Math.log(inside / (1 - inside));
  });
  const maps = new Float32Array(MAP_CHANNELS * size);
  for (let i = 0; i < size; i++) {
    const m = average[i]!;
    const variance = before.reduce((sum, s) => sum + (s.importance[i]! - m) ** 2, 0) / before.length;
    // A difference as the logit sees it: the correction is added there.
    const inLogits = (difference: number) => clamp(difference / (m * (1 - m) + LEAST_SLOPE));
    maps[i] = offset[i]! / 2;
    maps[size + i] = inLogits(newest[i]! - m);
    maps[2 * size + i] = inLogits(newer[i]! - m);
    maps[3 * size + i] = inLogits(longRun[i]! - m);
    maps[4 * size + i] = inLogits(Math.sqrt(variance));
  }
  maps.set(standardisedLogs(baseNorm, size), 5 * size);
  maps.set(standardisedLogs(now.loraNorm, size), 6 * size);
  return { tokens, maps, offset };
}

/** Mean and inverse deviation of each element of the embeddings, for `embedding.mean` and `embedding.scale`. */
export function embeddingStatistics(
  windows: readonly PredictorWindow[],
  hidden: number,
): { readonly mean: Float32Array; readonly scale: Float32Array } {
  const all = windows.map((w) => w.now.embedding).filter((e) => e !== null);
  const mean = new Float64Array(hidden);
  for (const e of all) e.forEach((x, j) => mean[j]! += x / all.length);
  const variance = new Float64Array(hidden);
  for (const e of all) e.forEach((x, j) => variance[j]! += (x - mean[j]!) ** 2 / all.length);
  return {
    mean: Float32Array.from(mean, (x) => Number.isFinite(x) ? x : 0),
    scale: Float32Array.from(variance, (v) => v > 1e-20 && Number.isFinite(v) ? 1 / Math.sqrt(v) : 0),
  };
}
