/**
 * Times every kernel against what this machine can do: the bytes it must move and the arithmetic it must do, at the
 * rates that a copy and a chain of multiply-adds reach meanwhile, in turns with it.
 *
 * Usage: `deno run -A bench/kernels.ts [FILTER]`
 *
 * @module
 */

import {
  adamw,
  adamwControl,
  addColumnSums,
  addScaled,
  attention,
  attentionBackward,
  clipScale,
  conv3x3,
  crossEntropy,
  defineKernel,
  dropout,
  embeddingGather,
  embeddingScatterAdd,
  Engine,
  extendCache,
  gated,
  gatedBackward,
  gatherHeadColumns,
  greedyPruneOnGpu,
  headGradient,
  headNorm,
  headNormBackward,
  headProduct,
  layerNorm,
  layerNormBackward,
  loraNorms,
  matmul,
  PackedMatrix,
  relu,
  rmsNorm,
  rmsNormBackward,
  rope,
  ropeTable,
  scatterAddHeadColumns,
  segmentChange,
  segmentNorms,
  sigmoidLoss,
  type Tensor,
} from "@edgetuner/kernels";

/** Tokens, hidden size, heads, vocabulary, rank: two sequences of GPT-2 small's shape, with a short vocabulary. */
const [T, LENGTH, D, H, V, R] = [256, 128, 768, 12, 4096, 8];
const HEAD = D / H;
const ROUNDS = 40;

/** One op: what it must move and compute, and how it is run. */
interface Op {
  readonly name: string;
  /** Bytes of all inputs and outputs, each once. */
  readonly bytes: number;
  /** Additions and multiplications; an exponential counts as one. */
  readonly flops: number;
  /** Runs it; what it returns is disposed. */
  run(): readonly Tensor[] | Promise<readonly Tensor[]>;
}

const FMA_LOOPS = 2048;
const FMA_INVOCATIONS = 4096;
const fmaKernel = defineKernel({
  name: "fma_peak",
  file: "(bench)",
  source: `
struct Parameters { loops: u32 }
@group(0) @binding(0) var<storage, read_write> out: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let x = vec4f(f32(id.x) * 1e-9 + 0.999);
  var a = mat4x4f(x, x, x, x);
  var b = a;
  for (var i = 0u; i < p.loops; i++) {
    a = mat4x4f(a[0] * x + x, a[1] * x + x, a[2] * x + x, a[3] * x + x);
    b = mat4x4f(b[0] * x + x, b[1] * x + x, b[2] * x + x, b[3] * x + x);
  }
  out[id.x] = a[0] + a[1] + a[2] + a[3] + b[0] + b[1] + b[2] + b[3];
}`,
  bindings: ["out"],
  parameters: ["loops"],
});

/** Best milliseconds of each of some runs, which take turns; the first round compiles. */
async function inTurns(engine: Engine, runs: readonly Op["run"][]): Promise<number[]> {
  const best = runs.map(() => Infinity);
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [i, run] of runs.entries()) {
      await engine.idle();
      const started = performance.now();
      const made = await run();
      await engine.idle();
      if (round > 0) best[i] = Math.min(best[i]!, performance.now() - started);
      for (const tensor of made) tensor.dispose();
    }
  }
  return best;
}

/** What one op took, and what the machine could do meanwhile. */
interface Measured {
  readonly ms: number;
  /** Bytes a millisecond of a copy, read and written. */
  readonly bytes: number;
  /** Additions and multiplications a millisecond. */
  readonly flops: number;
}

/** Measures ops, each in turns with a copy and a chain of multiply-adds. */
async function measure(engine: Engine, ops: readonly Op[]): Promise<Measured[]> {
  using from = engine.zeros(4096, 1024, "copied");
  using to = engine.zeros(4096, 1024, "copy");
  using sums = engine.zeros(FMA_INVOCATIONS, 4, "sums");
  const copy = () => (engine.copy(from, to), []);
  const fma = () => {
    engine.dispatch(fmaKernel, {
      bindings: { out: sums },
      parameters: { loops: FMA_LOOPS },
      workgroups: [FMA_INVOCATIONS / 64],
    });
    return [];
  };
  const all: Measured[] = [];
  for (const op of ops) {
    const [wait, copied, added, own] = await inTurns(engine, [() => [], copy, fma, () => op.run()]);
    all.push({
      ms: Math.max(own! - wait!, 1e-3),
      bytes: 2 * from.bytes / (copied! - wait!),
      flops: FMA_INVOCATIONS * FMA_LOOPS * 2 * 16 * 2 / (added! - wait!),
    });
  }
  return all;
}

function random(count: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, () => Math.random() - 0.5);
}

