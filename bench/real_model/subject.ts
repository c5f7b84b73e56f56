/**
 * The model that is held against others: loaded once, used by every part.
 *
 * @module
 */

import {
  type BaseLayers,
  type BaseWeights,
  CachedSession,
  type ChatTemplate,
  chatTemplateOf,
  type EmbeddingAndHead,
  embedTokens,
  endsOf,
  loadEmbeddingAndHead,
  loadLayers,
  type LocalHeads,
  logitsOf,
  logLikelihoods,
  type ModelFolder,
  openModel,
  sample,
  Tape,
  type Tokenizer,
} from "@edgetuner/core";
import type { Engine } from "@edgetuner/kernels";
import { UsageError } from "../../cli/flags/flags.ts";

/** A chat model on the adapter, with what reads and writes its texts. */
export class Subject implements Disposable {
  readonly engine: Engine;
  readonly path: string;
  readonly model: ModelFolder;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  readonly base: BaseLayers;
  readonly ends: EmbeddingAndHead;

  private constructor(
    engine: Engine,
    path: string,
    { model, tokenizer, template, baseWeights }: {
      readonly model: ModelFolder;
      readonly tokenizer: Tokenizer;
      readonly template: ChatTemplate;
      readonly baseWeights: BaseWeights;
    },
  ) {
    this.engine = engine;
    this.path = path;
    this.model = model;
    this.tokenizer = tokenizer;
    this.template = template;
    this.base = loadLayers(engine, model, { baseWeights });
    this.ends = loadEmbeddingAndHead(engine, model, { baseWeights });
  }

  /**
   * Loads it.
   *
   * @throws {UsageError} If it has no chat template.
   */
  static async open(engine: Engine, path: string, baseWeights: BaseWeights): Promise<Subject> {
    const { model, tokenizer } = await openModel(path);
    const template = await chatTemplateOf(path);
    if (template === null) {
      throw new UsageError(`Cannot compare as the model must have a chat template: ${path} has none`);
    }
    return new Subject(engine, path, { model, tokenizer, template, baseWeights });
  }

  /** All logits after every token, [tokens, V]. */
  async logits(sequence: readonly number[], heads: LocalHeads | null = null): Promise<Float32Array> {
    const { layers, heads: count } = this.base.shape;
    await heads?.beginStep({ step: 0, mode: "evaluate", mask: new Uint8Array(layers * count) });
    using tape = new Tape(this.engine, { training: false });
    const tokens = Uint32Array.from(sequence);
    const { length } = tokens;
    const batch = { tokens, targets: tokens, mask: new Float32Array(length), batch: 1, length };
    const embedding = tape.variable(embedTokens(this.ends, batch), { needsGradient: false });
    const hidden = await this.base.forward(tape, embedding, batch, heads);
    using all = logitsOf(this.ends, hidden.value, tokens.map((_, i) => i));
    return await all.read();
  }

  /** Log-likelihood of each sequence after its first token. */
  async likelihoods(sequences: readonly (readonly number[])[]): Promise<number[]> {
    const { engine, base: layers, ends } = this;
    const requests = sequences.map((tokens) => ({
      context: tokens.slice(0, 1),
      continuation: tokens.slice(1),
    }));
    return await logLikelihoods({ engine, layers, ends, heads: null }, requests, { batch: 1 });
  }

  /** What follows a prompt, the most likely token each time, up to the end of the text. */
  async greedy(prompt: readonly number[], maxNewTokens: number, heads: LocalHeads | null): Promise<number[]> {
    const { engine, base: layers, ends } = this;
    using session = new CachedSession({ engine, layers, ends, heads });
    const endTokens = endsOf(this.tokenizer);
    const found = await sample(session, prompt, { maxNewTokens, endTokens });
    return found.filter((token) => !endTokens.includes(token));
  }

  [Symbol.dispose](): void {
    this.base[Symbol.dispose]();
    this.ends[Symbol.dispose]();
  }
}
