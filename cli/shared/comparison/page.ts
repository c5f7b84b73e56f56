/**
 * What a comparison draws: plots, and a page with the table and all of them.
 *
 * @module
 */

import { heatMap, type Line, linePlot } from "../../output/plots.ts";
import type { RunResult } from "../compared_systems.ts";
import { isComplete, type Point, type Row } from "./results.ts";

/** A plot: its name, and the SVG. */
export type Picture = readonly [name: string, svg: string];

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
  return [
    ...lossCurves(table),
    ...headMap(table, shape),
    ...labPlot(lab.filter(isDrawn)),
    ...studyPlots(study.filter(isDrawn)),
  ];
}

/** Training loss over virtual time and over bytes. */
function lossCurves(table: readonly Row[]): Picture[] {
  const curve = (x: (step: RunResult["steps"][number]) => number): Line[] =>
    table.filter(isComplete).map(({ name, runs }) => {
      let sum = 0;
      const points = runs[0]!.steps.map((step): [number, number] => [sum += x(step), step.loss ?? NaN]);
      return { name, points: smooth(points) };
    });
  const y = "training loss (mean of 8 steps)";
  const overTime = curve((s) => s.times.total / 1000);
  const overBytes = curve((s) => s.bytes / 1e6).filter(({ points }) => points.at(-1)![0] > 0);
  return [
    ["loss_over_time", linePlot({ title: "Loss over time", x: "virtual seconds", y }, overTime)],
    ["loss_over_bytes", linePlot({ title: "Loss over bytes", x: "MB on the wire", y }, overBytes)],
  ];
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
  return [["which_heads_matter", heatMap(axes, cells, names)]];
}

/** Validation loss of each pruner over the bytes of its run. */
function labPlot(lab: readonly Point[]): Picture[] {
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
  return [["quality_over_bytes", linePlot(axes, lines, { marks: true })]];
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
    return [`study_${name}`, linePlot(axes, lines, { marks: true, minY: 0 })];
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

/** A page that shows everything. */
export function page({ about, lines, findings, pictures, tables = [] }: ComparisonPage): string {
  const escape = (s: string) => s.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const row = (cells: readonly string[], tag: string) =>
    `<tr>${cells.map((c) => `<${tag}>${escape(c)}</${tag}>`).join("")}</tr>`;
  const tableOf = (lines: readonly (readonly string[])[]) =>
    `<table>${row(lines[0]!, "th")}${lines.slice(1).map((cells) => row(cells, "td")).join("")}</table>`;
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>EdgeTuner: systems compared</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; } td { white-space: nowrap; } svg { max-width: 100%; height: auto; margin: 1rem 0; }
</style>
<h1>Systems compared</h1>
<p>${escape(about)}</p>
${tableOf(lines)}
${tables.map(({ title, lines }) => `<h2>${escape(title)}</h2>\n${tableOf(lines)}`).join("\n")}
<ul>${findings.map((f) => `<li>${escape(f)}</li>`).join("")}</ul>
${pictures.map(([, svg]) => svg).join("\n")}
</html>
`;
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
