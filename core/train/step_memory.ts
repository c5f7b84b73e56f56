/**
 * How much adapter memory a training step takes on each party, before anything runs: the sum of the tensors that its
 * operations make. The weights come on top (`baseWeightBytes`), and what software adapters copy to textures.
 *
 * B sequences of T tokens, R = B * T rows, L layers, H heads, G heads of keys and values, D head size, d hidden size,
 * F feed-forward size, V vocabulary, r LoRA rank, c LoRA targets.
 *
 * @module
 */

import { tensorBytes } from "@edgetuner/kernels";
import { headMemory, type MemoryLora } from "./head_memory.ts";
import { inputRows } from "../lora/input_mode.ts";
import { INPUT_MODES } from "../lora/input_modes.ts";
import { DEFAULT_LORA, modeSize } from "../lora/settings.ts";
import type { BaseShape } from "../model/base.ts";
import { familyOf, type ModelConfig } from "../model/families.ts";
import type { FamilyActivations } from "../model/families/family.ts";
import { logitsRows } from "../model/loss.ts";

/** What the memory of a step depends on in a model. */
export interface MemoryModel extends BaseShape, FamilyActivations {}

/** What {@linkcode stepMemory} must know. */
export interface StepMemoryOptions {
  /** The model; see {@linkcode memoryModelOf}. */
  readonly model: MemoryModel;
  /** B, sequences of a step. */
  readonly batch: number;
  /** T, tokens of a sequence. */
  readonly length: number;
  /** Parts that each step is computed in, one after the other. @default {1} */
  readonly accumulate?: number;
  /** LoRA. @default {DEFAULT_LORA} */
  readonly lora?: MemoryLora;
  /** Heads whose modules the device has in every layer. @default {all} */
  readonly heads?: number;
}

/** Bytes of adapter memory that a training step takes beside the weights of the base model. */
export interface StepMemory {
  /** Edge server: what the layers keep for the backward pass, and what they make on the way. */
  readonly edgeServer: number;
  /** Data device: final norm, logits and loss. */
  readonly dataDevice: number;
  /** Device: what its head modules keep and make, with weights, gradients, moments, and a copy to go back by. */
  readonly headModules: number;
  /** One machine: all of that, with all heads. */
  readonly oneMachine: number;
}

/** What the memory of a step depends on in a model of any family. */
export function memoryModelOf(config: ModelConfig): MemoryModel {
  const family = familyOf(config);
  return { ...family.shape(config), ...family.activations(config) };
}

/**
 * Bytes of adapter memory that a training step takes beside the base model's weights, with no head pruned and all
 * tokens counted in the loss. It is what an engine holds after some steps: buffers are kept for the next one.
 *
 * @category Training
 *
 * @example
 * ```ts
 * import { gpt2Config, memoryModelOf, stepMemory } from "@edgetuner/core";
 *
 * const config = gpt2Config({ n_layer: 24, n_head: 16, n_embd: 1024, vocab_size: 50257, n_positions: 1024 });
 * const { edgeServer, dataDevice } = stepMemory({ model: memoryModelOf(config), batch: 4, length: 512 });
 * console.log(edgeServer / 1e6, dataDevice / 1e6); // MB
 * ```
 */
export function stepMemory(options: StepMemoryOptions): StepMemory {
  const { model, batch, length, accumulate = 1, lora = DEFAULT_LORA, heads = model.heads } = options;
  const sequences = Math.ceil(batch / accumulate);
  const rows = sequences * length;
  const layers = layersBytes(model, sequences, length);
  const loss = lossBytes(model, rows);
  return {
    edgeServer: layers + exchangeBytes(model, lora, rows),
    dataDevice: loss + 2 * tensorBytes(rows, model.hidden),
    headModules: headMemory(model, lora, { rows, heads, copies: 1 }),
    oneMachine: layers + loss + headMemory(model, lora, { rows, heads: model.heads, copies: 0 }) +
      projectionBytes(model, lora, rows),
  };
}

/** What the layers keep of a step, and the most that they make beside it on the way back. */
function layersBytes(model: MemoryModel, sequences: number, length: number): number {
  const { layers, heads, kvHeads, headSize, hidden, inner } = model;
  const rows = sequences * length;
  const stream = tensorBytes(rows, hidden);
  const norm = stream + tensorBytes(rows, model.normStatistics);
  const mixed = tensorBytes(rows, heads * headSize);
  const qkv = tensorBytes(rows, (heads + 2 * kvHeads) * headSize);
  const scores = tensorBytes(rows, heads * Math.ceil(length / 4) * 4);
  const wide = tensorBytes(rows, inner);
  const outputNorms = model.outputNorms === true ? 2 * norm : 0;
  const headNorms = model.headNorms === true ? qkv : 0;
  // Two norms, Q, K and V, attention with the logarithms of its sums, two residual sums, the feed-forward network.
  const kept = 2 * norm + qkv + headNorms + mixed + tensorBytes(rows, heads) + 2 * stream + outputNorms +
    model.keptInner * wide;
  // Gradients of the residual stream, of a norm and of the attention; scores and theirs; E.
  const passing = 3 * stream + mixed + qkv + headNorms + 2 * scores + model.innerGradients * wide;
  return layers * kept + passing + stream;
}

/** What an edge server makes of what travels to and from the devices, and what it projects with. */
function exchangeBytes(model: MemoryModel, lora: MemoryLora, rows: number): number {
  const { heads, hidden } = model;
  const mode = INPUT_MODES[lora.mode];
  const size = modeSize(lora, model);
  const input = inputRows(mode.shape(heads, rows, size));
  const sent = mode.copies ? tensorBytes(input.rows, input.columns) : tensorBytes(rows, hidden);
  return sent + lora.targets.length * tensorBytes(heads * rows, mode.deltaColumns(size)) +
    projectionBytes(model, lora, rows);
}

/** Frozen projections, and what is made on the way through them; 0 in modes without. */
function projectionBytes(model: MemoryModel, lora: MemoryLora, rows: number): number {
  const { layers, heads, hidden, headSize } = model;
  const mode = INPUT_MODES[lora.mode];
  if (!mode.projects) return 0;
  const wide = mode.inputParts(modeSize(lora, model)) * heads * Math.ceil(lora.rank / 4) * 4;
  const frozen = tensorBytes(wide, hidden) + lora.targets.length * heads * tensorBytes(headSize, lora.rank);
  // The product before it is divided, the blocks of one target, and X with dropout.
  const made = tensorBytes(rows, wide) + tensorBytes(heads * rows, headSize) +
    (lora.dropout > 0 ? 2 * tensorBytes(rows, hidden) : 0);
  return layers * frozen + made;
}

/** Final norm, logits of some rows at a time, and the gradient of h_L. */
function lossBytes({ hidden, vocabulary, normStatistics }: MemoryModel, rows: number): number {
  const piece = logitsRows(vocabulary, rows);
  return 3 * tensorBytes(rows, hidden) + tensorBytes(rows, normStatistics) +
    2 * tensorBytes(piece, hidden) + tensorBytes(piece, vocabulary);
}
