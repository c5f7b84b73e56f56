/**
 * What a grid of runs shows: cost to a target, quality under a budget, robustness, and plots.
 *
 * @module
 */

import { bytes } from "../../output/progress.ts";
import { barPlot, bothWidths, type Line, linePlot, Palette, type Picture } from "../../output/plots.ts";
import type { RunResult } from "../compared_systems.ts";
import type { Entry } from "./grid.ts";
import { type Estimate, estimate, lossWithin, spent, spentAt, stepsTo, type Unit } from "./protocols.ts";

/** The runs of an entry, one for each seed. */
export interface EntryRuns {
  /** The entry. */
  readonly entry: Pick<Entry, "name" | "system" | "mode" | "codec">;
  /** One for each seed. */
  readonly runs: readonly RunResult[];
}

/** Runs of an entry on another link. */
export interface LinkRuns extends EntryRuns {
  /** The link. */
  readonly link: string;
}

/** Which target and budgets. */
export interface ProtocolOptions {
  /** The loss to reach; 0 for that of the reference and the margin. */
  readonly target: number;
  /** Share above the reference's loss. */
  readonly margin: number;
  /** Budgets; 0 for what the cheapest entry took. */
  readonly megabytes: number;
  readonly seconds: number;
}

/** What an entry shows by the protocols. */
export interface EntryFigures {
  readonly name: string;
  /** The loss after the last step. */
  readonly loss: Estimate | null;
  /** Steps, bytes and seconds to the target; `null` if a run did not get there. */
  readonly steps: Estimate | null;
  readonly bytes: Estimate | null;
  readonly seconds: Estimate | null;
  /** Bytes to the target as a share of the reference's. */
  readonly share: number | null;
  /** The loss within the budgets. */
  readonly withinBytes: Estimate | null;
  readonly withinSeconds: Estimate | null;
  /** Memory of weights and moments on the largest device. */
  readonly deviceBytes: number;
}

/** What all entries show. */
export interface GridFigures {
  /** The entry that others are held against: the first without a pruner. */
  readonly reference: string;
  readonly target: number;
  readonly budget: { readonly bytes: number; readonly seconds: number };
  readonly entries: readonly EntryFigures[];
}

const isDone = ({ runs }: EntryRuns) => runs.every(({ refused }) => refused === null);

/** Sums the runs up; `null` if none came to its end. */
export function figuresOf(all: readonly EntryRuns[], options: ProtocolOptions): GridFigures | null {
  const done = all.filter(isDone);
  const reference = done.find(({ entry }) => entry.system === "vEdgeTuner" || entry.system === "none") ??
    done[0];
  if (reference === undefined) return null;
  const mean = (of: EntryRuns, value: (run: RunResult) => number) => estimate(of.runs.map(value))!.mean;
  const target = options.target || mean(reference, (r) => r.validLoss.after) * (1 + options.margin);
  const sending = done.filter(({ runs }) => runs.every((run) => spent(run, "bytes") > 0));
  const least = (unit: Unit, of: readonly EntryRuns[]) =>
    Math.min(...of.map((entry) => mean(entry, (run) => spent(run, unit))));
  const budget = {
    bytes: options.megabytes * 1e6 || least("bytes", sending.length === 0 ? done : sending),
    seconds: options.seconds || least("seconds", sending.length === 0 ? done : sending),
  };
  const cost = (run: RunResult, unit: Unit) => {
    const steps = stepsTo(run, target);
    return steps === null ? null : spentAt(run, steps, unit);
  };
  const own = estimate(reference.runs.map((run) => cost(run, "bytes")))?.mean ?? null;
  const entries = done.map(({ entry: { name }, runs }): EntryFigures => {
    const toTarget = estimate(runs.map((run) => cost(run, "bytes")));
    return {
      name,
      loss: estimate(runs.map((run) => run.validLoss.after)),
      steps: estimate(runs.map((run) => stepsTo(run, target))),
      bytes: toTarget,
      seconds: estimate(runs.map((run) => cost(run, "seconds"))),
      share: own === null || toTarget === null || own === 0 ? null : toTarget.mean / own,
      withinBytes: estimate(runs.map((run) => lossWithin(run, budget.bytes, "bytes"))),
      withinSeconds: estimate(runs.map((run) => lossWithin(run, budget.seconds, "seconds"))),
      deviceBytes: Math.max(...runs.map((run) => run.deviceBytes)),
    };
  });
  return { reference: reference.entry.name, target, budget, entries };
}

function cell(of: Estimate | null, digits: number, scale = 1): string {
  if (of === null) return "not reached";
  const text = (of.mean * scale).toFixed(digits);
  return of.interval === null ? text : `${text} ± ${(of.interval * scale).toFixed(digits)}`;
}

/** Cost to the target and quality under a budget as a table; the first line is its head. */
export function protocolLines({ entries, budget }: GridFigures): string[][] {
  return [
    [
      ...["system, mode, codec", "validation loss", "steps to target", "MB to target", "of the reference"],
      ...[
        "s to target",
        `loss at ${bytes(budget.bytes)}`,
        `loss at ${budget.seconds.toFixed(0)} s`,
        "device",
      ],
    ],
    ...entries.map((e) => [
      e.name,
      cell(e.loss, 3),
      cell(e.steps, 0),
      cell(e.bytes, 2, 1e-6),
      e.share === null ? "-" : e.share.toFixed(3),
      cell(e.seconds, 1),
      cell(e.withinBytes, 3),
      cell(e.withinSeconds, 3),
      e.deviceBytes === 0 ? "-" : bytes(e.deviceBytes),
    ]),
  ];
}

