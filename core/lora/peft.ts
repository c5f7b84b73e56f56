/**
 * Adapters in the format of PEFT (Hugging Face).
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
import { requireFiniteValues } from "../files/finite_values.ts";
import { PendingFolder, writeWhole } from "../files/atomic.ts";
import { loadSafetensors, safetensorsBytes, saveSafetensors } from "../files/safetensors.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { headSizeOf, shapeForDevices } from "../contracts/model_shape.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import type { ModelFamily } from "../model/families.ts";
import type { Adapter } from "./adapter.ts";
import { withoutPatterns } from "./peft_patterns.ts";
import { INPUT_MODES } from "./input_modes.ts";
import type { HeadProjections } from "./projections.ts";
import { modeSize } from "./settings.ts";
import { unprojected } from "./unprojected.ts";
import { type Refuse, requireChosenModules, requirePlainLora } from "./peft_settings.ts";
import {
  fullName,
  matricesOf,
  modulesOf,
  type PeftAdapter,
  type PeftConfig,
  type PeftModelShape,
  recordOf,
  rowOf,
  scaleOf,
} from "./peft_modules.ts";
import { LORA_TARGETS, type LoraTarget } from "./settings.ts";

/**
 * Turns head modules into one PEFT adapter, without loss.
 *
 * In mode `core` A is the frozen A, and B is B R of frozen B and trained R.
 *
 * @param trained Head modules of every head, as `joinAdapters` returns them.
 * @param family Decides names and `fan_in_fan_out`.
 * @param kvHeads H_kv of the model. @default {heads}
 * @param projections Frozen projections, where the adapter asks for such from the base model: see `baseProjections`.
 * @throws {ModelFileError} If a head module is missing.
 * @throws {TypeError} If projections from the base model are missing.
 * @category Adapters
 *
 * @example
 * ```ts
 * import { adapterOf, DEFAULT_LORA, DEFAULT_OPTIMIZER, HeadModules, toPeft } from "@edgetuner/core";
 * import { Engine } from "@edgetuner/kernels";
 *
 * using engine = await Engine.create();
 * using heads = new HeadModules(engine, {
 *   lora: DEFAULT_LORA,
 *   optimizer: DEFAULT_OPTIMIZER,
 *   layers: 2,
 *   hidden: 32,
 *   heads: 4,
 *   range: { first: 0, count: 4 },
 *   seed: 1,
 *   steps: 10,
 * });
 * const { config, arrays } = toPeft(await adapterOf(heads), "gpt2");
 * console.log(config.r, [...arrays.keys()]);
 * ```
 */
