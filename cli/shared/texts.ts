/**
 * Generating texts with a model folder and an adapter.
 *
 * @module
 */

import {
  absenceLines,
  type Adapter,
  type BaseLayers,
  baseProjections,
  type BaseWeights,
  CachedSession,
  type EmbeddingAndHead,
  type EncodedRequest,
  endsOf,
  generateGreedy,
  type GenerationModel,
  joinAdapters,
  type LikelihoodOptions,
  loadAdapter,
  loadEmbeddingAndHead,
  loadHeads,
  loadLayers,
  type LocalHeads,
  logLikelihoods,
  type OpenedModel,
  sample,
  type Tokenizer,
  warmUp,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { UsageError } from "../flags/flags.ts";
import { promptRoom } from "./prompts.ts";
import { loadGpu } from "../flags/webgpu.ts";
import { pathsOf } from "../process/places.ts";
import { openTold } from "./opened_model.ts";

/** Prompts that are continued side by side: more take more memory and little less time. */
const GROUP = 8;
/** Tokens that there is room for after every prompt, where a program does not say how many it wants. */
const SHORT_TEXT = 64;
/** From this hidden size on, one prompt after the other over a cache takes less time than whole passes do. */
const CACHED_FROM = 512;

/**
 * Loads an adapter.
 *
 * @param folders Its folder, or those of the parts that devices saved, as `a,b,c`; empty for none.
 * @throws {ModelFileError} If one cannot be read.
 */
export async function loadAdapterParts(folders: string): Promise<Adapter | null> {
  if (folders === "") return null;
  const adapter = joinAdapters(
    await Promise.all((await pathsOf(folders)).map((folder) => loadAdapter(folder))),
  );
  for (const line of absenceLines(adapter)) console.error(`Adapter ${folders}: ${line}`);
  return adapter;
}

/** A model on the GPU, with or without an adapter. */
export class TextModel implements Disposable {
  readonly #engine: Engine;
  readonly #layers: BaseLayers;
  readonly #ends: EmbeddingAndHead;
  readonly #heads: LocalHeads | null;
  readonly #tokenizer: Tokenizer;
  /** Fingerprint of the base model. */
  readonly fingerprint: string;

  private constructor(
    model: GenerationModel & { readonly heads: LocalHeads | null },
    { model: { fingerprint }, tokenizer }: OpenedModel,
  ) {
    this.#engine = model.engine;
    this.#layers = model.layers;
    this.#ends = model.ends;
    this.#heads = model.heads;
    this.#tokenizer = tokenizer;
    this.fingerprint = fingerprint;
  }

  /** Loads a model, and an adapter that was trained on it. */
  static async open(
    files: { readonly model: string; readonly tokenizer?: string },
    adapter: Adapter | null,
    webgpu = "deno",
    baseWeights: BaseWeights = "f32",
  ): Promise<TextModel> {
    const opened = await openTold(files.model, files);
    const { model } = opened;
    if (adapter !== null && adapter.fingerprint !== "" && adapter.fingerprint !== model.fingerprint) {
      throw new UsageError(
        `Cannot use the adapter as it must have been trained on ${files.model}: its base has fingerprint ${
          adapter.fingerprint.slice(0, 12)
        }, this model ${model.fingerprint.slice(0, 12)}`,
      );
    }
    const engine = await Engine.create({ gpu: await loadGpu(webgpu) });
    const projections = adapter === null ? undefined : await baseProjections(model, adapter.lora);
    const heads = adapter === null ? null : loadHeads(engine, adapter, projections);
    const layers = loadLayers(engine, model, { baseWeights });
    const ends = loadEmbeddingAndHead(engine, model, { baseWeights });
    return new TextModel({ engine, layers, ends, heads }, opened);
  }

  /** Most tokens of a prompt that a text of up to `SHORT_TEXT` tokens is to follow. */
  get room(): number {
    return promptRoom(this.positions, SHORT_TEXT);
  }

  /** Tokens that the model can be given at once. */
  get positions(): number {
    return this.#ends.shape.positions;
  }

  /** V: tokens that it can be given are below. */
  get vocabulary(): number {
    return this.#ends.shape.vocabulary;
  }

  /**
   * Tokens that continue prompts, without the end token. With `base` true as if there were no adapter.
   *
   * @param onDone Told how many are done.
   */
  async generateTokens(
    prompts: readonly (readonly number[])[],
    maxNewTokens: number,
    { base = false, onDone }: { readonly base?: boolean; readonly onDone?: (done: number) => void } = {},
  ): Promise<number[][]> {
    const heads = base ? null : this.#heads;
    const endTokens = endsOf(this.#tokenizer);
    const tokens: number[][] = [];
    if (this.#layers.shape.hidden >= CACHED_FROM) {
      for (const prompt of prompts) {
        const options = { maxNewTokens, endTokens };
        const found = await this.search((session) => sample(session, prompt, options), heads);
        tokens.push(found.filter((id) => !endTokens.includes(id)));
        onDone?.(tokens.length);
      }
      return tokens;
    }
    const model = { engine: this.#engine, layers: this.#layers, ends: this.#ends, heads };
    for (let at = 0; at < prompts.length; at += GROUP) {
      tokens.push(
        ...await generateGreedy(
          model,
          prompts.slice(at, at + GROUP),
          { maxNewTokens, eos: endTokens },
        ),
      );
      onDone?.(tokens.length);
    }
    return tokens;
  }

  /** Reads and makes tokens. */
  get tokenizer(): Tokenizer {
    return this.#tokenizer;
  }

  /**
   * Continues one prompt by a search of the caller's over a cache of keys and values.
   *
   * @param search Gets a fresh session.
   * @param heads What is learnt; `null` for the base model alone.
   */
  async search<T>(search: (session: CachedSession) => Promise<T>, heads = this.#heads): Promise<T> {
    using session = new CachedSession({
      engine: this.#engine,
      layers: this.#layers,
      ends: this.#ends,
      heads,
    });
    return await search(session);
  }

  /** Runs every kernel of a text once, so that the first one does not wait until they are compiled. */
  async warmUp(): Promise<void> {
    await warmUp(this.#engine, { layers: this.#layers, ends: this.#ends, task: "generate" });
  }

  /** How likely continuations are. */
  logLikelihoods(requests: readonly EncodedRequest[], options: LikelihoodOptions): Promise<number[]> {
    return logLikelihoods(
      { engine: this.#engine, layers: this.#layers, ends: this.#ends, heads: this.#heads },
      requests,
      options,
    );
  }

  [Symbol.dispose](): void {
    this.#heads?.[Symbol.dispose]();
    this.#layers[Symbol.dispose]();
    this.#ends[Symbol.dispose]();
    this.#engine.dispose();
  }
}
