/**
 * The choice of layers and heads that are worth most within a budget: a knapsack in which each layer has a fixed price,
 * and each head in it one of its own.
 *
 * @module
 */

/** A way to keep something of a layer. */
export interface LayerOption {
  /** What it costs, above 0. */
  readonly cost: number;
  /** What it is worth. */
  readonly value: number;
  /** The kept heads, by number within the layer. */
  readonly heads: readonly number[];
}

/** Steps that a budget is divided into; costs are rounded up to whole ones, so that the budget holds. */
const STEPS = 1000;

/**
 * Chooses at most one option of each layer, so that what they cost together is within the budget and what they are worth
 * together is most.
 *
 * @param layers Options of each layer.
 * @returns The option of each layer; `null` where nothing is kept.
 */
export function chooseOptions(
  layers: readonly (readonly LayerOption[])[],
  budget: number,
): (LayerOption | null)[] {
  const unit = budget / STEPS;
  if (!(unit > 0)) return layers.map(() => null);
  // A little slack, so that rounding does not lose what fits exactly.
  const steps = ({ cost }: LayerOption) => Math.max(1, Math.ceil(cost / unit - 1e-9));
  let best = new Float64Array(STEPS + 1);
  const chosen = layers.map((options) => {
    const next = best.slice();
    const choice = new Int32Array(STEPS + 1).fill(-1);
    options.forEach((option, i) => {
      const price = steps(option);
      for (let at = price; at <= STEPS; at++) {
        const value = best[at - price]! + option.value;
        if (value > next[at]!) {
          next[at] = value;
          choice[at] = i;
        }
      }
    });
    best = next;
    return choice;
  });
  const result: (LayerOption | null)[] = layers.map(() => null);
  let at = STEPS;
  for (let l = layers.length - 1; l >= 0; l--) {
    const i = chosen[l]![at]!;
    if (i < 0) continue;
    const option = layers[l]![i]!;
    result[l] = option;
    at -= steps(option);
  }
  return result;
}
