/**
 * Flags of every program that reads a model.
 *
 * @module
 */

import { text } from "./flags.ts";
import { assetPath } from "../process/places.ts";

/** The base model. */
export const MODEL_FLAG = text(
  "PATH",
  assetPath("tiny_gpt2"),
  "base model: its folder, or a GGUF file",
);

/** Its tokenizer, where it is elsewhere. */
export const TOKENIZER_FLAG = text(
  "PATH",
  "",
  "tokenizer.json or its folder; else the model's own, or that beside a GGUF file",
);
