/**
 * Adapters: what a run has learnt, as files.
 *
 * An adapter folder holds `adapter_config.json` and `adapter_model.safetensors`, whose header says the same, and in which
 * `layer0.head3.q.A` [r, inputs] and `layer0.head3.q.B` [D, r], or in mode `core` `layer0.head3.q.R` [r, r], are a head
 * module's matrices for one target. A device saves the heads it owns; parts of one run can be joined.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import { ModelFileError } from "../contracts/errors.ts";
import {
  type Described,
  describedFiles,
  loadDescribed,
  readDescribed,
  saveDescribed,
} from "../files/described.ts";
import { showValue } from "../contracts/plain_text.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import { readText } from "../files/text.ts";
import { requireFiniteArrays } from "./finite.ts";
import { headSizeOf, type ModelShape, shapeForDevices } from "../contracts/model_shape.ts";
import { type Absences, joinAbsences, readAbsences } from "./absence.ts";
import type { HeadRange } from "./allocation.ts";
import { requireProjections } from "./required_projections.ts";
import { type HeadWeights, namedMatrices } from "./head_arena.ts";
import { HeadModules } from "./head_modules.ts";
import { INPUT_MODES } from "./input_modes.ts";
import { LocalHeads } from "./local_heads.ts";
import type { HeadProjections } from "./projections.ts";
import {
  checkLora,
  DEFAULT_OPTIMIZER,
  type LoraSettings,
  loraText,
  modeSize,
  projectionsOf,
} from "./settings.ts";

/** Version of the adapter format. */
const FORMAT_VERSION = 1;

/**
 * An adapter, or some heads of one.
 *
 * @category Adapters
 */
export interface Adapter extends Absences {
  /** LoRA settings it was trained with. */
  readonly lora: LoraSettings;
  /** Shape of the base model. */
  readonly model: ModelShape;
  /** Fingerprint of the base model; empty if not known. */
  readonly fingerprint: string;
  /** Matrices by name. */
  readonly arrays: ReadonlyMap<string, NamedArray>;
}

/**
 * Reads a device's head modules back as an adapter.
 *
 * @param modules The head modules.
 * @param fingerprint Fingerprint of the base model, if known.
 * @category Adapters
 */
export async function adapterOf(modules: HeadModules, fingerprint = ""): Promise<Adapter> {
  const { range } = modules.options;
  // With projections, so that the adapter says all that it needs.
  const lora = checkLora(modules.options.lora);
  const arrays = new Map<string, NamedArray>();
  (await modules.weights()).forEach((perHead, l) =>
    perHead.forEach((perTarget, i) =>
      perTarget.forEach(({ a, b }, k) => {
        const shapes = { a: [lora.rank, modules.inputs], b: [modules.outputs, lora.rank] };
        const place = { layer: l, head: range.first + i, target: lora.targets[k]! };
        for (const { name, which } of namedMatrices(lora.mode, place)) {
          arrays.set(name, { shape: shapes[which], data: { a, b }[which] });
        }
      })
    )
  );
  return { lora, model: shapeForDevices(modules.options), fingerprint, arrays };
}

/**
 * Joins the parts that the devices of a run saved.
 *
 * @throws {ModelFileError} If the parts do not belong together or hold a head twice.
 * @category Adapters
 */
export function joinAdapters(parts: readonly Adapter[]): Adapter {
  const [first] = parts;
  if (first === undefined) {
    throw new ModelFileError("Cannot join adapters as there must be one part: there is none");
  }
  const arrays = new Map<string, NamedArray>();
  for (const part of parts) {
    if (JSON.stringify([part.lora, part.model]) !== JSON.stringify([first.lora, first.model])) {
      throw new ModelFileError("Cannot join adapters as LoRA settings and model must be equal: they differ");
    }
    for (const [name, array] of part.arrays) {
      if (arrays.has(name)) {
        throw new ModelFileError(
          `Cannot join adapters as each head must be in one part: "${name}" is in two`,
        );
      }
      arrays.set(name, array);
    }
  }
  const fingerprint = parts.find((p) => p.fingerprint !== "")?.fingerprint ?? "";
  const { lora, model } = first;
  return { lora, model, fingerprint, arrays, ...joinAbsences(parts) };
}

