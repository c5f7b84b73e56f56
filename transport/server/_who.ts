/**
 * Who sends a request, as far as the server can tell.
 *
 * @module
 */

import type { Role } from "../control/routes.ts";
import type { JoinRequestJson } from "../control/types.ts";
import type { InvitedDevice } from "../_invited.ts";
import { type Authorize, requestToken, requireToken } from "../token.ts";
import type { Invitations } from "./invitations.ts";
import type { Sessions } from "./sessions.ts";

/** What callers are known by. */
export interface WhoOptions {
  /** Token that devices show to join. */
  readonly joinToken: string;
  /** Token that steers runs. */
  readonly adminToken: string;
  /** Browsers that are signed in. */
  readonly sessions?: Sessions | undefined;
  /** Devices that are invited. */
  readonly invitations?: Invitations | undefined;
}

/** Who calls. */
export interface Caller {
  /** What the caller is. */
  readonly role: Role;
  /** The run that an invited caller may know of. */
  readonly run?: string;
  /** The request to join of a device that redeemed an invite. */
  readonly request?: JoinRequestJson;
  /** The device that may join. */
  readonly device?: InvitedDevice;
}

/** Roles of devices by what became of their request. */
const DEVICE_ROLES = {
  waiting: "waiting device",
  approved: "approved device",
  refused: "refused device",
  removed: "refused device",
} as const;

/** Tells who sends a request; each request is looked at once. */
export function knower(options: WhoOptions): (request: Request) => Promise<Caller> {
  const { sessions, invitations } = options;
  const isAdmin = requireToken(options.adminToken);
  const isDevice = requireToken(options.joinToken);
  const known = new WeakMap<Request, Promise<Caller>>();
  const look = async (request: Request): Promise<Caller> => {
    // A token that is shown counts, and nothing besides it.
    const token = requestToken(request);
    if (token !== undefined) {
      if (await isAdmin(request)) return { role: "admin token" };
      if (await isDevice(request)) return { role: "join token" };
      return await invited(token, invitations) ?? { role: "anonymous" };
    }
    const isSignedIn = (await sessions?.secondsLeft(request) ?? null) !== null;
    return { role: isSignedIn ? "session" : "anonymous" };
  };
  return (request) => {
    const caller = known.get(request) ?? look(request);
    known.set(request, caller);
    return caller;
  };
}

/** The caller that shows a join key or an invite; `null` if the token is neither. */
async function invited(token: string, invitations: Invitations | undefined): Promise<Caller | null> {
  const request = await invitations?.ofKey(token) ?? null;
  if (request !== null) {
    const device = await invitations?.letIn(token) ?? undefined;
    return { role: DEVICE_ROLES[request.state], run: request.run, request, ...(device && { device }) };
  }
  const shown = await invitations?.look(token);
  return shown?.state === "good" ? { role: "invite", run: shown.value } : null;
}

/**
 * Makes the `authorize` of `serve()` for a control app: those who are known stay whoever else connects.
 *
 * @param options What callers are known by: as given to `createControlApp`.
 * @returns True for requests with a token, a session or a join key of an approved device.
 */
export function requireKnown(options: WhoOptions): Authorize {
  const callerOf = knower(options);
  const known: readonly Role[] = ["join token", "approved device", "session", "admin token"];
  return async (request) => known.includes((await callerOf(request)).role);
}
