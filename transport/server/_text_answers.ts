/**
 * Answers as clients of the OpenAI API read them: whole, or as server-sent events.
 *
 * @module
 */

import type { Context } from "hono";
import { type SSEStreamingApi, streamSSE } from "hono/streaming";
import type { CompletedText } from "@edgetuner/core";
import { asApiError } from "./_api_error.ts";

/** Milliseconds between signs of life of a stream, in which nothing else may come. */
const ALIVE_MS = 10_000;

/** An answer that is being made. */
export interface Answer {
  /** What was asked for: an answer in a conversation, or a text that goes on. */
  readonly kind: "chat" | "text";
  /** Its name. */
  readonly id: string;
  /** Name of the model. */
  readonly model: string;
  /** Fingerprint of the model. */
  readonly fingerprint: string;
  /** Tokens of the prompt. */
  readonly promptTokens: number;
  /** Waits for the turn, and makes the text. */
  run(onText?: (piece: string) => void): Promise<CompletedText>;
  /** Ends it early: nobody reads it. */
  end(): void;
}

/** What all answers and pieces of one have. */
function head({ kind, id, model, fingerprint }: Answer, { isPiece }: { readonly isPiece: boolean }) {
  const object = kind === "text" ? "text_completion" : isPiece ? "chat.completion.chunk" : "chat.completion";
  const created = Math.floor(Date.now() / 1000);
  return { id, object, created, model, system_fingerprint: `fp_${fingerprint.slice(0, 10)}` };
}

function usage({ promptTokens }: Answer, { tokens }: CompletedText) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: tokens,
    total_tokens: promptTokens + tokens,
  };
}

/** Why an answer ended, in the API's words; one that nobody reads any more has no word of its own. */
function finishReason({ reason }: CompletedText): "stop" | "length" {
  return reason === "stop" ? "stop" : "length";
}

/** Answers once the text is whole. */
export async function wholeAnswer(context: Context, answer: Answer): Promise<Response> {
  const done = await answer.run();
  const said = answer.kind === "chat"
    ? { message: { role: "assistant", content: done.text, refusal: null } }
    : { text: done.text };
  return context.json(
    {
      ...head(answer, { isPiece: false }),
      choices: [{ index: 0, ...said, logprobs: null, finish_reason: finishReason(done) }],
      usage: usage(answer, done),
    },
    200,
    { "cache-control": "no-store" },
  );
}

/** Answers piece by piece. */
export function streamAnswer(
  context: Context,
  answer: Answer,
  { includeUsage }: { readonly includeUsage: boolean },
): Response {
  return streamSSE(context, async (stream) => {
    stream.onAbort(() => answer.end());
    const alive = setInterval(() => void stream.write(": waiting\n\n"), ALIVE_MS);
    try {
      await writeAnswer(stream, answer, { includeUsage });
    } catch (error) {
      await stream.writeSSE({ data: JSON.stringify(asApiError(error).body) });
    } finally {
      clearInterval(alive);
      answer.end();
    }
  });
}

async function writeAnswer(
  stream: SSEStreamingApi,
  answer: Answer,
  { includeUsage }: { readonly includeUsage: boolean },
): Promise<void> {
  const shared = head(answer, { isPiece: true });
  const isChat = answer.kind === "chat";
  let written = Promise.resolve();
  const write = (fields: Record<string, unknown>) => {
    const data = JSON.stringify({
      ...shared,
      ...fields,
      ...(includeUsage && !("usage" in fields) ? { usage: null } : {}),
    });
    written = written.then(() => stream.writeSSE({ data }));
  };
  const piece = (said: Record<string, unknown>, finish: string | null) =>
    write({ choices: [{ index: 0, ...said, logprobs: null, finish_reason: finish }] });
  if (isChat) piece({ delta: { role: "assistant", content: "", refusal: null } }, null);
  const done = await answer.run((text) => piece(isChat ? { delta: { content: text } } : { text }, null));
  piece(isChat ? { delta: {} } : { text: "" }, finishReason(done));
  if (includeUsage) write({ choices: [], usage: usage(answer, done) });
  await written;
  await stream.writeSSE({ data: "[DONE]" });
}
