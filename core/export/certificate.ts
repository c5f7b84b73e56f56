/**
 * Proof that an export is what was trained: logits of a split run of the head modules, of the exported adapter
 * read back, and of the merged model, on sample texts.
 *
 * V vocabulary.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { BaseLayers, EmbeddingAndHead } from "../model/base.ts";
import type { ModelConfig, ModelFamily } from "../model/families.ts";
import { loadEmbeddingAndHead, loadLayers, modelShape } from "../model/load.ts";
import type { NamedArrays } from "../files/named_arrays.ts";
import { embedTokens, logitsOf } from "../model/loss.ts";
import { Tape } from "../model/tape.ts";
import { type Adapter, loadHeads } from "../lora/adapter.ts";
import type { HeadProjections } from "../lora/projections.ts";
import type { LocalHeads } from "../lora/local_heads.ts";
import { fitsHeadModules, fromPeft } from "../lora/peft.ts";
import { mergePeft } from "../lora/peft_merge.ts";
import type { PeftAdapter } from "../lora/peft_modules.ts";

/** What a smaller rank, or numbers of fewer bits, took away. */
export interface ReductionLoss {
  /** Largest difference of a logit between the adapter and the smaller one, or the model of fewer bits. */
  readonly difference: number;
  /** Largest change of a logit by the adapter before that. */
  readonly effect: number;
  /**
   * The difference in proportion to the effect, of the largest ones or root mean squares over all logits, whichever
   * is more: 0 nothing is lost, 1 as much as the adapter did.
   */
  readonly share: number;
  /** Share that was allowed. */
  readonly allowed: number;
}

/** What an export was held against. Differences are the largest absolute ones of a logit. */
export interface ExportCertificate {
  /** Sample texts. */
  readonly samples: number;
  /** Tokens of all samples, after each of which all logits were compared. */
  readonly tokens: number;
  /** Largest absolute value among the logits of the split run. */
  readonly largestLogit: number;
  /** Largest change of a logit by the head modules: 0 would mean that there is nothing to export. */
  readonly effect: number;
  /** Difference between the split run and the same head modules on one machine. */
  readonly split: number;
  /** Difference between the split run and the exported adapter, taken in again. */
  readonly imported: number;
  /**
   * How it was taken in: as head modules, or added to the base's weights if its rank is more than these can have.
   */
  readonly importedAs: "head modules" | "merged weights";
  /** Difference between the split run and the merged model, without head modules. */
  readonly merged: number;
  /** Difference that was asked for, in proportion to `largestLogit`. */
  readonly tolerance: number;
  /** Difference that was allowed: that, or a tenth of `effect` if this is less, else a lost adapter could pass. */
  readonly allowed: number;
  /** What a smaller rank took away; `null` if the rank was not reduced. */
  readonly reduction: ReductionLoss | null;
  /** What the rounding of a merged GGUF file took away; `null` if there is none. */
  readonly rounding: ReductionLoss | null;
  /** True if all differences are at most what was allowed, and reduction and rounding lost no more than was allowed. */
  readonly holds: boolean;
}

