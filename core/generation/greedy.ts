/**
 * Generating text: greedy decoding.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { BaseLayers, EmbeddingAndHead } from "../model/base.ts";
import { requireFiniteLogits } from "./logits.ts";
import { argmax } from "./sample.ts";
import { embedTokens, logitsOf } from "../model/loss.ts";
import type { HeadPort } from "../contracts/ports.ts";
import { Tape } from "../model/tape.ts";

/** A model to generate with. */
export interface GenerationModel {
  /** The engine of all weights. */
  readonly engine: Engine;
  /** Layers. */
  readonly layers: BaseLayers;
  /** Embedding, final norm and LM head. */
  readonly ends: EmbeddingAndHead;
  /** LoRA head modules; `null` for the base model alone. */
  readonly heads: HeadPort | null;
}

/** Options of `generateGreedy`. */
export interface GenerateOptions {
  /** Most tokens to add to each prompt. */
  readonly maxNewTokens: number;
  /** Token that ends a text, or all that do. */
  readonly eos: number | readonly number[];
  /** Ends the generation early with what there is. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Continues prompts with the most likely token each time, all prompts side by side.
 *
 * Every token costs a full pass over the sequences: right for short texts of small models. For a least length,
 * penalties or n-grams use `sample` with a temperature of 0, which takes the most likely token too.
 *
 * @param model The model.
 * @param prompts Tokens of each prompt, at least one each.
 * @param options Length and end.
 * @returns New tokens of each prompt, without the end token.
 * @throws {RangeError} If a prompt is empty or leaves no room.
 * @throws {GenerationError} If the model gives logits that are not finite.
 */
export async function generateGreedy(
  model: GenerationModel,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
): Promise<number[][]> {
  const { engine, layers, ends, heads } = model;
  const endTokens = [options.eos].flat();
  const { positions, vocabulary } = ends.shape;
  const bad = prompts.findIndex((p) => p.length === 0 || p.length >= positions);
  if (bad >= 0) {
    throw new RangeError(
      `Cannot generate as a prompt must have 1 to ${positions - 1} tokens: prompt ${bad} has ${
        prompts[bad]!.length
      }`,
    );
  }
  const sequences = prompts.map((p) => [...p]);
  const open = new Set(sequences.keys());
  await heads?.beginStep({
    step: 0,
    mode: "evaluate",
    mask: new Uint8Array(layers.shape.layers * layers.shape.heads),
  });
  for (let n = 0; n < options.maxNewTokens && open.size > 0 && !options.signal?.aborted; n++) {
    const active = [...open];
    const longest = Math.max(...active.map((i) => sequences[i]!.length));
    // Lengths in steps of 16, so that tensors of few sizes are used again and again.
    const length = Math.min(positions, Math.ceil(longest / 16) * 16);
    const tokens = new Uint32Array(active.length * length);
    active.forEach((i, row) => tokens.set(sequences[i]!, row * length));
    const batch = {
      tokens,
      targets: tokens,
      mask: new Float32Array(tokens.length),
      batch: active.length,
      length,
    };
    using tape = new Tape(engine, { training: false });
    const hidden = await layers.forward(
      tape,
      tape.variable(embedTokens(ends, batch), { needsGradient: false }),
      batch,
      heads,
    );
    using logits = logitsOf(
      ends,
      hidden.value,
      Uint32Array.from(active, (i, row) => row * length + sequences[i]!.length - 1),
    );
    const values = await logits.read();
    requireFiniteLogits(values, longest);
    active.forEach((i, row) => {
      const next = argmax(values.subarray(row * vocabulary, (row + 1) * vocabulary));
      if (endTokens.includes(next)) open.delete(i);
      else {
        sequences[i]!.push(next);
        if (sequences[i]!.length === positions) open.delete(i);
      }
    });
  }
  return sequences.map((sequence, i) => sequence.slice(prompts[i]!.length));
}
