/**
 * Adapters in the format of PEFT (Hugging Face), and merged into the base model.
 *
 * d hidden size, D head size, H heads, H_kv key and value heads, r rank of a head module, c targets.
 *
 * A set of head modules is exactly one standard LoRA: A has the rows of all head modules one below
 * the other (in slice mode with zeros outside a head's columns), B is block diagonal, and the scale
 * stays alpha / r as `lora_alpha` grows with the rank.
 *
 * @module
 */

import { readJson } from "../files/json_file.ts";
import { showValue } from "../contracts/plain_text.ts";
import { finitePieces, requireFiniteValues } from "../files/finite_values.ts";
import { LazyArrays } from "../files/lazy_arrays.ts";
import { shapesOf, streamed } from "../files/streaming.ts";
import { PendingFolder, writeWhole } from "../files/atomic.ts";
import { loadSafetensors, saveSafetensors } from "../files/safetensors.ts";
import { CheckpointError } from "../contracts/errors.ts";
import type { NamedArray, NamedArrays } from "../files/named_arrays.ts";
import type { Adapter } from "./adapter.ts";
import { INPUT_MODES } from "./input_modes.ts";
import { LORA_TARGETS, type LoraTarget } from "./settings.ts";

/** Families whose names are known. */
export type ModelFamily = "gpt2" | "opt" | "llama";

/** What of `adapter_config.json` matters. */
export interface PeftConfig {
  /** Always "LORA". */
  readonly peft_type: "LORA";
  /** Rank. */
  readonly r: number;
  /** Scale numerator. */
  readonly lora_alpha: number;
  /** Dropout while training. */
  readonly lora_dropout: number;
  /** Adapted modules, by the end of their names. */
  readonly target_modules: readonly string[];
  /** True if the base stores its weights [in, out], as GPT-2 does. */
  readonly fan_in_fan_out: boolean;
  /** The scale is alpha / sqrt(r) if true. */
  readonly use_rslora: boolean;
  /** Further fields, as PEFT writes them. */
  readonly [name: string]: unknown;
}

/** An adapter as PEFT keeps it. */
export interface PeftAdapter {
  /** `adapter_config.json`. */
  readonly config: PeftConfig;
  /** A [r, in] and B [out, r] of every adapted module, by PEFT's names. */
  readonly arrays: NamedArrays;
}

/** A module that LoRA adapts: a part of it for each target it holds. */
interface Module {
  /** Name without PEFT's prefix and suffix. */
  readonly name: string;
  /** Rows of B of the whole module. */
  readonly outputs: number;
  /** Targets and where their rows begin. */
  readonly targets: readonly { readonly target: LoraTarget; readonly first: number }[];
}

/** Shape of the model an adapter is for. */
export interface PeftModelShape {
  /** L, layers. */
  readonly layers: number;
  /** H, heads per layer. */
  readonly heads: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** H_kv, key and value heads; head h uses floor(h H_kv / H). @default {heads} */
  readonly kvHeads?: number | undefined;
}

function modulesOf(family: ModelFamily, shape: PeftModelShape, layer: number): Module[] {
  const { hidden, heads, kvHeads = heads } = shape;
  if (family === "gpt2") {
    return [{
      name: `transformer.h.${layer}.attn.c_attn`,
      outputs: 3 * hidden,
      targets: LORA_TARGETS.map((target, i) => ({ target, first: i * hidden })),
    }];
  }
  const prefix = family === "opt" ? "model.decoder.layers" : "model.layers";
  return LORA_TARGETS.map((target) => ({
    name: `${prefix}.${layer}.self_attn.${target}_proj`,
    outputs: target === "q" ? hidden : kvHeads * (hidden / heads),
    targets: [{ target, first: 0 }],
  }));
}

const fullName = (module: string, matrix: "A" | "B") => `base_model.model.${module}.lora_${matrix}.weight`;

