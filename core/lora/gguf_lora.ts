/**
 * Adapters as llama.cpp and Ollama take them: GGUF files with A and B of every adapted projection.
 *
 * llama.cpp computes W x + s B (A x), with s = `adapter.lora.alpha` / r, where r is the rank of each B itself.
 *
 * d hidden size, r rank.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { GgufFile } from "../files/gguf.ts";
import { type GgufSource, saveGguf, typedFields } from "../files/gguf_writer.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import { requireFiniteValues } from "../files/finite_values.ts";
import { GgufFields, permuteHeads, unpermuteHeads } from "../model/families/gguf.ts";
import type { AttentionProjection } from "../model/families/family.ts";
import type { ModelFamily } from "../model/families.ts";
import {
  fullName,
  matricesOf,
  modulesOf,
  type PeftAdapter,
  type PeftModelShape,
  recordOf,
  scaleOf,
} from "./peft_modules.ts";

/** What a family's adapters are called in GGUF. */
interface GgufLoraFamily {
  readonly architecture: string;
  readonly permutesHeads: boolean;
}

function ggufOf(family: ModelFamily): GgufLoraFamily {
  const { gguf, title } = recordOf(family);
  if (gguf !== null) return gguf;
  throw new ModelFileError(
    `Cannot use a GGUF adapter as the family must have an architecture of its own in llama.cpp: ${title} has none`,
  );
}

/** llama.cpp's name of a module: of Q, K and V side by side, or of one of them. */
function nameOf(layer: number, { parts }: AttentionProjection): string {
  return `blk.${layer}.attn_${parts.length > 1 ? "qkv" : parts[0]!.target}.weight`;
}

/** Heads whose rows of B llama.cpp has in another order; 0 for none. */
function turnedHeads(
  { parts }: AttentionProjection,
  { heads, kvHeads = heads }: PeftModelShape,
  { permutesHeads }: GgufLoraFamily,
): number {
  const targets = parts.map(({ target }) => target).join();
  return !permutesHeads ? 0 : targets === "q" ? heads : targets === "k" ? kvHeads : 0;
}

/**
 * Writes an adapter as a GGUF file, in float32: without loss.
 *
 * @param path Where to.
 * @param peft The adapter.
 * @param family Family of the base model.
 * @param shape Shape of the base model.
 * @throws {ModelFileError} If llama.cpp has no such family, or the adapter does not fit it or is not finite.
 * @throws {SaveError} If it cannot be written, on a full disk for example; what was there before is still there.
 * @category Adapters
 */
export async function saveGgufLora(
  path: string,
  peft: PeftAdapter,
  family: ModelFamily,
  shape: PeftModelShape,
): Promise<void> {
  requireFiniteValues("export the adapter", peft.arrays);
  const theirs = ggufOf(family);
  const tensors = new Map<string, GgufSource>();
  const put = (name: string, sizes: readonly number[], data: Float32Array) =>
    tensors.set(name, { type: "F32", shape: sizes, pieces: () => [data] });
  const { r: rank } = peft.config;
  for (let layer = 0; layer < shape.layers; layer++) {
    for (const module of modulesOf(family, shape, layer)) {
      const matrices = matricesOf(peft, module, shape.hidden);
      if (matrices === null) continue;
      const heads = turnedHeads(module, shape, theirs);
      const b = heads === 0 ? matrices.b : permuteHeads(matrices.b, rank, heads);
      const name = nameOf(layer, module);
      put(`${name}.lora_a`, [rank, shape.hidden], matrices.a);
      put(`${name}.lora_b`, [module.outputs, rank], b);
    }
  }
  const fields = await typedFields({
    "general.architecture": { type: "string", value: theirs.architecture },
    "general.type": { type: "string", value: "adapter" },
    "general.file_type": { type: "u32", value: 0 }, // all F32
    "adapter.type": { type: "string", value: "lora" },
    "adapter.lora.alpha": { type: "f32", value: scaleOf(peft.config) * rank },
  });
  await saveGguf(path, fields, tensors);
}

/**
 * Reads an adapter from a GGUF file, as `saveGgufLora` and llama.cpp's converter write them.
 *
 * @param path The file.
 * @param family Family of the base model.
 * @param shape Shape of the base model.
 * @returns The adapter in PEFT's terms.
 * @throws {ModelFileError} If the file is no LoRA adapter of such a model, or changes more than Q, K and V.
 * @category Adapters
 */
export async function loadGgufLora(
  path: string,
  family: ModelFamily,
  shape: PeftModelShape,
): Promise<PeftAdapter> {
  const record = recordOf(family);
  const theirs = ggufOf(family);
  const file = await GgufFile.open(path);
  const fields = new GgufFields(file, path, theirs.architecture);
  const wanted = {
    "general.architecture": theirs.architecture,
    "general.type": "adapter",
    "adapter.type": "lora",
  };
  for (const [name, value] of Object.entries(wanted)) {
    if (file.metadata[name] !== value) fields.refuse(`${name} must be "${value}"`, file.metadata[name]);
  }
  const alpha = Number(file.metadata["adapter.lora.alpha"]);
  if (!(alpha > 0 && Number.isFinite(alpha))) {
    fields.refuse("adapter.lora.alpha must be positive", file.metadata["adapter.lora.alpha"]);
  }
  const arrays = new Map<string, NamedArray>();
  const left = new Set(file.tensors.keys());
  const targets = new Set<AttentionProjection["parts"][number]["target"]>();
  let rank = 0;
  for (let layer = 0; layer < shape.layers; layer++) {
    for (const module of modulesOf(family, shape, layer)) {
      const name = nameOf(layer, module);
      if (!left.delete(`${name}.lora_a`) || !left.delete(`${name}.lora_b`)) continue;
      const [a, b] = [file.read(`${name}.lora_a`), file.read(`${name}.lora_b`)];
      rank ||= a.shape[0]!;
      const shapes = `[${a.shape}] and [${b.shape}]`;
      const right = `[${rank},${shape.hidden}] and [${module.outputs},${rank}]`;
      if (shapes !== right) fields.refuse(`A and B of ${name} must be ${right}`, shapes);
      const heads = turnedHeads(module, shape, theirs);
      arrays.set(fullName(module.name, "A"), a);
      arrays.set(fullName(module.name, "B"), {
        shape: b.shape,
        data: heads === 0 ? b.data : unpermuteHeads(b.data, rank, heads),
      });
      for (const { target } of module.parts) targets.add(target);
    }
  }
  const [other] = left;
  if (other !== undefined || rank === 0) {
    fields.refuse(`its tensors must be A and B of Q, K and V of ${shape.layers} layers`, other ?? "none");
  }
  requireFiniteValues("read the adapter", arrays, path);
  return {
    config: {
      peft_type: "LORA",
      task_type: "CAUSAL_LM",
      base_model_name_or_path: null,
      bias: "none",
      fan_in_fan_out: record.storesInOut,
      inference_mode: true,
      init_lora_weights: true,
      r: rank,
      lora_alpha: alpha,
      lora_dropout: 0,
      target_modules: record.peftTargets([...targets]),
      modules_to_save: null,
      use_dora: false,
      use_rslora: false,
    },
    arrays,
  };
}
