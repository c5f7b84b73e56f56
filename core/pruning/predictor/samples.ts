/**
 * Pruner samples: what unpruned steps showed, in a file that a predictor is trained from.
 *
 * L = layers, H = heads per layer, d = hidden size. A sample belongs to one step; windows of K steps are cut
 * when samples are read, and labels are computed then, so that K and lambda need not be known before.
 *
 * The file, little-endian: 8 bytes `ETSAMPLE`; u32 version; u32 length of the description; the description
 * as JSON, with spaces up to a multiple of 4; ||W||_F per head, f32 [L * H]. Then one record per sample, all
 * of one size: u32 seed of its run, u32 step, f32 [d] embedding mean, f32 [L * H] LoRA norms, f32 [L * H]
 * gradient norms, u32 checksum (FNV-1a over the record before it). A last record that is cut off or whose
 * checksum is wrong was being written when a run ended: it is left out when reading and overwritten when
 * appending. Anything else that does not fit is an error.
 *
 * @module
 */

import { AppendFile } from "../../files/append_file.ts";
import { bytesIfThere } from "../../files/folders.ts";
import { ModelFileError } from "../../contracts/errors.ts";
import { checkRunSettings, type RunSettings } from "../../train/run_settings.ts";

/** What one unpruned step showed. */
export interface PrunerSample {
  /** Seed of the run that the step belongs to. */
  readonly seed: number;
  /** Step number within its run, from 0. */
  readonly step: number;
  /** Mean over tokens of the step's embeddings E, [d]. */
  readonly embeddingMean: Float32Array;
  /** ||Delta W||_F of each head module before the step, [L * H]. */
  readonly loraNorm: Float32Array;
  /** Gradient importance G of the step, raw, [L * H]; see `PrunerInput.gradientNorm`. */
  readonly gradientNorm: Float32Array;
}

/** Where samples come from: the same for all samples of a file. */
export interface SampleSource {
  /** L, layers. */
  readonly layers: number;
  /** H, heads per layer. */
  readonly heads: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** Fingerprint of the base model. */
  readonly fingerprint: string;
  /** Heads of each device, H_m. */
  readonly headsPerDevice: readonly number[];
  /** Capacity of each device, gamma_m. */
  readonly capacities: readonly number[];
  /** ||W||_F of the base model's weights of each head, [L * H]. */
  readonly baseNorm: Float32Array;
  /**
   * What else decides what the samples show, see {@linkcode sampleSettings}: plain data that JSON can carry. Files
   * of before there were settings have none; they can be read, but not appended to by runs that say theirs.
   */
  readonly settings?: Readonly<Record<string, unknown>>;
}

/**
 * What of a run's settings decides what its samples show: LoRA, optimizer, codec, clipping and parts of a step. The
 * seed is left out, as each sample has its own, and the number of steps, as a run that is made longer goes on in
 * the same file.
 *
 * @param settings Settings of the run.
 * @param more What else whoever collects knows: batch, length, fingerprint of the data. @default {{}}
 * @throws {RangeError} If a setting is out of range.
 * @throws {TypeError} If LoRA mode or targets are unknown.
 */
export function sampleSettings(
  settings: RunSettings,
  more: Readonly<Record<string, unknown>> = {},
): Readonly<Record<string, unknown>> {
  const { lora, optimizer, codec, accumulate, clipNorm, prunedFade } = checkRunSettings(settings);
  return { lora, optimizer, codec, accumulate, clipNorm, ...(prunedFade < 1 && { prunedFade }), ...more };
}

/** Samples as they were read. */
export interface SampleSet {
  /** Where they come from. */
  readonly source: SampleSource;
  /** In the order of the file. */
  readonly samples: readonly PrunerSample[];
  /** Bytes after the last whole record; 0 unless a run ended while it wrote. */
  readonly tornBytes: number;
}

const MAGIC = "ETSAMPLE";
const VERSION = 1;
const PREFIX = MAGIC.length + 8;

function recordBytes({ layers, heads, hidden }: SampleSource): number {
  return 4 * (2 + hidden + 2 * layers * heads + 1);
}

