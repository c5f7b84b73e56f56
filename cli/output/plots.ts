/**
 * Pictures of runs as SVG files, drawn by Apache ECharts without a browser.
 *
 * @module
 */

import * as echarts from "echarts";
import type { CustomSeriesOption, EChartsOption } from "echarts";

/** Colours that stay apart for people who see colours differently (Okabe and Ito's palette). */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31"];

/** Where there are more lines than colours, the next ones have another symbol. */
const SYMBOLS = ["emptyCircle", "emptyTriangle", "emptyRect", "emptyDiamond"];
/** Colours of what is no line; a page puts its own in their place, light or dark. */
export const INKS = { ink: "#1b1f24", quiet: "#57606a", line: "#d8dbdf", paper: "#ffffff" } as const;
/** Width of a picture, and of one for a phone. */
const WIDTH = { wide: 760, narrow: 340 } as const;

/** Colours by names: a name has the same one in all pictures that share a palette. */
export class Palette {
  readonly #names: string[] = [];

  /** The place of a name among all that were asked for. */
  at(name: string): number {
    if (!this.#names.includes(name)) this.#names.push(name);
    return this.#names.indexOf(name);
  }
}

/** What a picture is drawn on. */
export interface Sheet {
  /** Colours of names. @default {one of its own} */
  readonly palette?: Palette;
  /** True for a phone: without heading, which stands beside it. @default {false} */
  readonly isNarrow?: boolean;
}

/** A picture: its name, and the SVG for a wide and for a narrow page. */
export type Picture = readonly [name: string, svg: string, narrow: string];

/** Draws a picture for wide and narrow pages. */
export function bothWidths(
  name: string,
  palette: Palette,
  draw: (sheet: Sheet) => string,
): Picture {
  return [name, draw({ palette }), draw({ palette, isNarrow: true })];
}

/** Rows of a legend: without a browser texts are taken to be narrower than they are, so names stand well apart. */
function legendOf(names: readonly string[], { isNarrow = false }: Sheet) {
  const [gap, width] = isNarrow ? [22, WIDTH.narrow - 16] : [20, WIDTH.wide - 40];
  let [rows, used] = [1, 0];
  for (const name of names) {
    const size = 6.6 * name.length + 34 + gap;
    if (used > 0 && used + size > width) [rows, used] = [rows + 1, 0];
    used += size;
  }
  const top = isNarrow ? 4 : 36;
  return {
    height: top + rows * (14 + gap),
    option: {
      top,
      type: "plain" as const,
      width,
      itemGap: gap,
      textStyle: { fontSize: 11, color: INKS.ink },
    },
  };
}

/** Lines, marks and names of an axis. */
function axisOf(name: string, gap: number) {
  return {
    ...{ name, nameLocation: "middle" as const, nameGap: gap, nameTextStyle: { color: INKS.quiet } },
    axisLabel: { color: INKS.quiet, hideOverlap: true },
    axisLine: { lineStyle: { color: INKS.line } },
    splitLine: { lineStyle: { color: INKS.line } },
  };
}

function headingOf({ title }: PlotText, { isNarrow = false }: Sheet): EChartsOption {
  const text = { text: title, left: "center", textStyle: { fontSize: 15, color: INKS.ink } };
  return isNarrow ? {} : { title: text };
}

/** What stands around a picture. */
export interface PlotText {
  /** Heading. */
  readonly title: string;
  /** What is along x, with its unit. */
  readonly x: string;
  /** What is along y, with its unit. */
  readonly y: string;
}

/** One line of a plot. */
export interface Line {
  /** Name in the legend. */
  readonly name: string;
  /** [x, y]; not finite = a gap. */
  readonly points: readonly (readonly [number, number])[];
  /** [x, lowest y, highest y]: shown as a band around the line. @default {none} */
  readonly band?: readonly (readonly [number, number, number])[];
  /** True for points without a line. @default {false} */
  readonly isCloud?: boolean;
}

/** Draws; `alt` is what it shows, in words that go on after the title. */
function render(
  option: EChartsOption,
  { isNarrow = false }: Sheet,
  { height, title, alt }: { readonly height: number; readonly title: string; readonly alt: string },
): string {
  const width = isNarrow ? WIDTH.narrow : WIDTH.wide;
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width, height });
  try {
    chart.setOption({
      animation: false,
      backgroundColor: INKS.paper,
      color: COLOURS,
      textStyle: { fontFamily: "system-ui, sans-serif" },
      ...option,
    });
    const [heading, label] = [title, alt].map((words) =>
      words.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;")
    );
    const about = `role="img" data-title="${heading}" aria-label="${heading}${label}"`;
    return chart.renderToSVGString().replace("<svg ", `<svg ${about} `);
  } finally {
    chart.dispose();
  }
}

