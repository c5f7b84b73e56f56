/**
 * What every command is: something that reads its options, and something that runs with them.
 *
 * @module
 */

import { adviceFor, AdvisedError, type MemoryFlags, type MemoryParty } from "../flags/memory_advice.ts";
import type { Call } from "./invocation.ts";

/** Runs a command; the exit code. */
export type CommandRun = (call: Call) => Promise<number | void>;

/**
 * Puts a command together. If memory runs out, its end names the flags to turn.
 *
 * @param read Reads and checks the options of a call.
 * @param main Runs with them; the exit code.
 * @param party What it holds in memory. @default {"oneMachine"}
 */
export function command<O extends { readonly flags: MemoryFlags }>(
  read: (call: Call) => O | Promise<O>,
  main: (options: O, call: Call) => Promise<number | void>,
  party: MemoryParty | ((options: O) => MemoryParty) = "oneMachine",
): CommandRun {
  return async (call) => {
    const options = await read(call);
    try {
      return await main(options, call);
    } catch (error) {
      const advice = await adviceFor(error, {
        flags: options.flags,
        party: typeof party === "function" ? party(options) : party,
      });
      throw advice.length === 0 ? error : new AdvisedError(error, advice);
    }
  };
}
