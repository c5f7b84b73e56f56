/**
 * An endpoint in the form of the OpenAI API, over any model that makes texts. An app to be served, not a server:
 * `serve(app)`, see `serve.ts`.
 *
 * | route | key | what it does |
 * | --- | --- | --- |
 * | GET /health | none | says that it is there, and how many requests wait |
 * | GET /v1/models, /v1/models/:model | yes | the models |
 * | POST /v1/chat/completions | yes | an answer in a conversation, whole or as server-sent events |
 * | POST /v1/completions | yes | a text that goes on, whole or as server-sent events |
 *
 * @module
 */

import { type Context, Hono } from "hono";
import {
  type CompletedText,
  type CompleteTextOptions,
  type Conversation,
  parsePreciseJson,
  plainNumber,
} from "@edgetuner/core";
import { readBody } from "../_http_body.ts";
import { count, milliseconds } from "../_options.ts";
import { requireToken } from "../token.ts";
import { ApiError, asApiError, invalid, unsupported } from "./_api_error.ts";
import { type Answer, streamAnswer, wholeAnswer } from "./_text_answers.ts";
import { readChatRequest, readTextRequest, type TextSettings } from "./_text_requests.ts";
import { TextTurns } from "./_text_turns.ts";

/** How to make a text; what ends it is the generator's to know. */
export type GenerateTextOptions = Omit<CompleteTextOptions, "endTokens">;

/** A model that makes texts, wherever it is. */
export interface TextGenerator {
  /** Name by which requests ask for it. */
  readonly id: string;
  /** Fingerprint of its base weights: another model has another one. */
  readonly fingerprint: string;
  /** Tokens that it can be given at once, the answer's among them. */
  readonly contextLength: number;
  /** V, tokens of a prompt are below. */
  readonly vocabulary: number;
  /**
   * Tokens of a text to continue.
   *
   * @throws {Error} If the model cannot take it.
   */
  textPrompt(text: string): readonly number[];
  /**
   * Tokens of a conversation in which the model is to speak; `null` for models without a chat template.
   *
   * @throws {Error} If the template does not take it.
   */
  readonly chatPrompt: ((conversation: Conversation) => readonly number[]) | null;
  /** True if the chat template tells the model of tools. */
  readonly takesTools: boolean;
  /**
   * Continues a prompt; called for one at a time.
   *
   * @param prompt At least one token.
   * @param options How to draw, and when to end.
   */
  generate(prompt: readonly number[], options: GenerateTextOptions): Promise<CompletedText>;
}

/** Options of `createTextApp`. */
export interface TextAppOptions {
  /** The models; at least one. */
  readonly models: readonly TextGenerator[];
  /** Key that requests must show, as `Authorization: Bearer KEY`. */
  readonly apiKey: string;
  /** What a request gets that does not say how to draw. @default {temperature 1, topP 1} */
  readonly defaults?: { readonly temperature?: number; readonly topP?: number } | undefined;
  /** Most requests that wait beside the one that is answered; more get 503. @default {16} */
  readonly maxWaiting?: number;
  /** Largest body of a request in bytes. @default {1048576} */
  readonly maxBodyBytes?: number;
  /** As of `createControlApp`. @default {10000} */
  readonly bodyTimeoutMs?: number;
  /** Most messages of a conversation. @default {1024} */
  readonly maxMessages?: number;
  /** Most tokens that a request may ask for. @default {as many as the model has room for} */
  readonly maxTokens?: number;
  /** Longest time in milliseconds from a request to the end of its answer, its wait for its turn too. @default {600000} */
  readonly requestTimeoutMs?: number;
  /** Ends what is being answered, such as when the server shuts down. @default {none} */
  readonly signal?: AbortSignal | undefined;
  /** Called after each answer. */
  onAnswer?(answer: AnsweredText): void;
}

/** An answer that is over. */
export interface AnsweredText {
  /** Name of the model. */
  readonly model: string;
  /** Tokens of the prompt. */
  readonly promptTokens: number;
  /** Tokens of the answer. */
  readonly tokens: number;
  /** Milliseconds from the turn to the end. */
  readonly ms: number;
  /** Why it ended. */
  readonly reason: CompletedText["reason"];
}

const MIN_KEY_LENGTH = 8;

/**
 * Creates the endpoint.
 *
 * @param options Models, key and limits.
 * @returns The app.
 * @throws {RangeError} If the key is too short, there is no model, or a limit is out of range.
 * @throws {TypeError} If the key does not fit into a header.
 */
