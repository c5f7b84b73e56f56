/**
 * What runs of a comparison have in common: the rows of the table and the runs beside it.
 *
 * @module
 */

import { type RunResult, spread } from "../compared_systems.ts";
import { written } from "./finished_runs.ts";

/** What a step costs, by unit. */
export const COSTS: readonly [string, (run: RunResult) => number][] = [
  ["seconds", (run) => run.secondsPerStep],
  ["bytes", (run) => run.bytesPerStep],
];

/** A system's runs. */
export interface Row {
  /** The system, and what it was limited to. */
  readonly name: string;
  /** One for each seed. */
  readonly runs: readonly RunResult[];
}

/** True if all runs came to their end. */
export function isComplete({ runs }: Row): boolean {
  return runs.every((run) => run.refused === null);
}

/** True if a run ended early for another reason than too little memory, which is a result. */
export function hasFailed({ refused }: RunResult): boolean {
  return refused !== null && memoryNeeded(refused) === null;
}

/** The memory that a device would have needed, if that is what a run ended for. */
export function memoryNeeded(refused: string): number | null {
  const found = /needs (\d+) bytes of memory/.exec(refused);
  return found === null ? null : Number(found[1]);
}

/** One run beside the table. */
export interface Point {
  /** The pruner, or the parameter that is varied. */
  readonly name: string;
  /** Its value. */
  readonly x: number;
  /** The run. */
  readonly run: RunResult;
}

/** The mean of a value over a row's runs. */
export function meanOf({ runs }: Row, value: (run: RunResult) => number): number {
  return spread(runs.map(value)).mean;
}

/** A row as JSON can carry it, masks and scores too. */
export function jsonOf({ name, runs }: Row) {
  return { name, runs: runs.map(written) };
}
