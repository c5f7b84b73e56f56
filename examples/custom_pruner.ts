/**
 * A complete pruner of your own: in each layer the heads with the smallest gradients rest, but no
 * head rests for longer than a few steps. Use it in a real run:
 *
 * ```sh
 * deno run -A examples/demo.ts --pruner examples/custom_pruner.ts
 * ```
 *
 * @module
 */

import type { Pruner, PrunerContext, PrunerDecision, PrunerInput } from "@edgetuner/plugins/contracts";

/** Options of the pruner. */
export interface RestingPrunerOptions {
  /** Heads that rest in each layer, as a share. @default {0.5} */
  readonly rest?: number;
  /** Steps after which a resting head is kept once. @default {4} */
  readonly longest?: number;
}

/** How many steps in a row each head has been resting, [L * H]: all there is to remember. */
type State = Uint8Array;

/** Makes the pruner. The default export, so that `--pruner FILE` finds it. */
export default function restingPruner(options: RestingPrunerOptions = {}): Pruner<State> {
  const { rest = 0.5, longest = 4 } = options;
  return {
    name: "resting",
    // Only what is named here is computed and sent.
    needs: ["gradientNorm"],
    init: ({ layers, heads }: PrunerContext) => new Uint8Array(layers * heads),
    decide(input: PrunerInput, resting: State, { layers, heads }: PrunerContext): [PrunerDecision, State] {
      const { gradientNorm } = input;
      const mask = new Uint8Array(layers * heads);
      if (gradientNorm !== null) {
        for (let l = 0; l < layers; l++) {
          // A resting head shows no gradient, so it would rest for ever: after `longest` steps it is left out.
          const order = Array.from({ length: heads }, (_, h) => l * heads + h)
            .filter((i) => resting[i]! < longest)
            .sort((a, b) => gradientNorm[a]! - gradientNorm[b]!);
          for (const i of order.slice(0, Math.floor(heads * rest))) mask[i] = 1;
        }
      }
      const next = resting.map((steps, i) => mask[i] === 1 ? steps + 1 : 0);
      return [{ mask, ...(gradientNorm === null ? {} : { scores: gradientNorm.slice() }) }, next];
    },
  };
}
