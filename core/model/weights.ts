/**
 * Reading configurations and weights of checkpoints, with errors that say what does not fit.
 *
 * @module
 */

import {
  type Engine,
  type GroupsAlong,
  type PackedFormat,
  PackedMatrix,
  type Tensor,
} from "@edgetuner/kernels";
import { finitePieces } from "../files/finite_values.ts";
import { StoredTensors } from "../files/stored_tensors.ts";
import { streamed, type StreamedArray } from "../files/streaming.ts";
import { showValue } from "../contracts/plain_text.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { type MatrixParameter, Parameter } from "./tape.ts";
import type { NamedArrays } from "../files/named_arrays.ts";

function refuse(name: string, rule: string, value: unknown): ModelFileError {
  return new ModelFileError(
    `Cannot load the model as ${name} must be ${rule}: current value is ${showValue(value)}`,
  );
}

/** Fields of a `config.json`. */
export class ConfigFields {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #path: string;

  /**
   * Takes what was parsed.
   *
   * @param json The object.
   * @param path Put before names in errors, for objects within others.
   */
  constructor(json: unknown, path = "") {
    this.#fields = (typeof json === "object" && json !== null ? json : {}) as Record<string, unknown>;
    this.#path = path;
  }

  /** A field as it is; `undefined` if missing or `null`. */
  get(name: string): unknown {
    return this.#fields[name] ?? undefined;
  }

  /** An object within this one. */
  object(name: string): ConfigFields {
    return new ConfigFields(this.get(name), `${this.#path}${name}.`);
  }