export function createTextApp(options: TextAppOptions): Hono {
  const { models, apiKey, signal } = options;
  if (apiKey.length < MIN_KEY_LENGTH) {
    throw new RangeError(
      `Cannot create the endpoint as apiKey must have at least ${MIN_KEY_LENGTH} characters: it has ${apiKey.length}`,
    );
  }
  if (models.length === 0) {
    throw new RangeError("Cannot create the endpoint as there must be a model: there is none");
  }
  const bodyLimits = {
    maxBytes: count("maxBodyBytes", options.maxBodyBytes, 2 ** 20),
    timeoutMs: milliseconds("bodyTimeoutMs", options.bodyTimeoutMs, 10_000),
    signal,
  };
  const limits = {
    maxMessages: count("maxMessages", options.maxMessages, 1024),
    maxTokens: count("maxTokens", options.maxTokens, 2 ** 31 - 1),
  };
  const service = new TextService(options);
  const app = new Hono();
  app.onError((error) => asApiError(error).response());
  app.notFound(({ req }) =>
    new ApiError(`Invalid URL (${req.method} ${req.path})`, { status: 404 }).response()
  );
  app.get("/health", (c) => c.json({ status: "ok", waiting: service.waiting }));
  const authorize = requireToken(apiKey);
  app.use("/v1/*", async ({ req }, next): Promise<Response | void> => {
    if (await authorize(req.raw)) return await next();
    const isShown = req.header("authorization") !== undefined;
    throw new ApiError(
      isShown
        ? "Incorrect API key provided"
        : 'You did not provide an API key: send it as "Authorization: Bearer KEY"',
      { status: 401, code: isShown ? "invalid_api_key" : null, headers: { "www-authenticate": "Bearer" } },
    );
  });
  const created = Math.floor(Date.now() / 1000);
  const modelJson = ({ id }: TextGenerator) => ({ id, object: "model", created, owned_by: "edgetuner" });
  app.get("/v1/models", (c) => c.json({ object: "list", data: models.map(modelJson) }));
  app.get("/v1/models/:model{.+}", (c) => c.json(modelJson(service.model(c.req.param("model")))));
  app.post("/v1/chat/completions", async (context) => {
    const request = readChatRequest(await jsonOf(context, bodyLimits), limits);
    const model = service.model(request.model);
    return await service.answer(context, {
      kind: "chat",
      request,
      model,
      prompt: chatTokens(model, request.conversation),
    });
  });
  app.post("/v1/completions", async (context) => {
    const request = readTextRequest(await jsonOf(context, bodyLimits), limits);
    const model = service.model(request.model);
    return await service.answer(context, {
      kind: "text",
      request,
      model,
      prompt: textTokens(model, request.prompt),
    });
  });
  for (const path of ["/v1/models", "/v1/chat/completions", "/v1/completions"]) {
    app.all(path, ({ req }) => {
      throw new ApiError(`Not allowed to ${req.method} on ${path}`, {
        status: 405,
        code: "method_not_supported",
      });
    });
  }
  return app;
}

