/**
 * Models in GGUF files, with the names and the order of rows that Hugging Face's files have.
 *
 * @module
 */

import { alternatives } from "../contracts/plain_text.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import { GgufFile } from "../files/gguf.ts";
import { LazyArrays } from "../files/lazy_arrays.ts";
import { FAMILIES, type ModelConfig } from "../model/families.ts";
import type { Family } from "../model/families/family.ts";
import { type GgufChange, GgufFields, type GgufReading } from "../model/families/gguf.ts";
import { fingerprintOf } from "./fingerprint.ts";
import type { ModelFolder } from "./model_folder.ts";

/** A model in a GGUF file: its weights are read, and dequantised, when they are asked for. */
export type GgufModel = ModelFolder;

/**
 * Reads a GGUF file of a family that has them; for `loadLayers` and `loadEmbeddingAndHead`. Memory holds one weight
 * at a time. The fingerprint is that of a model folder with the same configuration and values.
 *
 * @throws {ModelFileError} If the file is damaged, of another architecture, or asks for what is not done here.
 */
export async function loadGgufModel(path: string): Promise<GgufModel> {
  const opened = await openGguf(path);
  const { config } = opened.reading;
  const weights = weightsIn(opened, path);
  return { config, weights, fingerprint: await fingerprintOf(config, weights) };
}

/** A GGUF file of a model whose header was read. */
export interface OpenedGguf {
  /** The file. */
  readonly file: GgufFile;
  /** What its family makes of it. */
  readonly reading: GgufReading<ModelConfig>;
}

/**
 * The weights of an opened file, each read when it is asked for.
 *
 * @param opened The file.
 * @param path Its path, for messages.
 */
export function weightsIn({ file, reading: { names, change } }: OpenedGguf, path: string): LazyArrays {
  return new LazyArrays(names.keys(), {
    make: (name) => readWhole(file, names.get(name)!, change(name)),
    shape: (name) => {
      const { shape } = file.tensors.get(names.get(name)!)!;
      return change(name)?.shape(shape) ?? shape;
    },
    pieces: (name, unit) => readPieces(file, names.get(name)!, change(name), unit),
    from: (name) => `"${names.get(name)}" of ${path}`,
  });
}

/**
 * Reads the configuration of a model from its GGUF file; of the weights nothing is read.
 *
 * @throws {ModelFileError} As `loadGgufModel`.
 */
export async function loadGgufConfig(path: string): Promise<ModelConfig> {
  return (await openGguf(path)).reading.config;
}

/**
 * Reads the header of a model's GGUF file.
 *
 * @throws {ModelFileError} As `loadGgufModel`.
 */
export async function openGguf(path: string): Promise<OpenedGguf> {
  const file = await GgufFile.open(path);
  const architecture = String(file.metadata["general.architecture"]);
  const fields = new GgufFields(file, path, architecture);
  const all = Object.values(FAMILIES) as readonly Family<ModelConfig>[];
  const family = all.flatMap(({ gguf }) => gguf ?? []).find((f) => f.architecture === architecture);
  if (family === undefined) {
    const names = all.flatMap(({ gguf }) => gguf === null ? [] : [gguf.architecture]);
    const known = alternatives([...new Set(names)]);
    return fields.refuse(
      `general.architecture must be ${known} (of other models give a folder with safetensors)`,
      file.metadata["general.architecture"],
    );
  }
  return { file, reading: family.read(fields) };
}

function readWhole(
  file: GgufFile,
  theirs: string,
  change: GgufChange | null,
): NamedArray & { readonly data: Float32Array<ArrayBuffer> } {
  if (change === null) return file.read(theirs);
  const { shape } = file.tensors.get(theirs)!;
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  let index = 0;
  let at = 0;
  for (const piece of file.pieces(theirs, change.rows(shape) * (shape[1] ?? 1))) {
    change.place(piece, index++, shape, change.inOrder ? data.subarray(at, at + piece.length) : data);
    at += piece.length;
  }
  return { shape: change.shape(shape), data };
}

/** Values that are read at a time. */
const PIECE = 2 ** 18;

function* readPieces(
  file: GgufFile,
  theirs: string,
  change: GgufChange | null,
  unit: number,
): Generator<Float32Array, void> {
  const { shape } = file.tensors.get(theirs)!;
  if (change === null) {
    return yield* file.pieces(theirs, Math.max(1, Math.floor(PIECE / unit)) * unit);
  }
  const step = change.rows(shape) * (shape[1] ?? 1);
  if (!change.inOrder || step % unit !== 0) {
    const { data } = readWhole(file, theirs, change);
    yield data;
    data.buffer.transfer(0); // now, not when the garbage collector gets to it
    return;
  }
  const turned = new Float32Array(step);
  let index = 0;
  for (const piece of file.pieces(theirs, step)) {
    change.place(piece, index++, shape, turned);
    yield turned; // all pieces are of the same length
  }
}
