/**
 * Programs in the thread of a test: all that a command says and how it ends, without a process. They have no GPU: what
 * starts a run belongs into a process, as does what hears signals.
 *
 * @module
 */

import { exitCodeOf } from "../../cli/flags/flags.ts";
import { loadCommand } from "../../cli/main.ts";
import { commandOf } from "../../cli/process/places.ts";
import type { CallForm } from "../../cli/process/invocation.ts";

/** How a program ended, and what it printed. */
export interface Ended {
  readonly code: number;
  readonly out: string;
  readonly errors: string;
}

/** Two at once would print for each other. */
let last: Promise<unknown> = Promise.resolve();

/**
 * Runs a program of `examples/` in this thread. Calls wait for each other.
 *
 * @param program File in `examples/`, such as `demo.ts`; with the form "command" also a command, such as `serve`.
 * @param args Its flags.
 * @param form How it is called.
 */
export function inThread(
  program: string,
  args: readonly string[],
  form: CallForm = "program",
): Promise<Ended> {
  const ended = last.then(() => run(commandOf(program) ?? program, args, form));
  last = ended.catch(() => {});
  return ended;
}

async function run(name: string, args: readonly string[], form: CallForm): Promise<Ended> {
  const [out, errors]: string[][] = [[], []];
  const { log, error } = console;
  console.log = (...parts: unknown[]) => void out!.push(parts.map(shown).join(" "));
  console.error = (...parts: unknown[]) => void errors!.push(parts.map(shown).join(" "));
  const requestAdapter = navigator.gpu.requestAdapter;
  navigator.gpu.requestAdapter = () =>
    Promise.reject(new Error("a program that needs a GPU belongs into a process"));
  try {
    const call = { args, form };
    const code = await exitCodeOf(async () => await (await loadCommand(name).load()).run(call), call);
    return { code, out: text(out!), errors: errors!.join("\n") };
  } finally {
    Object.assign(console, { log, error });
    navigator.gpu.requestAdapter = requestAdapter;
  }
}

/** What the console would print. */
function shown(part: unknown): string {
  return typeof part === "string" ? part : Deno.inspect(part);
}

function text(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join("");
}
