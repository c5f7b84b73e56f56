/**
 * Id and key of a device, kept in the folder of its state.
 *
 * @module
 */

import { makeFolder, writeWhole } from "../files/atomic.ts";
import { bytesIfThere } from "../files/folders.ts";
import { newDeviceId } from "./device_id.ts";
import { type DeviceKey, newDeviceKey } from "./device_key.ts";

const FILE = "device_id";
const KEY_FILE = "device_key";
const PATTERN = /^[0-9a-f]{32}$/;

/**
 * The key of the device whose state is in a folder, from the file `device_key`, which its owner alone may read. It is
 * made where there is none.
 *
 * @param folder The folder; it is made too.
 * @returns The key, for `UserDeviceOptions.key`.
 * @throws {SaveError} If the file cannot be written.
 */
export async function deviceKeyIn(folder: string): Promise<DeviceKey> {
  const path = `${folder}/${KEY_FILE}`;
  const kept = await readKey(path);
  if (kept !== null) return kept;
  await makeFolder(folder);
  const key = await newDeviceKey();
  await writeWhole(path, `${JSON.stringify(key)}\n`, { isSecret: true });
  // If two programs made one at once, both take the one that stayed.
  return await readKey(path) ?? key;
}

async function readKey(path: string): Promise<DeviceKey | null> {
  const bytes = await bytesIfThere(path);
  if (bytes === null) return null;
  try {
    const { publicKey, secretKey } = JSON.parse(new TextDecoder().decode(bytes));
    return typeof publicKey === "string" && typeof secretKey === "string" ? { publicKey, secretKey } : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

/**
 * The id of the device whose state is in a folder, from the file `device_id`. It is made where there is none.
 *
 * @param folder The folder; it is made too.
 * @returns The id, for `UserDeviceOptions.id`.
 * @throws {SaveError} If the file cannot be written.
 */
export async function deviceIdIn(folder: string): Promise<string> {
  const path = `${folder}/${FILE}`;
  const kept = async () => {
    const bytes = await bytesIfThere(path);
    return bytes === null ? "" : new TextDecoder().decode(bytes).trim();
  };
  const before = await kept();
  if (PATTERN.test(before)) return before;
  await makeFolder(folder);
  const id = newDeviceId();
  await writeWhole(path, `${id}\n`);
  // If two programs made one at once, both take the one that stayed.
  const after = await kept();
  return PATTERN.test(after) ? after : id;
}