/** First row, within a target's rows, that head `h` of a target writes to. */
function rowOf(target: LoraTarget, head: number, shape: PeftModelShape): number {
  const { hidden, heads, kvHeads = heads } = shape;
  const owner = target === "q" ? head : Math.floor(head * kvHeads / heads);
  return owner * (hidden / heads);
}

/**
 * Turns head modules into one PEFT adapter, without loss.
 *
 * @param adapter Head modules of every head, as `joinAdapters` returns them.
 * @param family Decides names and `fan_in_fan_out`.
 * @param kvHeads H_kv of the model. @default {heads}
 * @throws {CheckpointError} If a head module is missing.
 */
export function toPeft(adapter: Adapter, family: ModelFamily, kvHeads?: number): PeftAdapter {
  const { lora } = adapter;
  const shape: PeftModelShape = { ...adapter.model, kvHeads };
  const { layers, heads, hidden } = shape;
  const headSize = hidden / heads;
  const input = INPUT_MODES[lora.mode];
  const inputs = input.columns(shape);
  const arrays = new Map<string, NamedArray>();
  let rank = 0;
  for (let layer = 0; layer < layers; layer++) {
    for (const module of modulesOf(family, shape, layer)) {
      const targets = module.targets.filter(({ target }) => lora.targets.includes(target));
      if (targets.length === 0) continue;
      rank = targets.length * heads * lora.rank;
      const a = new Float32Array(rank * hidden);
      const b = new Float32Array(module.outputs * rank);
      let row = 0;
      for (const { target, first } of targets) {
        for (let head = 0; head < heads; head++, row += lora.rank) {
          const part = (matrix: "A" | "B") => {
            const name = `layer${layer}.head${head}.${target}.${matrix}`;
            const array = adapter.arrays.get(name);
            if (array === undefined) {
              throw new CheckpointError(
                `Cannot export the adapter as it must hold every head module: "${name}" is missing`,
              );
            }
            return array.data;
          };
          const column = input.firstColumn(head, shape);
          const [headA, headB] = [part("A"), part("B")];
          for (let i = 0; i < lora.rank; i++) {
            a.set(headA.subarray(i * inputs, (i + 1) * inputs), (row + i) * hidden + column);
          }
          const output = first + rowOf(target, head, shape);
          for (let i = 0; i < headSize; i++) {
            b.set(headB.subarray(i * lora.rank, (i + 1) * lora.rank), (output + i) * rank + row);
          }
        }
      }
      arrays.set(fullName(module.name, "A"), { shape: [rank, hidden], data: a });
      arrays.set(fullName(module.name, "B"), { shape: [module.outputs, rank], data: b });
    }
  }
  const config: PeftConfig = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: null,
    bias: "none",
    fan_in_fan_out: family === "gpt2",
    inference_mode: true,
    init_lora_weights: true,
    r: rank,
    lora_alpha: lora.alpha * rank / lora.rank,
    lora_dropout: lora.dropout,
    target_modules: family === "gpt2" ? ["c_attn"] : lora.targets.map((target) => `${target}_proj`),
    modules_to_save: null,
    use_dora: false,
    use_rslora: false,
  };
  return { config, arrays };
}

/** Largest rank of head modules. */
const MAX_RANK = 256;

function scaleOf({ r, lora_alpha, use_rslora }: PeftConfig): number {
  return lora_alpha / (use_rslora ? Math.sqrt(r) : r);
}

/** A and B of a module; `null` if the adapter leaves it alone. */
function matricesOf(
  { arrays, config }: PeftAdapter,
  module: Module,
  hidden: number,
): { readonly a: Float32Array; readonly b: Float32Array } | null {
  const a = arrays.get(fullName(module.name, "A"));
  const b = arrays.get(fullName(module.name, "B"));
  if (a === undefined && b === undefined) return null;
  const shapes = `[${a?.shape}] and [${b?.shape}]`;
  if (shapes !== `[${config.r},${hidden}] and [${module.outputs},${config.r}]`) {
    throw new CheckpointError(
      `Cannot use the adapter as A and B of ${module.name} must be [${config.r},${hidden}] and [${module.outputs},${config.r}]: they are ${shapes}`,
    );
  }
  return { a: a!.data, b: b!.data };
}

