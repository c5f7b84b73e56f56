/**
 * States of a run: what a party needs to go on from a step with the same bits.
 *
 * Each party saves its own, and nothing of it travels: a user device the weights and moments of its heads, the
 * data device its place in the data, the edge server the state of its pruner. On one machine it is all in one
 * file. LoRA dropout is a function of seed and step, and the order of the data one of seed and position, so
 * neither has a state beyond these numbers.
 *
 * A state is one safetensors file with at most three tensors: the `weights` of all head modules and AdamW's moments
 * `m` and `v`, each [L, n, numbers of a head]. A head's numbers are A then B of each target in order. Few large tensors
 * are cheap to write, and states are written every few seconds. Everything else is JSON in the header, with one digest
 * of all. It gets its name when it is whole.
 *
 * @module
 */

import { RunStateError } from "../contracts/errors.ts";
import type { HeadRange } from "../lora/allocation.ts";
import type { HeadModulesState, HeadWeights } from "../lora/head_arena.ts";
import type { HeadModules } from "../lora/head_modules.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import type { BaseWeights } from "../model/weights.ts";
import type { SavedPruning } from "../pruning/pruning_session.ts";
import { checkRunSettings, type RunSettings } from "../train/run_settings.ts";
import type { SavedSharing } from "./shared_validation.ts";
import type { BestLoss } from "../train/training_plan.ts";
import { type ModelShape, shapeForDevices } from "../contracts/model_shape.ts";
import { requireFiniteArrays } from "../lora/finite.ts";
import { decodePlainData, encodePlainData } from "../protocol/cbor.ts";
import { readMetadata } from "../files/tensor_header.ts";
import { makeFolder, writeWhole } from "../files/atomic.ts";
import { bytesIfThere, entriesOf, isFolder, removeIfThere } from "../files/folders.ts";
import { sha256 } from "../files/sha256.ts";
import { readSafetensors, safetensorsPieces, writeSafetensors } from "../files/safetensors.ts";

const FORMAT = "edgetuner-run";
const FORMAT_VERSION = 4;
/** States that stay in a folder: if a crash comes between two parties' writes, all still have the older one. */
const KEPT = 2;

/** Head modules in a state. */
export interface SavedHeads {
  /** Shape of the base model. */
  readonly model: ModelShape;
  /** The heads of every layer that these are. */
  readonly range: HeadRange;
  /** Weights, moments and counts of updates. */
  readonly state: HeadModulesState;
}

/** A device of the run, in the edge server's state. */
export interface SavedDevice {
  /** Its name. */
  readonly name: string;
  /** Its id; missing if it has none. */
  readonly id?: string | undefined;
  /** Public key of its id; missing if it has none. */
  readonly key?: string | undefined;
  /** gamma, its capacity. */
  readonly capacity: number;
  /** Its heads; `null` for a device without. */
  readonly range: HeadRange | null;
  /** Where it was away: training steps that count for it. Missing if it was there. */
  readonly trained?: number | undefined;
  /** Training steps that it had missed before, while it was away. Missing if none. */
  readonly missed?: number | undefined;
}

/** A device that the host has removed from the run. */
export type RemovedDevice = Pick<SavedDevice, "name" | "id" | "key">;

/** What the data side goes on from. */
export interface SavedData {
  /** What is the same for the same data and the same way of drawing batches, from `dataFingerprint`. */
  readonly fingerprint: string;
  /** Batches drawn for training so far. */
  readonly position: number;
  /** The best validation so far; `null` if there was none. */
  readonly best: BestLoss | null;
  /**
   * Local date and time at which the run began, as `2024-07-06T15:04:09`: chat templates may write it. Missing in older
   * states.
   */
  readonly begun?: string | undefined;
}

/** What a party of a run needs to go on; `null` for what another party has. */
export interface RunState {
  /** Name of the run. */
  readonly run: string;
  /** Training steps done. */
  readonly step: number;
  /** Settings of the run. */
  readonly settings: Required<RunSettings>;
  /** Fingerprint of the base model; empty on a device that has none. */
  readonly fingerprint: string;
  /** Head modules. */
  readonly heads: SavedHeads | null;
  /** Pruning. */
  readonly pruning: SavedPruning | null;
  /** Devices of the run, in order of joining; in a device's state itself. */
  readonly devices: readonly SavedDevice[] | null;
  /** Devices that the host has removed, in the edge server's state: they may not come back. Missing if none. */
  readonly removed?: readonly RemovedDevice[] | undefined;
  /** The data side. */
  readonly data: SavedData | null;
  /** Several people's data, in the edge server's state: whose turn it is. */
  readonly sharing?: SavedSharing | undefined;
  /** How this party's part of the base model was held; missing in older states, and without a base. */
  readonly baseWeights?: BaseWeights | undefined;
}

