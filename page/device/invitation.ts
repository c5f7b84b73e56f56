/**
 * Asking the host to be let in, with an invite that works once.
 *
 * @module
 */

import type { JoinRequestJson } from "@edgetuner/transport/control";
import type { RunPlace } from "./messages.ts";
import { CannotTakePart } from "./usable.ts";

/** Seconds that the server holds a question. */
const WAIT_SECONDS = 20;
/** Pause in milliseconds where the server cannot be reached. */
const RETRY_MS = 2000;

/** Who asks. */
export interface Asker {
  readonly name: string;
  /** Id of the device. */
  readonly id: string;
  /** Public key of the device. */
  readonly key: string;
}

/**
 * Redeems an invite.
 *
 * @returns The request, and where to join once the host has approved it.
 * @throws {CannotTakePart} If the invite is not good any more.
 */
export async function redeem(
  { server, invite }: { readonly server: string; readonly invite: string },
  asker: Asker,
): Promise<{ readonly request: JoinRequestJson; readonly place: RunPlace }> {
  const response = await fetch(`${server}/join/requests`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ invite, ...asker }),
  });
  if (response.ok) {
    const { request, joinKey } = await response.json();
    return { request, place: { server, token: joinKey, isInvited: true } };
  }
  if (response.status === 401 || response.status === 410) {
    throw new CannotTakePart(
      response.status === 410
        ? "The invite was used before, or its time is over."
        : "The invite is not valid.",
      "Ask the host for a new link: each is for one device, and for some minutes.",
    );
  }
  const { detail = `The server answered ${response.status}.` } = await response.json().catch(() => ({}));
  throw new CannotTakePart(detail, "Ask the host.");
}

/**
 * The request of a device, as it is now.
 *
 * @returns `null` if the server knows of none.
 */
export async function ownRequest(
  { server, token }: RunPlace,
  waitSeconds = 0,
): Promise<JoinRequestJson | null> {
  const response = await fetch(`${server}/join/request?wait=${waitSeconds}`, {
    headers: { authorization: `Bearer ${token}` },
  });
  if (response.ok) return await response.json();
  await response.body?.cancel();
  return null;
}

/**
 * Waits until the host has answered.
 *
 * @throws {CannotTakePart} If the host does not let this device in.
 */
export async function approved(place: RunPlace): Promise<void> {
  for (;;) {
    let request: JoinRequestJson | null;
    try {
      request = await ownRequest(place, WAIT_SECONDS);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      continue;
    }
    if (request?.state === "approved") return;
    if (request?.state !== "waiting") {
      throw new CannotTakePart("The host did not let this device in.", "Ask the host for a new link.");
    }
  }
}
