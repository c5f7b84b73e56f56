/**
 * Ids of devices.
 *
 * @module
 */

/** A new id for a device, see `UserDeviceOptions.id`: 32 random characters. */
export function newDeviceId(): string {
  return crypto.randomUUID().replaceAll("-", "");
}
