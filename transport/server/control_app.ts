/**
 * The control server: WebSocket and HTTP transports for devices, pages, and a REST API to watch and steer runs. An
 * app to be served, not a server: `serve(app)`, see `serve.ts`. `docs/api.md` has the routes, which
 * `../control/routes.ts` describes.
 *
 * @module
 */

import { type Context, Hono } from "hono";
import type { RunHandle } from "@edgetuner/core";
import type { Role } from "../control/routes.ts";
import type { InvitedDevice } from "../_invited.ts";
import type { PageFile } from "../page_file.ts";
import { milliseconds } from "../_options.ts";
import { problemResponse } from "../problem.ts";
import { requestToken } from "../token.ts";
import { bindRoutes, bodyWithin, type Handlers, refuseCallerOf, type RouteCall } from "./_binding.ts";
import { corsHeaders, originOf, preflight, RateLimit, type RateOptions, refuseCaller } from "./_callers.ts";
import { healthJson } from "./_json.ts";
import { metricsText } from "./_metrics.ts";
import { modelHandlers, type ServedModel } from "./device_routes.ts";
import { joinHandlers } from "./_join_routes.ts";
import { runHandlers } from "./_run_routes.ts";
import { storeHandlers } from "./_store_routes.ts";
import { type Caller, knower } from "./_who.ts";
import { Invitations } from "./invitations.ts";
import { openApi } from "./openapi.ts";
import { Pages, SECURITY_HEADERS } from "./pages.ts";
import type { ConnectionInfo } from "./serve.ts";
import type { RunStore } from "./run_store.ts";
import { Sessions } from "./sessions.ts";

export { eventJson, stepJson } from "./_json.ts";

/** Answers requests of devices: the listener side of a transport. */
export interface JoinHandler {
  /** Answers one request; `peer` names who sent it in messages to people, `device` is who was invited. */
  handle(
    request: Request,
    options?: { readonly peer?: string; readonly device?: InvitedDevice | undefined },
  ): Response | Promise<Response>;
}

/** Options of `createControlApp`. */
export interface ControlAppOptions {
  /** The runs, by name. Read at every request, so runs may come and go. */
  readonly runs: ReadonlyMap<string, RunHandle>;
  /** Token that devices show to join. */
  readonly joinToken: string;
  /** Token that steers runs. */
  readonly adminToken: string;
  /** Models of which devices with data may have parts, by the names of their runs. @default {none} */
  readonly models?: ReadonlyMap<string, ServedModel> | undefined;
  /** WebSocket transport of devices. */
  readonly webSocket?: JoinHandler | undefined;
  /** HTTP transport of devices. */
  readonly http?: JoinHandler | undefined;
  /** Files of pages, by the path that they are served at. Read at every request. @default {none} */
  readonly pages?: ReadonlyMap<string, PageFile> | undefined;
  /** Keeps records of runs of now and before. @default {none} */
  readonly store?: RunStore | undefined;
  /** Browsers that are signed in. @default {none yet} */
  readonly sessions?: Sessions | undefined;
  /** Devices that are invited. @default {none yet} */
  readonly invitations?: Invitations | undefined;
  /** Names of this server beside `localhost` and addresses, as browsers may call it. @default {none} */
  readonly allowHosts?: readonly string[] | undefined;
  /** Origins of pages on other servers that may use this one, such as `https://example.org`. @default {none} */
  readonly allowOrigins?: readonly string[] | undefined;
  /** How many requests an address may send without a token. @default {20 a second, 200 at once} */
  readonly rate?: RateOptions | undefined;
  /** Largest body of an API request in bytes; transports have limits of their own. @default {65536} */
  readonly maxBodyBytes?: number;
  /**
   * Longest time in milliseconds in which nothing of the body of an API request comes; after it the body must have
   * brought 4 bytes for every further millisecond. Beyond that the answer is 408.
   *
   * @default {10000}
   */
  readonly bodyTimeoutMs?: number;
  /** Ends the reading of bodies, such as when the server shuts down. @default {none} */
  readonly signal?: AbortSignal | undefined;
  /** Version shown by /health. @default {""} */
  readonly version?: string;
  /**
   * Milliseconds without a sign of life from whoever computes a run's steps after which /health answers 503: a
   * single submission to a slow GPU may take seconds.
   *
   * @default {30000}
   */
  readonly silentLimitMs?: number;
  /** Longest time in milliseconds that pausing, resuming and stopping wait for the run. @default {10000} */
  readonly actionTimeoutMs?: number;
}

