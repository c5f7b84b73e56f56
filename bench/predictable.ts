/**
 * What of the importance of heads is predictable at all, as two Markdown tables.
 *
 * The first is of held-out steps of a file of samples (`edgetuner train-pruner`): the errors of ways that know the steps
 * before, and of oracles that know something of the step itself. The second is of one moment of a run, with the weights
 * held: how far labels lie apart for nothing but another batch, and how much of that its mean embedding tells.
 *
 * @module
 */

import {
  comparePredictors,
  loadEmbeddingAndHead,
  loadLayers,
  loadPredictor,
  loadSamples,
  LocalData,
  LocalTraining,
  meanLabel,
  openModel,
  type PredictorWindow,
  probeStep,
  type Pruner,
  shuffledBatches,
  splitWindows,
  type TrackedStep,
  trackSamples,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { integer, number, runProgram, text } from "../cli/flags/flags.ts";
import { TUNING_FLAGS, tuningSettings } from "../cli/flags/tuning_flags.ts";
import { loadGpu } from "../cli/flags/webgpu.ts";
import { OWN_CALL } from "../cli/process/invocation.ts";
import { readFitted } from "../cli/shared/fitting.ts";
import { loadTrainingSet } from "../cli/shared/training_data.ts";
import { RUN_FLAGS } from "./_run_flags.ts";

const FLAGS = {
  ...TUNING_FLAGS,
  steps: {
    ...TUNING_FLAGS.steps,
    default: 120,
    help: "steps before the moment in which the weights are held",
  },
  samples: text("FILE", "runs/pruner_samples.bin", "file of samples"),
  predictor: text("DIR", "", "a predictor that was trained on them"),
  "held-out": number(
    "X",
    0,
    "share of each run that is held out, for short ones: its steps then see those before; 0 = as train-pruner splits",
    { min: 0, max: 0.9 },
  ),
  batches: integer("N", 300, "batches at that moment; 0 leaves it out", { min: 0 }),
  ...RUN_FLAGS,
};

const PROGRAM = {
  name: "bench_predictable.ts",
  about: "What of the importance of heads is predictable.",
  examples: ["deno run -A bench/predictable.ts --samples runs/pruner_samples.bin --predictor runs/predictor"],
};

/** K, steps that are seen, and lambda, weight of the newest in a label: those of the predictor. */
const [HISTORY, LAMBDA] = [10, 0.8];
/** As `train-pruner` splits runs. */
const HELD_OUT = { valid: 0.15, test: 0.15 };

type Vector = ArrayLike<number>;

/** Ridge regression: weights that take rows to targets with least squares. */
function ridge(rows: readonly Vector[], targets: readonly number[], strength: number): number[] {
  const n = rows[0]!.length;
  const matrix = Array.from({ length: n }, () => new Float64Array(n));
  const right = new Float64Array(n);
  rows.forEach((row, r) => {
    for (let i = 0; i < n; i++) {
      right[i]! += row[i]! * targets[r]!;
      for (let j = 0; j < n; j++) matrix[i]![j]! += row[i]! * row[j]!;
    }
  });
  const scale = matrix.reduce((sum, row, i) => sum + row[i]!, 0) / n;
  for (let i = 0; i < n; i++) matrix[i]![i]! += strength * scale + 1e-12;
  for (let i = 0; i < n; i++) {
    for (let k = i + 1; k < n; k++) {
      const factor = matrix[k]![i]! / matrix[i]![i]!;
      for (let j = i; j < n; j++) matrix[k]![j]! -= factor * matrix[i]![j]!;
      right[k]! -= factor * right[i]!;
    }
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let j = i + 1; j < n; j++) right[i]! -= matrix[i]![j]! * right[j]!;
    right[i]! /= matrix[i]![i]!;
  }
  return [...right];
}

