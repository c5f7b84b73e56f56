/**
 * Frozen projections from the base model's weights.
 *
 * d hidden size, D head size, r rank.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { familyOf } from "../model/families.ts";
import { type ModelFiles, modelShape } from "../model/load.ts";
import { INPUT_MODES } from "./input_modes.ts";
import {
  type HeadProjections,
  type ProjectionPair,
  type ProjectionPlace,
  requireProjectionRank,
} from "./projections.ts";
import type { LoraSettings } from "./settings.ts";
import { DEFAULT_PROJECTIONS, type ProjectionForm } from "./targets.ts";

export { requireProjections } from "./required_projections.ts";

/** A head's weights in the base model, [D, d]. */
type HeadWeightsOf = (place: ProjectionPlace) => Float32Array;

function headWeights({ config, weights }: ModelFiles, layer: number): HeadWeightsOf {
  const family = familyOf(config);
  const shape = modelShape(config);
  const { heads, kvHeads, hidden: d, headSize } = shape;
  const parts = family.projections(shape, layer).flatMap(({ name, outputs, parts }) => {
    const names = family.prefixes.map((prefix) => `${prefix}${name}.weight`);
    const data = names.map((name) => weights.get(name)).find((array) => array !== undefined)?.data;
    if (data?.length !== d * outputs) {
      throw new ModelFileError(
        `Cannot make projections from the base model as "${names[0]}" must have ${
          d * outputs
        } values: it has ${data?.length ?? "none"}`,
      );
    }
    return parts.map((part) => ({ ...part, outputs, data }));
  });
  return ({ head, target }) => {
    const { first, outputs, data } = parts.find((part) => part.target === target)!;
    const owner = target === "q" ? head : Math.floor(head * kvHeads / heads);
    const row = first + owner * headSize;
    if (!family.storesInOut) return data.slice(row * d, (row + headSize) * d);
    return Float32Array.from(
      { length: headSize * d },
      (_, i) => data[(i % d) * outputs + row + Math.floor(i / d)]!,
    );
  };
}

/**
 * Singular vectors of a head's weights W [D, d]: A is the first right ones, B the first left ones times the singular
 * values, so that B A is the best approximation of W. Query heads that share keys and values take different vectors.
 */
async function singularPairs(model: ModelFiles, lora: ProjectionForm, layer: number) {
  const { EigenvalueDecomposition, Matrix } = await import("ml-matrix");
  const { rank, targets, projections: { shared } = DEFAULT_PROJECTIONS } = lora;
  const { heads, kvHeads, hidden: d, headSize } = modelShape(model.config);
  const of = headWeights(model, layer);
  /** Vectors of W from one on, of the eigenvectors of W W^T. */
  const decompose = (w: Float32Array, rows: number, from: number): ProjectionPair => {
    const matrix = Matrix.from1DArray(rows, d, w);
    const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(
      matrix.mmul(matrix.transpose()),
      { assumeSymmetric: true },
    );
    // They come in ascending order.
    const order = realEigenvalues.map((_, i) => rows - 1 - i);
    const [a, b] = [new Float32Array(rank * d), new Float32Array(rows * rank)];
    for (let i = 0; i < rank; i++) {
      const k = order[(from + i) % rows]!;
      const left = eigenvectorMatrix.getColumn(k);
      const value = Math.sqrt(Math.max(0, realEigenvalues[k]!));
      const right = Matrix.rowVector(left).mmul(matrix);
      for (let j = 0; j < d; j++) a[i * d + j] = value === 0 ? 0 : right.get(0, j) / value;
      for (let row = 0; row < rows; row++) b[row * rank + i] = left[row]! * value;
    }
    return { a, b };
  };
  const pairs = new Map<string, ProjectionPair>();
  for (let head = 0; head < heads; head++) {
    const weights = targets.map((target) => of({ layer, head, target }));
    const group = heads / kvHeads;
    const joined = new Float32Array(targets.length * headSize * d);
    weights.forEach((w, k) => joined.set(w, k * w.length));
    // One A for all targets: that of their weights one below the other, and for each the B that goes with it.
    const common = shared ? decompose(joined, targets.length * headSize, 0) : null;
    for (const [k, target] of targets.entries()) {
      const from = target === "q" ? 0 : (head % group) * rank;
      const b = common?.b.slice(k * headSize * rank, (k + 1) * headSize * rank);
      pairs.set(
        `${head} ${target}`,
        common === null ? decompose(weights[k]!, headSize, from) : { a: common.a, b: b! },
      );
    }
  }
  return pairs;
}

/**
 * Projections from the base model's weights, by singular values. Takes seconds for a model of some hundred heads.
 *
 * @param model The base model.
 * @param lora LoRA settings of the run.
 * @returns `undefined` if the settings ask for no projections from the base model.
 * @throws {RangeError} If the rank is larger than the head size.
 * @throws {ModelFileError} If a weight is missing or has another shape.
 */
export async function baseProjections(
  model: ModelFiles,
  lora: Pick<LoraSettings, "mode" | "targets" | "rank" | "projections">,
): Promise<HeadProjections | undefined> {
  const { from } = lora.projections ?? DEFAULT_PROJECTIONS;
  if (!INPUT_MODES[lora.mode].projects || from !== "base") return undefined;
  const shape = modelShape(model.config);
  requireProjectionRank(lora.rank, shape);
  const layers: Awaited<ReturnType<typeof singularPairs>>[] = [];
  for (let layer = 0; layer < shape.layers; layer++) layers.push(await singularPairs(model, lora, layer));
  return {
    at: ({ layer, head, target }) => layers[layer]!.get(`${head} ${target}`)!,
  };
}