/** Matrix products, plain, packed and of head modules. */
function products(engine: Engine): Op[] {
  const x = engine.upload(random(T * D), T, D);
  const w = engine.upload(random(D * D), D, D);
  const out = engine.tensor(T, D);
  const plain = (name: string, run: () => Tensor, bytes = (2 * T * D + D * D) * 4): Op => ({
    name,
    bytes,
    flops: 2 * T * D * D,
    run: () => (run(), []),
  });
  const weights = engine.tensor(D, D);
  const ops = [
    plain("matmul, A B", () => matmul(x, w, { out })),
    plain("matmul, A B^T", () => matmul(x, w, { transposeB: true, out })),
  ];
  const dy = engine.upload(random(T * D), T, D);
  ops.push(plain("matmul, A^T B", () => matmul(x, dy, { transposeA: true, out: weights })));
  for (const [format, bits] of [["f16", 16], ["int8", 8.5], ["int4", 5]] as const) {
    const packed = new PackedMatrix(engine, { format, rows: D, columns: D, groupsAlong: "columns" }, format);
    packed.write(0, random(D * D));
    const bytes = 2 * T * D * 4 + D * D * bits / 8;
    ops.push(plain(`matmul by ${format}, A B^T`, () => matmul(x, packed, { transposeB: true, out }), bytes));
  }
  const heads = engine.upload(Uint32Array.from({ length: H }, (_, h) => h), 1, H);
  const blocks = engine.upload(random(H * T * HEAD), H * T, HEAD);
  const size = R * HEAD;
  const arena = engine.upload(random(H * 2 * size), H, 2 * size);
  const a = { rows: R, columns: HEAD, first: 0, segment: 2 * size };
  const narrow = engine.upload(random(H * T * R), H * T, R);
  const columns = { first: 0, headSize: HEAD, heads };
  ops.push(
    packedGather(engine),
    {
      name: "head_product",
      bytes: (H * T * (HEAD + R) + H * size) * 4,
      flops: 2 * H * T * R * HEAD,
      run: () => [headProduct({ x: blocks, arena, matrix: a, heads, transpose: true })],
    },
    {
      name: "head_gradient",
      bytes: (H * T * (HEAD + R) + H * size) * 4,
      flops: 2 * H * T * R * HEAD,
      run: () => (headGradient({ a: narrow, b: blocks, heads, arena, matrix: a, length: T }), []),
    },
    { name: "head_columns, gather", bytes: 8 * T * D, flops: 0, run: () => [gatherHeadColumns(x, columns)] },
    {
      name: "head_columns, scatter",
      bytes: 12 * T * D,
      flops: T * D,
      run: () => (scatterAddHeadColumns(blocks, x, columns), []),
    },
    {
      name: "lora_norms",
      bytes: H * 2 * size * 4,
      flops: 2 * H * R * R * 2 * HEAD,
      run: () => [loraNorms([arena], { targets: 1, rank: R, inputs: HEAD, outputs: HEAD, scale: 1 })],
    },
  );
  return ops;
}

/** Rows of a packed table. */
function packedGather(engine: Engine): Op {
  const table = new PackedMatrix(engine, {
    format: "int8",
    rows: V,
    columns: D,
    groupsAlong: "columns",
  }, "table");
  table.write(0, random(V * D));
  const ids = Uint32Array.from({ length: T }, (_, t) => (t * 37) % V);
  return {
    name: "packed_gather",
    bytes: T * D * (8.5 / 8 + 4),
    flops: T * D,
    run: () => [embeddingGather(table, ids)],
  };
}

/** What works row by row. */
function rowWise(engine: Engine): Op[] {
  const x = engine.upload(random(T * D), T, D);
  const dy = engine.upload(random(T * D), T, D);
  const gamma = engine.upload(random(D), 1, D);
  const sum = engine.zeros(1, D);
  const norm = layerNorm(x, gamma, gamma, 1e-5);
  const rms = rmsNorm(x, gamma, 1e-5);
  const logits = engine.upload(random(T * V), T, V);
  const targets = engine.upload(Uint32Array.from({ length: T }, (_, t) => t), 1, T);
  const weights = engine.upload(new Float32Array(T).fill(1 / T), 1, T);
  const loss = { chunks: [{ logits, first: 0 }], targets, weights, vocabulary: V, smoothing: 0.1 };
  const n = T * D;
  return [
    {
      name: "layer_norm",
      bytes: 8 * n,
      flops: 8 * n,
      run: () => {
        const { y, statistics } = layerNorm(x, gamma, gamma, 1e-5);
        return [y, statistics];
      },
    },
    {
      name: "layer_norm, back",
      bytes: 12 * n,
      flops: 14 * n,
      run: () => [layerNormBackward({ x, gamma, statistics: norm.statistics, dy })],
    },
    {
      name: "rms_norm",
      bytes: 8 * n,
      flops: 4 * n,
      run: () => {
        const { y, statistics } = rmsNorm(x, gamma, 1e-5);
        return [y, statistics];
      },
    },
    {
      name: "rms_norm, back",
      bytes: 12 * n,
      flops: 8 * n,
      run: () => [rmsNormBackward({ x, gamma, statistics: rms.statistics, dy })],
    },
    ...headNorms(engine, { x, dy, gains: engine.upload(random(2 * HEAD), 1, 2 * HEAD) }),
    { name: "column_sums", bytes: 4 * n, flops: n, run: () => (addColumnSums(dy, sum), []) },
    {
      name: "cross_entropy",
      bytes: 4 * T * V,
      flops: 5 * T * V,
      run: () => [crossEntropy({ ...loss, gradient: false })],
    },
    {
      name: "cross_entropy with gradient",
      bytes: 12 * T * V,
      flops: 10 * T * V,
      run: () => [crossEntropy({ ...loss, gradient: true })],
    },
  ];
}

