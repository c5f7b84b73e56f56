/**
 * What a program may do: the smallest set of Deno's permissions, as docs/permissions.md has it.
 *
 * @module
 */

import { dirname, resolve } from "node:path";
import { assetPath } from "./places.ts";

/** What a program is to be given beside reading its own code. */
export interface Needs {
  /** Files and folders to read. */
  readonly read?: readonly string[];
  /** Folders to write in; they may be read too. */
  readonly write?: readonly string[];
  /** Addresses to connect to or listen on: HOST:PORT. */
  readonly net?: readonly string[];
}

/** The variable that says which graphics drivers Deno looks for. */
const VARIABLES = ["DENO_WEBGPU_BACKEND"];

/**
 * Keeps the memory of a long run flat. By itself V8 doubles the room for new objects up to 64 MB a worker, and lets
 * garbage grow by at least 8 MB before it collects it; what the GPU's objects hold waits with it. With these flags
 * the room stays at 2 MB, and garbage is collected sooner. No step is slower (docs/figures.md). They are the process's
 * and cannot be set once it runs.
 */
export const MEMORY_FLAGS = "--v8-flags=--optimize-for-size,--max-semi-space-size=2";

/** The folder of all code: the repository. */
const CODE = dirname(dirname(assetPath("")));

/** A list as Deno's flags take it. */
function listed(flag: string, values: readonly string[]): string[] {
  const given = values.filter((value) => value !== "");
  return given.length === 0 ? [] : [`--allow-${flag}=${given.join(",")}`];
}

/** A path as these lists take it: they have no word for a comma, so the folder above it stands for it. */
function withoutComma(path: string): string {
  let found = path.includes(",") ? resolve(path) : path;
  while (found.includes(",")) found = dirname(found);
  return found;
}

/**
 * Flags of `deno run` that let a program of `examples/` do its work and nothing else.
 *
 * @param needs Files and addresses that its own flags name.
 */
export function permissionFlags({ read = [], write = [], net = [] }: Needs): string[] {
  return [
    "--no-prompt",
    ...listed("read", [CODE, ...read, ...write].map(withoutComma)),
    ...listed("write", write.map(withoutComma)),
    ...listed("net", net),
    ...listed("env", VARIABLES),
  ];
}

/** The command that a child of this process is run with: this very Deno, or the one on the path if only that is allowed. */
export function denoCommand(): string {
  const path = Deno.execPath();
  return Deno.permissions.querySync({ name: "run", command: path }).state === "granted" ? path : "deno";
}
