/**
 * Models as an endpoint needs them: texts and conversations to tokens, and tokens to texts.
 *
 * @module
 */

import {
  type ChatTemplate,
  completeText,
  type DecodingSession,
  encodeOpening,
  encodePrompt,
  encodeTurn,
  type Tokenizer,
} from "@edgetuner/core";
import type { TextGenerator } from "@edgetuner/transport/server";
import { endTokens } from "./prompts.ts";

/** What makes the tokens, on this machine or through the split. */
export interface TokenSource {
  /** Name by which requests ask for it. */
  readonly id: string;
  /** Fingerprint of the base model. */
  readonly fingerprint: string;
  /** Reads and makes tokens. */
  readonly tokenizer: Tokenizer;
  /** The chat template; `null` for models without one. */
  readonly template: ChatTemplate | null;
  /** Tokens that the model can be given at once. */
  readonly positions: number;
  /** V: tokens that it can be given are below. */
  readonly vocabulary: number;
  /** True if a text to continue is the prompt of a pair; false to continue it as it is. */
  readonly isPair: boolean;
  /** Lets a search use a fresh session; called for one at a time. */
  search<T>(search: (session: DecodingSession) => Promise<T>): Promise<T>;
}

/** A tool that does nothing, to see whether a template writes of it. */
const SOME_TOOL = {
  type: "function",
  function: { name: "quixotic", description: "x", parameters: { type: "object", properties: {} } },
};

/** True if a template tells the model of tools. */
export function takesTools(template: ChatTemplate | null): boolean {
  if (template === null) return false;
  const messages = [{ role: "user", content: "x" }];
  try {
    return template.render({ messages, tools: [SOME_TOOL] }).includes(SOME_TOOL.function.name);
  } catch {
    return false;
  }
}

/** A model for an endpoint. */
export function textGenerator(source: TokenSource): TextGenerator {
  const { id, fingerprint, tokenizer, template, positions: contextLength, vocabulary, isPair } = source;
  const ends = endTokens(tokenizer, template);
  /** What is left to the model of the prompts of conversations. */
  const leads = new WeakMap<readonly number[], string>();
  return {
    ...{ id, fingerprint, contextLength, vocabulary, takesTools: takesTools(template) },
    textPrompt: (text) => isPair ? encodePrompt(tokenizer, text) : encodeOpening(tokenizer, text),
    chatPrompt: template && ((conversation) => {
      const { tokens, lead } = encodeTurn(
        tokenizer,
        template.render(conversation, { addGenerationPrompt: true }),
      );
      leads.set(tokens, lead);
      return tokens;
    }),
    generate: (prompt, options) =>
      source.search((session) =>
        completeText(session, tokenizer, prompt, { ...options, lead: leads.get(prompt), endTokens: ends })
      ),
  };
}

/** The name of a model that a path tells: that of its folder, or of its file without the ending. */
export function modelName(path: string): string {
  const [name = ""] = path.split(/[/\\]/).filter((part) => part !== "" && part !== ".").slice(-1);
  return name.replace(/\.gguf$/i, "") || "model";
}
