/**
 * The predictor's network on the GPU, as it is trained. `forward.ts` is its readable reference.
 *
 * Letters as in `predictor.ts`; B = windows of a batch.
 *
 * @module
 */

import {
  conv3x3,
  conv3x3InputGradient,
  conv3x3WeightGradients,
  embeddingGather,
  embeddingScatterAdd,
  type Engine,
} from "@edgetuner/kernels";
import { attentionOp, feedForwardOp, linearOp, loraLinearOp, normOp } from "../../model/ops.ts";
import { Parameter, type Tape, type Variable } from "../../model/tape.ts";
import { NORM_EPSILON } from "./forward.ts";
import {
  ENCODER_HEADS,
  ENCODER_LAYERS,
  isFixed,
  MAP_CHANNELS,
  type Predictor,
  type PredictorConfig,
  predictorShapes,
} from "./predictor.ts";
import type { PredictorFeatures } from "./windows.ts";

type Pair = readonly [Parameter, Parameter];

/** A predictor's weights on the GPU. */
export class PredictorNetwork implements Disposable {
  /** Shape. */
  readonly config: PredictorConfig;
  /** Weights that are trained, by name. */
  readonly parameters: ReadonlyMap<string, Parameter>;
  readonly #engine: Engine;

  /**
   * Puts a predictor on the GPU.
   *
   * @param engine Where.
   * @param predictor Weights to start from; not changed.
   */
  constructor(engine: Engine, predictor: Predictor) {
    this.config = predictor.config;
    this.#engine = engine;
    const parameters = new Map<string, Parameter>();
    for (const [name, [rows, columns]] of predictorShapes(predictor.config)) {
      if (isFixed(name)) continue;
      const value = engine.upload(predictor.weights[name]!, rows, columns, name);
      parameters.set(name, new Parameter(name, value, { trainable: true }));
    }
    this.parameters = parameters;
  }

  /**
   * The correction of the mean map's logit.
   *
   * @param tape Records the way back.
   * @param batch Features of B windows.
   * @returns [B, L * H]
   */
  async forward(tape: Tape, batch: readonly PredictorFeatures[]): Promise<Variable> {
    const { layers, heads, hidden, history } = this.config;
    const count = batch.length;
    const input = (name: "tokens" | "maps", rows: number, columns: number) => {
      const data = new Float32Array(rows * columns);
      batch.forEach((features, i) => data.set(features[name], i * features[name].length));
      return tape.variable(this.#engine.upload(data, rows, columns, name), { needsGradient: false });
    };
    const places = Uint32Array.from({ length: count * history }, (_, i) => i % history);
    const newest = Uint32Array.from({ length: count }, (_, i) => (i + 1) * history - 1);

    const positions = gatherParameterOp(tape, this.#parameter("positions"), places);
    let x = linearOp(tape, input("tokens", count * history, hidden), this.#pair("embedding"), positions);
    for (let i = 0; i < ENCODER_LAYERS; i++) {
      const pair = (name: string) => this.#pair(`encoder.${i}.${name}`);
      const normed = normOp(tape, x, pair("norm1"), NORM_EPSILON);
      const qkv = await loraLinearOp(tape, normed, pair("qkv"));
      const shape = { batch: count, length: history, heads: ENCODER_HEADS, causal: false };
      x = linearOp(tape, attentionOp(tape, qkv, shape), pair("projection"), x);
      x = feedForwardOp(tape, normOp(tape, x, pair("norm2"), NORM_EPSILON), {
        up: pair("up"),
        down: pair("down"),
      }, x);
    }
    const state = gatherRowsOp(tape, x, newest);
    const size = { height: layers, width: heads };
    const raw = input("maps", count, MAP_CHANNELS * layers * heads);
    const maps = convolutionOp(tape, raw, this.#pair("maps.first"), { ...size, relu: true });
    const joined = feedForwardOp(
      tape,
      maps,
      { up: this.#pair("fusion.up"), down: this.#pair("fusion.down") },
      state,
    );
    const local = convolutionOp(tape, maps, this.#pair("maps.last"), size);
    return feedForwardOp(tape, normOp(tape, joined, this.#pair("fusion.norm"), NORM_EPSILON), {
      up: this.#pair("output.up"),
      down: this.#pair("output.down"),
    }, local);
  }

  /** Reads the trained weights back, by name. */
  async read(): Promise<Record<string, Float32Array>> {
    const values = await this.#engine.read([...this.parameters.values()].map((p) => p.value));
    return Object.fromEntries([...this.parameters.keys()].map((name, i) => [name, values[i]!]));
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    for (const parameter of this.parameters.values()) parameter[Symbol.dispose]();
  }

  #parameter(name: string): Parameter {
    return this.parameters.get(name)!;
  }

  #pair(name: string): Pair {
    return [this.#parameter(`${name}.weight`), this.#parameter(`${name}.bias`)];
  }
}

/** Rows of a weight, [ids, columns]. */
function gatherParameterOp(tape: Tape, table: Parameter, ids: Uint32Array): Variable {
  const out = tape.variable(embeddingGather(table.value, ids), { needsGradient: true });
  tape.record(() => {
    using gradient = out.takeGradient();
    embeddingScatterAdd(gradient, ids, table.gradient!);
  });
  return out;
}

/** Rows of a tensor, each at most once, [ids, columns]. */
function gatherRowsOp(tape: Tape, x: Variable, ids: Uint32Array): Variable {
  const out = tape.variable(embeddingGather(x.value, ids), { needsGradient: x.needsGradient });
  if (out.needsGradient) {
    tape.record(() => {
      using gradient = out.takeGradient();
      const { engine, rows, columns } = x.value;
      x.accumulate((into) => {
        const dx = into ?? engine.zeros(rows, columns, "gradient of rows");
        embeddingScatterAdd(gradient, ids, dx);
        return dx;
      });
    });
  }
  return out;
}

/** 3x3 convolution; [B, Cin * L * H] -> [B, Cout * L * H]. */
function convolutionOp(
  tape: Tape,
  x: Variable,
  [weight, bias]: Pair,
  shape: { readonly height: number; readonly width: number; readonly relu?: boolean },
): Variable {
  const options = { weight: weight.value, bias: bias.value, ...shape };
  const y = conv3x3(x.value, options);
  const out = tape.variable(y, { needsGradient: true });
  tape.record(() => {
    using dy = out.takeGradient();
    const backward = { ...options, y, dy };
    conv3x3WeightGradients(x.value, backward, { dweight: weight.gradient!, dbias: bias.gradient! });
    if (x.needsGradient) x.accumulate((dx) => conv3x3InputGradient(x.value, backward, dx));
  });
  return out;
}
