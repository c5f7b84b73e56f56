/**
 * Prompts of data of any kind, as tokens.
 *
 * @module
 */

import {
  type ChatTemplate,
  type DataCounts,
  DataFormatError,
  encodeTurn,
  endsOf,
  examplePrompt,
  type OpenTurn,
  type ReadExamples,
  type Tokenizer,
  type TrainingExample,
} from "@edgetuner/core";
import { UsageError } from "../flags/flags.ts";

/** What a model is to go on from. */
export interface Prompt {
  /** Index of its line in the data; those that were left out do not count. */
  readonly id: number;
  /** At least one. */
  readonly tokens: readonly number[];
  /** For people. */
  readonly text: string;
  /** What should follow; empty if nobody says. */
  readonly reference: string;
  /** Of a conversation what the user says last. */
  readonly asked?: string;
  /** What the model is to begin with. @default {""} */
  readonly lead?: string;
}

/** Which lines of a file to take. */
export interface PromptChoice {
  /** How many; 0 = all. */
  readonly count: number;
  /** Index of the first one; after the last comes the first again. */
  readonly first: number;
  /** What to call the file where `first` must be in it; without it the prompts are counted round. */
  readonly within?: string;
  /** True to take each prompt once, at its first line. */
  readonly distinct: boolean;
}

/** Prompts, and what became of the lines that they come from. */
export interface Prompts {
  readonly prompts: readonly Prompt[];
  readonly counts: DataCounts;
}

/** True if there is something in each example that a model can be given. */
export function havePrompts(examples: readonly TrainingExample[]): boolean {
  return !examples.some((example) => "text" in example);
}

/**
 * Refuses data without prompts.
 *
 * @throws {DataFormatError} If an example is a plain text.
 */
export function requirePrompts(file: string, examples: readonly TrainingExample[]): void {
  if (havePrompts(examples)) return;
  throw new DataFormatError(
    `Cannot take prompts from ${file} as its examples must be pairs, contexts with continuations, or messages: ` +
      "at least one is a plain text",
  );
}

/**
 * Makes prompts of examples. Those that leave the model no room lose their start.
 *
 * @param room Most tokens of a prompt.
 * @throws {UsageError} If there is no prompt where the first one should be.
 */
export function encodePrompts(
  { examples, skipped }: Pick<ReadExamples, "examples" | "skipped">,
  tokenizer: Tokenizer,
  choice: PromptChoice,
  room: number,
): Prompts {
  const seen = new Set<string>();
  const all = examples.map((example, id) => ({ id, ...examplePrompt(example, tokenizer) }))
    .filter(({ text }) => {
      if (choice.distinct && seen.has(text)) return false;
      seen.add(text);
      return true;
    });
  if (choice.within !== undefined && choice.first >= all.length) {
    throw new UsageError(
      `Cannot take prompts from ${choice.within} as --first must be below ${all.length}, the number of prompts: current value is ${choice.first}`,
    );
  }
  const count = choice.count === 0 ? all.length : Math.min(choice.count, all.length);
  const first = choice.count === 0 ? 0 : choice.first;
  const chosen = Array.from({ length: count }, (_, i) => all[(first + i) % all.length]!);
  const prompts = chosen.map((prompt) => ({ ...prompt, tokens: fitPrompt(prompt.tokens, tokenizer, room) }));
  const truncated = prompts.filter(({ tokens }, i) => tokens.length < chosen[i]!.tokens.length).length;
  return { prompts, counts: { sequences: count, truncated, skipped } };
}

/**
 * Most tokens of a prompt that so many more are to follow: the rest of what the model takes, but at least half of it.
 *
 * @param positions Tokens that the model can be given.
 * @param maxTokens Most tokens to add.
 */
export function promptRoom(positions: number, maxTokens: number): number {
  return Math.max(positions - maxTokens, Math.floor(positions / 2));
}

/**
 * Refuses to begin texts that would end early as the model has no more places.
 *
 * @param prompts As they are given to the model.
 * @throws {UsageError} If one leaves fewer places than are asked for.
 */
export function requireRoom(prompts: readonly Prompt[], positions: number, maxTokens: number): void {
  const longest = prompts.reduce((most, { tokens }) => Math.max(most, tokens.length), 0);
  if (longest + maxTokens <= positions) return;
  throw new UsageError(
    `Cannot generate as --max-tokens must be at most ${
      positions - longest
    }, what a prompt of ${longest} tokens leaves of the model's ${positions}: current value is ${maxTokens}`,
  );
}

/** A prompt without its start, but for the token that begins texts, if it is too long. */
export function fitPrompt(tokens: readonly number[], { bos }: Tokenizer, room: number): readonly number[] {
  const surplus = tokens.length - room;
  if (surplus <= 0) return tokens;
  return tokens[0] === bos ? [tokens[0], ...tokens.slice(1 + surplus)] : tokens.slice(surplus);
}

/** What was cut, in a line; `null` if nothing was. */
export function cutText(
  file: string,
  { sequences, truncated }: DataCounts,
  room: number,
): string | null {
  return truncated === 0 ? null : `${truncated} of ${sequences} prompts of ${file} cut to ${room} tokens`;
}

/** Tokens up to the first one that ends a text. */
function untilEnd(tokens: readonly number[], ends: readonly number[]): readonly number[] {
  const at = tokens.findIndex((token) => ends.includes(token));
  return at < 0 ? tokens : tokens.slice(0, at);
}

/**
 * The text of generated tokens, up to one that ends it. Models may have more rows than their tokenizer has tokens:
 * those say nothing.
 */
export function textOf(tokenizer: Tokenizer, tokens: readonly number[], ends: readonly number[]): string {
  return tokenizer.decode(untilEnd(tokens, ends).filter((id) => id < tokenizer.vocabSize)).trim();
}

/** A question as a model that chats is given it. */
export function chatPrompt(
  template: ChatTemplate,
  tokenizer: Tokenizer,
  { user, system }: { readonly user: string; readonly system: string },
): OpenTurn & { readonly text: string } {
  const messages = [
    ...(system === "" ? [] : [{ role: "system", content: system }]),
    { role: "user", content: user },
  ];
  const text = template.render({ messages }, { addGenerationPrompt: true });
  return { ...encodeTurn(tokenizer, text), text };
}

/** What the assistant says where only what follows it matters: nothing that a template writes by itself. */
const ANSWER = "Quixotic";

/**
 * Tokens that end a text: those of the tokenizer and its model, and, where a chat template ends what the assistant
 * says with a special token of its own, that one.
 */
export function endTokens(tokenizer: Tokenizer, template: ChatTemplate | null): readonly number[] {
  const ends = endsOf(tokenizer);
  if (template === null) return ends;
  const turns = [{ role: "user", content: "x" }, { role: "assistant", content: ANSWER }];
  const whole = template.render({ messages: turns });
  const at = whole.lastIndexOf(ANSWER);
  if (at < 0) return ends;
  const [token] = tokenizer.encode(whole.slice(at + ANSWER.length));
  // Special tokens are written in brackets; a template may also go on with an ordinary line break.
  const isSpecial = token !== undefined && /^[<[].+[>\]]$/.test(tokenizer.decode([token]));
  return isSpecial ? [...new Set([...ends, token])] : ends;
}
