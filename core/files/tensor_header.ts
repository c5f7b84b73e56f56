/**
 * The header of safetensors files, checked, and their element types.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { parseJson } from "./json_file.ts";
import { showValue } from "../contracts/plain_text.ts";

/** Longest header accepted, as in the reference implementation. */
const MAX_HEADER = 100_000_000;
/** Name of the header's entry that is no tensor. */
export const METADATA = "__metadata__";

/** Bytes of an element, of dtypes that are read. */
export const FLOATS: ReadonlyMap<string, number> = new Map([["F32", 4], ["F16", 2], ["BF16", 2]]);
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

/** Bytes of an element, of dtypes that matter only where a weight has them. */
export const FOREIGN: ReadonlyMap<string, number> = new Map([
  ["F64", 8],
  ["C64", 8],
  ["F8_E4M3", 1],
  ["F8_E5M2", 1],
  ["F8_E8M0", 1],
]);

/** What the header says of one tensor, checked. */
export interface Entry {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** Throws what is wrong with a file. */
export function fail(file: string, rule: string, value: unknown, cause?: unknown): never {
  throw new ModelFileError(
    `Cannot read ${file} as ${rule}: current value is ${showValue(value)}`,
    cause === undefined ? undefined : { cause },
  );
}

/** Bytes before the header. */
export const PREFIX = 8;

/** What is often there in place of weights, by how it begins. */
const OTHERS: readonly (readonly [begin: RegExp, what: string])[] = [
  [/^version /, "a pointer of Git LFS; get the file itself with: git lfs pull"],
  [/^(\xef\xbb\xbf)?\s*<[!?a-zA-Z]/, "a web page, as of a download that was refused; download it again"],
  [/^PK[^ -~]{2}/, "a ZIP archive, as PyTorch's own files are; convert it to safetensors"],
];

/** Refuses a file which by its first bytes is one of these, and no file of the format that was asked for. */
export function refuseOthers(prefix: Uint8Array, format: string, name: string): void {
  const text = String.fromCharCode(...prefix);
  const other = OTHERS.find(([begin]) => begin.test(text));
  if (other === undefined) return;
  throw new ModelFileError(`Cannot read ${name} as it must be a ${format} file: it is ${other[1]}`);
}

/**
 * The length of the header, from the first bytes of a file of `size` bytes.
 *
 * @throws {ModelFileError} If the header cannot be that long.
 */
export function headerLength(prefix: Uint8Array, size: number, name: string): number {
  if (size < PREFIX) fail(name, `it must hold at least ${PREFIX} bytes`, size);
  const length = new DataView(prefix.buffer, prefix.byteOffset, PREFIX).getBigUint64(0, true);
  const longest = Math.min(size - PREFIX, MAX_HEADER);
  if (length > BigInt(longest)) {
    refuseOthers(prefix.subarray(0, PREFIX), "safetensors", name);
    fail(name, `the length of the header must be at most ${longest}`, String(length));
  }
  return Number(length);
}

/**
 * The entries of all tensors, in the order in which their values lie in the file: without gap or overlap.
 *
 * @param bytes The header.
 * @param size Bytes of the file after the header.
 * @param name How errors call the file.
 * @throws {ModelFileError} If anything is malformed.
 */
export function readEntries(bytes: Uint8Array, size: number, name: string): Entry[] {
  const entries = Object.entries(parseHeader(bytes, name))
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
  return entries;
}

function parseHeader(bytes: Uint8Array, name: string): Record<string, unknown> {
  let header: unknown;
  let text = "";
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    header = parseJson(text);
  } catch (error) {
    const limit = error instanceof RangeError ? `, and ${error.message}` : "";
    fail(name, `the header must be JSON in UTF-8${limit}`, text.slice(0, 100), error);
  }
  if (typeof header !== "object" || header === null || Array.isArray(header) || !text.startsWith("{")) {
    fail(name, 'the header must be a JSON object that begins with "{"', text);
  }
  const fields = header as Record<string, unknown>;
  const metadata = fields[METADATA] ?? undefined; // some writers put null for none
  if (metadata !== undefined) {
    const isObject = typeof metadata === "object" && metadata !== null && !Array.isArray(metadata);
    if (!isObject || Object.values(metadata).some((value) => typeof value !== "string")) {
      fail(name, `${METADATA} must be an object of strings`, metadata);
    }
  }
  return fields;
}

/**
 * The notes in the header of a safetensors file.
 *
 * @param bytes The whole file.
 * @param name How errors call the file.
 * @returns Strings by name; none if the file has no notes.
 * @throws {ModelFileError} If the header is malformed.
 */
export function readMetadata(bytes: Uint8Array, name: string): Readonly<Record<string, string>> {
  const length = headerLength(bytes.subarray(0, PREFIX), bytes.length, name);
  const fields = parseHeader(bytes.subarray(PREFIX, PREFIX + length), name);
  return (fields[METADATA] ?? {}) as Record<string, string>;
}

/** The notes of a header by itself, as {@linkcode readMetadata}. */
export function notesIn(header: Uint8Array, name: string): Readonly<Record<string, string>> {
  return (parseHeader(header, name)[METADATA] ?? {}) as Record<string, string>;
}

/** Says whether a value is a non-negative integer. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function checkEntry(file: string, name: string, value: unknown): Entry {
  if (typeof value !== "object" || value === null) {
    fail(file, `the header's entry of "${name}" must be an object`, value);
  }
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>;
  const width = [FLOATS, INTEGERS, FOREIGN].map((widths) => widths.get(String(dtype))).find((n) =>
    n !== undefined
  );
  if (typeof dtype !== "string" || width === undefined) {
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
  return { name, dtype, shape: shape as number[], begin, end };
}

/**
 * Elements as f32, each without loss. All hosts that have a GPU API are little-endian, as the file is.
 *
 * @param bytes Elements as they lie in the file.
 * @param dtype One of `FLOATS`.
 * @param into Where they go.
 */
export function toFloats(bytes: Uint8Array, dtype: string, into: Float32Array): void {
  if (dtype === "F32") {
    new Uint8Array(into.buffer, into.byteOffset, into.byteLength).set(bytes);
    return;
  }
  const bits = new Uint32Array(into.buffer, into.byteOffset, into.length);
  const convert = dtype === "BF16" ? (half: number) => half << 16 : f16Bits;
  for (let i = 0; i < bits.length; i++) bits[i] = convert(bytes[2 * i]! | (bytes[2 * i + 1]! << 8));
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
