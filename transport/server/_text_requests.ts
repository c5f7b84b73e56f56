/**
 * Requests for texts, as clients of the OpenAI API write them. Fields that are not known are refused, as are values
 * that would change the answer in a way that this server does not have: none is passed over in silence.
 *
 * @module
 */

import * as v from "valibot";
import { type ChatMessage, type Conversation, parsePreciseJson } from "@edgetuner/core";
import { invalid, unsupported } from "./_api_error.ts";

/** Most texts that may end an answer, as in the OpenAI API. */
const MOST_STOPS = 4;
/** Longest of them, in UTF-16 units. */
const MOST_STOP_UNITS = 1000;
/** Levels of arrays and objects in what a template is given. */
const MOST_LEVELS = 32;

const between = (least: number, most: number) =>
  v.pipe(
    v.number(),
    v.minValue(least, `must be from ${least} to ${most}`),
    v.maxValue(most, `must be from ${least} to ${most}`),
  );
const counted = (least: number) =>
  v.pipe(v.number(), v.safeInteger("must be an integer"), v.minValue(least, `must be at least ${least}`));
const stopText = v.pipe(
  v.string(),
  v.minLength(1, "a text that ends the answer must not be empty"),
  v.maxLength(MOST_STOP_UNITS, `a text that ends the answer must have at most ${MOST_STOP_UNITS} characters`),
  v.check((text) => text.isWellFormed(), "must be well-formed Unicode"),
);

/** Fields of both kinds of request. */
const COMMON = {
  model: v.string(),
  temperature: v.nullish(between(0, 2)),
  top_p: v.nullish(between(0, 1)),
  seed: v.nullish(v.pipe(v.number(), v.safeInteger("must be an integer"))),
  stop: v.nullish(
    v.union([
      stopText,
      v.pipe(v.array(stopText), v.maxLength(MOST_STOPS, `must be at most ${MOST_STOPS} texts`)),
    ]),
  ),
  stream: v.nullish(v.boolean()),
  stream_options: v.nullish(v.strictObject({
    include_usage: v.nullish(v.boolean()),
    include_obfuscation: v.nullish(v.boolean()),
  })),
  max_tokens: v.nullish(counted(1)),
  n: v.nullish(counted(1)),
  presence_penalty: v.nullish(between(-2, 2)),
  frequency_penalty: v.nullish(between(-2, 2)),
  logit_bias: v.nullish(v.record(v.string(), v.number())),
  user: v.nullish(v.string()),
  // Of others than OpenAI, in the words that most servers have for them.
  top_k: v.nullish(counted(0)),
  repetition_penalty: v.nullish(
    v.pipe(v.number(), v.gtValue(0, "must be above 0"), v.maxValue(10, "must be at most 10")),
  ),
};

const textPart = v.strictObject({
  type: v.literal("text", 'must be "text": this model takes text alone'),
  text: v.string(),
});
const content = v.union([v.string(), v.pipe(v.array(textPart), v.minLength(1, "must not be empty"))]);
const toolCall = v.strictObject({
  id: v.string(),
  type: v.literal("function"),
  function: v.strictObject({ name: v.string(), arguments: v.string() }),
});
const message = v.variant("role", [
  v.strictObject({
    role: v.picklist(["system", "developer", "user"]),
    content,
    name: v.nullish(v.string()),
  }),
  v.strictObject({
    role: v.literal("assistant"),
    content: v.nullish(content),
    name: v.nullish(v.string()),
    refusal: v.nullish(v.string()),
    tool_calls: v.nullish(v.array(toolCall)),
    audio: v.nullish(v.never("this model has no audio")),
    annotations: v.nullish(v.array(v.unknown())),
  }),
  v.strictObject({ role: v.literal("tool"), content, tool_call_id: v.string() }),
]);
const tool = v.strictObject({ type: v.literal("function"), function: v.looseObject({ name: v.string() }) });

