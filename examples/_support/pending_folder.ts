/**
 * Folders that are written as a whole or not at all.
 *
 * @module
 */

/**
 * A folder beside the one that is wanted: what is written into it gets its place once it was read back and found
 * right, and is removed if not.
 */
export class PendingFolder implements AsyncDisposable {
  /** Where to write. */
  readonly path: string;
  readonly #place: string;

  private constructor(place: string) {
    this.#place = place.replace(/\/+$/, "");
    this.path = `${this.#place}.partial`;
  }

  /** Makes an empty one. */
  static async create(place: string): Promise<PendingFolder> {
    const folder = new PendingFolder(place);
    await folder[Symbol.asyncDispose](); // what an interrupted program left
    await Deno.mkdir(folder.path, { recursive: true });
    return folder;
  }

  /** Puts everything in its place. Other files in a folder that is there already stay. */
  async keep(): Promise<void> {
    if (!await Deno.stat(this.#place).then(() => true, () => false)) {
      return await Deno.rename(this.path, this.#place);
    }
    for await (const { name } of Deno.readDir(this.path)) {
      await Deno.rename(`${this.path}/${name}`, `${this.#place}/${name}`);
    }
  }

  /** Removes what was not kept. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true }).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    });
  }
}