  /** Says whether a field is there, were it `null`. */
  has(name: string): boolean {
    return Object.hasOwn(this.#fields, name);
  }

  /** Names of all fields. */
  names(): string[] {
    return Object.keys(this.#fields);
  }

  /** A field's name, with those of the objects it is in. */
  path(name: string): string {
    return `${this.#path}${name}`.replace(/\.$/, "");
  }

  /** A positive integer, or `undefined` where the file says `null`. @throws {ModelFileError} If it is neither. */
  nullable(name: string, missing: number): number | undefined {
    return this.has(name) && this.get(name) === undefined ? undefined : this.integer(name, missing);
  }

  /** An integer of at least 0. @throws {ModelFileError} If it is none. */
  count(name: string, otherwise: number): number {
    return this.#number(name, otherwise, "an integer of at least 0", (v) => Number.isInteger(v) && v >= 0);
  }

  /** A positive integer. @throws {ModelFileError} If it is none, or missing without a default. */
  integer(name: string, otherwise?: number): number {
    return this.#number(name, otherwise, "a positive integer", (v) => Number.isInteger(v) && v > 0);
  }

  /** A positive number. @throws {ModelFileError} If it is none, or missing without a default. */
  positive(name: string, otherwise?: number): number {
    return this.#number(name, otherwise, "a positive number", (v) => Number.isFinite(v) && v > 0);
  }

  /** True or false; `undefined` if it is missing. @throws {ModelFileError} If it is neither. */
  boolean(name: string): boolean | undefined {
    const value = this.get(name) ?? undefined;
    if (value !== undefined && typeof value !== "boolean") {
      throw refuse(this.#path + name, "true or false", value);
    }
    return value;
  }

  /**
   * Refuses anything but some values of a field; missing fields pass.
   *
   * @param name The field.
   * @param values What is accepted.
   * @param why Put into the error.
   * @throws {ModelFileError} If the field has another value.
   */
  only(name: string, values: readonly unknown[], why = ""): void {
    const value = this.get(name);
    if (value === undefined || values.includes(value)) return;
    const rule = values.length === 0 ? "missing" : values.map((v) => JSON.stringify(v)).join(" or ");
    throw refuse(this.#path + name, why === "" ? rule : `${rule} (${why})`, value);
  }

  #number(
    name: string,
    otherwise: number | undefined,
    rule: string,
    holds: (value: number) => boolean,
  ): number {
    const value = this.get(name) ?? otherwise;
    if (typeof value !== "number" || !holds(value)) throw refuse(this.#path + name, rule, value);
    return value;
  }
}

/**
 * Refuses what no family here has: weights that another library packed, tokens that see later ones, an encoder.
 *
 * @throws {ModelFileError} If the configuration says so.
 */
export function refuseForeign(fields: ConfigFields): void {
  fields.only("is_causal", [true], "a token sees those before it alone");
  fields.only("is_encoder_decoder", [false], "there is no encoder");
  fields.only("add_cross_attention", [false], "there is no encoder");
  for (const name of ["quantization_config", "compression_config"]) {
    fields.only(name, [], "weights are read as they are");
  }
}

/**
 * How the matrices of a frozen base lie in adapter memory: as f32, or packed. Norms, biases and position
 * embeddings are f32 in every case, and products add up in f32.
 *
 * @category Model and data
 */
export type BaseWeights = "f32" | PackedFormat;

/** All there are. */
export const BASE_WEIGHTS: readonly BaseWeights[] = ["f32", "f16", "int8", "int4"];

/** @throws {RangeError} If it is no format of base weights. */
export function requireBaseWeights(given: BaseWeights): void {
  if (BASE_WEIGHTS.includes(given)) return;
  const rule = BASE_WEIGHTS.map((format) => `"${format}"`).join(", ").replace(/, ("\w+")$/, " or $1");
  throw new RangeError(
    `Cannot load the model as baseWeights must be ${rule}: current value is ${JSON.stringify(given)}`,
  );
}

/**
 * Packs a matrix part by part, each part read when it is its turn.
 *
 * @param engine Where it goes.
 * @param name Of the matrix.
 * @param shape Rows and columns, format, and which weights share a scale.
 * @param parts Rows below each other.
 * @throws {ModelFileError} If a weight does not fit the format; nothing is left on the adapter.
 */
export function packWeights(
  engine: Engine,
  name: string,
  shape: {
    readonly rows: number;
    readonly columns: number;
    readonly format: PackedFormat;
    readonly groupsAlong: GroupsAlong;
  },
  parts: Iterable<Float32Array>,
): PackedMatrix {
  const packed = new PackedMatrix(engine, shape, name);
  try {
    let row = 0;
    for (const part of parts) {
      packed.write(row, part);
      row += part.length / shape.columns;
    }
  } catch (cause) {
    packed.dispose();
    if (!(cause instanceof RangeError)) throw cause;
    throw new ModelFileError(
      `Cannot load the model with baseWeights "${shape.format}"; others are ${
        BASE_WEIGHTS.filter((format) => format !== shape.format).join(", ")
      }: ${cause.message}`,
      { cause },
    );
  }
  return packed;
}

/** Angles of positions, which some files hold though they follow from the configuration. */
const COMPUTED = /\.rotary_emb\.inv_freq$/;

/**
 * What is wrong where a weight is not there.
 *
 * @param weights The checkpoint.
 * @param keys What it may call the weight.
 * @param name How the error calls it.
 */
export function missingWeight(weights: NamedArrays, keys: readonly string[], name: string): ModelFileError {
  const dtypes = weights instanceof StoredTensors ? keys.flatMap((key) => weights.leftOut(key) ?? []) : [];
  const is = dtypes.length === 0 ? "missing" : `of the dtype ${dtypes[0]}, which weights cannot have`;
  return new ModelFileError(`Cannot load the model: "${name}" is ${is}`);
}

/** Weights of a checkpoint, put on the GPU as frozen parameters. If one does not fit, all are freed again. */
export class WeightReader {
  readonly #engine: Engine;
  readonly #weights: NamedArrays;
  readonly #prefixes: readonly string[];
  readonly #made: MatrixParameter[] = [];
  readonly #baseWeights: BaseWeights;
  readonly #used = new Set<string>();

  /**
   * Takes a checkpoint.
   *
   * @param engine Where weights go.
   * @param weights The checkpoint.
   * @param prefixes What names may begin with.
   * @param baseWeights How matrices are held.
   */
  constructor(
    engine: Engine,
    weights: NamedArrays,
    prefixes: readonly string[],
    baseWeights: BaseWeights = "f32",
  ) {
    requireBaseWeights(baseWeights);
    this.#baseWeights = baseWeights;
    this.#engine = engine;
    this.#weights = weights;
    this.#prefixes = prefixes;
  }

  /** A matrix [rows, columns]. @throws {ModelFileError} If it is missing or has another shape. */
  matrix(name: string, rows: number, columns: number): MatrixParameter {
    return this.stacked([[name, rows]], columns);
  }

  /** A table [rows, columns] that is f32 in every case. @throws {ModelFileError} If it is missing or has another shape. */
  table(name: string, rows: number, columns: number): Parameter {
    return this.#plain([[name, rows]], columns);
  }

  /**
   * A vector, as [1, columns].
   *
   * @param name Its name.
   * @param columns Its length.
   * @param offset Added to what the file has. @default {0}
   * @throws {ModelFileError} If it is missing or has another shape.
   */
  row(name: string, columns: number, offset = 0): Parameter {
    return this.joined([[name, columns]], offset);
  }

  /** Matrices below each other, as one. @throws {ModelFileError} If one is missing or has another shape. */
  stacked(parts: readonly (readonly [name: string, rows: number])[], columns: number): MatrixParameter {
    const format = this.#baseWeights;
    if (format === "f32") return this.#plain(parts, columns);
    const name = parts.map(([name]) => this.#key(name)).join(" + ");
    const rows = parts.reduce((sum, [, n]) => sum + n, 0);
    const found = this.#findAll(parts, columns); // before memory is taken
    try {
      // Stored [out, in]: what is added up in a product lies side by side.
      const packed = packWeights(
        this.#engine,
        name,
        { rows, columns, format, groupsAlong: "columns" },
        pieces(found, columns),
      );
      return this.#own(new Parameter(name, packed));
    } catch (error) {
      disposeAll(this.#made);
      throw error;
    }
  }

  /**
   * Vectors one after the other, as [1, columns].
   *
   * @param parts Their names and lengths.
   * @param offset Added to what the file has. @default {0}
   * @throws {ModelFileError} If one is missing or has another shape.
   */
  joined(parts: readonly (readonly [name: string, columns: number])[], offset = 0): Parameter {
    const found = parts.map(([name, columns]) => this.#find(name, [columns])); // before memory is taken
    const data = new Float32Array(parts.reduce((sum, [, columns]) => sum + columns, 0));
    let at = 0;
    try {
      for (const piece of pieces(found, 1)) {
        data.set(offset === 0 ? piece : piece.map((value) => value + offset), at);
        at += piece.length;
      }
    } catch (error) {
      disposeAll(this.#made);
      throw error;
    }
    const name = parts.map(([name]) => this.#key(name)).join(" + ");
    return this.#own(
      new Parameter(name, uploadLasting(this.#engine, [data], { rows: 1, columns: data.length, name })),
    );
  }

  /**
   * Refuses a checkpoint whose layers hold what was not asked for: the model would compute something else.
   *
   * @throws {ModelFileError} If there is such a weight.
   */
  refuseOtherLayerWeights(): void {
    for (const name of this.#weights.keys()) {
      if (!/(^|\.)layers\.\d+\./.test(name) || this.#used.has(name) || COMPUTED.test(name)) continue;
      disposeAll(this.#made);
      throw new ModelFileError(
        `Cannot load the model as its layers must hold the weights of its family and configuration alone: they hold "${name}"`,
      );
    }
  }

  /** Matrices below each other as f32, one read at a time. */
  #plain(parts: readonly (readonly [name: string, rows: number])[], columns: number): Parameter {
    const name = parts.map(([name]) => this.#key(name)).join(" + ");
    const all = parts.reduce((sum, [, n]) => sum + n, 0);
    const found = this.#findAll(parts, columns); // before memory is taken
    try {
      const tensor = uploadLasting(this.#engine, pieces(found, columns), { rows: all, columns, name });
      return this.#own(new Parameter(name, tensor));
    } catch (error) {
      disposeAll(this.#made);
      throw error;
    }
  }

  #findAll(parts: readonly (readonly [name: string, rows: number])[], columns: number): Found[] {
    return parts.map(([name, rows]) => this.#find(name, [rows, columns]));
  }

  #own<P extends MatrixParameter>(parameter: P): P {
    this.#made.push(parameter);
    return parameter;
  }

  /** What the checkpoint calls a weight. */
  #key(name: string): string {
    const keys = this.#prefixes.map((prefix) => prefix + name);
    const key = keys.find((key) => this.#weights.has(key));
    if (key !== undefined) return key;
    disposeAll(this.#made);
    throw missingWeight(this.#weights, keys, name);
  }

  #find(name: string, shape: readonly number[]): Found {
    const key = this.#key(name);
    const found = streamed(this.#weights, key)!;
    if (found.shape.length !== shape.length || found.shape.some((n, i) => n !== shape[i])) {
      disposeAll(this.#made);
      throw new ModelFileError(
        `Cannot load the model as "${key}" must be [${shape}]: it is [${found.shape}]`,
      );
    }
    this.#used.add(key);
    return { name: key, array: found };
  }
}

/** A weight and what the checkpoint calls it. */
interface Found {
  readonly name: string;
  readonly array: StreamedArray;
}

function* pieces(found: readonly Found[], unit: number): Generator<Float32Array> {
  for (const { name, array } of found) yield* finitePieces(name, array, unit);
}

/**
 * A plain weight in memory of its own size.
 *
 * @param parts Its rows, some at a time.
 */
export function uploadLasting(
  engine: Engine,
  parts: Iterable<Float32Array>,
  { rows, columns, name }: { readonly rows: number; readonly columns: number; readonly name: string },
): Tensor {
  const tensor = engine.allocateExact(rows, columns, name);
  try {
    let row = 0;
    for (const part of parts) {
      engine.writeRows(tensor, row, part);
      row += part.length / columns;
    }
    return tensor;
  } catch (error) {
    tensor.dispose();
    throw error;
  }
}

/** Frees parameters, each once. */
export function disposeAll(parameters: Iterable<MatrixParameter>): void {
  for (const parameter of new Set(parameters)) parameter[Symbol.dispose]();
}

/**
 * Checks what head modules need of a model: heads that divide the hidden size and have a multiple of
 * some columns.
 *
 * @throws {ModelFileError} If they do not.
 */
export function checkHeads(hidden: number, heads: number, multiple: number): void {
  if (hidden % heads !== 0 || (hidden / heads) % multiple !== 0) {
    throw new ModelFileError(
      `Cannot load the model as hidden_size / num_attention_heads must be a multiple of ${multiple}: current value is ${hidden} / ${heads}`,
    );
  }
}
