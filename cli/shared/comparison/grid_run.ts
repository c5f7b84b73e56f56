/**
 * A comparison of systems x modes x codecs x pruners: finds each mode's rate, runs all entries, and writes what they
 * show.
 *
 * @module
 */

import { type RunSettings, writeWhole } from "@edgetuner/core";
import type { LinkProfile } from "@edgetuner/transport";
import { table } from "../../flags/simulation_flags.ts";
import { versions } from "../../output/report.ts";
import type { RunResult } from "../compared_systems.ts";
import type { Entry } from "./grid.ts";
import {
  type EntryRuns,
  figuresOf,
  gridPictures,
  type LinkRuns,
  protocolLines,
  type ProtocolOptions,
  robustnessLines,
} from "./grid_report.ts";
import { markdown, page } from "./page.ts";
import { bestRates, type TriedRate } from "./rates.ts";
import { hasFailed, jsonOf } from "./results.ts";
import type { RunQueue } from "./run_queue.ts";
import { tableLines } from "./table.ts";

/** What a grid is run with. */
export interface GridOptions {
  /** What takes part. */
  readonly entries: readonly Entry[];
  /** Runs of each entry, the first with this seed. */
  readonly seeds: number;
  readonly seed: number;
  /** Training steps of a run that tries a rate. */
  readonly rateSteps: number;
  /** Factors of each mode's rate that are tried; one is taken as it is. */
  readonly factors: readonly number[];
  /** The link, and those for the protocol of robustness, with their names. */
  readonly link: string;
  readonly links: readonly (readonly [name: string, link: LinkProfile])[];
  /** Target and budgets. */
  readonly protocols: ProtocolOptions;
  /** Where everything goes. */
  readonly out: string;
  /** All flags, for the report. */
  readonly flags: unknown;
  /** The settings, in a sentence. */
  readonly about: string;
}

/** Steps of all runs. */
export function gridSteps({ entries, seeds, rateSteps, factors, links }: GridOptions): number {
  const modes = new Set(entries.map(({ mode }) => mode)).size;
  const rates = factors.length > 1 ? modes * factors.length * rateSteps : 0;
  const stepsOf = (some: readonly Entry[]) => some.reduce((sum, { settings }) => sum + settings.steps, 0);
  const split = entries.filter(({ codec }) => codec !== null);
  return rates + seeds * stepsOf(entries) + links.length * stepsOf(split);
}

/** What has been run so far; it is in a file after every entry. */
class GridResults {
  readonly all: EntryRuns[] = [];
  readonly others: LinkRuns[] = [];
  tried: readonly TriedRate[] = [];
  readonly #options: GridOptions;

  constructor(options: GridOptions) {
    this.#options = options;
  }

  async save(): Promise<void> {
    const { flags, out, protocols } = this.#options;
    const rows = (runs: readonly EntryRuns[]) =>
      runs.map((own) => ({ ...own.entry, ...jsonOf({ name: own.entry.name, runs: own.runs }) }));
    const content = {
      versions: versions(),
      settings: flags,
      rates: this.tried,
      figures: figuresOf(this.all, protocols),
      table: rows(this.all),
      links: this.others.map((own) => ({ link: own.link, ...rows([own])[0]! })),
    };
    await writeWhole(`${out}/compare.json`, `${JSON.stringify(content)}\n`);
  }
}

const shortened = ({ name, system, mode, codec }: Entry) => ({ name, system, mode, codec });

/**
 * Runs the grid.
 *
 * @returns What was saved, and whether a run failed.
 */
export async function runGrid(
  options: GridOptions,
  queue: RunQueue,
): Promise<{ readonly saved: string; readonly failed: boolean }> {
  const results = new GridResults(options);
  const { entries, factors, rateSteps: steps, seed } = options;
  const modes = new Map(entries.map(({ mode, settings }) => [mode, settings]));
  const { rates, tried } = await bestRates(modes, factors, { queue, steps, seed });
  results.tried = tried;
  const withRate = ({ mode, settings }: Entry): RunSettings => ({
    ...settings,
    optimizer: { ...settings.optimizer, learningRate: rates.get(mode)! },
  });
  for (const entry of entries) {
    const runs: RunResult[] = [];
    for (let i = 0; i < options.seeds; i++) {
      runs.push(
        await queue.run({
          ...{ name: entry.name, system: entry.runs, steps: entry.settings.steps, seed: seed + i },
          settings: withRate(entry),
        }),
      );
    }
    results.all.push({ entry: shortened(entry), runs });
    await results.save();
  }
  for (const [link, profile] of options.links) {
    for (const entry of entries.filter(({ codec }) => codec !== null)) {
      const run = await queue.run({
        ...{ name: entry.name, system: entry.runs, steps: entry.settings.steps, seed, texts: false },
        ...{ settings: withRate(entry), link: profile },
      });
      results.others.push({ entry: shortened(entry), link, runs: [run] });
      await results.save();
    }
  }
  return await tell(options, results);
}

/** Says what was found, and draws it. */
async function tell(
  { out, about, protocols, link }: GridOptions,
  { all, others, tried }: GridResults,
): Promise<{ readonly saved: string; readonly failed: boolean }> {
  const lines = tableLines(all.map(({ entry, runs }) => ({ name: entry.name, runs })));
  const figures = figuresOf(all, protocols);
  const tables: { readonly title: string; readonly lines: readonly (readonly string[])[] }[] = [];
  if (figures !== null) {
    const title = `Cost to a validation loss of ${
      figures.target.toFixed(3)
    }, held against ${figures.reference}`;
    tables.push({ title: `${title}; quality under a budget`, lines: protocolLines(figures) });
  }
  if (others.length > 0) tables.push({ title: "Robustness", lines: robustnessLines(link, all, others) });
  if (tried.length > 0) tables.push({ title: "Rates that were tried", lines: rateLines(tried) });
  const failed = all.flatMap(({ entry, runs }) => runs.map((run) => ({ name: entry.name, run })))
    .filter(({ run }) => hasFailed(run));
  const findings = [
    ...new Set(failed.map(({ name, run }) => `${name} ended early, so it says nothing: ${run.refused}`)),
  ];
  const pictures = gridPictures(all);
  for (const [name, svg] of pictures) await writeWhole(`${out}/${name}.svg`, svg);
  await writeWhole(`${out}/table.md`, markdown({ about, lines, findings, tables }));
  await writeWhole(`${out}/index.html`, page({ about, lines, findings, pictures, tables }));
  console.log(`${about}\n`);
  for (const line of table(lines, "   ")) console.log(line);
  for (const { title, lines } of tables) {
    console.log(`\n${title}\n`);
    for (const line of table(lines, "   ")) console.log(line);
  }
  if (findings.length > 0) console.log(`\n${findings.join("\n")}`);
  const saved =
    `table.md, compare.json, ${pictures.length} plots and index.html, which shows them all, in ${out}`;
  return { saved, failed: failed.length > 0 };
}

function rateLines(tried: readonly TriedRate[]): string[][] {
  return [
    ["mode", "rate", "validation loss"],
    ...tried.map(({ mode, rate, loss }) => [mode, `${rate}`, loss === null ? "not finite" : loss.toFixed(3)]),
  ];
}