/** An adapter's parts, head by head. */
interface PeftHeads {
  readonly targets: readonly LoraTarget[];
  /** Calls back with each head module: A of the whole module, and the head's rows of B; `null` for zeros. */
  readonly each: (call: (name: string, a: Float32Array | null, b: Float32Array | null) => void) => void;
}

function headsOf(peft: PeftAdapter, family: ModelFamily, shape: PeftModelShape): PeftHeads {
  const { layers, heads, hidden, kvHeads = heads } = shape;
  const headSize = hidden / heads;
  const full = peft.config.r;
  const all = Array.from({ length: layers }, (_, layer) => modulesOf(family, shape, layer));
  const known = new Set(all.flat().flatMap(({ name }) => [fullName(name, "A"), fullName(name, "B")]));
  const foreign = [...peft.arrays.keys()].find((name) => !known.has(name));
  if (foreign !== undefined) {
    throw new CheckpointError(
      `Cannot import the adapter as it may adapt Q, K and V of ${layers} ${family} layers alone: it has "${foreign}"`,
    );
  }
  const targets = LORA_TARGETS.filter((target) =>
    all.flat().some((module) =>
      peft.arrays.has(fullName(module.name, "A")) && module.targets.some((t) => t.target === target)
    )
  );
  if (targets.length === 0) {
    throw new CheckpointError("Cannot import the adapter as it must adapt Q, K or V: it holds nothing");
  }
  const each: PeftHeads["each"] = (call) => {
    for (const [layer, modules] of all.entries()) {
      for (const module of modules) {
        const matrices = matricesOf(peft, module, hidden);
        for (const { target, first } of module.targets) {
          if (!targets.includes(target)) continue;
          for (let head = 0; head < heads; head++) {
            // Of the heads that share a key and value head, the first one has it all.
            const owns = target === "q" || head % (heads / kvHeads) === 0;
            const row = first + rowOf(target, head, shape);
            const b = matrices !== null && owns
              ? matrices.b.subarray(row * full, (row + headSize) * full)
              : null;
            call(`layer${layer}.head${head}.${target}`, matrices?.a ?? null, b);
          }
        }
      }
    }
  };
  return { targets, each };
}

/** The rank that head modules need for an adapter: its own, or if that is too much, what each head's B uses of it. */
function headRank(peft: PeftAdapter, { each }: PeftHeads): number {
  const full = peft.config.r;
  if (full <= MAX_RANK) return full;
  let rank = 1;
  each((_name, _a, b) => rank = Math.max(rank, usedColumns(b, full).length));
  return rank;
}

/**
 * Says whether head modules can have an adapter's rank, so that `fromPeft` can take it in.
 *
 * @throws {CheckpointError} If the adapter has other modules or another shape.
 */
export function fitsHeadModules(peft: PeftAdapter, family: ModelFamily, shape: PeftModelShape): boolean {
  return headRank(peft, headsOf(peft, family, shape)) <= MAX_RANK;
}

/**
 * Turns a PEFT LoRA of the attention's projections into head modules that read all of X (`full` mode):
 * each has the adapter's whole A and its own rows of B. Exact for any such adapter, `toPeft`'s included. Of one
 * with a rank above 256, the most that head modules can have, each takes the rows of A that its own B uses: in
 * what `toPeft` made of head modules, these are few.
 *
 * @throws {CheckpointError} If the adapter has a weight that is not finite, other modules, another shape, or a head whose B uses more than 256
 * rows of A.
 */
