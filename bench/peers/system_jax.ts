/**
 * A LoRA step on jax-js with its WebGPU backend: gradient and Adam in one `jit`.
 *
 * Every use of an array but the last one is `x.ref`: functions consume their arguments.
 *
 * @module
 */

import { blockUntilReady, defaultDevice, init, jit, nn, numpy as np, tree, valueAndGrad } from "@jax-js/jax";
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

type Pair = { a: np.Array; b: np.Array };
type Lora = { q: Pair; v: Pair }[];
/** Of each piece of the vocabulary: rows to take, and 1 where the row lies in the piece. */
type Rows = { local: np.Array; inside: np.Array }[];
type Frozen = { tables: np.Array[]; weights: Record<string, np.Array> };

async function start({ shape, whole }: SystemOptions): Promise<System> {
  const { n_layer: layers, n_head: heads, n_embd: hidden, batch, length, layer_norm_epsilon: epsilon } =
    shape;
  const about = `jax-js, WebGPU, ${await adapterName()}`;
  if (!(await init("webgpu")).includes("webgpu")) throw new Error("the WebGPU backend did not start");
  defaultDevice("webgpu");
  const places = batch * length;
  const headSize = hidden / heads;
  const given = frozenWeights(shape);
  const arrayOf = ({ data, shape }: Weight) => np.array(data, { shape: [...shape] });
  const pieces = vocabularyPieces(shape, whole);
  const table = given.get("wte.weight")!.data;
  const frozen: Frozen = {
    tables: pieces.map(({ first, rows }) =>
      np.array(table.slice(first * hidden, (first + rows) * hidden), { shape: [rows, hidden] })
    ),
    weights: {},
  };
  given.delete("wte.weight");
  for (const [name, weight] of given) frozen.weights[name] = arrayOf(weight);
  const pairOf = ({ a, b }: LoraPair): Pair => ({ a: arrayOf(a), b: arrayOf(b) });
  let lora: Lora = loraWeights(shape).map(({ q, v }) => ({ q: pairOf(q), v: pairOf(v) }));
  let m = tree.map((x: np.Array) => np.zeros(x.shape), lora) as Lora;
  let v = tree.map((x: np.Array) => np.zeros(x.shape), lora) as Lora;
  const { tokens, targets } = batchOf(shape);

  const rowsOf = (ids: Uint32Array): Rows =>
    pieces.map(({ first, rows }) => ({
      local: np.array(Int32Array.from(ids, (id) => Math.min(Math.max(id - first, 0), rows - 1))),
      inside: np.array(Float32Array.from(ids, (id) => id >= first && id < first + rows ? 1 : 0), {
        shape: [ids.length, 1],
      }),
    }));
  const take = (tables: np.Array[], rows: Rows): np.Array =>
    rows.map(({ local, inside }, i) => {
      const part = np.take(tables[i]!.ref, local, 0);
      if (rows.length > 1) return part.mul(inside);
      inside.dispose();
      return part;
    }).reduce((a, b) => a.add(b));

  const lossOf = (lora: Lora, { tables, weights }: Frozen, tokenRows: Rows, targetRows: Rows): np.Array => {
    const w = (name: string) => weights[name]!.ref;
    const norm = (x: np.Array, name: string) =>
      nn.standardize(x, -1, { epsilon }).mul(w(`${name}.weight`)).add(w(`${name}.bias`));
    const linear = (x: np.Array, name: string) => np.matmul(x, w(`${name}.weight`)).add(w(`${name}.bias`));
    const delta = (x: np.Array, { a, b }: Pair) =>
      np.matmul(np.matmul(x, np.transpose(a)), np.transpose(b)).mul(ALPHA / RANK);
    const toHeads = (x: np.Array) => x.reshape([batch, length, heads, headSize]);
    let h = take(tables, tokenRows).reshape([batch, length, hidden]).add(w("wpe.weight").slice([0, length]))
      .reshape([places, hidden]);
    for (let l = 0; l < layers; l++) {
      const x = norm(h.ref, `h.${l}.ln_1`);
      const [q, k, v] = np.split(linear(x.ref, `h.${l}.attn.c_attn`), 3, 1) as [np.Array, np.Array, np.Array];
      const mixed = nn.dotProductAttention(
        toHeads(q.add(delta(x.ref, lora[l]!.q))),
        toHeads(k),
        toHeads(v.add(delta(x, lora[l]!.v))),
        { isCausal: true },
      ).reshape([places, hidden]);
      h = h.add(linear(mixed, `h.${l}.attn.c_proj`));
      const up = nn.gelu(linear(norm(h.ref, `h.${l}.ln_2`), `h.${l}.mlp.c_fc`));
      h = h.add(linear(up, `h.${l}.mlp.c_proj`));
    }
    const x = norm(h, "ln_f");
    const sums = tables.map((table) => nn.logsumexp(np.matmul(x.ref, np.transpose(table.ref)), 1));
    const total = sums.length === 1 ? sums[0]! : nn.logsumexp(np.stack(sums, 1), 1);
    // The logit of a target is a product of two rows: no need to pick it out of the logits.
    const loss = total.sub(x.mul(take(tables, targetRows)).sum(1)).mean();
    for (const array of [...tables, ...Object.values(weights)]) array.dispose();
    return loss;
  };

  const { learningRate, beta1, beta2, epsilon: adamEpsilon } = ADAM;
  /** `rates`: the learning rate over the first correction, and the second correction. */
  const update = jit(
    (lora: Lora, m: Lora, v: Lora, rates: np.Array, frozen: Frozen, tokenRows: Rows, targetRows: Rows) => {
      const [loss, gradient] = valueAndGrad(lossOf)(tree.ref(lora), frozen, tokenRows, targetRows) as [
        np.Array,
        Lora,
      ];
      const rate = rates.ref.slice(0);
      const second = rates.slice(1);
      const m2 = tree.map(
        (m: np.Array, g: np.Array) => m.mul(beta1).add(g.mul(1 - beta1)),
        m,
        tree.ref(gradient),
      ) as Lora;
      const v2 = tree.map(
        (v: np.Array, g: np.Array) => v.mul(beta2).add(np.square(g).mul(1 - beta2)),
        v,
        gradient,
      ) as Lora;
      const next = tree.map(
        (p: np.Array, m: np.Array, v: np.Array) =>
          p.sub(m.mul(rate.ref).div(np.sqrt(v.div(second.ref)).add(adamEpsilon))),
        lora,
        tree.ref(m2),
        tree.ref(v2),
      ) as Lora;
      rate.dispose();
      second.dispose();
      return { loss, next, m: m2, v: v2 };
    },
  );
  let count = 0;
  return {
    about,
    async step() {
      count++;
      const rates = np.array(new Float32Array([learningRate / (1 - beta1 ** count), 1 - beta2 ** count]));
      const result = update(lora, m, v, rates, tree.ref(frozen), rowsOf(tokens), rowsOf(targets));
      ({ next: lora, m, v } = result);
      const [loss] = await Promise.all([result.loss.data(), blockUntilReady(lora)]);
      return loss[0]!;
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

await runChild(start);
