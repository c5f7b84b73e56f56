/**
 * Models and their tokenizers by path, whatever files they are in.
 *
 * @module
 */

import { endsOf, type Tokenizer } from "../data/tokenizer.ts";
import { endsOfModel, loadModelTokenizer } from "../data/tokenizer_folder.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { loadGgufConfig, loadGgufModel } from "./gguf_model.ts";
import { loadGgufTokenizer } from "./gguf_tokenizer.ts";
import type { ModelConfig } from "../model/families.ts";
import { loadFolderConfig, loadModelFolder, type ModelFolder } from "./model_folder.ts";

/** True if the path of a model is that of a GGUF file. */
export function isGguf(path: string): boolean {
  return path.toLowerCase().endsWith(".gguf");
}

/** Folder of a model's companions: the model's own, or the one that its GGUF file is in. */
export function modelFolderOf(path: string): string {
  if (!isGguf(path)) return path;
  const end = path.lastIndexOf("/");
  return end < 0 ? "." : path.slice(0, end) || "/";
}

/**
 * Reads a model: a folder, or a GGUF file.
 *
 * @param path The folder, or a path that ends in `.gguf`.
 * @throws {ModelFileError} If a file is missing or not valid; the message names it.
 */
export async function loadModel(path: string): Promise<ModelFolder> {
  return isGguf(path) ? await loadGgufModel(path) : await loadModelFolder(path);
}

/**
 * Reads the configuration of a model, a folder or a GGUF file, and none of its weights: that is fast for large ones
 * too.
 *
 * @param path The folder, or a path that ends in `.gguf`.
 * @throws {ModelFileError} If the configuration is missing or not valid; the message names the file.
 */
export async function loadModelConfig(path: string): Promise<ModelConfig> {
  return isGguf(path) ? await loadGgufConfig(path) : await loadFolderConfig(path);
}

/**
 * Reads the tokenizer of a model. Beside a GGUF file a folder's files come first, then what it has itself.
 *
 * @param path The folder, or a path that ends in `.gguf`.
 * @param tokenizer Another folder or `tokenizer.json` to take it from; empty for none. @default {""}
 * @throws {ModelFileError} If there is none that can be read; the message says what to give.
 */
export async function loadTokenizerOf(path: string, tokenizer = ""): Promise<Tokenizer> {
  const folder = modelFolderOf(path);
  if (tokenizer !== "") {
    // What ends a text is a matter of the model, wherever its tokenizer is.
    const other = await loadModelTokenizer(tokenizer);
    const ends = (await endsOfModel(folder)).filter((id) => id < other.vocabSize);
    return { ...other, ends: [...new Set([...endsOf(other), ...ends])] };
  }
  if (!isGguf(path) || await hasTokenizerFiles(folder)) return await loadModelTokenizer(folder);
  return await loadGgufTokenizer(path);
}

/** True if a folder has a tokenizer: beside a GGUF file it comes before the file's own. */
export async function hasTokenizerFiles(folder: string): Promise<boolean> {
  for (const name of ["tokenizer.json", "vocab.json"]) {
    if (await Deno.stat(`${folder}/${name}`).then(() => true, () => false)) return true;
  }
  return false;
}

/**
 * Checks that a tokenizer goes with a model.
 *
 * @throws {ModelFileError} If it has tokens, special ones apart, that the model has not.
 */
export function checkTokenizer(tokenizer: Tokenizer, { config }: ModelFolder): void {
  // Special tokens that nobody trained may have no row: what fills up batches, say.
  const size = Math.max(
    tokenizer.ordinarySize ?? tokenizer.vocabSize,
    tokenizer.eos + 1,
    (tokenizer.bos ?? 0) + 1,
  );
  if (size > config.vocab_size) {
    throw new ModelFileError(
      `Cannot use the tokenizer as its ids must be below the model's vocabulary, ${config.vocab_size}: current value is ${
        size - 1
      }`,
    );
  }
}
