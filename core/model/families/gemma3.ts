/**
 * Gemma 3, models of text alone: scaled embeddings, norms before and after each part, a GeGLU network, norms of
 * each head's queries and keys, and layers that slide and turn by angles of their own.
 *
 * D head size.
 *
 * @module
 */

import { ModelFileError } from "../../contracts/errors.ts";
import { showValue } from "../../contracts/plain_text.ts";
import { ConfigFields } from "../weights.ts";
import { type Decoder, decoderParts } from "./decoder.ts";
import { type DecoderSizes, decoderSizes, sizesOf } from "./decoder_config.ts";
import {
  DECODER_NAMES,
  decoderFields,
  decoderHeader,
  HEAD_NORM_NAMES,
  refuseBiases,
} from "./decoder_gguf.ts";
import type { Family } from "./family.ts";
import {
  type GgufChange,
  type GgufFields,
  type GgufHeader,
  type GgufNames,
  type GgufReading,
  notInLlamaCpp,
  rounded,
} from "./gguf.ts";
import { ROPE_KINDS, type RopeConfig, ropeParameters } from "./rope.ts";
import { type LayerKind, layerKinds, windowsOf } from "./windows.ts";

/** Shape of a Gemma 3 model, named as in its `config.json`. */
export interface Gemma3Config extends DecoderSizes {
  /** The family. */
  readonly model_type: "gemma3_text";
  /** Kind of each layer. */
  readonly layer_types: readonly LayerKind[];
  /** Tokens that each sees at most in layers that slide: itself and those just before it. */
  readonly sliding_window?: number;
  /** Scores are divided by the root of this. */
  readonly query_pre_attn_scalar: number;
  /** Q, K, V and output projection have biases. */
  readonly attention_bias: boolean;
  /** Rotary positions of each kind of layers. */
  readonly rope_parameters: Readonly<Record<LayerKind, RopeConfig>>;
}

/** Bases of the angles where a file does not say them. */
const THETA = { full_attention: 1_000_000, sliding_attention: 10_000 };

/** Newer files have an object for each kind of layers, older ones have single fields. */
function ropesOf(fields: ConfigFields): Gemma3Config["rope_parameters"] {
  const newer = fields.object("rope_parameters");
  const theta = {
    full_attention: fields.positive("rope_theta", THETA.full_attention),
    sliding_attention: fields.positive("rope_local_base_freq", THETA.sliding_attention),
  };
  const flat = newer.names().find((name) => !ROPE_KINDS.some((kind) => kind === name));
  if (flat !== undefined) {
    throw new ModelFileError(
      `Cannot load the model as rope_parameters must have an object for each kind of layers: it has ${
        showValue(flat)
      }`,
    );
  }
  if (newer.names().length > 0) fields.only("rope_scaling", [], "rope_parameters has all");
  const older = fields.object("rope_scaling");
  // transformers does not look at the older name here.
  if (older.get("rope_type") === undefined) older.only("type", ["default"], "rope_type says it");
  const none = new ConfigFields({});
  const scaling = newer.names().length > 0
    ? (kind: LayerKind) => newer.object(kind)
    : (kind: LayerKind) => kind === "full_attention" ? older : none;
  return {
    full_attention: ropeParameters(fields, scaling("full_attention"), theta.full_attention),
    sliding_attention: ropeParameters(fields, scaling("sliding_attention"), theta.sliding_attention),
  };
}

/**
 * Checks a `config.json` and takes what Gemma 3 needs.
 *
 * @throws {ModelFileError} If a field is missing or out of range, or asks for what is not done here.
 */
export function gemma3Config(json: unknown): Gemma3Config {
  const fields = new ConfigFields(json);
  fields.only("hidden_activation", ["gelu_pytorch_tanh"]);
  fields.only("attn_logit_softcapping", [], "scores are not bounded");
  fields.only("final_logit_softcapping", [], "logits are not bounded");
  fields.only("use_bidirectional_attention", [false], "a token sees those before it alone");
  const sizes = decoderSizes(fields, { headSize: 256, kvHeads: 4, positions: 131_072, tied: true });
  const { num_hidden_layers: layers } = sizes;
  const pattern = fields.integer("sliding_window_pattern", 6);
  const kinds = layerKinds(
    fields,
    layers,
    (l) => (l + 1) % pattern === 0 ? "full_attention" : "sliding_attention",
  );
  const { sliding_window } = windowsOf(kinds, fields.nullable("sliding_window", 4096), Infinity);
  return {
    model_type: "gemma3_text",
    ...sizes,
    layer_types: kinds,
    ...(sliding_window === undefined ? {} : { sliding_window }),
    query_pre_attn_scalar: fields.positive("query_pre_attn_scalar", 256),
    attention_bias: fields.boolean("attention_bias") ?? false,
    rope_parameters: ropesOf(fields),
  };
}

