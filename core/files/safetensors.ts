/**
 * Reads and writes safetensors files.
 *
 * A file is: the length of the header (8 bytes, little-endian), the header (JSON: dtype, shape and place of
 * each tensor), the values of all tensors, one after the other.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import type { NamedArray, NamedArrays } from "./named_arrays.ts";
import { type WholeFile, writeWhole } from "./atomic.ts";
import { digestNoted, sha256Maker, withDigests, withDigestsInMemory, withRoom } from "./digests.ts";
import { sha256 } from "./sha256.ts";
import {
  fail,
  FLOATS,
  FOREIGN,
  headerLength,
  isCount,
  METADATA,
  PREFIX,
  readEntries,
  toFloats,
} from "./tensor_header.ts";
import { shapesOf, streamed } from "./streaming.ts";
import { StoredTensors } from "./stored_tensors.ts";

/**
 * Reads the tensors of a safetensors file.
 *
 * F32, F16 and BF16 become f32, each without loss. Integers and booleans are checked like the others and
 * then left out: in checkpoints of language models they are masks and positions, never weights. Any other
 * dtype is an error.
 *
 * @param bytes The file.
 * @param name How errors call the file. @default {"the safetensors file"}
 * @returns Tensors by name, in the order in which their values lie in the file. They share no memory with
 * `bytes`.
 * @throws {ModelFileError} If the file is malformed, or holds a dtype that cannot be read.
 *
 * @example
 * ```ts
 * import { readSafetensors, writeSafetensors } from "@edgetuner/core";
 *
 * const bytes = writeSafetensors(new Map([["w", { shape: [2], data: Float32Array.of(1, 2) }]]));
 * readSafetensors(bytes).get("w")?.data; // Float32Array [1, 2]
 * ```
 */
export function readSafetensors(
  bytes: Uint8Array,
  name = "the safetensors file",
): Map<string, NamedArray> {
  const start = PREFIX + headerLength(bytes, bytes.length, name);
  const tensors = new Map<string, NamedArray>();
  for (const entry of readEntries(bytes.subarray(PREFIX, start), bytes.length - start, name)) {
    const { dtype, shape, begin, end } = entry;
    const width = FLOATS.get(dtype);
    if (FOREIGN.has(dtype)) {
      fail(name, `the dtype of "${entry.name}" must be one of ${[...FLOATS.keys()]} or an integer`, dtype);
    }
    if (width === undefined) continue;
    const data = new Float32Array((end - begin) / width);
    toFloats(bytes.subarray(start + begin, start + end), dtype, data);
    tensors.set(entry.name, { shape, data });
  }
  return tensors;
}

/**
 * Reads the tensors of a safetensors file from disk into memory, all of them. For large ones see
 * {@linkcode StoredTensors}.
 *
 * @param path The file.
 * @returns What {@linkcode readSafetensors} returns.
 * @throws {ModelFileError} If the file cannot be read, is malformed, or holds a dtype that cannot be read.
 */
export async function loadSafetensors(path: string | URL): Promise<Map<string, NamedArray>> {
  return new Map(await StoredTensors.open(path));
}

/**
 * Writes tensors as a safetensors file, all in F32. The same tensors and metadata always give the same bytes,
 * whatever the order of the maps.
 *
 * @param tensors Tensors by name.
 * @param metadata What else to note: strings by name.
 * @returns The file.
 * @throws {ModelFileError} If a tensor has not as many values as its shape says, or has the reserved name
 * `__metadata__`.
 */
export function writeSafetensors(
  tensors: NamedArrays,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  const pieces = safetensorsPieces(tensors, metadata);
  const bytes = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let place = 0;
  for (const piece of pieces) {
    bytes.set(piece, place);
    place += piece.length;
  }
  return bytes;
}

/**
 * What {@linkcode writeSafetensors} gives, in pieces: the header, and the values of each tensor, which are not copied.
 *
 * @throws {ModelFileError} As `writeSafetensors`.
 */
export function safetensorsPieces(
  tensors: NamedArrays,
  metadata: Readonly<Record<string, string>>,
): Uint8Array[] {
  for (const [name, { shape, data }] of tensors) requireLength(name, shape, data.length);
  const { names, start } = layOut(shapesOf(tensors), metadata);
  const values = names.map((name) => {
    const { buffer, byteOffset, byteLength } = tensors.get(name)!.data;
    return new Uint8Array(buffer, byteOffset, byteLength);
  });
  return [start, ...values];
}

/**
 * Writes a safetensors file tensor by tensor: memory holds one at a time, if the map computes them when it is
 * asked, as `mergePeft` does, and a piece of one if it reads them, as `StoredTensors` does. The file gets its
 * name once it is whole. Its header notes SHA-256 digests of the values and of the header itself, which
 * {@linkcode StoredTensors} checks as it reads.
 *
 * @param path Where to.
 * @param tensors What to write.
 * @param metadata Notes for the header.
 * @returns The digest of the file: it is another one if anything in the file is.
 * @throws {ModelFileError} If a tensor does not hold as many values as its shape says.
 * @throws {SaveError} If the file cannot be written, on a full disk for example.
 */
