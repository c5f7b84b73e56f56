/**
 * Checkpoints on disk, read tensor by tensor.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { readJson } from "./json_file.ts";
import { showValue } from "../contracts/plain_text.ts";
import type { NamedArray } from "./named_arrays.ts";
import { damaged, type FileDigests, readDigests } from "./digests.ts";
import { type Entry, FLOATS, headerLength, notesIn, PREFIX, readEntries, toFloats } from "./tensor_header.ts";

/** Values that are read or converted at a time. */
const PIECE = 2 ** 18;

/** A file whose header was read. */
interface StoredFile {
  readonly path: string | URL;
  /** Where the values begin. */
  readonly start: number;
  readonly entries: readonly Entry[];
  /** What must still be so when values are read later. */
  readonly size: number;
  readonly modified: number | undefined;
  /** Notes of the header. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Digests that it carries; `null` in files of others. */
  readonly digests: FileDigests | null;
  /** Tensors whose digests were found right. */
  readonly checked: Set<string>;
}

/** Where one tensor lies. */
interface Place {
  readonly file: StoredFile;
  readonly entry: Entry;
}

/**
 * The tensors of a checkpoint on disk, as a map that holds no values: each `get`, and each turn of a loop
 * over it, reads one tensor from its file. So memory holds one tensor at a time, whatever the size of the
 * checkpoint. F32, F16 and BF16 become f32; all others are left out: those that a model needs are then missing.
 *
 * No file stays open between reads, so there is nothing to close; a file that has changed since `open` is
 * an error. Values of files that carry digests, as `saveSafetensors` writes them, are checked the first time they are
 * read from their beginning to their end: a damaged tensor is an error after its last piece.
 *
 * @example
 * ```ts ignore
 * const tensors = await StoredTensors.open("my_model/model.safetensors.index.json");
 * for (const [name, { shape, data }] of tensors) upload(name, shape, data);
 * ```
 */
export class StoredTensors implements ReadonlyMap<string, NamedArray> {
  readonly #places: ReadonlyMap<string, Place>;
  readonly #leftOut: ReadonlyMap<string, string>;

