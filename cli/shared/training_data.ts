/**
 * Training data as sequences of tokens.
 *
 * @module
 */

import {
  type BadLine,
  type ChatTemplate,
  chatTemplateOf,
  loadText,
  loadTrainingData,
  type ReadExamples,
  type ReadExamplesOptions,
  readTrainingExamples,
  type Tokenizer,
  type TrainingCounts,
  type TrainingData,
} from "@edgetuner/core";
import { integer, number, toggle, UsageError } from "../flags/flags.ts";

/** Flags of every program that reads training data. */
export const DATA_FLAGS = {
  "train-on-prompt": toggle("learn prompts too, not only completions and what the assistant says"),
  "skip-bad": toggle("leave out lines of the data that are not valid, and count them"),
  "pad-to-multiple-of": integer(
    "N",
    0,
    "sequences of like length together, padded to multiples of N tokens; 0 = all to --length",
    { min: 0 },
  ),
};

/** Flag of programs that have the data and say how long the run is. */
export const EPOCHS_FLAG = {
  epochs: number("X", 0, "passes over the training data, in place of --steps; 0 = as --steps says", {
    min: 0,
  }),
};

/**
 * Flags with `steps` as `epochs` asks for: the last pass is rounded up to whole steps.
 *
 * @throws {CheckpointError} If the data cannot be read.
 */
export async function withEpochs<
  F extends ReadingOptions & {
    readonly epochs: number;
    readonly steps: number;
    readonly data: string;
    readonly batch: number;
    readonly accumulate: number;
  },
>(flags: F): Promise<F> {
  if (flags.epochs === 0) return flags;
  const { examples } = await readExamples(flags.data, flags, () => {});
  const steps = Math.ceil(flags.epochs * examples.length / (flags.batch * flags.accumulate));
  return { ...flags, steps: Math.max(1, steps) };
}

/** How to read examples. */
export interface ReadingOptions {
  /** The model: conversations need the chat template in its folder. */
  readonly model: string;
  readonly "skip-bad": boolean;
}

/** How to read and encode. */
export interface TrainingDataOptions extends ReadingOptions {
  readonly tokenizer: Tokenizer;
  /** Tokens per sequence. */
  readonly length: number;
  readonly "train-on-prompt": boolean;
}

/** Says what was cut or left out; by default on standard error. */
export type Teller = (line: string) => void;

/**
 * Reads a file: `.jsonl` with pairs, texts or conversations; anything else has `prompt||completion` lines.
 *
 * @throws {CheckpointError} If a line is not valid, or all are left out.
 * @throws {UsageError} If there are conversations and the model has no chat template.
 */
export async function readExamples(
  file: string,
  options: ReadingOptions,
  tell: Teller = console.error,
): Promise<ReadExamples> {
  const { reading, tellSkipped } = await readingOf(file, options, tell);
  const read = await readTrainingExamples(file, reading);
  tellSkipped();
  return read;
}

/** The library's options for the flags, and what says afterwards which lines were left out. */
async function readingOf(
  file: string,
  options: ReadingOptions,
  tell: Teller,
): Promise<{ readonly reading: ReadExamplesOptions; readonly tellSkipped: () => void }> {
  const skipped: BadLine[] = [];
  const reading = {
    model: options.model,
    ...(options["skip-bad"] ? { onBadLine: (bad: BadLine) => void skipped.push(bad) } : {}),
    ...(file.endsWith(".jsonl")
      ? { chatTemplate: await chatTemplateOf(options.model) ?? noTemplate(file, options.model) }
      : {}),
  };
  const tellSkipped = () => {
    const text = skippedText(file, skipped);
    if (text !== null) tell(text);
  };
  return { reading, tellSkipped };
}

/** In place of a template that a model has not: what is missing is not a fault of the lines that need it. */
function noTemplate(file: string, model: string): ChatTemplate {
  return {
    render(): never {
      throw new UsageError(
        `Cannot read ${file} as its "messages" must come with the chat template of a model: ${model} has none`,
      );
    },
  };
}

/**
 * Reads a file that a flag names, as `loadText` does.
 *
 * @param action What is to be done with it, for the message.
 * @throws {UsageError} If it cannot be read.
 */
export async function readInput(action: string, flag: string, file: string): Promise<string> {
  try {
    return await loadText(file);
  } catch (error) {
    const { cause = error } = error as Error;
    throw new UsageError(
      `Cannot ${action} as --${flag} must be a file that can be read: current value is "${file}" (${
        (cause as Error).message
      })`,
      { cause },
    );
  }
}

/** What was left out, in a line; `null` if nothing was. */
export function skippedText(file: string, [first, ...others]: readonly BadLine[]): string | null {
  if (first === undefined) return null;
  return `${
    1 + others.length
  } bad lines of ${file} left out; the first: line ${first.line}: ${first.problem}`;
}

/**
 * Reads a file as `readExamples` does and encodes it; says how many sequences were cut.
 *
 * @throws {CheckpointError} If a line is not valid, or all are left out.
 */
export async function loadTrainingSet(
  file: string,
  options: TrainingDataOptions,
  tell: Teller = console.error,
): Promise<TrainingData> {
  const { reading, tellSkipped } = await readingOf(file, options, tell);
  const { tokenizer, length } = options;
  const data = await loadTrainingData(file, {
    ...reading,
    tokenizer,
    length,
    trainOnPrompt: options["train-on-prompt"],
  });
  tellSkipped();
  const text = truncationText(file, data.counts, length);
  if (text !== null) tell(text);
  return data;
}

/** What was cut, in a line; `null` if nothing was. */
export function truncationText(
  file: string,
  { sequences, truncated, shortenedPrompts, shortenedCompletions }: TrainingCounts,
  length: number,
): string | null {
  if (truncated === 0) return null;
  const lost = [
    ...(shortenedPrompts > 0 ? [`${shortenedPrompts} prompts lost their start`] : []),
    ...(shortenedCompletions > 0 ? [`${shortenedCompletions} completions or texts their end`] : []),
  ].join(", ").replace(/^(\d+ completions or texts) their/, "$1 lost their");
  return `${truncated} of ${sequences} sequences of ${file} cut to ${length} tokens: ${lost}`;
}

/** Counts of all files of a run, as reports have them. */
export interface AllCounts {
  readonly train: TrainingCounts;
  readonly valid: TrainingCounts | null;
}
