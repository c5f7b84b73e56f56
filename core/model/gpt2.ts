/**
 * GPT-2: configuration, weights, and the layers between embedding and final norm.
 *
 * B batch, T tokens of a sequence, H heads, d hidden size, F = 4 d (feed-forward), V vocabulary.
 *
 * @module
 */

import {
  addColumnSums,
  attention,
  attentionBackward,
  type AttentionShape,
  embeddingGather,
  type Engine,
  type GroupsAlong,
  layerNorm,
  layerNormBackward,
  layerNormParameterGradients,
  matmul,
  PACKED_FORMATS,
  type PackedMatrix,
  type Tensor,
} from "@edgetuner/kernels";
import { finitePieces } from "../checkpoint/finite_values.ts";
import { streamed, type StreamedArray } from "../checkpoint/pieces.ts";
import { CheckpointError } from "../errors.ts";
import type { LayerHeads } from "../ports.ts";
import type { BaseLayers, BaseShape, EndsShape, ModelEnds, Normalised, SequenceShape } from "./base.ts";
import { type MatrixParameter, Parameter, type Tape, type Variable } from "../tape.ts";
import {
  type BaseWeights,
  ConfigFields,
  disposeAll,
  packWeights,
  refuseQuantised,
  requireBaseWeights,
  uploadLasting,
} from "./weights.ts";

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
}

/** One weight of a checkpoint. */
export interface NamedArray {
  /** Shape as in the file. */
  readonly shape: readonly number[];
  /** Values, row-major. */
  readonly data: Float32Array;
}

/** Weights by name, as `readSafetensors` returns them. */
export type NamedArrays = ReadonlyMap<string, NamedArray>;

/**
 * Checks a `config.json` and takes what GPT-2 needs.
 *
 * @throws {CheckpointError} If a field is missing or out of range, or asks for what is not done here.
 */
export function gpt2Config(json: unknown): Gpt2Config {
  const fields = new ConfigFields(json);
  fields.only("model_type", ["gpt2"]);
  fields.only("activation_function", ["gelu_new", "gelu_pytorch_tanh"]);
  fields.only("scale_attn_weights", [true], "scores are divided by the root of the head size");
  fields.only("scale_attn_by_inverse_layer_idx", [false], "scores are scaled alike in all layers");
  fields.only("add_cross_attention", [false], "there is no encoder");
  fields.only("tie_word_embeddings", [true], "the LM head is the token embedding");
  refuseQuantised(fields);
  const hidden = fields.integer("n_embd");
  fields.only("n_inner", [4 * hidden], "4 n_embd");
  const config: Gpt2Config = {
    n_layer: fields.integer("n_layer"),
    n_head: fields.integer("n_head"),
    n_embd: hidden,
    vocab_size: fields.integer("vocab_size"),
    n_positions: fields.integer("n_positions"),
    layer_norm_epsilon: fields.positive("layer_norm_epsilon", 1e-5),
  };
  if (config.n_embd % config.n_head !== 0 || (config.n_embd / config.n_head) % 4 !== 0) {
    throw new CheckpointError(
      `Cannot load the model as n_embd / n_head must be a multiple of 4: current value is ${config.n_embd} / ${config.n_head}`,
    );
  }
  return config;
}

/**
 * Finds a weight whatever prefix the file uses, and checks its shape.
 *
 * @throws {CheckpointError} If it is missing or has another shape than [rows, columns], or [columns] for one row.
 */
export function weightOf(weights: NamedArrays, name: string, rows: number, columns: number): Float32Array {
  const found = weights.get(`transformer.${name}`) ?? weights.get(name);
  return checkedWeight(found, name, rows, columns).data;
}

function checkedWeight<A extends { readonly shape: readonly number[] }>(
  found: A | undefined,
  name: string,
  rows: number,
  columns: number,
): A {
  if (found === undefined) {
    throw new CheckpointError(`Cannot load the model as it must hold "${name}": it does not`);
  }
  const shape = rows === 1 ? [columns] : [rows, columns];
  if (found.shape.length !== shape.length || found.shape.some((n, i) => n !== shape[i])) {
    throw new CheckpointError(
      `Cannot load the model as "${name}" must be [${shape}]: it is [${found.shape}]`,
    );
  }
  return found;
}