/** States of one party of one run. */
export interface RunStateSource {
  /** Name of the run. */
  readonly run: string;
  /** Steps that there are intact states of, ascending; at least one. */
  readonly steps: readonly number[];
  /** What is wrong with others in the folder, newest first; their steps are not among `steps`. @default {[]} */
  readonly damaged?: readonly RunStateError[];
  /**
   * Reads one of them.
   *
   * @throws {RunStateError} If the file is damaged or not of this run and step.
   */
  load(step: number): Promise<RunState>;
}

/** Reads back all that a device's head modules are, for a state. */
export async function saveHeads(modules: HeadModules): Promise<SavedHeads> {
  const { range } = modules.options;
  return { model: shapeForDevices(modules.options), range, state: await modules.state() };
}

/**
 * Writes a state. The file is whole or not there: it is written under another name first.
 *
 * @param path Where to.
 * @param state What to write.
 * @throws {ModelFileError} If a weight or a moment is not finite; nothing is written then.
 */
export async function saveRunState(path: string, state: RunState): Promise<void> {
  const { arrays, metadata } = await contentOf(path, state);
  await writeWhole(path, async (file) => {
    for (const piece of safetensorsPieces(arrays, metadata)) await file.write(piece);
  });
}

/**
 * The bytes that {@linkcode saveRunState} writes, for where there are no files, as in a page.
 *
 * @param state What to write.
 * @throws {ModelFileError} If a weight or a moment is not finite.
 */
export async function runStateBytes(state: RunState): Promise<Uint8Array<ArrayBuffer>> {
  const { arrays, metadata } = await contentOf("the state", state);
  return writeSafetensors(arrays, metadata);
}

async function contentOf(
  path: string,
  state: RunState,
): Promise<
  { readonly arrays: ReadonlyMap<string, NamedArray>; readonly metadata: Record<string, string> }
> {
  const { heads, pruning, ...plain } = state;
  const metadata: Record<string, string> = {
    format: FORMAT,
    formatVersion: String(FORMAT_VERSION),
    state: JSON.stringify({
      ...plain,
      heads: heads === null ? null : {
        model: heads.model,
        range: heads.range,
        sizes: sizesOf(heads.state),
        updates: Array.from(heads.state.updates),
      },
    }),
  };
  if (pruning !== null) {
    // The state is any plain data, typed arrays and all: JSON could not hold it.
    metadata.pruning = encodePlainData(pruning).toBase64();
  }
  const arrays: ReadonlyMap<string, NamedArray> = heads === null ? new Map() : arraysOf(heads);
  requireFiniteArrays(path, arrays);
  metadata.digest = await digestOf(metadata, arrays);
  return { arrays, metadata };
}

/**
 * Reads a state.
 *
 * @throws {RunStateError} If the file is missing, cut short, or is not the state of a run.
 */
export async function loadRunState(path: string): Promise<RunState> {
  return await stateFrom(path, async () => {
    const bytes = await bytesIfThere(path);
    if (bytes !== null) return bytes;
    throw new TypeError("there is no such file");
  });
}

/**
 * Reads a state from memory, for where there are no files, as in a page.
 *
 * @param bytes Content of the file.
 * @param name How errors call it.
 * @throws {RunStateError} If it is cut short, or is not the state of a run.
 */
export async function readRunState(bytes: Uint8Array, name = "the state"): Promise<RunState> {
  return await stateFrom(name, () => Promise.resolve(bytes));
}

