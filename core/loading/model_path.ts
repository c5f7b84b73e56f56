/**
 * Models and their tokenizers by path, whatever files they are in.
 *
 * @module
 */

import { loadModelTokenizer, type Tokenizer } from "../data/tokenizer.ts";
import { CheckpointError } from "../contracts/errors.ts";
import { loadGgufModel } from "./gguf_model.ts";
import { loadGgufTokenizer } from "./gguf_tokenizer.ts";
import { loadModelFolder, type ModelFolder } from "./model_folder.ts";

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
 * @throws {CheckpointError} If a file is missing or not valid; the message names it.
 */
export async function loadModel(path: string): Promise<ModelFolder> {
  return isGguf(path) ? await loadGgufModel(path) : await loadModelFolder(path);
}

/**
 * Reads the tokenizer of a model. Beside a GGUF file a folder's files come first, then what it has itself.
 *
 * @param path The folder, or a path that ends in `.gguf`.
 * @param tokenizer Another folder or `tokenizer.json` to take it from; empty for none. @default {""}
 * @throws {CheckpointError} If there is none that can be read; the message says what to give.
 */
export async function loadTokenizerOf(path: string, tokenizer = ""): Promise<Tokenizer> {
  if (tokenizer !== "") return await loadModelTokenizer(tokenizer);
  const folder = modelFolderOf(path);
  if (!isGguf(path)) return await loadModelTokenizer(folder);
  for (const name of ["tokenizer.json", "vocab.json"]) {
    const found = await Deno.stat(`${folder}/${name}`).then(() => true, () => false);
    if (found) return await loadModelTokenizer(folder);
  }
  return await loadGgufTokenizer(path);
}

/**
 * Checks that a tokenizer goes with a model.
 *
 * @throws {CheckpointError} If it has tokens that the model has not.
 */
export function checkTokenizer(tokenizer: Tokenizer, { config }: ModelFolder): void {
  if (tokenizer.vocabSize > config.vocab_size) {
    throw new CheckpointError(
      `Cannot use the tokenizer as its ids must be below the model's vocabulary, ${config.vocab_size}: current value is ${
        tokenizer.vocabSize - 1
      }`,
    );
  }
}
