/**
 * What a comparison draws: plots, and a page with the table and all of them.
 *
 * @module
 */

import {
  bothWidths,
  heatMap,
  INKS,
  type Line,
  linePlot,
  Palette,
  type Picture,
  type Sheet,
} from "../../output/plots.ts";
import type { RunResult } from "../compared_systems.ts";
import { isComplete, type Point, type Row } from "./results.ts";

/** What is drawn. */
export interface Drawn {
  /** The table. */
  readonly table: readonly Row[];
  /** Pruners at equal budgets of bytes. */
  readonly lab: readonly Point[];
  /** Parameters one at a time. */
  readonly study: readonly Point[];
  /** The model. */
  readonly shape: { readonly layers: number; readonly heads: number };
}

/** All plots that the runs give. */
export function picturesOf({ table, lab, study, shape }: Drawn): Picture[] {
  const isDrawn = ({ run }: Point) => run.refused === null;
  // A system has the same colour in all of them.
  const palette = new Palette();
  return [
    ...lossCurves(table, palette),
    ...headMap(table, shape),
    ...labPlot(lab.filter(isDrawn), palette),
    ...studyPlots(study.filter(isDrawn)),
  ];
}

/** Training loss over virtual time and over bytes: the mean of the seeds, with a band from the lowest to the highest. */
function lossCurves(table: readonly Row[], palette: Palette): Picture[] {
  const curve = (x: (step: RunResult["steps"][number]) => number): Line[] =>
    table.filter(isComplete).map(({ name, runs }) => {
      const seeds = runs.map(({ steps }) => {
        let sum = 0;
        return smooth(steps.map((step): [number, number] => [sum += x(step), step.loss ?? NaN]));
      });
      const length = Math.min(...seeds.map((points) => points.length));
      const at = Array.from({ length }, (_, i) => ({
        x: mean(seeds.map((points) => points[i]![0])),
        losses: seeds.map((points) => points[i]![1]),
      }));
      return {
        name,
        points: at.map(({ x, losses }) => [x, mean(losses)] as const),
        ...(seeds.length === 1 ? {} : {
          band: at.map(({ x, losses }) => [x, Math.min(...losses), Math.max(...losses)] as const)
            .filter((edge) => edge.every(Number.isFinite)),
        }),
      };
    });
  const y = "training loss (mean of 8 steps)";
  const overTime = curve((s) => s.times.total / 1000);
  const overBytes = curve((s) => s.bytes / 1e6).filter(({ points }) => points.at(-1)![0] > 0);
  return [
    bothWidths(
      "loss_over_time",
      palette,
      (sheet) => linePlot({ title: "Loss over time", x: "virtual seconds", y }, overTime, sheet),
    ),
    bothWidths(
      "loss_over_bytes",
      palette,
      (sheet) => linePlot({ title: "Loss over bytes", x: "MB on the wire", y }, overBytes, sheet),
    ),
  ];
}

function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

/** Which heads EdgeTuner keeps in which step. */
function headMap(table: readonly Row[], { layers, heads }: Drawn["shape"]): Picture[] {
  const edge = table.find((r) => r.name === "EdgeTuner" && isComplete(r));
  if (edge === undefined) return [];
  const { steps } = edge.runs[0]!;
  const names = Array.from({ length: layers * heads }, (_, i) => `${Math.floor(i / heads)}.${i % heads}`);
  const cells = names.map((_, i) => steps.map(({ mask }) => 1 - mask[i]!));
  const axes = {
    title: "Heads that EdgeTuner keeps",
    x: "step",
    y: "layer.head",
    low: "pruned",
    high: "kept",
  };
  const palette = new Palette();
  return [bothWidths("which_heads_matter", palette, (sheet) => heatMap(axes, cells, names, sheet))];
}

/** Validation loss of each pruner over the bytes of its run. */
function labPlot(lab: readonly Point[], palette: Palette): Picture[] {
  if (lab.length === 0) return [];
  const megabytes = ({ run }: Point) => run.steps.reduce((sum, s) => sum + s.bytes, 0) / 1e6;
  const lines = [...new Set(lab.map(({ name }) => name))].map((name): Line => {
    const points = lab.filter((p) => p.name === name).map((p): [number, number] => [
      megabytes(p),
      p.run.validLoss.after,
    ]);
    return { name, points: points.sort((a, b) => a[0] - b[0]) };
  });
  const axes = {
    title: "Pruners at equal budgets of bytes",
    x: "MB of the whole run",
    y: "validation loss after",
  };
  return [
    bothWidths("quality_over_bytes", palette, (sheet) => linePlot(axes, lines, { ...sheet, marks: true })),
  ];
}

