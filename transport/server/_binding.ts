/**
 * Binds handlers to the routes of the control API as these are described: who may call, what a body must be.
 *
 * @module
 */

import type { Context, Hono } from "hono";
import { type GenericSchema, safeParse } from "valibot";
import { plainText } from "@edgetuner/core/contracts";
import { readBody } from "../_http_body.ts";
import type { ParamsOf } from "../control/client.ts";
import {
  type AnswerOf,
  type BodyOf,
  type Role,
  type RouteDescription,
  type RouteName,
  ROUTES,
} from "../control/routes.ts";
import type { JoinRequestJson } from "../control/types.ts";
import { problemResponse } from "../problem.ts";
import type { Caller } from "./_who.ts";

/** A call of a route that may be answered. */
export interface RouteCall<N extends RouteName> {
  /** Parameters of the path. */
  readonly params: { readonly [P in ParamsOf<N>]: string };
  /** The query. */
  readonly query: URLSearchParams;
  /** The body. */
  readonly body: BodyOf<N>;
  /** The request. */
  readonly request: Request;
  /** Who calls. */
  readonly caller: Caller;
  /** The call as Hono has it. */
  readonly context: Context;
}

/** What a route answers. */
export interface Reply<T> {
  /** Status. @default {200} */
  readonly status?: number;
  /** The body. */
  readonly data: T;
  /** Further headers. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** What answers each route. */
export type Handlers = {
  readonly [N in RouteName]: (
    call: RouteCall<N>,
  ) => Reply<AnswerOf<N>> | Response | Promise<Reply<AnswerOf<N>> | Response>;
};

/** What routes are bound with. */
export interface BindingOptions {
  /** Who sent a request. */
  readonly callerOf: (request: Request) => Promise<Caller>;
  /** Largest body in bytes. */
  readonly maxBodyBytes: number;
  /** See `ControlAppOptions.bodyTimeoutMs`. */
  readonly bodyTimeoutMs: number;
  /** Ends the reading of bodies. */
  readonly signal: AbortSignal | undefined;
}

/** What devices are told that may not do something, by what became of their request. */
const DEVICE_REFUSALS: Readonly<Record<JoinRequestJson["state"], string>> = {
  waiting: "The host has not approved this device yet",
  approved: "A device may not do this",
  refused: "The host has refused this device",
  removed: "The host has removed this device from the run",
};

/** The refusal of a caller who may not do something; `null` for one who may. */
export function refuseCallerOf({ role, request }: Caller, who: readonly Role[]): Response | null {
  if (who.includes("anonymous") || who.includes(role)) return null;
  if (request !== undefined || role === "invite") {
    const detail = request === undefined
      ? "An invite is good for asking to join, and for nothing else"
      : DEVICE_REFUSALS[request.state];
    return problemResponse({ status: 403, title: "Not allowed", detail });
  }
  const name = who.includes("join token") ? "join" : "admin";
  return problemResponse({
    status: 401,
    title: "Unauthorized",
    detail: `The request carries no valid ${name} token; send it as "Authorization: Bearer TOKEN"`,
  }, { "www-authenticate": "Bearer" });
}

/**
 * Reads a body within its limits.
 *
 * @returns The bytes, or the problem.
 */
export async function bodyWithin(
  request: Request,
  { maxBodyBytes, bodyTimeoutMs, signal }: Omit<BindingOptions, "callerOf">,
): Promise<Uint8Array | Response> {
  // Not Hono's bodyLimit: it makes a new Request where no length is given, and that reads `signal`, of which Deno
  // warns on the console.
  try {
    const body = await readBody(request, { maxBytes: maxBodyBytes, timeoutMs: bodyTimeoutMs, signal });
    if (body !== undefined) return body;
  } catch (error) {
    const detail = error instanceof Error ? error.message : "Cannot read the body: reading was ended";
    return problemResponse({ status: 408, title: "Request timeout", detail });
  }
  return problemResponse({
    status: 413,
    title: "Content too large",
    detail: `Cannot read the request as its body must be at most ${maxBodyBytes} bytes: it is larger`,
  });
}

/** The body as its description has it, or the problem. */
function parsed(
  description: RouteDescription,
  bytes: Uint8Array,
  type: string,
): { readonly body: unknown } | Response {
  if (description.body === undefined) return { body: undefined };
  const refuse = (detail: string) => problemResponse({ status: 400, title: "Bad request", detail });
  // What forms of other pages can send without asking is never JSON by its type.
  if (!/^application\/json\b/i.test(type)) {
    return refuse(`Cannot read the body as its type must be application/json: it is ${type || "none"}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    return refuse("Cannot read the body as it must be JSON: it is not");
  }
  const { success, output, issues } = safeParse(description.body as GenericSchema, value);
  if (success) return { body: output };
  const [issue] = issues;
  const path = (issue.path ?? []).map(({ key }) => String(key)).join(".");
  return refuse(plainText(`Cannot read the body${path === "" ? "" : `, "${path}"`}: ${issue.message}`, 300));
}

/** Binds handlers to the routes of an app. */
export function bindRoutes(app: Hono, handlers: Handlers, options: BindingOptions): void {
  for (const name of Object.keys(ROUTES) as RouteName[]) bindRoute(app, name, { handlers, options });
}

function bindRoute(
  app: Hono,
  name: RouteName,
  { handlers, options }: { readonly handlers: Handlers; readonly options: BindingOptions },
): void {
  const [method, path] = name.split(" ") as [string, string];
  const description = ROUTES[name] as RouteDescription;
  const handler = handlers[name] as (call: RouteCall<RouteName>) => Promise<Reply<unknown> | Response>;
  app.on(method, path, async (context) => {
    const request = context.req.raw;
    const caller = await options.callerOf(request);
    const refusal = refuseCallerOf(caller, description.who);
    if (refusal !== null) return refusal;
    const bytes = await bodyWithin(request, options);
    if (bytes instanceof Response) return bytes;
    const read = parsed(description, bytes, request.headers.get("content-type") ?? "");
    if (read instanceof Response) return read;
    const answer = await handler({
      params: context.req.param() as never,
      query: new URL(request.url).searchParams,
      body: read.body as never,
      ...{ request, caller, context },
    });
    if (answer instanceof Response) return answer;
    const { status = 200, data, headers } = answer;
    const { type = "application/json", body } = description.answers[status]!;
    return new Response(
      body === undefined ? null : type === "application/json" ? JSON.stringify(data) : `${data}`,
      {
        status,
        headers: { ...(body === undefined ? {} : { "content-type": type }), ...headers },
      },
    );
  });
}