async function stateFrom(path: string, read: () => Promise<Uint8Array>): Promise<RunState> {
  try {
    const bytes = await read();
    const metadata = readMetadata(bytes, path);
    if (metadata.format !== FORMAT || metadata.formatVersion !== String(FORMAT_VERSION)) {
      throw new TypeError(
        `its format must be "${FORMAT}" version ${FORMAT_VERSION}: it is "${metadata.format}" version ${metadata.formatVersion}`,
      );
    }
    const arrays = readSafetensors(bytes, path);
    if (await digestOf(metadata, arrays) !== metadata.digest) {
      throw new TypeError("its digest must be that of its contents: they are damaged");
    }
    const { heads, settings, ...plain } = JSON.parse(metadata.state!);
    const checked = checkRunSettings(settings);
    const pruning = metadata.pruning === undefined
      ? null
      : readPruning(Uint8Array.fromBase64(metadata.pruning));
    if (!Number.isInteger(plain.step) || plain.step < 0 || plain.step > checked.steps) {
      throw new RangeError(`its step must be from 0 to ${checked.steps}: current value is ${plain.step}`);
    }
    return {
      ...plain,
      settings: checked,
      pruning,
      heads: heads === null ? null : {
        model: heads.model,
        range: heads.range,
        state: stateOf(arrays, heads, checked),
      },
    };
  } catch (cause) {
    if (cause instanceof RunStateError) throw cause;
    throw new RunStateError(
      `Cannot go on from ${path} as it must be the state of a run: ${(cause as Error).message}`,
      { cause },
    );
  }
}

/**
 * Finds the states to go on from. In a folder those that are damaged are left out: the parties of a run go on
 * from the newest step that all of them have.
 *
 * @param path A state, or a folder with states of one run.
 * @throws {RunStateError} If there are none, or none that is intact; of a file that is damaged the message names
 * intact ones beside it.
 */
export async function openRunStates(path: string): Promise<RunStateSource> {
  if (!await isFolder(path)) {
    const state = await loadRunState(path).catch((error) => withOthers(path, error));
    return { run: state.run, steps: [state.step], load: () => Promise.resolve(state) };
  }
  const steps = await stepsIn(path);
  if (steps.length === 0) {
    throw new RunStateError(
      `Cannot go on from ${path} as the folder must hold a state (step-00000100.safetensors): it holds none`,
    );
  }
  const { run, intact, damaged } = await sift(path, steps);
  if (run === null) throw damaged[0];
  return {
    run,
    steps: intact,
    damaged,
    async load(step) {
      const state = await loadRunState(fileOf(path, step));
      if (state.run === run && state.step === step) return state;
      throw new RunStateError(
        `Cannot go on from ${
          fileOf(path, step)
        } as it must be of step ${step} of run "${run}": it is of step ${state.step} of run "${state.run}"`,
      );
    },
  };
}

/** Which states of a folder are intact, and the run of the newest that is; `null` if none is. */
async function sift(folder: string, steps: readonly number[]) {
  let run: string | null = null;
  const intact: number[] = [];
  const damaged: RunStateError[] = [];
  for (const step of steps.toReversed()) {
    try {
      const state = await loadRunState(fileOf(folder, step));
      run ??= state.run;
      intact.unshift(step);
    } catch (error) {
      if (!(error instanceof RunStateError)) throw error;
      damaged.push(error);
    }
  }
  return { run, intact, damaged };
}

/** The error of a file that cannot be gone on from, with what can be. */
async function withOthers(path: string, error: Error): Promise<never> {
  const folder = path.replace(/[^/\\]*$/, "") || ".";
  const { intact } = await sift(folder, await stepsIn(folder).catch(() => []));
  if (intact.length === 0) throw error;
  throw new RunStateError(
    `${error.message}; ${fileOf(folder, intact.at(-1)!)} is intact: give that one, or the folder`,
    { cause: error },
  );
}

/**
 * Prepares a folder for the states of a run, of which the two newest are kept.
 *
 * @param folder Made if need be.
 * @param resumed What the run goes on from; `null` for a new run.
 * @returns A function that writes a state.
 * @throws {RunStateError} If the folder holds states of another run: they would be lost.
 */
export async function runStateWriter(
  folder: string,
  resumed: RunStateSource | null,
): Promise<(state: RunState) => Promise<void>> {
  await makeFolder(folder);
  // What writers left that were killed.
  for (const { name } of await entriesOf(folder)) {
    if (PARTIAL.test(name)) await removeIfThere(`${folder}/${name}`).catch(() => {});
  }
  if ((await stepsIn(folder)).length > 0) {
    const { run } = await openRunStates(folder);
    if (run !== resumed?.run) {
      throw new RunStateError(
        `Cannot save states to ${folder} as it must be empty, or hold those of the run that goes on${
          resumed === null ? "" : ` ("${resumed.run}")`
        }: it holds those of run "${run}"`,
      );
    }
  }
  return async (state) => {
    const { step } = state;
    await saveRunState(fileOf(folder, step), state);
    // Later ones are of a future that did not come to pass: the run went on from before them.
    const [old, later] = [[], []] as [number[], number[]];
    for (const s of await stepsIn(folder)) (s > step ? later : old).push(s);
    for (const s of [...old.slice(0, -KEPT), ...later]) await removeIfThere(fileOf(folder, s));
  };
}

