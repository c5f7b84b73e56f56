/**
 * Fine-tuning data of a user's own: pairs, plain texts and conversations, mixed as one likes, one JSON object a
 * line.
 *
 * @module
 */

import { CheckpointError } from "../errors.ts";
import { readText } from "../text.ts";
import { type BadLine, BrokenRule, parseFields, readLines } from "./_lines.ts";
import { type Draft, fitSequences } from "./_sequences.ts";
import { encodeCompletion, encodePrompt, type PairEncoding, type SequenceSet } from "./batches.ts";
import type { ChatMessage, ChatTemplate, Conversation } from "./chat_template.ts";
import { pairOf, type TextPair } from "./pairs.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A text to learn whole. */
export interface PlainText {
  /** The text. */
  readonly text: string;
}

/** Part of a conversation's text. */
export interface ChatPart {
  /** The text, special tokens written out. */
  readonly text: string;
  /** True for what the assistant says, with what the template ends it with. */
  readonly isLearnt: boolean;
}

/** A conversation as its chat template writes it. */
export interface RenderedChat {
  /** The text in pieces. */
  readonly parts: readonly ChatPart[];
}

/** Something to learn. */
export type TrainingExample = TextPair | PlainText | RenderedChat;

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
 * Reads examples, one JSON object a line: `prompt` (or `context`) and `completion`; or `text`; or `messages`, with
 * `tools` if there are any.
 *
 * @param text The content of the file.
 * @param options Name, chat template, what to do with bad lines.
 * @returns The examples, in order.
 * @throws {CheckpointError} If there is no example, or a line is none and `onBadLine` is not given.
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
    throw new CheckpointError(`Cannot read ${name} as it must hold at least one example: all lines are bad`);
  }
  return examples;
}

function parseExample(line: string, template: ChatTemplate | undefined): TrainingExample | BrokenRule {
  const fields = parseFields(line);
  if (fields instanceof BrokenRule) return fields;
  if (fields.messages !== undefined) return parseChat(fields, template);
  if (fields.text !== undefined) {
    if (typeof fields.text !== "string") return new BrokenRule('"text" must be a string');
    return fields.text.trim() === "" ? new BrokenRule("the text must not be empty") : { text: fields.text };
  }
  if (["prompt", "context", "completion"].every((key) => fields[key] === undefined)) {
    return new BrokenRule('a line must have "messages", "text" or "prompt" and "completion"');
  }
  return pairOf(fields);
}

function parseChat(
  { messages, tools }: Record<string, unknown>,
  template: ChatTemplate | undefined,
): RenderedChat | BrokenRule {
  if (!Array.isArray(messages) || !messages.every((m) => typeof m?.role === "string")) {
    return new BrokenRule('"messages" must be a list of objects with a "role"');
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
    if (!(error instanceof CheckpointError)) throw error;
    return new BrokenRule(error.message.replace(/^Cannot render the conversation as /, ""));
  }
}

/**
 * Renders a conversation and finds what the assistant says in it: what follows the text that would be given to the
 * model at that point. So the model learns to go on exactly as it is asked to later.
 *
 * Some templates write earlier turns otherwise once there are later ones. Such an earlier turn is not learnt.
 *
 * @param template The model's chat template.
 * @param conversation The conversation.
 * @returns The text in pieces.
 * @throws {CheckpointError} If the template refuses the conversation, or there is nothing to learn.
 */
export function renderChat(template: ChatTemplate, conversation: Conversation): RenderedChat {
  const { messages } = conversation;
  const whole = template.render(conversation);
  const parts: ChatPart[] = [];
  let place = 0;
  messages.forEach(({ role }, i) => {
    if (role !== "assistant") return;
    const given = template.render({ ...conversation, messages: messages.slice(0, i) }, {
      addGenerationPrompt: true,
    });
    const until = i === messages.length - 1
      ? whole
      : template.render({ ...conversation, messages: messages.slice(0, i + 1) });
    if (!whole.startsWith(given) || !whole.startsWith(until) || until.length <= given.length) return;
    if (given.length > place) parts.push({ text: whole.slice(place, given.length), isLearnt: false });
    parts.push({ text: whole.slice(Math.max(place, given.length), until.length), isLearnt: true });
    place = until.length;
  });
  if (parts.length === 0) {
    throw new CheckpointError(
      "Cannot render the conversation as the assistant must say something that the template lets follow what was " +
        `said before: current roles are ${messages.map(({ role }) => role).join(", ")}`,
    );
  }
  if (place < whole.length) parts.push({ text: whole.slice(place), isLearnt: false });
  return { parts };
}

/**
 * Reads examples from disk.
 *
 * @param path The file, in UTF-8.
 * @param options Name, chat template, what to do with bad lines.
 * @returns What {@linkcode parseExamples} returns.
 * @throws {CheckpointError} If the file cannot be read, is not UTF-8, or what {@linkcode parseExamples} throws.
 */
export async function loadExamples(
  path: string | URL,
  options: ExampleOptions = {},
): Promise<TrainingExample[]> {
  return parseExamples(await readText(path), { name: String(path), ...options });
}

/**
 * Encodes examples for fine-tuning. Pairs as `encodePairs` does; plain texts with the end-of-text token after them;
 * conversations as their template writes them.
 *
 * The loss counts on completions, on plain texts and on what the assistant says, unless prompts are to be learnt
 * too. What is too long loses the start of what is given before the first token that counts; if that is not enough,
 * its end.
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
  const { length, trainOnPrompt = false } = encoding;
  if (!Number.isSafeInteger(length) || length < 1) {
    throw new RangeError(
      `Cannot encode examples as 'length' must be an integer of at least 1: current value is ${length}`,
    );
  }
  const drafts = examples.map((example) => draftOf(example, tokenizer));
  return fitSequences(drafts, { length, padding: tokenizer.eos, trainOnPrompt });
}

function draftOf(example: TrainingExample, tokenizer: Tokenizer): Draft {
  if ("text" in example) return { tokens: [...tokenizer.encode(example.text), tokenizer.eos], given: 0 };
  if ("prompt" in example) {
    const given = encodePrompt(tokenizer, example.prompt);
    return { tokens: [...given, ...encodeCompletion(tokenizer, example.completion)], given: given.length };
  }
  // Piece by piece: what is given to the model later is encoded on its own as well.
  const pieces = example.parts.map(({ text, isLearnt }) => ({ ids: tokenizer.encode(text), isLearnt }));
  const counts = pieces.flatMap(({ ids, isLearnt }) => ids.map(() => isLearnt ? 1 : 0));
  return { tokens: pieces.flatMap(({ ids }) => ids), given: counts.indexOf(1), counts };
}