export function fromPeft(peft: PeftAdapter, family: ModelFamily, shape: PeftModelShape): Adapter {
  requireFiniteValues("import the adapter", peft.arrays);
  const { layers, heads, hidden } = shape;
  const headSize = hidden / heads;
  const full = peft.config.r;
  const found = headsOf(peft, family, shape);
  const rank = headRank(peft, found);
  if (rank > MAX_RANK) {
    throw new CheckpointError(
      `Cannot import the adapter as a head's B must use at most ${MAX_RANK} rows of A: current value is ${rank} of ${full}; reduce the rank first`,
    );
  }
  const arrays = new Map<string, NamedArray>();
  found.each((name, a, b) => {
    const [shapeA, shapeB] = [[rank, hidden], [headSize, rank]];
    if (full <= MAX_RANK) {
      arrays.set(`${name}.A`, { shape: shapeA, data: a ?? new Float32Array(rank * hidden) });
      arrays.set(`${name}.B`, { shape: shapeB, data: b ?? new Float32Array(headSize * rank) });
      return;
    }
    const [dataA, dataB] = [new Float32Array(rank * hidden), new Float32Array(headSize * rank)];
    for (const [to, from] of usedColumns(b, full).entries()) {
      dataA.set(a!.subarray(from * hidden, (from + 1) * hidden), to * hidden);
      for (let i = 0; i < headSize; i++) dataB[i * rank + to] = b![i * full + from]!;
    }
    arrays.set(`${name}.A`, { shape: shapeA, data: dataA });
    arrays.set(`${name}.B`, { shape: shapeB, data: dataB });
  });
  return {
    lora: {
      mode: "full",
      targets: found.targets,
      rank,
      alpha: scaleOf(peft.config) * rank,
      dropout: peft.config.lora_dropout,
    },
    model: { layers, heads, hidden },
    fingerprint: "",
    arrays,
  };
}

/** Columns of a head's rows of B, [D, rank], that are not all zero. */
function usedColumns(b: Float32Array | null, rank: number): number[] {
  if (b === null) return [];
  const used = new Uint8Array(rank);
  for (let i = 0; i < b.length; i++) if (b[i] !== 0) used[i % rank] = 1;
  return [...used.keys()].filter((k) => used[k] === 1);
}

const MERGE = "merge the adapter";

/**
 * Adds an adapter to the base model's weights: W + scale * B A.
 *
 * @param weights The checkpoint; not changed.
 * @returns The merged weights, each computed when it is read.
 * @throws {CheckpointError} If an adapted weight is missing, or one of the adapter is not finite; on reading, if it
 * has another shape, or if a weight of the model, before or after, is not finite.
 */
export function mergePeft(
  weights: NamedArrays,
  peft: PeftAdapter,
  family: ModelFamily,
  shape: PeftModelShape,
): NamedArrays {
  requireFiniteValues(MERGE, peft.arrays);
  const finite = (name: string, array: NamedArray): NamedArray => {
    requireFiniteValues(MERGE, new Map([[name, array]]), from(name));
    return array;
  };
  const from = (name: string) => streamed(weights, name)?.from;
  const { hidden } = shape;
  const { r: rank } = peft.config;
  const scale = scaleOf(peft.config);
  const changes = new Map<string, (array: NamedArray) => NamedArray>();
  for (let layer = 0; layer < shape.layers; layer++) {
    for (const module of modulesOf(family, shape, layer)) {
      const matrices = matricesOf(peft, module, hidden);
      if (matrices === null) continue;
      // Some files leave out the name of the whole model.
      const names = [module.name, module.name.replace(/^(transformer|model)\./, "")].map((n) =>
        `${n}.weight`
      );
      const name = names.find((n) => weights.has(n));
      const [rows, columns] = family === "gpt2" ? [hidden, module.outputs] : [module.outputs, hidden];
      const refuse = (is: string): never => {
        throw new CheckpointError(
          `Cannot merge the adapter as the model must hold "${names[0]}" [${rows},${columns}]: it ${is}`,
        );
      };
      if (name === undefined) return refuse("does not");
      changes.set(name, (base) => {
        finite(name, base);
        if (base.shape.join() !== `${rows},${columns}`) refuse(`is [${base.shape}]`);
        const data = base.data.slice();
        const row = new Float64Array(hidden);
        for (let o = 0; o < module.outputs; o++) {
          row.fill(0);
          for (let k = 0; k < rank; k++) {
            const b = matrices.b[o * rank + k]!;
            if (b === 0) continue;
            const a = matrices.a.subarray(k * hidden, (k + 1) * hidden);
            for (let i = 0; i < hidden; i++) row[i]! += b * a[i]!;
          }
          for (let i = 0; i < hidden; i++) {
            data[family === "gpt2" ? i * module.outputs + o : o * hidden + i]! += scale * row[i]!;
          }
        }
        return finite(name, { shape: base.shape, data });
      });
    }
  }
  const shapes = shapesOf(weights);
  return new LazyArrays(weights.keys(), {
    make: (name) => {
      const array = weights.get(name)!;
      return changes.get(name)?.(array) ?? finite(name, array);
    },
    shape: (name) => shapes.get(name)!,
    pieces: (name, unit) => {
      const change = changes.get(name);
      return change === undefined
        ? finitePieces(name, streamed(weights, name)!, unit, MERGE)
        : [change(weights.get(name)!).data];
    },
    from,
  });
}

