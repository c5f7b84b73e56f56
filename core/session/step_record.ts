/**
 * What an edge server tells of a step.
 *
 * @module
 */

import type { TrainerStep } from "../train/trainer.ts";
import type { StepMeter } from "./_step_meter.ts";
import type { AnswerTime, DataAnswerTime, StepRecord } from "./run_events.ts";

/** Kept heads of each layer. */
export function keptPerLayer(mask: Uint8Array, layers: number, heads: number): number[] {
  return Array.from(
    { length: layers },
    (_, l) => mask.subarray(l * heads, (l + 1) * heads).reduce((sum, z) => sum + 1 - z, 0),
  );
}

/** What is known of a step after it. */
export function stepRecord(
  { step, mode, loss, counted, decision, away = [], statistics, tokens, batch, pruneMs }: TrainerStep,
  { meter, shape: { layers, heads }, now, owners, embeddingRows, answers = [], dataAnswers = [] }: {
    readonly meter: StepMeter;
    readonly shape: { readonly layers: number; readonly heads: number };
    /** The clock, in milliseconds. */
    readonly now: number;
    /** Names of the owners whose data it was, of several. */
    readonly owners?: readonly string[] | undefined;
    /** How long devices took to answer. */
    readonly answers?: readonly AnswerTime[];
    /** How long those whose data it was took to answer. */
    readonly dataAnswers?: readonly DataAnswerTime[];
    /** Rows of E that travelled for each part. */
    readonly embeddingRows: readonly number[];
  },
): StepRecord {
  const { mask, scores = null, figures } = decision;
  const { bytes, probeBytes, ...spent } = meter.spent();
  return {
    step,
    mode,
    loss,
    ...(counted === undefined ? {} : { counted }),
    times: { total: now - meter.startedAt, prune: pruneMs, ...spent },
    bytes,
    ...(probeBytes === null ? {} : { probeBytes }),
    ...(statistics.globalNorm === undefined ? {} : { gradientNorm: statistics.globalNorm }),
    mask,
    ...(away.length === 0 ? {} : { away }),
    kept: keptPerLayer(mask, layers, heads),
    scores,
    ...(figures && { figures }),
    tokens,
    batch,
    embeddingRows,
    ...(answers.length === 0 ? {} : { answers }),
    ...(dataAnswers.length === 0 ? {} : { dataAnswers }),
    ...(owners === undefined ? {} : { owners }),
  };
}
