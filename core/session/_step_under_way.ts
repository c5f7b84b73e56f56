/**
 * Where the edge server is in a step, as it asks devices.
 *
 * @module
 */

import type { HeadStep } from "../contracts/ports.ts";
import type { FlowCursor, PassDescription } from "../protocol/pass.ts";
import type { AnswerClock, HeadMember } from "./head_members.ts";

/** A step that is under way. */
export interface StepUnderWay extends HeadStep {
  /** All that is sent and received for the heads. */
  readonly pass: PassDescription;
  /** Where each micro-batch is. */
  readonly cursors: readonly FlowCursor[];
  /** How long each device keeps the others waiting. */
  readonly clocks: ReadonlyMap<HeadMember, AnswerClock>;
}

/** Where something is asked. */
export interface Place {
  readonly layer: number;
  readonly microBatch: number;
  /** Row of its part of the step that the micro-batch begins at. */
  readonly firstRow: number;
}
