/**
 * Training data from a file, as sequences of tokens, in one call.
 *
 * @module
 */

import { DataFormatError } from "../contracts/errors.ts";
import { type ChatTemplate, findChatTemplate } from "../data/chat_template.ts";
import { encodeExamples, loadExamples, type TrainingExample } from "../data/examples.ts";
import { type BadLine, loadPairs } from "../data/pairs.ts";
import type { SequenceSet } from "../data/sequences.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import { loadGgufChatTemplate } from "./gguf_tokenizer.ts";
import { isGguf, modelFolderOf } from "./model_path.ts";

/** How to read examples. */
export interface ReadExamplesOptions {
  /** The model: its folder, or a path that ends in `.gguf`. Conversations need the chat template in its folder. */
  readonly model: string;
  /** A chat template to use in place of the model's. @default {the model's} */
  readonly chatTemplate?: ChatTemplate;
  /**
   * Called with each line that is no example; it is skipped. Without it the first such line is an error.
   *
   * @param bad Where it is and what is wrong.
   */
  readonly onBadLine?: (bad: BadLine) => void;
}

/** How to read and encode training data. */
export interface TrainingDataOptions extends ReadExamplesOptions {
  /** The model's tokenizer. */
  readonly tokenizer: Tokenizer;
  /** T, tokens of a sequence; what is longer is cut. */
  readonly length: number;
  /** Learn prompts too, not only completions and what the assistant says. @default {false} */
  readonly trainOnPrompt?: boolean;
}

/** Examples of a file. */
export interface ReadExamples {
  /** The examples, in order. */
  readonly examples: readonly TrainingExample[];
  /** Bad lines that were left out. */
  readonly skipped: number;
}

/** What became of the lines of a file. */
export interface DataCounts {
  /** Sequences or prompts. */
  readonly sequences: number;
  /** How many of them lost tokens. */
  readonly truncated: number;
  /** Lines that were left out. */
  readonly skipped: number;
}

/**
 * What became of training data: what is cut is told apart.
 *
 * @category Model and data
 */
export interface TrainingCounts extends DataCounts {
  /** How many prompts lost their start. */
  readonly shortenedPrompts: number;
  /** How many completions, or texts, lost their end. */
  readonly shortenedCompletions: number;
}

/**
 * Sequences, and what became of the lines that they come from.
 *
 * @category Model and data
 */
export interface TrainingData extends SequenceSet {
  /** What was cut and left out. */
  readonly counts: TrainingCounts;
}

/** Neither a `CheckpointError` nor a `DataFormatError`, which would make a bad line of the conversation. */
class NoTemplate extends Error {}

/** In place of a template that a model has not: what is missing is not a fault of the lines that need it. */
const NO_TEMPLATE: ChatTemplate = {
  render(): never {
    throw new NoTemplate();
  },
};

/**
 * A model's chat template; `null` if it has none: then only data with conversations is refused. Beside a GGUF file
 * the folder's files come first, then what it has itself.
 *
 * @param model The model, or where its tokenizer is: a folder or a file in it.
 * @param tokenizer Another folder or `tokenizer.json`, whose template comes before the model's. @default {""}
 * @returns The template.
 * @throws {CheckpointError} If there is one that is not valid.
 */
export async function chatTemplateOf(model: string, tokenizer = ""): Promise<ChatTemplate | null> {
  const other = tokenizer === "" ? null : await chatTemplateOf(tokenizer);
  if (other !== null) return other;
  const folder = model.endsWith(".json") ? model.replace(/[^/\\]*$/, "") || "." : modelFolderOf(model);
  const found = await findChatTemplate(folder.replace(/(?<=.)[/\\]$/, ""));
  return found === null && isGguf(model) ? await loadGgufChatTemplate(model) : found;
}

/**
 * Reads a file: `.jsonl` with pairs, texts or conversations; anything else has `prompt||completion` lines.
 *
 * @param file The file, in UTF-8.
 * @param options Chat template, what to do with bad lines.
 * @returns The examples, and how many lines were left out.
 * @throws {CheckpointError} If the file cannot be read.
 * @throws {DataFormatError} If a line is not as it must be, all are left out, or there are conversations and the
 *   model has no chat template.
 */
export async function readTrainingExamples(
  file: string,
  options: ReadExamplesOptions,
): Promise<ReadExamples> {
  let skipped = 0;
  const { onBadLine } = options;
  const reading = onBadLine === undefined ? {} : {
    onBadLine: (bad: BadLine) => {
      skipped++;
      onBadLine(bad);
    },
  };
  if (!file.endsWith(".jsonl")) return { examples: await loadPairs(file, reading), skipped };
  const chatTemplate = options.chatTemplate ?? await chatTemplateOf(options.model) ?? NO_TEMPLATE;
  try {
    return { examples: await loadExamples(file, { ...reading, chatTemplate }), skipped };
  } catch (error) {
    if (!(error instanceof NoTemplate)) throw error;
    throw new DataFormatError(
      `Cannot read ${file} as its "messages" must come with the chat template of a model: ${options.model} has none`,
    );
  }
}

/**
 * Reads a file as {@linkcode readTrainingExamples} does and encodes it as {@linkcode encodeExamples} does.
 *
 * @param file The file, in UTF-8.
 * @param options The model, its tokenizer, T.
 * @returns The sequences, and what was cut and left out.
 * @throws {CheckpointError} If the file cannot be read.
 * @throws {DataFormatError} What {@linkcode readTrainingExamples} throws.
 * @throws {RangeError} If T is not a positive integer.
 * @category Model and data
 *
 * @example
 * ```ts
 * import { loadTrainingData, openModel } from "@edgetuner/core";
 *
 * const path = "cli/assets/tiny_gpt2";
 * const { tokenizer } = await openModel(path);
 * const data = await loadTrainingData("cli/assets/restaurant/valid.txt", { model: path, tokenizer, length: 64 });
 * console.log(data.counts);
 * ```
 */
export async function loadTrainingData(file: string, options: TrainingDataOptions): Promise<TrainingData> {
  const { examples, skipped } = await readTrainingExamples(file, options);
  const { tokenizer, length, trainOnPrompt = false } = options;
  const set = encodeExamples(examples, tokenizer, { length, trainOnPrompt });
  const { shortened: truncated, shortenedPrompts, shortenedCompletions } = set;
  const sequences = set.sequences.length;
  return { ...set, counts: { sequences, truncated, shortenedPrompts, shortenedCompletions, skipped } };
}
