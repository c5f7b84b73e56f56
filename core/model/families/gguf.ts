/**
 * How GGUF files of a family are read and written: names and the order of rows differ from those of Hugging Face's
 * files.
 *
 * D head size.
 *
 * @module
 */

import { ModelFileError } from "../../contracts/errors.ts";
import { showValue } from "../../contracts/plain_text.ts";
import type { GgufFile } from "../../files/gguf.ts";
import type { GgufField } from "../../files/gguf_writer.ts";
import type { NamedArray } from "../../files/named_arrays.ts";

/** Names of a family's tensors: theirs, and ours. */
export interface GgufNames {
  /** Those of layers, which are `blk.N.` and the name. */
  readonly layer: Readonly<Record<string, string>>;
  /** What our names of them begin with, before the number. */
  readonly prefix: string;
  /** The others. */
  readonly ends: Readonly<Record<string, string>>;
}

/** A tensor that lies otherwise in GGUF. */
export interface GgufChange {
  /** Ours, of theirs. */
  readonly shape: (theirs: readonly number[]) => readonly number[];
  /** Their values, this many rows at a time, so that ... */
  readonly rows: (theirs: readonly number[]) => number;
  /** ... each piece has its place in ours: piece number `index` of theirs is written into `into`. */
  readonly place: (piece: Float32Array, index: number, theirs: readonly number[], into: Float32Array) => void;
  /** True if ours are the pieces one after the other, each turned in itself. */
  readonly inOrder: boolean;
  /** The way back: theirs, of a whole tensor of ours. */
  readonly back: (data: Float32Array, ours: readonly number[]) => Float32Array<ArrayBuffer>;
}

/** What a family makes of a file. */
export interface GgufReading<C> {
  /** Shape of the model. */
  readonly config: C;
  /** Their names by ours. */
  readonly names: ReadonlyMap<string, string>;
  /** How our tensor comes from theirs, if it is not the same. */
  readonly change: (ours: string) => GgufChange | null;
}

/** What a family's GGUF files hold beside the weights. */
export interface GgufHeader {
  /** Fields of the model, after the architecture's name. */
  readonly fields: Readonly<Record<string, GgufField>>;
  /** Tensors that say a part of the configuration, by their own names. */
  readonly tensors?: ReadonlyMap<string, NamedArray>;
}

/** How a family's GGUF files are read and written. */
export interface GgufFamily<C> {
  /** `general.architecture` of its files. */
  readonly architecture: string;
  /** True if rows of Q and K lie (pair, half) in each head, as llama.cpp rotates neighbouring columns. */
  readonly permutesHeads: boolean;
  /**
   * Reads a file.
   *
   * @throws {ModelFileError} If the file asks for what is not done here.
   */
  read(fields: GgufFields): GgufReading<C>;
  /** Names of its tensors. */
  readonly names: GgufNames;
  /** How tensors come from a file, of a model of this shape; `null` for those that lie there as they are. */
  change(config: C): (ours: string) => GgufChange | null;
  /**
   * What a file says of a model.
   *
   * @throws {ModelFileError} If llama.cpp does not compute what such a model does.
   */
  header(config: C): GgufHeader;
}

/** GgufFields of a file, with errors that name them. */
export class GgufFields {
  /**
   * Fields of one architecture.
   *
   * @param file The file.
   * @param path Its path, for errors.
   * @param architecture What names of the fields begin with.
   */
  constructor(readonly file: GgufFile, readonly path: string, readonly architecture: string) {}

  /** Throws a `ModelFileError` with a rule and the value that breaks it. */
  refuse(rule: string, value: unknown): never {
    throw new ModelFileError(
      `Cannot load ${this.path} as ${rule}: current value is ${showValue(value)}`,
    );
  }

  /** A field of the architecture; `undefined` if it is missing. */
  get(name: string): unknown {
    return this.file.metadata[`${this.architecture}.${name}`];
  }

  /** A positive integer. */
  count(name: string, other?: number): number {
    const value = Number(this.get(name) ?? other);
    if (!Number.isInteger(value) || value < 1) {
      this.refuse(`${this.architecture}.${name} must be a positive integer`, this.get(name));
    }
    return value;
  }

  /** Their names by ours; every tensor must have one. */
  names({ layer, prefix, ends }: GgufNames, model: string): ReadonlyMap<string, string> {
    const names = new Map<string, string>();
    for (const theirs of this.file.tensors.keys()) {
      const [, number, part, kind] = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(theirs) ?? [];
      const ours = Object.hasOwn(ends, theirs)
        ? ends[theirs]!
        : part !== undefined && Object.hasOwn(layer, part)
        ? `${prefix}${number}.${layer[part]}.${kind}`
        : this.refuse(`its tensors must be those of a ${model}`, theirs);
      names.set(ours, theirs);
    }
    return names;
  }
}

