/**
 * The modules of a model that a PEFT adapter changes, and the adapter's matrices of them.
 *
 * D head size, H heads, H_kv key and value heads, r rank.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { headSizeOf } from "../contracts/model_shape.ts";
import type { NamedArrays } from "../files/named_arrays.ts";
import { FAMILIES, familyOf, type ModelConfig, type ModelFamily } from "../model/families.ts";
import type { AttentionProjection, Family, ProjectionTarget } from "../model/families/family.ts";
import type { LoraSettings } from "./settings.ts";

/** What of `adapter_config.json` matters. */
export interface PeftConfig {
  /** Always "LORA". */
  readonly peft_type: "LORA";
  /** Rank. */
  readonly r: number;
  /** Scale numerator. */
  readonly lora_alpha: number;
  /** Dropout while training. */
  readonly lora_dropout: number;
  /** Adapted modules, by the end of their names. */
  readonly target_modules: readonly string[];
  /** True if the base stores its weights [in, out], as GPT-2 does. */
  readonly fan_in_fan_out: boolean;
  /** The scale is alpha / sqrt(r) if true. */
  readonly use_rslora: boolean;
  /** Further fields, as PEFT writes them. */
  readonly [name: string]: unknown;
}

/** An adapter as PEFT keeps it. */
export interface PeftAdapter {
  /** `adapter_config.json`. */
  readonly config: PeftConfig;
  /** A [r, in] and B [out, r] of every adapted module, by PEFT's names. */
  readonly arrays: NamedArrays;
}

/** Shape of the model an adapter is for. */
export interface PeftModelShape {
  /** L, layers. */
  readonly layers: number;
  /** H, heads per layer. */
  readonly heads: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** D, head size. @default {hidden / heads} */
  readonly headSize?: number | undefined;
  /** H_kv, key and value heads; head h uses floor(h H_kv / H). @default {heads} */
  readonly kvHeads?: number | undefined;
}

/** What is known of a family. */
export function recordOf(family: ModelFamily): Family<ModelConfig> {
  return FAMILIES[family] as Family<ModelConfig>;
}

/** The modules of a layer that LoRA may adapt, named as in PEFT without its prefix and suffix. */
export function modulesOf(family: ModelFamily, shape: PeftModelShape, layer: number): AttentionProjection[] {
  const { heads, hidden, kvHeads = heads } = shape;
  const { prefixes, projections } = recordOf(family);
  return projections({ heads, hidden, kvHeads, headSize: headSizeOf(shape) }, layer).map((module) => ({
    ...module,
    name: `${prefixes[0]}${module.name}`,
  }));
}

/**
 * The rank of the PEFT adapter that head modules of a rank are exported as: each head has rows of its own in A.
 *
 * @param config Configuration of the model.
 * @param lora Rank and targets of the head modules.
 */
export function peftRank(
  config: ModelConfig,
  { rank, targets }: Pick<LoraSettings, "rank" | "targets">,
): number {
  const shape = familyOf(config).shape(config);
  const parts = familyOf(config).projections(shape, 0).map((module) =>
    module.parts.filter(({ target }) => targets.includes(target)).length
  );
  return Math.max(...parts) * shape.heads * rank;
}

/** Name of a matrix in an adapter. */
export const fullName = (module: string, matrix: "A" | "B"): string =>
  `base_model.model.${module}.lora_${matrix}.weight`;

/** First row, within a target's rows, that head `h` of a target writes to. */
export function rowOf(target: ProjectionTarget, head: number, shape: PeftModelShape): number {
  const { heads, kvHeads = heads } = shape;
  const owner = target === "q" ? head : Math.floor(head * kvHeads / heads);
  return owner * headSizeOf(shape);
}

/** What B A is multiplied by. */
export function scaleOf({ r, lora_alpha, use_rslora }: PeftConfig): number {
  return lora_alpha / (use_rslora ? Math.sqrt(r) : r);
}

/** A and B of a module; `null` if the adapter leaves it alone. */
export function matricesOf(
  { arrays, config }: PeftAdapter,
  module: AttentionProjection,
  hidden: number,
): { readonly a: Float32Array; readonly b: Float32Array } | null {
  const a = arrays.get(fullName(module.name, "A"));
  const b = arrays.get(fullName(module.name, "B"));
  if (a === undefined && b === undefined) return null;
  const shapes = `[${a?.shape}] and [${b?.shape}]`;
  if (shapes !== `[${config.r},${hidden}] and [${module.outputs},${config.r}]`) {
    throw new ModelFileError(
      `Cannot use the adapter as A and B of ${module.name} must be [${config.r},${hidden}] and [${module.outputs},${config.r}]: they are ${shapes}`,
    );
  }
  return { a: a!.data, b: b!.data };
}