/** A number in words of a picture. */
function shown(value: number): string {
  return String(Number(value.toPrecision(4)));
}

/** A line in words. */
function wordsOf({ name, points, isCloud = false }: Line): string {
  const ys = points.map(([, y]) => y).filter(Number.isFinite);
  if (ys.length === 0) return `${name}: nothing`;
  const [first, last] = isCloud ? [Math.min(...ys), Math.max(...ys)] : [ys[0]!, ys.at(-1)!];
  return first === last ? `${name}: ${shown(first)}` : `${name}: from ${shown(first)} to ${shown(last)}`;
}

/** Options of `linePlot`. */
export interface LinePlotOptions extends Sheet {
  /** Mark every point: for few of them. @default {false} */
  readonly marks?: boolean;
  /** Logarithmic y. @default {false} */
  readonly logY?: boolean;
  /** Lowest y shown. @default {chosen} */
  readonly minY?: number | undefined;
}

/**
 * Lines over a common x.
 *
 * @returns The text of an SVG file.
 */
export function linePlot(text: PlotText, lines: readonly Line[], options: LinePlotOptions = {}): string {
  const { marks = false, logY = false, minY, palette = new Palette(), isNarrow = false } = options;
  const legend = legendOf(lines.map(({ name }) => name), options);
  const places = lines.map(({ name }) => palette.at(name));
  const colourAt = (i: number) => COLOURS[places[i]! % COLOURS.length]!;
  return render(
    {
      ...headingOf(text, options),
      legend: legend.option,
      grid: {
        ...(isNarrow ? { left: 52, right: 14 } : { left: 70, right: 30 }),
        ...{ top: legend.height + 12, bottom: 55 },
      },
      xAxis: { type: "value", ...axisOf(text.x, 32), scale: true, ...(isNarrow ? { splitNumber: 3 } : {}) },
      yAxis: {
        type: logY ? "log" : "value",
        ...axisOf(text.y, isNarrow ? 36 : 45),
        scale: true,
        ...(minY === undefined ? {} : { min: minY }),
      },
      series: [
        ...lines.map(({ name, points, isCloud = false }, i) => ({
          type: "line" as const,
          name,
          showSymbol: marks,
          symbol: SYMBOLS[Math.floor(places[i]! / COLOURS.length) % SYMBOLS.length]!,
          symbolSize: isCloud ? 11 : 7,
          itemStyle: { color: colourAt(i) },
          lineStyle: {
            ...{ color: colourAt(i), width: isCloud ? 0 : 1.8 },
            type: places[i]! < COLOURS.length ? "solid" as const : "dashed" as const,
          },
          data: points.map(([x, y]) => [x, Number.isFinite(y) ? y : "-"]),
        })),
        ...lines.flatMap(({ band }, i) => band === undefined ? [] : [bandOf(band, colourAt(i))]),
      ],
    },
    options,
    {
      height: (isNarrow ? 260 : 345) + legend.height,
      title: text.title,
      alt: `: ${text.y} over ${text.x}. ${lines.map(wordsOf).join("; ")}`,
    },
  );
}

/** A band as one polygon: up along the highest values, back along the lowest. */
function bandOf(band: NonNullable<Line["band"]>, colour: string): CustomSeriesOption {
  const edge = [
    ...band.map(([x, , high]) => [x, high]),
    ...band.toReversed().map(([x, low]) => [x, low]),
  ];
  return {
    type: "custom",
    silent: true,
    clip: true,
    data: [[band[0]?.[0] ?? 0, band[0]?.[1] ?? 0]],
    renderItem: (_, api) => ({
      type: "polygon",
      shape: { points: edge.map((point) => api.coord(point)) },
      style: { fill: colour, opacity: 0.15 },
    }),
  };
}

