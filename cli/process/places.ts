/**
 * Paths of files that come with the command, and paths of the user as module addresses.
 *
 * @module
 */

import { dirname, isAbsolute, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { CallForm } from "./invocation.ts";

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

/** Commands that no program of `examples/` stands for. */
const ONLY_COMMANDS: readonly string[] = ["chat", "api", "doctor"];

/**
 * The command that a program of `examples/` stands for; `null` if there is no such program.
 *
 * @param program File in `examples/`, such as `demo.ts` or `e2e/run.ts`.
 */
export function commandOf(program: string): string | null {
  if (ONLY_COMMANDS.includes(program)) return program;
  if (Object.hasOwn(COMMAND_OF, program)) return COMMAND_OF[program]!;
  if (!/^e2e\/\w+\.ts$/.test(program)) return null;
  return program.replace(/\.ts$/, "").replaceAll("_", "-").replace("/", " ");
}

/** The program of `examples/` that a command has; `null` if it has none. */
function programOf(command: string): string | null {
  if (command.startsWith("e2e ")) return `e2e/${command.slice(4).replaceAll("-", "_")}.ts`;
  return Object.entries(COMMAND_OF).find(([, name]) => name === command)?.[0] ?? null;
}

/** The word that tells `main.ts` that the person who waits has not called it by its own name. */
export const AS_PROGRAM = "--as-program";

/**
 * How Deno is told to run a program: the module, and the words before its flags.
 *
 * @param program File in `examples/`.
 * @param form How it is to name commands.
 */
export function programArgs(program: string, form: CallForm): string[] {
  const command = commandOf(program) ?? program;
  return [
    import.meta.resolve("../main.ts"),
    ...(form === "program" ? [AS_PROGRAM] : []),
    ...command.split(" "),
  ];
}

/** A command as it can be typed: by its name where it was called so, else as a program of `examples/`. */
export function commandText(program: string, args: readonly string[], form: CallForm): string {
  const command = commandOf(program);
  const start = form === "command" && command !== null
    ? ["edgetuner", ...command.split(" ")]
    : ONLY_COMMANDS.includes(program)
    ? ["deno", "run", "-A", "cli/main.ts", program]
    : ["deno", "run", "-A", `examples/${program}`];
  return [...start, ...args].map(quoted).join(" ");
}

/** Text that names commands as `edgetuner NAME`, in the form in which the person calls them. */
export function inCallForm(text: string, form: CallForm): string {
  if (form === "command") return text;
  return text.replace(/\bedgetuner (e2e [a-z-]+|[a-z][a-z-]*)/g, (whole, command: string) => {
    const program = programOf(command);
    if (program !== null) return `deno run -A examples/${program}`;
    return ONLY_COMMANDS.includes(command) ? `deno run -A cli/main.ts ${command}` : whole;
  });
}

/** A message that begins with the name of a program, with the command's name where it was called by that. */
export function messageInCallForm(message: string, form: CallForm): string {
  if (form === "program") return inCallForm(message, form);
  return message.replace(/^Cannot run ([\w/]+\.ts)/, (whole, program: string) => {
    const command = commandOf(program);
    return command === null ? whole : `Cannot run edgetuner ${command}`;
  });
}

/** A path as people read it: from here, where it is below here. */
export function shownPath(path: string): string {
  if (!isAbsolute(path)) return path;
  let here: string;
  try {
    here = Deno.cwd();
  } catch {
    return path; // it may not be asked
  }
  const below = relative(here, path);
  return below === "" || below.startsWith("..") || isAbsolute(below) ? path : below;
}

/** Whether a path is of a file that comes with the command, and where it lies among those. */
function builtIn(path: string): string | null {
  const place = relative(assetPath(""), path);
  return !isAbsolute(path) || place.startsWith("..") || isAbsolute(place) ? null : place;
}

/** A default as people read it: what comes with the command has no path that means anything from elsewhere. */
export function shownDefault(path: string): string {
  const [shown, place] = [shownPath(path), builtIn(path)];
  return place === null || !isAbsolute(shown) ? shown : `built in: ${place}`;
}

/** A file that comes with the command, for an example: its path from here, or else the name of a file of one's own. */
export function exampleFile(name: string): string {
  const shown = shownPath(assetPath(name));
  return isAbsolute(shown) ? name.replace(/^.*\//, "") : shown;
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
