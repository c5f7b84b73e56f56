/**
 * A LoRA step on TensorFlow.js with its WebGPU backend.
 *
 * @module
 */

import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-webgpu";
import { adapterName, runChild, type System, type SystemOptions } from "./child.ts";
import {
  ADAM,
  ALPHA,
  batchOf,
  frozenWeights,
  type LoraPair,
  loraWeights,
  RANK,
  vocabularyPieces,
  type Weight,
} from "./shapes.ts";

interface VariablePair {
  readonly a: tf.Variable;
  readonly b: tf.Variable;
}

async function start({ shape, whole }: SystemOptions): Promise<System> {
  const { n_layer: layers, n_head: heads, n_embd: hidden, batch, length, layer_norm_epsilon: epsilon } = shape;
  const about = `TensorFlow.js ${tf.version_core}, WebGPU, ${await adapterName()}`;
  if (!await tf.setBackend("webgpu")) throw new Error("the WebGPU backend did not start");
  await tf.ready();
  const places = batch * length;
  const headSize = hidden / heads;
  const weights = new Map<string, tf.Tensor>();
  const tensorOf = ({ data, shape }: Weight) => tf.tensor(data, [...shape]);
  const given = frozenWeights(shape);
  const pieces = vocabularyPieces(shape, whole).map(({ first, rows }) => ({
    first,
    rows,
    table: tf.tensor2d(given.get("wte.weight")!.data.slice(first * hidden, (first + rows) * hidden), [rows, hidden]),
  }));
  given.delete("wte.weight");
  for (const [name, weight] of given) weights.set(name, tensorOf(weight));
  const w = (name: string): tf.Tensor => weights.get(name)!;
  const variables = ({ a, b }: LoraPair): VariablePair => ({
    a: tensorOf(a).variable(true),
    b: tensorOf(b).variable(true),
  });
  const lora = loraWeights(shape).map(({ q, v }) => ({ q: variables(q), v: variables(v) }));
  const trainable = lora.flatMap(({ q, v }) => [q.a, q.b, v.a, v.b]);
  const { tokens, targets } = batchOf(shape);
  const causal = tf.tidy(() => tf.linalg.bandPart(tf.ones([length, length]), -1, 0).sub(1).mul(1e9));
  const optimizer = tf.train.adam(ADAM.learningRate, ADAM.beta1, ADAM.beta2, ADAM.epsilon);

  const rowsOf = (ids: Uint32Array): tf.Tensor2D => {
    let sum: tf.Tensor | null = null;
    for (const { first, rows, table } of pieces) {
      const local = Int32Array.from(ids, (id) => Math.min(Math.max(id - first, 0), rows - 1));
      let part: tf.Tensor = tf.gather(table, tf.tensor1d(local, "int32"));
      if (pieces.length > 1) {
        const inside = Float32Array.from(ids, (id) => id >= first && id < first + rows ? 1 : 0);
        part = part.mul(tf.tensor2d(inside, [ids.length, 1]));
      }
      sum = sum === null ? part : sum.add(part);
    }
    return sum as tf.Tensor2D;
  };
  const norm = (x: tf.Tensor, name: string): tf.Tensor2D => {
    const { mean, variance } = tf.moments(x, -1, true);
    return x.sub(mean).mul(tf.rsqrt(variance.add(epsilon))).mul(w(`${name}.weight`)).add(w(`${name}.bias`)) as tf.Tensor2D;
  };
  const linear = (x: tf.Tensor2D, name: string): tf.Tensor2D =>
    tf.matMul(x, w(`${name}.weight`) as tf.Tensor2D).add(w(`${name}.bias`));
  const delta = (x: tf.Tensor2D, { a, b }: VariablePair): tf.Tensor =>
    tf.matMul(tf.matMul(x, a as unknown as tf.Tensor2D, false, true), b as unknown as tf.Tensor2D, false, true)
      .mul(ALPHA / RANK);
  const gelu = (x: tf.Tensor): tf.Tensor2D =>
    x.mul(0.5).mul(x.add(x.mul(x).mul(x).mul(0.044715)).mul(Math.sqrt(2 / Math.PI)).tanh().add(1)) as tf.Tensor2D;
  const toHeads = (x: tf.Tensor): tf.Tensor => x.reshape([batch, length, heads, headSize]).transpose([0, 2, 1, 3]);

  const lossOf = (): tf.Scalar => {
    const places_ = tf.slice(w("wpe.weight"), [0, 0], [length, hidden]);
    let h = rowsOf(tokens).reshape([batch, length, hidden]).add(places_).reshape([places, hidden]) as tf.Tensor2D;
    for (let l = 0; l < layers; l++) {
      const x = norm(h, `h.${l}.ln_1`);
      const [q, k, v] = tf.split(linear(x, `h.${l}.attn.c_attn`), 3, 1) as [tf.Tensor, tf.Tensor, tf.Tensor];
      const scores = tf.matMul(toHeads(q.add(delta(x, lora[l]!.q))), toHeads(k), false, true)
        .mul(1 / Math.sqrt(headSize)).add(causal);
      const mixed = tf.matMul(tf.softmax(scores), toHeads(v.add(delta(x, lora[l]!.v))))
        .transpose([0, 2, 1, 3]).reshape([places, hidden]) as tf.Tensor2D;
      h = h.add(linear(mixed, `h.${l}.attn.c_proj`));
      h = h.add(linear(gelu(linear(norm(h, `h.${l}.ln_2`), `h.${l}.mlp.c_fc`)), `h.${l}.mlp.c_proj`));
    }
    const x = norm(h, "ln_f");
    const sums = pieces.map(({ table }) => tf.logSumExp(tf.matMul(x, table, false, true), 1));
    const total = sums.length === 1 ? sums[0]! : tf.logSumExp(tf.stack(sums, 1), 1);
    return total.sub(x.mul(rowsOf(targets)).sum(1)).mean();
  };
  return {
    about,
    async step() {
      const loss = optimizer.minimize(lossOf, true, trainable)!;
      // The queue is in order: the last variable is read once everything is done.
      const probe = tf.tidy(() => trainable.at(-1)!.sum());
      const [value] = await Promise.all([loss.data(), probe.data()]);
      loss.dispose();
      probe.dispose();
      return value[0]!;
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

await runChild(start);
