/**
 * Conversations as text, and which parts of it are to be learnt.
 *
 * @module
 */

import { DataFormatError, ModelFileError } from "../contracts/errors.ts";
import type {
  ChatMessage,
  ChatTemplate,
  Conversation,
  RenderedText,
  RenderOptions,
} from "./chat_template.ts";
import type { Tokenizer } from "./tokenizer.ts";

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
  /** Where the assistant speaks last. @default {as `parts` have it} */
  readonly last?: {
    /** The text that is given to the model at that point. */
    readonly opening: string;
    /** What the assistant says, without what the template puts round it. */
    readonly answer: string;
    /** What the user says before it; missing if that is not a text. */
    readonly asked?: string;
  };
}

/** Where a turn is in the text: from the first character that is learnt to the end of what ends the turn. */
type Place = readonly [start: number, end: number];

/** What a conversation is rendered to, at each place where it is cut. */
class Renderer {
  readonly #template: ChatTemplate;
  readonly #conversation: Conversation;
  readonly whole: RenderedText;
  /** A text that the conversation does not hold. */
  readonly #mark: string;

  constructor(template: ChatTemplate, conversation: Conversation) {
    this.#template = template;
    this.#conversation = conversation;
    this.whole = template.renderMarked?.(conversation) ??
      { text: template.render(conversation), generated: [] };
    let mark = "Quixotic";
    while (this.whole.text.includes(mark)) mark += "Quixotic";
    this.#mark = mark;
  }

  get messages(): readonly ChatMessage[] {
    return this.#conversation.messages;
  }

  /** The first messages. */
  upTo(count: number): string {
    return this.#render(this.messages.slice(0, count));
  }

  /** The first messages, where the assistant is to speak. */
  openingAfter(count: number): string {
    return this.#render(this.messages.slice(0, count), { addGenerationPrompt: true });
  }

  #render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    return this.#template.render({ ...this.#conversation, messages }, options);
  }

  /** What is before and after the content of a message among the first ones; `null` if it is not written once. */
  around(index: number, count: number): { readonly before: string; readonly after: string } | null {
    const messages = this.messages.slice(0, count).map((message, i) =>
      i === index ? { ...message, content: this.#mark } : message
    );
    let text: string;
    try {
      text = this.#render(messages);
    } catch (error) {
      if (error instanceof ModelFileError) return null;
      throw error;
    }
    const [before, after, ...more] = text.split(this.#mark);
    return before === undefined || after === undefined || more.length > 0 ? null : { before, after };
  }
}

/** How many characters two texts have in common from the first on. */
function commonLength(a: string, b: string): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}

/** A turn that follows in the text what was given before it, and goes on unchanged in the whole. */
function plainPlace(renderer: Renderer, index: number): Place | null {
  const { text } = renderer.whole;
  const given = renderer.openingAfter(index);
  const until = index === renderer.messages.length - 1 ? text : renderer.upTo(index + 1);
  if (!text.startsWith(given) || !text.startsWith(until) || until.length <= given.length) return null;
  return [given.length, until.length];
}

/**
 * A turn in a template that writes it otherwise than what was given leads to: earlier turns without their thoughts, or
 * an opened thought. It is where its content is, found by rendering another in its place.
 */
function writtenPlace(renderer: Renderer, index: number): Place | null {
  const { text } = renderer.whole;
  if (typeof renderer.messages[index]!.content !== "string") return null;
  const around = renderer.around(index, renderer.messages.length);
  if (around === null) return null;
  const { before, after } = around;
  const end = text.length - after.length;
  if (!text.startsWith(before) || !text.endsWith(after) || end < before.length) return null;
  // What the template writes round the turn where it is the last one.
  const base = renderer.upTo(index);
  const last = renderer.around(index, index + 1);
  if (last === null || !last.before.startsWith(base)) return [before.length, end];
  const header = last.before.slice(base.length);
  const given = renderer.openingAfter(index);
  const shared = given.startsWith(base) ? commonLength(header, given.slice(base.length)) : header.length;
  const start = before.endsWith(header) ? before.length - (header.length - shared) : before.length;
  return [start, end + commonLength(after, last.after)];
}

