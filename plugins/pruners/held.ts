/**
 * Masks that stay: another pruner's decision, held for some steps.
 *
 * @module
 */

import {
  numberCheck,
  type Pruner,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
} from "@edgetuner/core/contracts";

/** Options of {@linkcode heldPruner}. */
export interface HeldPrunerOptions<State> {
  /** Whose decisions are held. */
  readonly pruner: Pruner<State>;
  /** Steps from one decision to the next; 1 = each step has its own. */
  readonly every: number;
}

/** State of {@linkcode heldPruner}: plain data, if the other pruner's is. */
export interface HeldState<State> {
  /** The other pruner's. */
  readonly inner: State;
  /** The decision that holds; `null` before the first. */
  readonly held: PrunerDecision | null;
  /** Steps for which it has held. */
  readonly since: number;
}

/**
 * A pruner whose masks stay: every n steps it takes over what another one decides. The other one is asked in every step,
 * so that it misses nothing of what the steps show. As long as it keeps every head, as in its first steps, nothing is held.
 *
 * @category Pruners
 *
 * @example
 * ```ts
 * import { greedyPruner, heldPruner } from "@edgetuner/plugins";
 *
 * const pruner = heldPruner({ pruner: greedyPruner(), every: 8 });
 * console.log(pruner.name); // "greedy, every 8 steps"
 * ```
 *
 * @returns A pruner with the needs of the other one.
 * @throws {TypeError} If `every` is not a number.
 * @throws {RangeError} If `every` is not a positive integer.
 */
export function heldPruner<State>({ pruner, every }: HeldPrunerOptions<State>): Pruner<HeldState<State>> {
  numberCheck("create a pruner whose masks stay")(
    "every",
    every,
    "a positive integer",
    (x) => Number.isSafeInteger(x) && x > 0,
  );
  return {
    ...pruner,
    name: every === 1 ? pruner.name : `${pruner.name}, every ${every} steps`,
    init: (context: PrunerContext): HeldState<State> => ({
      inner: pruner.init(context),
      held: null,
      since: 0,
    }),
    async decide(
      input: PrunerInput,
      before: HeldState<State>,
      context: PrunerContext,
    ): Promise<[PrunerDecision, HeldState<State>]> {
      const [decision, inner] = await pruner.decide(input, before.inner, context);
      const since = before.since + 1;
      if (before.held !== null && since < every) {
        return [copyOf(before.held), { inner, held: before.held, since }];
      }
      const prunes = decision.mask.includes(1);
      return [decision, { inner, held: prunes ? copyOf(decision) : null, since: 0 }];
    },
  };
}

function copyOf({ scores, ...decision }: PrunerDecision): PrunerDecision {
  return { ...decision, mask: decision.mask.slice(), ...(scores && { scores: scores.slice() }) };
}