/** Causal masks, which older files hold though they follow from the configuration. */
const MASK = /\.attn\.(bias|masked_bias)$/;

/** Puts weights on the GPU. If one does not fit, all are freed again. */
class Gpt2Reader {
  readonly #made: MatrixParameter[] = [];
  readonly #used = new Set<string>();

  constructor(
    readonly engine: Engine,
    readonly weights: NamedArrays,
    readonly trainable: boolean,
    readonly baseWeights: BaseWeights,
  ) {
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
      (array, key) => uploadLasting(this.engine, finitePieces(key, array, columns), rows, columns, name),
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
      throw new CheckpointError(
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
      const key = this.weights.has(`transformer.${name}`) ? `transformer.${name}` : name;
      const value = put(checkedWeight(streamed(this.weights, key), name, rows, columns), key);
      this.#used.add(key);
      const parameter = new Parameter(`transformer.${name}`, value, this.trainable);
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
   * @param trainable True to train the base weights too. @default {false}
   * @param baseWeights How matrices are held. @default {"f32"}
   * @throws {CheckpointError} If a weight is missing, has another shape or does not fit the format, or is one too many.
   * @throws {TypeError} If the weights are to be trained and not f32.
   */
  constructor(
    engine: Engine,
    config: Gpt2Config,
    weights: NamedArrays,
    trainable = false,
    baseWeights: BaseWeights = "f32",
  ) {
    this.config = config;
    const d = config.n_embd;
    const reader = new Gpt2Reader(engine, weights, trainable, baseWeights);
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
        up: linear("mlp.c_fc", d, 4 * d),
        down: linear("mlp.c_proj", 4 * d, d),
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
    const attentionShape = { ...shape, heads: this.config.n_head };
    const epsilon = this.config.layer_norm_epsilon;
    let h = embedding;
    for (const [l, layer] of this.layers.entries()) {
      const x = normOp(tape, h, layer.norm1, epsilon);
      const qkv = await loraLinearOp(tape, x, layer.qkv, l, heads);
      const mixed = shape.cache?.attend(tape, qkv, l) ?? attentionOp(tape, qkv, attentionShape);
      h = linearOp(tape, mixed, layer.projection, h);
      const x2 = normOp(tape, h, layer.norm2, epsilon);
      h = feedForwardOp(tape, x2, layer.up, layer.down, h);
    }
    return h;
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    for (const parameter of this.parameters()) parameter[Symbol.dispose]();
  }
}

/** Embedding, final norm and LM head of a GPT-2: what a data device holds. */
export class Gpt2Ends implements ModelEnds {
  /** Shape of the model. */
  readonly config: Gpt2Config;
  /** Token embedding and LM head (tied), [V, d]. */
  readonly tokens: MatrixParameter;
  /** Position embedding, [positions, d]. */
  readonly positions: Parameter;
  /** Final norm: [1, d] each. */
  readonly norm: readonly [Parameter, Parameter];

  /**
   * Puts the weights on the GPU.
   *
   * @param engine Where.
   * @param config Shape of the model.
   * @param weights The checkpoint.
   * @param trainable True to train the weights too. @default {false}
   * @param baseWeights How the token embedding is held. @default {"f32"}
   * @throws {CheckpointError} If a weight is missing, has another shape or does not fit the format.
   * @throws {TypeError} If the weights are to be trained and not f32.
   */
  constructor(
    engine: Engine,
    config: Gpt2Config,
    weights: NamedArrays,
    trainable = false,
    baseWeights: BaseWeights = "f32",
  ) {
    this.config = config;
    const d = config.n_embd;
    const reader = new Gpt2Reader(engine, weights, trainable, baseWeights);
    this.tokens = reader.matrix("wte.weight", config.vocab_size, d, "columns");
    this.positions = reader.plain("wpe.weight", config.n_positions, d);
    this.norm = [reader.plain("ln_f.weight", 1, d), reader.plain("ln_f.bias", 1, d)];
  }

  /** Shape of the ends. */
  get shape(): EndsShape {
    const { n_embd: hidden, vocab_size: vocabulary, n_positions: positions } = this.config;
    return { hidden, vocabulary, positions };
  }

  /** LM head: the token embedding. */
  get lmHead(): MatrixParameter {
    return this.tokens;
  }

  /** All weights, in order. */
  parameters(): MatrixParameter[] {
    return [this.tokens, this.positions, ...this.norm];
  }

  /** Token embedding + position embedding. */
  embed(tokens: Uint32Array, positions: Uint32Array): Tensor {
    return embeddingGather(this.positions.value, positions, embeddingGather(this.tokens.value, tokens));
  }

  /** Layer norm. */
  normalise(hidden: Tensor): Normalised {
    return layerNormalised(hidden, this.norm, this.config.layer_norm_epsilon);
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    for (const parameter of this.parameters()) parameter[Symbol.dispose]();
  }
}

/** Shape of the layers of a GPT-2. */
export function gpt2Shape({ n_layer: layers, n_head: heads, n_embd: hidden }: Gpt2Config): BaseShape {
  return { layers, heads, kvHeads: heads, hidden, headSize: hidden / heads };
}

/** Layer norm outside a tape, as final norm. */
export function layerNormalised(
  x: Tensor,
  [gamma, beta]: readonly [Parameter, Parameter],
  epsilon: number,
): Normalised {
  const { y, statistics } = layerNorm(x, gamma.value, beta.value, epsilon);
  return {
    y,
    backward(dy) {
      if (gamma.gradient !== null && beta.gradient !== null) {
        layerNormParameterGradients({ x, statistics, dy, dgamma: gamma.gradient, dbeta: beta.gradient });
      }
      return layerNormBackward({ x, gamma: gamma.value, statistics, dy });
    },
    [Symbol.dispose]() {
      y.dispose();
      statistics.dispose();
    },
  };
}

/**
 * A linear layer's weight and bias, if it has one. The weight is stored [in, out], as in GPT-2's files,
 * or [out, in], as in most others'.
 */
export type LinearWeights = readonly [weight: MatrixParameter, bias: Parameter | null, stored?: "outIn"];

/** Layer norm. */
export function normOp(
  tape: Tape,
  x: Variable,
  [gamma, beta]: readonly [Parameter, Parameter],
  epsilon: number,
): Variable {
  const { y, statistics } = layerNorm(x.value, gamma.value, beta.value, epsilon);
  tape.own(statistics);
  const out = tape.variable(y, x.needsGradient || gamma.gradient !== null);
  if (out.needsGradient) {
    tape.record(() => {
      using dy = out.takeGradient();
      if (gamma.gradient !== null && beta.gradient !== null) {
        layerNormParameterGradients({
          x: x.value,
          statistics,
          dy,
          dgamma: gamma.gradient,
          dbeta: beta.gradient,
        });
      }
      if (x.needsGradient) {
        x.accumulate((dx) =>
          layerNormBackward({
            x: x.value,
            gamma: gamma.value,
            statistics,
            dy,
            dx,
            accumulate: dx !== undefined,
          })
        );
      }
    });
  }
  return out;
}

/** Gradients of a linear layer's weight and bias, if they are trained. */
function addLinearGradients(x: Tensor, dy: Tensor, [weight, bias, stored]: LinearWeights): void {
  if (weight.gradient !== null) {
    const [a, b] = stored === "outIn" ? [dy, x] : [x, dy];
    matmul(a, b, { transposeA: true, out: weight.gradient, accumulate: true });
  }
  if (bias !== null && bias.gradient !== null) addColumnSums(dy, bias.gradient);
}

/** Gradient of a linear layer's input, added to what is there. */
export function addInputGradient(x: Variable, dy: Tensor, [weight, , stored]: LinearWeights): void {
  if (!x.needsGradient) return;
  const transposeB = stored !== "outIn";
  x.accumulate((dx) => matmul(dy, weight.value, { transposeB, out: dx, accumulate: dx !== undefined }));
}

/** y = x W + b + residual; without a residual where that is added elsewhere. */
export function linearOp(
  tape: Tape,
  x: Variable,
  weights: LinearWeights,
  residual: Variable | null,
): Variable {
  const [weight, bias, stored] = weights;
  const transposeB = stored === "outIn";
  const y = matmul(x.value, weight.value, { transposeB, bias: bias?.value, residual: residual?.value });
  const out = tape.variable(
    y,
    x.needsGradient || residual?.needsGradient === true || weight.gradient !== null,
  );
  if (out.needsGradient) {
    tape.record(() => {
      const dy = out.takeGradient();
      addLinearGradients(x.value, dy, weights);
      addInputGradient(x, dy, weights);
      if (residual?.needsGradient) residual.addGradient(dy);
      else dy.dispose();
    });
  }
  return out;
}

/** y = gelu(x W1 + b1) W2 + b2 + residual; without a residual where that is added elsewhere. */
export function feedForwardOp(
  tape: Tape,
  x: Variable,
  up: readonly [MatrixParameter, Parameter],
  down: readonly [MatrixParameter, Parameter],
  residual: Variable | null,
): Variable {
  const { engine, rows } = x.value;
  const before = tape.own(engine.tensor(rows, up[0].value.columns, "before gelu"));
  const inner = tape.own(matmul(x.value, up[0].value, { bias: up[1].value, geluInput: before }));
  const y = matmul(inner, down[0].value, { bias: down[1].value, residual: residual?.value });
  const out = tape.variable(
    y,
    x.needsGradient || residual?.needsGradient === true || up[0].gradient !== null,
  );
  if (out.needsGradient) {
    tape.record(() => {
      const dy = out.takeGradient();
      addLinearGradients(inner, dy, down);
      using dBefore = matmul(dy, down[0].value, { transposeB: true, geluGradOf: before });
      addLinearGradients(x.value, dBefore, up);
      addInputGradient(x, dBefore, up);
      if (residual?.needsGradient) residual.addGradient(dy);
      else dy.dispose();
    });
  }
  return out;
}

/** Causal multi-head attention. */
export function attentionOp(tape: Tape, qkv: Variable, shape: AttentionShape): Variable {
  const { output, logSums } = attention(qkv.value, shape);
  tape.own(logSums);
  const out = tape.variable(output, qkv.needsGradient);
  if (out.needsGradient) {
    tape.record(() => {
      using dOutput = out.takeGradient();
      qkv.addGradient(attentionBackward({ qkv: qkv.value, output, logSums, dOutput, ...shape }));
    });
  }
  return out;
}

/**
 * Q, K and V with the heads' Deltas. The heads' work is started first and the base product is
 * computed while it is under way, in both directions.
 */
export async function loraLinearOp(
  tape: Tape,
  x: Variable,
  weights: LinearWeights,
  layer: number,
  heads: LayerHeads | null,
): Promise<Variable> {
  const [weight, bias, stored] = weights;
  const pending = heads?.forward(layer, x.value) ?? null;
  if (pending?.before !== undefined) await pending.before;
  const qkv = matmul(x.value, weight.value, { transposeB: stored === "outIn", bias: bias?.value });
  const out = tape.variable(qkv, x.needsGradient || pending !== null || weight.gradient !== null);
  if (pending !== null) {
    tape.engine.flush();
    await pending.addTo(qkv);
  }
  if (out.needsGradient) {
    tape.record(async () => {
      using dqkv = out.takeGradient();
      const pendingInput = pending === null ? null : heads!.backward(layer, dqkv, x.needsGradient);
      if (pendingInput?.before !== undefined) await pendingInput.before;
      addLinearGradients(x.value, dqkv, weights);
      addInputGradient(x, dqkv, weights);
      if (pendingInput !== null) {
        tape.engine.flush();
        await pendingInput.addTo(x.gradient!);
      }
    });
  }
  return out;
}
