/**
 * Fine-tuning data of a user's own: pairs, plain texts and conversations, mixed as one likes, one JSON object a
 * line.
 *
 * @module
 */

import { DataFormatError, ModelFileError } from "../contracts/errors.ts";
import { loadText } from "../files/text.ts";
import { type BadLine, BrokenRule, parseFields, readLines } from "./lines.ts";
import { SequenceFitter, type UntrimmedSequence, withBos } from "./fit_sequences.ts";
import { encodeCompletion, encodePrompt, type PairEncoding } from "./batches.ts";
import type { SequenceSet } from "./sequences.ts";
import type { ChatMessage, ChatTemplate } from "./chat_template.ts";
import { encodeRequest } from "./choice_tasks.ts";
import { type ColumnOptions, columnsOf, namesOf } from "./columns.ts";
import { pairOf, type TextPair } from "./pairs.ts";
import { encodeParts, encodeTurn, renderChat, type RenderedChat } from "./rendered_chat.ts";
import type { Tokenizer } from "./tokenizer.ts";

export {
  type ChatPart,
  encodeChat,
  encodeTurn,
  type OpenTurn,
  renderChat,
  type RenderedChat,
} from "./rendered_chat.ts";

/** A text to learn whole. */
export interface PlainText {
  /** The text. */
  readonly text: string;
}

/**
 * A text whose end is to be learnt, with nothing between its parts and nothing after them, as choice tasks score
 * answers: what is learnt is exactly what is scored.
 */
export interface ContinuedText {
  /** What is given. */
  readonly context: string;
  /** What follows, with the space before it. */
  readonly continuation: string;
}

/** Something to learn. */
export type TrainingExample = TextPair | PlainText | ContinuedText | RenderedChat;

/** How to read examples. */
export interface ExampleOptions {
  /** How errors call the file. @default {"the data"} */
  readonly name?: string;
  /** The model's chat template: data with `messages` needs it. */
  readonly chatTemplate?: ChatTemplate;
  /**
   * Called with each line that is no example; it is skipped. Without it the first such line is an error.
   *
   * @param bad Where it is and what is wrong.
   */
  readonly onBadLine?: (bad: BadLine) => void;
}

/**
 * Reads examples, one JSON object a line: `prompt` (or `context`) and `completion`; or `context` and `continuation`;
 * or `text`; or `messages`, with `tools` if there are any.
 *
 * @param text The content of the file.
 * @param options Name, chat template, what to do with bad lines.
 * @returns The examples, in order.
 * @throws {DataFormatError} If there is no example, or a line is none and `onBadLine` is not given.
 *
 * @example
 * ```ts
 * import { parseExamples } from "@edgetuner/core";
 *
 * let skipped = 0;
 * const examples = parseExamples('{"prompt":"2+2","completion":"4"}\n{"text":"Four."}\n{"txt":"?"}', {
 *   onBadLine: ({ line, problem }) => skipped += 1, // line 3: a line must have "messages", "text" or ...
 * });
 * examples.length; // 2
 * ```
 */
export function parseExamples(text: string, options: ExampleOptions = {}): TrainingExample[] {
  const { name = "the data", chatTemplate, onBadLine } = options;
  const examples = readLines(text, name, (line) => parseExample(line, chatTemplate), onBadLine);
  if (examples.length === 0) {
    throw new DataFormatError(`Cannot read ${name} as it must hold at least one example: no line is valid`);
  }
  return examples;
}

function parseExample(line: string, template: ChatTemplate | undefined): TrainingExample | BrokenRule {
  const row = parseFields(line);
  return row instanceof BrokenRule
    ? row
    : exampleOfRow(row, template, { instructionsAsChats: template !== undefined });
}

/**
 * The example of a row of any data set, or the rule that it breaks.
 *
 * @param row Its columns.
 * @param template The chat template, for conversations.
 * @param options Which column is which.
 */
