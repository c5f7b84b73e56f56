/**
 * A device with heads and no data: it loads nothing of what data needs.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { type DataMaker, DeviceRun, SERVER_LOST_MS } from "./device_run.ts";
import type { UserDeviceOptions, UserDeviceResult } from "./user_device_options.ts";
import { checkWait } from "./wait_limits.ts";

/** Options of `runHeadsDevice`. */
export type HeadsDeviceOptions = Omit<UserDeviceOptions, "data">;

/**
 * What `runUserDevice` does, for a device with heads and no data: in a page it is a third smaller.
 *
 * @param options Everything but data.
 * @returns What it has at the end.
 * @throws What `runUserDevice` throws.
 */
export async function runHeadsDevice(options: HeadsDeviceOptions): Promise<UserDeviceResult> {
  return await runDevice(options, () => {
    throw new TypeError("Cannot take part with data here: use runUserDevice");
  });
}

/** Joins and takes part, with a data side if there is one. */
export async function runDevice(options: UserDeviceOptions, makeData: DataMaker): Promise<UserDeviceResult> {
  const { channel, capacity, timeoutMs = 120_000, task = "train", adapter } = options;
  const isNeeded = task === "generate" && capacity > 0;
  if (adapter === undefined ? isNeeded : capacity === 0) {
    await channel.close("no heads, or nothing to generate with");
    throw new TypeError(
      `Cannot join as an adapter must be given in a run for generation by a device with heads, and never by one without: task is "${task}", capacity ${capacity}, the adapter is ${
        adapter === undefined ? "missing" : "given"
      }`,
    );
  }
  const base = options.data?.fingerprint ?? "";
  if (adapter !== undefined && adapter.fingerprint !== "" && base !== "" && adapter.fingerprint !== base) {
    await channel.close("an adapter of another model");
    throw new ModelFileError(
      `Cannot join as the adapter must have been learnt on this device's model, ${
        base.slice(0, 12)
      }: its base is ${adapter.fingerprint.slice(0, 12)}`,
    );
  }
  checkWait("timeoutMs", timeoutMs);
  checkWait("joinTimeoutMs", options.joinTimeoutMs ?? timeoutMs);
  checkWait("serverLostMs", options.serverLostMs ?? SERVER_LOST_MS);
  const run = await DeviceRun.join(options, makeData);
  options.onWelcome?.(run.welcome);
  return await run.toTheEnd();
}