export function toPeft(
  trained: Adapter,
  family: ModelFamily,
  kvHeads?: number,
  projections?: HeadProjections,
): PeftAdapter {
  const adapter = unprojected(trained, projections);
  const { lora } = adapter;
  const shape: PeftModelShape = { ...adapter.model, kvHeads };
  const { layers, heads, hidden } = shape;
  const headSize = headSizeOf(shape);
  const record = recordOf(family);
  const input = INPUT_MODES[lora.mode];
  const inputs = input.columns(modeSize(lora, shape));
  const arrays = new Map<string, NamedArray>();
  let rank = 0;
  for (let layer = 0; layer < layers; layer++) {
    for (const module of modulesOf(family, shape, layer)) {
      const targets = module.parts.filter(({ target }) => lora.targets.includes(target));
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
              throw new ModelFileError(
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
    fan_in_fan_out: record.storesInOut,
    inference_mode: true,
    init_lora_weights: true,
    r: rank,
    lora_alpha: lora.alpha * rank / lora.rank,
    lora_dropout: lora.dropout,
    target_modules: record.peftTargets(lora.targets),
    modules_to_save: null,
    use_dora: false,
    use_rslora: false,
  };
  return { config, arrays };
}

/** Largest rank of head modules. */
const MAX_RANK = 256;

/** An adapter's parts, head by head. */
interface PeftHeads {
  readonly targets: readonly LoraTarget[];
  /** Calls back with each head module: A of the whole module, and the head's rows of B; `null` for zeros. */
  readonly each: (call: (name: string, a: Float32Array | null, b: Float32Array | null) => void) => void;
}

function headsOf(peft: PeftAdapter, family: ModelFamily, shape: PeftModelShape): PeftHeads {
  const { layers, heads, hidden, kvHeads = heads } = shape;
  const headSize = headSizeOf(shape);
  const full = peft.config.r;
  const all = Array.from({ length: layers }, (_, layer) => modulesOf(family, shape, layer));
  const known = new Set(all.flat().flatMap(({ name }) => [fullName(name, "A"), fullName(name, "B")]));
  const foreign = [...peft.arrays.keys()].find((name) => !known.has(name));
  if (foreign !== undefined) {
    throw new ModelFileError(
      `Cannot import the adapter as it may adapt Q, K and V of ${layers} ${family} layers alone: it has "${foreign}"`,
    );
  }
  const targets = LORA_TARGETS.filter((target) =>
    all.flat().some((module) =>
      peft.arrays.has(fullName(module.name, "A")) && module.parts.some((t) => t.target === target)
    )
  );
  if (targets.length === 0) {
    throw new ModelFileError("Cannot import the adapter as it must adapt Q, K or V: it holds nothing");
  }
  const each: PeftHeads["each"] = (call) => {
    for (const [layer, modules] of all.entries()) {
      for (const module of modules) {
        const matrices = matricesOf(peft, module, hidden);
        for (const { target, first } of module.parts) {
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

/**
 * The rank that head modules need for an adapter: what each head's B uses of its own. One whose B is zero, as it is
 * before training, keeps its own if head modules can have it.
 */
function headRank(peft: PeftAdapter, { each }: PeftHeads): number {
  const full = peft.config.r;
  let rank = 0;
  each((_name, _a, b) => rank = Math.max(rank, usedColumns(b, full).length));
  return rank > 0 ? rank : Math.min(full, MAX_RANK);
}

/**
 * Says whether head modules can have an adapter's rank, so that `fromPeft` can take it in.
 *
 * @throws {ModelFileError} If the adapter has other modules or another shape.
 */
export function fitsHeadModules(peft: PeftAdapter, family: ModelFamily, shape: PeftModelShape): boolean {
  return headRank(peft, headsOf(peft, family, shape)) <= MAX_RANK;
}

/**
 * Turns a PEFT LoRA of the attention's projections into head modules that read all of X (`full` mode):
 * each has its own rows of B, and the rows of A that these use. Exact for any such adapter. Of what `toPeft` made of
 * head modules each gets its own rows back.
 *
 * @throws {ModelFileError} If the adapter has a weight that is not finite, other modules, another shape, or a head whose B uses more than 256
 * rows of A.
 * @category Adapters
 */
export function fromPeft(peft: PeftAdapter, family: ModelFamily, shape: PeftModelShape): Adapter {
  requireFiniteValues("import the adapter", peft.arrays);
  const { hidden } = shape;
  const headSize = headSizeOf(shape);
  const full = peft.config.r;
  const found = headsOf(peft, family, shape);
  const rank = headRank(peft, found);
  if (rank > MAX_RANK) {
    throw new ModelFileError(
      `Cannot import the adapter as a head's B must use at most ${MAX_RANK} rows of A: current value is ${rank} of ${full}; reduce the rank first`,
    );
  }
  const arrays = new Map<string, NamedArray>();
  found.each((name, a, b) => {
    const [shapeA, shapeB] = [[rank, hidden], [headSize, rank]];
    if (rank === full) {
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
    model: shapeForDevices(shape),
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

/**
 * Writes a PEFT adapter folder, as a whole: PEFT reads two files, which must belong together.
 *
 * @param folder Where to.
 * @param adapter What.
 * @returns Where a folder that was there is kept (`FOLDER.previous`); `null` if there was none.
 * @throws {SaveError} If it cannot be written, on a full disk for example; what was there is still there.
 * @category Adapters
 */
export async function savePeft(folder: string, { config, arrays }: PeftAdapter): Promise<string | null> {
  await using pending = await PendingFolder.create(folder);
  await saveSafetensors(`${pending.path}/adapter_model.safetensors`, arrays, { format: "pt" });
  await writeWhole(`${pending.path}/adapter_config.json`, `${JSON.stringify(config, null, 2)}\n`);
  return await pending.keep();
}

/**
 * The files that {@linkcode savePeft} writes, for where there are none, as in a page.
 *
 * @param adapter What.
 * @returns The content of each, by name.
 * @category Adapters
 */
export async function peftFiles(
  { config, arrays }: PeftAdapter,
): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const { bytes } = await safetensorsBytes(arrays, { format: "pt" });
  return new Map([
    ["adapter_model.safetensors", bytes],
    ["adapter_config.json", new TextEncoder().encode(`${JSON.stringify(config, null, 2)}\n`)],
  ]);
}

/**
 * Reads a PEFT adapter folder.
 *
 * @throws {ModelFileError} If a file is missing or not valid, or the adapter is more than a plain LoRA.
 * @category Adapters
 */
export async function loadPeft(folder: string): Promise<PeftAdapter> {
  const path = `${folder}/adapter_config.json`;
  let json: Record<string, unknown>;
  try {
    json = (await readJson(path) ?? {}) as Record<string, unknown>;
  } catch (cause) {
    throw new ModelFileError(
      `Cannot read the adapter as ${path} must be valid: ${(cause as Error).message}`,
      {
        cause,
      },
    );
  }
  const refuse: Refuse = (rule, value) => {
    throw new ModelFileError(
      `Cannot read the adapter as ${rule}: current value is ${showValue(value)}`,
    );
  };
  requirePlainLora(json, refuse);
  const { r, lora_alpha: alpha, lora_dropout: dropout = 0 } = json;
  if (!Number.isInteger(r) || (r as number) < 1) refuse("r must be a positive integer", r);
  if (typeof alpha !== "number" || !(alpha > 0)) refuse("lora_alpha must be positive", alpha);
  if (typeof dropout !== "number" || !(dropout >= 0 && dropout < 1)) {
    refuse("lora_dropout must be at least 0 and below 1", dropout);
  }
  const file = `${folder}/adapter_model.safetensors`;
  const arrays = await loadSafetensors(file);
  requireFiniteValues("read the adapter", arrays, file);
  requireChosenModules(json, arrays.keys(), refuse);
  const config = { ...json, lora_dropout: dropout, use_rslora: json.use_rslora === true } as PeftConfig;
  return withoutPatterns(config, arrays, refuse);
}
