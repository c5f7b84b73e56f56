/**
 * What every system computes: the two model shapes, and weights and batches drawn from a seed.
 *
 * B batch, T tokens of a sequence, N = B * T, H heads, d hidden size, V vocabulary, L layers, r rank.
 *
 * @module
 */

/** Shape of a model and of a batch, named as in GPT-2's `config.json`. */
export interface StepShape {
  /** L */
  readonly n_layer: number;
  /** d */
  readonly n_embd: number;
  /** H */
  readonly n_head: number;
  /** V */
  readonly vocab_size: number;
  /** Longest sequence. */
  readonly n_positions: number;
  /** Added to variances. */
  readonly layer_norm_epsilon: number;
  /** B */
  readonly batch: number;
  /** T */
  readonly length: number;
}

/** The shapes by name. */
export const SHAPES: Readonly<Record<string, StepShape>> = {
  A: {
    n_layer: 4,
    n_embd: 128,
    n_head: 4,
    vocab_size: 512,
    n_positions: 64,
    layer_norm_epsilon: 1e-5,
    batch: 8,
    length: 64,
  },
  B: {
    n_layer: 2,
    n_embd: 768,
    n_head: 12,
    vocab_size: 50257,
    n_positions: 128,
    layer_norm_epsilon: 1e-5,
    batch: 1,
    length: 128,
  },
};

/** r, rank of the LoRA matrices. */
export const RANK = 8;
/** Deltas are multiplied by ALPHA / RANK. */
export const ALPHA = 32;
/** Adam's settings; no weight decay. */
export const ADAM = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

/** A weight. */
export interface Weight {
  /** Shape. */
  readonly shape: readonly number[];
  /** Values, row-major. */
  readonly data: Float32Array<ArrayBuffer>;
}

/** Numbers in [0, 1), the same for the same seed (mulberry32). */
function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Uniform numbers of a standard deviation. */
function drawn(shape: readonly number[], deviation: number, seed: number): Weight {
  const random = randomNumbers(seed);
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  const width = deviation * Math.sqrt(12);
  for (let i = 0; i < data.length; i++) data[i] = (random() - 0.5) * width;
  return { shape, data };
}

/**
 * The frozen weights by their names in a checkpoint. Larger than those that training starts from, so
 * that a mistake anywhere in the model shows in the loss.
 */
export function frozenWeights(shape: StepShape): Map<string, Weight> {
  const { n_embd: d, n_layer, vocab_size, n_positions } = shape;
  const weights = new Map<string, Weight>();
  const add = (name: string, dimensions: number[], deviation: number, mean = 0) => {
    const weight = drawn(dimensions, deviation, 1000 + weights.size);
    if (mean !== 0) weight.data.forEach((value, i) => weight.data[i] = value + mean);
    weights.set(name, weight);
  };
  add("wte.weight", [vocab_size, d], 1 / Math.sqrt(d));
  add("wpe.weight", [n_positions, d], 0.5 / Math.sqrt(d));
  for (let l = 0; l < n_layer; l++) {
    for (const norm of ["ln_1", "ln_2"]) {
      add(`h.${l}.${norm}.weight`, [d], 0.1, 1);
      add(`h.${l}.${norm}.bias`, [d], 0.1);
    }
    const products = [["attn.c_attn", d, 3 * d], ["attn.c_proj", d, d], ["mlp.c_fc", d, 4 * d], [
      "mlp.c_proj",
      4 * d,
      d,
    ]] as const;
    for (const [name, inputs, outputs] of products) {
      add(`h.${l}.${name}.weight`, [inputs, outputs], 1 / Math.sqrt(inputs));
      add(`h.${l}.${name}.bias`, [outputs], 0.1);
    }
  }
  add("ln_f.weight", [d], 0.1, 1);
  add("ln_f.bias", [d], 0.1);
  return weights;
}

/** LoRA matrices of one projection: Delta = (alpha / r) x A^T B^T. */
export interface LoraPair {
  /** [r, d] */
  readonly a: Weight;
  /** [d, r]; not zero, so that the loss of step 0 depends on it. */
  readonly b: Weight;
}

