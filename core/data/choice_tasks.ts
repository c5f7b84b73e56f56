/**
 * Winogrande and OpenBookQA as texts whose likelihoods are compared, zero-shot, as EleutherAI's
 * lm-evaluation-harness does it.
 *
 * @module
 */

import { strip, stripEnd } from "../files/text.ts";
import { BrokenRule, parseFields, readLines } from "./lines.ts";
import { withBos } from "./fit_sequences.ts";
import type { FormatOptions } from "./formats.ts";
import type { TextPair } from "./pairs.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A text and what may follow it. */
export interface ChoiceRequest {
  /** What is given. */
  readonly context: string;
  /** What is scored, with the space before it. */
  readonly continuation: string;
}

/** A question. */
export interface ChoiceQuestion {
  /** One request for each answer. */
  readonly requests: readonly ChoiceRequest[];
  /** Index of the right answer. */
  readonly gold: number;
  /** Length of each answer in characters, without the space before it. */
  readonly lengths: readonly number[];
}

/** A row of Winogrande. */
export interface WinograndeRow {
  /** The sentence, with "_" for the blank. */
  readonly sentence: string;
  /** What may fill the blank. */
  readonly option1: string;
  /** What else may fill the blank. */
  readonly option2: string;
  /** "1" or "2". */
  readonly answer: string;
}

/**
 * Makes a question of a row of Winogrande. The options go before what is scored, which is the rest of the
 * sentence, the same for both (Trinh and Le, "A simple method for commonsense reasoning", 2018).
 *
 * @param row The row.
 * @returns The question.
 * @throws {RangeError} If the sentence has no blank or the answer is neither "1" nor "2".
 */
export function winograndeQuestion(row: WinograndeRow): ChoiceQuestion {
  const blank = row.sentence.indexOf("_");
  if (blank < 0) {
    throw new RangeError(
      `Cannot ask as 'sentence' must have a "_": current value is ${JSON.stringify(row.sentence)}`,
    );
  }
  const gold = ["1", "2"].indexOf(row.answer);
  if (gold < 0) {
    throw new RangeError(
      `Cannot ask as 'answer' must be "1" or "2": current value is ${JSON.stringify(row.answer)}`,
    );
  }
  const rest = strip(row.sentence.slice(blank + 1));
  const requests = [row.option1, row.option2].map((option) => ({
    context: row.sentence.slice(0, blank) + option,
    continuation: ` ${rest}`,
  }));
  return { requests, gold, lengths: requests.map(() => characters(rest)) };
}

/** A row of OpenBookQA. */
export interface OpenBookQaRow {
  /** The question or the start of a sentence. */
  readonly stem: string;
  /** The answers. */
  readonly choices: readonly { readonly text: string; readonly label: string }[];
  /** Label of the right answer. */
  readonly answerKey: string;
}

/**
 * Makes a question of a row of OpenBookQA.
 *
 * @param row The row.
 * @returns The question.
 * @throws {RangeError} If no answer has the label of the right one.
 */
export function openBookQaQuestion(row: OpenBookQaRow): ChoiceQuestion {
  const gold = row.choices.findIndex(({ label }) => label === row.answerKey.trimStart());
  if (gold < 0) {
    throw new RangeError(
      `Cannot ask as 'answerKey' must be one of ${row.choices.map(({ label }) => label).join(", ")}: ` +
        `current value is ${JSON.stringify(row.answerKey)}`,
    );
  }
  return {
    requests: row.choices.map(({ text }) => ({ context: row.stem, continuation: ` ${text}` })),
    gold,
    lengths: row.choices.map(({ text }) => characters(text)),
  };
}

/** Code points, at least one so that a sum can be divided by it. */
function characters(text: string): number {
  return Math.max(1, Array.from(text).length);
}

/**
 * Reads Winogrande in JSON lines: `sentence`, `option1`, `option2`, `answer`.
 *
 * @param text Content of the file.
 * @param options Name.
 * @returns The questions.
 * @throws {DataFormatError} If a line is no such row, or its answer is not told.
 */
export function parseWinogrande(text: string, options: FormatOptions = {}): ChoiceQuestion[] {
  return readRows(text, options, winograndeRow, winograndeQuestion);
}

function winograndeRow(fields: Record<string, unknown>): WinograndeRow | BrokenRule {
  const names = ["sentence", "option1", "option2", "answer"];
  const missing = names.find((name) => typeof fields[name] !== "string");
  return missing === undefined
    ? fields as unknown as WinograndeRow
    : new BrokenRule(`"${missing}" must be a string`);
}

/**
 * Reads OpenBookQA in JSON lines, in the layout of its own archive (`question.stem`) or of the rows on the
 * Hugging Face hub (`question_stem`).
 *
 * @param text Content of the file.
 * @param options Name.
 * @returns The questions.
 * @throws {DataFormatError} If a line is no such row.
 */
export function parseOpenBookQa(text: string, options: FormatOptions = {}): ChoiceQuestion[] {
  return readRows(text, options, openBookQaRow, openBookQaQuestion);
}

function openBookQaRow(fields: Record<string, unknown>): OpenBookQaRow | BrokenRule {
  const nested = fields.question as { stem?: unknown; choices?: unknown } | undefined;
  const stem = nested?.stem ?? fields.question_stem;
  if (typeof stem !== "string") {
    return new BrokenRule('"question_stem" or "question.stem" must be a string');
  }
  if (typeof fields.answerKey !== "string") return new BrokenRule('"answerKey" must be a string');
  const choices = choicesOf(nested?.choices ?? fields.choices);
  if (choices === null) return new BrokenRule('"choices" must have texts and labels');
  return { stem, choices, answerKey: fields.answerKey };
}

