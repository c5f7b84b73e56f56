/**
 * Training data from a file, as sequences of tokens, in one call.
 *
 * @module
 */

import { DataFormatError } from "../contracts/errors.ts";
import { type ChatTemplate, type ChatTemplateOptions, findChatTemplate } from "../data/chat_template.ts";
import { BrokenRule } from "../data/lines.ts";
import type { ColumnMap } from "../data/columns.ts";
import { ExampleEncoder, exampleOfRow, type TrainingExample } from "../data/examples.ts";
import type { BadLine } from "../data/pairs.ts";
import type { SequenceSet } from "../data/sequences.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import type { DataRow } from "./_data_row.ts";
import { dataFiles, type DataFormat, dataRows, recogniseFormat } from "./data_file.ts";
import { loadGgufChatTemplate } from "./gguf_tokenizer.ts";
import { isGguf, modelFolderOf } from "./model_path.ts";

/** How to read examples. */
export interface ReadExamplesOptions {
  /** The model: its folder, or a path that ends in `.gguf`. Conversations need the chat template in its folder. */
  readonly model: string;
  /** A chat template to use in place of the model's. @default {the model's} */
  readonly chatTemplate?: ChatTemplate;
  /** How the data is held. @default {what is recognised of each file} */
  readonly format?: DataFormat | undefined;
  /** Which column is which. @default {columns have the names that examples have} */
  readonly map?: ColumnMap | undefined;
  /** True to make conversations of instructions (Alpaca). @default {where the model has a chat template} */
  readonly instructionsAsChats?: boolean | undefined;
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
  /** Formats of the files. */
  readonly formats: readonly DataFormat[];
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

/** Neither a `ModelFileError` nor a `DataFormatError`, which would make a bad line of the conversation. */
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
 * @param options What counts as now where the template writes the date.
 * @returns The template.
 * @throws {ModelFileError} If there is one that is not valid.
 */
export async function chatTemplateOf(
  model: string,
  tokenizer = "",
  { now }: Pick<ChatTemplateOptions, "now"> = {},
): Promise<ChatTemplate | null> {
  const other = tokenizer === ""
    ? null
    : await chatTemplateOf(tokenizer, "", now === undefined ? {} : { now });
  if (other !== null) return other;
  const folder = model.endsWith(".json") ? model.replace(/[^/\\]*$/, "") || "." : modelFolderOf(model);
  const found = await findChatTemplate(folder.replace(/(?<=.)[/\\]$/, ""), now);
  return found === null && isGguf(model) ? await loadGgufChatTemplate(model, now) : found;
}

/** An example, or a bad row that is left out. */
type ReadExample = { readonly example: TrainingExample; readonly format: DataFormat } | null;

/** Formats whose rows have no columns to choose from. */
const WITHOUT_COLUMNS: readonly DataFormat[] = ["pairs", "text", "paragraphs"];

/** Reads examples one by one. */
async function* readExamples(path: string, options: ReadExamplesOptions): AsyncGenerator<ReadExample> {
  const { onBadLine } = options;
  let template: ChatTemplate | null | undefined = options.chatTemplate;
  for (const file of await dataFiles(path)) {
    const format = options.format ?? await recogniseFormat(file);
    if (options.map !== undefined && WITHOUT_COLUMNS.includes(format)) {
      throw new DataFormatError(
        `Cannot read ${file} as columns can be named only where it has some: its format is "${format}"`,
      );
    }
    for await (const { line, row, source } of dataRows(file, format)) {
      if (template === undefined && "fields" in row) template = await chatTemplateOf(options.model);
      const example = exampleOf(row, { template: template ?? null, file, options });
      if (!(example instanceof BrokenRule)) {
        yield { example, format };
        continue;
      }
      const value = JSON.stringify(source.length > 80 ? `${source.slice(0, 80)}...` : source);
      const problem = example.hasValue || (source === "" && format === "parquet")
        ? example.rule
        : `${example.rule}: current value is ${value}`;
      if (onBadLine === undefined) {
        const place = format === "parquet" ? "row" : "line";
        throw new DataFormatError(`Cannot read ${file}, ${place} ${line}, as ${problem}`);
      }
      onBadLine({ name: file, line, problem });
      yield null;
    }
  }
}

/** The example of a row. */
function exampleOf(
  row: DataRow["row"],
  { template, file, options }: {
    readonly template: ChatTemplate | null;
    readonly file: string;
    readonly options: ReadExamplesOptions;
  },
): TrainingExample | BrokenRule {
  if (row instanceof BrokenRule) return row;
  if ("pair" in row) return row.pair;
  if ("text" in row) return row;
  const { model, map, instructionsAsChats = template !== null } = options;
  try {
    return exampleOfRow(row.fields, template ?? NO_TEMPLATE, { map, instructionsAsChats });
  } catch (error) {
    if (!(error instanceof NoTemplate)) throw error;
    throw new DataFormatError(
      `Cannot read ${file} as its "messages" must come with the chat template of a model: ${model} has none`,
    );
  }
}

/**
 * Reads a file, or the files of a folder, in any of these formats: JSON lines, a JSON list, CSV, TSV and Parquet with
 * pairs, texts, conversations, columns of Alpaca or ShareGPT; lines `prompt||completion`; plain text. Files that gzip
 * has made smaller are read too.
 *
 * @param file The file or folder; text is in UTF-8, or in UTF-16 with its mark.
 * @param options Chat template, columns, what to do with bad lines.
 * @returns The examples, and how many lines were left out.
 * @throws {ModelFileError} If a file cannot be read.
 * @throws {DataFormatError} If a line is not as it must be, all are left out, or there are conversations and the
 *   model has no chat template.
 */
export async function readTrainingExamples(
  file: string,
  options: ReadExamplesOptions,
): Promise<ReadExamples> {
  const examples: TrainingExample[] = [];
  const formats = new Set<DataFormat>();
  let skipped = 0;
  for await (const read of readExamples(file, options)) {
    if (read === null) skipped++;
    else {
      examples.push(read.example);
      formats.add(read.format);
    }
  }
  requireSome(file, examples.length, skipped);
  return { examples, skipped, formats: [...formats] };
}

function requireSome(file: string, count: number, skipped: number): void {
  if (count > 0) return;
  throw new DataFormatError(
    skipped > 0
      ? `Cannot read ${file} as it must hold at least one example: no line is valid`
      : `Cannot read ${file} as it must hold at least one line: it is empty`,
  );
}

/**
 * Reads a file as {@linkcode readTrainingExamples} does and encodes it as {@linkcode encodeExamples} does.
 *
 * @param file The file, in UTF-8.
 * @param options The model, its tokenizer, T.
 * @returns The sequences, and what was cut and left out.
 * @throws {ModelFileError} If the file cannot be read.
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
  const { tokenizer, length, trainOnPrompt = false } = options;
  const encoder = new ExampleEncoder(tokenizer, { length, trainOnPrompt });
  let skipped = 0;
  for await (const read of readExamples(file, options)) {
    if (read === null) skipped++;
    else if (read.format === "text" && "text" in read.example) encoder.pack(read.example.text);
    else encoder.add(read.example);
  }
  const set = encoder.finish();
  const { shortened: truncated, shortenedPrompts, shortenedCompletions } = set;
  const sequences = set.sequences.length;
  requireSome(file, sequences, skipped);
  return { ...set, counts: { sequences, truncated, shortenedPrompts, shortenedCompletions, skipped } };
}
