/**
 * Whether a device is the one that it says.
 *
 * @module
 */

import { HandshakeError } from "../contracts/errors.ts";
import type { MetaOf } from "../protocol/messages.ts";
import type { Peer } from "../protocol/peer.ts";
import { textOf } from "./_identity.ts";
import { isProven, newNonce } from "./device_key.ts";

/** An id that is known, and its key if it has one. */
export interface KnownDevice {
  /** The id. */
  readonly id?: string | undefined;
  /** Public key. */
  readonly key?: string | undefined;
}

/**
 * Has a device prove that it has the key of its id, if that id is known with a key.
 *
 * @param peer The device.
 * @param hello What it said of itself.
 * @param known Devices of the run so far.
 * @throws {HandshakeError} If it does not prove it.
 */
export async function requireProof(
  peer: Peer,
  hello: MetaOf<"hello">,
  known: readonly KnownDevice[],
): Promise<void> {
  const { id, key } = hello;
  const before = id === undefined ? undefined : known.find((d) => d.id === id && d.key !== undefined);
  if (id === undefined || before?.key === undefined) return;
  const refuse = (what: string): never => {
    throw new HandshakeError(
      `Cannot admit ${textOf(hello)} as it must have the key that its id had before: ${what}`,
    );
  };
  if (key !== before.key) refuse(key === undefined ? "it has none" : "it has another one");
  const nonce = newNonce();
  await peer.send("challenge", { meta: { nonce } });
  const { meta: { proof } } = await peer.receive("proof");
  if (!await isProven(before.key, { id, nonce, proof })) refuse("its signature is not of that key");
}