export function exampleOfRow(
  row: Record<string, unknown>,
  template: ChatTemplate | undefined,
  options: ColumnOptions = {},
): TrainingExample | BrokenRule {
  const fields = columnsOf(row, options);
  if (fields instanceof BrokenRule) return fields;
  if (fields.messages !== undefined) return parseChat(fields, template);
  if (fields.text !== undefined) {
    if (typeof fields.text !== "string") return new BrokenRule('"text" must be a string');
    return fields.text.trim() === "" ? new BrokenRule("the text must not be empty") : { text: fields.text };
  }
  if (fields.continuation !== undefined) return continuedOf(fields);
  if (["prompt", "context", "completion"].every((key) => fields[key] === undefined)) {
    const task = choiceTaskOf(fields);
    return task === null
      ? new BrokenRule(
        'a row must have "messages", "text" or "prompt" and "completion" (or "context" and "continuation", ' +
          `"instruction" and "output", "conversations"): its columns are ${namesOf(row)}` +
          (options.map === undefined ? "; --map prompt=COLUMN,completion=COLUMN says which is which" : ""),
        { hasValue: true },
      )
      : new BrokenRule(
        `rows of ${task} must be made examples first: format_data.ts --format ${task} does that`,
      );
  }
  return pairOf(fields);
}

/** The choice task that has rows with such fields. */
function choiceTaskOf(fields: Record<string, unknown>): "winogrande" | "openbookqa" | null {
  if (fields.sentence !== undefined && fields.option1 !== undefined) return "winogrande";
  return fields.question_stem !== undefined ||
      (fields.question as { stem?: unknown } | null)?.stem !== undefined
    ? "openbookqa"
    : null;
}

function continuedOf({ context, continuation }: Record<string, unknown>): ContinuedText | BrokenRule {
  if (typeof context !== "string") return new BrokenRule('"context" must be a string');
  if (typeof continuation !== "string") return new BrokenRule('"continuation" must be a string');
  if (continuation.trim() === "") return new BrokenRule("the continuation must not be empty");
  return { context, continuation };
}

function parseChat(
  { messages, tools }: Record<string, unknown>,
  template: ChatTemplate | undefined,
): RenderedChat | BrokenRule {
  if (!Array.isArray(messages) || !messages.every((m) => typeof m?.role === "string")) {
    return new BrokenRule('"messages" must be a list of objects with a "role"');
  }
  const weights = messages.map((message) => message.weight).filter((weight) => weight !== undefined);
  if (weights.some((weight) => weight !== 0 && weight !== 1 && weight !== null)) {
    return new BrokenRule('"weight" of a message must be 0 or 1');
  }
  if (tools !== undefined && tools !== null && !Array.isArray(tools)) {
    return new BrokenRule('"tools" must be a list');
  }
  if (template === undefined) return new BrokenRule('"messages" must come with the chat template of a model');
  try {
    return renderChat(template, {
      messages: messages as ChatMessage[],
      ...(Array.isArray(tools) ? { tools } : {}),
    });
  } catch (error) {
    if (!(error instanceof ModelFileError || error instanceof DataFormatError)) throw error;
    return new BrokenRule(
      error.message.replace(/^Cannot render the conversation as /, ""),
      { hasValue: error.message.includes(": current ") },
    );
  }
}

/**
 * Reads examples from disk.
 *
 * @param path The file, in UTF-8.
 * @param options Name, chat template, what to do with bad lines.
 * @returns What {@linkcode parseExamples} returns.
 * @throws {ModelFileError} If the file cannot be read.
 * @throws {DataFormatError} If a line is not UTF-8, or what {@linkcode parseExamples} throws.
 */
export async function loadExamples(
  path: string | URL,
  options: ExampleOptions = {},
): Promise<TrainingExample[]> {
  return parseExamples(await loadText(path), { name: String(path), ...options });
}

