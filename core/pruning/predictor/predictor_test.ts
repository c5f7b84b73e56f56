import {
  assert,
  assertEquals,
  assertLess,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { engineOf, normal, testForms } from "../../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../../tests/support/tolerance.ts";
import { ModelFileError } from "../../contracts/errors.ts";
import { randomStream } from "../../model/random.ts";
import { smoothImportance } from "../importance.ts";
import { predictImportance, predictorForward } from "./forward.ts";
import { PredictorNetwork } from "./network.ts";
import {
  initialPredictor,
  loadPredictor,
  type Predictor,
  type PredictorConfig,
  predictorShapes,
  requirePredictorShape,
  savePredictor,
} from "./predictor.ts";
import { loadSafetensors, writeSafetensors } from "../../files/safetensors.ts";
import { batchError, comparePredictors, meanLabel, rankCorrelation, trainPredictor } from "./train.ts";
import {
  meanImportance,
  predictorFeatures,
  type PredictorWindow,
  splitWindows,
  type TrackedStep,
  trackStep,
  windowsOf,
} from "./windows.ts";

const CONFIG: PredictorConfig = {
  layers: 3,
  heads: 5,
  hidden: 7,
  history: 4,
  lambda: 0.8,
  width: 16,
  channels: 3,
  fusion: 6,
};

/** A predictor no weight of which is zero. */
function anyPredictor(config = CONFIG): Predictor {
  const weights: Record<string, Float32Array> = {};
  let seed = 0;
  for (const [name, [rows, columns]] of predictorShapes(config)) {
    const shift = /scale|norm\d?\.weight/.test(name) ? 1 : 0;
    weights[name] = normal(rows * columns, ++seed, 0.3).map((x) => x + shift);
  }
  return { config, weights };
}

/** Steps with G = `gradient(step)`, whose embeddings are `embedding(step)`. */
function runOf(
  steps: number,
  gradient: (step: number) => Float32Array,
  embedding: (step: number) => Float32Array,
): TrackedStep[] {
  const run: TrackedStep[] = [];
  for (let step = 0; step < steps; step++) {
    const last = run.at(-1) ?? null;
    const g = gradient(step);
    run.push(trackStep(last, {
      gradient: g,
      importance: smoothImportance(g, last?.importance ?? null, 0.8),
      seen: Uint8Array.from(g, (_, i) => (i + step) % 9 === 0 ? 0 : 1),
      embedding: embedding(step),
      loraNorm: normal(g.length, 50 + step).map(Math.abs),
    }));
  }
  return run;
}

function anyRun(steps: number, { layers, heads, hidden } = CONFIG): TrackedStep[] {
  return runOf(
    steps,
    (step) => normal(layers * heads, 10 + step).map((x) => Math.min(1, Math.abs(x) / 2)),
    (step) => normal(hidden, 90 + step),
  );
}

const BASE_NORM = normal(15, 3).map(Math.abs);

function labelled(predictor: Predictor, windows: readonly PredictorWindow[]) {
  return windows.map((window) => ({
    window,
    features: predictorFeatures(predictor, window.before, window.now, BASE_NORM),
  }));
}

testForms("PredictorNetwork equals the forward pass in TypeScript [slow]", async (engine) => {
  const predictor = anyPredictor();
  const batch = labelled(predictor, windowsOf(anyRun(9), 4));
  using network = new PredictorNetwork(engine, predictor);
  const { sum, total } = await batchError(network, batch, { training: false });
  let expected = 0, count = 0;
  for (const { features, window } of batch) {
    const predicted = predictorForward(predictor, features);
    assert(predicted.some((x, i) => Math.abs(x - window.before.at(-1)!.importance[i]!) > 0.01));
    predicted.forEach((x, i) => {
      expected += window.now.seen[i]! * (x - window.now.importance[i]!) ** 2;
      count += window.now.seen[i]!;
    });
  }
  assertEquals(total, count);
  assertClose([sum], [expected], TOLERANCE.model, "sum of squared errors");
});

testForms(
  "PredictorNetwork has the gradient of its loss, along the gradient of every weight [slow]",
  async (engine) => {
    const predictor = anyPredictor();
    const batch = labelled(predictor, windowsOf(anyRun(7), 4));
    using network = new PredictorNetwork(engine, predictor);
    await batchError(network, batch, { training: true });
    const step = 2 ** -6;
    for (const [name, parameter] of network.parameters) {
      const [value, gradient] = await engine.read([parameter.value, parameter.gradient!]);
      const length = Math.hypot(...gradient!);
      if (/encoder.*qkv.bias/.test(name)) assertLess(length, 1); // part of it, that of K, is zero by symmetry
      else assert(length > 1e-6, `${name} has no gradient`);
      const lossAt = async (distance: number) => {
        engine.write(parameter.value, value!.map((x, i) => x + distance * gradient![i]! / length));
        const { sum, total } = await batchError(network, batch, { training: false });
        return sum / total;
      };
      const slope = (await lossAt(step) - await lossAt(-step)) / (2 * step);
      engine.write(parameter.value, value!);
      // Rounding of the loss is about 1e-8, over the step 1e-6.
      assertClose([length], [slope], { absolute: 3e-6, relative: 1e-2, ofLargest: true }, name);
    }
  },
);

Deno.test("an untrained predictor is the mean of the last K maps", () => {
  const predictor = initialPredictor(CONFIG, 5);
  const run = anyRun(6);
  const predicted = predictImportance(predictor, run, { embedding: null, loraNorm: null }, null);
  const mean = meanImportance(run.slice(-4));
  assertClose(predicted, mean.map((m) => Math.max(0.01, Math.min(0.99, m))), TOLERANCE.sum);
});

Deno.test("the label of a step is none of its inputs", () => {
  const predictor = anyPredictor();
  const [window] = windowsOf(anyRun(5), 4);
  const { before, now } = window!;
  const other = {
    ...now,
    importance: now.importance.map((x) => 1 - x),
    gradient: now.gradient.map((x) => 1 - x),
  };
  const features = predictorFeatures(predictor, before, now, BASE_NORM);
  assertEquals(predictorFeatures(predictor, before, other, BASE_NORM), features);
  // What is known before the step is.
  const later = { ...now, embedding: now.embedding!.map((x) => x + 1) };
  assert(
    predictorFeatures(predictor, before, later, BASE_NORM).tokens.some((x, i) => x !== features.tokens[i]),
  );
});

Deno.test("predictImportance() stays within (0, 1) whatever it is given", () => {
  const predictor = anyPredictor();
  const size = 15;
  const odd = (value: number): TrackedStep =>
    trackStep(null, {
      gradient: new Float32Array(size),
      importance: new Float32Array(size).fill(Math.min(1, value)),
      seen: new Uint8Array(size),
      embedding: new Float32Array(7).fill(value),
      loraNorm: new Float32Array(size).fill(value),
    });
  for (const value of [0, 1e-44, 1, 3.4e38, NaN, Infinity]) {
    const step = odd(Number.isFinite(value) ? value : 0);
    const view = { embedding: new Float32Array(7).fill(value), loraNorm: new Float32Array(size).fill(value) };
    const predicted = predictImportance(predictor, [step], view, new Float32Array(size).fill(value));
    assert(predicted.every((s) => s >= 0 && s <= 1), `${value}: ${predicted}`);
  }
});

Deno.test("savePredictor() and loadPredictor() give back the same predictor", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const predictor = anyPredictor();
    await savePredictor(`${folder}/a/b`, predictor, { steps: 3 });
    assertEquals(await loadPredictor(`${folder}/a/b/`), predictor);
    const path = `${folder}/a/b/config.json`;
    const json = JSON.parse(await Deno.readTextFile(path));
    const weights = `${folder}/a/b/model.safetensors`;
    await Deno.writeTextFile(path, JSON.stringify({ ...json, heads: 6 }));
    await assertRejects(
      () => loadPredictor(`${folder}/a/b`),
      ModelFileError,
      '"heads" must be 5, as its weights say: current value is 6',
    );
    // Weights that say nothing of themselves, as of older versions.
    await Deno.writeFile(weights, writeSafetensors(await loadSafetensors(weights)));
    const refused = async (changes: Record<string, unknown>) => {
      await Deno.writeTextFile(path, JSON.stringify({ ...json, ...changes }));
      return (await assertRejects(() => loadPredictor(`${folder}/a/b`), ModelFileError)).message;
    };
    assertStringIncludes(await refused({ heads: 6 }), '"fusion.up.weight" must be [54,6]: it is [45,6]');
    assertStringIncludes(await refused({ width: 20 }), '"width" must be a multiple of 16');
    assertStringIncludes(await refused({ format: "other" }), 'must be "edgetuner predictor 1"');
    assertStringIncludes(await refused({ layers: "3" }), '"layers" must be a positive integer');
    await assertRejects(() => loadPredictor(`${folder}/none`), ModelFileError, "readable JSON file");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a predictor is refused for another model", () => {
  const predictor = initialPredictor(CONFIG, 1);
  requirePredictorShape(predictor, { layers: 3, heads: 5, hidden: 7 });
  for (
    const [other, wanted] of [
      // What the caller does not know it does not say: the predictor's own hidden size is not the model's.
      [{ layers: 4, heads: 5 }, "a model of 4 layers and 5 heads: "],
      [{ layers: 3, heads: 4 }, "a model of 3 layers and 4 heads: "],
      [{ layers: 3, heads: 5, hidden: 8 }, "a model of 3 layers, 5 heads and hidden size 8: "],
      [{ layers: 2, heads: 5, hidden: 7 }, "a model of 2 layers, 5 heads and hidden size 7: "],
    ] as const
  ) {
    assertThrows(
      () => requirePredictorShape(predictor, other),
      RangeError,
      `${wanted}it was trained for 3 layers, 5 heads and hidden size 7`,
    );
  }
});

