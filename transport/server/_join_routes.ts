/**
 * What devices do before they join, and what the host does about it: invites, requests, approval, removal.
 *
 * @module
 */

import type { RunHandle } from "@edgetuner/core";
import { problemResponse } from "../problem.ts";
import type { Handlers, Reply, RouteCall } from "./_binding.ts";
import { isOver } from "./_event_log.ts";
import { noRun, runIsOver } from "./_run_routes.ts";
import { aboutOf } from "./device_routes.ts";
import type { Invitations } from "./invitations.ts";
import type { JoinRequestJson } from "../control/types.ts";

/** The routes of invited devices. */
type JoinRoute =
  | "GET /join/about"
  | "POST /join/requests"
  | "GET /join/request"
  | "POST /api/runs/:run/devices/:device/remove"
  | "POST /api/runs/:run/invites"
  | "GET /api/runs/:run/requests"
  | "POST /api/runs/:run/requests/:request/approve"
  | "POST /api/runs/:run/requests/:request/refuse";

/** Longest time in seconds that a device's question is held. */
const MOST_WAIT = 25;

/** Why an invite is not good. */
const BAD_INVITE = {
  unknown: { status: 401, why: "it must be one of this server: it is not" },
  used: { status: 410, why: "it must be new: it was used before" },
  expired: { status: 410, why: "it must be younger: its time is over" },
} as const;

/** Handlers of the routes of invited devices. */
export function joinHandlers(
  runs: ReadonlyMap<string, RunHandle>,
  invitations: Invitations,
): Pick<Handlers, JoinRoute> {
  const withRun = <T>(name: string, answer: (run: RunHandle) => T): T | Response =>
    runs.has(name) ? answer(runs.get(name)!) : noRun(name, runs);
  const open = <T>(name: string, action: string, answer: (run: RunHandle) => T): T | Response =>
    withRun(name, (run) => isOver(run.status) ? runIsOver(run, action) : answer(run));
  const answered = (state: "approved" | "refused") => ({ params: { run, request } }: AnswerCall) =>
    withRun(run, () => answer(invitations, { run, request, state }));
  return {
    "GET /join/about": ({ caller }) => ({
      data: [...runs.values()].filter((run) => [undefined, run.run].includes(caller.run)).map(aboutOf),
    }),
    "POST /join/requests": async ({ body: { invite, ...device } }) => {
      const shown = await invitations.look(invite);
      const run = shown.state === "good" ? runs.get(shown.value) : undefined;
      if (shown.state === "good" && (run === undefined || isOver(run.status))) {
        return noRun(shown.value, runs);
      }
      const redeemed = await invitations.redeem(invite, device);
      if (typeof redeemed !== "string") return { status: 201, data: redeemed };
      const { status, why } = BAD_INVITE[redeemed];
      return problemResponse({
        status,
        title: "Invite is not good",
        detail: `Cannot ask to join with the invite as ${why}`,
      });
    },
    "GET /join/request": async (call) => ({ data: await ownRequest(invitations, call) }),
    "POST /api/runs/:run/invites": ({ params }) =>
      open(
        params.run,
        "invite devices to",
        async (run): Promise<Reply<{ path: string; secondsLeft: number }>> => ({
          status: 201,
          data: {
            path: await invitations.invite(run.run),
            secondsLeft: Math.floor(invitations.lifetimeMs / 1000),
          },
        }),
      ),
    "GET /api/runs/:run/requests": ({ params }) =>
      withRun(params.run, (run) => ({ data: invitations.requests(run.run) })),
    "POST /api/runs/:run/requests/:request/approve": answered("approved"),
    "POST /api/runs/:run/requests/:request/refuse": answered("refused"),
    "POST /api/runs/:run/devices/:device/remove": ({ params: { run: name, device } }) =>
      open(name, "remove a device from", (run) => {
        // First its key: it must not come back in between.
        const wasInvited = invitations.remove(run.run, device);
        const hasJoined = run.remove?.(device) ?? false;
        return wasInvited || hasJoined ? { data: { run: run.run, device } } : noDevice(run, device);
      }),
  };
}

/** A call that answers a request. */
interface AnswerCall {
  readonly params: { readonly run: string; readonly request: string };
}

function answer(
  invitations: Invitations,
  { run, request, state }: AnswerCall["params"] & { readonly state: "approved" | "refused" },
): Reply<JoinRequestJson> | Response {
  const isThere = invitations.requests(run).some((one) => one.request === request);
  const data = isThere ? invitations.answer(request, state) : null;
  if (data !== null) return { data };
  return problemResponse({
    status: 404,
    title: "No such request",
    detail: `Cannot answer request ${request} of run "${run}" as it must wait or have been answered: ${
      isThere ? "its device was removed" : "there is none"
    }`,
  });
}

/** The request of the device that calls, once there is an answer or it has waited long enough. */
async function ownRequest(
  invitations: Invitations,
  { caller: { request }, query, request: { signal } }: RouteCall<"GET /join/request">,
): Promise<JoinRequestJson> {
  // Only devices with a request come here.
  const { request: number, run, state } = request!;
  const wait = Number(query.get("wait") ?? 0);
  if (state === "waiting" && wait > 0) {
    await invitations.changed(number, { state, limitMs: Math.min(wait, MOST_WAIT) * 1000, signal });
  }
  return invitations.requests(run).find((one) => one.request === number) ?? request!;
}

function noDevice(run: RunHandle, device: string): Response {
  return problemResponse({
    status: 404,
    title: "No such device",
    detail: `Cannot remove device "${device}" as it must be one of run "${run.run}": devices are ${
      run.devices.map(({ name, id }) => id || name).join(", ") || "none"
    }`,
  });
}
