/**
 * Who sends a request, as far as the server can tell.
 *
 * @module
 */

import type { Role } from "../control/routes.ts";
import { requestToken, requireToken } from "../token.ts";
import type { Sessions } from "./sessions.ts";

/** What callers are known by. */
export interface WhoOptions {
  /** Token that devices show to join. */
  readonly joinToken: string;
  /** Token that steers runs. */
  readonly adminToken: string;
  /** Browsers that are signed in. */
  readonly sessions: Sessions;
}

/** Tells who sends a request; each request is looked at once. */
export function knower(options: WhoOptions): (request: Request) => Promise<Role> {
  const isAdmin = requireToken(options.adminToken);
  const isDevice = requireToken(options.joinToken);
  const known = new WeakMap<Request, Promise<Role>>();
  const look = async (request: Request): Promise<Role> => {
    // A token that is shown counts, and nothing besides it.
    if (requestToken(request) !== undefined) {
      return await isAdmin(request) ? "admin token" : await isDevice(request) ? "join token" : "anonymous";
    }
    return await options.sessions.secondsLeft(request) === null ? "anonymous" : "session";
  };
  return (request) => {
    const role = known.get(request) ?? look(request);
    known.set(request, role);
    return role;
  };
}
