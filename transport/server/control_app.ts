/**
 * The control server: WebSocket and HTTP transports for devices, and a REST API to watch and steer
 * runs. An app to be served, not a server: `serve(app)`, see `serve.ts`.
 *
 * | route | token | what it does |
 * | --- | --- | --- |
 * | GET /health | none | says whether the runs are well: 200, or 503 if one has failed or shows no sign of life |
 * | GET /join/ws | join | WebSocket of a device |
 * | ANY /join/http/* | join | HTTP transport of a device |
 * | GET /api/runs | admin | all runs |
 * | GET /api/runs/:run | admin | one run: status, settings, devices, last step, traffic |
 * | GET /api/runs/:run/devices | admin | its devices |
 * | GET /api/runs/:run/events | admin | what happens, as server-sent events |
 * | POST /api/runs/:run/pause, resume, stop | admin | steers the run; answers its state afterwards: 202 if that is not yet what was asked for |
 *
 * @module
 */

import { type Context, Hono, type MiddlewareHandler } from "hono";
import { streamSSE } from "hono/streaming";
import type { EdgeServerEvent, RunHandle, RunStatus, StepRecord } from "@edgetuner/core";
import { readBody } from "../_http_body.ts";
import { milliseconds } from "../_options.ts";
import { requireToken } from "../token.ts";
import { problemResponse } from "../problem.ts";
import type { ConnectionInfo } from "./serve.ts";

/** Answers requests of devices: the listener side of a transport. */
export interface JoinHandler {
  /** Answers one request; `peer` names who sent it in messages to people. */
  handle(request: Request, options?: { readonly peer?: string }): Response | Promise<Response>;
}