/** Each entry on each link; the first line is its head. */
export function robustnessLines(
  home: string,
  all: readonly EntryRuns[],
  others: readonly LinkRuns[],
): string[][] {
  const links = [home, ...new Set(others.map(({ link }) => link))];
  const shown = (found: EntryRuns | undefined) => {
    if (found === undefined) return "-";
    const first = found.runs.slice(0, 1); // other links have one seed
    const refused = found.runs.find((run) => run.refused !== null)?.refused;
    if (refused !== undefined) return "ended early";
    const seconds = estimate(first.map((run) => run.secondsPerStep));
    const loss = estimate(first.map((run) => run.validLoss.after));
    return `${seconds!.mean.toFixed(3)} s a step, ${loss!.mean.toFixed(3)}`;
  };
  return [
    ["system, mode, codec", ...links],
    ...all.map((own) => [
      own.entry.name,
      ...links.map((link) =>
        shown(link === home ? own : others.find((o) => o.link === link && o.entry.name === own.entry.name))
      ),
    ]),
  ];
}

/** All plots. */
export function gridPictures(all: readonly EntryRuns[]): Picture[] {
  const done = all.filter(isDone);
  if (done.length === 0) return [];
  // A system has the same colour in all of them.
  const palette = new Palette();
  return [
    pareto(done, "bytes", palette),
    pareto(done, "seconds", palette),
    curves(done, "steps", palette),
    curves(done, "seconds", palette),
    curves(done, "bytes", palette),
    stepTimes(done),
  ];
}

const AXIS = { steps: "steps", seconds: "virtual seconds", bytes: "MB on the wire" } as const;

function scaled(run: RunResult, step: number, x: keyof typeof AXIS): number {
  if (x === "steps") return step;
  return spentAt(run, step, x) * (x === "bytes" ? 1e-6 : 1);
}

function pareto(done: readonly EntryRuns[], unit: Unit, palette: Palette): Picture {
  const points = done.map(({ entry, runs }): Line => ({
    name: entry.name,
    points: runs.map((run) => [scaled(run, run.steps.length, unit), run.validLoss.after]),
    isCloud: true,
  }));
  const axes = {
    title: `Quality over ${unit}, the whole run`,
    x: AXIS[unit],
    y: "validation loss after",
  };
  return bothWidths(`pareto_${unit}`, palette, (sheet) => linePlot(axes, points, { ...sheet, marks: true }));
}

/** Validation loss, the mean of the seeds with a band from the lowest to the highest. */
function curves(done: readonly EntryRuns[], x: keyof typeof AXIS, palette: Palette): Picture {
  const lines = done.flatMap(({ entry, runs }): Line[] => {
    const steps = runs[0]!.curve.map(({ step }) => step)
      .filter((step) => runs.every(({ curve }) => curve.some((point) => point.step === step)));
    if (x !== "steps" && spent(runs[0]!, x) === 0) return [];
    const at = steps.map((step) => ({
      x: estimate(runs.map((run) => scaled(run, step, x)))!.mean,
      losses: runs.map(({ curve }) => curve.find((point) => point.step === step)!.loss),
    }));
    return [{
      name: entry.name,
      points: at.map(({ x, losses }) => [x, losses.reduce((a, b) => a + b, 0) / losses.length]),
      band: at.map(({ x, losses }) => [x, Math.min(...losses), Math.max(...losses)]),
    }];
  });
  const title = `Validation loss over ${x}`;
  const text = { title, x: AXIS[x], y: "validation loss" };
  return bothWidths(`valid_over_${x}`, palette, (sheet) => linePlot(text, lines, sheet));
}

/** Where a step's time goes. */
function stepTimes(done: readonly EntryRuns[]): Picture {
  const mean = (runs: readonly RunResult[], value: (run: RunResult) => number) =>
    runs.reduce((sum, run) => sum + value(run), 0) / runs.length;
  const ofSteps = (value: (step: RunResult["steps"][number]) => number) => ({ steps }: RunResult) =>
    steps.reduce((sum, step) => sum + value(step), 0) / Math.max(1, steps.length);
  const names = done.map(({ entry }) => entry.name);
  const edge = done.map(({ runs }) => mean(runs, ofSteps((s) => s.edgeComputeMs)));
  const device = done.map(({ runs }) => mean(runs, (run) => run.deviceMs));
  const rest = done.map(({ runs }, i) =>
    Math.max(0, mean(runs, ofSteps((s) => s.times.total)) - edge[i]! - device[i]!)
  );
  const axes = { title: "Where a step's time goes", x: "ms a step", y: "" };
  const parts = [
    { name: "edge server computes", values: edge },
    { name: "slowest device computes", values: device },
    { name: "links and waiting", values: rest },
  ];
  return bothWidths("step_time", new Palette(), (sheet) => barPlot(axes, names, parts, sheet));
}