/**
 * Heads that an adapter holds of every layer.
 *
 * @throws {ModelFileError} If they do not follow each other.
 */
export function adapterRange(adapter: Adapter): HeadRange {
  const { model, lora } = adapter;
  const heads = Array.from({ length: model.heads }, (_, h) => h).filter((h) =>
    adapter.arrays.has(namedMatrices(lora.mode, { layer: 0, head: h, target: lora.targets[0]! })[0]!.name)
  );
  const [first, last] = [heads[0], heads.at(-1)];
  if (first === undefined || last! - first + 1 !== heads.length) {
    throw new ModelFileError(
      `Cannot use the adapter as it must hold heads that follow each other: it holds [${heads}] of ${model.heads}`,
    );
  }
  return { first, count: heads.length };
}

/**
 * Puts an adapter's weights into head modules.
 *
 * @throws {ModelFileError} If the adapter does not hold a head that the modules own, or was made for another shape.
 */
export function loadIntoModules(adapter: Adapter, modules: HeadModules): void {
  const { lora, layers, range } = modules.options;
  const same =
    JSON.stringify(shapeForDevices(adapter.model)) === JSON.stringify(shapeForDevices(modules.options)) &&
    adapter.lora.mode === lora.mode && adapter.lora.rank === lora.rank && adapter.lora.alpha === lora.alpha &&
    adapter.lora.targets.join() === lora.targets.join() &&
    JSON.stringify(projectionsOf(adapter.lora)) === JSON.stringify(projectionsOf(lora));
  if (!same) {
    throw new ModelFileError(
      `Cannot load the adapter as model shape, mode, targets, rank, alpha and projections must be equal: it is for ${
        JSON.stringify(adapter.model)
      } ${loraText(adapter.lora)}`,
    );
  }
  const find = (name: string): Float32Array => {
    const array = adapter.arrays.get(name);
    if (array === undefined) {
      throw new ModelFileError(`Cannot load the adapter: "${name}" is missing`);
    }
    return array.data;
  };
  const weights: HeadWeights[][][] = Array.from(
    { length: layers },
    (_, l) =>
      Array.from({ length: range.count }, (_, i) =>
        lora.targets.map((target) => {
          const named = namedMatrices(lora.mode, { layer: l, head: range.first + i, target });
          const none = { a: new Float32Array(0), b: new Float32Array(0) };
          return { ...none, ...Object.fromEntries(named.map(({ name, which }) => [which, find(name)])) };
        })),
  );
  modules.load(weights);
}

/**
 * Puts a whole adapter on the GPU for use, not for training.
 *
 * @param engine Where.
 * @param adapter Head modules of every head.
 * @param projections Frozen projections, where the adapter asks for such from the base model: see `baseProjections`.
 * @returns One virtual device with all heads; the caller's to dispose.
 * @throws {ModelFileError} If a head module is missing.
 * @throws {TypeError} If projections from the base model are missing.
 * @category Adapters
 */
export function loadHeads(engine: Engine, adapter: Adapter, projections?: HeadProjections): LocalHeads {
  const { lora, model } = adapter;
  requireProjections(lora, model, projections);
  const each = namedMatrices(lora.mode, { layer: 0, head: 0, target: "q" }).length;
  const wanted = model.layers * model.heads * lora.targets.length * each;
  // Before memory is taken for them.
  if (adapter.arrays.size < wanted) {
    throw new ModelFileError(
      `Cannot load the adapter as it must hold every head, in ${wanted} matrices: it holds ${adapter.arrays.size}`,
    );
  }
  const modules = new HeadModules(engine, {
    lora,
    optimizer: DEFAULT_OPTIMIZER, // of no effect: nothing is trained
    ...model,
    range: { first: 0, count: model.heads },
    seed: 0,
    steps: 1,
  });
  try {
    loadIntoModules(adapter, modules);
  } catch (error) {
    modules[Symbol.dispose]();
    throw error;
  }
  return new LocalHeads([modules], [], null, { projections });
}

