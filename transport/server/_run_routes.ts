/**
 * What the routes below `/api/runs` do: what runs are there, how each is, and steering it.
 *
 * @module
 */

import type { Context } from "hono";
import { streamSSE } from "hono/streaming";
import type { RunHandle, RunStatus } from "@edgetuner/core";
import type { SteeredJson } from "../control/types.ts";
import { problemResponse } from "../problem.ts";
import type { Handlers, Reply } from "./_binding.ts";
import { EventLog, isOver, type LoggedEvent } from "./_event_log.ts";
import { eventJson, runJson } from "./_json.ts";
import type { Invitations } from "./invitations.ts";

/** Server-sent events that may wait for a slow reader before it is cut off. */
const MAX_EVENTS_BEHIND = 1000;
/** Milliseconds between signs of life on an event stream. */
const HEARTBEAT_MS = 15_000;
/** Milliseconds after which a reader that was cut off comes back. */
const RETRY_MS = 1000;

/** The routes of runs. */
type RunRoute =
  | "GET /api/runs"
  | "GET /api/runs/:run"
  | "GET /api/runs/:run/devices"
  | "GET /api/runs/:run/events"
  | `POST /api/runs/:run/${Action}`;

/** Handlers of the routes of runs. */
export function runHandlers(
  runs: ReadonlyMap<string, RunHandle>,
  { invitations, actionTimeoutMs }: { readonly invitations: Invitations; readonly actionTimeoutMs: number },
): Pick<Handlers, RunRoute> {
  const logs = new WeakMap<RunHandle, EventLog>();
  const logOf = (run: RunHandle) => {
    const log = logs.get(run) ?? new EventLog(run, eventJson);
    logs.set(run, log);
    return log;
  };
  invitations.subscribe((request) => {
    const run = runs.get(request.run);
    if (run !== undefined && !isOver(run.status)) logOf(run).add("request", request);
  });
  const withRun = <T>(name: string, answer: (run: RunHandle) => T): T | Response =>
    runs.has(name) ? answer(runs.get(name)!) : noRun(name, runs);
  const steer = (action: Action) => ({ params }: { readonly params: { readonly run: string } }) =>
    withRun(params.run, (run) => steered(run, action, actionTimeoutMs));
  return {
    "GET /api/runs": () => ({ data: [...runs.values()].map(runJson) }),
    "GET /api/runs/:run": ({ params }) => withRun(params.run, (run) => ({ data: runJson(run) })),
    "GET /api/runs/:run/devices": ({ params }) => withRun(params.run, (run) => ({ data: run.devices })),
    "GET /api/runs/:run/events": ({ params, context }) =>
      withRun(params.run, (run) => eventStream(context, run, logOf(run))),
    "POST /api/runs/:run/pause": steer("pause"),
    "POST /api/runs/:run/resume": steer("resume"),
    "POST /api/runs/:run/stop": steer("stop"),
  };
}

/** The answer where a run is not there. */
export function noRun(name: string, runs: ReadonlyMap<string, RunHandle>): Response {
  return problemResponse({
    status: 404,
    title: "No such run",
    detail: `Cannot answer as run "${name}" must exist: runs are ${[...runs.keys()].join(", ") || "none"}`,
  });
}

/** The answer where a run is over. */
export function runIsOver(run: RunHandle, action: string): Response {
  return problemResponse({
    status: 409,
    title: "Run is over",
    detail: `Cannot ${action} run "${run.run}" as it must not be over: it has ${run.status}`,
  });
}

type Action = "pause" | "resume" | "stop";

/** States that an action leads to. */
const LEADS_TO: Readonly<Record<Action, readonly RunStatus[]>> = {
  pause: ["paused", "ended", "failed"],
  resume: ["running", "ended", "failed"],
  stop: ["ended", "failed"],
};

async function steered(
  run: RunHandle,
  action: Action,
  limitMs: number,
): Promise<Reply<SteeredJson> | Response> {
  if (isOver(run.status)) return runIsOver(run, action);
  const reached = await reach(run, action, limitMs);
  return { status: reached ? 200 : 202, data: { run: run.run, status: run.status } };
}

/** Steers a run, and waits until it is in the state that was asked for; false if it is not within the limit. */
async function reach(run: RunHandle, action: Action, limitMs: number): Promise<boolean> {
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
function eventStream(context: Context, run: RunHandle, log: EventLog): Response {
  const last = context.req.header("last-event-id");
  const missed = last === undefined ? null : log.since(last);
  // What tells a browser's event source not to come back.
  if (missed !== null && missed.length === 0 && isOver(run.status)) {
    return new Response(null, { status: 204 });
  }
  // Nothing happens between here and the subscription below, as nothing waits.
  const first = missed === null ? { id: log.position, data: JSON.stringify(runJson(run)) } : null;
  const waiting: LoggedEvent[] = [...missed ?? []];
  let wake: PromiseWithResolvers<void> = Promise.withResolvers();
  let open = true;
  const most = MAX_EVENTS_BEHIND + waiting.length;
  const unsubscribe = log.read((event) => {
    if (waiting.push(event) > most) open = false;
    wake.resolve();
  });
  return streamSSE(context, async (stream) => {
    stream.onAbort(() => {
      open = false;
      wake.resolve();
    });
    const heartbeat = setInterval(() => void stream.writeSSE({ event: "alive", data: "" }), HEARTBEAT_MS);
    try {
      if (first !== null) await stream.writeSSE({ event: "run", ...first, retry: RETRY_MS });
      while (open) {
        for (let event = waiting.shift(); event !== undefined && open; event = waiting.shift()) {
          const { event: name, data, number } = event;
          await stream.writeSSE({ event: name, data, id: log.idOf(number) });
        }
        if (isOver(run.status)) break;
        await wake.promise;
        wake = Promise.withResolvers();
      }
    } finally {
      clearInterval(heartbeat);
      unsubscribe();
    }
  });
}
