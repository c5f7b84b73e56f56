/**
 * Paths of files that come with the command, and paths of the user as module addresses.
 *
 * @module
 */

import { dirname } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

/**
 * Path of a file or folder of `cli/assets/`.
 *
 * @param name Its path within `cli/assets/`; empty for the folder itself.
 */
export function assetPath(name: string): string {
  // An address writes a space, "ü", "#" and "%" in another way than a path does, and Windows has drives.
  return fileURLToPath(new URL("../assets/", import.meta.url)) + name;
}

/** The command that each program of `examples/` stands for. */
const COMMAND_OF: Readonly<Record<string, string>> = {
  "demo.ts": "demo",
  "server_tuner.ts": "tune",
  "edge_server.ts": "serve",
  "user_device.ts": "join",
  "generate.ts": "generate",
  "choice.ts": "choice",
  "evaluate.ts": "evaluate",
  "decode.ts": "decode",
  "format_data.ts": "data",
  "compare.ts": "compare",
  "plan.ts": "plan",
  "sweep.ts": "sweep",
  "pull.ts": "pull",
  "export.ts": "export",
  "train_pruner.ts": "train-pruner",
};

/**
 * How Deno is told to run a program: the module, and the words before its flags.
 *
 * @param program File in `examples/`.
 */
export function programArgs(program: string): string[] {
  const command = COMMAND_OF[program] ?? program.replace(/\.ts$/, "").replaceAll("_", "-").replace("/", " ");
  return [import.meta.resolve("../main.ts"), ...command.split(" ")];
}

/**
 * The address that a module is imported by.
 *
 * @param flag A path, or an address such as `jsr:` and `https:` ones, which stays as it is.
 */
export function moduleAddress(flag: string): string {
  // A scheme of one letter is a drive of Windows.
  return /^[a-z][a-z0-9+.-]+:/i.test(flag) ? flag : pathToFileURL(flag).href;
}

/** An argument as a shell takes it. */
export function quoted(argument: string): string {
  return /^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", `'\\''`)}'`;
}

/** The folder that a file is in. */
export function folderOf(path: string): string {
  return dirname(path);
}

/** The paths of a list "a,b,c"; a path that is there as a whole is one, whatever commas it has. */
export async function pathsOf(list: string): Promise<string[]> {
  const isOne = await Deno.stat(list).then(() => true, () => false);
  return isOne ? [list] : list.split(",");
}
