/**
 * Refuses paths that cannot be written before hours of work are lost at the end.
 *
 * @module
 */

import { resolve } from "node:path";
import { UsageError } from "../flags/flags.ts";

/** Folder that a path lies in. */
function parentOf(path: string): string {
  const parent = path.replace(/[/\\]+$/, "").replace(/[^/\\]*$/, "");
  return parent === "" ? "." : parent;
}

async function exists(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}

/**
 * Makes the folders that the flags name and those that files will lie in, and tries to write there.
 *
 * @param program Name of the program, for the message.
 * @param paths Values of flags that name what is written at the end; those that are empty are left out.
 * @throws {UsageError} If one cannot be written.
 */
export async function requireWritable(
  program: string,
  paths: {
    readonly files?: Readonly<Record<string, string>>;
    readonly folders?: Readonly<Record<string, string>>;
  },
): Promise<void> {
  const attempt = async (flag: string, path: string, write: () => Promise<void>) => {
    if (path === "") return;
    try {
      await write();
    } catch (cause) {
      const why = (cause as Error).message;
      throw new UsageError(
        `Cannot run ${program} as --${flag} must be a path that can be written: current value is "${path}" (${why})`,
        { cause },
      );
    }
  };
  const seen = new Map<string, string>();
  for (const [flag, path] of Object.entries(paths.files ?? {})) {
    const other = seen.get(resolve(path));
    if (path !== "" && other !== undefined) {
      throw new UsageError(
        `Cannot run ${program} as --${other} and --${flag} must be two files: both are "${path}"`,
      );
    }
    seen.set(resolve(path), flag);
    await attempt(flag, path, async () => {
      await Deno.mkdir(parentOf(path), { recursive: true });
      const isNew = !await exists(path);
      (await Deno.open(path, { append: true, create: true })).close();
      if (isNew) await Deno.remove(path);
    });
  }
  for (const [flag, path] of Object.entries(paths.folders ?? {})) {
    await attempt(flag, path, async () => {
      await Deno.mkdir(path, { recursive: true });
      await Deno.remove(await Deno.makeTempFile({ dir: path }));
    });
  }
}