/** Whether a turn is learnt: `"weight": 0` says that it is not. */
function isWeighted({ weight }: ChatMessage): boolean {
  if (weight === undefined || weight === null || weight === 1) return true;
  if (weight === 0) return false;
  throw new DataFormatError(
    `Cannot render the conversation as the weight of a message must be 0 or 1: current value is ${
      JSON.stringify(weight)
    }`,
  );
}

/** The places of all turns of the assistant that are learnt. */
function placesOf(renderer: Renderer): Place[] {
  const { messages, whole } = renderer;
  const turns = messages.flatMap(({ role }, i) => role === "assistant" ? [i] : []);
  const weighted = turns.filter((i) => isWeighted(messages[i]!));
  messages.forEach(isWeighted);
  if (whole.generated.length > 0) {
    if (weighted.length === turns.length) return [...whole.generated];
    if (whole.generated.length !== turns.length) {
      throw new DataFormatError(
        `Cannot render the conversation as the template must mark each turn of the assistant where one has "weight" 0: ` +
          `it marks ${whole.generated.length} of ${turns.length}`,
      );
    }
    return whole.generated.filter((_, k) => weighted.includes(turns[k]!));
  }
  return weighted.map((index) => {
    const place = plainPlace(renderer, index) ?? writtenPlace(renderer, index);
    if (place !== null) return place;
    throw new DataFormatError(
      `Cannot render the conversation as the template must write what the assistant says: message ${
        index + 1
      } of ` +
        `${messages.length} is left out or changed by it; end the conversation there, or give it "weight": 0`,
    );
  });
}

/**
 * Renders a conversation and finds what the assistant says in it. Where the template marks it (`{% generation %}`),
 * that is what is learnt. Otherwise it is what follows the text that would be given to the model at that point. So
 * the model learns to go on exactly as it is asked to later. Where the template writes turns otherwise than it asks for
 * them, as some do with thoughts, it is what the text has of the turn. Messages with `weight` 0 are not learnt.
 *
 * @param template The model's chat template.
 * @param conversation The conversation.
 * @returns The text in pieces.
 * @throws {ModelFileError} If the template refuses the conversation.
 * @throws {DataFormatError} If there is nothing to learn, or a turn of the assistant is not in the text.
 */
export function renderChat(template: ChatTemplate, conversation: Conversation): RenderedChat {
  const renderer = new Renderer(template, conversation);
  const { messages } = conversation;
  const { text } = renderer.whole;
  const parts: ChatPart[] = [];
  let at = 0;
  for (const [start, end] of placesOf(renderer)) {
    if (end <= start || start < at) continue;
    if (start > at) parts.push({ text: text.slice(at, start), isLearnt: false });
    parts.push({ text: text.slice(start, end), isLearnt: true });
    at = end;
  }
  if (parts.length === 0) {
    throw new DataFormatError(
      "Cannot render the conversation as the assistant must say something that is learnt: " +
        `current roles are ${messages.map(({ role }) => role).join(", ")}`,
    );
  }
  if (at < text.length) parts.push({ text: text.slice(at), isLearnt: false });
  const index = messages.findLastIndex(({ role }) => role === "assistant");
  if (index < 0) return { parts };
  const opening = renderer.openingAfter(index);
  const { content } = messages[index]!;
  const question = messages.slice(0, index).findLast(({ role }) => role === "user")?.content;
  const asked = typeof question === "string" ? { asked: question } : {};
  if (typeof content === "string") return { parts, last: { opening, answer: content, ...asked } };
  const until = renderer.upTo(index + 1);
  const answer = until.startsWith(opening) ? until.slice(opening.length) : "";
  return { parts, last: { opening, answer, ...asked } };
}