/** Norms of heads: of the 12 of a row, the first 8 are queries and 2 keys. */
function headNorms(
  engine: Engine,
  { x, dy, gains }: { readonly x: Tensor; readonly dy: Tensor; readonly gains: Tensor },
): Op[] {
  const [heads, kvHeads] = [8, 2];
  const options = { gains, heads, kvHeads, epsilon: 1e-6 };
  const n = T * (heads + kvHeads) * HEAD;
  const gradient = engine.tensor(T, D);
  engine.copy(dy, gradient);
  return [
    { name: "head_norm", bytes: 8 * T * D, flops: 4 * n, run: () => [headNorm(x, options)] },
    {
      name: "head_norm, back",
      bytes: 12 * n,
      flops: 8 * n,
      run: () => (headNormBackward(x, gradient, options), []),
    },
  ];
}

/** What works element by element, and look-ups. */
function elementWise(engine: Engine): Op[] {
  const n = T * D;
  const [x, y, z] = [1, 2, 3].map(() => engine.upload(random(n), T, D)) as [Tensor, Tensor, Tensor];
  const one = engine.upload(Uint32Array.of(0), 1, 1);
  const ids = Uint32Array.from({ length: T }, (_, t) => (t * 37) % V);
  const table = engine.upload(random(V * D), V, D);
  const angles = ropeTable(engine, random(HEAD / 2), LENGTH);
  const control = engine.upload(adamwControl([1], 0.9, 0.999), 1, 4);
  const adam = { rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 0 };
  const [m, v] = [engine.zeros(T, D), engine.zeros(T, D)];
  const [cin, cout, side] = [8, 16, 12];
  const maps = engine.upload(random(16 * cin * side * side), 16, cin * side * side);
  const filter = engine.upload(random(cout * cin * 9), cout, cin * 9);
  const bias = engine.zeros(1, cout);
  const places = 16 * side * side;
  const part = { offset: y, target: z, weight: y, total: 1 };
  return [
    { name: "add_scaled", bytes: 12 * n, flops: 2 * n, run: () => (addScaled(x, y, 0.5), []) },
    { name: "relu", bytes: 8 * n, flops: n, run: () => (relu(z), []) },
    ...(["silu", "gelu"] as const).flatMap((activation): Op[] => [
      {
        name: `gated, ${activation}`,
        bytes: 12 * n,
        flops: (activation === "silu" ? 5 : 11) * n,
        run: () => [gated(x, y, activation)],
      },
      {
        name: `gated, ${activation}, back`,
        bytes: 20 * n,
        flops: (activation === "silu" ? 10 : 20) * n,
        run: () => Object.values(gatedBackward({ gate: x, up: y }, z, activation)),
      },
    ]),
    {
      name: "rope",
      bytes: 8 * n,
      flops: 3 * n,
      run: () => (rope(x, { table: angles, heads: H, length: LENGTH }), []),
    },
    {
      name: "dropout",
      bytes: 8 * n,
      flops: 8 * n,
      run: () => [dropout(x, one, { rate: 0.1, seed: 1, step: 0, layer: 0 })],
    },
    {
      name: "adamw",
      bytes: 28 * n,
      flops: 14 * n,
      run: () => (adamw({ parameters: x, gradients: y, m, v }, { segment: n, control }, adam), []),
    },
    {
      name: "segment_norms",
      bytes: 4 * n,
      flops: 2 * n,
      run: () => [
        segmentNorms(y, { segment: D, control: engine.upload(new Float32Array(T * 4).fill(1), T, 4) }),
      ],
    },
    ...segments(engine, x, y),
    { name: "embedding_gather", bytes: 8 * n, flops: 0, run: () => [embeddingGather(table, ids)] },
    {
      name: "embedding_scatter",
      bytes: 12 * n,
      flops: n,
      run: () => (embeddingScatterAdd(x, ids, table), []),
    },
    { name: "sigmoid_loss", bytes: 24 * n, flops: 12 * n, run: () => Object.values(sigmoidLoss(x, part)) },
    {
      name: "conv3x3",
      bytes: 4 * places * (cin + cout),
      flops: 18 * places * cin * cout,
      run: () => [conv3x3(maps, { weight: filter, bias, height: side, width: side })],
    },
  ];
}