/** Fewest characters of a token that the control app takes. */
export const MIN_TOKEN_LENGTH = 8;
/** What a request with a wrong token counts as, beside itself. */
const WRONG_TOKEN_COST = 9;
const RATE: RateOptions = { perSecond: 20, burst: 200 };

function requireLongToken(name: string, token: string): void {
  if (token.length < MIN_TOKEN_LENGTH) {
    throw new RangeError(
      `Cannot create the control app as ${name} must have at least ${MIN_TOKEN_LENGTH} characters: it has ${token.length}`,
    );
  }
}

/** The connection of a request, as far as the server tells. */
function connectionOf({ env }: Context): Partial<ConnectionInfo> {
  return (env ?? {}) as Partial<ConnectionInfo>;
}

/** Who sent a request, as far as the server says. */
function peerOf(context: Context): { readonly peer?: string } {
  const { remoteAddr } = connectionOf(context);
  return remoteAddr === undefined ? {} : { peer: remoteAddr.hostname };
}

/**
 * Creates the control app.
 *
 * @throws {RangeError} If a token is too short, both are the same, or a limit is out of range.
 */
export function createControlApp(options: ControlAppOptions): Hono {
  const { runs, webSocket, http, maxBodyBytes = 65_536, signal } = options;
  requireLongToken("joinToken", options.joinToken);
  requireLongToken("adminToken", options.adminToken);
  if (options.joinToken === options.adminToken) {
    throw new RangeError(
      "Cannot create the control app as joinToken and adminToken must differ: they are the same",
    );
  }
  const bodyTimeoutMs = milliseconds("bodyTimeoutMs", options.bodyTimeoutMs, 10_000);
  const sessions = options.sessions ?? new Sessions();
  const invitations = options.invitations ?? new Invitations();
  const callerOf = knower({ ...options, sessions, invitations });
  const app = new Hono();

  app.onError((error) =>
    problemResponse({ status: 500, title: "Internal error", detail: `Cannot answer: ${error.message}` })
  );
  app.notFound((context) =>
    problemResponse({
      status: 404,
      title: "Not found",
      detail: `Cannot answer as the route must exist: ${context.req.method} ${context.req.path} does not`,
    })
  );
  guard(app, options, callerOf);

  const handlers: Handlers = {
    ...serverHandlers(options),
    ...sessionHandlers(sessions),
    ...joinHandlers(runs, invitations),
    ...modelHandlers(options.models ?? new Map()),
    ...storeHandlers(options.store),
    ...runHandlers(runs, { invitations, actionTimeoutMs: options.actionTimeoutMs ?? 10_000 }),
  };
  bindRoutes(app, handlers, { callerOf, maxBodyBytes, bodyTimeoutMs, signal });

  // What is not described: nobody learns without a token whether there is something.
  const only = (who: readonly Role[]) => async ({ req: { raw } }: Context, next: () => Promise<void>) =>
    refuseCallerOf(await callerOf(raw), who) ?? await next();
  app.use("/join/*", only(["join token", "approved device"]));
  app.use("/api/*", only(["session", "admin token"]));
  app.use("/api/*", async ({ req: { raw } }, next) => {
    const body = await bodyWithin(raw, { maxBodyBytes, bodyTimeoutMs, signal });
    return body instanceof Response ? body : await next();
  });
  const joined = (handler: JoinHandler) => async (context: Context) => {
    const { device } = await callerOf(context.req.raw);
    return handler.handle(context.req.raw, { ...peerOf(context), device });
  };
  if (webSocket !== undefined) app.get("/join/ws", joined(webSocket));
  if (http !== undefined) app.all("/join/http/*", joined(http));
  return app;
}

/** What every request passes before it is looked at: hosts, origins, how many come; and headers of every answer. */
function guard(
  app: Hono,
  options: ControlAppOptions,
  callerOf: (request: Request) => Promise<Caller>,
): void {
  const { allowHosts = [], allowOrigins = [] } = options;
  const rate = new RateLimit(options.rate ?? RATE);
  const pages = new Pages(options.pages ?? new Map());
  const answerEarly = async (context: Context): Promise<Response | null> => {
    const request = context.req.raw;
    const { role } = await callerOf(request);
    const hasToken = role !== "anonymous" && role !== "session";
    const { peer } = peerOf(context);
    const isLimited = role === "anonymous" || role === "refused device";
    const waitSeconds = isLimited && peer !== undefined ? rate.take(peer, 1) : 0;
    if (waitSeconds > 0) return tooMany(waitSeconds);
    return refuseCaller(request, { allowHosts, allowOrigins }, { hasToken }) ??
      preflight(request, allowOrigins) ??
      refuseSession(request, role, allowOrigins) ??
      await pages.answer(request);
  };
  app.use(async (context, next) => {
    const early = await answerEarly(context);
    if (early !== null) context.res = early;
    else await next();
    const { res: response, req: { raw: request } } = context;
    // It belongs to the WebSocket.
    if (response.status === 101) return;
    const { peer } = peerOf(context);
    if (response.status === 401 && requestToken(request) !== undefined && peer !== undefined) {
      rate.take(peer, WRONG_TOKEN_COST);
    }
    const headers = { ...SECURITY_HEADERS, ...corsHeaders(request, allowOrigins) };
    for (const [name, value] of Object.entries(headers)) response.headers.set(name, value);
    for (const [name, value] of Object.entries(ANSWER_HEADERS)) {
      if (!response.headers.has(name)) response.headers.set(name, value);
    }
  });
}

