/**
 * A model with what goes with it, in one call.
 *
 * @module
 */

import type { Tokenizer } from "../data/tokenizer.ts";
import type { ModelFolder } from "./model_folder.ts";
import { checkTokenizer, loadModel, loadTokenizerOf } from "./model_path.ts";

/**
 * A model and its tokenizer.
 *
 * @category Model and data
 */
export interface OpenedModel {
  /** Configuration, weights and fingerprint. */
  readonly model: ModelFolder;
  /** Its ids are all below the model's vocabulary. */
  readonly tokenizer: Tokenizer;
}

/** What to open beside the model. */
export interface OpenModelOptions {
  /** Another folder or `tokenizer.json` to take the tokenizer from; empty for the model's own. @default {""} */
  readonly tokenizer?: string;
}

/**
 * Reads a model and its tokenizer, and checks that they go together.
 *
 * @param path The model's folder, or a path that ends in `.gguf`.
 * @param options Where the tokenizer is, if it is elsewhere.
 * @returns Both.
 * @throws {ModelFileError} If a file is missing or not valid, or the tokenizer has tokens that the model has not.
 * @category Model and data
 *
 * @example
 * ```ts
 * import { openModel } from "@edgetuner/core";
 *
 * const { model, tokenizer } = await openModel("cli/assets/tiny_gpt2");
 * console.log(model.fingerprint, tokenizer.encode("a restaurant by the river"));
 * ```
 */
export async function openModel(path: string, options: OpenModelOptions = {}): Promise<OpenedModel> {
  const model = await loadModel(path);
  const tokenizer = await loadTokenizerOf(path, options.tokenizer);
  checkTokenizer(tokenizer, model);
  return { model, tokenizer };
}