/**
 * Encodes examples for fine-tuning. Where the model has a token that begins texts (`bos`), it comes first and once;
 * `eos` ends texts:
 *
 * - pairs as `encodePairs` does, `[bos] prompt eos completion eos`;
 * - plain texts as `[bos] text eos`;
 * - continued texts as {@linkcode encodeRequest} does, `[bos] context continuation`;
 * - conversations as their template writes them, as one text: what begins and ends it is the template's matter.
 *
 * The loss counts on completions, plain texts, continuations and what the assistant says, unless prompts are to be
 * learnt too; never on `bos`. What is too long loses the start of what is given before the first token that counts,
 * but not `bos`, down to half of the sequence; if that is not enough, its end.
 *
 * @param examples The data.
 * @param tokenizer The tokenizer.
 * @param encoding T, and whether prompts are learnt too.
 * @returns One sequence per example.
 * @throws {RangeError} If T is not a positive integer.
 */
export function encodeExamples(
  examples: readonly TrainingExample[],
  tokenizer: Tokenizer,
  encoding: PairEncoding,
): SequenceSet {
  const encoder = new ExampleEncoder(tokenizer, encoding);
  for (const example of examples) encoder.add(example);
  return encoder.finish();
}

/** Encodes examples one by one, as {@linkcode encodeExamples} does, so that no other copy of the data is kept. */
export class ExampleEncoder {
  readonly #tokenizer: Tokenizer;
  readonly #length: number;
  readonly #fitting: SequenceFitter;
  /** Tokens of packed texts that do not fill a sequence yet. */
  #row: readonly number[] = [];

  /**
   * Begins a set.
   *
   * @param tokenizer The tokenizer.
   * @param encoding T, and whether prompts are learnt too.
   * @throws {RangeError} If T is not a positive integer.
   */
  constructor(tokenizer: Tokenizer, { length, trainOnPrompt = false }: PairEncoding) {
    if (!Number.isSafeInteger(length) || length < 1) {
      throw new RangeError(
        `Cannot encode examples as 'length' must be an integer of at least 1: current value is ${length}`,
      );
    }
    this.#tokenizer = tokenizer;
    this.#length = length;
    this.#fitting = new SequenceFitter({ length, padding: tokenizer.eos, trainOnPrompt });
  }

  /** Takes in an example. */
  add(example: TrainingExample): void {
    this.#fitting.add(draftOf(example, this.#tokenizer));
  }