/** The run that an adapter comes from. */
export interface AdapterOrigin {
  /** Name of the run. */
  readonly run: string;
  /** Training steps done. */
  readonly steps: number;
}

const FILES = { config: "adapter_config.json", weights: "adapter_model.safetensors" };

/**
 * Writes an adapter folder; makes the folder if need be. What another run has learnt is not lost: an adapter that is
 * there is kept in `FOLDER.previous`.
 *
 * @param folder Where to.
 * @param adapter What.
 * @param origin The run that it comes from, whose former adapter is replaced. @default {another one each time}
 * @returns Where the former adapter is kept; `null` if there was none, or one of the same run.
 * @throws {ModelFileError} If a weight is not finite; nothing is written then.
 * @throws {SaveError} If a file cannot be written, on a full disk for example; the former adapter is still there.
 * @category Adapters
 *
 * @example
 * ```ts
 * import { adapterOf, DEFAULT_LORA, DEFAULT_OPTIMIZER, HeadModules, loadAdapter, saveAdapter } from "@edgetuner/core";
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
 * const folder = await Deno.makeTempDir();
 * await saveAdapter(`${folder}/heads`, await adapterOf(heads));
 * console.log((await loadAdapter(`${folder}/heads`)).arrays.size);
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function saveAdapter(
  folder: string,
  adapter: Adapter,
  origin?: AdapterOrigin,
): Promise<string | null> {
  return await saveDescribed(
    folder,
    FILES,
    describe(folder, adapter, origin),
    (former) => origin !== undefined && former.run === origin.run,
  );
}

/**
 * The files that {@linkcode saveAdapter} writes, for where there are none, as in a page.
 *
 * @param adapter What.
 * @param origin The run that it comes from.
 * @returns The content of each, by name.
 * @throws {ModelFileError} If a weight is not finite.
 * @category Adapters
 */
export async function adapterFiles(
  adapter: Adapter,
  origin?: AdapterOrigin,
): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  return await describedFiles(FILES, describe("the adapter", adapter, origin));
}

function describe(
  place: string,
  { lora, model, fingerprint, arrays, away, missed }: Adapter,
  origin: AdapterOrigin | undefined,
): Described {
  requireFiniteArrays(place, arrays);
  const config = {
    format: "edgetuner-heads",
    formatVersion: FORMAT_VERSION,
    lora,
    model,
    baseFingerprint: fingerprint,
    ...(away !== undefined && { away }),
    ...(missed !== undefined && { missed }),
  };
  return { config, notes: { ...origin }, tensors: arrays };
}

/**
 * An adapter with all heads: those that it does not hold are zero, and change nothing. So what one device has learnt
 * can be used by itself.
 *
 * @param adapter Some heads of an adapter.
 * @category Adapters
 */
export function withZeroHeads(adapter: Adapter): Adapter {
  const { lora, model } = adapter;
  const mode = INPUT_MODES[lora.mode];
  const size = modeSize(lora, model);
  const shapes = { a: [lora.rank, mode.columns(size)], b: [mode.outputs(size), lora.rank] };
  const arrays = new Map(adapter.arrays);
  for (let layer = 0; layer < model.layers; layer++) {
    for (let head = 0; head < model.heads; head++) {
      for (const target of lora.targets) {
        for (const { name, which } of namedMatrices(lora.mode, { layer, head, target })) {
          if (arrays.has(name)) continue;
          const shape = shapes[which];
          arrays.set(name, { shape, data: new Float32Array(shape[0]! * shape[1]!) });
        }
      }
    }
  }
  return { ...adapter, arrays };
}

/** Most heads of a layer; memory is taken for all of them before they are looked up. */
const MAX_HEADS = 2 ** 16;

/**
 * Checks that an adapter's matrices are those of a model of its shape: all that is made of it later has the sizes
 * that its configuration says.
 */
