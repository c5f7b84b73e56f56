/**
 * What a run learns in which time where devices come and go: the same run at several availabilities, in virtual time.
 *
 * @module
 */

import { type Pruner, type RunSettings, type TokenBatch, type WireCodec, writeWhole } from "@edgetuner/core";
import {
  comingAndGoing,
  type ComputeModel,
  type LinkProfile,
  simulate,
  type SimulationOptions,
} from "@edgetuner/transport";
import { UsageError } from "../flags/flags.ts";
import { linePlot } from "../output/plots.ts";
import { duration, ProgressBar } from "../output/progress.ts";
import { versions, writeReport } from "../output/report.ts";
import { tellDone } from "../output/run_end.ts";
import { Interrupts } from "../process/interrupts.ts";
import { endProgram, INTERRUPTED } from "../process/supervisor.ts";
import { seconds, table } from "../flags/simulation_flags.ts";

/** What is the same at every availability. */
export interface AvailabilityOptions {
  readonly model: SimulationOptions["model"];
  readonly settings: RunSettings;
  readonly batches: (step: number) => TokenBatch;
  readonly evaluation: readonly TokenBatch[];
  readonly pruner: () => Pruner;
  readonly devices: number;
  readonly link: LinkProfile;
  readonly compute: ComputeModel;
  /** Codecs besides the built-in ones. */
  readonly codecs: readonly WireCodec[];
  /** Milliseconds of a step in which nobody is away, about. */
  readonly msPerStep: number;
  /** Mean length of an absence in milliseconds. */
  readonly awayMs: number;
  readonly linkSeed: number;
  /** Called after each step. */
  readonly onStep: () => void;
}

/** What came of one availability. */
export interface AvailabilityLine {
  /** Share of the time that a device's link was there, as asked for. */
  readonly availability: number;
  /** Share of the heads that took part, over all steps. */
  readonly present: number;
  /** Times that a device was lost. */
  readonly losses: number;
  readonly totalMs: number;
  /** Loss on the evaluation batches with the heads of all devices; `null` without any. */
  readonly evaluation: { readonly before: number; readonly after: number } | null;
  /** End of each step in milliseconds, and its training loss. */
  readonly points: readonly (readonly [atMs: number, loss: number])[];
  /** What ended the run early; `null` if nothing did. */
  readonly error: string | null;
}

/** Longest run that is foreseen, in times of an undisturbed one. */
const HORIZON = 5;

/**
 * Percentages from a list such as "100,90".
 *
 * @throws {UsageError} If one is none.
 */
export function availabilitiesOf(list: string): number[] {
  const numbers = list.split(",").map(Number);
  if (numbers.some((n) => !(n > 0 && n <= 100))) {
    throw new UsageError(
      `Cannot use --availability as it must be percentages above 0 and at most 100, with commas between: current value is "${list}"`,
    );
  }
  return numbers.map((n) => n / 100);
}

/** What a sweep is given besides. */
export interface AvailabilitySweep extends Omit<AvailabilityOptions, "onStep"> {
  /** File for a report. */
  readonly report: string;
  /** Folder for a page and a plot. */
  readonly out: string;
  /** True to print JSON in place of the table. */
  readonly json: boolean;
  /** What the report says of the flags. */
  readonly flags: Readonly<Record<string, unknown>>;
}

/** Runs one availability after the other, prints and writes what came of them; returns the exit code. */
export async function sweepAvailability(
  shares: readonly number[],
  { report: file, out, json, flags, ...options }: AvailabilitySweep,
): Promise<number> {
  const started = performance.now();
  const { settings, devices, link, compute } = options;
  const bar = new ProgressBar(shares.length * settings.steps, { unit: "step" });
  const lines: AvailabilityLine[] = [];
  let done = 0;
  using interrupts = new Interrupts(() => endProgram(INTERRUPTED));
  for (const share of shares) {
    if (interrupts.asked) break;
    const onStep = () => bar.draw(++done, `${percent(share)} there`);
    lines.push(await runAvailability(share, { ...options, onStep }));
  }
  bar.end();
  const error = lines.find((line) => line.error !== null)?.error ?? null;
  const report = { versions: versions(), settings: flags, link, compute, lines, error };
  await writeReport(file, report);
  const about =
    `${devices} devices with heads that come and go, away for ${options.awayMs / 1000} s on average; ` +
    `the data has a device of its own that stays; ${settings.steps} steps, ${link.name}; virtual time`;
  const saved = file === "" ? [] : [file];
  if (out !== "") {
    const plot = availabilityPlot(lines, devices);
    await Deno.mkdir(out, { recursive: true });
    await writeWhole(`${out}/loss_over_seconds.svg`, plot);
    await writeWhole(`${out}/index.html`, availabilityPage(lines, about, plot));
    saved.push(out);
  }
  if (json) console.log(JSON.stringify(report, null, 1));
  else {
    console.log(about);
    for (const line of availabilityTable(lines)) console.log(line);
  }
  if (error !== null) {
    console.error(error);
    return 1;
  }
  if (!json) {
    const took = duration((performance.now() - started) / 1000);
    tellDone({ done: `${lines.length} availabilities in ${took}`, saved, next: "" });
  }
  return interrupts.asked ? INTERRUPTED : 0;
}

