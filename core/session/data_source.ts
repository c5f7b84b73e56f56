/**
 * Where the batches of a run come from: one data device, or several.
 *
 * @module
 */

import type { Tensor } from "@edgetuner/kernels";
import type { DataAnswerTime } from "./run_events.ts";
import type { DataPort, EmbeddedBatch, StepMode } from "../contracts/ports.ts";

/** New tokens that a data device wants h_L of, in generation. */
export interface DecodingRequest {
  /** E of the new tokens, [R * T, d]; the caller's to dispose. */
  readonly embedding: Tensor;
  /** R, rows that are continued side by side. */
  readonly rows: number;
  /** T, new tokens of each row. */
  readonly length: number;
  /** The row that each row continues, [R]; `null` for a prompt, which begins anew. */
  readonly parents: readonly number[] | null;
}

/** What answers new tokens. */
export interface DecodingSource {
  /** Answers new tokens with their h_L, [R * T, d], and says which heads were away. */
  answer(step: number, hidden: Tensor, away: readonly number[]): Promise<void>;
  /** Closes the data device for what it asked. */
  refuse(rule: string): never;
}

/** Where batches come from. */
export interface DataSource extends DataPort, DecodingSource {
  /** True if the head modules before the last batch are the best so far. */
  readonly best: boolean;
  /** Rows of E that came for each part of the step so far, where equal ones came only once. */
  readonly embeddingRows: readonly number[];
  /** How long each device whose data it is took to answer the last hidden states of the step. */
  readonly dataAnswers: readonly DataAnswerTime[];
  /** False where the step's batch cannot be answered any more: whose it is has come back over another connection. */
  readonly hasBatch: boolean;
  /** If true, a state follows the step. */
  saves: boolean;
  /** The next step's batch, or new tokens; `null` when there is nothing left. */
  request(step: number): Promise<EmbeddedBatch | DecodingRequest | null>;
  /**
   * A step begins again: its batch, or its first part, once more.
   *
   * @returns `null` if the step does not take place any more.
   */
  repeat(
    step: number,
    at: { readonly mode: StepMode; readonly attempt: number },
  ): Promise<EmbeddedBatch | null>;
  /** What is waited for is waited for no longer: the step will begin again. */
  interrupt(): void;
}