/** The text of a conversation up to where the assistant is to speak, as a model is given it. */
export interface OpenTurn {
  /** Token ids, at least one. */
  readonly tokens: number[];
  /**
   * The space at its end: it is one token with the word behind it, as the model learnt it. So it is left to the
   * model: what it writes begins with it, and it is no part of the answer.
   */
  readonly lead: string;
}

/** A word that answers may begin with. */
const BEGINNING = "A";
/** What is one token with the word behind it. */
const SPACES_AT_END = /[^\S\r\n]+$/;

/**
 * Encodes the text of a conversation up to where the assistant is to speak, as its template writes it: nothing is put
 * before it. Where it ends in a space, the space and the first word of an answer are one token where a model learns
 * from whole conversations. So the space is left out, for the model to begin with.
 *
 * @param tokenizer The tokenizer.
 * @param text What the template made.
 * @returns Tokens, and what of the text is left to the model.
 */
export function encodeTurn(tokenizer: Tokenizer, text: string): OpenTurn {
  const { encodeWithPlaces } = tokenizer;
  if (encodeWithPlaces !== undefined && SPACES_AT_END.test(text)) {
    const { ids, stops } = encodeWithPlaces.call(tokenizer, text + BEGINNING);
    const kept = Array.from(ids).findIndex((_, i) => stops[i]! >= text.length);
    const lead = text.slice(stops[kept - 1]);
    // Something must be given, and only spaces are left out.
    if (kept > 0 && lead.trim() === "") return { tokens: Array.from(ids).slice(0, kept), lead };
  }
  const tokens = tokenizer.encode(text);
  return { tokens: tokens.length > 0 ? tokens : [tokenizer.eos], lead: "" };
}

/**
 * The tokens of {@linkcode encodeTurn}.
 *
 * @param tokenizer The tokenizer.
 * @param text What the template made.
 * @returns Token ids, at least one.
 */
export function encodeChat(tokenizer: Tokenizer, text: string): number[] {
  return encodeTurn(tokenizer, text).tokens;
}

/**
 * Encodes a rendered conversation as one text, and says which tokens are learnt: those that have a character of
 * what the assistant says, or of a space right before it.
 *
 * @param tokenizer The tokenizer. Without `encodeWithPlaces` it is given the pieces one by one.
 * @param parts The text in pieces.
 * @returns Tokens, and 1 for each that is learnt.
 * @throws {ModelFileError} If the tokenizer cannot tell where its tokens are.
 */
export function encodeParts(
  tokenizer: Tokenizer,
  parts: readonly ChatPart[],
): { readonly tokens: readonly number[]; readonly counts: readonly number[] } {
  if (tokenizer.encodeWithPlaces === undefined) {
    const pieces = parts.map(({ text, isLearnt }) => ({ ids: tokenizer.encode(text), isLearnt }));
    return {
      tokens: pieces.flatMap(({ ids }) => ids),
      counts: pieces.flatMap(({ ids, isLearnt }) => ids.map(() => isLearnt ? 1 : 0)),
    };
  }
  const { ids, starts, stops } = tokenizer.encodeWithPlaces(parts.map(({ text }) => text).join(""));
  const counts = new Array<number>(ids.length).fill(0);
  let begin = 0;
  let before = "";
  let token = 0;
  for (const { text, isLearnt } of parts) {
    const end = begin + text.length;
    if (isLearnt) {
      const spaces = SPACES_AT_END.exec(before)?.[0].length ?? 0;
      // A token over the border may be of two parts. One of spaces before it is the model's to write: see encodeTurn.
      const counted = (i: number) =>
        stops[i]! > begin || spaces > 0 && stops[i] === begin && starts[i]! >= begin - spaces;
      while (token > 0 && counted(token - 1)) token--;
      for (; token < ids.length && starts[token]! < end; token++) if (counted(token)) counts[token] = 1;
    }
    begin = end;
    before = text;
  }
  return { tokens: ids, counts };
}