  /** Takes in a text that is cut in sequences of T tokens, the next text behind it: nothing is left out. */
  pack(text: string): void {
    const tokenizer = this.#tokenizer;
    const row = this.#row.concat(withBos(tokenizer, tokenizer.encode(text)), tokenizer.eos);
    let start = 0;
    // The last token of a sequence is only a target; it is given to the model in the next one.
    for (; start + this.#length < row.length - 1; start += this.#length) this.#window(row, start);
    this.#row = row.slice(start);
  }

  #window(row: readonly number[], start: number): void {
    const tokens = row.slice(start, start + this.#length + 1);
    const { bos } = this.#tokenizer;
    const counts = bos === null ? {} : { counts: tokens.map((id, i) => i > 0 && id === bos ? 0 : 1) };
    this.#fitting.add({ tokens, given: 0, ...counts });
  }

  /** The set. */
  finish(): SequenceSet {
    if (this.#row.length > 1) this.#window(this.#row, 0);
    this.#row = [];
    return this.#fitting.finish();
  }
}

function draftOf(example: TrainingExample, tokenizer: Tokenizer): UntrimmedSequence {
  const keepFirst = tokenizer.bos !== null;
  if ("text" in example) {
    const tokens = [...withBos(tokenizer, tokenizer.encode(example.text)), tokenizer.eos];
    return { tokens, given: keepFirst ? 1 : 0, keepFirst };
  }
  if ("prompt" in example) {
    const given = encodePrompt(tokenizer, example.prompt);
    const tokens = [...given, ...encodeCompletion(tokenizer, example.completion)];
    return { tokens, given: given.length, keepFirst };
  }
  if ("continuation" in example) {
    const { context, continuation } = encodeRequest(tokenizer, example);
    // Where one token spans the border, it is what is learnt.
    const tokens = continuation.length > 0
      ? [...context, ...continuation]
      : withBos(tokenizer, tokenizer.encode(example.context + example.continuation));
    return { tokens, given: Math.max(1, Math.min(context.length, tokens.length - 1)), keepFirst };
  }
  const { tokens, counts } = encodeParts(tokenizer, example.parts);
  return {
    tokens,
    given: Math.max(0, counts.indexOf(1)),
    counts,
    keepFirst: keepFirst && tokens[0] === tokenizer.bos,
  };
}

/** What a model is given for an example, and what is expected of it. */
export interface ExamplePrompt {
  /** Token ids, as the example is fine-tuned on; at least one. */
  readonly tokens: readonly number[];
  /** What is given, as text. */
  readonly text: string;
  /** What the example says should follow: completion, continuation or what the assistant says last. */
  readonly reference: string;
  /** Of a conversation what the user says last, if that is a text. */
  readonly asked?: string;
  /** Of a conversation what is left to the model to begin with: see `encodeTurn`. @default {""} */
  readonly lead?: string;
}

/**
 * The prompt of an example: what is given to a model that was fine-tuned on such examples, to let it answer.
 *
 * - Of a pair `[bos] prompt eos`.
 * - Of a continued text `[bos] context`.
 * - Of a conversation everything before the assistant speaks last, tools included, with what the template writes
 *   where the assistant is to speak.
 *
 * @param example The example. What `loadPairs`, `loadExamples` or `renderChat` give.
 * @param tokenizer The tokenizer.
 * @returns Tokens, text and what should follow.
 * @throws {RangeError} If the example is a plain text: nothing of it is given.
 *
 * @example
 * ```ts
 * import { examplePrompt } from "@edgetuner/core";
 *
 * const letters = {
 *   vocabSize: 128,
 *   eos: 0,
 *   bos: null,
 *   encode: (text: string) => Array.from(text, (letter) => letter.charCodeAt(0)),
 *   decode: (ids: ArrayLike<number>) => String.fromCharCode(...Array.from(ids)),
 * };
 * examplePrompt({ prompt: "ab", completion: "c" }, letters);
 * // { tokens: [97, 98, 0], text: "ab", reference: "c" }
 * ```
 */
export function examplePrompt(example: TrainingExample, tokenizer: Tokenizer): ExamplePrompt {
  if ("text" in example) {
    const text = JSON.stringify(example.text.length > 80 ? `${example.text.slice(0, 80)}...` : example.text);
    throw new RangeError(
      `Cannot take the prompt of an example as it must have one (a pair, context and continuation, or messages): current value is the text ${text}`,
    );
  }
  if ("prompt" in example) {
    const { prompt: text, completion: reference } = example;
    return { tokens: encodePrompt(tokenizer, text), text, reference };
  }
  if ("continuation" in example) {
    const { context, continuation } = example;
    return { tokens: encodeRequest(tokenizer, example).context, text: context, reference: continuation };
  }
  const { parts, last } = example;
  if (last !== undefined) {
    const { opening: text, answer: reference, ...asked } = last;
    return { ...asTurn(tokenizer, text), text, reference, ...asked };
  }
  const place = parts.findLastIndex(({ isLearnt }) => isLearnt);
  const text = parts.slice(0, Math.max(0, place)).map((part) => part.text).join("");
  return { ...asTurn(tokenizer, text), text, reference: parts[place]?.text ?? "" };
}

/** What is given of a conversation. */
function asTurn(tokenizer: Tokenizer, text: string): Pick<ExamplePrompt, "tokens" | "lead"> {
  const { tokens, lead } = encodeTurn(tokenizer, text);
  return lead === "" ? { tokens } : { tokens, lead };
}
