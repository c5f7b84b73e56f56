/**
 * Reads GGUF files, the checkpoints of llama.cpp, one tensor at a time.
 *
 * @module
 */

import type { GGUFTypedMetadata } from "@huggingface/gguf";
import { ModelFileError } from "../contracts/errors.ts";
import type { NamedArray } from "./named_arrays.ts";
import { PREFIX, refuseOthers } from "./tensor_header.ts";
import { dequantise, ggmlBlock, ggmlBytes } from "./ggml_types.ts";

/** A tensor of a GGUF file. */
export interface GgufTensor {
  /** Name, as llama.cpp has it: `blk.0.attn_q.weight`. */
  readonly name: string;
  /** Element type, such as `"Q8_0"`. */
  readonly type: string;
  /** Shape, rows first. */
  readonly shape: readonly number[];
  /** Where its data begin in the file. */
  readonly offset: number;
  /** Bytes of its data. */
  readonly bytes: number;
}

/** Fields as the package that reads GGUF files has them, each with its type. */
export type GgufFieldsTyped = Readonly<Record<string, GGUFTypedMetadata[string]>>;

/** The first bytes of a file; none if it cannot be read. */
async function beginningOf(path: string): Promise<Uint8Array> {
  try {
    using file = await Deno.open(path);
    const bytes = new Uint8Array(PREFIX);
    return bytes.subarray(0, await file.read(bytes) ?? 0);
  } catch {
    return new Uint8Array(0);
  }
}

/** The beginning of one file. */
class Header {
  readonly path: string;
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly fields: GgufFieldsTyped;
  readonly tensors: ReadonlyMap<string, GgufTensor>;

  private constructor(path: string, fields: GgufFieldsTyped, tensors: Header["tensors"]) {
    this.path = path;
    this.fields = fields;
    this.metadata = Object.fromEntries(Object.entries(fields).map(([name, { value }]) => [name, value]));
    this.tensors = tensors;
  }

  static async read(path: string): Promise<Header> {
    const { gguf, GGMLQuantizationType } = await import("@huggingface/gguf");
    try {
      const { size } = await Deno.stat(path);
      // The package reads local files by itself, but not in workers.
      const parsed = await gguf("https://localhost/", {
        fetch: (_, init) => rangeOf(path, size, init),
        typedMetadata: true,
      });
      const tensors = new Map<string, GgufTensor>();
      for (const info of parsed.tensorInfos) {
        const type = GGMLQuantizationType[info.dtype] ?? String(info.dtype);
        // GGUF counts dimensions from the innermost one.
        const shape = info.shape.map(Number).reverse();
        const columns = shape.at(-1) ?? 1;
        const bytes = ggmlBytes(type, columns, shape.slice(0, -1).reduce((a, b) => a * b, 1));
        const offset = Number(parsed.tensorDataOffset) + Number(info.offset);
        if (tensors.has(info.name)) throw new RangeError(`tensor "${info.name}" must be there once`);
        if (!Number.isSafeInteger(offset) || offset + bytes > size) {
          throw new RangeError(
            `tensor "${info.name}" must end within the file's ${size} bytes: it ends at ${offset + bytes}`,
          );
        }
        tensors.set(info.name, { name: info.name, type, shape, offset, bytes });
      }
      return new Header(path, parsed.typedMetadata as GgufFieldsTyped, tensors);
    } catch (cause) {
      if (cause instanceof ModelFileError) throw cause;
      refuseOthers(await beginningOf(path), "GGUF", path);
      throw new ModelFileError(
        `Cannot read ${path} as it must be a GGUF file: ${cause instanceof Error ? cause.message : cause}`,
        { cause },
      );
    }
  }
}

/** Most files of a model. */
const MAX_FILES = 1000;

/** The files of a model that is in several. */
function splitPaths(path: string, count: number): string[] {
  const [, stem, total, ending] = /^(.*)-\d{5}-of-(\d{5})(\.gguf)$/i.exec(path) ?? [];
  if (stem === undefined || Number(total) !== count || count > MAX_FILES) {
    throw new ModelFileError(
      `Cannot read ${path} as a part of a model in ${count} files must be named NAME-00001-of-${
        String(count).padStart(5, "0")
      }.gguf, beside the others`,
    );
  }
  return Array.from(
    { length: count },
    (_, i) => `${stem}-${String(i + 1).padStart(5, "0")}-of-${total}${ending}`,
  );
}

/** The file of each tensor. */
function pathsOf(headers: readonly Header[]): Map<string, string> {
  const paths = new Map<string, string>();
  for (const { path, tensors } of headers) {
    for (const name of tensors.keys()) {
      if (paths.has(name)) {
        throw new ModelFileError(`Cannot read ${path} as tensor "${name}" must be there once`);
      }
      paths.set(name, path);
    }
  }
  return paths;
}

/** A model's GGUF file, or files, whose header was read. No file stays open between reads, so there is nothing to close. */
export class GgufFile {
  /** Its fields: `general.architecture`, `llama.block_count` and so on. */
  readonly metadata: Readonly<Record<string, unknown>>;
  /** Its fields with their types, as they are written. */
  readonly fields: GgufFieldsTyped;
  /** Its tensors, by name. */
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  readonly #paths: ReadonlyMap<string, string>;