const dot = (a: Vector, b: Vector) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
};
const meanOf = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
/** Mean of the maps of steps. */
const meanMap = (maps: readonly Vector[]) =>
  Array.from(maps[0]!, (_, i) => meanOf(maps.map((map) => map[i]!)));

type Predict = (window: PredictorWindow) => Vector;

function errorOf(windows: readonly PredictorWindow[], predict: Predict): number {
  return meanOf(windows.map((window) => {
    const predicted = predict(window);
    return meanOf(Array.from(window.now.importance, (x, i) => (x - predicted[i]!) ** 2));
  }));
}

const runningMean: Predict = ({ before }) => meanMap(before.map((step) => step.importance));

/** A label is lambda G + (1 - lambda) S of the step before, which is known: G alone is guessed. */
const knownPart: Predict = ({ before }) => {
  const guess = meanMap(before.map((step) => step.gradient));
  return guess.map((g, i) => LAMBDA * g + (1 - LAMBDA) * before.at(-1)!.importance[i]!);
};

/** The best linear filter of the last K gradients, the last S and the long-run mean, the same for all heads. */
function linearFilter(train: readonly PredictorWindow[]): Predict {
  const rowsOf = ({ before }: PredictorWindow) =>
    Array.from(before[0]!.gradient, (_, i) => [
      ...before.map((step) => step.gradient[i]!),
      before.at(-1)!.importance[i]!,
      before.at(-1)!.longRun[i]!,
      1,
    ]);
  const weights = ridge(train.flatMap(rowsOf), train.flatMap(({ now }) => [...now.importance]), 1e-6);
  return (window) => rowsOf(window).map((row) => dot(row, weights));
}

/** Knows of the step itself the best factor and shift of the running mean, one of each for all heads. */
const knowsLevel: Predict = (window) => {
  const mean = runningMean(window);
  const rows = Array.from(mean, (x) => [x, 1]);
  const weights = ridge(rows, [...window.now.importance], 0);
  return rows.map((row) => dot(row, weights));
};

/** Knows of the step itself the mean of each layer's labels. */
function knowsLayers(heads: number): Predict {
  return (window) => {
    const mean = [...Array.from(runningMean(window))];
    for (let l = 0; l < mean.length; l += heads) {
      const own = window.now.importance.slice(l, l + heads);
      const shift = meanOf([...own]) - meanOf(mean.slice(l, l + heads));
      for (let i = l; i < l + heads; i++) mean[i]! += shift;
    }
    return mean;
  };
}

/** Knows of the step itself how much of each of the main directions in which labels leave the mean it has. */
function knowsDirections(train: readonly PredictorWindow[], count: number): Predict {
  const residuals = train.map((window) => {
    const mean = runningMean(window);
    return Array.from(window.now.importance, (x, i) => x - mean[i]!);
  });
  const directions: number[][] = [];
  for (let k = 0; k < count; k++) {
    let direction = residuals[0]!.map((_, i) => Math.sin(i + k + 1));
    for (let turn = 0; turn < 60; turn++) {
      const next = new Array<number>(direction.length).fill(0);
      for (const r of residuals) {
        const along = dot(r, direction);
        r.forEach((x, i) => next[i]! += along * x);
      }
      for (const known of directions) {
        const along = dot(next, known);
        known.forEach((x, i) => next[i]! -= along * x);
      }
      const length = Math.sqrt(dot(next, next));
      direction = next.map((x) => x / length);
    }
    directions.push(direction);
  }
  return (window) => {
    const mean = Array.from(runningMean(window));
    const residual = mean.map((x, i) => window.now.importance[i]! - x);
    for (const direction of directions) {
      const along = dot(residual, direction);
      direction.forEach((x, i) => mean[i]! += along * x);
    }
    return mean;
  };
}

/** What two batches at nearly the same weights differ by: the error of who knows each head's mean, and no batch. */
function noiseOf(windows: readonly PredictorWindow[]): number {
  return meanOf(windows.map(({ before, now }) => {
    const last = before.at(-1)!.gradient;
    return LAMBDA ** 2 / 2 * meanOf(Array.from(now.gradient, (g, i) => (g - last[i]!) ** 2));
  }));
}

