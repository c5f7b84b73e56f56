/**
 * Training data as sequences of tokens.
 *
 * @module
 */

import {
  type BadLine,
  type ChatTemplate,
  chatTemplateOf,
  type ColumnMap,
  COLUMNS,
  DATA_FORMATS,
  type DataFormat,
  loadText,
  loadTokenizerOf,
  loadTrainingData,
  type ReadExamples,
  type ReadExamplesOptions,
  readTrainingExamples,
  stepsOfEpochs,
  type Tokenizer,
  type TrainingCounts,
  type TrainingData,
} from "@edgetuner/core";
import { type FlagValues, integer, number, text, toggle, UsageError } from "../flags/flags.ts";
import { unknownName } from "../flags/suggest.ts";

/** Flags of every program that reads training data. */
export const DATA_FLAGS = {
  map: text(
    "LIST",
    "",
    "which column of the data is which: prompt=question,completion=answer; others do not count then",
  ),
  "data-format": text("NAME", "", "how the data is held; without it that is recognised", [
    "",
    ...DATA_FORMATS,
  ]),
  "train-on-prompt": toggle("learn prompts too, not only completions and what the assistant says"),
  "skip-bad": toggle("leave out lines of the data that are not valid, and count them"),
  "pad-to-multiple-of": integer(
    "N",
    0,
    "sequences of like length together, padded to multiples of N tokens; 0 = all to --length",
    { min: 0 },
  ),
};

/** Of all flags those that say how data is read, for another process. */
export function readingFlags(flags: FlagValues<typeof DATA_FLAGS>) {
  const { map, "data-format": format, "train-on-prompt": all, "skip-bad": skip } = flags;
  const padding = flags["pad-to-multiple-of"];
  return {
    ...{ map, "data-format": format, "train-on-prompt": all, "skip-bad": skip },
    "pad-to-multiple-of": padding,
  };
}

/** Flag of programs that have the data and say how long the run is. */
export const EPOCHS_FLAG = {
  epochs: number("X", 0, "passes over the training data, in place of --steps; 0 = as --steps says", {
    min: 0,
  }),
};

/**
 * Flags with `steps` as `epochs` asks for: the last pass is rounded up to whole steps.
 *
 * @throws {ModelFileError} If the data cannot be read.
 */
export async function withEpochs<
  F extends ReadingOptions & {
    readonly epochs: number;
    readonly steps: number;
    readonly data: string;
    readonly batch: number;
    readonly accumulate: number;
    readonly tokenizer?: string;
    readonly length?: number;
  },
>(flags: F): Promise<F> {
  if (flags.epochs === 0) return flags;
  const { examples, formats } = await readExamples(flags.data, flags, () => {});
  let count = examples.length;
  if (formats.includes("text") && flags.length !== undefined) {
    // How many sequences a text fills is known by its tokens.
    const encoder = await loadTokenizerOf(flags.model, flags.tokenizer ?? "");
    const options = { ...flags, encoder, length: flags.length, "train-on-prompt": false };
    count = (await loadTrainingSet(flags.data, options, () => {})).sequences.length;
  }
  return { ...flags, steps: stepsOfEpochs(flags.epochs, count, flags.batch * flags.accumulate) };
}

/** How to read examples. */
export interface ReadingOptions {
  /** The model: conversations need the chat template in its folder. */
  readonly model: string;
  readonly "skip-bad": boolean;
  /** See `DATA_FLAGS`. */
  readonly map?: string;
  readonly "data-format"?: string;
  /** As `--tokenizer`: where else the tokenizer is, whose chat template comes before the model's. @default {""} */
  readonly tokenizer?: string;
  /** In place of the model's chat template. */
  readonly chatTemplate?: ChatTemplate;
  /** What counts as now where the template writes the date: when the run began. @default {now} */
  readonly now?: Date;
}

/** The date and time of a place's clocks, as `2024-07-06T15:04:09`. */
function clockTime(date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `${day}T${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":")}`;
}

/**
 * When a run began, as clocks showed it there: a run that goes on elsewhere or later has the same texts.
 *
 * @param saved What its state says; missing in a new run, and in states of older versions.
 */
export function beginOf(saved: string | undefined): { readonly begun: string; readonly now: Date } {
  const known = saved !== undefined && !Number.isNaN(Date.parse(saved));
  const begun = known ? saved : clockTime(new Date());
  return { begun, now: new Date(begun) };
}

/** How to read and encode. */
export interface TrainingDataOptions extends ReadingOptions {
  /** What makes tokens of the texts. */
  readonly encoder: Tokenizer;
  /** Tokens per sequence. */
  readonly length: number;
  readonly "train-on-prompt": boolean;
}

/** Says what was cut or left out; by default on standard error. */
export type Teller = (line: string) => void;

/**
 * Reads a file, or the files of a folder, in any format that the library reads.
 *
 * @throws {ModelFileError} If a line is not valid, or all are left out.
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
  const { map = "", "data-format": format = "" } = options;
  const { model, tokenizer = "", now } = options;
  const template = options.chatTemplate ??
    (model === "" && tokenizer === ""
      ? null
      : await chatTemplateOf(model, tokenizer, now === undefined ? {} : { now }));
  const reading = {
    model: options.model,
    ...(options["skip-bad"] ? { onBadLine: (bad: BadLine) => void skipped.push(bad) } : {}),
    ...(map === "" ? {} : { map: columnMap(map) }),
    ...(format === "" ? {} : { format: format as DataFormat }),
    chatTemplate: template ?? noTemplate(file, options.model),
    instructionsAsChats: template !== null,
  };
  const tellSkipped = () => {
    const told = skippedText(file, skipped);
    if (told !== null) tell(told);
  };
  return { reading, tellSkipped };
}

/**
 * What `--map` says.
 *
 * @throws {UsageError} If it is no list of our names with columns of the data.
 */
export function columnMap(given: string): ColumnMap {
  const map: Record<string, string> = {};
  for (const part of given.split(",")) {
    const [, name = "", column = ""] = /^\s*([^=\s]+)\s*=\s*(.*?)\s*$/.exec(part) ?? [];
    if (!COLUMNS.includes(name) || column === "" || Object.hasOwn(map, name)) {
      throw new UsageError(
        `Cannot read the data as --map must be a list of NAME=COLUMN, each NAME once and one of ${
          COLUMNS.join(", ")
        }: ${
          COLUMNS.includes(name) || name === ""
            ? `current value is "${part.trim()}"`
            : unknownName(name, COLUMNS)
        }`,
      );
    }
    map[name] = column;
  }
  return map;
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
 * @throws {ModelFileError} If a line is not valid, or all are left out.
 */
export async function loadTrainingSet(
  file: string,
  options: TrainingDataOptions,
  tell: Teller = console.error,
): Promise<TrainingData> {
  const { reading, tellSkipped } = await readingOf(file, options, tell);
  const { encoder, length } = options;
  const data = await loadTrainingData(file, {
    ...reading,
    tokenizer: encoder,
    length,
    trainOnPrompt: options["train-on-prompt"],
  });
  tellSkipped();
  const told = truncationText(file, data.counts, length);
  if (told !== null) tell(told);
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
