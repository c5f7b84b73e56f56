/**
 * Who a device must be to come in: the one that its id says, the one that was let in, and none that was removed.
 *
 * @module
 */

import { HandshakeError } from "../contracts/errors.ts";
import type { MetaOf } from "../protocol/messages.ts";
import type { Peer } from "../protocol/peer.ts";
import { isSame, textOf } from "./_identity.ts";
import { type KnownDevice, requireProof } from "./_proof.ts";
import type { RemovedDevice } from "./run_state.ts";
import type { JoinOptions } from "./run_handle.ts";

/** The door of a run. */
export class Door {
  readonly #removed: RemovedDevice[] = [];

  /**
   * Lets a device pass, or not.
   *
   * @param peer The device.
   * @param hello What it said of itself.
   * @param options Devices of the run so far, and who was let in over this channel.
   * @throws {HandshakeError} If it may not pass.
   */
  async pass(
    peer: Peer,
    hello: MetaOf<"hello">,
    { known, letIn }: {
      readonly known: readonly KnownDevice[];
      readonly letIn: JoinOptions["device"];
    },
  ): Promise<void> {
    // By its key too, as an id is quickly made.
    const isRemoved = this.#removed.some((one) =>
      isSame(one, hello) || one.key !== undefined && one.key === hello.key
    );
    if (isRemoved) {
      throw new HandshakeError(`Cannot admit ${textOf(hello)} as the host has removed it from the run`);
    }
    if (letIn !== undefined && (hello.id !== letIn.id || hello.key !== letIn.key)) {
      throw new HandshakeError(
        `Cannot admit ${
          textOf(hello)
        } as what it joins with is another device's: its id and key must be those that asked to join`,
      );
    }
    // What was let in must prove its key the first time too.
    await requireProof(peer, hello, letIn === undefined ? known : [letIn, ...known]);
  }

  /** A device may not come in again. */
  close({ name, id, key }: RemovedDevice): void {
    this.#removed.push({ name, ...(id !== undefined && { id }), ...(key !== undefined && { key }) });
  }

  /** Those that may not. */
  get removed(): readonly RemovedDevice[] {
    return this.#removed;
  }
}
