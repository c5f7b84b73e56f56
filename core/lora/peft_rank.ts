/**
 * Adapters of a smaller rank: the smallest that is the same, and the best of a given one.
 *
 * r rank.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import { type PeftAdapter, scaleOf } from "./peft_modules.ts";

/** A and B of one module: their names, and what they hold. */
interface Pair {
  readonly nameA: string;
  readonly nameB: string;
  readonly a: NamedArray;
  readonly b: NamedArray;
}

/** A module's B A by singular values. */
interface Singular {
  /** Singular values, largest first. */
  readonly values: readonly number[];
  /** A and B of the first of them; the root of each goes to either side. */
  take(rank: number): { readonly a: Float32Array; readonly b: Float32Array };
}

/** A smaller adapter. */
export interface SmallerAdapter {
  /** The adapter. */
  readonly peft: PeftAdapter;
  /** ||change||_F / ||B A||_F over all modules together. */
  readonly error: number;
}

function pairsOf({ arrays }: PeftAdapter): Pair[] {
  const names = [...arrays.keys()].filter((name) => name.endsWith(".lora_A.weight"));
  return names.map((nameA) => {
    const nameB = nameA.replace(/\.lora_A\.weight$/, ".lora_B.weight");
    const b = arrays.get(nameB);
    if (b !== undefined) return { nameA, nameB, a: arrays.get(nameA)!, b };
    throw new ModelFileError(`Cannot reduce the rank as there must be B for each A: "${nameB}" is missing`);
  });
}

/** Decomposes B A without computing it: QR of either side, then the singular values of the small middle. */
async function singularOf({ a: arrayA, b: arrayB }: Pair): Promise<Singular> {
  const { Matrix, QrDecomposition, SingularValueDecomposition } = await import("ml-matrix");
  const matrixOf = ({ shape: [rows, columns], data }: NamedArray) =>
    Matrix.from1DArray(rows!, columns!, data);
  // A tall matrix as orthonormal columns times a small square one; a wide one as it is.
  const split = (m: InstanceType<typeof Matrix>) => {
    if (m.rows <= m.columns) return { q: Matrix.eye(m.rows), r: m };
    const qr = new QrDecomposition(m);
    return { q: qr.orthogonalMatrix, r: qr.upperTriangularMatrix };
  };
  const b = split(matrixOf(arrayB));
  const a = split(matrixOf(arrayA).transpose());
  const svd = new SingularValueDecomposition(b.r.mmul(a.r.transpose()), { autoTranspose: true });
  const values = svd.diagonal;
  const left = b.q.mmul(svd.leftSingularVectors);
  const right = a.q.mmul(svd.rightSingularVectors);
  const pick = (m: InstanceType<typeof Matrix>, row: number, i: number) =>
    i < values.length ? m.get(row, i) * Math.sqrt(values[i]!) : 0;
  const [inputs, outputs] = [arrayA.shape[1]!, arrayB.shape[0]!];
  return {
    values,
    take: (rank) => ({
      a: Float32Array.from(
        { length: rank * inputs },
        (_, at) => pick(right, at % inputs, Math.floor(at / inputs)),
      ),
      b: Float32Array.from(
        { length: outputs * rank },
        (_, at) => pick(left, Math.floor(at / rank), at % rank),
      ),
    }),
  };
}

/** The same scale, alpha / r, at another rank. */
function configAt({ config }: PeftAdapter, rank: number): PeftAdapter["config"] {
  return { ...config, r: rank, lora_alpha: scaleOf(config) * rank, use_rslora: false };
}

/** Squares of what is kept and of what is lost. */
class Loss {
  kept = 0;
  lost = 0;

  add(values: readonly number[], rank: number): void {
    values.forEach((s, i) => i < rank ? this.kept += s * s : this.lost += s * s);
  }

  get share(): number {
    const { kept, lost } = this;
    return kept + lost === 0 ? 0 : Math.sqrt(lost / (kept + lost));
  }
}

/**
 * Approximates an adapter by one of smaller rank: the best one in the Frobenius norm, module by
 * module, by singular values.
 *
 * @param peft The adapter.
 * @param rank The new rank.
 * @returns The smaller adapter, and what it lacks.
 * @throws {RangeError} If the rank is not from 1 to the present one.
 * @category Adapters
 */
export async function reduceRank(peft: PeftAdapter, rank: number): Promise<SmallerAdapter> {
  const { r } = peft.config;
  if (!Number.isInteger(rank) || rank < 1 || rank > r) {
    throw new RangeError(
      `Cannot reduce the rank as it must be an integer from 1 to ${r}: current value is ${rank}`,
    );
  }
  const arrays = new Map<string, NamedArray>();
  const loss = new Loss();
  for (const pair of pairsOf(peft)) {
    const singular = await singularOf(pair);
    loss.add(singular.values, rank);
    const { a, b } = singular.take(rank);
    arrays.set(pair.nameA, { shape: [rank, pair.a.shape[1]!], data: a });
    arrays.set(pair.nameB, { shape: [pair.b.shape[0]!, rank], data: b });
  }
  return { peft: { config: configAt(peft, rank), arrays }, error: loss.share };
}

/** What `exactRank` may lose of a module's B A, in proportion to it: as much as float32 rounds it anyway. */
const EXACT = 2 ** -23;
/** Singular values of more rows of A are looked at only where there must be fewer. */
const MAX_SINGULAR = 256;

