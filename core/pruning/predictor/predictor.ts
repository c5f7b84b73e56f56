/**
 * The intrinsic importance predictor f_pred (Eq. 25): what it is made of, and its files.
 *
 * L = layers, H = heads per layer, d = hidden size, K = history length, w = width of the encoder, C = channels
 * of the maps, F = width of the fusion layers.
 *
 * ```
 * E of the last K steps [K, d] -> linear -> + positions -> 2 encoder layers -> the newest step's state [w]
 * C maps [C, L, H] -> 3x3 convolution, ReLU -> feed-forward, joined with the state -> norm -> feed-forward
 *                                           -> 3x3 convolution to one map, added
 * S_base = sigmoid(logit(mean of the last K maps) + that)
 * ```
 *
 * The last layers start at zero: an untrained predictor is the mean of the last K maps, and training can
 * only correct it. (The published network predicts from scratch; *our reading* needs fewer samples.)
 *
 * @module
 */

import { ModelFileError } from "../../contracts/errors.ts";
import { loadDescribed, saveDescribed } from "../../files/described.ts";
import { showValue } from "../../contracts/plain_text.ts";
import { randomStream } from "../../model/random.ts";
import type { NamedArray } from "../../files/named_arrays.ts";

/** Shape of a predictor and what it was trained for. */
export interface PredictorConfig {
  /** L, layers. */
  readonly layers: number;
  /** H, heads per layer. */
  readonly heads: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** K, steps of history. */
  readonly history: number;
  /** lambda, smoothing of the labels and of the maps it reads. */
  readonly lambda: number;
  /** w, width of the encoder; a multiple of 16, as it has 4 heads. */
  readonly width: number;
  /** Channels of the convolution. */
  readonly channels: number;
  /** F, width of the fusion layers. */
  readonly fusion: number;
}

/** A predictor: plain data, so that it can be part of a pruner's state. */
export interface Predictor {
  /** Shape. */
  readonly config: PredictorConfig;
  /** Weights by name, row by row; shapes as `predictorShapes` says. */
  readonly weights: Readonly<Record<string, Float32Array>>;
}

/** Layers of the encoder. */
export const ENCODER_LAYERS = 2;
/** Attention heads of the encoder. */
export const ENCODER_HEADS = 4;
/** Maps that the convolution reads; see `predictorFeatures`. */
export const MAP_CHANNELS = 7;

/** Sizes that are used where nothing else is asked for. */
export const DEFAULT_PREDICTOR_SIZES: Pick<PredictorConfig, "width" | "channels" | "fusion"> = {
  width: 32,
  channels: 8,
  fusion: 64,
};

/**
 * Names and shapes [rows, columns] of a predictor's weights. `embedding.mean` and `embedding.scale` are not
 * trained: they standardise E.
 *
 * @throws {RangeError} If a size is not a positive integer, `width` no multiple of 16, or lambda not in (0, 1].
 */
export function predictorShapes(config: PredictorConfig): ReadonlyMap<string, readonly [number, number]> {
  const { layers, heads, hidden, history, width, channels, fusion, lambda } = config;
  for (const [name, value] of Object.entries({ layers, heads, hidden, history, width, channels, fusion })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new RangeError(
        `Cannot make a predictor as "${name}" must be a positive integer: current value is ${value}`,
      );
    }
  }
  if (width % (4 * ENCODER_HEADS) !== 0) {
    throw new RangeError(
      `Cannot make a predictor as "width" must be a multiple of ${
        4 * ENCODER_HEADS
      }: current value is ${width}`,
    );
  }
  if (!(lambda > 0 && lambda <= 1)) {
    throw new RangeError(
      `Cannot make a predictor as "lambda" must be above 0 and at most 1: current value is ${lambda}`,
    );
  }
  const maps = layers * heads;
  const shapes = new Map<string, readonly [number, number]>();
  const linear = (name: string, rows: number, columns: number) => {
    shapes.set(`${name}.weight`, [rows, columns]);
    shapes.set(`${name}.bias`, [1, columns]);
  };
  const convolution = (name: string, inputs: number, outputs: number) => {
    shapes.set(`${name}.weight`, [outputs, inputs * 9]);
    shapes.set(`${name}.bias`, [1, outputs]);
  };
  shapes.set("embedding.mean", [1, hidden]);
  shapes.set("embedding.scale", [1, hidden]);
  linear("embedding", hidden, width);
  shapes.set("positions", [history, width]);
  for (let i = 0; i < ENCODER_LAYERS; i++) {
    linear(`encoder.${i}.norm1`, 1, width);
    linear(`encoder.${i}.qkv`, width, 3 * width);
    linear(`encoder.${i}.projection`, width, width);
    linear(`encoder.${i}.norm2`, 1, width);
    linear(`encoder.${i}.up`, width, 2 * width);
    linear(`encoder.${i}.down`, 2 * width, width);
  }
  convolution("maps.first", MAP_CHANNELS, channels);
  convolution("maps.last", channels, 1);
  linear("fusion.up", channels * maps, fusion);
  linear("fusion.down", fusion, width);
  linear("fusion.norm", 1, width);
  linear("output.up", width, fusion);
  linear("output.down", fusion, maps);
  return shapes;
}

