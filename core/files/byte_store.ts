/**
 * Places that keep bytes by name: files, memory, and what browsers have.
 *
 * @module
 */

import { makeFolder, writeWhole } from "./atomic.ts";
import { bytesIfThere, entriesOf, removeIfThere } from "./folders.ts";

/** Keeps bytes by name. Names are letters, digits, `-`, `_` and `.`; what is written is whole or not there. */
export interface ByteStore {
  /** Content of a name; `null` if there is none. */
  read(name: string): Promise<Uint8Array<ArrayBuffer> | null>;
  /** Keeps content under a name, in the place of what was there. */
  write(name: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Forgets a name, if it is there. */
  remove(name: string): Promise<void>;
  /** All names, in order. */
  names(): Promise<string[]>;
}

/** Checks a name of a store. */
export function checkStoreName(name: string): string {
  if (/^[\w-][\w.-]{0,200}$/.test(name)) return name;
  throw new RangeError(
    `Cannot keep bytes as their name must be letters, digits, "-", "_" and ".": current value is ${
      JSON.stringify(name.slice(0, 80))
    }`,
  );
}

/** A store in memory. */
export function memoryStore(): ByteStore {
  const kept = new Map<string, Uint8Array<ArrayBuffer>>();
  return {
    read: (name) => Promise.try(() => kept.get(checkStoreName(name))?.slice() ?? null),
    write: (name, bytes) => Promise.try(() => void kept.set(checkStoreName(name), bytes.slice())),
    remove: (name) => Promise.try(() => void kept.delete(checkStoreName(name))),
    names: () => Promise.resolve([...kept.keys()].sort()),
  };
}

/**
 * A store in a folder, a file each. Not in browsers.
 *
 * @param folder The folder; made if need be.
 */
export function folderStore(folder: string): ByteStore {
  const path = (name: string) => `${folder}/${checkStoreName(name)}`;
  return {
    read: async (name) => await bytesIfThere(path(name)),
    async write(name, bytes) {
      await makeFolder(folder);
      await writeWhole(path(name), bytes);
    },
    remove: async (name) => await removeIfThere(path(name)),
    names: async () =>
      (await entriesOf(folder)).filter((e) => e.isFile && !e.name.endsWith(".partial")).map((e) => e.name),
  };
}
