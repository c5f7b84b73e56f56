/**
 * An endpoint in the form of the OpenAI API, over a model on this machine or through the split.
 *
 * @module
 */

import { type ChatTemplate, chatTemplateOf, environmentVariable, type ListenError } from "@edgetuner/core";
import { requireToken } from "@edgetuner/transport";
import { createTextApp, serve, type TextGenerator } from "@edgetuner/transport/server";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { type FlagValues, integer, readFlags, text, UsageError } from "../flags/flags.ts";
import { REQUEST_WAITS } from "../flags/waiting_flags.ts";
import { baseWeightsOf } from "../flags/weights_flag.ts";
import { reachable } from "../output/addresses.ts";
import { type Certificate, certificateOf, KEPT, TLS_FLAGS } from "../shared/tls.ts";
import { command, type CommandRun } from "../process/command.ts";
import { Interrupts } from "../process/interrupts.ts";
import type { Call } from "../process/invocation.ts";
import { INTERRUPTED } from "../process/supervisor.ts";
import { SPLIT_FLAGS, tellOver, throughSplit } from "../shared/split_session.ts";
import { modelName, textGenerator } from "../shared/text_generators.ts";
import { loadAdapterParts, TextModel } from "../shared/texts.ts";

/** Bytes of a request for each token that the model can be given: enough for any text that fits, and quick to read. */
const BYTES_PER_TOKEN = 64;
/** Least and most bytes of a request, whatever the model. */
const [LEAST_BYTES, MOST_BYTES] = [2 ** 16, 2 ** 20];

/** Longest time for those who get an answer to take the end of it, in milliseconds. */
const SHUTDOWN_MS = 1000;
/** Longer than an answer may take: nothing is sent while it is being made. */
const IDLE_SPARE_MS = 10_000;

const FLAGS = {
  ...SPLIT_FLAGS,
  adapter: {
    ...COMMON_FLAGS.adapter,
    help:
      "adapter folder, or the parts that devices saved: a,b,c; the model alone is there too, as NAME:base",
  },
  connect: COMMON_FLAGS.connect,
  raw: { ...COMMON_FLAGS.raw, help: `/v1/completions: ${COMMON_FLAGS.raw.help}` },
  pair: { ...COMMON_FLAGS.pair, help: `/v1/completions: ${COMMON_FLAGS.pair.help}` },
  "max-tokens": {
    ...COMMON_FLAGS["max-tokens"],
    default: 0,
    min: 0,
    help: "most tokens that a request may ask for; 0 = as many as the model has room for",
  },
  temperature: { ...COMMON_FLAGS.temperature, default: 1, help: "of requests that say none" },
  "top-p": { ...COMMON_FLAGS["top-p"], default: 1, help: "of requests that say none" },
  host: COMMON_FLAGS.host,
  port: { ...COMMON_FLAGS.port, default: 8000 },
  alias: text("NAME", "", "name of the model in requests; else that of its folder or file"),
  "api-key": text(
    "KEY",
    "",
    "key that requests must show; EDGETUNER_API_KEY, or else a new one that is printed",
  ),
  "max-waiting": integer("N", 16, "most requests that wait while one is answered; more get 503", { min: 1 }),
  ...REQUEST_WAITS,
  ...TLS_FLAGS,
};

type Flags = FlagValues<typeof FLAGS>;

/** What the flags say and open before there is a GPU. */
interface Options {
  readonly flags: Flags;
  readonly template: ChatTemplate | null;
  readonly key: string;
  readonly certificate: Certificate | null;
}

async function readOptions(call: Call): Promise<Options> {
  const flags = readFlags(
    {
      name: "api",
      about:
        "Answers requests in the form of the OpenAI API: /v1/chat/completions, /v1/completions and /v1/models. " +
        "With --connect through the split: texts stay on this machine.",
      examples: [
        "edgetuner api --model MODEL",
        "edgetuner api --model MODEL --adapter runs/chat/adapter --api-key secret-key",
        "edgetuner api --model MODEL --connect ws://127.0.0.1:8787/join/ws --token T",
      ],
    },
    FLAGS,
    call,
  );
  if (flags.connect !== "" && flags.adapter !== "") {
    throw new UsageError(
      "Cannot answer requests as one of --connect and --adapter may be given: with --connect the devices have the heads",
    );
  }
  if (flags.raw && flags.pair) {
    throw new UsageError("Cannot answer requests as one of --raw and --pair may be given: both are");
  }
  return {
    flags,
    certificate: await certificateOf(flags),
    template: await chatTemplateOf(flags.model, flags.tokenizer),
    key: flags["api-key"] || environmentVariable("EDGETUNER_API_KEY") || crypto.randomUUID(),
  };
}

async function main(options: Options): Promise<number> {
  return await (options.flags.connect === "" ? answerHere(options) : answerThere(options));
}

