/**
 * Asking a pruner, which may be anybody's code: within a time limit, with its errors told apart from ours.
 *
 * @module
 */

import { PluginError } from "../contracts/errors.ts";
import {
  type Pruner,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
  type PrunerState,
  validateDecision,
} from "../contracts/pruner.ts";

/** An error of a pruner's own, with its name; errors that already say what was wrong stay as they are. */
function pruningError(pruner: Pruner, action: string, cause: unknown): PluginError {
  if (cause instanceof PluginError) return cause;
  const message = cause instanceof Error ? cause.message : String(cause);
  return new PluginError(`Cannot go on as pruner "${pruner.name}" must ${action}: it threw "${message}"`, {
    cause,
  });
}

/** A pruner's state before the first step. @throws {PluginError} If it throws. */
export function initPruner(pruner: Pruner, context: PrunerContext): PrunerState {
  try {
    return pruner.init(context);
  } catch (cause) {
    throw pruningError(pruner, "start", cause);
  }
}

/** Asks a pruner for its decision and checks it. @throws {PluginError} If it throws, is late, or decides what is not valid. */
export async function askPruner(
  pruner: Pruner,
  { input, state, context }: {
    readonly input: PrunerInput;
    readonly state: PrunerState;
    readonly context: PrunerContext;
  },
  limit: { readonly ms: number; readonly signal: AbortSignal },
): Promise<[PrunerDecision, PrunerState]> {
  let answer: unknown;
  try {
    const result = pruner.decide(input, state, context);
    answer = result instanceof Promise ? await withLimit(result, limit, pruner.name) : result;
  } catch (cause) {
    if (limit.signal.aborted) throw cause;
    throw pruningError(pruner, "decide", cause);
  }
  if (!Array.isArray(answer) || answer.length !== 2) {
    throw new PluginError(
      `Cannot apply the decision of pruner "${pruner.name}" as decide must return [decision, state]: current value is ${typeof answer}`,
    );
  }
  return [validateDecision(pruner, answer[0], context), answer[1]];
}

async function withLimit<T>(
  promise: Promise<T>,
  { ms, signal }: { readonly ms: number; readonly signal: AbortSignal },
  pruner: string,
): Promise<T> {
  const { promise: ended, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(
    () =>
      reject(
        new PluginError(`Cannot go on as pruner "${pruner}" must decide within ${ms} ms: it took longer`),
      ),
    ms,
  );
  const onAbort = () => reject(signal.reason);
  signal.addEventListener("abort", onAbort);
  if (signal.aborted) onAbort();
  try {
    return await Promise.race([promise, ended]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}