const CHAT = v.strictObject({
  ...COMMON,
  messages: v.pipe(v.array(message), v.minLength(1, "must not be empty")),
  max_completion_tokens: v.nullish(counted(1)),
  tools: v.nullish(v.pipe(v.array(tool), v.minLength(1, "must not be empty"))),
  tool_choice: v.nullish(v.unknown()),
  parallel_tool_calls: v.nullish(v.boolean()),
  response_format: v.nullish(v.looseObject({ type: v.string() })),
  logprobs: v.nullish(v.boolean()),
  top_logprobs: v.nullish(counted(0)),
  // They change nothing that this server does.
  metadata: v.nullish(v.record(v.string(), v.string())),
  store: v.nullish(v.literal(false, "must be false: this server stores nothing")),
  service_tier: v.nullish(v.picklist(["auto", "default"])),
  safety_identifier: v.nullish(v.string()),
  prompt_cache_key: v.nullish(v.string()),
});

const TEXT = v.strictObject({
  ...COMMON,
  prompt: v.union([v.string(), v.array(v.union([v.string(), counted(0), v.array(counted(0))]))]),
  logprobs: v.nullish(counted(0)),
  best_of: v.nullish(counted(1)),
  echo: v.nullish(v.boolean()),
  suffix: v.nullish(v.string()),
});

type CommonFields = Omit<v.InferOutput<typeof TEXT>, "prompt" | "logprobs" | "best_of" | "echo" | "suffix">;

/** How a text is to be made. */
export interface TextSettings {
  /** Name of the model. */
  readonly model: string;
  /** Most tokens of the answer; `null` for as many as there is room for. */
  readonly maxTokens: number | null;
  /** The field that says so. */
  readonly maxTokensField: string;
  /** 0 takes the most likely token. */
  readonly temperature: number | null;
  /** Share of probability to draw from. */
  readonly topP: number | null;
  /** Among how many most likely tokens to draw; 0 = all. */
  readonly topK: number | null;
  /** 1 = off. */
  readonly repetitionPenalty: number | null;
  /** From 0 to 2^32 - 1; `null` for another one each time. */
  readonly seed: number | null;
  /** Texts that end the answer. */
  readonly stop: readonly string[];
  /** True to get the answer piece by piece. */
  readonly stream: boolean;
  /** True to get the numbers of tokens at the end of a stream. */
  readonly includeUsage: boolean;
}

/** A request for an answer in a conversation. */
export interface ChatRequest extends TextSettings {
  /** What was said, and the tools that there are. */
  readonly conversation: Conversation;
}

/** A request to continue a text. */
export interface TextRequest extends TextSettings {
  /** A text, or tokens. */
  readonly prompt: string | readonly number[];
}

/** What limits requests. */
export interface RequestLimits {
  /** Most messages of a conversation. */
  readonly maxMessages: number;
  /** Most tokens that an answer may have. */
  readonly maxTokens: number;
}

/**
 * Reads a request for an answer in a conversation.
 *
 * @throws {ApiError} If it is not valid, or asks for what there is not.
 */
export function readChatRequest(body: unknown, limits: RequestLimits): ChatRequest {
  const { messages: given } = (body ?? {}) as { messages?: unknown };
  if (Array.isArray(given) && given.length > limits.maxMessages) {
    throw invalid(
      "messages",
      `Cannot answer as a conversation must have at most ${limits.maxMessages} messages: it has ${given.length}`,
    );
  }
  const fields = parsed(CHAT, body);
  const { tools, tool_choice: choice, response_format: format, messages } = fields;
  if (format && format.type !== "text") {
    throw unsupported(
      "response_format",
      `Cannot answer as "response_format" must be "text": this server has no other, current value is "${format.type}"`,
    );
  }
  if (fields.logprobs || fields.top_logprobs) throw noLogprobs(fields.logprobs ? "logprobs" : "top_logprobs");
  if (choice !== null && choice !== undefined && choice !== "auto" && choice !== "none") {
    throw unsupported(
      "tool_choice",
      `Cannot answer as "tool_choice" must be "auto" or "none": the model cannot be made to call a tool`,
    );
  }
  const name = fields.max_completion_tokens ? "max_completion_tokens" : "max_tokens";
  const used = choice === "none" ? null : tools;
  if (used) requireFlat("tools", used);
  return {
    ...settingsOf(fields, {
      name,
      value: fields.max_completion_tokens ?? fields.max_tokens ?? null,
      most: limits.maxTokens,
    }),
    conversation: {
      messages: messages.map((m, i) => toMessage(m, `messages[${i}]`)),
      ...(used ? { tools: used } : {}),
    },
  };
}

