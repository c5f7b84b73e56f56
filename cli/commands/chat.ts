/**
 * Talking to a model by its chat template: each line that is typed is answered, token by token.
 *
 * @module
 */

import {
  type ChatTemplate,
  chatTemplateOf,
  completeText,
  type DecodingSession,
  encodeTurn,
  type OpenTurn,
  type Tokenizer,
} from "@edgetuner/core";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { type FlagValues, readFlags, UsageError } from "../flags/flags.ts";
import { baseWeightsOf } from "../flags/weights_flag.ts";
import { Interrupts } from "../process/interrupts.ts";
import { Lines } from "../process/lines.ts";
import { goOnAfterInterrupt, INTERRUPTED } from "../process/supervisor.ts";
import { endTokens, promptRoom } from "../shared/prompts.ts";
import { SPLIT_FLAGS, tellOver, throughSplit } from "../shared/split_session.ts";
import { loadAdapterParts, TextModel } from "../shared/texts.ts";
import { TUNING_FLAGS } from "../flags/tuning_flags.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call } from "../process/invocation.ts";

const FLAGS = {
  ...SPLIT_FLAGS,
  adapter: {
    ...COMMON_FLAGS.adapter,
    help: "adapter folder, or the parts that devices saved: a,b,c; without one the model alone",
  },
  connect: COMMON_FLAGS.connect,
  system: COMMON_FLAGS.system,
  "max-tokens": { ...COMMON_FLAGS["max-tokens"], default: 256, help: "most tokens of an answer" },
  temperature: { ...COMMON_FLAGS.temperature, default: 0.7 },
  "top-k": COMMON_FLAGS["top-k"],
  "top-p": { ...COMMON_FLAGS["top-p"], default: 0.95 },
  "repetition-penalty": COMMON_FLAGS["repetition-penalty"],
  seed: { ...TUNING_FLAGS.seed, help: "seed of what is drawn" },
};

type Flags = FlagValues<typeof FLAGS>;

/** One message of the conversation. */
type Message = { readonly role: "system" | "user" | "assistant"; readonly content: string };

const encoder = new TextEncoder();

function write(words: string): void {
  Deno.stdout.writeSync(encoder.encode(words));
}

/** A conversation as tokens that leave room for an answer: what was said first goes first, but for the system. */
export function conversationTokens(
  messages: readonly Message[],
  template: ChatTemplate,
  tokenizer: Tokenizer,
  room: number,
): OpenTurn {
  const system = messages.filter(({ role }) => role === "system");
  let said = messages.filter(({ role }) => role !== "system");
  for (;;) {
    const prompt = template.render({ messages: [...system, ...said] }, { addGenerationPrompt: true });
    const turn = encodeTurn(tokenizer, prompt);
    if (turn.tokens.length <= room) return turn;
    if (said.length < 3) {
      throw new UsageError(
        `Cannot answer as a message must leave the model room: it takes ${turn.tokens.length} of ${room} tokens`,
      );
    }
    said = said.slice(2);
  }
}

/** Who answers: a model on this machine, or one through the split. */
interface Partner {
  /** Reads and makes tokens. */
  readonly tokenizer: Tokenizer;
  /** Tokens that it can be given at once. */
  readonly positions: number;
  /** Lets a search use a fresh session. */
  search<T>(search: (session: DecodingSession) => Promise<T>): Promise<T>;
}

/** What one side says to the other. */
class Conversation {
  readonly #messages: Message[] = [];
  readonly #partner: Partner;
  readonly #template: ChatTemplate;
  readonly #flags: Flags;
  #turn = 0;

  constructor(partner: Partner, template: ChatTemplate, flags: Flags) {
    this.#partner = partner;
    this.#template = template;
    this.#flags = flags;
    this.clear();
  }

