/**
 * What is in folders, and small files that may be missing.
 *
 * @module
 */

import { isMissing } from "./missing.ts";

/** What a folder holds. */
export interface FolderEntry {
  /** Its name in the folder. */
  readonly name: string;
  /** Whether it is a plain file. */
  readonly isFile: boolean;
}

/** What is in a folder, in order of names; nothing if it is not there. */
export async function entriesOf(folder: string): Promise<FolderEntry[]> {
  try {
    const all = await Array.fromAsync(Deno.readDir(folder), ({ name, isFile }) => ({ name, isFile }));
    return all.sort((a, b) => a.name < b.name ? -1 : 1);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

/** Whether a path is a folder. */
export async function isFolder(path: string): Promise<boolean> {
  return await Deno.stat(path).then((info) => info.isDirectory, () => false);
}

/** When a file was last written, in milliseconds; 0 if the system does not say. */
export async function writtenAt(path: string): Promise<number> {
  return (await Deno.stat(path)).mtime?.getTime() ?? 0;
}

/** Bytes of a file; `null` if it is not there. */
export async function bytesIfThere(path: string | URL): Promise<Uint8Array<ArrayBuffer> | null> {
  try {
    return await Deno.readFile(path);
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

/** Removes a file, if it is there. */
export async function removeIfThere(path: string): Promise<void> {
  await Deno.remove(path).catch((error) => {
    if (!isMissing(error)) throw error;
  });
}

/**
 * Moves files into another folder, in the place of those of their kind there.
 *
 * @param from Where they are.
 * @param to Where they go.
 * @param kind What their names match.
 */
export async function moveFiles(from: string, to: string, kind: RegExp): Promise<void> {
  const [moved, former] = (await Promise.all([entriesOf(from), entriesOf(to)])).map((entries) =>
    entries.map(({ name }) => name).filter((name) => kind.test(name))
  );
  for (const name of moved!) await Deno.rename(`${from}/${name}`, `${to}/${name}`);
  for (const name of former!) {
    if (!moved!.includes(name)) await Deno.remove(`${to}/${name}`);
  }
}
