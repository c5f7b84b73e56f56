/**
 * Adapters merged into the base model.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { finitePieces, requireFiniteValues } from "../files/finite_values.ts";
import { LazyArrays } from "../files/lazy_arrays.ts";
import type { NamedArray, NamedArrays } from "../files/named_arrays.ts";
import { shapesOf, streamed } from "../files/streaming.ts";
import type { ModelFamily } from "../model/families.ts";
import {
  matricesOf,
  modulesOf,
  type PeftAdapter,
  type PeftModelShape,
  recordOf,
  scaleOf,
} from "./peft_modules.ts";

const MERGE = "merge the adapter";

/**
 * Adds an adapter to the base model's weights: W + scale * B A.
 *
 * @param weights The checkpoint; not changed.
 * @returns The merged weights, each computed when it is read.
 * @throws {ModelFileError} If an adapted weight is missing, or one of the adapter is not finite; on reading, if it
 * has another shape, or if a weight of the model, before or after, is not finite.
 * @category Adapters
 */
export function mergePeft(
  weights: NamedArrays,
  peft: PeftAdapter,
  family: ModelFamily,
  shape: PeftModelShape,
): NamedArrays {
  return mergedWeights(weights, { peft, family, shape }).merged;
}

/** An adapter and the model that it is for. */
export interface MergedAdapter {
  /** The adapter. */
  readonly peft: PeftAdapter;
  /** Family of the base model. */
  readonly family: ModelFamily;
  /** Shape of the base model. */
  readonly shape: PeftModelShape;
}

/** As `mergePeft`, with the names of the weights that the adapter changes. */
export function mergedWeights(
  weights: NamedArrays,
  { peft, family, shape }: MergedAdapter,
): { readonly merged: NamedArrays; readonly changed: ReadonlySet<string> } {
  requireFiniteValues(MERGE, peft.arrays);
  const finite = (name: string, array: NamedArray): NamedArray => {
    requireFiniteValues(MERGE, new Map([[name, array]]), from(name));
    return array;
  };
  const from = (name: string) => streamed(weights, name)?.from;
  const { hidden } = shape;
  const { prefixes, storesInOut } = recordOf(family);
  const { r: rank } = peft.config;
  const scale = scaleOf(peft.config);
  const changes = new Map<string, (array: NamedArray) => NamedArray>();
  for (let layer = 0; layer < shape.layers; layer++) {
    for (const module of modulesOf(family, shape, layer)) {
      const matrices = matricesOf(peft, module, hidden);
      if (matrices === null) continue;
      // Some files leave out the name of the whole model.
      const bare = module.name.slice(prefixes[0]!.length);
      const names = prefixes.map((prefix) => `${prefix}${bare}.weight`);
      const name = names.find((n) => weights.has(n));
      const [rows, columns] = storesInOut ? [hidden, module.outputs] : [module.outputs, hidden];
      const refuse = (is: string): never => {
        throw new ModelFileError(
          `Cannot merge the adapter as the model must hold "${names[0]}" [${rows},${columns}]: it ${is}`,
        );
      };
      if (name === undefined) return refuse("does not");
      changes.set(name, (base) => {
        finite(name, base);
        if (base.shape.join() !== `${rows},${columns}`) refuse(`is [${base.shape}]`);
        const data = base.data.slice();
        const row = new Float64Array(hidden);
        for (let o = 0; o < module.outputs; o++) {
          row.fill(0);
          for (let k = 0; k < rank; k++) {
            const b = matrices.b[o * rank + k]!;
            if (b === 0) continue;
            const a = matrices.a.subarray(k * hidden, (k + 1) * hidden);
            for (let i = 0; i < hidden; i++) row[i]! += b * a[i]!;
          }
          for (let i = 0; i < hidden; i++) {
            data[storesInOut ? i * module.outputs + o : o * hidden + i]! += scale * row[i]!;
          }
        }
        return finite(name, { shape: base.shape, data });
      });
    }
  }
  const shapes = shapesOf(weights);
  const merged = new LazyArrays(weights.keys(), {
    make: (name) => {
      const array = weights.get(name)!;
      return changes.get(name)?.(array) ?? finite(name, array);
    },
    shape: (name) => shapes.get(name)!,
    pieces: (name, unit) => {
      const change = changes.get(name);
      return change === undefined
        ? finitePieces(name, streamed(weights, name)!, unit, MERGE)
        : [change(weights.get(name)!).data];
    },
    from,
  });
  return { merged, changed: new Set(changes.keys()) };
}
