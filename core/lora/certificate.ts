/**
 * Proof that an export is what was trained: logits of the head modules, of the exported adapter read back,
 * and of the merged model, on sample texts.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import { loadEnds, loadLayers, type ModelConfig, modelShape } from "../model/load.ts";
import type { NamedArrays } from "../model/gpt2.ts";
import { embedTokens, logitsOf } from "../model/loss.ts";
import { Tape } from "../tape.ts";
import { type Adapter, loadHeads } from "./adapter.ts";
import type { LocalHeads } from "./local_heads.ts";
import { fromPeft, mergePeft, type ModelFamily, type PeftAdapter } from "./peft.ts";

/** Largest rank that head modules can have. */
const MAX_RANK = 256;

/** What an export was held against. */
export interface ExportCertificate {
  /** Sample texts. */
  readonly samples: number;
  /** Tokens of all samples, whose logits were compared. */
  readonly tokens: number;
  /** Largest absolute value among the logits of the head modules. */
  readonly largestLogit: number;
  /** Largest change of a logit by the head modules: 0 would mean that there is nothing to export. */
  readonly effect: number;
  /** Largest difference to the exported adapter as head modules again; `null` if its rank is above 256. */
  readonly imported: number | null;
  /** Largest difference to the merged model without head modules. */
  readonly merged: number;
  /** Difference that was allowed, in proportion to `largestLogit`. */
  readonly tolerance: number;
  /** True if all differences are within the tolerance. */
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
  /** The head modules. */
  readonly adapter: Adapter;
  /** What was exported. */
  readonly peft: PeftAdapter;
  /** Tokens of sample texts, at least one each. */
  readonly samples: readonly (readonly number[])[];
  /** Allowed difference in proportion to the largest logit. @default {1e-4} */
  readonly tolerance?: number;
}

/**
 * Compares an export with what was trained. The default tolerance is ten times the difference that float32 sums
 * of two whole models have.
 *
 * @throws {RangeError} If there is no sample, or one that is empty or does not fit the model.
 * @throws {CheckpointError} If adapter and model do not belong together.
 */
export async function certifyExport(options: CertificateOptions): Promise<ExportCertificate> {
  const { engine, model, family, adapter, peft, samples, tolerance = 1e-4 } = options;
  using ends = loadEnds(engine, model);
  const bad = samples.findIndex((s) => s.length === 0 || s.length > ends.shape.positions);
  if (samples.length === 0 || bad >= 0) {
    throw new RangeError(
      `Cannot certify the export as samples must have 1 to ${ends.shape.positions} tokens: ${
        samples.length === 0 ? "there are none" : `sample ${bad} has ${samples[bad]!.length}`
      }`,
    );
  }
  const logits = async (weights: NamedArrays, heads: LocalHeads | null): Promise<Float32Array[]> => {
    using layers = loadLayers(engine, { config: model.config, weights });
    const { layers: L, heads: H } = layers.shape;
    const all: Float32Array[] = [];
    for (const sample of samples) {
      await heads?.beginStep({ step: 0, mode: "evaluate", mask: new Uint8Array(L * H) });
      using tape = new Tape(engine, false);
      const tokens = Uint32Array.from(sample);
      const batch = {
        tokens,
        targets: tokens,
        mask: new Float32Array(tokens.length),
        batch: 1,
        length: tokens.length,
      };
      const embedding = tape.variable(embedTokens(ends, batch), false);
      const hidden = await layers.forward(tape, embedding, batch, heads);
      using result = logitsOf(ends, hidden.value, tokens.map((_, i) => i));
      all.push(await result.read());
    }
    return all;
  };
  const base = await logits(model.weights, null);
  const trained = await logitsWith(adapter);
  const difference = (others: readonly Float32Array[]) =>
    others.reduce(
      (most, values, s) => values.reduce((m, x, i) => Math.max(m, Math.abs(x - trained[s]![i]!)), most),
      0,
    );
  const shape = modelShape(model.config);
  const imported = peft.config.r > MAX_RANK
    ? null
    : difference(await logitsWith(fromPeft(peft, family, shape)));
  const merged = difference(await logits(mergePeft(model.weights, peft, family, shape), null));
  const largestLogit = trained.reduce(
    (most, values) => values.reduce((m, x) => Math.max(m, Math.abs(x)), most),
    0,
  );
  return {
    samples: samples.length,
    tokens: samples.reduce((sum, s) => sum + s.length, 0),
    largestLogit,
    effect: difference(base),
    imported,
    merged,
    tolerance,
    // A difference that is not a number does not hold.
    holds: Math.max(imported ?? 0, merged) <= tolerance * largestLogit,
  };

  async function logitsWith(which: Adapter): Promise<Float32Array[]> {
    using heads = loadHeads(engine, which);
    return await logits(model.weights, heads);
  }
}