/** The body of a request as JSON. */
async function jsonOf({ req }: Context, limits: Parameters<typeof readBody>[1]): Promise<unknown> {
  // Pages of other sites may send plain text to this machine without asking it first, but no JSON.
  const type = req.header("content-type") ?? "";
  if (!/^application\/json\s*(?:;|$)/i.test(type)) {
    throw new ApiError(`Cannot answer as the content type must be application/json: it is "${type}"`, {
      status: 415,
      code: "unsupported_content_type",
    });
  }
  let bytes: Uint8Array | undefined;
  try {
    bytes = await readBody(req.raw, limits);
  } catch (error) {
    const message = error instanceof Error ? error.message : "Cannot read the body: reading was ended";
    throw new ApiError(message, { status: 408, code: "timeout" });
  }
  if (bytes === undefined) {
    throw new ApiError(
      `Cannot answer as the body must be at most ${limits.maxBytes} bytes: it is larger`,
      { status: 413, code: "request_too_large" },
    );
  }
  try {
    const body = parsePreciseJson(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    // The template writes the numbers of tools as they are written; settings are plain.
    return Array.isArray(body) || typeof body !== "object" || body === null
      ? body
      : Object.fromEntries(Object.entries(body).map(([name, value]) => [name, plainNumber(value)]));
  } catch {
    throw new ApiError("We could not parse the JSON body of your request", {
      status: 400,
      code: "invalid_json",
    });
  }
}

/** What the model is given of a conversation. */
function chatTokens(
  { id, chatPrompt, takesTools }: TextGenerator,
  conversation: Conversation,
): readonly number[] {
  if (chatPrompt === null) {
    throw unsupported(
      "model",
      `Cannot answer as the model must have a chat template: "${id}" has none, use /v1/completions`,
    );
  }
  if (conversation.tools !== undefined && !takesTools) {
    throw unsupported(
      "tools",
      `Cannot answer as "tools" must not be given: the chat template of "${id}" knows none`,
    );
  }
  try {
    return chatPrompt(conversation);
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw invalid("messages", error instanceof Error ? error.message : String(error));
  }
}

/** What the model is given of a text, or of tokens. */
function textTokens(model: TextGenerator, prompt: string | readonly number[]): readonly number[] {
  if (typeof prompt !== "string") {
    const bad = prompt.find((token) => token >= model.vocabulary);
    if (bad === undefined) return prompt;
    throw invalid("prompt", `Cannot answer as tokens must be below ${model.vocabulary}: one is ${bad}`);
  }
  try {
    return model.textPrompt(prompt);
  } catch (error) {
    throw invalid("prompt", error instanceof Error ? error.message : String(error));
  }
}

/** A request that has been read. */
interface Asked {
  readonly kind: Answer["kind"];
  readonly request: TextSettings;
  readonly model: TextGenerator;
  readonly prompt: readonly number[];
}

/** Answers requests, one at a time. */
class TextService {
  readonly #options: TextAppOptions;
  readonly #turns: TextTurns;
  readonly #requestTimeoutMs: number;

  constructor(options: TextAppOptions) {
    this.#options = options;
    this.#turns = new TextTurns(count("maxWaiting", options.maxWaiting, 16));
    this.#requestTimeoutMs = milliseconds("requestTimeoutMs", options.requestTimeoutMs, 600_000);
  }

  /** Requests that wait. */
  get waiting(): number {
    return this.#turns.waiting;
  }

  /** The model of a name. */
  model(id: string): TextGenerator {
    const found = this.#options.models.find((model) => model.id === id);
    if (found !== undefined) return found;
    const names = this.#options.models.map((model) => `"${model.id}"`).join(" and ");
    throw new ApiError(`The model "${id}" does not exist: there is ${names}`, {
      status: 404,
      param: "model",
      code: "model_not_found",
    });
  }

  /** Answers a request, whole or piece by piece. */
  async answer(context: Context, { kind, request, model, prompt }: Asked): Promise<Response> {
    const maxNewTokens = roomFor(request, model, prompt);
    const ended = new AbortController();
    const { signal } = this.#options;
    const signals = [ended.signal, context.req.raw.signal, ...(signal === undefined ? [] : [signal])];
    const timer = setTimeout(() => ended.abort(this.#late()), this.#requestTimeoutMs);
    const any = AbortSignal.any(signals);
    let turn: Promise<Disposable>;
    try {
      // Now, as a stream that has begun cannot be refused.
      turn = this.#turns.enter(any);
    } catch (error) {
      clearTimeout(timer);
      throw error;
    }
    const run = async (onText?: (piece: string) => void): Promise<CompletedText> => {
      try {
        using _turn = await turn;
        const done = await this.#generate({ model, request, prompt, maxNewTokens, signal: any, onText });
        if (done.reason !== "aborted") return done;
        throw any.reason;
      } catch (error) {
        if (signal?.aborted) throw shuttingDown();
        // The reason may be whatever those who aborted gave.
        throw any.aborted && !(any.reason instanceof ApiError) ? gone() : error;
      } finally {
        clearTimeout(timer);
      }
    };
    const answer: Answer = {
      kind,
      id: `${kind === "chat" ? "chatcmpl" : "cmpl"}-${crypto.randomUUID().replaceAll("-", "")}`,
      model: model.id,
      fingerprint: model.fingerprint,
      promptTokens: prompt.length,
      run,
      end: () => ended.abort(),
    };
    return request.stream
      ? streamAnswer(context, answer, { includeUsage: request.includeUsage })
      : await wholeAnswer(context, answer);
  }

  async #generate({ model, request, prompt, maxNewTokens, signal, onText }: {
    readonly model: TextGenerator;
    readonly request: TextSettings;
    readonly prompt: readonly number[];
    readonly maxNewTokens: number;
    readonly signal: AbortSignal;
    readonly onText: ((piece: string) => void) | undefined;
  }): Promise<CompletedText> {
    const { temperature = 1, topP = 1 } = this.#options.defaults ?? {};
    const started = performance.now();
    const done = await model.generate(prompt, {
      temperature: request.temperature ?? temperature,
      topP: request.topP ?? topP,
      topK: request.topK ?? 0,
      repetitionPenalty: request.repetitionPenalty ?? 1,
      seed: request.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!,
      stop: request.stop,
      maxNewTokens,
      signal,
      ...(onText === undefined ? {} : { onText }),
    });
    this.#options.onAnswer?.({
      ...{ model: model.id, promptTokens: prompt.length, tokens: done.tokens },
      ...{ ms: performance.now() - started, reason: done.reason },
    });
    return done;
  }

  #late(): ApiError {
    return new ApiError(
      `Cannot answer as it must take at most ${this.#requestTimeoutMs / 1000} s: it took longer`,
      // Once more it would take as long.
      { status: 504, code: "timeout", headers: { "x-should-retry": "false" } },
    );
  }
}

/** Whoever asked is not there any more: nobody reads this. */
function gone(): ApiError {
  return new ApiError("Cannot answer as the client must stay: it is gone", { status: 499, code: "gone" });
}

function shuttingDown(): ApiError {
  return new ApiError("Cannot answer as the server must stay up: it shuts down", {
    status: 503,
    code: "shutting_down",
  });
}

/** Tokens that the answer may have. */
function roomFor(request: TextSettings, model: TextGenerator, prompt: readonly number[]): number {
  const room = model.contextLength - prompt.length;
  const { maxTokens, maxTokensField } = request;
  if (room >= (maxTokens ?? 1)) return maxTokens ?? room;
  const asked = maxTokens === null ? "" : ` and ${maxTokens} of the answer`;
  throw invalid(
    room < 1 ? "messages" : maxTokensField,
    `This model's maximum context length is ${model.contextLength} tokens: the prompt has ${prompt.length}${asked}`,
    "context_length_exceeded",
  );
}
