/**
 * Who a channel was opened for.
 *
 * @module
 */

import type { Channel } from "@edgetuner/core/contracts";

/** A device that was let in. */
export interface InvitedDevice {
  /** Name of the run. */
  readonly run: string;
  /** Id of the device. */
  readonly id: string;
  /** Its public key. */
  readonly key: string;
}

const invited = new WeakMap<Channel, InvitedDevice>();

/** Notes who a channel was opened for. */
export function noteInvited(channel: Channel, device: InvitedDevice | undefined): void {
  if (device !== undefined) invited.set(channel, device);
}

/**
 * The device that a channel was opened for, if it was invited: `EdgeServer.join` is to hold it to that.
 *
 * @param channel A channel of a listener.
 * @returns The device, and the run; `undefined` if whoever had the join token opened it.
 */
export function invitedDeviceOf(channel: Channel): InvitedDevice | undefined {
  return invited.get(channel);
}