Deno.test("rankCorrelation() is Spearman's", () => {
  assertEquals(rankCorrelation([1, 2, 3, 4], [10, 20, 30, 40]), 1);
  assertEquals(rankCorrelation([1, 2, 3, 4], [4, 3, 2, 1]), -1);
  assertEquals(rankCorrelation([1, 1, 1], [1, 2, 3]), 0);
  // Ranks 1.5 1.5 3 4 and 1 2 4 3: 1 - 6 * 2.5 / 60, less the tie's share.
  assertClose([rankCorrelation([5, 5, 6, 7], [1, 2, 4, 3])], [3.5 / Math.sqrt(4.5 * 5)], TOLERANCE.sum);
});

Deno.test("trainPredictor() learns what only the step's embedding tells, the same way each time [slow]", async () => {
  // One form of the kernels: the other has the same gradients, and takes ten times as long on a software adapter.
  const engine = await engineOf("software");
  const config = { ...CONFIG, layers: 2, heads: 4, hidden: 8 };
  // Batches of two kinds, in random order: each makes other heads important.
  const random = randomStream(3);
  const kinds = Array.from({ length: 150 }, () => random.float() < 0.5 ? 0 : 1);
  const run = runOf(
    150,
    (step) =>
      normal(8, 500 + step, 0.05).map((x, i) =>
        Math.max(0, Math.min(1, (i % 2 === kinds[step] ? 0.8 : 0.2) + x))
      ),
    (step) => normal(8, 700 + step, 0.2).map((x, j) => x + (j < 3 ? kinds[step]! : 0)),
  );
  const split = splitWindows([run], config.history, { valid: 0.2, test: 0.2 });
  const start = initialPredictor(config, 1);
  const train = (epochs = 15) =>
    trainPredictor(engine, start, { ...split, baseNorm: null }, {
      rate: 1e-2,
      noise: 0.2,
      epochs,
      seed: 4,
    });
  const { predictor, best, epochs } = await train();
  assertEquals(epochs[0]!.epoch, 0);
  assert(best.epoch > 0 && best.valid < epochs[0]!.valid);
  const result = comparePredictors(predictor, split.test, {
    baseNorm: null,
    meanLabel: meanLabel(split.train),
  });
  for (const simple of [result.lastGradient, result.runningMean, result.uniform]) {
    assertLess(result.predictor.mse, simple.mse / 3);
    assert(result.predictor.spearman > simple.spearman + 0.3);
  }
  const [one, other] = [await train(2), await train(2)];
  assert(one.best.epoch > 0);
  assertEquals(other.predictor, one.predictor);
});

Deno.test("trainPredictor() says that there are too few steps", async () => {
  const engine = await engineOf("software");
  const data = { train: windowsOf(anyRun(6), 4), valid: [], baseNorm: null };
  await assertRejects(
    () => trainPredictor(engine, initialPredictor(CONFIG, 1), data),
    RangeError,
    'windows in "valid": there are none',
  );
});