/** The LoRA matrices of every layer's Q and V. */
export function loraWeights(
  { n_layer, n_embd: d }: StepShape,
): { readonly q: LoraPair; readonly v: LoraPair }[] {
  const pair = (seed: number): LoraPair => ({
    a: drawn([RANK, d], 1 / Math.sqrt(d), seed),
    b: drawn([d, RANK], 0.1 / Math.sqrt(RANK), seed + 1),
  });
  return Array.from({ length: n_layer }, (_, l) => ({ q: pair(9000 + 4 * l), v: pair(9002 + 4 * l) }));
}

/** Tokens and what follows each, [N] both. */
export interface Batch {
  /** Token of each place. */
  readonly tokens: Uint32Array<ArrayBuffer>;
  /** The token that follows. */
  readonly targets: Uint32Array<ArrayBuffer>;
}

/** The batch of every step: always the same, so that the loss has to fall. */
export function batchOf({ vocab_size, batch, length }: StepShape): Batch {
  const random = randomNumbers(77);
  const draw = () => Uint32Array.from({ length: batch * length }, () => Math.floor(random() * vocab_size));
  return { tokens: draw(), targets: draw() };
}

/** Bytes that one storage binding holds on adapters with WebGPU's default limits. */
const BINDING_BYTES = 128 * 2 ** 20;

/** Rows of the vocabulary table [V, d] in equal pieces that fit a binding; one piece if `whole`. */
export function vocabularyPieces(
  { vocab_size, n_embd }: StepShape,
  whole: boolean,
): { readonly first: number; readonly rows: number }[] {
  const count = whole ? 1 : Math.ceil(vocab_size * n_embd * 4 / BINDING_BYTES);
  const most = Math.ceil(vocab_size / count);
  return Array.from({ length: count }, (_, i) => ({
    first: i * most,
    rows: Math.min(most, vocab_size - i * most),
  }));
}

/** A matrix product of a step: op(A) [m, k] op(B) [k, n], `count` times. */
export interface Product {
  /** Rows of the result. */
  readonly m: number;
  /** Inner length. */
  readonly k: number;
  /** Columns of the result. */
  readonly n: number;
  /** Which operand is stored transposed. */
  readonly form: ProductForm;
  /** Times a step. */
  readonly count: number;
}

/** Neither operand stored transposed, the second, or the first. */
export type ProductForm = "NN" | "NT" | "TN";

/** The products by frozen weights in a step; layer 0 needs no gradient of its input. */
export function stepProducts({ n_layer, n_embd: d, vocab_size, batch, length }: StepShape): Product[] {
  const m = batch * length;
  const pairs = [[d, 3 * d, n_layer - 1], [d, d, n_layer], [d, 4 * d, n_layer], [4 * d, d, n_layer]] as const;
  return [
    ...pairs.flatMap(([k, n, backward]): Product[] => [
      { m, k, n, form: "NN", count: n_layer },
      { m, k: n, n: k, form: "NT", count: backward },
    ]),
    { m, k: d, n: vocab_size, form: "NT", count: 1 },
    { m, k: vocab_size, n: d, form: "NN", count: 1 },
  ];
}

/** Floating-point operations of a product. */
export function flopsOf({ m, k, n, count }: Product): number {
  return 2 * m * k * n * count;
}

/**
 * Floating-point operations that a step cannot do without: the products by frozen weights, standard
 * LoRA (forward, and backward by input and by weight), and the lower triangle of the attention (two
 * products forward, four backward). Nothing that is not a product is counted.
 */
export function stepFlops(shape: StepShape): number {
  const { n_layer, n_embd: d, batch, length } = shape;
  const frozen = stepProducts(shape).reduce((sum, product) => sum + flopsOf(product), 0);
  const lora = 3 * 2 * 2 * 2 * batch * length * d * RANK * n_layer;
  const attention = 6 * 2 * batch * length * length / 2 * d * n_layer;
  return frozen + lora + attention;
}