const PARTIAL = /^step-\d{8,10}\.safetensors\.partial$/;
const FILE_NAME = /^step-(\d{8,10})\.safetensors$/;

function fileOf(folder: string, step: number): string {
  return `${folder.replace(/\/+$/, "")}/step-${String(step).padStart(8, "0")}.safetensors`;
}

async function stepsIn(folder: string): Promise<number[]> {
  const steps: number[] = [];
  for (const { name } of await entriesOf(folder)) {
    const match = FILE_NAME.exec(name);
    if (match !== null) steps.push(Number(match[1]));
  }
  return steps.sort((a, b) => a - b);
}

/** SHA-256 over all that a state says: disks lose bits, and a run would go on with other ones. */
async function digestOf(
  { state, pruning }: Readonly<Record<string, string>>,
  arrays: ReadonlyMap<string, NamedArray>,
): Promise<string> {
  const lines = [state, pruning ?? ""];
  for (const name of [...arrays.keys()].sort()) {
    lines.push(`${name} ${await sha256([arrays.get(name)!.data])}`);
  }
  return await sha256([new TextEncoder().encode(lines.join("\n"))]);
}

/** What pruning goes on from; the state is the pruner's own affair. */
function readPruning(bytes: Uint8Array): SavedPruning {
  const { pruner, state, lastMask, statistics } = Object(decodePlainData(bytes)) as Record<string, unknown>;
  const isMap = typeof statistics === "object" && statistics !== null;
  const isMask = lastMask === null || lastMask instanceof Uint8Array;
  if (typeof pruner === "string" && isMap && isMask) return { pruner, state, lastMask, statistics };
  throw new TypeError("its part on pruning is not a name, a mask and statistics");
}

/** Parts of a state of head modules, each one tensor. */
const PARTS = ["weights", "m", "v"] as const;

/** Numbers of a head module's matrices: those of all targets are alike. */
interface MatrixSizes {
  readonly a: number;
  readonly b: number;
}

function sizesOf({ weights }: HeadModulesState): MatrixSizes {
  const { a, b } = weights[0]![0]![0]!;
  return { a: a.length, b: b.length };
}

/** All numbers of each part, one after the other. */
function arraysOf({ range, state }: SavedHeads): Map<string, NamedArray> {
  const { a, b } = sizesOf(state);
  const targets = state.weights[0]![0]!.length;
  const shape = [state.weights.length, range.count, targets * (a + b)];
  return new Map(PARTS.map((part) => {
    const data = new Float32Array(shape[0]! * shape[1]! * shape[2]!);
    let at = 0;
    for (const matrices of state[part].flat(2)) {
      data.set(matrices.a, at);
      data.set(matrices.b, at + a);
      at += a + b;
    }
    return [part, { shape, data }];
  }));
}

function stateOf(
  arrays: ReadonlyMap<string, NamedArray>,
  { model, range, sizes: { a, b }, updates }: {
    readonly model: ModelShape;
    readonly range: HeadRange;
    readonly sizes: MatrixSizes;
    readonly updates: number[];
  },
  { lora }: RunSettings,
): HeadModulesState {
  const read = (part: string): HeadWeights[][][] => {
    const data = arrays.get(part)?.data;
    const expected = model.layers * range.count * lora.targets.length * (a + b);
    if (data?.length !== expected) {
      throw new TypeError(`"${part}" must have ${expected} numbers: it has ${data?.length ?? 0}`);
    }
    let at = 0;
    const take = (length: number) => data.subarray(at, at += length);
    const modules = (count: number) =>
      Array.from({ length: count }, () => lora.targets.map(() => ({ a: take(a), b: take(b) })));
    return Array.from({ length: model.layers }, () => modules(range.count));
  };
  return { weights: read("weights"), m: read("m"), v: read("v"), updates: Uint32Array.from(updates) };
}
