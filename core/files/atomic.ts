/**
 * Files that are whole or not there: written beside their place, synced, then renamed.
 *
 * A reader of the name finds the old file or the new one, never half of one: not after a crash, a kill, a power
 * cut or on a full disk. What a killed writer leaves (`NAME.partial`) is taken over by the next writer.
 *
 * @module
 */

import { SaveError } from "../contracts/errors.ts";

/** Longest wait for another program that writes the same file, in milliseconds. */
const WAIT_MS = 10_000;
/** Between two tries, in milliseconds. */
const PAUSE_MS = 20;

/** Why the system refused to write, by its code. */
const REASONS: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full",
  EDQUOT: "the disk quota is used up",
  EFBIG: "the file is larger than the system allows",
  EROFS: "the disk is read-only",
  EACCES: "the system does not allow it",
  EPERM: "the system does not allow it",
  EIO: "the disk has failed",
};

/**
 * The error of a file that could not be written, in one line.
 *
 * @param path The file.
 * @param cause What the system said.
 */
export function saveError(path: string, cause: unknown): SaveError {
  if (cause instanceof SaveError) return cause;
  const { code, message } = cause as { readonly code?: string; readonly message: string };
  const reason = REASONS[code ?? ""];
  return new SaveError(
    reason === undefined
      ? `Cannot write ${path}: ${message}`
      : `Cannot write ${path} as ${reason}; what was there before is still whole (${message})`,
    { cause },
  );
}

/** True for what the system says of files; other errors are those of whoever makes the content. */
function isOfSystem(error: unknown): boolean {
  return error instanceof Error && typeof (error as { code?: unknown }).code === "string" &&
    /^E[A-Z0-9]+$/.test((error as unknown as { code: string }).code);
}

/** True for errors of a disk that trying again does not mend, such as a full one. */
export function isDiskError(error: unknown): boolean {
  return error instanceof SaveError || ((error as { readonly code?: string } | null)?.code ?? "") in REASONS;
}

/**
 * Puts a file on the disk and gives it its name.
 *
 * @param from The file, in the same folder.
 * @param path Its name.
 * @throws {SaveError} If the system does not allow it.
 */
export async function publishFile(from: string, path: string): Promise<void> {
  try {
    {
      using file = await Deno.open(from, { read: true, write: true });
      await file.sync();
    }
    await Deno.rename(from, path);
  } catch (error) {
    throw saveError(path, error);
  }
  await syncFolder(parentOf(path));
}

/** A file that is being written. */
export interface WholeFile {
  /** Writes all of these bytes. */
  write(bytes: Uint8Array): Promise<void>;
  /** Goes to a byte; what is written next lies there. */
  seek(to: number): Promise<void>;
}

/** Folder that a path lies in. */
function parentOf(path: string): string {
  return path.replace(/[/\\]+$/, "").replace(/[^/\\]*$/, "") || ".";
}

/** Puts names that changed in a folder on the disk. Systems that cannot do so for folders do it themselves. */
async function syncFolder(folder: string): Promise<void> {
  try {
    using handle = await Deno.open(folder);
    await handle.sync();
  } catch {
    // Windows, and some network disks.
  }
}

/** Where a path leads through links, and what is there; `null` if it is nothing. */
async function placeOf(
  path: string,
): Promise<{ readonly path: string; readonly info: Deno.FileInfo | null }> {
  const real = await Deno.realPath(path).catch(() => path);
  return { path: real, info: await Deno.stat(real).catch(() => null) };
}