/**
 * Reads a request to continue a text.
 *
 * @throws {ApiError} If it is not valid, or asks for what there is not.
 */
export function readTextRequest(body: unknown, limits: RequestLimits): TextRequest {
  const fields = parsed(TEXT, body);
  const { logprobs, best_of: bestOf, echo, suffix } = fields;
  if (logprobs !== null && logprobs !== undefined) throw noLogprobs("logprobs");
  if ((bestOf ?? 1) > 1) throw onlyOne("best_of", bestOf!);
  if (echo) {
    throw unsupported("echo", `Cannot answer as "echo" must be false: this server sends the answer alone`);
  }
  if (suffix) {
    throw unsupported(
      "suffix",
      `Cannot answer as "suffix" must be empty: this server continues texts at their end`,
    );
  }
  // What the OpenAI API takes here.
  const value = fields.max_tokens ?? Math.min(16, limits.maxTokens);
  return {
    ...settingsOf(fields, { name: "max_tokens", value, most: limits.maxTokens }),
    prompt: promptOf(fields.prompt),
  };
}

/** Checks a body against its schema. */
function parsed<S extends v.GenericSchema>(schema: S, body: unknown): v.InferOutput<S> {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw invalid("", "Cannot answer as the body must be a JSON object: it is not", "invalid_json");
  }
  const result = v.safeParse(schema, body, { abortEarly: true });
  if (result.success) return result.output;
  const { path, issue } = innermost(result.issues[0]);
  if (issue.expected === "never" && issue.type === "strict_object") {
    throw invalid(path, `Unrecognized request argument supplied: ${path}`, "unknown_parameter");
  }
  const isMissing = issue.received === "undefined";
  throw invalid(
    path,
    isMissing ? `Missing required parameter: ${path}` : `Invalid value for ${path}: ${issue.message}`,
    isMissing ? "missing_required_parameter" : "invalid_value",
  );
}

/** What is wrong and where, such as at `messages[0].content`: of a field of several forms in the one that fits most. */
function innermost(
  outer: v.BaseIssue<unknown>,
): { readonly path: string; readonly issue: v.BaseIssue<unknown> } {
  const keys = (outer.path ?? []).map(({ key }) => key);
  let issue = outer;
  for (;;) {
    const length = ({ path }: v.BaseIssue<unknown>) => path?.length ?? 0;
    const [inner] = (issue.issues ?? []).toSorted((a, b) => length(b) - length(a));
    if (inner === undefined || length(inner) === 0) break;
    keys.push(...inner.path!.map(({ key }) => key));
    issue = inner;
  }
  const path = keys.map((key, i) => typeof key === "number" ? `[${key}]` : i === 0 ? String(key) : `.${key}`);
  return { path: path.join(""), issue };
}

