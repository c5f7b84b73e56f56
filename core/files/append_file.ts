/**
 * A file that grows record by record.
 *
 * @module
 */

import { saveError } from "./atomic.ts";

/** A file to which records are added; one that could not be written whole is taken back. */
export class AppendFile implements Disposable {
  readonly #file: Deno.FsFile;
  readonly #path: string;
  #bytes: number;

  private constructor(file: Deno.FsFile, path: string, bytes: number) {
    this.#file = file;
    this.#path = path;
    this.#bytes = bytes;
  }

  /**
   * Opens a file, or makes it, and goes on where what is whole ends.
   *
   * @param path The file.
   * @param start Bytes of it that stay, or what a new one begins with.
   * @throws {SaveError} If it cannot be written.
   */
  static async open(path: string | URL, start: number | Uint8Array): Promise<AppendFile> {
    const file = await Deno.open(path, { write: true, create: true });
    const end = typeof start === "number" ? start : start.length;
    try {
      if (typeof start !== "number") await writeAll(file, start);
      await file.truncate(end);
      await file.seek(end, Deno.SeekMode.Start);
    } catch (error) {
      file.close();
      throw saveError(String(path), error);
    }
    return new AppendFile(file, String(path), end);
  }

  /** Bytes of the file. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Adds a record.
   *
   * @throws {SaveError} If it cannot be written, on a full disk for example; what was there before stays.
   */
  async add(record: Uint8Array): Promise<void> {
    try {
      await writeAll(this.#file, record);
    } catch (error) {
      await this.#file.truncate(this.#bytes).catch(() => {});
      throw saveError(this.#path, error);
    }
    this.#bytes += record.length;
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#file.close();
  }
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
}