/** Headers of answers that are no pages. */
const ANSWER_HEADERS: Readonly<Record<string, string>> = {
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cache-control": "no-store",
};

function tooMany(seconds: number): Response {
  return problemResponse({
    status: 429,
    title: "Too many requests",
    detail: `Cannot answer as an address may send only so many requests without a token: wait ${seconds} s`,
  }, { "retry-after": String(seconds) });
}

/**
 * Browsers send the cookie of a session whatever page makes them: what changes something must say that a page of this
 * server asks for it. Cookies know no ports, so that `SameSite` alone would let a page of another server of this
 * machine through.
 */
function refuseSession(request: Request, role: Role, allowOrigins: readonly string[]): Response | null {
  const isSafe = request.method === "GET" || request.method === "HEAD";
  if (role !== "session" || isSafe || originOf(request, allowOrigins) === "own") return null;
  return problemResponse({
    status: 403,
    title: "Foreign origin",
    detail: "Cannot answer as a request with a session must come from a page of this server: its origin is " +
      `${request.headers.get("origin") ?? "not given"}`,
  });
}

/** What is told of the server as a whole. */
function serverHandlers(
  { runs, version = "", silentLimitMs = 30_000 }: ControlAppOptions,
): Pick<Handlers, "GET /health" | "GET /openapi.json" | "GET /metrics"> {
  let description: Readonly<Record<string, unknown>> | undefined;
  return {
    "GET /health": () => {
      const all = [...runs.values()].map((run) => healthJson(run, silentLimitMs));
      const status = all.find((run) => run.health !== "ok")?.health ?? "ok";
      return { status: status === "ok" ? 200 : 503, data: { status, version, runs: all } };
    },
    "GET /openapi.json": () => ({ data: description ??= openApi(version) }),
    "GET /metrics": () => ({ data: metricsText(runs.values()) }),
  };
}

/** Why a link does not sign in. */
const BAD_LINK = {
  unknown: "its secret must be one of this server: it is not",
  used: "it must be new: it was used before",
  expired: "it must be younger: its time is over",
} as const;

/** Signing in and out. */
function sessionHandlers(
  sessions: Sessions,
): Pick<Handlers, `${string} /api/session` & keyof Handlers | "POST /api/sign-in-links"> {
  // A proxy with TLS in front says so; whoever else does gets a cookie that plain HTTP does not take.
  const isTls = ({ context, request }: Pick<RouteCall<"GET /api/session">, "context" | "request">) =>
    connectionOf(context).isTls === true || request.headers.get("x-forwarded-proto") === "https";
  return {
    "GET /api/session": async ({ request, caller: { role } }) => {
      const secondsLeft = role === "session" ? await sessions.secondsLeft(request) : null;
      return { data: { by: role === "session" ? role : "admin token", secondsLeft } };
    },
    "POST /api/session": async (call) => {
      const signedIn = await sessions.signIn(call.body.secret);
      if (typeof signedIn === "string") {
        return problemResponse({
          status: 401,
          title: "Link is not good",
          detail: `Cannot sign in with the link as ${BAD_LINK[signedIn]}`,
        });
      }
      const { session, secondsLeft } = signedIn;
      const headers = { "set-cookie": sessions.cookie(session, { isTls: isTls(call) }) };
      return { data: { by: "session", secondsLeft }, headers };
    },
    "DELETE /api/session": async (call) => {
      await sessions.signOut(call.request);
      return {
        status: 204,
        data: null,
        headers: { "set-cookie": sessions.cookie("", { isTls: isTls(call) }) },
      };
    },
    "POST /api/sign-in-links": async () => ({
      status: 201,
      data: {
        path: await sessions.link(),
        secondsLeft: Math.floor(sessions.linkLifetimeMs / 1000),
      },
    }),
  };
}