/** What both kinds of request have. */
function settingsOf(
  fields: CommonFields,
  { name, value, most }: { readonly name: string; readonly value: number | null; readonly most: number },
): TextSettings {
  const { n, stream, stream_options: options, stop, seed, temperature, top_p: topP } = fields;
  if ((n ?? 1) > 1) throw onlyOne("n", n!);
  for (const name of ["presence_penalty", "frequency_penalty"] as const) {
    if (fields[name]) {
      throw unsupported(
        name,
        `Cannot answer as "${name}" must be 0: this server has "repetition_penalty" in its place`,
      );
    }
  }
  if (fields.logit_bias && Object.keys(fields.logit_bias).length > 0) {
    throw unsupported("logit_bias", `Cannot answer as "logit_bias" must be empty: this server has none`);
  }
  if (options && !stream) {
    throw invalid(
      "stream_options",
      `The 'stream_options' parameter is only allowed when 'stream' is enabled.`,
    );
  }
  if (value !== null && value > most) {
    throw invalid(name, `Cannot answer as "${name}" must be at most ${most}: current value is ${value}`);
  }
  return {
    model: fields.model,
    maxTokens: value,
    maxTokensField: name,
    // No share of the probability is that of the most likely token.
    temperature: topP === 0 ? 0 : temperature ?? null,
    topP: topP === 0 ? null : topP ?? null,
    topK: fields.top_k ?? null,
    repetitionPenalty: fields.repetition_penalty ?? null,
    seed: seed === null || seed === undefined ? null : seedOf(seed),
    stop: typeof stop === "string" ? [stop] : stop ?? [],
    stream: stream ?? false,
    includeUsage: options?.include_usage ?? false,
  };
}

/** A seed of 32 bits: those up to 2^32 - 1 stay as they are. */
function seedOf(seed: number): number {
  const high = Math.floor(seed / 2 ** 32);
  return ((seed >>> 0) ^ Math.imul(high, 0x9e37_79b1)) >>> 0;
}

function noLogprobs(name: string): Error {
  return unsupported(
    name,
    `Cannot answer as "${name}" must not be given: this server sends no probabilities of tokens`,
  );
}

function onlyOne(name: string, value: number): Error {
  return unsupported(
    name,
    `Cannot answer as "${name}" must be 1: this server makes one answer, current value is ${value}`,
  );
}

/** One text, or the tokens of one. */
function promptOf(prompt: v.InferOutput<typeof TEXT>["prompt"]): string | readonly number[] {
  if (typeof prompt === "string") return prompt;
  if (prompt.length > 0 && prompt.every((x) => typeof x === "number")) return prompt as number[];
  const [only] = prompt;
  if (prompt.length === 1 && (typeof only === "string" || Array.isArray(only) && only.length > 0)) {
    return only as string | number[];
  }
  throw unsupported(
    "prompt",
    `Cannot answer as "prompt" must be one text, or the tokens of one: it has ${prompt.length} parts`,
  );
}

/** A message as templates know it. */
function toMessage(given: v.InferOutput<typeof message>, path: string): ChatMessage {
  const text = typeof given.content === "string"
    ? given.content
    : (given.content ?? []).map((part) => part.text).join("\n");
  const role = given.role === "developer" ? "system" : given.role;
  const name = "name" in given && given.name ? { name: given.name } : {};
  if (given.role === "tool") return { role, content: text, tool_call_id: given.tool_call_id };
  if (given.role !== "assistant" || !given.tool_calls?.length) return { role, content: text, ...name };
  const calls = given.tool_calls.map(({ function: { name, arguments: text }, ...call }, i) => {
    const at = `${path}.tool_calls[${i}].function.arguments`;
    let read: unknown;
    try {
      read = parsePreciseJson(text);
    } catch {
      throw invalid(at, `Invalid value for ${at}: must be JSON`);
    }
    requireFlat(at, read);
    return { ...call, function: { name, arguments: read } };
  });
  return { role, content: text, ...name, tool_calls: calls };
}

/** Refuses what is nested so deeply that whoever walks through it may run out of stack. */
function requireFlat(path: string, value: unknown): void {
  let level: readonly unknown[] = [value];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MOST_LEVELS) {
      throw invalid(path, `Invalid value for ${path}: must be nested at most ${MOST_LEVELS} levels deep`);
    }
    level = level.flatMap((x) => typeof x === "object" && x !== null ? Object.values(x) : []);
  }
}