/** Rows of A, each with the column of B that it is multiplied by. */
interface Component {
  readonly a: Float32Array;
  readonly b: Float32Array;
}

/** The sum of two columns if float32 has it, without rounding; `null` otherwise. */
function exactSum(one: Float32Array, other: Float32Array): Float32Array | null {
  const sum = new Float32Array(one.length);
  for (let i = 0; i < sum.length; i++) {
    const exact = one[i]! + other[i]!;
    sum[i] = exact;
    if (sum[i] !== exact) return null;
  }
  return sum;
}

/** The components that do something, those of equal rows of A together: the same B A to the bit. */
function componentsOf({ a, b }: Pair): Component[] {
  const [rank, inputs] = [a.shape[0]!, a.shape[1]!];
  const outputs = b.shape[0]!;
  const components: Component[] = [];
  // By a few of a row's values: others are compared only where these are equal.
  const places = new Map<string, number[]>();
  for (let k = 0; k < rank; k++) {
    const row = a.data.subarray(k * inputs, (k + 1) * inputs);
    const column = Float32Array.from({ length: outputs }, (_, o) => b.data[o * rank + k]!);
    if (row.every((x) => x === 0) || column.every((x) => x === 0)) continue;
    const key = row.subarray(0, 4).join();
    const alike = places.get(key) ?? [];
    let isThere = false;
    for (const place of alike) {
      const former = components[place]!;
      const sum = former.a.every((x, i) => x === row[i]) ? exactSum(former.b, column) : null;
      if (sum === null) continue;
      components[place] = { a: row, b: sum };
      isThere = true;
      break;
    }
    if (!isThere) places.set(key, [...alike, components.push({ a: row, b: column }) - 1]);
  }
  return components;
}

/** A module at its smallest rank: its components, or what its singular values say if that is less. */
interface Smallest {
  readonly pair: Pair;
  readonly components: readonly Component[];
  readonly singular: Singular | null;
  readonly rank: number;
}

async function smallestOf(pair: Pair): Promise<Smallest> {
  const components = componentsOf(pair);
  const most = Math.min(pair.a.shape[1]!, pair.b.shape[0]!);
  const count = components.length;
  if (count === 0 || (count > MAX_SINGULAR && count <= most)) {
    return { pair, components, singular: null, rank: count };
  }
  const packed = packComponents(components, count);
  const singular = await singularOf({
    ...pair,
    a: { shape: [count, pair.a.shape[1]!], data: packed.a },
    b: { shape: [pair.b.shape[0]!, count], data: packed.b },
  });
  const all = singular.values.reduce((sum, s) => sum + s * s, 0);
  let [rank, lost] = [singular.values.length, 0];
  while (rank > 0) {
    lost += singular.values[rank - 1]! ** 2;
    if (lost > EXACT ** 2 * all) break;
    rank--;
  }
  return rank < count
    ? { pair, components, singular, rank }
    : { pair, components, singular: null, rank: count };
}

/** A and B of components, with zeros up to a rank. */
function packComponents(
  components: readonly Component[],
  rank: number,
): { readonly a: Float32Array; readonly b: Float32Array } {
  const [first] = components;
  const [inputs, outputs] = [first?.a.length ?? 0, first?.b.length ?? 0];
  const [a, b] = [new Float32Array(rank * inputs), new Float32Array(outputs * rank)];
  for (const [k, component] of components.entries()) {
    a.set(component.a, k * inputs);
    for (let o = 0; o < outputs; o++) b[o * rank + k] = component.b[o]!;
  }
  return { a, b };
}

/**
 * The same adapter at the smallest rank: what adds nothing is left out, equal rows of A become one, and a module
 * whose B A has fewer singular values than that is made of these. The first two change no bit of B A; the last one
 * changes it by at most 2^-23 of its norm, and float32 rounds its A and B.
 *
 * Head modules of rank r have r rows of A for each head and target, but a model of few columns, heads that share
 * their A, as those of an imported adapter do, or heads that learnt nothing need fewer.
 *
 * @param peft The adapter.
 * @returns The smallest one, and what it lacks.
 * @throws {ModelFileError} If there is an A without B.
 * @category Adapters
 */
export async function exactRank(peft: PeftAdapter): Promise<SmallerAdapter> {
  const modules: Smallest[] = [];
  for (const pair of pairsOf(peft)) modules.push(await smallestOf(pair));
  const rank = modules.reduce((most, module) => Math.max(most, module.rank), 1);
  if (rank >= peft.config.r) return { peft, error: 0 };
  const arrays = new Map<string, NamedArray>();
  const loss = new Loss();
  for (const { pair, components, singular } of modules) {
    const [inputs, outputs] = [pair.a.shape[1]!, pair.b.shape[0]!];
    const useSingular = singular !== null && components.length > rank;
    if (singular !== null) loss.add(singular.values, useSingular ? rank : singular.values.length);
    const { a, b } = useSingular ? singular.take(rank) : packComponents(components, rank);
    const isNothing = components.length === 0;
    arrays.set(pair.nameA, { shape: [rank, inputs], data: isNothing ? new Float32Array(rank * inputs) : a });
    arrays.set(pair.nameB, {
      shape: [outputs, rank],
      data: isNothing ? new Float32Array(outputs * rank) : b,
    });
  }
  return { peft: { config: configAt(peft, rank), arrays }, error: loss.share };
}
