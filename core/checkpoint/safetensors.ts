/**
 * Reads and writes safetensors files.
 *
 * A file is: the length of the header (8 bytes, little-endian), the header (JSON: dtype, shape and place of
 * each tensor), the values of all tensors, one after the other.
 *
 * @module
 */

import { CheckpointError } from "../errors.ts";
import type { NamedArray, NamedArrays } from "../model/gpt2.ts";

/** Longest header accepted, as in the reference implementation. */
const MAX_HEADER = 100_000_000;
const METADATA = "__metadata__";

/** Bytes of an element. */
const FLOATS: ReadonlyMap<string, number> = new Map([["F32", 4], ["F16", 2], ["BF16", 2]]);
/** Bytes of an element, of dtypes which are left out. */
const INTEGERS: ReadonlyMap<string, number> = new Map([
  ["BOOL", 1],
  ["U8", 1],
  ["I8", 1],
  ["U16", 2],
  ["I16", 2],
  ["U32", 4],
  ["I32", 4],
  ["U64", 8],
  ["I64", 8],
]);

/** What the header says of one tensor, checked. */
interface Entry {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}

function fail(file: string, rule: string, value: unknown, cause?: unknown): never {
  throw new CheckpointError(
    `Cannot read ${file} as ${rule}: current value is ${show(value)}`,
    cause === undefined ? undefined : { cause },
  );
}

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
 * @throws {CheckpointError} If the file is malformed, or holds a dtype that cannot be read.
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
  const { header, start } = readHeader(bytes, name);
  const size = bytes.length - start;
  const entries = Object.entries(header)
    .filter(([tensor]) => tensor !== METADATA)
    .map(([tensor, fields]) => checkEntry(name, tensor, fields))
    .toSorted((a, b) => a.begin - b.begin || a.end - b.end);

  let place = 0;
  for (const { name: tensor, begin, end } of entries) {
    if (begin !== place) {
      const rule = begin < place
        ? `the values of "${tensor}" must not overlap others`
        : `the values of "${tensor}" must follow the others without a gap`;
      fail(name, `${rule} (begin at byte ${place})`, begin);
    }
    if (end > size) {
      fail(name, `the values of "${tensor}" must lie in the file (end at byte ${size} at most)`, end);
    }
    place = end;
  }
  if (place !== size) fail(name, `the tensors must take all ${size} bytes after the header`, place);

  const tensors = new Map<string, NamedArray>();
  for (const { name: tensor, dtype, shape, begin, end } of entries) {
    if (!FLOATS.has(dtype)) continue;
    tensors.set(tensor, { shape, data: toFloats(bytes.subarray(start + begin, start + end), dtype) });
  }
  return tensors;
}

/**
 * Reads the tensors of a safetensors file from disk.
 *
 * @param path The file.
 * @returns What {@linkcode readSafetensors} returns.
 * @throws {CheckpointError} If the file cannot be read, is malformed, or holds a dtype that cannot be read.
 */
export async function loadSafetensors(path: string | URL): Promise<Map<string, NamedArray>> {
  let bytes: Uint8Array;
  try {
    bytes = await Deno.readFile(path);
  } catch (error) {
    throw new CheckpointError(
      `Cannot read ${path} as it must be a readable file: ${error instanceof Error ? error.message : error}`,
      { cause: error },
    );
  }
  return readSafetensors(bytes, String(path));
}

function readHeader(bytes: Uint8Array, name: string): { header: Record<string, unknown>; start: number } {
  if (bytes.length < 8) fail(name, "it must hold at least 8 bytes", bytes.length);
  const length = new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
  const longest = Math.min(bytes.length - 8, MAX_HEADER);
  if (length > BigInt(longest)) {
    fail(name, `the length of the header must be at most ${longest}`, String(length));
  }
  const start = 8 + Number(length);
  let header: unknown;
  let text = "";
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(8, start));
    header = JSON.parse(text);
  } catch (error) {
    fail(name, "the header must be JSON in UTF-8", text, error);
  }
  if (typeof header !== "object" || header === null || Array.isArray(header) || !text.startsWith("{")) {
    fail(name, 'the header must be a JSON object that begins with "{"', text);
  }
  const fields = header as Record<string, unknown>;
  const metadata = fields[METADATA];
  if (metadata !== undefined) {
    const isObject = typeof metadata === "object" && metadata !== null && !Array.isArray(metadata);
    if (!isObject || Object.values(metadata).some((value) => typeof value !== "string")) {
      fail(name, `${METADATA} must be an object of strings`, metadata);
    }
  }
  return { header: fields, start };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function checkEntry(file: string, name: string, value: unknown): Entry {
  if (typeof value !== "object" || value === null) {
    fail(file, `the header's entry of "${name}" must be an object`, value);
  }
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>;
  const width = typeof dtype === "string" ? FLOATS.get(dtype) ?? INTEGERS.get(dtype) : undefined;
  if (width === undefined) {
    fail(file, `the dtype of "${name}" must be one of ${[...FLOATS.keys(), ...INTEGERS.keys()]}`, dtype);
  }
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    fail(file, `the shape of "${name}" must be a list of non-negative integers`, shape);
  }
  if (
    !Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount) || offsets[0]! > offsets[1]!
  ) {
    fail(file, `data_offsets of "${name}" must be two non-negative integers in ascending order`, offsets);
  }
  const [begin, end] = offsets as [number, number];
  const expected = shape.reduce((product, n) => product * n, width);
  if (end - begin !== expected) {
    fail(
      file,
      `the values of "${name}" must take ${expected} bytes (${dtype}, shape [${shape}])`,
      end - begin,
    );
  }
  return { name, dtype: dtype as string, shape: shape as number[], begin, end };
}

