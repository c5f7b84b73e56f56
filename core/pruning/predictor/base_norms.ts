/**
 * Norms of the base model's weights, one of the predictor's inputs.
 *
 * L layers, H heads, d hidden size.
 *
 * @module
 */

import { ModelFileError } from "../../contracts/errors.ts";
import { familyOf } from "../../model/families.ts";
import { type ModelFiles, modelShape } from "../../model/load.ts";

/**
 * ||W||_F of each attention head: its part of W_Q, W_K, W_V and of the output projection together. Keys and
 * values that a group of heads shares count for each of them.
 *
 * @param model Shape and weights.
 * @returns [L * H], row by row.
 * @throws {ModelFileError} If a weight is missing or has another shape.
 */
export function baseNorms({ config, weights }: ModelFiles): Float32Array {
  const family = familyOf(config);
  const shape = modelShape(config);
  const { layers, heads, kvHeads, hidden: d, headSize } = shape;
  const squares = new Float64Array(layers * heads);
  const headOf = (place: number) => Math.floor(place / headSize);
  /** Adds a weight of so many inputs and outputs; `heads` says which query heads one of its numbers belongs to. */
  const add = (
    name: string,
    [inputs, outputs]: readonly [number, number],
    of: (input: number, output: number, count: (head: number) => void) => void,
  ) => {
    const names = family.prefixes.map((prefix) => `${prefix}${name}.weight`);
    const found = names.map((name) => weights.get(name)).find((array) => array !== undefined);
    if (found === undefined || found.data.length !== inputs * outputs) {
      const stored = family.storesInOut ? [inputs, outputs] : [outputs, inputs];
      throw new ModelFileError(
        `Cannot measure the base weights as "${names[0]}" must be [${stored.join(", ")}]: it is ${
          found === undefined ? "missing" : `[${found.shape}]`
        }`,
      );
    }
    const columns = family.storesInOut ? outputs : inputs;
    found.data.forEach((x, i) => {
      const [row, column] = [Math.floor(i / columns), i % columns];
      const [input, output] = family.storesInOut ? [row, column] : [column, row];
      of(input, output, (head) => squares[head]! += x * x);
    });
  };
  for (let l = 0; l < layers; l++) {
    for (const { name, outputs, parts } of family.projections(shape, l)) {
      add(name, [d, outputs], (_input, output, count) => {
        const { target, first } = parts.findLast((part) => part.first <= output)!;
        const owner = headOf(output - first);
        const readers = target === "q" ? 1 : heads / kvHeads;
        for (let h = 0; h < readers; h++) count(l * heads + owner * readers + h);
      });
    }
    add(
      family.outputProjection(l),
      [heads * headSize, d],
      (input, _output, count) => count(l * heads + headOf(input)),
    );
  }
  return Float32Array.from(squares, Math.sqrt);
}
