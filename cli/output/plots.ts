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
/** Without a browser texts are taken to be narrower than they are, so names stand well apart. */
const LEGEND = { top: 36, type: "plain" as const, itemGap: 20, textStyle: { fontSize: 11 } };

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

function render(option: EChartsOption, width: number, height: number): string {
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width, height });
  try {
    chart.setOption({
      animation: false,
      backgroundColor: "#ffffff",
      color: COLOURS,
      textStyle: { fontFamily: "system-ui, sans-serif" },
      ...option,
    });
    return chart.renderToSVGString();
  } finally {
    chart.dispose();
  }
}

const axisName = (name: string) => ({ name, nameLocation: "middle" as const, nameGap: 32 });

/** Options of `linePlot`. */
export interface LinePlotOptions {
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
  const { marks = false, logY = false, minY } = options;
  // About 95 letters of names fit beside each other.
  const legendRows = Math.ceil(lines.reduce((sum, { name }) => sum + name.length + 9, 0) / 95);
  return render(
    {
      title: { text: text.title, left: "center", textStyle: { fontSize: 15 } },
      legend: LEGEND,
      grid: { left: 70, right: 30, top: 45 + 34 * legendRows, bottom: 55 },
      xAxis: { type: "value", ...axisName(text.x), scale: true },
      yAxis: {
        type: logY ? "log" : "value",
        ...axisName(text.y),
        nameGap: 45,
        scale: true,
        ...(minY === undefined ? {} : { min: minY }),
      },
      series: [
        ...lines.map(({ name, points, isCloud = false }, i) => ({
          type: "line" as const,
          name,
          showSymbol: marks,
          symbol: SYMBOLS[Math.floor(i / COLOURS.length) % SYMBOLS.length]!,
          symbolSize: isCloud ? 11 : 7,
          lineStyle: {
            width: isCloud ? 0 : 1.8,
            type: i < COLOURS.length ? "solid" as const : "dashed" as const,
          },
          data: points.map(([x, y]) => [x, Number.isFinite(y) ? y : "-"]),
        })),
        ...lines.flatMap(({ band }, i) =>
          band === undefined ? [] : [bandOf(band, COLOURS[i % COLOURS.length]!)]
        ),
      ],
    },
    760,
    440 + 34 * Math.max(0, legendRows - 1),
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
 * @returns The text of an SVG file.
 */
export function barPlot(
  text: PlotText,
  names: readonly string[],
  parts: readonly { readonly name: string; readonly values: readonly number[] }[],
): string {
  return render(
    {
      title: { text: text.title, left: "center", textStyle: { fontSize: 15 } },
      legend: LEGEND,
      grid: { left: 240, right: 30, top: 75, bottom: 55 },
      xAxis: { type: "value", ...axisName(text.x) },
      yAxis: { type: "category", data: [...names], inverse: true, axisTick: { show: false } },
      series: parts.map(({ name, values }) => ({
        type: "bar" as const,
        name,
        stack: "all",
        barMaxWidth: 22,
        data: [...values],
      })),
    },
    760,
    Math.max(220, 140 + 30 * names.length),
  );
}

/**
 * A matrix as coloured cells, row 0 on top.
 *
 * @param cells One array per row, values in [0, 1].
 * @param rows Names of the rows.
 * @returns The text of an SVG file.
 */
export function heatMap(
  text: PlotText & { readonly low: string; readonly high: string },
  cells: readonly (readonly number[])[],
  rows: readonly string[],
): string {
  const columns = cells[0]?.length ?? 0;
  return render(
    {
      title: { text: text.title, left: "center", textStyle: { fontSize: 15 } },
      grid: { left: 90, right: 30, top: 45, bottom: 90 },
      xAxis: {
        type: "category",
        data: Array.from({ length: columns }, (_, i) => String(i)),
        ...axisName(text.x),
        splitLine: { show: false },
      },
      yAxis: { type: "category", data: [...rows], inverse: true, name: text.y, axisTick: { show: false } },
      visualMap: {
        min: 0,
        max: 1,
        show: true,
        orient: "horizontal",
        left: "center",
        bottom: 8,
        text: [text.high, text.low],
        inRange: { color: ["#f1eef6", "#0072b2"] },
      },
      series: [{
        type: "heatmap",
        data: cells.flatMap((row, y) => row.map((value, x) => [x, y, value])),
        emphasis: { disabled: true },
      }],
    },
    760,
    Math.max(260, 150 + 14 * rows.length),
  );
}