  private constructor(
    paths: ReadonlyMap<string, string>,
    { metadata, fields }: Pick<Header, "metadata" | "fields">,
    tensors: ReadonlyMap<string, GgufTensor>,
  ) {
    this.#paths = paths;
    this.metadata = metadata;
    this.fields = fields;
    this.tensors = tensors;
  }

  /**
   * Reads what a file says of its tensors. A model in several files (`NAME-00001-of-00003.gguf`) is read whole,
   * whichever of them is named.
   *
   * @throws {ModelFileError} If a file is missing, damaged, or has a tensor of a type that cannot be read.
   */
  static async open(path: string): Promise<GgufFile> {
    const first = await Header.read(path);
    const count = Number(first.metadata["split.count"] ?? 1);
    if (!(count > 1)) return new GgufFile(pathsOf([first]), first, first.tensors);
    const headers = await Promise.all(
      splitPaths(path, count).map((part) => part === path ? first : Header.read(part)),
    );
    const paths = pathsOf(headers);
    const expected = Number(first.metadata["split.tensors.count"] ?? paths.size);
    if (paths.size !== expected) {
      throw new ModelFileError(
        `Cannot read ${path} as its ${count} files must have ${expected} tensors together: they have ${paths.size}`,
      );
    }
    const tensors = new Map(headers.flatMap((header) => [...header.tensors]));
    return new GgufFile(paths, headers[0]!, tensors);
  }

  /**
   * Reads one tensor as float32.
   *
   * @throws {ModelFileError} If there is no such tensor, or the file ends before its data do.
   */
  read(name: string): NamedArray & { readonly data: Float32Array<ArrayBuffer> } {
    const tensor = this.#tensor(name);
    const data = new Float32Array(tensor.shape.reduce((a, b) => a * b, 1));
    let at = 0;
    for (const piece of this.pieces(name)) {
      data.set(piece, at);
      at += piece.length;
    }
    return { shape: tensor.shape, data };
  }

  /**
   * Reads one tensor as float32, piece by piece, so that memory need not hold it whole.
   *
   * @param name Its name.
   * @param step Values of a piece, all but the last one; up to a type's block more. @default {262144}
   * @returns Its values in order. A piece holds until the next one, or the end, is asked for.
   * @throws {ModelFileError} If there is no such tensor, or the file ends before its data do.
   */
  *pieces(name: string, step = 2 ** 18): Generator<Float32Array<ArrayBuffer>, void> {
    const { type, bytes: size, offset } = this.#tensor(name);
    const path = this.#paths.get(name)!;
    const block = ggmlBlock(type);
    const blocks = size / block.bytes;
    const atOnce = Math.max(1, Math.min(blocks, Math.ceil(step / block.elements)));
    const bytes = new Uint8Array(atOnce * block.bytes);
    const values = new Float32Array(atOnce * block.elements);
    using file = Deno.openSync(path);
    file.seekSync(offset, Deno.SeekMode.Start);
    try {
      for (let first = 0; first < blocks; first += atOnce) {
        const count = Math.min(atOnce, blocks - first);
        const part = bytes.subarray(0, count * block.bytes);
        for (let at = 0; at < part.length;) {
          const more = file.readSync(part.subarray(at));
          if (more === null) {
            throw new ModelFileError(
              `Cannot read "${name}" as ${path} must have ${size} bytes of it: it has ${
                first * block.bytes + at
              }`,
            );
          }
          at += more;
        }
        yield dequantise(type, part, values.subarray(0, count * block.elements));
      }
    } finally {
      // Now: the garbage collector would let those of many tensors pile up.
      bytes.buffer.transfer(0);
      values.buffer.transfer(0);
    }
  }

  #tensor(name: string): GgufTensor {
    const tensor = this.tensors.get(name);
    if (tensor !== undefined) return tensor;
    throw new ModelFileError(`Cannot read "${name}": ${this.#paths.values().next().value} does not hold it`);
  }
}

/** Longest header; those of 128,000 tokens have half of it. Its values take twenty times as much memory. */
const MAX_HEADER = 2 ** 24;

/** Answers a request for a range of bytes from a file. */
async function rangeOf(path: string, size: number, init?: RequestInit): Promise<Response> {
  const [, first, last] = /bytes=(\d+)-(\d+)/.exec(new Headers(init?.headers).get("range") ?? "")!;
  // The package fills what is missing with zeros, and reads on.
  if (Number(first) >= size) {
    throw new Error(`its header does not end within the file's ${size} bytes`);
  }
  if (Number(first) >= MAX_HEADER) {
    throw new Error(`its header must have at most ${MAX_HEADER} bytes: it has more`);
  }
  const bytes = new Uint8Array(Math.min(Number(last) + 1, size) - Number(first));
  using file = await Deno.open(path);
  await file.seek(Number(first), Deno.SeekMode.Start);
  let at = 0;
  while (at < bytes.length) {
    const count = await file.read(bytes.subarray(at));
    if (count === null) break; // the file has become shorter: what is missing is found out by the reader
    at += count;
  }
  return new Response(bytes.subarray(0, at), {
    headers: { "content-range": `bytes ${first}-${Number(first) + at - 1}/${size}` },
  });
}
