/**
 * Training data as sequences of tokens.
 *
 * @module
 */

import {
  type BadLine,
  type ChatTemplate,
  CheckpointError,
  encodeExamples,
  loadChatTemplate,
  loadExamples,
  loadPairs,
  type SequenceSet,
  type Tokenizer,
} from "@edgetuner/core";
import { toggle } from "./flags.ts";

/** Flags of every program that reads training data. */
export const DATA_FLAGS = {
  "train-on-prompt": toggle("learn prompts too, not only completions and what the assistant says"),
  "skip-bad-lines": toggle("leave out lines of the data that are not as they must be, and count them"),
};

/** How to read and encode. */
export interface TrainingDataOptions {
  /** Folder of the model: conversations need its chat template. */
  readonly model: string;
  readonly tokenizer: Tokenizer;
  /** Tokens per sequence. */
  readonly length: number;
  readonly "train-on-prompt": boolean;
  readonly "skip-bad-lines": boolean;
}

/**
 * Reads a file: `.jsonl` with pairs, texts or conversations; anything else has `prompt||completion` lines.
 *
 * @throws {CheckpointError} If a line is not as it must be, or all are left out.
 */
export async function loadTrainingSet(file: string, options: TrainingDataOptions): Promise<SequenceSet> {
  let skipped = 0;
  let first = "";
  const lenient = {
    onBadLine: ({ line, problem }: BadLine): void => {
      if (skipped++ === 0) first = `line ${line}: ${problem}`;
    },
  };
  const reading = options["skip-bad-lines"] ? lenient : {};
  const examples = file.endsWith(".jsonl")
    ? await loadExamples(file, { ...reading, ...await chatTemplateOf(options.model) })
    : await loadPairs(file, reading);
  if (skipped > 0) console.error(`${skipped} bad lines of ${file} left out; the first: ${first}`);
  return encodeExamples(examples, options.tokenizer, {
    length: options.length,
    trainOnPrompt: options["train-on-prompt"],
  });
}

/** Nothing if the model has none: then only data with conversations is refused. */
async function chatTemplateOf(model: string): Promise<{ chatTemplate?: ChatTemplate }> {
  try {
    return { chatTemplate: await loadChatTemplate(model) };
  } catch (error) {
    if (error instanceof CheckpointError) return {};
    throw error;
  }
}
