/**
 * Pictures of runs as SVG files, drawn by Apache ECharts without a browser.
 *
 * @module
 */

import * as echarts from "echarts";
import type { EChartsOption } from "echarts";

/** Colours that stay apart for people who see colours differently (Okabe and Ito's palette). */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31"];

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
  return render(
    {
      title: { text: text.title, left: "center", textStyle: { fontSize: 15 } },
      legend: { top: 36, type: "plain" },
      grid: { left: 70, right: 30, top: 78, bottom: 55 },
      xAxis: { type: "value", ...axisName(text.x), scale: true },
      yAxis: {
        type: logY ? "log" : "value",
        ...axisName(text.y),
        nameGap: 45,
        scale: true,
        ...(minY === undefined ? {} : { min: minY }),
      },
      series: lines.map(({ name, points }) => ({
        type: "line" as const,
        name,
        showSymbol: marks,
        symbolSize: 7,
        lineStyle: { width: 1.8 },
        data: points.map(([x, y]) => [x, Number.isFinite(y) ? y : "-"]),
      })),
    },
    760,
    440,
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
