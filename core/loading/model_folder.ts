/**
 * Model folders in Hugging Face form: `config.json` and `model.safetensors`, or several files with
 * `model.safetensors.index.json`.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { readJson } from "../files/json_file.ts";
import type { Gpt2Config } from "../model/families/gpt2.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import { type ModelConfig, modelConfig } from "../model/families.ts";
import type { ModelFiles } from "../model/load.ts";
import { randomStream } from "../model/random.ts";
import { tensorDigests } from "./fingerprint.ts";
import { fingerprintOfDigests, type TensorDigest } from "./model_digests.ts";
import { settleHead } from "./lm_head.ts";
import { StoredTensors } from "../files/stored_tensors.ts";

/** A model read from a folder. */
export interface ModelFolder extends ModelFiles {
  /** What is the same for the same model and differs for any other. */
  readonly fingerprint: string;
  /** Digests of the weights, where they were computed one by one. @default {not known} */
  readonly digests?: readonly TensorDigest[];
  /** What a person should know of the files: where they contradict each other, say. @default {none} */
  readonly notices?: readonly string[];
}

function within(folder: string | URL, file: string): string | URL {
  if (folder instanceof URL) {
    return new URL(file, folder.href.endsWith("/") ? folder : new URL(`${folder.href}/`));
  }
  return `${folder.replace(/\/+$/, "")}/${file}`;
}

/**
 * Reads a model folder: a GPT-2, an OPT or a LLaMA; see `loadLayers` and `loadEmbeddingAndHead`. Memory holds one weight
 * at a time, while the fingerprint is computed and whenever a weight is asked for.
 *
 * @param folder Path or file URL of the folder.
 * @throws {ModelFileError} If a file is missing or not valid; the message names it.
 */
export async function loadModelFolder(folder: string | URL): Promise<ModelFolder> {
  const { config, weights, notices } = await openModelFolder(folder);
  const digests = await tensorDigests(config, weights);
  const fingerprint = await fingerprintOfDigests(config, digests);
  return { config, weights, fingerprint, digests, ...(notices === undefined ? {} : { notices }) };
}

/**
 * As `loadModelFolder`, without a look at the values: for who knows the fingerprint.
 *
 * @param folder Path or file URL of the folder.
 * @throws {ModelFileError} If a file is missing or not valid; the message names it.
 */
export async function openModelFolder(
  folder: string | URL,
): Promise<Omit<ModelFolder, "fingerprint" | "digests">> {
  const written = await loadFolderConfig(folder);
  return settleHead(written, await StoredTensors.open(await checkpointIn(folder)));
}

/**
 * Reads the configuration in a model's folder; of the weights nothing is read.
 *
 * @throws {ModelFileError} If `config.json` is missing or not valid.
 */
export async function loadFolderConfig(folder: string | URL): Promise<ModelConfig> {
  const path = within(folder, "config.json");
  let json: unknown;
  try {
    json = await readJson(path);
  } catch (cause) {
    throw new ModelFileError(
      `Cannot load the model as ${path} must be a readable JSON file: ${(cause as Error).message}`,
      { cause },
    );
  }
  return modelConfig(json);
}

/** The one file, or the index of several. If there is neither, the error shall name the one file. */
async function checkpointIn(folder: string | URL): Promise<string | URL> {
  const single = within(folder, "model.safetensors");
  const index = within(folder, "model.safetensors.index.json");
  const exists = (path: string | URL) => Deno.stat(path).then(() => true, () => false);
  return !await exists(single) && await exists(index) ? index : single;
}

/**
 * Weights to start pre-training from: normal with standard deviation 0.02, projections into the
 * residual stream divided by sqrt(2 L), norms at 1, biases at 0 (Radford et al., 2019).
 *
 * @param config Shape of the model.
 * @param seed Where the randomness comes from.
 */
export function initialWeights(config: Gpt2Config, seed: number): Map<string, NamedArray> {
  const weights = new Map<string, NamedArray>();
  const { n_embd: d, n_inner: f = 4 * d, n_layer: layers } = config;
  const filled = (shape: readonly number[], value: number) => ({
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value),
  });
  const normal = (shape: readonly number[], deviation: number): NamedArray => {
    const random = randomStream(seed, weights.size);
    const { data } = filled(shape, 0);
    for (let i = 0; i < data.length; i += 2) {
      const radius = deviation * Math.sqrt(-2 * Math.log(1 - random.float()));
      const angle = 2 * Math.PI * random.float();
      data[i] = radius * Math.cos(angle);
      if (i + 1 < data.length) data[i + 1] = radius * Math.sin(angle);
    }
    return { shape, data };
  };
  const norm = (name: string) => {
    weights.set(`${name}.weight`, filled([d], 1));
    weights.set(`${name}.bias`, filled([d], 0));
  };
  const linear = (name: string, inputs: number, outputs: number, deviation: number) => {
    weights.set(`${name}.weight`, normal([inputs, outputs], deviation));
    weights.set(`${name}.bias`, filled([outputs], 0));
  };
  const residual = 0.02 / Math.sqrt(2 * layers);
  weights.set("transformer.wte.weight", normal([config.vocab_size, d], 0.02));
  weights.set("transformer.wpe.weight", normal([config.n_positions, d], 0.02));
  for (let l = 0; l < layers; l++) {
    const prefix = `transformer.h.${l}`;
    norm(`${prefix}.ln_1`);
    linear(`${prefix}.attn.c_attn`, d, 3 * d, 0.02);
    linear(`${prefix}.attn.c_proj`, d, d, residual);
    norm(`${prefix}.ln_2`);
    linear(`${prefix}.mlp.c_fc`, d, f, 0.02);
    linear(`${prefix}.mlp.c_proj`, f, d, residual);
  }
  norm("transformer.ln_f");
  if (config.tie_word_embeddings === false) {
    weights.set("lm_head.weight", normal([config.vocab_size, d], 0.02));
  }
  return weights;
}