  private constructor(places: ReadonlyMap<string, Place>) {
    const all = [...places];
    this.#places = new Map(all.filter(([, { entry }]) => FLOATS.has(entry.dtype)));
    this.#leftOut = new Map(
      all.flatMap(([name, { entry: { dtype } }]) => FLOATS.has(dtype) ? [] : [[name, dtype]]),
    );
  }

  /** The dtype of a tensor that was left out; `undefined` if none of this name was. */
  leftOut(name: string): string | undefined {
    return this.#leftOut.get(name);
  }

  /**
   * Reads and checks the headers of a checkpoint.
   *
   * @param path A safetensors file, or the index of a checkpoint in several (`*.index.json`), whose files
   * lie beside it.
   * @throws {ModelFileError} If a file is missing or malformed, holds a dtype that cannot be read, or lacks
   * a tensor that the index says is there.
   */
  static async open(path: string | URL): Promise<StoredTensors> {
    const places = new Map<string, Place>();
    if (!String(path).endsWith(".index.json")) {
      const file = await openFile(path);
      for (const entry of file.entries) places.set(entry.name, { file, entry });
    } else {
      const files = new Map<string, ReadonlyMap<string, Place>>();
      for (const [name, shard] of await readIndex(path)) {
        let found = files.get(shard);
        if (found === undefined) {
          const file = await openFile(beside(path, shard));
          files.set(shard, found = new Map(file.entries.map((entry) => [entry.name, { file, entry }])));
        }
        const place = found.get(name);
        if (place === undefined) {
          throw new ModelFileError(
            `Cannot read ${path}: "${name}" is not in ${shard}, although the index says so`,
          );
        }
        places.set(name, place);
      }
    }
    return new StoredTensors(places);
  }

  /** Number of tensors. */
  get size(): number {
    return this.#places.size;
  }

  /** Says whether there is a tensor of this name. */
  has(name: string): boolean {
    return this.#places.has(name);
  }

  /**
   * Reads one tensor. It belongs to the caller; the next call reads it again.
   *
   * @returns The tensor; `undefined` if there is none of this name.
   * @throws {ModelFileError} If the file has changed or cannot be read any more.
   */
  get(name: string): NamedArray | undefined {
    const place = this.#places.get(name);
    return place === undefined ? undefined : readTensor(place);
  }

  /**
   * Reads one tensor piece by piece, so that memory need not hold even one.
   *
   * @param name Its name.
   * @param unit Each piece is a multiple of so many values, if the tensor is. @default {1}
   * @returns Its values in order, 262,144 or fewer at a time, or one unit. A piece holds until the next one, or
   * the end, is asked for.
   * @throws {ModelFileError} If there is none of this name; if the file has changed or cannot be read any more.
   */
  *pieces(name: string, unit = 1): Generator<Float32Array<ArrayBuffer>, void> {
    const place = this.#places.get(name);
    if (place === undefined) {
      throw new ModelFileError(`Cannot read "${name}": the model files do not hold it`);
    }
    const step = Math.max(1, Math.floor(PIECE / unit)) * unit;
    const room = new Float32Array(Math.min(step, lengthOf(place.entry)));
    try {
      yield* readPieces(place, room, room.length);
    } finally {
      room.buffer.transfer(0); // now: the garbage collector would let those of many tensors pile up
    }
  }

  /** Notes of the header; of a checkpoint in several files those of one of them. */
  get metadata(): Readonly<Record<string, string>> {
    return this.#places.values().next().value?.file.metadata ?? {};
  }

  /** The digest of the file, as `saveSafetensors` returned it; `null` in files of others, and of several files. */
  get digest(): string | null {
    const files = new Set([...this.#places.values()].map(({ file }) => file));
    return files.size === 1 ? [...files][0]!.digests?.file ?? null : null;
  }

  /**
   * SHA-256 of a tensor's values as f32, as the file notes it, once it was found right; so nobody needs to hash the
   * values again.
   *
   * @returns 64 hexadecimal digits; `null` if the file carries no digests.
   * @throws {ModelFileError} If the values are not those that were written.
   */
  valuesDigest(name: string): string | null {
    const place = this.#places.get(name);
    const noted = place?.file.digests?.tensors.get(name);
    if (noted === undefined || place!.entry.dtype !== "F32") return null;
    if (!place!.file.checked.has(name)) { for (const _ of this.pieces(name)) { /* checked at the end */ } }
    return noted;
  }

  /** Shape of a tensor, from the header; `undefined` if there is none of this name. */
  shape(name: string): readonly number[] | undefined {
    return this.#places.get(name)?.entry.shape;
  }

  /** The file of a tensor, for messages; `undefined` if there is none of this name. */
  from(name: string): string | undefined {
    const place = this.#places.get(name);
    return place && String(place.file.path);
  }

  /** Shapes by name, from the headers: nothing is read. */
  shapes(): ReadonlyMap<string, readonly number[]> {
    return new Map([...this.#places].map(([name, { entry }]) => [name, entry.shape]));
  }

  /** Names, in the order of the file or the index. */
  keys(): MapIterator<string> {
    return this.#places.keys();
  }

  /** Names and tensors, one tensor read at a time. */
  *entries(): MapIterator<[string, NamedArray]> {
    for (const [name, place] of this.#places) yield [name, readTensor(place)];
  }

  /** Tensors, read one at a time. */
  *values(): MapIterator<NamedArray> {
    for (const place of this.#places.values()) yield readTensor(place);
  }

  /** As `entries`. */
  [Symbol.iterator](): MapIterator<[string, NamedArray]> {
    return this.entries();
  }

  /** Calls a function with each tensor and its name, one tensor read at a time. */
  forEach(
    callback: (tensor: NamedArray, name: string, all: ReadonlyMap<string, NamedArray>) => void,
  ): void {
    for (const [name, tensor] of this) callback(tensor, name, this);
  }
}

function beside(path: string | URL, file: string): string | URL {
  return path instanceof URL ? new URL(encodeURIComponent(file), path) : path.replace(/[^/\\]*$/, file);
}

function unreadable(path: string | URL, rule: string, cause: unknown): ModelFileError {
  if (cause instanceof ModelFileError) return cause;
  const why = cause instanceof Error ? cause.message : String(cause);
  return new ModelFileError(`Cannot read ${path} as it must be ${rule}: ${why}`, { cause });
}

/** Which file of a checkpoint in several holds which tensor. */
async function readIndex(path: string | URL): Promise<[name: string, file: string][]> {
  let index: unknown;
  try {
    index = await readJson(path);
  } catch (cause) {
    throw unreadable(path, "a readable JSON file", cause);
  }
  const map = (index as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new ModelFileError(
      `Cannot read ${path} as weight_map must be an object: current value is ${showValue(map)}`,
    );
  }
  const entries = Object.entries(map);
  const wrong = entries.find(([, file]) => typeof file !== "string" || !/^[^/\\]+\.safetensors$/.test(file));
  if (wrong !== undefined) {
    throw new ModelFileError(
      `Cannot read ${path} as the file of "${
        wrong[0]
      }" must be a .safetensors file in the same folder: current value is ${showValue(wrong[1])}`,
    );
  }
  return entries as [string, string][];
}

async function openFile(path: string | URL): Promise<StoredFile> {
  const name = String(path);
  try {
    using file = await Deno.open(path);
    const { size, mtime } = await file.stat();
    const prefix = new Uint8Array(PREFIX);
    if (size >= PREFIX) fill(file, prefix, name);
    const header = new Uint8Array(headerLength(prefix, size, name));
    fill(file, header, name);
    const start = PREFIX + header.length;
    const entries = readEntries(header, size - start, name);
    const metadata = notesIn(header, name);
    return {
      ...{ path, start, entries, size, metadata },
      modified: mtime?.getTime(),
      digests: await readDigests(metadata, entries, name),
      checked: new Set(),
    };
  } catch (cause) {
    throw unreadable(path, "a readable file", cause);
  }
}

function lengthOf({ dtype, begin, end }: Entry): number {
  return (end - begin) / FLOATS.get(dtype)!;
}

function readTensor(place: Place): NamedArray {
  const { entry } = place;
  const data = new Float32Array(lengthOf(entry));
  // What is converted, is so in pieces: its halves need not all lie beside it.
  const step = entry.dtype === "F32" ? data.length : PIECE;
  for (const _ of readPieces(place, data, step)) { /* it is where it belongs */ }
  return { shape: entry.shape, data };
}

/**
 * Reads a tensor into `into`, `step` values at a time; if `into` is shorter than the tensor, each piece in the
 * place of the one before.
 */
function* readPieces(
  { file: { path, start, size, modified, digests, checked }, entry: { name: tensor, dtype, begin, end } }:
    Place,
  into: Float32Array<ArrayBuffer>,
  step: number,
): Generator<Float32Array<ArrayBuffer>, void> {
  const name = String(path);
  const width = FLOATS.get(dtype)!;
  const length = (end - begin) / width;
  const whole = into.length === length;
  const halves = new Uint8Array(dtype === "F32" ? 0 : step * width);
  const hash = digests === null || checked.has(tensor) ? null : digests.make();
  try {
    using file = Deno.openSync(path);
    const now = file.statSync();
    if (now.size !== size || now.mtime?.getTime() !== modified) {
      throw new ModelFileError(`Cannot read ${name} as it must not change while it is used: it has`);
    }
    file.seekSync(start + begin, Deno.SeekMode.Start);
    for (let at = 0; at < length; at += step) {
      const count = Math.min(step, length - at);
      const part = whole ? into.subarray(at, at + count) : into.subarray(0, count);
      if (dtype === "F32") {
        const bytes = new Uint8Array(part.buffer, part.byteOffset, part.byteLength);
        fill(file, bytes, name);
        hash?.update(bytes);
      } else {
        const bytes = halves.subarray(0, count * width);
        fill(file, bytes, name);
        hash?.update(bytes);
        toFloats(bytes, dtype, part);
      }
      yield part;
    }
    if (hash !== null && hash.digest() !== digests!.tensors.get(tensor)) {
      throw damaged(name, `the values of "${tensor}"`);
    }
    checked.add(tensor);
  } catch (cause) {
    throw unreadable(path, "a readable file", cause);
  } finally {
    halves.buffer.transfer(0);
  }
}

/** Reads as many bytes as `into` holds. */
function fill(file: Deno.FsFile, into: Uint8Array, name: string): void {
  for (let at = 0; at < into.length;) {
    const count = file.readSync(into.subarray(at));
    if (count === null || count === 0) {
      throw new ModelFileError(
        `Cannot read ${name} as it must not end early: ${
          into.length - at
        } of ${into.length} bytes are missing`,
      );
    }
    at += count;
  }
}
