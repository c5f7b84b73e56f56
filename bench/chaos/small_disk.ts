/**
 * A disk that is full: a small one, where the system lets this process make it.
 *
 * @module
 */

const SIZE = 16 * 2 ** 20;

/** A folder on a disk of its own. */
export class SmallDisk implements AsyncDisposable {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Makes it; `null` where this process may not, as without Linux or its rights. */
  static async mount(folder: string): Promise<SmallDisk | null> {
    await Deno.mkdir(folder, { recursive: true });
    const isMounted = await command("mount", ["-t", "tmpfs", "-o", `size=${SIZE}`, "tmpfs", folder]);
    return isMounted ? new SmallDisk(folder) : null;
  }

  /** Leaves no room on it, nor what was given back since the last call. */
  async fill(): Promise<void> {
    using file = await Deno.open(`${this.#folder}/filler`, { append: true, create: true });
    for (let chunk = 2 ** 20; chunk >= 1;) {
      try {
        await file.write(new Uint8Array(chunk));
      } catch {
        // So much does not fit any more.
        chunk >>= 1;
      }
    }
  }

  /** Gives the room back. */
  async free(): Promise<void> {
    await Deno.remove(`${this.#folder}/filler`).catch(() => {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await command("umount", [this.#folder]);
  }
}

async function command(name: string, args: string[]): Promise<boolean> {
  try {
    return (await new Deno.Command(name, { args, stdout: "null", stderr: "null" }).output()).success;
  } catch {
    return false;
  }
}