  /** Begins anew. */
  clear(): void {
    const { system } = this.#flags;
    this.#messages.splice(
      0,
      Infinity,
      ...(system === "" ? [] : [{ role: "system" as const, content: system }]),
    );
  }

  /** Answers, and writes the answer as it comes. */
  async answer(content: string, signal: AbortSignal): Promise<void> {
    const { temperature, "top-k": topK, "top-p": topP, seed } = this.#flags;
    const { tokenizer, positions } = this.#partner;
    const ends = endTokens(tokenizer, this.#template);
    const room = promptRoom(positions, this.#flags["max-tokens"]);
    const asked = [...this.#messages, { role: "user" as const, content }];
    const { tokens: prompt, lead } = conversationTokens(asked, this.#template, tokenizer, room);
    const { text } = await this.#partner.search((session) =>
      completeText(session, tokenizer, prompt, {
        ...{ temperature, topK, topP, seed: (seed + this.#turn++) >>> 0, endTokens: ends, signal },
        repetitionPenalty: this.#flags["repetition-penalty"],
        maxNewTokens: Math.min(this.#flags["max-tokens"], session.contextLength - prompt.length + 1),
        ...{ lead, onText: write },
      })
    );
    write("\n");
    this.#messages.push(asked.at(-1)!, { role: "assistant", content: text.trim() });
  }
}

function readOptions(call: Call): { readonly flags: Flags } {
  const flags = readFlags(
    {
      name: "chat",
      about:
        "Talks to a model by its chat template. Ctrl-C stops an answer, and ends the talk where there is none; " +
        "so does twice. /new begins anew, /exit ends.",
      examples: [
        "edgetuner chat --model MODEL",
        'edgetuner chat --model MODEL --adapter runs/chat/adapter --system "You are a waiter."',
        'echo "Where can I eat?" | edgetuner chat --model MODEL --temperature 0',
        "edgetuner chat --model MODEL --connect ws://127.0.0.1:8787/join/ws --token T",
      ],
    },
    FLAGS,
    call,
  );
  if (flags.connect !== "" && flags.adapter !== "") {
    throw new UsageError(
      "Cannot chat as one of --connect and --adapter may be given: with --connect the devices have the heads",
    );
  }
  return { flags };
}

async function main({ flags }: { readonly flags: Flags }): Promise<number> {
  const template = await chatTemplateOf(flags.model, flags.tokenizer);
  if (template === null) {
    throw new UsageError(
      `Cannot chat as the model's folder must have a chat template: ${
        flags.tokenizer || flags.model
      } has none; edgetuner generate continues texts without one`,
    );
  }
  if (flags.connect === "") {
    const adapter = await loadAdapterParts(flags.adapter);
    using model = await TextModel.open(flags, adapter, flags.webgpu, baseWeightsOf(flags));
    const { tokenizer, positions } = model;
    const partner: Partner = { tokenizer, positions, search: (search) => model.search(search) };
    return await talk(new Conversation(partner, template, flags));
  }
  let code = 0;
  const { reason } = await throughSplit(
    flags,
    "chat",
    (model) => model,
    async (session, { tokenizer, positions }, over) => {
      const partner: Partner = { tokenizer, positions, search: (search) => search(session) };
      code = await talk(new Conversation(partner, template, flags), over);
    },
  );
  return tellOver(reason, code);
}

/** Reads lines and has them answered, until they end or the other side is gone. */
async function talk(conversation: Conversation, over?: AbortSignal): Promise<number> {
  const ended = Promise.withResolvers<null>();
  let answering: AbortController | null = null;
  let isEnded = false;
  using _interrupts = new Interrupts((count) => {
    if (answering !== null && count === 1) return answering.abort();
    isEnded = true;
    answering?.abort();
    ended.resolve(null);
  });
  over?.addEventListener("abort", () => ended.resolve(null));
  if (over?.aborted) ended.resolve(null);
  const isTerminal = Deno.stdin.isTerminal();
  const lines = new Lines();
  if (isTerminal) console.error("Type a line; Ctrl-C stops an answer, Ctrl-D or /exit ends.");
  while (!isEnded) {
    if (isTerminal) write("> ");
    const line = await Promise.race([lines.next(), ended.promise]);
    if (line === null || line.trim() === "/exit") break;
    if (line.trim() === "/new") conversation.clear();
    if (line.trim() === "" || line.trim() === "/new") continue;
    answering = new AbortController();
    await conversation.answer(line, answering.signal);
    const wasStopped = answering.signal.aborted;
    answering = null;
    if (wasStopped && !isEnded) goOnAfterInterrupt();
  }
  if (isTerminal) write("\n");
  return isEnded ? INTERRUPTED : 0;
}

/** Runs the command. */
export const run: CommandRun = command(readOptions, main, "answers");
