/**
 * The steps of a data device, with their parts.
 *
 * @module
 */

import { ProtocolError } from "../contracts/errors.ts";
import type { MicroBatch } from "../contracts/micro_batches.ts";
import type { StepMode } from "../contracts/ports.ts";
import { maskSumOf, type TokenBatch } from "../model/loss.ts";
import type { Exchange } from "../protocol/pass.ts";
import type { Peer } from "../protocol/peer.ts";
import type { AccumulatedBatch } from "../train/local_data.ts";
import { TokenMean } from "../train/token_mean.ts";

/** A step that is under way. */
export interface DataStep {
  readonly step: number;
  readonly mode: StepMode;
  /** The batch in its parts; `null` after the last one. */
  readonly parts: readonly AccumulatedBatch[] | null;
  /** In the evaluation of one of several owners: the number of its batch. */
  readonly position?: number;
  /** True if the step has parts of other owners too. */
  readonly isMixed: boolean;
  /** True if the head modules before it are the best so far. */
  readonly best: boolean;
  /** True once the edge server has said that the state after it is to be saved. */
  isSaved: boolean;
  /** What the codec goes back to if the step begins again. */
  streams: ReturnType<Peer["keepStreams"]>;
}

/** An owner's own validation, where several are validated together: told once, as one mean. */
export class OwnValidation {
  #step = -1;
  #batches: (readonly [loss: number, tokens: number])[] = [];

  /** A batch is evaluated; once more where its step began again. */
  add({ step, position }: DataStep, loss: number, tokens: number): void {
    if (step !== this.#step) this.#batches = [];
    this.#step = step;
    this.#batches[position!] = [loss, tokens];
  }

  /** The mean of all, once there is no further batch; nothing if this process has not seen all, or none counts. */
  end({ step, position }: DataStep): { readonly loss?: number; readonly counted?: number } {
    const mean = new TokenMean();
    this.#batches.forEach((batch) => mean.add(...batch));
    const isWhole = step === this.#step && mean.batches === position && mean.tokens > 0;
    return isWhole ? { loss: mean.value, counted: mean.tokens } : {};
  }
}

/** A part of a step that is under way. */
export interface DataPart extends AccumulatedBatch {
  readonly pieces: readonly MicroBatch[];
  /** What comes for each micro-batch. */
  readonly exchanges: readonly Exchange[];
  /** Micro-batches that have not come yet. */
  readonly left: Set<number>;
  /** Those of a probe; `null` before one has begun. */
  probe: Set<number> | null;
}

/** Batches as the parts of a step that has parts of others too. */
export function ownParts(batches: readonly TokenBatch[]): AccumulatedBatch[] {
  const maskSum = batches.reduce((sum, batch) => sum + maskSumOf(batch), 0);
  let firstRow = 0;
  return batches.map((batch, index) => {
    const accumulation = { index, count: batches.length, firstRow };
    firstRow += batch.batch * batch.length;
    return { batch, accumulation, maskSum };
  });
}

/** Takes a micro-batch off those that are to come. Each comes once; one probe, whole, may come before the step itself. */
export function takeMicroBatch(
  open: DataPart,
  { step, mode }: DataStep,
  { microBatch, probing }: { readonly microBatch: number; readonly probing: boolean },
): void {
  const { pieces, accumulation, left } = open;
  const all = pieces.length;
  const refuse = (why: string): never => {
    throw new ProtocolError(
      `Unexpected micro-batch ${microBatch}${probing ? " of a probe" : ""} in step ${step}: ${why}`,
    );
  };
  if (microBatch >= all) refuse(`there are ${all}`);
  if (probing && open.probe === null) {
    if (mode !== "train") refuse("only training is probed");
    if (accumulation.count > 1) refuse("the step has several parts");
    if (left.size < all) refuse("the step has begun");
    open.probe = new Set(pieces.keys());
  }
  if (!probing && (open.probe?.size ?? 0) > 0) refuse("its probe is not complete");
  if (!(probing ? open.probe! : left).delete(microBatch)) {
    refuse(probing ? "the probe was answered" : "it was answered");
  }
}
