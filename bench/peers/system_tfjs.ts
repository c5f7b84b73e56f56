/**
 * A LoRA step on TensorFlow.js with its WebGPU backend.
 *
 * @module
 */

// For the gradients, which "@tensorflow/tfjs-core" alone does not register.
import "@tensorflow/tfjs";
import "@tensorflow/tfjs-backend-webgpu";
import * as tf from "@tensorflow/tfjs-core";
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
  const { n_layer: layers, n_head: heads, n_embd: hidden, batch, length, layer_norm_epsilon: epsilon } =
    shape;
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
    table: tf.tensor2d(given.get("wte.weight")!.data.slice(first * hidden, (first + rows) * hidden), [
      rows,
      hidden,
    ]),
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
  // 0 where a place may look, -1e9 above the diagonal.
  const triangle = new Float32Array(length * length);
  triangle.forEach((_, i) => triangle[i] = i % length > Math.floor(i / length) ? -1e9 : 0);
  const causal = tf.tensor2d(triangle, [length, length]);
  const optimizer = tf.train.adam(ADAM.learningRate, ADAM.beta1, ADAM.beta2, ADAM.epsilon);

  const rowsOf = (ids: Uint32Array): tf.Tensor2D => {
    let sum: tf.Tensor | null = null;
    for (const { first, rows, table } of pieces) {
      const local = Int32Array.from(ids, (id) => Math.min(Math.max(id - first, 0), rows - 1));
      let part: tf.Tensor = tf.gather(table, tf.tensor1d(local, "int32"));
      if (pieces.length > 1) {
        const inside = Float32Array.from(ids, (id) => id >= first && id < first + rows ? 1 : 0);
        part = tf.mul(part, tf.tensor2d(inside, [ids.length, 1]));
      }
      sum = sum === null ? part : tf.add(sum, part);
    }
    return sum as tf.Tensor2D;
  };
  const norm = (x: tf.Tensor, name: string): tf.Tensor2D => {
    const { mean, variance } = tf.moments(x, -1, true);
    const normed = tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, epsilon)));
    return tf.add(tf.mul(normed, w(`${name}.weight`)), w(`${name}.bias`));
  };
  const linear = (x: tf.Tensor, name: string): tf.Tensor2D =>
    tf.add(tf.matMul(x, w(`${name}.weight`)), w(`${name}.bias`));
  const delta = (x: tf.Tensor, { a, b }: VariablePair): tf.Tensor =>
    tf.mul(tf.matMul(tf.matMul(x, a, false, true), b, false, true), ALPHA / RANK);
  const gelu = (x: tf.Tensor): tf.Tensor => {
    const inner = tf.mul(tf.add(x, tf.mul(tf.mul(tf.mul(x, x), x), 0.044715)), Math.sqrt(2 / Math.PI));
    return tf.mul(tf.mul(x, 0.5), tf.add(tf.tanh(inner), 1));
  };
  const toHeads = (x: tf.Tensor): tf.Tensor =>
    tf.transpose(tf.reshape(x, [batch, length, heads, headSize]), [0, 2, 1, 3]);

  const lossOf = (): tf.Scalar => {
    const positions = tf.slice(w("wpe.weight"), [0, 0], [length, hidden]);
    const embedded = tf.add(tf.reshape(rowsOf(tokens), [batch, length, hidden]), positions);
    let h: tf.Tensor = tf.reshape(embedded, [places, hidden]);
    for (let l = 0; l < layers; l++) {
      const x = norm(h, `h.${l}.ln_1`);
      const [q, k, v] = tf.split(linear(x, `h.${l}.attn.c_attn`), 3, 1) as [tf.Tensor, tf.Tensor, tf.Tensor];
      const products = tf.matMul(toHeads(tf.add(q, delta(x, lora[l]!.q))), toHeads(k), false, true);
      const scores = tf.add(tf.mul(products, 1 / Math.sqrt(headSize)), causal);
      const mixed = tf.matMul(tf.softmax(scores), toHeads(tf.add(v, delta(x, lora[l]!.v))));
      const joined = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [places, hidden]);
      h = tf.add(h, linear(joined, `h.${l}.attn.c_proj`));
      h = tf.add(h, linear(gelu(linear(norm(h, `h.${l}.ln_2`), `h.${l}.mlp.c_fc`)), `h.${l}.mlp.c_proj`));
    }
    const x = norm(h, "ln_f");
    const sums = pieces.map(({ table }) => tf.logSumExp(tf.matMul(x, table, false, true), 1));
    const total = sums.length === 1 ? sums[0]! : tf.logSumExp(tf.stack(sums, 1), 1);
    // The logit of a target is a product of two rows: no need to pick it out of the logits.
    return tf.mean(tf.sub(total, tf.sum(tf.mul(x, rowsOf(targets)), 1)));
  };
  return {
    about,
    async step() {
      const loss = optimizer.minimize(lossOf, true, trainable)!;
      // The queue is in order: the last variable is read once everything is done.
      const probe = tf.tidy(() => tf.sum(trainable.at(-1)!));
      const [value] = await Promise.all([loss.data(), probe.data()]);
      loss.dispose();
      probe.dispose();
      return value[0]!;
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

await runChild(start);