/** Elements as f32. All hosts that have a GPU API are little-endian, as the file is. */
function toFloats(bytes: Uint8Array, dtype: string): Float32Array {
  if (dtype === "F32") {
    const data = new Float32Array(bytes.length / 4);
    new Uint8Array(data.buffer).set(bytes);
    return data;
  }
  const data = new Float32Array(bytes.length / 2);
  const bits = new Uint32Array(data.buffer);
  const convert = dtype === "BF16" ? (half: number) => half << 16 : f16Bits;
  for (let i = 0; i < bits.length; i++) bits[i] = convert(bytes[2 * i]! | (bytes[2 * i + 1]! << 8));
  return data;
}

const SCRATCH = new Float32Array(1);
const SCRATCH_BITS = new Uint32Array(SCRATCH.buffer);

/** The bits of the f32 with the value of an f16. */
function f16Bits(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0x1f) return sign | 0x7f80_0000 | (fraction << 13); // Infinity, NaN
  if (exponent > 0) return sign | ((exponent + 112) << 23) | (fraction << 13);
  SCRATCH[0] = fraction * 2 ** -24; // 0 and the subnormal numbers
  return sign | SCRATCH_BITS[0]!;
}

/**
 * Writes tensors as a safetensors file, all in F32. The same tensors and metadata always give the same bytes,
 * whatever the order of the maps.
 *
 * @param tensors Tensors by name.
 * @param metadata What else to note: strings by name.
 * @returns The file.
 * @throws {CheckpointError} If a tensor has not as many values as its shape says, or has the reserved name
 * `__metadata__`.
 */
export function writeSafetensors(
  tensors: NamedArrays,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  const names = [...tensors.keys()].toSorted(byCodeUnits);
  const lines: string[] = [];
  const notes = Object.keys(metadata).toSorted(byCodeUnits);
  if (notes.length > 0) {
    const fields = notes.map((note) => `${JSON.stringify(note)}:${JSON.stringify(metadata[note])}`);
    lines.push(`"${METADATA}":{${fields.join(",")}}`);
  }
  let size = 0;
  for (const name of names) {
    const { shape, data } = tensors.get(name)!;
    if (name === METADATA) {
      throw new CheckpointError(
        `Cannot write tensors as no name may be reserved: current value is "${name}"`,
      );
    }
    if (!shape.every(isCount) || shape.reduce((product, n) => product * n, 1) !== data.length) {
      throw new CheckpointError(
        `Cannot write tensors as "${name}" must hold as many values as its shape says: shape is [${shape}], ` +
          `current value is ${data.length}`,
      );
    }
    const offsets = `[${size},${size + 4 * data.length}]`;
    lines.push(`${JSON.stringify(name)}:{"dtype":"F32","shape":[${shape}],"data_offsets":${offsets}}`);
    size += 4 * data.length;
  }
  const header = new TextEncoder().encode(`{${lines.join(",")}}`);
  // Spaces at the end of the header let the values begin at a multiple of 8 bytes.
  const headerSize = Math.ceil(header.length / 8) * 8;
  const bytes = new Uint8Array(8 + headerSize + size);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(headerSize), true);
  bytes.fill(0x20, 8, 8 + headerSize);
  bytes.set(header, 8);
  const values = new Float32Array(bytes.buffer, 8 + headerSize, size / 4);
  let place = 0;
  for (const name of names) {
    const { data } = tensors.get(name)!;
    values.set(data, place);
    place += data.length;
  }
  return bytes;
}

function byCodeUnits(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