function choicesOf(value: unknown): { text: string; label: string }[] | null {
  const columns = value as { text?: unknown; label?: unknown } | null | undefined;
  const list: unknown[] = Array.isArray(value)
    ? value
    : Array.isArray(columns?.text) && Array.isArray(columns.label)
    ? columns.text.map((text, i) => ({ text, label: (columns.label as unknown[])[i] }))
    : [];
  const isChoice = (item: unknown): item is { text: string; label: string } => {
    const { text, label } = (item ?? {}) as { text?: unknown; label?: unknown };
    return typeof text === "string" && typeof label === "string";
  };
  return list.length > 0 && list.every(isChoice) ? list : null;
}

function readRows<Row, Item>(
  text: string,
  options: FormatOptions,
  parse: (fields: Record<string, unknown>) => Row | BrokenRule,
  make: (row: Row) => Item,
): Item[] {
  return readLines(text, options.name ?? "the data", (line) => {
    const fields = parseFields(line);
    if (fields instanceof BrokenRule) return fields;
    const row = parse(fields);
    if (row instanceof BrokenRule) return row;
    try {
      return make(row);
    } catch (error) {
      if (error instanceof RangeError) {
        return new BrokenRule(error.message.replace(/^Cannot ask as /, ""), { hasValue: true });
      }
      throw error;
    }
  }, options.onBadLine);
}

/**
 * The right answers of questions as examples to learn: what is learnt is what is scored, the likelihood of the right
 * continuation. Questions whose continuation has nothing but white space, such as a sentence that ends with its
 * blank, have nothing to learn and are left out.
 *
 * @param questions From `parseWinogrande` or `parseOpenBookQa`.
 * @returns Examples, as `encodeExamples` takes them; as JSON lines, as `parseExamples` reads them.
 *
 * @example
 * ```ts
 * import { rightAnswers, winograndeQuestion } from "@edgetuner/core";
 *
 * const sentence = "The cup fell off the tray because the _ was tilted.";
 * rightAnswers([winograndeQuestion({ sentence, option1: "cup", option2: "tray", answer: "2" })]);
 * // [{ context: "The cup fell off the tray because the tray", continuation: " was tilted." }]
 * ```
 */
export function rightAnswers(questions: readonly ChoiceQuestion[]): ChoiceRequest[] {
  return questions.map(({ requests, gold }) => requests[gold]!)
    .filter(({ continuation }) => continuation.trim() !== "");
}

/**
 * Makes instructions of Winogrande in JSON lines, as papers that fine-tune in the form of LLM-Adapters have them:
 * all options in the prompt, the number of the right one to write. Choice tasks score other texts.
 *
 * @param text Content of the file.
 * @param options Name.
 * @returns Prompts and completions.
 * @throws {DataFormatError} If a line is no such row, or its answer is not told.
 */
export function instructWinogrande(text: string, options: FormatOptions = {}): TextPair[] {
  return readRows(text, options, winograndeRow, (row) => {
    const { gold } = winograndeQuestion(row);
    const { sentence, option1, option2 } = row;
    return {
      prompt: "Please choose the correct answer to fill in the blank to complete the given sentence: " +
        `${sentence}\n\nOption1: ${option1} Option2: ${option2} Answer format: option1/option2`,
      completion: `the correct answer is option${gold + 1}`,
    };
  });
}

/**
 * Makes instructions of OpenBookQA in JSON lines, as {@linkcode instructWinogrande} does of Winogrande.
 *
 * @param text Content of the file.
 * @param options Name.
 * @returns Prompts and completions.
 * @throws {DataFormatError} If a line is no such row.
 */
export function instructOpenBookQa(text: string, options: FormatOptions = {}): TextPair[] {
  return readRows(text, options, openBookQaRow, (row) => {
    const { gold } = openBookQaQuestion(row);
    const answers = row.choices.map(({ text }, i) => `Answer${i + 1}: ${text}`).join(" ");
    const names = row.choices.map((_, i) => `answer${i + 1}`);
    return {
      prompt: `Please choose the correct answer to the question: ${row.stem}\n\n${answers}\n\n` +
        `Answer format: ${names.join("/")}`,
      completion: `the correct answer is ${names[gold]}`,
    };
  });
}

/** Tokens of a request. */
export interface EncodedRequest {
  /** Token ids of what is given. */
  readonly context: readonly number[];
  /** Token ids of what is scored: position i of it is predicted at position `context.length + i - 1` of both. */
  readonly continuation: readonly number[];
}

/** How to encode requests. */
export interface RequestEncoding {
  /** Token that the model wants at the start of every text; `null` for none. @default {the tokenizer's} */
  readonly bos?: number | null;
}

/**
 * Encodes a request: both texts together, cut where the context alone would end. White space at the end of the
 * context counts with the continuation. An empty context becomes the token that begins texts, or else the one that
 * ends them.
 *
 * @param tokenizer The tokenizer.
 * @param request The texts.
 * @param options The token that begins texts, if not the tokenizer's.
 * @returns Token ids.
 */
export function encodeRequest(
  tokenizer: Tokenizer,
  request: ChoiceRequest,
  options: RequestEncoding = {},
): EncodedRequest {
  const bos = options.bos === undefined ? tokenizer.bos : options.bos;
  const context = stripEnd(request.context);
  const continuation = request.context.slice(context.length) + request.continuation;
  if (context === "") {
    return { context: [bos ?? tokenizer.eos], continuation: tokenizer.encode(continuation) };
  }
  const given = tokenizer.encode(context);
  return {
    context: withBos({ bos }, given),
    continuation: tokenizer.encode(context + continuation).slice(given.length),
  };
}