/**
 * Stacked bars along x, a row for each name.
 *
 * @param names Names of the rows, the first on top.
 * @param parts Parts of each bar, with a value for each row.
 * @param sheet What it is drawn on.
 * @returns The text of an SVG file.
 */
export function barPlot(
  text: PlotText,
  names: readonly string[],
  parts: readonly { readonly name: string; readonly values: readonly number[] }[],
  sheet: Sheet = {},
): string {
  const { isNarrow = false } = sheet;
  const legend = legendOf(parts.map(({ name }) => name), sheet);
  const rows = names.map((name, i) =>
    `${name}: ${parts.map((p) => `${p.name} ${shown(p.values[i]!)}`).join(", ")}`
  );
  const room = isNarrow ? 110 : 230;
  return render(
    {
      ...headingOf(text, sheet),
      legend: legend.option,
      grid: { left: room + 10, right: isNarrow ? 16 : 30, top: legend.height + 8, bottom: 55 },
      xAxis: { type: "value", ...axisOf(text.x, 32), ...(isNarrow ? { splitNumber: 3 } : {}) },
      yAxis: {
        ...axisOf("", 0),
        ...{ type: "category", data: [...names], inverse: true, axisTick: { show: false } },
        axisLabel: { color: INKS.ink, width: room, overflow: "break", interval: 0 },
      },
      series: parts.map(({ name, values }) => ({
        type: "bar" as const,
        name,
        stack: "all",
        barMaxWidth: 22,
        data: [...values],
      })),
    },
    sheet,
    {
      height: Math.max(180, legend.height + 70 + (isNarrow ? 40 : 30) * names.length),
      title: text.title,
      alt: `, ${text.x}. ${rows.join("; ")}`,
    },
  );
}

/**
 * A matrix as coloured cells, row 0 on top.
 *
 * @param cells One array per row, values in [0, 1].
 * @param rows Names of the rows.
 * @param sheet What it is drawn on.
 * @returns The text of an SVG file.
 */
export function heatMap(
  text: PlotText & { readonly low: string; readonly high: string },
  cells: readonly (readonly number[])[],
  rows: readonly string[],
  sheet: Sheet = {},
): string {
  const { isNarrow = false } = sheet;
  const columns = cells[0]?.length ?? 0;
  const mean = cells.flat().reduce((sum, value) => sum + value, 0) / Math.max(1, rows.length * columns);
  return render(
    {
      ...headingOf(text, sheet),
      grid: { left: isNarrow ? 52 : 90, right: isNarrow ? 10 : 30, top: isNarrow ? 28 : 45, bottom: 90 },
      xAxis: {
        ...axisOf(text.x, 32),
        type: "category",
        data: Array.from({ length: columns }, (_, i) => String(i)),
        splitLine: { show: false },
      },
      yAxis: {
        ...axisOf(text.y, 0),
        ...{ type: "category", data: [...rows], inverse: true, nameLocation: "start", nameGap: 12 },
        ...{ axisTick: { show: false }, splitLine: { show: false } },
      },
      visualMap: {
        ...{ min: 0, max: 1, show: true, orient: "horizontal", left: "center", bottom: 8 },
        text: [text.high, text.low],
        textStyle: { color: INKS.quiet },
        inRange: { color: ["#f1eef6", "#0072b2"] },
      },
      series: [{
        type: "heatmap",
        data: cells.flatMap((row, y) => row.map((value, x) => [x, y, value])),
        emphasis: { disabled: true },
      }],
    },
    sheet,
    {
      height: Math.max(260, 150 + 14 * rows.length),
      title: text.title,
      alt: `, by ${text.y} and ${text.x}: from 0, ${text.low}, to 1, ${text.high}, with a mean of ${
        shown(mean)
      }`,
    },
  );
}
