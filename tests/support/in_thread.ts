/**
 * Programs in the thread of a test: all that a command says and how it ends, without a process. Only files with an
 * engine let them have a GPU. What hears signals belongs into a process.
 *
 * @module
 */

import { exitCodeOf } from "../../cli/flags/flags.ts";
import { loadCommand } from "../../cli/main.ts";
import { commandOf } from "../../cli/process/places.ts";
import type { CallForm } from "../../cli/process/invocation.ts";
import { settled } from "./until.ts";

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
  return inTurn(() => withoutGpu(() => run(commandOf(program) ?? program, args, form)));
}

/** The same for programs that need a GPU: for files with an engine, which may leave promises of it behind. */
export function inThreadWithGpu(program: string, args: readonly string[]): Promise<Ended> {
  return inTurn(() => run(commandOf(program) ?? program, args, "program"));
}

function inTurn(task: () => Promise<Ended>): Promise<Ended> {
  const ended = last.then(task);
  last = ended.catch(() => {});
  return ended;
}

async function withoutGpu(task: () => Promise<Ended>): Promise<Ended> {
  const requestAdapter = navigator.gpu.requestAdapter;
  navigator.gpu.requestAdapter = () =>
    Promise.reject(new Error("a program that needs a GPU belongs into a process"));
  try {
    return await task();
  } finally {
    navigator.gpu.requestAdapter = requestAdapter;
  }
}

async function run(name: string, args: readonly string[], form: CallForm): Promise<Ended> {
  const [out, errors]: string[][] = [[], []];
  const { log, error } = console;
  const { writeSync } = Deno.stderr;
  console.log = (...parts: unknown[]) => void out!.push(parts.map(shown).join(" "));
  console.error = (...parts: unknown[]) => void errors!.push(parts.map(shown).join(" "));
  // What is told of progress.
  Deno.stderr.writeSync = (bytes) => {
    errors!.push(new TextDecoder().decode(bytes).replace(/\n$/, ""));
    return bytes.length;
  };
  try {
    const call = { args, form };
    const code = await exitCodeOf(async () => await (await loadCommand(name).load()).run(call), call);
    // A worker that has been ended is gone some turns later.
    await settled();
    return { code, out: text(out!), errors: errors!.join("\n") };
  } finally {
    Object.assign(console, { log, error });
    Deno.stderr.writeSync = writeSync;
  }
}

/** What the console would print. */
function shown(part: unknown): string {
  return typeof part === "string" ? part : Deno.inspect(part);
}

function text(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join("");
}