/**
 * Rows of a head from (pair, half), as llama.cpp rotates neighbouring columns, back to (half, pair): row
 * 2 i + j of a head was row j D / 2 + i.
 */
export function unpermuted(heads: number): GgufChange {
  return {
    shape: (theirs) => theirs,
    rows: ([rows]) => {
      if (rows! % (2 * heads) === 0) return rows! / heads;
      throw new ModelFileError(
        `Cannot read Q and K as their rows must be those of ${heads} heads of an even size: current value is ${rows}`,
      );
    },
    place: (piece, _, [rows, columns = 1], into) => {
      const size = rows! / heads;
      for (let r = 0; r < size; r++) {
        const to = (r % 2) * (size / 2) + (r >> 1);
        into.set(piece.subarray(r * columns, (r + 1) * columns), to * columns);
      }
    },
    inOrder: true,
    back: (data, [, columns = 1]) => permuteHeads(data, columns, heads),
  };
}

/** Rows of one matrix, of `columns` values each, put elsewhere within their heads. */
function movedRows(
  data: Float32Array,
  columns: number,
  heads: number,
  to: (row: number, size: number) => number,
): Float32Array<ArrayBuffer> {
  const size = data.length / columns / heads;
  const out = new Float32Array(data.length);
  for (let row = 0; row < size * heads; row++) {
    const within = row % size;
    out.set(data.subarray(row * columns, (row + 1) * columns), (row - within + to(within, size)) * columns);
  }
  return out;
}

/** Rows of each head from (half, pair) to (pair, half): row j D / 2 + i becomes row 2 i + j. */
export function permuteHeads(data: Float32Array, columns: number, heads: number): Float32Array<ArrayBuffer> {
  return movedRows(data, columns, heads, (row, size) => row % (size / 2) * 2 + Math.floor(row / (size / 2)));
}

/** The way back from `permuteHeads`. */
export function unpermuteHeads(
  data: Float32Array,
  columns: number,
  heads: number,
): Float32Array<ArrayBuffer> {
  return movedRows(data, columns, heads, (row, size) => (row % 2) * (size / 2) + (row >> 1));
}

/** Rows become columns, as GPT-2's own files store a product's weights [in, out]. */
export const TRANSPOSED: GgufChange = {
  shape: (theirs) => theirs.toReversed(),
  rows: () => 16,
  place: (piece, index, [rows, columns], into) => {
    const first = 16 * index;
    const count = piece.length / columns!;
    // The rows of a piece lie side by side in ours.
    for (let c = 0; c < columns!; c++) {
      for (let r = 0; r < count; r++) into[c * rows! + first + r] = piece[r * columns! + c]!;
    }
  },
  inOrder: false,
  back: (data, [rows, columns]) => {
    const out = new Float32Array(data.length);
    for (let r = 0; r < rows!; r++) {
      for (let c = 0; c < columns!; c++) out[c * rows! + r] = data[r * columns! + c]!;
    }
    return out;
  },
};

/**
 * What llama.cpp calls a weight.
 *
 * @param names Names of the family.
 * @param ours Our name of it.
 * @returns `undefined` if it has none.
 */
export function ggufName({ layer, prefix, ends }: GgufNames, ours: string): string | undefined {
  const found = Object.entries(ends).find(([, name]) => name === ours);
  if (found !== undefined) return found[0];
  const [, number, part, kind] = ours.startsWith(prefix)
    ? /^(\d+)\.(.+)\.(weight|bias)$/.exec(ours.slice(prefix.length)) ?? []
    : [];
  const theirs = Object.entries(layer).find(([, name]) => name === part)?.[0];
  return theirs === undefined ? undefined : `blk.${number}.${theirs}.${kind}`;
}

/** The error of a model that llama.cpp would compute otherwise. */
export function notInLlamaCpp(title: string, rule: string, value: unknown): ModelFileError {
  return new ModelFileError(
    `Cannot write a GGUF file of this ${title} as ${rule} for llama.cpp: current value is ${
      showValue(value)
    }`,
  );
}

/** Says whether two tensors have the same shape and values. */
export function sameValues(file: GgufFile, a: string, b: string): boolean {
  const [one, other] = [file.tensors.get(a), file.tensors.get(b)];
  if (one === undefined || other === undefined || one.shape.join() !== other.shape.join()) return false;
  const others = file.pieces(b);
  try {
    for (const piece of file.pieces(a)) {
      const { value } = others.next();
      if (value === undefined || piece.some((x, i) => x !== value[i])) return false;
    }
    return true;
  } finally {
    others.return();
  }
}

/** The shortest decimal of a float32: GGUF's 9.99999974e-6 is 1e-5. */
export function rounded(value: unknown): number | undefined {
  return value === undefined ? undefined : Number(Number(value).toPrecision(7));
}
