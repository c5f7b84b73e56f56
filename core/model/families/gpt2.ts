/**
 * GPT-2: configuration, weights, and the layers between embedding and final norm.
 *
 * B batch, T tokens of a sequence, H heads, d hidden size, F feed-forward size, V vocabulary.
 *
 * @module
 */

import {
  type BaseWeights,
  ConfigFields,
  disposeAll,
  missingWeight,
  packWeights,
  refuseForeign,
  requireBaseWeights,
  uploadLasting,
} from "../weights.ts";
import { ModelFileError } from "../../contracts/errors.ts";
import { type MatrixParameter, Parameter, type Tape, type Variable } from "../tape.ts";
import {
  type Engine,
  type GroupsAlong,
  PACKED_FORMATS,
  type PackedMatrix,
  type Tensor,
} from "@edgetuner/kernels";
import type { NamedArrays } from "../../files/named_arrays.ts";
import { finitePieces } from "../../files/finite_values.ts";
import { streamed, type StreamedArray } from "../../files/streaming.ts";
import { checkedWeight, feedForwardOp } from "../ops.ts";
import type { BaseLayers, BaseShape, EmbeddingAndHeadShape, SequenceShape } from "../base.ts";
import type { LayerHeads } from "../../contracts/ports.ts";
import { LearnedPositions, preNormForward } from "./pre_norm.ts";
import { WeightSum } from "../weight_sum.ts";
import type { Family } from "./family.ts";
import {
  type GgufChange,
  type GgufFields,
  type GgufHeader,
  type GgufNames,
  type GgufReading,
  rounded,
  sameValues,
  TRANSPOSED,
} from "./gguf.ts";

/** Shape of a GPT-2 model, named as in its `config.json`. */
export interface Gpt2Config {
  /** L, layers. */
  readonly n_layer: number;
  /** H, attention heads. */
  readonly n_head: number;
  /** d, hidden size. */
  readonly n_embd: number;
  /** V, vocabulary entries. */
  readonly vocab_size: number;
  /** Longest sequence. */
  readonly n_positions: number;
  /** Added to variances. */
  readonly layer_norm_epsilon: number;
  /** F, feed-forward size, where it is not 4 d. */
  readonly n_inner?: number;
  /** False if the LM head is not the token embedding. */
  readonly tie_word_embeddings?: false;
}

/**
 * Checks a `config.json` and takes what GPT-2 needs.
 *
 * @throws {ModelFileError} If a field is missing or out of range, or asks for what is not done here.
 */
export function gpt2Config(json: unknown): Gpt2Config {
  const fields = new ConfigFields(json);
  fields.only("model_type", ["gpt2"]);
  fields.only("activation_function", ["gelu_new", "gelu_pytorch_tanh"]);
  fields.only("scale_attn_weights", [true], "scores are divided by the root of the head size");
  fields.only("scale_attn_by_inverse_layer_idx", [false], "scores are scaled alike in all layers");
  refuseForeign(fields);
  const hidden = fields.integer("n_embd");
  const inner = fields.integer("n_inner", 4 * hidden);
  const config: Gpt2Config = {
    n_layer: fields.integer("n_layer"),
    n_head: fields.integer("n_head"),
    n_embd: hidden,
    vocab_size: fields.integer("vocab_size"),
    n_positions: fields.integer("n_positions"),
    layer_norm_epsilon: fields.positive("layer_norm_epsilon", 1e-5),
    ...(inner === 4 * hidden ? {} : { n_inner: inner }),
    ...((fields.boolean("tie_word_embeddings") ?? true) ? {} : { tie_word_embeddings: false }),
  };
  if (config.n_embd % config.n_head !== 0 || (config.n_embd / config.n_head) % 4 !== 0) {
    throw new ModelFileError(
      `Cannot load the model as n_embd / n_head must be a multiple of 4: current value is ${config.n_embd} / ${config.n_head}`,
    );
  }
  return config;
}

/** Causal masks, which older files hold though they follow from the configuration. */
const MASK = /\.attn\.(bias|masked_bias)$/;

/** How the weights are put on the GPU. */
export interface Gpt2LoadOptions {
  /** Train the base weights too. @default {false} */
  readonly trainable?: boolean | undefined;
  /** How matrices are held. @default {"f32"} */
  readonly baseWeights?: BaseWeights | undefined;
}

