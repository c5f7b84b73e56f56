/**
 * How a device that was invited comes to a key to join with.
 *
 * @module
 */

import { ControlClient, ControlError } from "./client.ts";
import type { JoinRequestJson } from "./types.ts";

/** Options of {@linkcode askToJoin}. */
export interface AskToJoinOptions {
  /** Address of the server; a page needs none for the server that it comes from. @default {""} */
  readonly url?: string;
  /** The secret of the invite. */
  readonly invite: string;
  /** The device: its name for people, its id, and the public half of its key. */
  readonly device: { readonly name: string; readonly id: string; readonly key: string };
  /** Called with the request once it is made, before the host has answered. */
  readonly onAsked?: (request: JoinRequestJson, joinKey: string) => void;
  /** What sends requests. @default {fetch} */
  readonly fetch?: (request: Request) => Response | Promise<Response>;
  /** Ends the waiting. */
  readonly signal?: AbortSignal;
}

/** The secret of an invite: what stands behind `#invite=` of its address; `null` in another address. */
export function inviteOf(address: string): string | null {
  return /#invite=([\w-]{22})$/.exec(address)?.[1] ?? null;
}

/**
 * Redeems an invite, and waits until the host has approved the device.
 *
 * @category Control
 *
 * @param options The invite and the device.
 * @returns The key to join with: the token of a transport, for this device alone. It is good as long as the run is.
 * @throws {ControlError} If the invite is not good, or the host refuses the device.
 * @throws The signal's reason.
 */
export async function askToJoin(options: AskToJoinOptions): Promise<string> {
  const { url = "", invite, device, signal, onAsked, fetch } = options;
  const shared = { url, ...(fetch && { fetch }) };
  const { request, joinKey } = await new ControlClient(shared).call("POST /join/requests", {
    body: { invite, ...device },
    ...(signal && { signal }),
  });
  onAsked?.(request, joinKey);
  await waitForApproval({ ...shared, joinKey, ...(signal && { signal }) });
  return joinKey;
}

/**
 * Waits until the host has approved a device that has asked to join before.
 *
 * @category Control
 *
 * @param options Address of the server, and the key that the device got when it asked.
 * @throws {ControlError} If the host refuses the device, or has removed it.
 * @throws The signal's reason.
 */
export async function waitForApproval(
  { joinKey, signal, ...options }: Pick<AskToJoinOptions, "url" | "fetch" | "signal"> & {
    /** The key. */
    readonly joinKey: string;
  },
): Promise<void> {
  const client = new ControlClient({ ...options, token: joinKey });
  for (;;) {
    signal?.throwIfAborted();
    const { state } = await client.call("GET /join/request", {
      query: { wait: "20" },
      ...(signal && { signal }),
    });
    if (state === "approved") return;
    if (state !== "waiting") throw new ControlError(403, `The host has ${state} this device`);
  }
}
