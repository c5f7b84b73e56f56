/**
 * The table of a comparison, and what it shows in words, whether it is as published or not.
 *
 * @module
 */

import { bytes } from "../../output/progress.ts";
import { type RunResult, spread } from "../compared_systems.ts";
import { hasFailed, isComplete, meanOf, memoryNeeded, type Point, type Row } from "./results.ts";
import { SYSTEMS } from "./systems.ts";

const HEAD: readonly string[] = [
  "system",
  "s a step",
  "planned",
  "validation loss",
  "texts right",
  "MB a step",
  "planned",
  "heads kept",
  "layers asked",
];

/** A number with its spread over the seeds. */
function cell(values: readonly number[], digits: number): string {
  const { mean, deviation } = spread(values);
  return values.length < 2 ? mean.toFixed(digits) : `${mean.toFixed(digits)} ± ${deviation.toFixed(digits)}`;
}

/** Cells of the table by line; the first line is its head. */
export function tableLines(table: readonly Row[]): string[][] {
  return [[...HEAD], ...table.map(tableLine)];
}

function tableLine({ name, runs }: Row): string[] {
  const refused = runs.find((r) => r.refused !== null)?.refused ?? null;
  if (refused !== null) {
    const memory = memoryNeeded(refused);
    const why = memory === null ? "ended early" : `out of memory: needs ${bytes(memory)}`;
    return [name, why, ...HEAD.slice(2).map(() => "")];
  }
  const of = (value: (r: RunResult) => number, digits: number) => cell(runs.map(value), digits);
  const slots = runs.flatMap((r) => r.slots === null ? [] : [100 * r.slots]);
  const rouge = runs.flatMap((r) => r.rougeL === null ? [] : [100 * r.rougeL]);
  return [
    name,
    of((r) => r.secondsPerStep, 3),
    of((r) => r.planned.seconds, 3),
    of((r) => r.validLoss.after, 3),
    slots.length > 0 ? `${cell(slots, 0)} %` : rouge.length > 0 ? `ROUGE-L ${cell(rouge, 1)}` : "-",
    of((r) => r.bytesPerStep / 1e6, 2),
    of((r) => r.planned.bytes / 1e6, 2),
    `${of((r) => 100 * r.kept, 0)} %`,
    of((r) => r.layers, 1),
  ];
}

/** What the table shows, in words. */
export function findingsOf(table: readonly Row[]): string[] {
  return [...orderFound(table), ...pruningFound(table), ...dloraFound(table)];
}

/** A system's row, if all its runs came to their end. */
function complete(table: readonly Row[], name: string): Row | undefined {
  return table.find((row) => row.name === name && isComplete(row));
}

/** Whether seconds are in the order that was published. */
function orderFound(table: readonly Row[]): string[] {
  const order = SYSTEMS.flatMap((name) => {
    const row = complete(table, name);
    return row === undefined ? [] : [{ name, seconds: meanOf(row, (r) => r.secondsPerStep) }];
  });
  if (order.length < 2) return [];
  const found = order.toSorted((a, b) => a.seconds - b.seconds).map(({ name }) => name).join(" < ");
  const published = order.map(({ name }) => name).join(" < ");
  return [
    found === published
      ? `Seconds a step are in the paper's order: ${found}.`
      : `Seconds a step are in the order ${found}; the paper's is ${published}.`,
  ];
}

/** What pruning saves and what it takes. */
function pruningFound(table: readonly Row[]): string[] {
  const [edge, vanilla] = [complete(table, "EdgeTuner"), complete(table, "vEdgeTuner")];
  if (edge === undefined || vanilla === undefined) return [];
  const loss = (row: Row) => meanOf(row, (r) => r.validLoss.after);
  const share = (value: (r: RunResult) => number) => (100 * meanOf(edge, value) / meanOf(vanilla, value));
  const [a, b] = [loss(edge), loss(vanilla)];
  const whole = `EdgeTuner takes ${share((r) => r.secondsPerStep).toFixed(0)} % of vEdgeTuner's seconds and ${
    share((r) => r.bytesPerStep).toFixed(0)
  } % of its bytes; its validation loss is ${a.toFixed(3)} beside ${b.toFixed(3)}, ${
    (100 * Math.abs(a / b - 1)).toFixed(1)
  } % ${a < b ? "below" : "above"}.`;
  const limited = table.filter((row) => row.name.startsWith("vEdgeTuner,") && isComplete(row));
  return [
    whole,
    ...limited.map((row) => {
      const c = loss(row);
      const verdict = c < a
        ? "pruning does not pay for itself here"
        : c > a
        ? "pruning pays for itself"
        : "no difference";
      return `${row.name} ends at ${c.toFixed(3)}, EdgeTuner at ${a.toFixed(3)}: ${verdict}.`;
    }),
  ];
}

/** Why DLoRA is faster, where it is. */
function dloraFound(table: readonly Row[]): string[] {
  const [edge, dlora] = [complete(table, "EdgeTuner"), complete(table, "DLoRA")];
  if (edge === undefined || dlora === undefined) return [];
  const seconds = (row: Row) => meanOf(row, (r) => r.secondsPerStep);
  if (seconds(dlora) >= seconds(edge)) return [];
  const layers = (row: Row) => meanOf(row, (r) => r.layers).toFixed(1);
  const kept = (row: Row) => (100 * meanOf(row, (r) => r.kept)).toFixed(0);
  return [
    `DLoRA is faster than EdgeTuner here because it keeps ${kept(dlora)} % of the heads and EdgeTuner ${
      kept(edge)
    } %: it asks devices in ${layers(dlora)} layers a step, EdgeTuner in ${
      layers(edge)
    }, and where bytes count more than round trips the fewer heads win. At EdgeTuner's share see the row below it.`,
  ];
}

/** Runs that ended early, and why. */
export function failuresOf(table: readonly Row[], points: readonly Point[]): string[] {
  const all = [
    ...table.flatMap(({ name, runs }) => runs.map((run) => ({ name, run }))),
    ...points.map(({ name, x, run }) => ({ name: `${name} at ${x}`, run })),
  ];
  const failed = all.filter(({ run }) => hasFailed(run));
  return [
    ...new Set(failed.map(({ name, run }) => `${name} ended early, so it says nothing: ${run.refused}`)),
  ];
}

/** The row whose runs ended at the lowest validation loss, with its losses; `null` if there is none. */
export function lowestLoss(
  table: readonly Row[],
): { readonly name: string; readonly before: number; readonly after: number } | null {
  const rows = table.filter(isComplete).map((row) => ({
    name: row.name,
    before: meanOf(row, (r) => r.validLoss.before),
    after: meanOf(row, (r) => r.validLoss.after),
  }));
  return rows.toSorted((a, b) => a.after - b.after)[0] ?? null;
}
