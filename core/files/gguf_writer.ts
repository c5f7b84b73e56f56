/**
 * Writes GGUF files, version 3, one tensor at a time.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { writeWhole } from "./atomic.ts";
import type { GgufFieldsTyped } from "./gguf.ts";
import { type GgmlWritten, quantise } from "./ggml_encode.ts";
import { ggmlBytes } from "./ggml_types.ts";

/** A field's value with its type in the file. */
export type GgufField =
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "u32" | "f32"; readonly value: number }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "strings"; readonly value: readonly string[] }
  | { readonly type: "i32s" | "f32s"; readonly value: readonly number[] };

/** A tensor to be written. */
export interface GgufSource {
  /** Element type in the file. */
  readonly type: GgmlWritten;
  /** Shape, rows first. */
  readonly shape: readonly number[];
  /** Its values in order; each piece is whole blocks of the type. */
  readonly pieces: () => Iterable<Float32Array>;
}

/** Tensors begin at multiples of so many bytes, if no field says otherwise. */
const ALIGNMENT = 32;

/** Numbers of the types in a tensor's entry. */
const TYPE_NUMBERS: Readonly<Record<GgmlWritten, number>> = { F32: 0, F16: 1, Q8_0: 8 };

/** Gives plain fields the types that GGUF has. */
export async function typedFields(fields: Readonly<Record<string, GgufField>>): Promise<GgufFieldsTyped> {
  const { GGUFValueType } = await import("@huggingface/gguf");
  const { STRING, UINT32, INT32, FLOAT32, BOOL, ARRAY } = GGUFValueType;
  const types = {
    string: { type: STRING },
    u32: { type: UINT32 },
    f32: { type: FLOAT32 },
    bool: { type: BOOL },
    strings: { type: ARRAY, subType: STRING },
    i32s: { type: ARRAY, subType: INT32 },
    f32s: { type: ARRAY, subType: FLOAT32 },
  };
  return Object.fromEntries(
    Object.entries(fields).map(([name, { type, value }]) => [name, { value, ...types[type] }]),
  ) as GgufFieldsTyped;
}

/** One tensor's entry in the header: name, dimensions from the innermost one, type, and where its data begin. */
function entryOf(name: string, { type, shape }: GgufSource, offset: number): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(name);
  const bytes = new Uint8Array(8 + text.length + 4 + 8 * shape.length + 4 + 8);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  let at = 8 + text.length;
  view.setUint32(at, shape.length, true);
  at += 4;
  for (const size of shape.toReversed()) {
    view.setBigUint64(at, BigInt(size), true);
    at += 8;
  }
  view.setUint32(at, TYPE_NUMBERS[type], true);
  view.setBigUint64(at + 4, BigInt(offset), true);
  return bytes;
}

/** Bytes of a tensor's data. */
function bytesOf({ type, shape }: GgufSource): number {
  return ggmlBytes(type, shape.at(-1) ?? 1, shape.slice(0, -1).reduce((a, b) => a * b, 1));
}

/** Zeros up to the next place where a tensor may begin. */
function padding(length: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array((ALIGNMENT - length % ALIGNMENT) % ALIGNMENT);
}

/**
 * Writes a file that is whole or not there. Memory holds one piece of a tensor at a time.
 *
 * @param path Where to.
 * @param fields Its fields, `general.architecture` first.
 * @param tensors Its tensors, by llama.cpp's names.
 * @throws {ModelFileError} If a tensor's rows are not whole blocks of its type, or it has other values than its shape
 * says.
 * @throws {SaveError} If it cannot be written, on a full disk for example; what was there before is still there.
 */
export async function saveGguf(
  path: string,
  fields: GgufFieldsTyped,
  tensors: ReadonlyMap<string, GgufSource>,
): Promise<void> {
  const { GGUFValueType, serializeGgufMetadata } = await import("@huggingface/gguf");
  // Counts are those of what is written.
  const { "general.alignment": _a, version: _v, tensor_count: _t, kv_count: _k, ...others } = fields;
  const bytes = Object.entries(others).find(([, { subType }]) => subType === GGUFValueType.UINT8);
  if (bytes !== undefined) {
    throw new ModelFileError(
      `Cannot write ${path} as no field may be a list of bytes: current value is ${bytes[0]}`,
    );
  }
  const beginning = serializeGgufMetadata({
    ...others,
    version: { value: 3, type: GGUFValueType.UINT32 },
    tensor_count: { value: BigInt(tensors.size), type: GGUFValueType.UINT64 },
    kv_count: { value: 0n, type: GGUFValueType.UINT64 }, // counted when it is written
  }, { alignment: 1 });
  const entries: Uint8Array[] = [];
  let offset = 0;
  for (const [name, tensor] of tensors) {
    entries.push(entryOf(name, tensor, offset));
    const bytes = bytesOf(tensor);
    offset += bytes + padding(bytes).length;
  }
  const header = entries.reduce((sum, { length }) => sum + length, beginning.length);
  await writeWhole(path, async (file) => {
    for (const part of [beginning, ...entries, padding(header)]) await file.write(part);
    for (const [name, tensor] of tensors) {
      let written = 0;
      for (const piece of tensor.pieces()) {
        const bytes = quantise(tensor.type, piece);
        await file.write(bytes);
        written += bytes.length;
      }
      if (written !== bytesOf(tensor)) {
        throw new ModelFileError(
          `Cannot write ${path} as "${name}" must have the ${
            bytesOf(tensor)
          } bytes of its shape: it has ${written}`,
        );
      }
      await file.write(padding(written));
    }
  });
}
