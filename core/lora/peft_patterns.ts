/**
 * Ranks and alphas that a PEFT adapter has for some modules alone, as one rank and one scale for all: rows of zeros
 * fill up A, and B takes what a module's scale is more or less.
 *
 * @module
 */

import type { NamedArray, NamedArrays } from "../files/named_arrays.ts";
import type { Refuse } from "./peft_settings.ts";

/** What an adapter's configuration says of ranks and scales. */
export interface PatternedConfig {
  /** Rank of modules that no pattern names. */
  readonly r: number;
  /** Their alpha. */
  readonly lora_alpha: number;
  /** The scale is alpha / sqrt(r) if true. */
  readonly use_rslora: boolean;
  /** Ranks by pattern. */
  readonly rank_pattern?: unknown;
  /** Alphas by pattern. */
  readonly alpha_pattern?: unknown;
}

/** Names and their parts alone: an expression of a stranger could take for ever. */
const PLAIN = /^\^?(\w|\.|\\\.)+$/;
/** Longest pattern, in characters, and most patterns. */
const LONGEST = 256;
const MOST = 10_000;

/** A pattern and its number. */
interface Pattern {
  readonly expression: RegExp;
  readonly value: number;
}

function patternsOf(
  name: string,
  value: unknown,
  { holds, rule, refuse }: {
    readonly holds: (x: unknown) => x is number;
    readonly rule: string;
    readonly refuse: Refuse;
  },
): Pattern[] {
  if (value === undefined || value === null) return [];
  if (typeof value !== "object" || Array.isArray(value)) refuse(`${name} must be an object`, value);
  const entries = Object.entries(value as object);
  if (entries.length > MOST) refuse(`${name} must have at most ${MOST} patterns`, entries.length);
  return entries.map(([key, number]) => {
    if (!PLAIN.test(key) || key.length > LONGEST) {
      refuse(`${name} must name modules by letters, digits, _ and dots, with ^ before them at most`, key);
    }
    if (!holds(number)) return refuse(`${name} must have ${rule} for ${key}`, number);
    // As PEFT does: the end of a module's name, from its beginning or from a dot on.
    return { expression: new RegExp(`^(?:.*\\.)?(?:${key})$`), value: number };
  });
}

/**
 * Gives an adapter one rank and one scale.
 *
 * @param config Its configuration.
 * @param arrays A and B of its modules, by PEFT's names.
 * @param refuse Throws an error.
 * @returns Rank and alpha of all, without rsLoRA, and the arrays; what was given if there are no patterns.
 * @throws What `refuse` throws, if a pattern is no plain name, or a matrix has not the rank that it says.
 */
export function withoutPatterns<C extends PatternedConfig>(
  config: C,
  arrays: NamedArrays,
  refuse: Refuse,
): { readonly config: C; readonly arrays: NamedArrays } {
  const ranks = patternsOf("rank_pattern", config.rank_pattern, {
    holds: (x): x is number => Number.isInteger(x) && (x as number) > 0,
    rule: "a positive integer",
    refuse,
  });
  const alphas = patternsOf("alpha_pattern", config.alpha_pattern, {
    holds: (x): x is number => Number.isFinite(x) && (x as number) > 0,
    rule: "a positive number",
    refuse,
  });
  if (ranks.length === 0 && alphas.length === 0) return { config, arrays };
  const valueFor = (patterns: readonly Pattern[], module: string) =>
    patterns.find(({ expression }) => expression.test(module))?.value;
  const scaleOf = (alpha: number, rank: number) => alpha / (config.use_rslora ? Math.sqrt(rank) : rank);
  const found = new Map<string, { readonly rank: number; readonly scale: number }>();
  for (const name of arrays.keys()) {
    const [, module] = /^base_model\.model\.(.+)\.lora_[AB]\.weight$/.exec(name) ?? [];
    if (module === undefined) continue; // refused by name where the family is known
    const rank = valueFor(ranks, module) ?? config.r;
    const alpha = valueFor(alphas, module) ?? config.lora_alpha;
    found.set(module, { rank, scale: scaleOf(alpha, rank) });
  }
  const rank = Iterator.from(found.values()).reduce((most, { rank }) => Math.max(most, rank), 1);
  const scale = scaleOf(config.lora_alpha, config.r);
  const all = new Map<string, NamedArray>();
  for (const [name, array] of arrays) {
    const [, module, matrix] = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/.exec(name) ?? [];
    if (module === undefined) {
      all.set(name, array);
      continue;
    }
    const { rank: own, scale: ownScale } = found.get(module)!;
    const [rows, columns] = [array.shape[0]!, array.shape[1]!];
    const given = matrix === "A" ? rows : columns;
    if (array.shape.length !== 2 || given !== own) {
      refuse(`${name} must have rank ${own}, as r or rank_pattern says`, given);
    }
    all.set(
      name,
      matrix === "A" ? moreRows(array, rank) : moreColumns(array, rank, ownScale / scale),
    );
  }
  const one = { r: rank, lora_alpha: scale * rank, use_rslora: false, rank_pattern: {}, alpha_pattern: {} };
  return { config: { ...config, ...one }, arrays: all };
}

function moreRows({ shape, data }: NamedArray, rows: number): NamedArray {
  const columns = shape[1]!;
  const out = new Float32Array(rows * columns);
  out.set(data);
  return { shape: [rows, columns], data: out };
}

function moreColumns({ shape, data }: NamedArray, columns: number, factor: number): NamedArray {
  const [rows, own] = [shape[0]!, shape[1]!];
  const out = new Float32Array(rows * columns);
  for (let i = 0; i < data.length; i++) out[Math.floor(i / own) * columns + i % own] = factor * data[i]!;
  return { shape: [rows, columns], data: out };
}
