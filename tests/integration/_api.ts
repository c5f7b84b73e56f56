/**
 * The endpoint of the OpenAI API over a real model, served on a port of this machine.
 *
 * @module
 */

import OpenAI from "openai";
import { chatTemplateFromConfig } from "@edgetuner/core";
import {
  type AnsweredText,
  createTextApp,
  serve,
  type TextAppOptions,
  type TextGenerator,
} from "@edgetuner/transport/server";

/** Key of the endpoint. */
export const KEY = "key-of-the-tests";

/** A chat template that never ends an answer by itself. */
export const TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}. {% endfor %}";

/** The template, read. */
export const template = chatTemplateFromConfig({ chat_template: TEMPLATE });

/** An endpoint that runs. */
export interface Endpoint extends AsyncDisposable {
  /** Where it is, without a slash at the end. */
  readonly url: string;
  /** A client that shows the key and tries nothing twice. */
  readonly client: OpenAI;
  /** What was answered so far. */
  readonly answered: readonly AnsweredText[];
  /** Sends something. */
  post(path: string, body: BodyInit, headers?: Record<string, string>): Promise<Response>;
}

/** A client of an endpoint. */
export function clientOf(url: string, apiKey = KEY): OpenAI {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
}

/** Serves an endpoint. */
export async function openEndpoint(
  models: readonly TextGenerator[],
  options: Partial<TextAppOptions> = {},
): Promise<Endpoint> {
  const answered: AnsweredText[] = [];
  const app = createTextApp({
    models,
    apiKey: KEY,
    onAnswer: (answer) => void answered.push(answer),
    ...options,
  });
  const server = await serve(app);
  const url = `http://127.0.0.1:${server.port}`;
  return {
    url,
    client: clientOf(url),
    answered,
    post: (path, body, headers = {}) =>
      fetch(url + path, {
        method: "POST",
        body,
        headers: { "content-type": "application/json", authorization: `Bearer ${KEY}`, ...headers },
      }),
    [Symbol.asyncDispose]: () => server.shutdown(1000),
  };
}