/** Puts weights on the GPU. If one does not fit, all are freed again. */
class Gpt2Reader {
  readonly #made: MatrixParameter[] = [];
  readonly #used = new Set<string>();
  readonly trainable: boolean;
  readonly baseWeights: BaseWeights;

  constructor(
    readonly engine: Engine,
    readonly weights: NamedArrays,
    { trainable = false, baseWeights = "f32" }: Gpt2LoadOptions,
  ) {
    this.trainable = trainable;
    this.baseWeights = baseWeights;
    requireBaseWeights(baseWeights);
    if (trainable && baseWeights !== "f32") {
      throw new TypeError(
        `Cannot train all parameters as baseWeights must be "f32": current value is "${baseWeights}"`,
      );
    }
  }

  /** A weight that is f32 in every case. */
  plain(name: string, rows: number, columns: number): Parameter {
    return this.#own(
      (array, key) => uploadLasting(this.engine, finitePieces(key, array, columns), { rows, columns, name }),
      ...[name, rows, columns] as const,
    );
  }

  /** A matrix; along the rows if they are what a product adds up, as where it is stored [in, out]. */
  matrix(name: string, rows: number, columns: number, groupsAlong: GroupsAlong): MatrixParameter {
    const { baseWeights: format } = this;
    if (format === "f32") return this.plain(name, rows, columns);
    const shape = { rows, columns, format, groupsAlong };
    // Rows that share a scale are packed together.
    const unit = groupsAlong === "rows" ? (PACKED_FORMATS[format].group || 1) * columns : columns;
    return this.#own(
      (array, key) => packWeights(this.engine, name, shape, finitePieces(key, array, unit)),
      ...[name, rows, columns] as const,
    );
  }

  /** Refuses a checkpoint whose layers hold what was not asked for: the model would compute something else. */
  refuseOtherLayerWeights(): void {
    for (const name of this.weights.keys()) {
      if (!/^(transformer\.)?h\.\d+\./.test(name) || this.#used.has(name) || MASK.test(name)) continue;
      disposeAll(this.#made);
      throw new ModelFileError(
        `Cannot load the model as its layers must hold the weights of its family and configuration alone: they hold "${name}"`,
      );
    }
  }

  #own<V extends Tensor | PackedMatrix>(
    put: (array: StreamedArray, key: string) => V,
    name: string,
    rows: number,
    columns: number,
  ): Parameter<V> {
    try {
      const keys = [`transformer.${name}`, name];
      const key = keys.find((key) => this.weights.has(key));
      if (key === undefined) throw missingWeight(this.weights, keys, name);
      const value = put(checkedWeight(streamed(this.weights, key), name, rows, columns), key);
      this.#used.add(key);
      const full = name.startsWith("lm_head.") ? name : `transformer.${name}`;
      const parameter = new Parameter(full, value, { trainable: this.trainable });
      this.#made.push(parameter);
      return parameter;
    } catch (error) {
      disposeAll(this.#made);
      throw error;
    }
  }
}

/** Weights of one layer. */
export interface Gpt2Layer {
  /** Norm before the attention: [1, d] each. */
  readonly norm1: readonly [Parameter, Parameter];
  /** Q, K and V side by side: [d, 3 d] and [1, 3 d]. */
  readonly qkv: readonly [MatrixParameter, Parameter];
  /** Output projection: [d, d] and [1, d]. */
  readonly projection: readonly [MatrixParameter, Parameter];
  /** Norm before the feed-forward network. */
  readonly norm2: readonly [Parameter, Parameter];
  /** [d, F] and [1, F]. */
  readonly up: readonly [MatrixParameter, Parameter];
  /** [F, d] and [1, d]. */
  readonly down: readonly [MatrixParameter, Parameter];
}

/** The layers of a GPT-2: what an edge server holds. */
export class Gpt2Layers implements BaseLayers {
  /** Shape of the model. */
  readonly config: Gpt2Config;
  /** Weights, one entry per layer. */
  readonly layers: readonly Gpt2Layer[];

  /**
   * Puts the layers' weights on the GPU.
   *
   * @param engine Where.
   * @param config Shape of the model.
   * @param weights The checkpoint.
   * @param options Whether they are trained, and how matrices are held.
   * @throws {ModelFileError} If a weight is missing, has another shape or does not fit the format, or is one too many.
   * @throws {TypeError} If the weights are to be trained and not f32.
   */
  constructor(
    engine: Engine,
    config: Gpt2Config,
    weights: NamedArrays,
    options: Gpt2LoadOptions = {},
  ) {
    this.config = config;
    const { n_embd: d, n_inner: f = 4 * d } = config;
    const reader = new Gpt2Reader(engine, weights, options);
    this.layers = Array.from({ length: config.n_layer }, (_, l) => {
      const norm = (name: string): [Parameter, Parameter] => [
        reader.plain(`h.${l}.${name}.weight`, 1, d),
        reader.plain(`h.${l}.${name}.bias`, 1, d),
      ];
      const linear = (name: string, rows: number, columns: number): [MatrixParameter, Parameter] => [
        reader.matrix(`h.${l}.${name}.weight`, rows, columns, "rows"),
        reader.plain(`h.${l}.${name}.bias`, 1, columns),
      ];
      return {
        norm1: norm("ln_1"),
        qkv: linear("attn.c_attn", d, 3 * d),
        projection: linear("attn.c_proj", d, d),
        norm2: norm("ln_2"),
        up: linear("mlp.c_fc", d, f),
        down: linear("mlp.c_proj", f, d),
      };
    });
    reader.refuseOtherLayerWeights();
  }

  /** Shape of the layers. */
  get shape(): BaseShape {
    return gpt2Shape(this.config);
  }

  /** All weights, in order. */
  parameters(): MatrixParameter[] {
    return this.layers.flatMap((layer) => Object.values(layer).flat() as MatrixParameter[]);
  }

  /**
   * The layers from E to h_L.
   *
   * @param tape Records the way back.
   * @param embedding E, [B * T, d].
   * @param shape B and T.
   * @param heads Where the LoRA head modules live; `null` for the base model alone.
   */
  async forward(
    tape: Tape,
    embedding: Variable,
    shape: SequenceShape,
    heads: LayerHeads | null,
  ): Promise<Variable> {
    const { n_head, layer_norm_epsilon: epsilon } = this.config;
    const model = { layers: this.layers, heads: n_head, epsilon, feedForward: feedForwardOp };
    return await preNormForward<Gpt2Layer>(model, { tape, embedding }, shape, heads);
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    for (const parameter of this.parameters()) parameter[Symbol.dispose]();
  }
}

/** Embedding, final norm and LM head of a GPT-2: what a data device holds. */
export class Gpt2EmbeddingAndHead extends LearnedPositions {
  /** Shape of the model. */
  readonly config: Gpt2Config;

  /**
   * Puts the weights on the GPU.
   *
   * @param engine Where.
   * @param config Shape of the model.
   * @param weights The checkpoint.
   * @param options Whether they are trained, and how the token embedding is held.
   * @throws {ModelFileError} If a weight is missing, has another shape or does not fit the format.
   * @throws {TypeError} If the weights are to be trained and not f32.
   */
  constructor(
    engine: Engine,
    config: Gpt2Config,
    weights: NamedArrays,
    options: Gpt2LoadOptions = {},
  ) {
    const { n_embd: d, vocab_size, layer_norm_epsilon: epsilon } = config;
    const reader = new Gpt2Reader(engine, weights, options);
    const tokens = reader.matrix("wte.weight", vocab_size, d, "columns");
    const positions = reader.plain("wpe.weight", config.n_positions, d);
    const norm = [reader.plain("ln_f.weight", 1, d), reader.plain("ln_f.bias", 1, d)] as const;
    const lmHead = config.tie_word_embeddings === false
      ? reader.matrix("lm_head.weight", vocab_size, d, "columns")
      : tokens;
    super({ tokens, positions, lmHead, norm }, { epsilon });
    this.config = config;
  }

  /** Shape of the ends. */
  override get shape(): EmbeddingAndHeadShape {
    const { n_embd: hidden, vocab_size: vocabulary, n_positions: positions } = this.config;
    return { hidden, vocabulary, positions };
  }
}

/** Shape of the layers of a GPT-2. */
export function gpt2Shape({ n_layer: layers, n_head: heads, n_embd: hidden }: Gpt2Config): BaseShape {
  return { layers, heads, kvHeads: heads, hidden, headSize: hidden / heads };
}

function gpt2Bytes(config: Gpt2Config, format: BaseWeights) {
  const { n_embd: d, n_inner: f = 4 * d, n_layer, vocab_size, n_positions, tie_word_embeddings } = config;
  const layer = new WeightSum(format, "rows").matrix(d, 3 * d).matrix(d, d).matrix(d, f).matrix(f, d)
    .plain(1, d, 6).plain(1, 3 * d).plain(1, f);
  const ends = new WeightSum(format, "columns").matrix(vocab_size, d).plain(n_positions, d).plain(1, d, 2);
  if (tie_word_embeddings === false) ends.matrix(vocab_size, d);
  return { layers: n_layer * layer.bytes, ends: ends.bytes };
}

function gpt2Activations({ n_embd, n_inner: inner = 4 * n_embd, vocab_size: vocabulary }: Gpt2Config) {
  // Before and after the GELU.
  return { inner, vocabulary, keptInner: 2, innerGradients: 1, normStatistics: 2 };
}

const GGUF_NAMES: GgufNames = {
  layer: {
    attn_norm: "ln_1",
    ffn_norm: "ln_2",
    attn_qkv: "attn.c_attn",
    attn_output: "attn.c_proj",
    ffn_up: "mlp.c_fc",
    ffn_down: "mlp.c_proj",
  },
  prefix: "transformer.h.",
  ends: {
    "token_embd.weight": "transformer.wte.weight",
    "position_embd.weight": "transformer.wpe.weight",
    "output_norm.weight": "transformer.ln_f.weight",
    "output_norm.bias": "transformer.ln_f.bias",
    "output.weight": "lm_head.weight",
  },
};

function readGguf(fields: GgufFields): GgufReading<Gpt2Config> {
  const { file } = fields;
  const hidden = fields.count("embedding_length");
  const names = new Map(fields.names(GGUF_NAMES, "GPT-2"));
  // Older converters wrote the tied LM head a second time.
  const tied = !file.tensors.has("output.weight") || sameValues(file, "output.weight", "token_embd.weight");
  if (tied) names.delete("lm_head.weight");
  const config = gpt2Config({
    n_layer: fields.count("block_count"),
    n_head: fields.count("attention.head_count"),
    n_embd: hidden,
    vocab_size: file.tensors.get("token_embd.weight")?.shape[0],
    n_positions: fields.count("context_length"),
    layer_norm_epsilon: rounded(fields.get("attention.layer_norm_epsilon") ?? 1e-5),
    n_inner: fields.count("feed_forward_length", 4 * hidden),
    tie_word_embeddings: tied,
  });
  return {
    config,
    names,
    change: changesOf,
  };
}

function changesOf(ours: string): GgufChange | null {
  return /\.(c_attn|c_proj|c_fc)\.weight$/.test(ours) ? TRANSPOSED : null;
}

function headerOf(config: Gpt2Config): GgufHeader {
  const { n_embd, n_inner = 4 * n_embd } = config;
  const counts = {
    "block_count": config.n_layer,
    "context_length": config.n_positions,
    "embedding_length": n_embd,
    "feed_forward_length": n_inner,
    "attention.head_count": config.n_head,
    "vocab_size": config.vocab_size,
  };
  const fields = Object.entries(counts).map(([name, value]) => [name, { type: "u32", value }] as const);
  return {
    fields: {
      ...Object.fromEntries(fields),
      "attention.layer_norm_epsilon": { type: "f32", value: config.layer_norm_epsilon },
    },
  };
}

/** All that is known of GPT-2. */
export const gpt2Family: Family<Gpt2Config> = {
  name: "gpt2",
  title: "GPT-2",
  architectures: ["GPT2LMHeadModel"],
  config: gpt2Config,
  shape: gpt2Shape,
  layers: (engine, config, weights, format) =>
    new Gpt2Layers(engine, config, weights, { baseWeights: format }),
  ends: (engine, config, weights, format) =>
    new Gpt2EmbeddingAndHead(engine, config, weights, { baseWeights: format }),
  bytes: gpt2Bytes,
  activations: gpt2Activations,
  prefixes: ["transformer.", ""],
  storesInOut: true,
  tokenEmbedding: "wte",
  projections: ({ hidden }, layer) => [{
    name: `h.${layer}.attn.c_attn`,
    outputs: 3 * hidden,
    parts: (["q", "k", "v"] as const).map((target, i) => ({ target, first: i * hidden })),
  }],
  outputProjection: (layer) => `h.${layer}.attn.c_proj`,
  peftTargets: () => ["c_attn"],
  gguf: {
    architecture: "gpt2",
    permutesHeads: false,
    read: readGguf,
    names: GGUF_NAMES,
    change: () => changesOf,
    header: headerOf,
  },
};