/** True for weights that training does not change. */
export function isFixed(name: string): boolean {
  return name === "embedding.mean" || name === "embedding.scale";
}

/**
 * A predictor before training, which predicts the mean of the last K maps: weights are drawn with deviation
 * 1 / sqrt(inputs), those of the last layers are zero.
 *
 * @param config Its shape.
 * @param seed Where the randomness comes from.
 * @throws {RangeError} As `predictorShapes`.
 */
export function initialPredictor(config: PredictorConfig, seed: number): Predictor {
  const weights: Record<string, Float32Array> = {};
  let stream = 0;
  for (const [name, [rows, columns]] of predictorShapes(config)) {
    const data = weights[name] = new Float32Array(rows * columns);
    if (name.endsWith("scale") || /norm\d?\.weight$/.test(name)) data.fill(1);
    if (!name.endsWith(".weight") || /norm\d?\.weight$|^maps\.last|^output\.down/.test(name)) continue;
    const random = randomStream(seed, stream++);
    const inputs = name.startsWith("maps.") ? columns : rows;
    // Uniform with variance 1 / inputs.
    const bound = Math.sqrt(3 / inputs);
    for (let i = 0; i < data.length; i++) data[i] = bound * (2 * random.float() - 1);
  }
  return { config, weights };
}

/**
 * Checks that a predictor fits a model.
 *
 * @param predictor The predictor.
 * @param shape L and H of the model, and d if it is known.
 * @throws {RangeError} If it was trained for another shape.
 */
export function requirePredictorShape(
  predictor: Predictor,
  shape: { readonly layers: number; readonly heads: number; readonly hidden?: number | undefined },
): void {
  const { layers, heads, hidden } = predictor.config;
  const fits = layers === shape.layers && heads === shape.heads;
  if (fits && hidden === (shape.hidden ?? hidden)) return;
  const wanted = shape.hidden === undefined
    ? `${shape.layers} layers and ${shape.heads} heads`
    : `${shape.layers} layers, ${shape.heads} heads and hidden size ${shape.hidden}`;
  throw new RangeError(
    `Cannot use the predictor as it must be trained for a model of ${wanted}: it was trained for ${layers} layers, ${heads} heads and hidden size ${hidden}`,
  );
}

const FORMAT = "edgetuner predictor 1";

const FILES = { config: "config.json", weights: "model.safetensors" };

/**
 * Writes a predictor as `config.json` and `model.safetensors`.
 *
 * @param folder Made if it does not exist.
 * @param predictor What to write.
 * @param notes What else to put into `config.json`, such as how it was trained. @default {{}}
 * @returns Where a predictor that was there is kept (`FOLDER.previous`); `null` if there was none.
 * @throws {SaveError} If a file cannot be written; a predictor that was there is still there.
 */
export async function savePredictor(
  folder: string,
  predictor: Predictor,
  notes: Readonly<Record<string, unknown>> = {},
): Promise<string | null> {
  const tensors = new Map<string, NamedArray>();
  for (const [name, shape] of predictorShapes(predictor.config)) {
    tensors.set(name, { shape, data: predictor.weights[name]! });
  }
  const config = { format: FORMAT, ...predictor.config };
  return await saveDescribed(
    folder.replace(/(?<=.)\/+$/, ""),
    FILES,
    { config, notes, tensors },
    () => false,
  );
}

/**
 * Reads a predictor.
 *
 * @param folder Folder of `config.json` and `model.safetensors`.
 * @throws {ModelFileError} If a file is missing, damaged or does not fit.
 */
export async function loadPredictor(folder: string): Promise<Predictor> {
  const place = folder.replace(/(?<=.)\/+$/, "");
  const path = `${place}/${FILES.config}`;
  const refuse = (rule: string, cause?: unknown): never => {
    throw new ModelFileError(`Cannot load the predictor as ${rule}`, { cause });
  };
  const { config: json, tensors } = await loadDescribed(place, FILES).catch((cause) => {
    if (cause instanceof ModelFileError) throw cause;
    return refuse(`${path} must be a readable JSON file: ${(cause as Error).message}`, cause);
  });
  if (json.format !== FORMAT) {
    refuse(`"format" in ${path} must be "${FORMAT}": current value is ${showValue(json.format)}`);
  }
  const { layers, heads, hidden, history, lambda, width, channels, fusion } =
    json as unknown as PredictorConfig;
  const config = { layers, heads, hidden, history, lambda, width, channels, fusion };
  let shapes: ReturnType<typeof predictorShapes>;
  try {
    shapes = predictorShapes(config);
  } catch (cause) {
    return refuse(`the sizes in ${path} must fit: ${(cause as Error).message}`, cause);
  }
  const weights: Record<string, Float32Array> = {};
  for (const [name, shape] of shapes) {
    const found = tensors.get(name);
    if (found === undefined || found.shape.join() !== shape.join()) {
      return refuse(`"${name}" must be [${shape}]: it is ${found ? `[${found.shape}]` : "missing"}`);
    }
    if (!found.data.every(Number.isFinite)) refuse(`"${name}" has values that are not finite`);
    weights[name] = found.data;
  }
  return { config, weights };
}
