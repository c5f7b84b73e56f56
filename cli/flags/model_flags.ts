/**
 * Flags of every program that reads a model.
 *
 * @module
 */

import { text, UsageError } from "./flags.ts";
import { assetPath, quoted } from "../process/places.ts";

/**
 * Refuses the name of a model of the hub where a model must be on the disk, and says the command that brings it.
 *
 * @param model What `--model` says.
 * @throws {UsageError} If there is no such path, and it is written as OWNER/NAME.
 */
export function requireLocalModel(model: string): void {
  if (!/^[\w.-]+\/[\w.-]+(@[\w.-]+)?$/.test(model) || model.startsWith(".") || model.endsWith(".gguf")) {
    return;
  }
  try {
    Deno.statSync(model);
    return;
  } catch (error) {
    // Who may not look cannot say that it is not there.
    if (!(error instanceof Deno.errors.NotFound)) return;
  }
  throw new UsageError(
    `Cannot open the model as --model must be a path: there is no "${model}" here. If it is a model of the hub, this ` +
      `downloads it and prints its folder: edgetuner pull --model ${quoted(model)}`,
  );
}

const MODEL = text(
  "PATH",
  assetPath("tiny_gpt2"),
  "base model: its folder, or a GGUF file; edgetuner pull brings one",
);

/** The base model. */
export const MODEL_FLAG = { ...MODEL, check: requireLocalModel };

/** A model that is downloaded. */
export const HUB_MODEL_FLAG = {
  ...MODEL,
  value: "ID",
  default: "",
  help: "model of the hub, OWNER/NAME or OWNER/NAME@REVISION",
};

/** Its tokenizer, where it is elsewhere. */
export const TOKENIZER_FLAG = text(
  "PATH",
  "",
  "tokenizer.json or its folder; else the model's own, or that beside a GGUF file",
);