function gemma3Decoder(config: Gemma3Config): Decoder {
  const { attention_bias, hidden_size, layer_types, sliding_window, rope_parameters } = config;
  return {
    ...sizesOf(config),
    biases: { qkv: attention_bias, output: attention_bias, feedForward: false },
    activation: "gelu",
    headNorms: true,
    outputNorms: true,
    gainOffset: 1,
    embeddingScale: Math.sqrt(hidden_size),
    scoreScale: 1 / Math.sqrt(config.query_pre_attn_scalar),
    attention: layer_types.map((kind) => ({
      rope: rope_parameters[kind],
      window: kind === "sliding_attention" ? sliding_window : undefined,
    })),
  };
}

const GGUF_NAMES: GgufNames = {
  ...DECODER_NAMES,
  layer: {
    ...DECODER_NAMES.layer,
    ...HEAD_NORM_NAMES,
    post_attention_norm: "post_attention_layernorm",
    ffn_norm: "pre_feedforward_layernorm",
    post_ffw_norm: "post_feedforward_layernorm",
  },
};

/** Gains of norms: llama.cpp's files have those of 1 + w. */
const LESS_ONE: GgufChange = {
  shape: (theirs) => theirs,
  rows: ([length]) => length!,
  place: (piece, _index, _theirs, into) => into.set(piece.map((gain) => gain - 1)),
  inOrder: true,
  back: (data) => Float32Array.from(data, (gain) => gain + 1),
};

/** Layers of the one size whose scores are divided by the root of hidden size / heads, as llama.cpp knows it. */
const LAYERS_OF_27B = 62;

function readGguf(fields: GgufFields): GgufReading<Gemma3Config> {
  const cap = fields.get("final_logit_softcapping") ?? fields.get("attn_logit_softcapping") ?? 0;
  if (cap !== 0) fields.refuse("scores and logits must not be bounded", cap);
  const { rope_theta, ...read } = decoderFields(fields);
  const config = gemma3Config({
    ...read,
    rope_theta: fields.get("rope.freq_base") === undefined ? THETA.full_attention : rope_theta,
    rope_local_base_freq: rounded(fields.get("rope.freq_base_swa") ?? THETA.sliding_attention),
    sliding_window: fields.count("attention.sliding_window"),
    query_pre_attn_scalar: scalarOf(read),
    attention_bias: fields.file.tensors.has("blk.0.attn_q.bias"),
  });
  return {
    config,
    names: fields.names(GGUF_NAMES, "Gemma 3"),
    change: changesOf,
  };
}

function changesOf(ours: string): GgufChange | null {
  return /norm\.weight$/.test(ours) ? LESS_ONE : null;
}

/** In llama.cpp each sixth layer sees all, and the others turn by the angles of this base. */
const KNOWN = { pattern: 6, theta: 10_000 };

function headerOf(config: Gemma3Config): GgufHeader {
  const { layer_types, sliding_window, attention_bias, query_pre_attn_scalar, rope_parameters } = config;
  const { full_attention: rope, sliding_attention: local } = rope_parameters;
  const refuse = (rule: string, value: unknown): never => {
    throw notInLlamaCpp("Gemma 3", rule, value);
  };
  refuseBiases("Gemma 3", { attention_bias });
  const known = layer_types.every((kind, l) =>
    (kind === "full_attention") === ((l + 1) % KNOWN.pattern === 0)
  );
  if (!known) refuse("layer_types must be full_attention in each sixth layer alone", layer_types);
  if (sliding_window === undefined) refuse("sliding_window must be a number", sliding_window);
  if (local.rope_theta !== KNOWN.theta || local.rope_scaling.rope_type !== "default") {
    refuse("the angles of layers that slide must be those of base 10000", local);
  }
  const scalar = scalarOf(config);
  if (query_pre_attn_scalar !== scalar) {
    refuse(`query_pre_attn_scalar must be ${scalar}`, query_pre_attn_scalar);
  }
  const fields = decoderHeader({ sizes: config, rope, title: "Gemma 3" });
  return { fields: { ...fields, "attention.sliding_window": { type: "u32", value: sliding_window! } } };
}

/** What llama.cpp divides scores by the root of. */
function scalarOf(
  { num_hidden_layers, hidden_size, num_attention_heads, head_dim = hidden_size / num_attention_heads }: Pick<
    DecoderSizes,
    "num_hidden_layers" | "hidden_size" | "num_attention_heads" | "head_dim"
  >,
): number {
  return num_hidden_layers === LAYERS_OF_27B ? hidden_size / num_attention_heads : head_dim;
}

/** All that is known of Gemma 3. */
export const gemma3Family: Family<Gemma3Config> = {
  name: "gemma3_text",
  title: "Gemma 3",
  architectures: ["Gemma3ForCausalLM"],
  config: gemma3Config,
  ...decoderParts(gemma3Decoder),
  gguf: {
    architecture: "gemma3",
    permutesHeads: false,
    read: readGguf,
    names: GGUF_NAMES,
    change: () => changesOf,
    header: headerOf,
  },
};