/** What `certifyExport` compares. */
export interface CertificateOptions {
  /** Where the models run. */
  readonly engine: Engine;
  /** The base model. */
  readonly model: { readonly config: ModelConfig; readonly weights: NamedArrays };
  /** Its family. */
  readonly family: ModelFamily;
  /** The head modules: as they were trained, or as the reduced adapter has them. */
  readonly adapter: Adapter;
  /**
   * Logits of a split run of these head modules, [tokens of the sample, V] of each: such as `splitLogits` of
   * `@edgetuner/transport` gives. The base's ends are there already; they are not to be disposed. `onText` is to be
   * called after each.
   */
  readonly split: (
    samples: readonly (readonly number[])[],
    ends: EmbeddingAndHead,
    onText: () => void,
  ) => Promise<readonly Float32Array[]>;
  /** What was exported, read back from its files. */
  readonly peft: PeftAdapter;
  /** Weights of the merged model, read back from its files. @default {the base with `peft` added} */
  readonly merged?: NamedArrays | undefined;
  /** Weights of the merged model in a file of fewer bits, read back, and the share of the adapter's effect that may be lost. */
  readonly rounded?: { readonly weights: NamedArrays; readonly allowed: number } | undefined;
  /** If the rank was reduced: the head modules before, and the share of their effect that may be lost. */
  readonly reducedFrom?: { readonly adapter: Adapter; readonly allowed: number } | undefined;
  /** Frozen projections, where the head modules ask for such from the base model: see `baseProjections`. */
  readonly projections?: HeadProjections | undefined;
  /** Tokens of sample texts, at least one each. */
  readonly samples: readonly (readonly number[])[];
  /** Allowed difference in proportion to the largest logit. @default {1e-4} */
  readonly tolerance?: number;
  /** Called as each text has gone through a model, of which there are several. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Counts the texts that have gone through a model: five of them, and one more for each of what was made smaller. */
function textCounter({ samples, reducedFrom, rounded, onProgress }: CertificateOptions): () => void {
  const total = samples.length * (5 + Number(reducedFrom !== undefined) + Number(rounded !== undefined));
  let done = 0;
  return () => onProgress?.(++done, total);
}

/**
 * Compares an export with what was trained. The default tolerance is ten times the difference that float32 sums
 * of two whole models have, and a difference must be small beside what the adapter does, too. Nothing is left out:
 * what could not be compared is an error.
 *
 * @throws {RangeError} If there is no sample, or one that is empty or does not fit the model.
 * @throws {ModelFileError} If adapter and model do not belong together.
 * @throws {TypeError} If the split run gives other logits than were asked for.
 */
export async function certifyExport(options: CertificateOptions): Promise<ExportCertificate> {
  const { engine, model, family, adapter, peft, samples, reducedFrom, tolerance = 1e-4 } = options;
  using ends = loadEmbeddingAndHead(engine, model);
  const bad = samples.findIndex((s) => s.length === 0 || s.length > ends.shape.positions);
  if (samples.length === 0 || bad >= 0) {
    throw new RangeError(
      `Cannot certify the export as samples must have 1 to ${ends.shape.positions} tokens: ${
        samples.length === 0 ? "there are none" : `sample ${bad} has ${samples[bad]!.length}`
      }`,
    );
  }
  const onText = textCounter(options);
  const logits = async (weights: NamedArrays, heads: LocalHeads | null): Promise<Float32Array[]> => {
    using layers = loadLayers(engine, { config: model.config, weights });
    return await allLogits({ engine, layers, ends, heads, onText }, samples);
  };
  const withHeads = async (which: Adapter): Promise<Float32Array[]> => {
    using heads = loadHeads(engine, which, options.projections);
    return await logits(model.weights, heads);
  };
  const trained = await options.split(samples, ends, onText);
  requireLogits(trained, samples, ends.shape.vocabulary);
  const base = await logits(model.weights, null);
  const shape = modelShape(model.config);
  const inMemory = mergePeft(model.weights, peft, family, shape);
  const again = fitsHeadModules(peft, family, shape) ? fromPeft(peft, family, shape) : null;
  const imported = difference(
    trained,
    again === null ? await logits(inMemory, null) : await withHeads(again),
  );
  const split = difference(trained, await withHeads(adapter));
  const merged = difference(trained, await logits(options.merged ?? inMemory, null));
  const reduction = reducedFrom === undefined
    ? null
    : lossOf({ whole: await withHeads(reducedFrom.adapter), small: trained, base }, reducedFrom.allowed);
  const { rounded } = options;
  const rounding = rounded === undefined
    ? null
    : lossOf({ whole: trained, small: await logits(rounded.weights, null), base }, rounded.allowed);
  const largestLogit = trained.reduce(
    (most, values) => values.reduce((m, x) => Math.max(m, Math.abs(x)), most),
    0,
  );
  const effect = difference(trained, base);
  const allowed = Math.min(tolerance * largestLogit, effect / 10);
  return {
    samples: samples.length,
    tokens: samples.reduce((sum, s) => sum + s.length, 0),
    largestLogit,
    effect,
    split,
    imported,
    importedAs: again === null ? "merged weights" : "head modules",
    merged,
    tolerance,
    allowed,
    reduction,
    rounding,
    // A difference that is not a number does not hold.
    holds: Math.max(split, imported, merged) <= allowed &&
      [reduction, rounding].every((loss) => loss === null || loss.share <= loss.allowed),
  };
}

type Logits = readonly Float32Array[];

/** What is lost of the effect on the base's logits between two models. */
function lossOf(
  { whole, small, base }: { readonly whole: Logits; readonly small: Logits; readonly base: Logits },
  allowed: number,
): ReductionLoss {
  const [lost, effect] = [difference(small, whole), difference(whole, base)];
  const share = lost === 0
    ? 0
    : Math.max(lost / effect, rootMeanSquare(small, whole) / rootMeanSquare(whole, base));
  return { difference: lost, effect, share, allowed };
}

/** All logits after every token of each sample, on one machine. */
async function allLogits(
  { engine, layers, ends, heads, onText }: {
    readonly engine: Engine;
    readonly layers: BaseLayers;
    readonly ends: EmbeddingAndHead;
    readonly heads: LocalHeads | null;
    readonly onText: () => void;
  },
  samples: readonly (readonly number[])[],
): Promise<Float32Array[]> {
  const { layers: L, heads: H } = layers.shape;
  const all: Float32Array[] = [];
  for (const sample of samples) {
    await heads?.beginStep({ step: 0, mode: "evaluate", mask: new Uint8Array(L * H) });
    using tape = new Tape(engine, { training: false });
    const tokens = Uint32Array.from(sample);
    const { length } = tokens;
    const batch = { tokens, targets: tokens, mask: new Float32Array(length), batch: 1, length };
    const embedding = tape.variable(embedTokens(ends, batch), { needsGradient: false });
    const hidden = await layers.forward(tape, embedding, batch, heads);
    using result = logitsOf(ends, hidden.value, tokens.map((_, i) => i));
    all.push(await result.read());
    onText();
  }
  return all;
}

/** The largest absolute difference; NaN if a value is. */
function difference(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  return a.reduce(
    (most, values, s) => values.reduce((m, x, i) => Math.max(m, Math.abs(x - b[s]![i]!)), most),
    0,
  );
}

/** Root of the mean square of all differences. */
function rootMeanSquare(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  let sum = 0, count = 0;
  for (const [s, values] of a.entries()) {
    for (let i = 0; i < values.length; i++) sum += (values[i]! - b[s]![i]!) ** 2;
    count += values.length;
  }
  return Math.sqrt(sum / count);
}

function requireLogits(
  found: readonly Float32Array[],
  samples: readonly (readonly number[])[],
  vocabulary: number,
): void {
  const lengths = found.map((values) => values.length);
  const expected = samples.map((sample) => sample.length * vocabulary);
  if (lengths.join() === expected.join()) return;
  throw new TypeError(
    `Cannot certify the export as the split run must give [${expected}] logits: it gave [${lengths}]`,
  );
}