function checksum(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

function encodeHeader(source: SampleSource): Uint8Array<ArrayBuffer> {
  const { baseNorm, ...description } = source;
  let json = JSON.stringify(description);
  let text = new TextEncoder().encode(json);
  json += " ".repeat(-text.length & 3);
  text = new TextEncoder().encode(json);
  const bytes = new Uint8Array(PREFIX + text.length + 4 * baseNorm.length);
  bytes.set(new TextEncoder().encode(MAGIC));
  const view = new DataView(bytes.buffer);
  view.setUint32(MAGIC.length, VERSION, true);
  view.setUint32(MAGIC.length + 4, text.length, true);
  bytes.set(text, PREFIX);
  baseNorm.forEach((x, i) => view.setFloat32(PREFIX + text.length + 4 * i, x, true));
  return bytes;
}

function encodeRecord(source: SampleSource, sample: PrunerSample): Uint8Array<ArrayBuffer> {
  const size = source.layers * source.heads;
  const bytes = new Uint8Array(recordBytes(source));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, sample.seed, true);
  view.setUint32(4, sample.step, true);
  let at = 8;
  for (
    const [name, length] of [["embeddingMean", source.hidden], ["loraNorm", size], [
      "gradientNorm",
      size,
    ]] as const
  ) {
    const values = sample[name];
    if (values.length !== length || !values.every(Number.isFinite)) {
      throw new RangeError(
        `Cannot write the sample of step ${sample.step} as "${name}" must be ${length} finite numbers: it is not (${values.length} values)`,
      );
    }
    for (const x of values) {
      view.setFloat32(at, x, true);
      at += 4;
    }
  }
  view.setUint32(at, checksum(bytes.subarray(0, at)), true);
  return bytes;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

function parseSource(text: string, refuse: (rule: string) => never): Omit<SampleSource, "baseNorm"> {
  let json: Record<string, unknown>;
  try {
    json = JSON.parse(text);
  } catch {
    return refuse("its description is not JSON");
  }
  const { layers, heads, hidden, fingerprint, headsPerDevice, capacities, settings } = json ?? {};
  const numbers = (list: unknown): list is number[] =>
    Array.isArray(list) && list.every((x) => typeof x === "number" && Number.isFinite(x));
  if (
    !isCount(layers) || !isCount(heads) || !isCount(hidden) || typeof fingerprint !== "string" ||
    !numbers(headsPerDevice) || !numbers(capacities) ||
    (settings !== undefined && (typeof settings !== "object" || settings === null || Array.isArray(settings)))
  ) {
    return refuse(`its description must be complete: it is ${text.trim().slice(0, 200)}`);
  }
  const source = { layers, heads, hidden, fingerprint, headsPerDevice, capacities };
  return settings === undefined ? source : { ...source, settings: settings as Record<string, unknown> };
}

/**
 * Reads the bytes of a sample file.
 *
 * @param bytes The whole file.
 * @param name For messages. @default {"samples"}
 * @throws {ModelFileError} If it is not a sample file of this version, or damaged before its last record.
 */
export function readSamples(bytes: Uint8Array, name = "samples"): SampleSet {
  const refuse = (rule: string): never => {
    throw new ModelFileError(`Cannot read ${name} as ${rule}`);
  };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const isOurs = bytes.length >= PREFIX &&
    new TextDecoder().decode(bytes.subarray(0, MAGIC.length)) === MAGIC;
  if (!isOurs) refuse("it does not begin like a file of pruner samples");
  const version = view.getUint32(MAGIC.length, true);
  if (version !== VERSION) refuse(`its version must be ${VERSION}: current value is ${version}`);
  const length = view.getUint32(MAGIC.length + 4, true);
  if (length > bytes.length - PREFIX) refuse("its description is cut off");
  const source = parseSource(new TextDecoder().decode(bytes.subarray(PREFIX, PREFIX + length)), refuse);
  const size = source.layers * source.heads;
  const floats = (at: number, count: number) =>
    Float32Array.from({ length: count }, (_, i) => view.getFloat32(at + 4 * i, true));
  let at = PREFIX + length;
  if (bytes.length < at + 4 * size) refuse("its base norms are cut off");
  const whole = { ...source, baseNorm: floats(at, size) };
  at += 4 * size;
  const step = recordBytes(whole);
  const samples: PrunerSample[] = [];
  for (; at + step <= bytes.length; at += step) {
    const end = at + step - 4;
    if (checksum(bytes.subarray(at, end)) !== view.getUint32(end, true)) {
      if (at + 2 * step <= bytes.length) {
        refuse(`record ${samples.length} must be whole: its checksum is wrong`);
      }
      break;
    }
    samples.push({
      seed: view.getUint32(at, true),
      step: view.getUint32(at + 4, true),
      embeddingMean: floats(at + 8, source.hidden),
      loraNorm: floats(at + 8 + 4 * source.hidden, size),
      gradientNorm: floats(at + 8 + 4 * (source.hidden + size), size),
    });
  }
  return { source: whole, samples, tornBytes: bytes.length - at };
}

async function readIfThere(path: string | URL): Promise<Uint8Array | null> {
  try {
    return await bytesIfThere(path);
  } catch (cause) {
    throw new ModelFileError(
      `Cannot read ${path} as it must be a readable file: ${(cause as Error).message}`,
      { cause },
    );
  }
}

/**
 * Reads a sample file.
 *
 * @throws {ModelFileError} As {@linkcode readSamples}, or if there is no readable file.
 */
export async function loadSamples(path: string | URL): Promise<SampleSet> {
  const bytes = await readIfThere(path);
  if (bytes === null) throw new ModelFileError(`Cannot read ${path}: there is no such file`);
  return readSamples(bytes, String(path));
}

/** Appends samples to a file. */
export class SampleWriter implements Disposable {
  readonly #file: AppendFile;
  readonly #source: SampleSource;
  #count: number;
  /** Bytes of a torn last record that were cut off when the file was opened. */
  readonly cutBytes: number;

  private constructor(file: AppendFile, source: SampleSource, count: number, cut: number) {
    this.#file = file;
    this.#source = source;
    this.#count = count;
    this.cutBytes = cut;
  }

  /**
   * Opens a file to append to, or makes a new one. A torn last record is cut off.
   *
   * @param path The file.
   * @param source Where the new samples come from; those in the file must come from the same model on the
   * same devices with the same settings. Seeds may differ.
   * @throws {ModelFileError} If the file is damaged or holds samples of another source.
   */
  static async open(path: string | URL, source: SampleSource): Promise<SampleWriter> {
    const existing = await readIfThere(path);
    if (existing === null || existing.length === 0) {
      return new SampleWriter(await AppendFile.open(path, encodeHeader(source)), source, 0, 0);
    }
    const set = readSamples(existing, String(path));
    requireSource(set.source, source, String(path));
    const file = await AppendFile.open(path, existing.length - set.tornBytes);
    return new SampleWriter(file, source, set.samples.length, set.tornBytes);
  }

  /** Samples in the file. */
  get count(): number {
    return this.#count;
  }

  /** Bytes of the file. */
  get bytes(): number {
    return this.#file.bytes;
  }

  /**
   * Appends a sample.
   *
   * @throws {RangeError} If it has another shape than the file's, or a value is not finite.
   * @throws {SaveError} If it cannot be written, on a full disk for example; the samples before it stay.
   */
  async write(sample: PrunerSample): Promise<void> {
    await this.#file.add(encodeRecord(this.#source, sample));
    this.#count++;
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}

/** Checks that two sources are the same. @throws {ModelFileError} If they are not. */
function requireSource(found: SampleSource, wanted: SampleSource, name: string): void {
  const refuse = (key: string, now: unknown, then: unknown): never => {
    throw new ModelFileError(
      `Cannot append to ${name} as its samples must have the same "${key}" as the run, ${
        now ?? "which has none"
      }: they have ${then ?? "none"}`,
    );
  };
  for (
    const key of ["layers", "heads", "hidden", "fingerprint", "headsPerDevice", "capacities"] as const
  ) {
    const [now, then] = [JSON.stringify(wanted[key]), JSON.stringify(found[key])];
    if (now !== then) refuse(key, now, then);
  }
  if (found.settings === undefined && wanted.settings !== undefined) {
    throw new ModelFileError(
      `Cannot append to ${name} as it must say with which settings its samples were collected: it does not, as it was written before such files did; use it as it is, or name another one`,
    );
  }
  const [now, then] = [leavesOf(wanted.settings ?? {}), leavesOf(found.settings ?? {})];
  for (const key of [...now.keys(), ...then.keys()]) {
    if (now.get(key) !== then.get(key)) refuse(key, now.get(key), then.get(key));
  }
}

/** The values of nested objects as JSON, by names such as `lora.rank`. */
function leavesOf(settings: Readonly<Record<string, unknown>>, before = ""): Map<string, string> {
  const leaves = new Map<string, string>();
  for (const [key, value] of Object.entries(settings)) {
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      for (const [name, leaf] of leavesOf(value as Record<string, unknown>, `${before}${key}.`)) {
        leaves.set(name, leaf);
      }
    } else if (value !== undefined) leaves.set(`${before}${key}`, JSON.stringify(value));
  }
  return leaves;
}