/** Opens the file beside the place, for this writer alone. */
async function openPartial(partial: string, path: string): Promise<Deno.FsFile> {
  for (const until = performance.now() + WAIT_MS;;) {
    const file = await Deno.open(partial, { write: true, create: true });
    // Where locks are not known, programs cannot be told apart.
    if (await file.tryLock(true).catch(() => true)) {
      // Whoever had the lock may have given the file its name meanwhile.
      const [own, there] = [await file.stat(), await Deno.stat(partial).catch(() => null)];
      if (there !== null && own.ino === there.ino) {
        await file.truncate(0);
        return file;
      }
    }
    file.close();
    if (performance.now() > until) {
      throw new SaveError(`Cannot write ${path} as one program at a time may: another one is writing it`);
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

/**
 * Writes a file that is whole or not there. Links are followed; permissions of a file that is replaced stay. Devices
 * and pipes (`/dev/stdout`) are written to as they are.
 *
 * @param path Where to; the folder must exist.
 * @param content Text, bytes, or a function that writes them piece by piece.
 * @param options `isSecret`: a new file is for its owner alone to read, where the system has such permissions.
 * @throws {SaveError} If it cannot be written, on a full disk for example. What was there before is still there, and
 * nothing else is.
 * @throws What `content` throws.
 */
export async function writeWhole(
  path: string,
  content: string | Uint8Array | ((file: WholeFile) => Promise<void>),
  options: { readonly isSecret?: boolean } = {},
): Promise<void> {
  const put = async (file: Deno.FsFile) => {
    const write = async (bytes: Uint8Array) => {
      for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
    };
    if (typeof content === "function") {
      await content({ write, seek: async (to) => void await file.seek(to, Deno.SeekMode.Start) });
    } else await write(typeof content === "string" ? new TextEncoder().encode(content) : content);
  };
  const place = await placeOf(path);
  const partial = `${place.path}.partial`;
  let file: Deno.FsFile | null = null;
  try {
    if (place.info !== null && !place.info.isFile && !place.info.isDirectory) {
      using device = await Deno.open(place.path, { write: true });
      return await put(device);
    }
    file = await openPartial(partial, path);
    if (options.isSecret === true && Deno.build.os !== "windows") await Deno.chmod(partial, 0o600);
    await put(file);
    await file.sync(); // on the disk before it gets its name, also if the machine goes down
    const mode = place.info?.mode ?? null;
    if (mode !== null && Deno.build.os !== "windows") await Deno.chmod(partial, mode & 0o777);
    await Deno.rename(partial, place.path);
  } catch (error) {
    if (file !== null) await Deno.remove(partial).catch(() => {});
    throw isOfSystem(error) ? saveError(path, error) : error;
  } finally {
    file?.close(); // only now: until then the name beside the place is this writer's
  }
  await syncFolder(parentOf(place.path));
}

/**
 * As {@linkcode writeWhole}, for small texts where nothing can be waited for.
 *
 * @throws {SaveError} If it cannot be written.
 */
export function writeWholeSync(path: string, content: string): void {
  const partial = `${path}.partial`;
  try {
    try {
      using file = Deno.openSync(partial, { write: true, create: true, truncate: true });
      const bytes = new TextEncoder().encode(content);
      for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
      file.syncSync();
    } catch (error) {
      try {
        Deno.removeSync(partial);
      } catch {
        // It could not be made.
      }
      throw error;
    }
    Deno.renameSync(partial, path);
  } catch (error) {
    throw saveError(path, error);
  }
}

/**
 * Makes a folder and those above it.
 *
 * @throws {SaveError} If it cannot be made.
 */
export async function makeFolder(folder: string): Promise<void> {
  try {
    await Deno.mkdir(folder, { recursive: true });
  } catch (error) {
    throw saveError(folder, error);
  }
}

/** A path without slashes at its end. */
function trimmed(path: string): string {
  return path.replace(/(?<=.)[/\\]+$/, "");
}

/** Where the former files of a folder are kept when others take their place. */
export function previousOf(folder: string): string {
  return `${trimmed(folder)}.previous`;
}

/**
 * Keeps files of a folder in `FOLDER.previous` too, before others replace them. They are linked where the disk can
 * do that, so that it takes no time and no room.
 *
 * @param folder The folder.
 * @param names Its files; those that are not there are left out.
 * @returns The folder that holds them now; `null` if there were none.
 * @throws {SaveError} If it cannot be written.
 */
export async function keepPrevious(folder: string, names: readonly string[]): Promise<string | null> {
  const there: string[] = [];
  for (const name of names) {
    if (await Deno.stat(`${folder}/${name}`).then((info) => info.isFile, () => false)) there.push(name);
  }
  if (there.length === 0) return null;
  const place = previousOf(folder);
  const partial = `${place}.partial`;
  try {
    await Deno.remove(partial, { recursive: true }).catch(() => {});
    await Deno.mkdir(partial);
    for (const name of there) {
      const [from, to] = [`${folder}/${name}`, `${partial}/${name}`];
      await Deno.link(from, to).catch(() => Deno.copyFile(from, to));
    }
    await Deno.remove(place, { recursive: true }).catch(ignoreMissing);
    await Deno.rename(partial, place);
  } catch (error) {
    await Deno.remove(partial, { recursive: true }).catch(() => {});
    throw saveError(place, error);
  }
  await syncFolder(parentOf(place));
  return place;
}

function ignoreMissing(error: unknown): void {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}

/**
 * A folder beside the one that is wanted, for files that belong together: what is written into it gets its place
 * once it is whole (and was read back, if the caller does so), and is removed if not. A reader never finds the new
 * configuration with the old weights: for a moment between two renames it finds no folder at all, and the former one
 * is in `NAME.previous` from then on.
 */
export class PendingFolder implements AsyncDisposable {
  /** Where to write. */
  readonly path: string;
  readonly #place: string;

  private constructor(place: string) {
    this.#place = trimmed(place);
    this.path = `${this.#place}.partial`;
  }

  /**
   * Makes an empty one.
   *
   * @param place The folder that is wanted.
   * @throws {SaveError} If it cannot be made.
   */
  static async create(place: string): Promise<PendingFolder> {
    const folder = new PendingFolder(place);
    await folder[Symbol.asyncDispose](); // what an interrupted program left
    await makeFolder(folder.path);
    return folder;
  }

  /**
   * Puts the folder in its place.
   *
   * @returns Where the former folder is kept; `null` if there was none, or an empty one.
   * @throws {SaveError} If the system does not allow it.
   */
  async keep(): Promise<string | null> {
    const previous = previousOf(this.#place);
    let kept: string | null = null;
    try {
      if (await Deno.stat(this.#place).then(() => true, () => false)) {
        await Deno.remove(this.#place).catch(async () => { // succeeds for an empty one
          await Deno.remove(previous, { recursive: true }).catch(ignoreMissing);
          await Deno.rename(this.#place, previous);
          kept = previous;
        });
      }
      await Deno.rename(this.path, this.#place);
    } catch (error) {
      if (kept !== null) await Deno.rename(previous, this.#place).catch(() => {});
      throw saveError(this.#place, error);
    }
    await syncFolder(parentOf(this.#place));
    return kept;
  }

  /** Removes what was not kept. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true }).catch(ignoreMissing);
  }
}

/**
 * Claims a folder for this program, so that two runs do not write into it at once. The system frees it when the
 * program ends, in whatever way.
 *
 * @param folder Made if need be.
 * @returns What gives it back; `null` if another program has it.
 * @throws {SaveError} If the folder cannot be written.
 */
export async function claimFolder(folder: string): Promise<Disposable | null> {
  await makeFolder(folder);
  const path = `${trimmed(folder)}/.lock`;
  let file: Deno.FsFile;
  try {
    file = await Deno.open(path, { write: true, create: true });
  } catch (error) {
    throw saveError(path, error);
  }
  // Where locks are not known, programs cannot be told apart.
  if (await file.tryLock(true).catch(() => true)) return { [Symbol.dispose]: () => file.close() };
  file.close();
  return null;
}