function checkShape({ lora, model, arrays }: Adapter): void {
  const { layers, heads, hidden } = model;
  const headSize = headSizeOf(model);
  const counts = [layers, heads, hidden, headSize, hidden / heads].every((n) =>
    Number.isSafeInteger(n) && n > 0
  );
  if (!counts || heads > MAX_HEADS || layers > arrays.size) {
    throw new RangeError(
      `"model" must be layers (at most ${arrays.size}, as it has so many matrices), heads (at most ${MAX_HEADS}), hidden size and head size: ` +
        `it is ${showValue(model)}`,
    );
  }
  const mode = INPUT_MODES[lora.mode];
  const size = modeSize(lora, model);
  const [inputs, outputs] = [mode.columns(size), mode.outputs(size)];
  for (const [name, { shape }] of arrays) {
    const [, layer, head, target, matrix] = /^layer(\d+)\.head(\d+)\.([qkv])\.([A-Z])$/.exec(name) ?? [];
    const place = Number(layer) < layers && Number(head) < heads &&
      (lora.targets as readonly (string | undefined)[]).includes(target);
    const { a, b } = mode.matrixNames;
    const wanted = matrix === a
      ? [lora.rank, inputs]
      : matrix === b
      ? [outputs, lora.rank]
      : ["no such matrix"];
    if (!place || shape.join() !== wanted.join()) {
      throw new RangeError(
        `"${name.slice(0, 80)}" must be of a head module of its model, [${wanted}]: it is [${
          shape.slice(0, 8)
        }]`,
      );
    }
  }
}

/**
 * Says which run an adapter folder comes from.
 *
 * @returns `null` if there is no adapter, or it does not say.
 */
export async function adapterOrigin(folder: string): Promise<AdapterOrigin | null> {
  try {
    const { run, steps } = JSON.parse(await readText(`${folder}/${FILES.config}`));
    return typeof run === "string" && Number.isInteger(steps) ? { run, steps } : null;
  } catch {
    return null;
  }
}

/**
 * Reads an adapter folder.
 *
 * @throws {ModelFileError} If a file is missing, damaged or not valid.
 * @category Adapters
 */
export async function loadAdapter(folder: string): Promise<Adapter> {
  return await adapterFrom(`${folder}/${FILES.config}`, () => loadDescribed(folder, FILES));
}

/**
 * Reads an adapter from memory, for where there are no files, as in a page.
 *
 * @param weights Content of `adapter_model.safetensors`: its header says what `adapter_config.json` says.
 * @param name How errors call it.
 * @throws {ModelFileError} If it is damaged, not valid, or so old that it says nothing of itself.
 * @category Adapters
 *
 * @example
 * ```ts
 * import { readAdapter } from "@edgetuner/edgetuner/core";
 *
 * const open = async (address: string) => readAdapter(await (await fetch(address)).bytes());
 * ```
 */
export async function readAdapter(weights: Uint8Array, name = "the adapter"): Promise<Adapter> {
  return await adapterFrom(name, () => readDescribed(weights, name));
}

async function adapterFrom(
  path: string,
  read: () => ReturnType<typeof readDescribed> | ReturnType<typeof loadDescribed>,
): Promise<Adapter> {
  try {
    const { config, tensors: arrays } = await read();
    if (config.format !== "edgetuner-heads" || config.formatVersion !== FORMAT_VERSION) {
      throw new TypeError(
        `format must be "edgetuner-heads" version ${FORMAT_VERSION}: it is ${
          showValue(config.format)
        } version ${showValue(config.formatVersion)}`,
      );
    }
    const adapter = {
      lora: checkLora(config.lora as LoraSettings),
      model: shapeForDevices(config.model as ModelShape),
      fingerprint: String(config.baseFingerprint ?? ""),
      arrays,
    };
    checkShape(adapter);
    return { ...adapter, ...readAbsences(config, adapter.model.heads) };
  } catch (cause) {
    if (cause instanceof ModelFileError) throw cause;
    throw new ModelFileError(
      `Cannot load the adapter as ${path} must be valid: ${(cause as Error).message}`,
      { cause },
    );
  }
}