/** Runs one availability. All devices with heads come and go; the data has a device of its own that stays. */
export async function runAvailability(
  availability: number,
  options: AvailabilityOptions,
): Promise<AvailabilityLine> {
  const { devices, link, msPerStep, awayMs, linkSeed, settings } = options;
  const failures = comingAndGoing({
    devices: Array.from({ length: devices }, (_, i) => i + 1),
    availability,
    awayMs,
    untilMs: HORIZON * msPerStep * settings.steps,
    seed: linkSeed,
  });
  let losses = 0;
  let absent = 0;
  const run = await simulate({
    model: options.model,
    settings,
    batches: options.batches,
    evaluation: options.evaluation,
    pruner: options.pruner(),
    devices: [{ capacity: 0, data: true }, ...Array.from({ length: devices }, () => ({}))],
    link: { ...link, failures: [...link.failures ?? [], ...failures] },
    linkSeed,
    compute: options.compute,
    codecs: options.codecs,
    onStep: options.onStep,
    onEvent: (event) => {
      if (event.type === "away") losses++;
    },
  });
  const heads = options.model.layers.shape.heads;
  for (const { away = [] } of run.steps) absent += away.length;
  return {
    availability,
    present: 1 - absent / (heads * Math.max(1, run.steps.length)),
    losses,
    totalMs: run.totalMs,
    evaluation: run.evaluation,
    points: run.steps.map(({ atMs, loss }) => [atMs, loss ?? NaN]),
    error: run.error === null ? null : (run.error as Error).message,
  };
}

/** Rows for people. */
export function availabilityTable(lines: readonly AvailabilityLine[]): string[] {
  const head = ["availability", "heads there", "lost", "seconds", "s/step", "loss before", "after"];
  return table([
    head,
    ...lines.map((line) => [
      percent(line.availability),
      percent(line.present),
      `${line.losses}`,
      seconds(line.totalMs),
      seconds(line.totalMs / Math.max(1, line.points.length)),
      line.evaluation?.before.toFixed(3) ?? "-",
      line.evaluation?.after.toFixed(3) ?? "-",
    ]),
  ]);
}

/** Steps whose losses make one point of the plot. */
const WINDOW = 16;

/** Loss over seconds, a line an availability: the text of an SVG file. */
export function availabilityPlot(lines: readonly AvailabilityLine[], devices: number): string {
  const text = {
    title: `${devices} devices that come and go`,
    x: "virtual seconds",
    y: `training loss (mean of ${WINDOW} steps)`,
  };
  return linePlot(
    text,
    lines.map(({ availability, points }) => ({
      name: `${percent(availability)} there`,
      points: points.map(([atMs], i): [number, number] => {
        const window = points.slice(Math.max(0, i + 1 - WINDOW), i + 1);
        return [atMs / 1000, window.reduce((sum, [, loss]) => sum + loss, 0) / window.length];
      }).slice(Math.min(WINDOW, points.length) - 1),
    })),
  );
}

/** A page with the table and the plot. */
export function availabilityPage(lines: readonly AvailabilityLine[], about: string, plot: string): string {
  const escape = (s: string) => s.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>EdgeTuner: devices that come and go</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
svg { max-width: 100%; height: auto; }
</style>
<h1>Devices that come and go</h1>
<p>${escape(about)}</p>
<pre>${escape(availabilityTable(lines).join("\n"))}</pre>
${plot}
</html>
`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}