/**
 * Approximates an adapter by one of smaller rank: the best one in the Frobenius norm, module by
 * module, by singular values.
 *
 * @param peft The adapter.
 * @param rank The new rank.
 * @returns The smaller adapter, and ||change||_F / ||B A||_F over all modules together.
 * @throws {RangeError} If the rank is not from 1 to the present one.
 */
export async function reduceRank(
  peft: PeftAdapter,
  rank: number,
): Promise<{ readonly peft: PeftAdapter; readonly error: number }> {
  const { r } = peft.config;
  if (!Number.isInteger(rank) || rank < 1 || rank > r) {
    throw new RangeError(
      `Cannot reduce the rank as it must be an integer from 1 to ${r}: current value is ${rank}`,
    );
  }
  const { Matrix, QrDecomposition, SingularValueDecomposition } = await import("ml-matrix");
  const matrixOf = ({ shape: [rows, columns], data }: NamedArray) =>
    Matrix.from1DArray(rows!, columns!, data);
  // A tall matrix as orthonormal columns times a small square one; a wide one as it is.
  const split = (m: InstanceType<typeof Matrix>) => {
    if (m.rows <= m.columns) return { q: Matrix.eye(m.rows), r: m };
    const qr = new QrDecomposition(m);
    return { q: qr.orthogonalMatrix, r: qr.upperTriangularMatrix };
  };
  const arrays = new Map<string, NamedArray>();
  let kept = 0, lost = 0;
  for (const [nameA, arrayA] of peft.arrays) {
    if (!nameA.endsWith(".lora_A.weight")) continue;
    const nameB = nameA.replace(/\.lora_A\.weight$/, ".lora_B.weight");
    const arrayB = peft.arrays.get(nameB);
    if (arrayB === undefined) {
      throw new CheckpointError(
        `Cannot reduce the rank as there must be B for each A: "${nameB}" is missing`,
      );
    }
    const b = split(matrixOf(arrayB));
    const a = split(matrixOf(arrayA).transpose());
    const svd = new SingularValueDecomposition(b.r.mmul(a.r.transpose()), { autoTranspose: true });
    const values = svd.diagonal;
    values.forEach((s, i) => i < rank ? kept += s * s : lost += s * s);
    const left = b.q.mmul(svd.leftSingularVectors);
    const right = a.q.mmul(svd.rightSingularVectors);
    // The root of each singular value goes to either side.
    const pick = (m: InstanceType<typeof Matrix>, row: number, i: number) =>
      i < values.length ? m.get(row, i) * Math.sqrt(values[i]!) : 0;
    const [inputs, outputs] = [arrayA.shape[1]!, arrayB.shape[0]!];
    arrays.set(nameA, {
      shape: [rank, inputs],
      data: Float32Array.from(
        { length: rank * inputs },
        (_, at) => pick(right, at % inputs, Math.floor(at / inputs)),
      ),
    });
    arrays.set(nameB, {
      shape: [outputs, rank],
      data: Float32Array.from(
        { length: outputs * rank },
        (_, at) => pick(left, Math.floor(at / rank), at % rank),
      ),
    });
  }
  const config = { ...peft.config, r: rank, lora_alpha: scaleOf(peft.config) * rank, use_rslora: false };
  return { peft: { config, arrays }, error: kept + lost === 0 ? 0 : Math.sqrt(lost / (kept + lost)) };
}