/** Seconds and validation loss over each parameter. */
function studyPlots(study: readonly Point[]): Picture[] {
  return [...new Set(study.map((p) => p.name))].map((name) => {
    const own = study.filter((p) => p.name === name);
    const lines: Line[] = [
      { name: "s a step", points: own.map(({ x, run }) => [x, run.secondsPerStep]) },
      { name: "validation loss", points: own.map(({ x, run }) => [x, run.validLoss.after]) },
    ];
    const axes = { title: titleOfStudy(name), x: name, y: "s a step; validation loss" };
    const draw = (sheet: Sheet) => linePlot(axes, lines, { ...sheet, marks: true, minY: 0 });
    return bothWidths(`study_${name}`, new Palette(), draw);
  });
}

function titleOfStudy(name: string): string {
  // See studyOf: a predictor is trained for one lambda and one K.
  return name === "lambda" || name === "K"
    ? `Parameter ${name}, importance measured, not predicted`
    : `Parameter ${name}`;
}

function smooth(points: readonly [number, number][]): [number, number][] {
  return points.map(([x], i) => {
    const window = points.slice(Math.max(0, i - 7), i + 1);
    return [x, window.reduce((sum, [, y]) => sum + y, 0) / window.length];
  });
}

/** What the page shows. */
export interface ComparisonPage {
  /** The settings, in a sentence. */
  readonly about: string;
  /** The table. */
  readonly lines: readonly (readonly string[])[];
  /** What it shows, in words. */
  readonly findings: readonly string[];
  /** Further tables. @default {[]} */
  readonly tables?: readonly { readonly title: string; readonly lines: readonly (readonly string[])[] }[];
  /** Plots. */
  readonly pictures: readonly Picture[];
}

const STYLE = `
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --quiet: #57606a; --line: #d8dbdf; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e8eaed; --quiet: #a3abb4; --line: #3a4048; }
}
body {
  font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: break-word;
}
.wide { overflow-x: auto; }
.wide:focus-visible { outline: 3px solid #0b6bcb; outline-offset: 2px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
td:first-child { font-weight: 500; }
figure { margin: 1.5rem 0; }
figcaption { font-weight: 600; }
svg { display: block; max-width: 100%; height: auto; }
.narrow, figcaption { display: none; }
@media (max-width: 48rem) {
  body { margin: 1rem auto; }
  .narrow, figcaption { display: block; }
  .broad { display: none; }
}
`;

/** A page that shows everything. */
export function page({ about, lines, findings, pictures, tables = [] }: ComparisonPage): string {
  const escape = (s: string) => s.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
  const row = (cells: readonly string[], at: number) =>
    `<tr>${
      cells.map((c, i) =>
        at === 0
          ? `<th scope="col">${escape(c)}</th>`
          : i === 0
          ? `<th scope="row">${escape(c)}</th>`
          : `<td>${escape(c)}</td>`
      ).join("")
    }</tr>`;
  const tableOf = (lines: readonly (readonly string[])[], title: string) =>
    `<div class="wide" tabindex="0" role="region" aria-label="${escape(title)}"><table>${
      lines.map(row).join("")
    }</table></div>`;
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>EdgeTuner: systems compared</title>
<style>${STYLE}</style>
<main>
<h1>Systems compared</h1>
<p>${escape(about)}</p>
${tableOf(lines, "Systems")}
${tables.map(({ title, lines }) => `<h2>${escape(title)}</h2>\n${tableOf(lines, title)}`).join("\n")}
<ul>${findings.map((f) => `<li>${escape(f)}</li>`).join("")}</ul>
${pictures.map(figureOf).join("\n")}
</main>
</html>
`;
}

/** A picture in both widths, in the colours of the page. */
function figureOf([name, svg, narrow]: Picture): string {
  const title = /data-title="([^"]*)"/.exec(svg)?.[1] ?? name;
  return `<figure><figcaption>${title}</figcaption><div class="broad">${
    inPage(svg)
  }</div><div class="narrow">${inPage(narrow)}</div></figure>`;
}

/** Paper and ink are those of the page, light or dark. */
function inPage(svg: string): string {
  const own = Object.entries(INKS).reduce(
    (text, [name, colour]) => text.replaceAll(colour, `var(--${name})`),
    svg,
  );
  return own.replaceAll("#000000", "var(--ink)").replaceAll(/"#fff"/g, '"var(--paper)"').replaceAll(
    /"rgb\(0,0,0\)"/g,
    '"var(--ink)"',
  );
}

/** The table and what it shows, as Markdown. */
export function markdown({ about, lines, findings, tables = [] }: Omit<ComparisonPage, "pictures">): string {
  const tableOf = (lines: readonly (readonly string[])[]) => {
    const rows = lines.map((cells) => `| ${cells.join(" | ")} |`);
    const rule = `| ${lines[0]!.map(() => "---").join(" | ")} |`;
    return rows.toSpliced(1, 0, rule).join("\n");
  };
  const more = tables.map(({ title, lines }) => `## ${title}\n\n${tableOf(lines)}\n\n`).join("");
  return `${about}\n\n${tableOf(lines)}\n\n${more}${findings.map((finding) => `- ${finding}`).join("\n")}\n`;
}
