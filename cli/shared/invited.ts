/**
 * A device that joins with an invite: it asks the host, and gets a key of its own.
 *
 * @module
 */

import { HandshakeError, writeWhole } from "@edgetuner/core";
import { askToJoin, ControlError, inviteOf, waitForApproval } from "@edgetuner/transport/control";
import { deviceCode } from "@edgetuner/transport/server";
import { pinnedCertificate } from "../flags/pinned.ts";

/** A device that asks. */
export interface AskingOptions {
  /** The address of the invite, as the edge server prints it. */
  readonly address: string;
  /** SHA-256 of the server's certificate; empty where the system trusts it. */
  readonly fingerprint: string;
  /** The device: name, id, and public key. */
  readonly device: { readonly name: string; readonly id: string; readonly key: string };
  /** Folder of the device's states, in which the key is kept; `null` for none. */
  readonly folder: string | null;
  /** Says a line to people. */
  readonly say: (line: string) => void;
  /** Ends the waiting. */
  readonly signal: AbortSignal;
}

/** Where to join, and with which token. */
export interface Entry {
  /** Address of the WebSocket. */
  readonly server: string;
  /** The key of this device and run. */
  readonly token: string;
}

/** The file that the key is kept in: who was approved comes back without another invite. */
const FILE = "join_key.json";

/**
 * Asks the host to let a device in, and waits for the answer.
 *
 * @throws {HandshakeError} If the invite is not good, or the host says no.
 */
export async function enterByInvite(options: AskingOptions): Promise<Entry> {
  const { address, device, say, signal } = options;
  const url = new URL(address).origin;
  const invite = inviteOf(address)!;
  const [client, code] = await Promise.all([clientFor(options), deviceCode(device.key)]);
  using _client = client;
  const shared = {
    ...{ url, signal },
    ...(client && { fetch: (request: Request) => fetch(request, { client }) }),
  };
  const tellWaiting = () =>
    say(`Asked to join as ${device.name}, code ${code}; waiting for the host to approve`);
  try {
    const kept = await keptKey(options);
    if (kept !== null) {
      tellWaiting();
      await waitForApproval({ ...shared, joinKey: kept });
    }
    const token = kept ?? await askToJoin({
      ...{ ...shared, invite, device },
      onAsked: (_request, joinKey) => {
        tellWaiting();
        void keep(options, joinKey);
      },
    });
    return { server: `${url.replace(/^http/, "ws")}/join/ws`, token };
  } catch (error) {
    if (error instanceof ControlError) {
      throw new HandshakeError(`Cannot join with the invite: ${error.message}`);
    }
    throw error;
  }
}

/** A client that trusts the certificate with the fingerprint; `null` where the system is trusted. */
async function clientFor({ address, fingerprint, signal }: AskingOptions): Promise<Deno.HttpClient | null> {
  if (fingerprint === "") return null;
  return Deno.createHttpClient({ caCerts: [await pinnedCertificate(new URL(address), fingerprint, signal)] });
}

/** The key that this device got for this invite before; `null` without one. */
async function keptKey({ address, device, folder }: AskingOptions): Promise<string | null> {
  if (folder === null) return null;
  try {
    const kept = JSON.parse(await Deno.readTextFile(`${folder}/${FILE}`));
    const isIt = kept.address === address && kept.key === device.key && typeof kept.joinKey === "string";
    return isIt ? kept.joinKey : null;
  } catch {
    return null; // none yet, or not readable: the invite tells
  }
}

async function keep({ address, device, folder }: AskingOptions, joinKey: string): Promise<void> {
  if (folder === null) return;
  const text = `${JSON.stringify({ address, key: device.key, joinKey })}\n`;
  // Without it the device needs another invite after it was started anew, and nothing else.
  await writeWhole(`${folder}/${FILE}`, text, { isSecret: true }).catch(() => {});
}