/**
 * Writes a PEFT adapter folder, as a whole: PEFT reads two files, which must belong together.
 *
 * @param folder Where to.
 * @param adapter What.
 * @returns Where a folder that was there is kept (`FOLDER.previous`); `null` if there was none.
 * @throws {SaveError} If it cannot be written, on a full disk for example; what was there is still there.
 */
export async function savePeft(folder: string, { config, arrays }: PeftAdapter): Promise<string | null> {
  await using pending = await PendingFolder.create(folder);
  await saveSafetensors(`${pending.path}/adapter_model.safetensors`, arrays, { format: "pt" });
  await writeWhole(`${pending.path}/adapter_config.json`, `${JSON.stringify(config, null, 2)}\n`);
  return await pending.keep();
}

/** Settings of PEFT that change what A and B mean, and the values under which they do not. */
const PLAIN: Readonly<Record<string, readonly unknown[]>> = {
  peft_type: ["LORA"],
  bias: ["none", undefined],
  use_dora: [false, undefined],
  use_qalora: [false, undefined],
  modules_to_save: [null, undefined],
  layer_replication: [null, undefined],
  lora_bias: [false, undefined],
};

/**
 * Reads a PEFT adapter folder.
 *
 * @throws {CheckpointError} If a file is missing or not valid, or the adapter is more than a plain LoRA.
 */
export async function loadPeft(folder: string): Promise<PeftAdapter> {
  const path = `${folder}/adapter_config.json`;
  let json: Record<string, unknown>;
  try {
    json = (await readJson(path) ?? {}) as Record<string, unknown>;
  } catch (cause) {
    throw new CheckpointError(
      `Cannot read the adapter as ${path} must be valid: ${(cause as Error).message}`,
      {
        cause,
      },
    );
  }
  const refuse = (rule: string, value: unknown): never => {
    throw new CheckpointError(
      `Cannot read the adapter as ${rule}: current value is ${showValue(value)}`,
    );
  };
  for (const [name, allowed] of Object.entries(PLAIN)) {
    if (!allowed.includes(json[name])) refuse(`${name} must be ${JSON.stringify(allowed[0])}`, json[name]);
  }
  for (const name of ["alpha_pattern", "rank_pattern"]) {
    if (Object.keys(json[name] ?? {}).length > 0) refuse(`${name} must be empty`, json[name]);
  }
  const { r, lora_alpha: alpha, lora_dropout: dropout = 0 } = json;
  if (!Number.isInteger(r) || (r as number) < 1) refuse("r must be a positive integer", r);
  if (typeof alpha !== "number" || !(alpha > 0)) refuse("lora_alpha must be positive", alpha);
  if (typeof dropout !== "number" || !(dropout >= 0 && dropout < 1)) {
    refuse("lora_dropout must be at least 0 and below 1", dropout);
  }
  const file = `${folder}/adapter_model.safetensors`;
  const arrays = await loadSafetensors(file);
  requireFiniteValues("read the adapter", arrays, file);
  return {
    config: { ...json, lora_dropout: dropout, use_rslora: json.use_rslora === true } as PeftConfig,
    arrays,
  };
}