export async function saveSafetensors(
  path: string,
  tensors: NamedArrays,
  metadata: Readonly<Record<string, string>> = {},
): Promise<string> {
  const shapes = shapesOf(tensors);
  const { names, start } = layOut(shapes, withRoom(metadata, [...shapes.keys()]));
  const make = await sha256Maker();
  let digest = "";
  await writeWhole(path, async (whole) => {
    const file = gathered(whole);
    await file.write(start);
    const entries = [];
    for (const name of names) {
      const [shape, hash] = [shapes.get(name)!, make()];
      requireLength(name, shape, await writeTensor(file, streamed(tensors, name)!.pieces(), hash.update));
      entries.push({ name, dtype: "F32", shape, digest: hash.digest() });
    }
    // Digests take the room that was left for them.
    const notes = withDigests(metadata, entries, make);
    digest = digestNoted(notes);
    await file.seek(0);
    await file.write(layOut(shapes, notes).start);
    await file.seek(0); // all of it
  });
  return digest;
}

/**
 * The bytes that {@linkcode saveSafetensors} writes, for where there are no files, as in a page.
 *
 * @param tensors What to write.
 * @param metadata Notes for the header.
 * @returns The file, and its digest.
 * @throws {ModelFileError} If a tensor does not hold as many values as its shape says.
 */
export async function safetensorsBytes(
  tensors: NamedArrays,
  metadata: Readonly<Record<string, string>> = {},
): Promise<{ readonly bytes: Uint8Array<ArrayBuffer>; readonly digest: string }> {
  const entries = await Promise.all(
    [...tensors].map(async ([name, { shape, data }]) => ({
      name,
      dtype: "F32",
      shape,
      digest: await sha256([data]),
    })),
  );
  const notes = await withDigestsInMemory(metadata, entries.sort((a, b) => byCodeUnits(a.name, b.name)));
  return { bytes: writeSafetensors(tensors, notes), digest: digestNoted(notes) };
}

/** Bytes that are gathered before they are written. */
const GATHERED = 2 ** 20;

/** A file whose small pieces are written together: heads are hundreds of tensors of a few kilobytes. */
function gathered(file: WholeFile): WholeFile {
  let room: Uint8Array<ArrayBuffer> | null = null;
  let filled = 0;
  const flush = async () => {
    if (filled > 0) await file.write(room!.subarray(0, filled));
    filled = 0;
  };
  return {
    async write(bytes) {
      if (filled + bytes.length > GATHERED) await flush();
      if (bytes.length >= GATHERED) return await file.write(bytes);
      (room ??= new Uint8Array(GATHERED)).set(bytes, filled);
      filled += bytes.length;
    },
    async seek(to) {
      await flush();
      await file.seek(to);
    },
  };
}

/** Writes the values of a tensor; returns how many there are. */
async function writeTensor(
  file: WholeFile,
  pieces: Iterable<Float32Array>,
  see: (bytes: Uint8Array) => void,
): Promise<number> {
  let length = 0;
  for (const { buffer, byteOffset, byteLength } of pieces) {
    const bytes = new Uint8Array(buffer, byteOffset, byteLength);
    see(bytes);
    await file.write(bytes);
    length += byteLength / 4;
  }
  return length;
}

function requireLength(name: string, shape: readonly number[], length: number): void {
  if (shape.every(isCount) && shape.reduce((product, n) => product * n, 1) === length) return;
  throw new ModelFileError(
    `Cannot write tensors as "${name}" must hold as many values as its shape says: shape is [${shape}], ` +
      `current value is ${length}`,
  );
}

/** Names in the order of the file, what comes before the values, and the bytes of the values. */
function layOut(
  shapes: ReadonlyMap<string, readonly number[]>,
  metadata: Readonly<Record<string, string>>,
) {
  const names = [...shapes.keys()].toSorted(byCodeUnits);
  const lines: string[] = [];
  const notes = Object.keys(metadata).toSorted(byCodeUnits);
  if (notes.length > 0) {
    const fields = notes.map((note) => `${JSON.stringify(note)}:${JSON.stringify(metadata[note])}`);
    lines.push(`"${METADATA}":{${fields.join(",")}}`);
  }
  let size = 0;
  for (const name of names) {
    if (name === METADATA) {
      throw new ModelFileError(
        `Cannot write tensors as no name may be reserved: current value is "${name}"`,
      );
    }
    const length = shapes.get(name)!.reduce((product, n) => product * n, 1);
    const offsets = `[${size},${size + 4 * length}]`;
    lines.push(
      `${JSON.stringify(name)}:{"dtype":"F32","shape":[${shapes.get(name)}],"data_offsets":${offsets}}`,
    );
    size += 4 * length;
  }
  const header = new TextEncoder().encode(`{${lines.join(",")}}`);
  // Spaces at the end of the header let the values begin at a multiple of 8 bytes.
  const headerSize = Math.ceil(header.length / 8) * 8;
  const start = new Uint8Array(8 + headerSize).fill(0x20, 8);
  new DataView(start.buffer).setBigUint64(0, BigInt(headerSize), true);
  start.set(header, 8);
  return { names, start, size };
}

function byCodeUnits(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