/** What works segment by segment beside `segment_norms`. */
function segments(engine: Engine, x: Tensor, y: Tensor): Op[] {
  const n = T * D;
  const control = engine.upload(new Float32Array(T * 4).fill(1), T, 4);
  return [
    {
      name: "segment_change",
      bytes: 8 * n,
      flops: 5 * n,
      run: () => [segmentChange(x, y, { segment: D, control })],
    },
    { name: "clip_scale", bytes: 4 * n, flops: 2 * n, run: () => [clipScale(engine, [x], 1)] },
  ];
}

/** A token for each of 8 sequences of 127, in generation: all rows go to other places. */
function caches(engine: Engine): Op[] {
  const rows = 8;
  const start = () => {
    const qkv = engine.zeros(rows * (LENGTH - 1), 3 * D);
    const cache = extendCache({ cache: null, qkv, columns: 2 * D, parents: null, rows, slotStep: LENGTH });
    qkv.dispose();
    return cache;
  };
  let cache = start();
  const qkv = engine.upload(random(rows * 3 * D), rows, 3 * D);
  const parents = Array.from({ length: rows }, (_, r) => rows - 1 - r);
  return [{
    name: "extend_cache",
    bytes: 2 * rows * LENGTH * 2 * D * 4,
    flops: 0,
    run: () => {
      cache = {
        ...extendCache({ cache, qkv, columns: 2 * D, parents, rows, slotStep: LENGTH }),
        length: LENGTH - 1,
      };
      return [];
    },
  }];
}

/** The decision of a step, with its readback: each round of a layer looks at all of its heads. */
function pruning(engine: Engine): Op[] {
  const options = {
    layers: 12,
    heads: H,
    sBase: random(12 * H).map(Math.abs),
    headsPerDevice: [8, 4],
    capacities: [2, 1],
    tau: 0.7,
  };
  return [{
    name: "greedy",
    bytes: 3 * 4 * 12 * H,
    flops: 2 * 12 * H * H,
    run: async () => (await greedyPruneOnGpu(engine, options), []),
  }];
}

/** Attention, causal: half of the products count. */
function attentions(engine: Engine): Op[] {
  const shape = { batch: T / LENGTH, length: LENGTH, heads: H };
  const qkv = engine.upload(random(T * 3 * D), T, 3 * D);
  const { output, logSums } = attention(qkv, shape);
  const dOutput = engine.upload(random(T * D), T, D);
  const product = 2 * T * LENGTH * D / 2;
  const scores = T * LENGTH * H;
  return [
    {
      name: "attention",
      bytes: 4 * (4 * T * D + 4 * scores),
      flops: 2 * product + 5 * scores / 2,
      run: () => {
        const result = attention(qkv, shape);
        return [result.output, result.logSums];
      },
    },
    {
      name: "attention, back",
      bytes: 4 * (8 * T * D + 8 * scores),
      flops: 5 * product + 8 * scores / 2,
      run: () => [attentionBackward({ ...shape, qkv, output, logSums, dOutput })],
    },
  ];
}

if (import.meta.main) {
  using engine = await Engine.create();
  const filter = Deno.args[0] ?? "";
  const all = [products, attentions, caches, rowWise, elementWise, pruning].flatMap((ops) => ops(engine));
  const ops = all.filter(({ name }) => name.includes(filter));
  const measured = await measure(engine, ops);
  const [bytes, flops] = [
    Math.max(...measured.map((m) => m.bytes)),
    Math.max(...measured.map((m) => m.flops)),
  ];
  console.log(
    `${engine.adapterName}: copy up to ${(bytes / 1e6).toFixed(1)} GB/s, multiply-add up to ${
      (flops / 1e6).toFixed(0)
    } GFLOP/s\n`,
  );
  console.log("| op | MB | MFLOP | ms | of the limit |\n| --- | --- | --- | --- | --- |");
  ops.forEach((op, i) => {
    const { ms, bytes, flops } = measured[i]!;
    const limit = Math.max(op.bytes / bytes, op.flops / flops);
    const [mb, mflop] = [(op.bytes / 1e6).toFixed(1), (op.flops / 1e6).toFixed(1)];
    console.log(`| ${op.name} | ${mb} | ${mflop} | ${ms.toFixed(2)} | ${Math.round(100 * limit / ms)} % |`);
  });
}
