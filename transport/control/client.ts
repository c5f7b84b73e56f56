/**
 * A typed client of the control API, for pages and programs.
 *
 * @module
 */

import type { AnswerOf, BodyOf, RouteName } from "./routes.ts";
import type { EventData } from "./types.ts";
import { detailOf } from "../problem.ts";

/** Names of the parameters of a route's path. */
export type ParamsOf<N extends string> = N extends `${string}/:${infer P}/${infer Rest}`
  ? P | ParamsOf<`/${Rest}`>
  : N extends `${string}/:${infer P}` ? P
  : never;

/** What a call of a route takes. */
export type CallInput<N extends RouteName> =
  & { readonly query?: Readonly<Record<string, string>>; readonly signal?: AbortSignal }
  & ([ParamsOf<N>] extends [never] ? { readonly params?: undefined }
    : { readonly params: { readonly [P in ParamsOf<N>]: string } })
  & ([BodyOf<N>] extends [never] ? { readonly body?: undefined } : { readonly body: BodyOf<N> });

/** The arguments of a call: nothing where the route takes nothing. */
export type CallArguments<N extends RouteName> = [ParamsOf<N>] extends [never]
  ? [BodyOf<N>] extends [never] ? [input?: CallInput<N>] : [input: CallInput<N>]
  : [input: CallInput<N>];

/** Options of {@linkcode ControlClient}. */
export interface ControlClientOptions {
  /** Address of the server; a page needs none for the server that it comes from. @default {""} */
  readonly url?: string;
  /** Token to show; a browser that is signed in needs none. */
  readonly token?: string;
  /** What sends requests. @default {fetch} */
  readonly fetch?: (request: Request) => Response | Promise<Response>;
}

/** An answer of the control server that is a problem. */
export class ControlError extends Error {
  /** Name of the class. */
  override readonly name = "ControlError";
  /** HTTP status. */
  readonly status: number;

  /**
   * Makes an error.
   *
   * @param status HTTP status.
   * @param detail What was wrong and what the rule is.
   */
  constructor(status: number, detail: string) {
    super(detail);
    this.status = status;
  }
}

/** An event of a run. */
export type RunEvent = {
  [E in keyof EventData]: {
    /** Name of the event. */
    readonly event: E;
    /** Where the stream goes on after it. */
    readonly id: string;
    /** What happened. */
    readonly data: EventData[E];
  };
}[keyof EventData];

/** Milliseconds before an event stream that broke is opened again: first and longest. */
const AGAIN_MS = { first: 500, most: 10_000 } as const;

/**
 * Calls the control API.
 *
 * @category Control
 *
 * @example Usage
 * ```ts
 * import { ControlClient } from "@edgetuner/transport/control";
 *
 * async function pauseAll(url: string, token: string): Promise<void> {
 *   const client = new ControlClient({ url, token });
 *   for (const { run } of await client.call("GET /api/runs")) {
 *     await client.call("POST /api/runs/:run/pause", { params: { run } });
 *   }
 * }
 * ```
 */
export class ControlClient {
  readonly #url: string;
  readonly #token: string | undefined;
  readonly #fetch: (request: Request) => Response | Promise<Response>;

  /**
   * Makes a client; nothing is sent yet.
   *
   * @param options Address and token.
   */
  constructor(options: ControlClientOptions = {}) {
    this.#url = (options.url ?? "").replace(/\/$/, "");
    this.#token = options.token;
    this.#fetch = options.fetch ?? ((request) => fetch(request));
  }

  /**
   * Calls a route.
   *
   * @param route Method and path, such as `"GET /api/runs/:run"`.
   * @param args Parameters of the path, query and body.
   * @returns What the route answers.
   * @throws {ControlError} If the answer is a problem.
   * @throws {TypeError} If there is no answer.
   */
  async call<N extends RouteName>(route: N, ...args: CallArguments<N>): Promise<AnswerOf<N>> {
    const response = await this.#send(route, args[0] ?? {});
    const type = response.headers.get("content-type") ?? "";
    const isProblem = type.startsWith("application/problem+json") ||
      !response.ok && !type.startsWith("application/json");
    if (isProblem) throw new ControlError(response.status, detailOf(await response.text()));
    if (response.status === 204) return null as AnswerOf<N>;
    const answer = type.startsWith("application/json")
      ? await response.json()
      : type === "application/octet-stream"
      ? await response.bytes()
      : await response.text();
    return answer as AnswerOf<N>;
  }

  /**
   * Events of a run until it is over. Where the connection breaks the stream goes on after the last event that came;
   * where the server no longer keeps what happened since, it goes on with an event `run`.
   *
   * @param run Name of the run.
   * @param options `after`: id of the last event that is known; `signal`: ends it.
   * @throws {ControlError} If the server refuses.
   */
  async *events(
    run: string,
    { after, signal }: { readonly after?: string; readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<RunEvent> {
    let last = after;
    for (let waitMs: number = AGAIN_MS.first;; waitMs = Math.min(2 * waitMs, AGAIN_MS.most)) {
      signal?.throwIfAborted();
      try {
        const response = await this.#send("GET /api/runs/:run/events", {
          params: { run },
          headers: last === undefined ? {} : { "last-event-id": last },
          ...(signal && { signal }),
        });
        if (!response.ok) throw new ControlError(response.status, detailOf(await response.text()));
        // The run is over, and all of it was told.
        if (response.status === 204) return;
        for await (const { event, id, data } of serverSentEvents(response)) {
          waitMs = AGAIN_MS.first;
          // A sign of life.
          if (id === undefined) continue;
          last = id;
          yield { event, id, data: JSON.parse(data) } as RunEvent;
        }
      } catch (error) {
        signal?.throwIfAborted();
        // Refused for good, unless it is the server that cannot now.
        if (error instanceof ControlError && error.status < 500 && error.status !== 429) throw error;
      }
      await wait(waitMs, signal);
    }
  }

  async #send(route: RouteName, input: AnyInput): Promise<Response> {
    const [method, path] = route.split(" ") as [string, string];
    const { params = {}, query = {}, body, signal, headers = {} } = input;
    const filled = path.replace(/:(\w+)/g, (_, name: string) => encodeURIComponent(params[name] ?? ""));
    const search = new URLSearchParams(query).toString();
    const base = this.#url || globalThis.location?.origin || "http://localhost";
    return await this.#fetch(
      new Request(`${base}${filled}${search === "" ? "" : `?${search}`}`, {
        method,
        headers: {
          ...headers,
          ...(this.#token === undefined ? {} : { authorization: `Bearer ${this.#token}` }),
          ...(body === undefined ? {} : { "content-type": "application/json" }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        ...(signal && { signal }),
      }),
    );
  }
}

/** The input of any route. */
interface AnyInput {
  readonly params?: Readonly<Record<string, string>> | undefined;
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly signal?: AbortSignal;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Waits, unless the signal ends it. */
async function wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
}

/**
 * Events of an answer with server-sent events.
 *
 * @param response The answer.
 */
export async function* serverSentEvents(
  response: Response,
): AsyncGenerator<{ readonly event: string; readonly id: string | undefined; readonly data: string }> {
  if (response.body === null) return;
  let text = "";
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const fields = (name: string) =>
        lines.filter((line) => line.startsWith(`${name}:`)).map((line) =>
          line.slice(name.length + 1).replace(/^ /, "")
        );
      yield { event: fields("event")[0] ?? "message", id: fields("id")[0], data: fields("data").join("\n") };
    }
  }
}