/** What generators of both kinds have of the flags. */
function common({ flags, template }: Options) {
  const isPair = flags.pair || !flags.raw && (flags.adapter !== "" || flags.connect !== "");
  return { id: flags.alias || modelName(flags.model), template, isPair };
}

/** With the whole model on this machine. */
async function answerHere(options: Options): Promise<number> {
  const { flags } = options;
  const adapter = await loadAdapterParts(flags.adapter);
  using model = await TextModel.open(flags, adapter, flags.webgpu, baseWeightsOf(flags));
  await model.warmUp();
  const { fingerprint, tokenizer, positions, vocabulary } = model;
  const shared = { ...common(options), fingerprint, tokenizer, positions, vocabulary };
  const generators = [textGenerator({ ...shared, search: (search) => model.search(search) })];
  if (adapter !== null) {
    const base = {
      ...shared,
      id: `${shared.id}:base`,
      isPair: flags.pair,
      search: <T>(search: Parameters<typeof model.search<T>>[0]) => model.search(search, null),
    };
    generators.push(textGenerator(base));
  }
  return await answerUntilStopped(generators, options);
}

/** As the data device of a run for generation: texts and tokens stay here. */
async function answerThere(options: Options): Promise<number> {
  let code = 0;
  const { reason } = await throughSplit(
    options.flags,
    "api",
    (opened) => opened,
    async (session, { fingerprint, tokenizer, positions, vocabulary }, over) => {
      const generator = textGenerator({
        ...{ ...common(options), fingerprint, tokenizer, positions, vocabulary },
        search: (search) => search(session),
      });
      code = await answerUntilStopped([generator], options, over);
    },
  );
  return tellOver(reason, code);
}

/** Answers requests until Ctrl-C, or until the run is over that the answers come from. */
async function answerUntilStopped(
  models: readonly TextGenerator[],
  { flags, key, certificate }: Options,
  over?: AbortSignal,
): Promise<number> {
  using interrupts = new Interrupts();
  const signal = over === undefined ? interrupts.signal : AbortSignal.any([interrupts.signal, over]);
  const requestTimeoutMs = flags["request-timeout"] * 1000;
  let last: Promise<unknown> = Promise.resolve();
  const app = createTextApp({
    models: models.map((model) => ({
      ...model,
      generate: (prompt, options) => {
        const made = model.generate(prompt, options);
        last = made.catch(() => {});
        return made;
      },
    })),
    apiKey: key,
    defaults: { temperature: flags.temperature, topP: flags["top-p"] },
    maxWaiting: flags["max-waiting"],
    maxBodyBytes: bodyBytes(models),
    ...(flags["max-tokens"] > 0 && { maxTokens: flags["max-tokens"] }),
    requestTimeoutMs,
    signal,
    onAnswer: ({ model, promptTokens, tokens, ms, reason }) =>
      console.error(
        `${model}: ${tokens} tokens after ${promptTokens} in ${(ms / 1000).toFixed(1)} s, ${reason}`,
      ),
  });
  await using server = await serve(app, {
    hostname: flags.host,
    port: flags.port,
    authorize: requireToken(key),
    requestTimeoutMs,
    idleTimeoutMs: requestTimeoutMs + IDLE_SPARE_MS,
    ...(certificate && { tls: certificate }),
  }).catch(({ message, code }: ListenError) => {
    throw new UsageError(code === "EADDRINUSE" ? `${message}; try --port 0` : message);
  });
  const names = models.map(({ id }) => id).join(" and ");
  const scheme = certificate === null ? "http" : "https";
  console.log(`${names} at ${scheme}://${reachable(flags.host, server.port).addresses[0]}/v1  (key ${key})`);
  if (certificate !== null && certificate.fingerprint !== "") {
    console.log(`Certificate (SHA-256): ${certificate.fingerprint}; clients must trust ${KEPT}`);
  }
  if (models[0]!.chatPrompt === null) {
    console.error("The model has no chat template: /v1/completions answers, /v1/chat/completions does not");
  }
  const { promise, resolve } = Promise.withResolvers<void>();
  if (signal.aborted) resolve();
  else signal.addEventListener("abort", () => resolve());
  await promise;
  await server.shutdown(SHUTDOWN_MS);
  // It ends with its next token; until then the model must stay.
  await last;
  return interrupts.asked ? INTERRUPTED : 0;
}

/** Most bytes of a request. */
function bodyBytes(models: readonly TextGenerator[]): number {
  const longest = Math.max(...models.map(({ contextLength }) => contextLength));
  return Math.min(MOST_BYTES, Math.max(LEAST_BYTES, longest * BYTES_PER_TOKEN));
}

/** Runs the command. */
export const run: CommandRun = command(readOptions, main, "answers");
