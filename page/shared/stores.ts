/**
 * Stores that browsers have: the origin's private file system, and IndexedDB.
 *
 * @module
 */

import { type ByteStore, checkStoreName } from "@edgetuner/core/device";

/** What workers alone have of a file: the fastest way, and the one that Safari has had longest. */
interface SyncFile {
  truncate(size: number): void;
  write(bytes: Uint8Array, options: { readonly at: number }): number;
  flush(): void;
  close(): void;
}

/** A file, with what the types of pages lack. */
type WorkerFile = FileSystemFileHandle & {
  createSyncAccessHandle(): Promise<SyncFile>;
  move?(name: string): Promise<void>;
};

const PARTIAL = ".partial";

/**
 * A store in a folder of the origin's private file system. In workers alone.
 *
 * @param folder Name of the folder; made if need be.
 */
export async function opfsStore(folder: string): Promise<ByteStore> {
  const root = await navigator.storage.getDirectory();
  const place = await root.getDirectoryHandle(checkStoreName(folder), { create: true });
  const put = async (file: WorkerFile, bytes: Uint8Array) => {
    const handle = await file.createSyncAccessHandle();
    try {
      handle.truncate(0);
      for (let at = 0; at < bytes.length;) at += handle.write(bytes.subarray(at), { at });
      handle.flush();
    } finally {
      handle.close();
    }
  };
  return {
    async read(name) {
      try {
        const file = await place.getFileHandle(checkStoreName(name));
        return new Uint8Array(await (await file.getFile()).arrayBuffer());
      } catch (error) {
        if (isMissing(error)) return null;
        throw error;
      }
    },
    async write(name, bytes) {
      const open = (name: string) => place.getFileHandle(name, { create: true }) as Promise<WorkerFile>;
      const partial = await open(`${checkStoreName(name)}${PARTIAL}`);
      await put(partial, bytes);
      if (partial.move !== undefined) return await partial.move(name);
      await put(await open(name), bytes);
      await place.removeEntry(`${name}${PARTIAL}`);
    },
    async remove(name) {
      await place.removeEntry(checkStoreName(name)).catch((error) => {
        if (!isMissing(error)) throw error;
      });
    },
    async names() {
      const names = await Array.fromAsync(
        (place as unknown as { keys(): AsyncIterable<string> }).keys(),
      );
      return names.filter((name) => !name.endsWith(PARTIAL)).sort();
    },
  };
}

function isMissing(error: unknown): boolean {
  return error instanceof DOMException && error.name === "NotFoundError";
}

const TABLE = "bytes";

/**
 * A store in a database of the origin's.
 *
 * @param name Name of the database; made if need be.
 */
export function indexedDbStore(name: string): ByteStore {
  const all = async <T>(mode: IDBTransactionMode, ask: (table: IDBObjectStore) => IDBRequest<T>) => {
    const database = await openDatabase(name);
    try {
      // Strict: on the disk before it counts as written.
      const transaction = database.transaction(TABLE, mode, { durability: "strict" });
      const request = ask(transaction.objectStore(TABLE));
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      transaction.oncomplete = () => resolve();
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
      await promise;
      return request.result;
    } finally {
      database.close();
    }
  };
  return {
    read: async (name) =>
      (await all("readonly", (t) => t.get(checkStoreName(name)) as IDBRequest<Uint8Array<ArrayBuffer>>)) ??
        null,
    write: async (name, bytes) => void await all("readwrite", (t) => t.put(bytes, checkStoreName(name))),
    remove: async (name) => void await all("readwrite", (t) => t.delete(checkStoreName(name))),
    names: async () => (await all("readonly", (t) => t.getAllKeys())).map(String).sort(),
  };
}

function openDatabase(name: string): Promise<IDBDatabase> {
  const { promise, resolve, reject } = Promise.withResolvers<IDBDatabase>();
  const request = indexedDB.open(name, 1);
  request.onupgradeneeded = () => void request.result.createObjectStore(TABLE);
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
  return promise;
}
