/**
 * The id of a device, kept in the folder of its state.
 *
 * @module
 */

import { makeFolder, writeWhole } from "../files/atomic.ts";
import { bytesIfThere } from "../files/folders.ts";
import { newDeviceId } from "./device_id.ts";

const FILE = "device_id";
const PATTERN = /^[0-9a-f]{32}$/;

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