/** Windows with labels before and after a time in each run; inputs of the second may be labels of the first. */
function splitShort(runs: readonly (readonly TrackedStep[])[], heldOut: number) {
  const windows = runs.map((run) =>
    run.slice(HISTORY).map((now, i): PredictorWindow => ({ before: run.slice(i, i + HISTORY), now }))
  );
  const from = (all: readonly unknown[]) => Math.round(all.length * (1 - heldOut));
  return {
    train: windows.flatMap((all) => all.slice(0, from(all))),
    test: windows.flatMap((all) => all.slice(from(all))),
  };
}

async function tableOfSteps(
  { samples, predictor: folder, "held-out": heldOut }: {
    readonly samples: string;
    readonly predictor: string;
    readonly "held-out": number;
  },
): Promise<void> {
  const set = await loadSamples(samples);
  const runs = trackSamples(set, LAMBDA);
  const { train, test } = heldOut === 0 ? splitWindows(runs, HISTORY, HELD_OUT) : splitShort(runs, heldOut);
  const base = errorOf(test, runningMean);
  const ways: [name: string, error: number][] = [
    ["one number for all", errorOf(test, ({ now }) => now.importance.map(() => meanLabel(train)))],
    ["running mean of the last 10", base],
    ["the same, with what is known of the label", errorOf(test, knownPart)],
    ["best linear filter", errorOf(test, linearFilter(train))],
  ];
  if (folder !== "") {
    const predictor = await loadPredictor(folder);
    const options = { baseNorm: set.source.baseNorm, meanLabel: meanLabel(train) };
    ways.push(["predictor", comparePredictors(predictor, test, options).predictor.mse]);
  }
  ways.push(
    ["noise by neighbours: half the square of what two steps differ by", noiseOf(test)],
    ["oracle: factor and shift of this step", errorOf(test, knowsLevel)],
    ["oracle: this step's mean of each layer", errorOf(test, knowsLayers(set.source.heads))],
    ["oracle: this step's part of 3 directions", errorOf(test, knowsDirections(train, 3))],
  );
  console.log(`${test.length} held-out steps of ${runs.length} runs`);
  console.log("| what is known | squared error | of the running mean's |");
  console.log("| --- | ---: | ---: |");
  for (const [name, error] of ways) {
    console.log(`| ${name} | ${error.toFixed(5)} | ${(100 * error / base).toFixed(0)} % |`);
  }
}

/** Min-max normalised, as labels are. */
function normalised(map: Float32Array): Float32Array {
  const [least, most] = [Math.min(...map), Math.max(...map)];
  return map.map((x) => (x - least) / (most - least || 1));
}

async function main(): Promise<void> {
  const { flags } = await readFitted(PROGRAM, FLAGS, OWN_CALL);
  await tableOfSteps(flags);
  if (flags.batches === 0) return;
  const { model, tokenizer } = await openModel(flags.model, flags);
  const set = await loadTrainingSet(flags.data, { ...flags, encoder: tokenizer });
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  using base = loadLayers(engine, model);
  using ends = loadEmbeddingAndHead(engine, model);
  const batches = shuffledBatches(set, { batch: flags.batch, seed: flags.seed });
  const source = (step: number) =>
    step < flags.steps ? { batch: batches.next(), mode: "train" as const } : null;
  const seen: Float32Array[] = [];
  using training = new LocalTraining({
    ...{ engine, base, ends, settings: tuningSettings(flags), source },
    pruner: listening(seen),
  });
  await training.trainer.run();
  // The weights stay as they are now: what differs is the batch alone.
  const labels: Float32Array[] = [];
  const embeddings: Float32Array[] = [];
  const data = new LocalData(
    ends,
    { labelSmoothing: flags.smoothing },
    () => ({ batch: batches.next(), mode: "train" }),
  );
  for (let i = 0; i < flags.batches; i++) {
    const batch = (await data.next(i))!;
    const [rows, columns] = [batch.embedding.rows, batch.embedding.columns];
    const [values] = await engine.read([batch.embedding]);
    const mean = new Float32Array(columns);
    for (let at = 0; at < values!.length; at++) mean[at % columns]! += values![at]! / rows;
    embeddings.push(mean);
    labels.push(normalised(await probeStep({ engine, base, heads: training.heads, data }, i, batch)));
    batch.embedding.dispose();
    console.error(`${i + 1}/${flags.batches}`);
  }
  tableOfMoment({ labels, embeddings, seen }, flags.steps);
}