/** Options of `createControlApp`. */
export interface ControlAppOptions {
  /** The runs, by name. Read at every request, so runs may come and go. */
  readonly runs: ReadonlyMap<string, RunHandle>;
  /** Token that devices show to join. */
  readonly joinToken: string;
  /** Token that steers runs. */
  readonly adminToken: string;
  /** WebSocket transport of devices. */
  readonly webSocket?: JoinHandler | undefined;
  /** HTTP transport of devices. */
  readonly http?: JoinHandler | undefined;
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

/** Server-sent events that may wait for a slow reader before it is cut off. */
const MAX_EVENTS_BEHIND = 1000;
/** Milliseconds between signs of life on an event stream. */
const HEARTBEAT_MS = 15_000;
/** Fewest characters of a token that the control app takes. */
export const MIN_TOKEN_LENGTH = 8;

/** A step record as JSON. */
export function stepJson(record: StepRecord): Record<string, unknown> {
  return { ...record, mask: [...record.mask], scores: record.scores === null ? null : [...record.scores] };
}

/** An event as JSON. */
export function eventJson(event: EdgeServerEvent): Record<string, unknown> {
  return event.type === "step" ? { type: "step", record: stepJson(event.record) } : { ...event };
}

function runJson(run: RunHandle): Record<string, unknown> {
  return {
    run: run.run,
    status: run.status,
    settings: run.settings,
    devices: run.devices,
    latest: run.latest === null ? null : stepJson(run.latest),
    traffic: run.traffic(),
  };
}

/** How a run is, for anyone to see: no names, no losses. */
function healthJson(run: RunHandle, silentLimitMs: number) {
  const { silentMs = 0, sinceStepMs = null } = run.health?.() ?? {};
  const isOver = run.status === "ended" || run.status === "failed";
  const health = run.status === "failed" ? "failed" : !isOver && silentMs > silentLimitMs ? "silent" : "ok";
  return {
    health,
    state: run.status,
    step: run.latest?.step ?? null,
    secondsSinceStep: sinceStepMs === null ? null : Math.round(sinceStepMs) / 1000,
    secondsSilent: Math.round(silentMs) / 1000,
  } as const;
}

function requireLongToken(name: string, token: string): void {
  if (token.length < MIN_TOKEN_LENGTH) {
    throw new RangeError(
      `Cannot create the control app as ${name} must have at least ${MIN_TOKEN_LENGTH} characters: it has ${token.length}`,
    );
  }
}

/** Lets a request pass only with a token. */
function guard(token: string, name: string): MiddlewareHandler {
  const authorize = requireToken(token);
  return async (context, next): Promise<Response | void> => {
    if (await authorize(context.req.raw)) {
      await next();
      return;
    }
    return problemResponse({
      status: 401,
      title: "Unauthorized",
      detail: `The request carries no valid ${name} token; send it as "Authorization: Bearer TOKEN"`,
    }, { "www-authenticate": "Bearer" });
  };
}

/** Who sent a request, as far as the server says. */
function peerOf({ env }: Context): { readonly peer?: string } {
  const { remoteAddr } = (env ?? {}) as Partial<ConnectionInfo>;
  return remoteAddr === undefined ? {} : { peer: remoteAddr.hostname };
}

/**
 * Creates the control app.
 *
 * @throws {RangeError} If a token is too short, or a limit out of range.
 */
export function createControlApp(options: ControlAppOptions): Hono {
  const {
    runs,
    adminToken,
    webSocket,
    http,
    maxBodyBytes = 65_536,
    bodyTimeoutMs: givenBodyTimeoutMs,
    signal,
    version = "",
    silentLimitMs = 30_000,
    actionTimeoutMs = 10_000,
  } = options;
  requireLongToken("joinToken", options.joinToken);
  requireLongToken("adminToken", adminToken);
  const bodyTimeoutMs = milliseconds("bodyTimeoutMs", givenBodyTimeoutMs, 10_000);
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

  app.get("/health", (context) => {
    const all = [...runs.values()].map((run) => healthJson(run, silentLimitMs));
    const status = all.find((run) => run.health !== "ok")?.health ?? "ok";
    return context.json({ status, version, runs: all }, status === "ok" ? 200 : 503);
  });
  app.use("/join/*", guard(options.joinToken, "join"));
  app.use("/api/*", guard(adminToken, "admin"));
  if (webSocket !== undefined) app.get("/join/ws", (c) => webSocket.handle(c.req.raw, peerOf(c)));
  if (http !== undefined) app.all("/join/http/*", (c) => http.handle(c.req.raw, peerOf(c)));

  // Not Hono's bodyLimit: it makes a new Request where no length is given, and that reads `signal`, of which Deno
  // warns on the console.
  app.use("/api/*", async ({ req: { raw } }, next) => {
    // No route needs what is in it.
    const limits = { maxBytes: maxBodyBytes, timeoutMs: bodyTimeoutMs, signal };
    try {
      if (await readBody(raw, limits) !== undefined) return await next();
    } catch (error) {
      const detail = error instanceof Error ? error.message : "Cannot read the body: reading was ended";
      return problemResponse({ status: 408, title: "Request timeout", detail });
    }
    return problemResponse({
      status: 413,
      title: "Content too large",
      detail: `Cannot read the request as its body must be at most ${maxBodyBytes} bytes: it is larger`,
    });
  });

  addRunRoutes(app, runs, actionTimeoutMs);
  return app;
}

/** Routes below `/api/runs`: what runs are there, how each is, and steering it. */
function addRunRoutes(app: Hono, runs: ReadonlyMap<string, RunHandle>, actionTimeoutMs: number): void {
  app.get("/api/runs", (context) => context.json([...runs.values()].map(runJson)));
  const withRun = (
    name: string,
    answer: (run: RunHandle) => Response | Promise<Response>,
  ): Response | Promise<Response> => {
    const run = runs.get(name);
    if (run !== undefined) return answer(run);
    return problemResponse({
      status: 404,
      title: "No such run",
      detail: `Cannot answer as run "${name}" must exist: runs are ${[...runs.keys()].join(", ") || "none"}`,
    });
  };
  app.get("/api/runs/:run", (c) => withRun(c.req.param("run"), (run) => c.json(runJson(run))));
  app.get("/api/runs/:run/devices", (c) => withRun(c.req.param("run"), (run) => c.json(run.devices)));
  app.get("/api/runs/:run/events", (c) => withRun(c.req.param("run"), (run) => eventStream(c, run)));
  for (const action of ["pause", "resume", "stop"] as const) {
    app.post(`/api/runs/:run/${action}`, (c) =>
      withRun(c.req.param("run"), async (run) => {
        if (run.status === "ended" || run.status === "failed") {
          return problemResponse({
            status: 409,
            title: "Run is over",
            detail: `Cannot ${action} run "${run.run}" as it must not be over: it has ${run.status}`,
          });
        }
        const reached = await reach(run, action, actionTimeoutMs);
        return c.json({ run: run.run, status: run.status }, reached ? 200 : 202);
      }));
  }
}

/** States that an action leads to. */
const LEADS_TO: Readonly<Record<"pause" | "resume" | "stop", readonly RunStatus[]>> = {
  pause: ["paused", "ended", "failed"],
  resume: ["running", "ended", "failed"],
  stop: ["ended", "failed"],
};

/** Steers a run, and waits until it is in the state that was asked for; false if it is not within the limit. */
async function reach(run: RunHandle, action: "pause" | "resume" | "stop", limitMs: number): Promise<boolean> {
  const isReached = () => LEADS_TO[action].includes(run.status);
  const changed = Promise.withResolvers<void>();
  const unsubscribe = run.subscribe((event) => {
    if (event.type === "status" && isReached()) changed.resolve();
  });
  const timer = setTimeout(() => changed.resolve(), limitMs);
  try {
    run[action]();
    // Before the start there is nothing to hold: the run will be paused once it has begun.
    if (run.status === "waiting" && action !== "stop") return action === "resume";
    if (!isReached()) await changed.promise;
    return isReached();
  } finally {
    clearTimeout(timer);
    unsubscribe();
  }
}

/** Everything that happens in a run, until it is over or the reader leaves. */
function eventStream(context: Context, run: RunHandle): Response {
  return streamSSE(context, async (stream) => {
    const waiting: EdgeServerEvent[] = [];
    let wake: PromiseWithResolvers<void> = Promise.withResolvers();
    let open = true;
    const close = () => {
      open = false;
      wake.resolve();
    };
    const unsubscribe = run.subscribe((event) => {
      if (waiting.push(event) > MAX_EVENTS_BEHIND) open = false;
      wake.resolve();
    });
    stream.onAbort(close);
    const heartbeat = setInterval(() => void stream.writeSSE({ event: "alive", data: "" }), HEARTBEAT_MS);
    try {
      await stream.writeSSE({ event: "run", data: JSON.stringify(runJson(run)) });
      while (open) {
        for (let event = waiting.shift(); event !== undefined && open; event = waiting.shift()) {
          await stream.writeSSE({ event: event.type, data: JSON.stringify(eventJson(event)) });
        }
        if (run.status === "ended" || run.status === "failed") break;
        await wake.promise;
        wake = Promise.withResolvers();
      }
    } finally {
      clearInterval(heartbeat);
      unsubscribe();
    }
  });
}
