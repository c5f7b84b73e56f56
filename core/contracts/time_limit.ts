/**
 * A time limit for code that runs in one go, such as a pattern that somebody else wrote.
 *
 * Nothing else ends a regular expression that goes back and forth for ever: a timer has no turn while it runs, and
 * a worker would make every caller wait for a message. The runtime's own watch ends it from another thread and
 * costs some 15 microseconds.
 *
 * @module
 */

import { DeadlineError } from "./errors.ts";

/** What is used of `node:vm`. */
interface Watch {
  readonly createContext: (names: Record<string, unknown>) => object;
  readonly Script: new (source: string) => {
    runInContext(context: object, options: { timeout: number }): unknown;
  };
}

interface Watched {
  readonly names: { run: (() => unknown) | null };
  readonly start: (limitMs: number) => unknown;
}

/** Runs what `names.run` is; `null` where the runtime has no watch. */
let watched: Watched | null | undefined;

function openWatch(): Watched | null {
  // Not imported: modules for browsers must load without it.
  const { process } = globalThis as {
    process?: { getBuiltinModule?: (name: string) => Watch | undefined };
  };
  const watch = process?.getBuiltinModule?.("node:vm");
  if (watch === undefined) return null;
  const names: Watched["names"] = { run: null };
  const context = watch.createContext(names);
  const script = new watch.Script("run()");
  return { names, start: (timeout) => script.runInContext(context, { timeout }) };
}

/**
 * Runs a function that must return within a time. Where it does not, it is ended as it stands, without its
 * `finally`: what it was changing may be half changed.
 *
 * In browsers, which have no such watch, it runs without a limit.
 *
 * @param action What is done, for the error: "encode the text".
 * @param limitMs Longest time, in milliseconds.
 * @param run The function.
 * @returns What it returns.
 * @throws {DeadlineError} If it takes longer.
 * @throws What the function throws.
 */
export function withinTime<T>(action: string, limitMs: number, run: () => T): T {
  if (watched === undefined) watched = openWatch();
  if (watched === null) return run();
  const { names, start } = watched;
  const outer = names.run;
  names.run = run;
  try {
    return start(limitMs) as T;
  } catch (error) {
    if ((error as { code?: unknown } | null)?.code !== "ERR_SCRIPT_EXECUTION_TIMEOUT") throw error;
    throw new DeadlineError(`Cannot ${action} as it must take at most ${limitMs} ms: it takes longer`, {
      cause: error,
    });
  } finally {
    names.run = outer;
  }
}