/** Keeps every head, and takes down what the steps show. */
function listening(seen: Float32Array[]): Pruner {
  return {
    name: "listening",
    needs: ["gradientNorm"],
    init: () => null,
    decide({ gradientNorm }, state, { layers, heads }) {
      if (gradientNorm !== null) seen.push(normalised(gradientNorm));
      return [{ mask: new Uint8Array(layers * heads) }, state];
    },
  };
}

/** The error of guesses of labels at one moment: both have the part that is known. */
function guessesOf(seen: readonly Float32Array[], labels: readonly Float32Array[]) {
  let smoothed = seen[0]!;
  const maps = seen.map((map) => smoothed = map.map((x, i) => LAMBDA * x + (1 - LAMBDA) * smoothed[i]!));
  const known = smoothed;
  const errorOfGuess = (guess: Vector) =>
    meanOf(
      labels.map((label) =>
        meanOf(Array.from(label, (x, i) => (LAMBDA * x + (1 - LAMBDA) * known[i]! - guess[i]!) ** 2))
      ),
    );
  const mean = meanMap(seen.slice(-HISTORY));
  return {
    runningMean: errorOfGuess(meanMap(maps.slice(-HISTORY))),
    knownPart: errorOfGuess(mean.map((g, i) => LAMBDA * g + (1 - LAMBDA) * known[i]!)),
  };
}

/** Labels of one moment: what their spread is, and what the mean embedding tells of it. */
function tableOfMoment(
  { labels, embeddings, seen }: Readonly<Record<"labels" | "embeddings" | "seen", readonly Float32Array[]>>,
  steps: number,
): void {
  const train = Math.floor(labels.length * 2 / 3);
  const known = meanMap(labels.slice(0, train));
  const spread = (predict: (i: number) => Vector) =>
    LAMBDA ** 2 * meanOf(
      labels.slice(train).map((label, at) => {
        const predicted = predict(train + at);
        return meanOf(Array.from(label, (x, i) => (x - predicted[i]!) ** 2));
      }),
    );
  const centre = meanMap(embeddings.slice(0, train));
  const rows = embeddings.map((e) => Array.from(e, (x, j) => x - centre[j]!));
  const withEmbedding = [0.01, 0.1, 1, 10, 100].map((strength) => {
    const weights = known.map((mean, i) =>
      ridge(rows.slice(0, train), labels.slice(0, train).map((label) => label[i]! - mean), strength)
    );
    return spread((at) => known.map((mean, i) => mean + dot(rows[at]!, weights[i]!)));
  });
  console.log(`\n${labels.length} batches with the weights of step ${steps} held`);
  console.log("| what is known | squared error of a label |");
  console.log("| --- | ---: |");
  const guesses = guessesOf(seen, labels.slice(train));
  console.log(`| running mean of the last 10 | ${guesses.runningMean.toFixed(5)} |`);
  console.log(`| the same, with what is known of the label | ${guesses.knownPart.toFixed(5)} |`);
  console.log(`| each head's mean over batches | ${spread(() => known).toFixed(5)} |`);
  console.log(`| and the batch's mean embedding, at its best | ${Math.min(...withEmbedding).toFixed(5)} |`);
}

await runProgram(main);
