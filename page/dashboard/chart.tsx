/**
 * A plot of lines, drawn by uPlot, with a legend and a table of the same numbers.
 *
 * @module
 */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { resolved, useIsDark } from "./colours.ts";

/** A line. */
export interface Line {
  /** Its name. */
  readonly name: string;
  /** Name of its colour in the style sheet. */
  readonly colour: string;
  readonly x: readonly number[];
  readonly y: readonly (number | null)[];
  /** The lowest and the highest around it. @default {none} */
  readonly band?: { readonly low: readonly (number | null)[]; readonly high: readonly (number | null)[] };
  /** True where each point counts: they are marked, and the line is dashed. @default {false} */
  readonly isSparse?: boolean;
}

/** What a plot shows. */
export interface ChartProps {
  /** What it is, for those who do not see it and as heading of the table. */
  readonly label: string;
  /** Name of what is along x. */
  readonly xLabel: string;
  readonly lines: readonly Line[];
  readonly height?: number;
  /** True if there is nothing between two whole numbers along x. @default {false} */
  readonly isWhole?: boolean;
  /** Writes a number along x. */
  readonly writeX: (value: number) => string;
  /** Writes a number along y. */
  readonly writeY: (value: number | null) => string;
}

/** Width of an element; changes with it. */
function useWidth(): readonly [{ current: HTMLDivElement | null }, number] {
  const place = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry!.contentRect.width)));
    observer.observe(place.current!);
    return () => observer.disconnect();
  }, []);
  return [place, width];
}

/** Values of all lines over all their x, as uPlot takes them. */
function tableOf(lines: readonly Line[]): uPlot.AlignedData {
  const tables = lines.filter(({ x }) => x.length > 0).map(({ x, y, band }) =>
    [x, y, ...(band === undefined ? [] : [band.high, band.low])] as unknown as uPlot.AlignedData
  );
  return tables.length === 0 ? [[], ...lines.map(() => [])] : uPlot.join(tables);
}

/** Distances of marks along an axis of whole numbers. */
const WHOLE = Array.from({ length: 14 }, (_, i) => [10 ** i, 2 * 10 ** i, 5 * 10 ** i]).flat();

/** Most points that are marked one by one. */
const MOST_MARKS = 60;

/** A number beside the plot. */
function tick(value: number): string {
  return String(Number(value.toPrecision(4)));
}

/** Options of uPlot for lines that have points. */
function optionsOf(
  { lines, height, xLabel, writeX, isWhole }: ChartProps,
  width: number,
): uPlot.Options {
  const ink = resolved("--quiet");
  const grid = { stroke: resolved("--line"), width: 1 };
  const axis = { stroke: ink, grid, ticks: grid, font: "12px system-ui", labelFont: "12px system-ui" };
  const series: uPlot.Series[] = [{ label: xLabel }];
  const bands: uPlot.Band[] = [];
  for (const line of lines.filter(({ x }) => x.length > 0)) {
    const stroke = resolved(line.colour);
    const points = line.x.length === 1 || line.isSparse === true && line.x.length <= MOST_MARKS
      ? { show: true, size: 7, fill: stroke, stroke }
      : { show: false };
    series.push({
      ...{ label: line.name, stroke, width: 2, spanGaps: true, points },
      ...(line.isSparse === true ? { dash: [6, 4] } : {}),
    });
    if (line.band === undefined) continue;
    const edge = { width: 0, spanGaps: true, points: { show: false } };
    series.push({ label: `${line.name}, highest`, ...edge }, { label: `${line.name}, lowest`, ...edge });
    bands.push({ series: [series.length - 2, series.length - 1], fill: `${stroke}33` });
  }
  return {
    ...{ width, height: height ?? (width > 1500 ? 420 : 280), series, bands, legend: { show: false } },
    padding: [12, 12, 0, 0],
    scales: { x: { time: false } },
    cursor: { drag: { x: true, y: false } },
    axes: [
      {
        ...{ ...axis, label: xLabel, labelSize: 20, values: (_, splits) => splits.map(writeX) },
        // There are no halves of steps and bytes.
        ...(isWhole === true ? { incrs: WHOLE } : {}),
      },
      { ...axis, size: 58, values: (_, splits) => splits.map(tick) },
    ],
  };
}

/** A plot. */
export function Chart(props: ChartProps): JSX.Element {
  const { label, lines, writeX, writeY } = props;
  const isDark = useIsDark();
  const [place, width] = useWidth();
  const plot = useRef<uPlot | null>(null);
  const [at, setAt] = useState<number | null>(null);
  // A plot is made anew only where its lines are others: new points are given to it.
  const shape = JSON.stringify([
    width,
    isDark,
    props.xLabel,
    props.isWhole,
    lines.map(({ name, colour, x, band }) => [name, colour, Math.min(2, x.length), band !== undefined]),
  ]);
  useEffect(() => {
    if (width === 0) return;
    const options = optionsOf(props, width);
    const hooks = { setCursor: [(self: uPlot) => setAt(self.cursor.idx ?? null)] };
    const made = new uPlot({ ...options, hooks }, tableOf(lines), place.current!);
    plot.current = made;
    return () => {
      plot.current = null;
      made.destroy();
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(tableOf(lines)), [lines]);
  const x = at === null ? null : plot.current?.data[0][at] ?? null;
  return (
    <figure class="chart">
      <div class="over-plot">
        <Legend lines={lines} x={x} write={writeY} />
        <span class="quiet">{x === null ? "last values" : `${props.xLabel} ${writeX(x)}`}</span>
      </div>
      <div class="plot" role="img" aria-label={`${label}. ${summary(props)}`} ref={place} />
      <details>
        <summary>Numbers of the plot</summary>
        {lines.filter((line) => line.x.length > 0).map((line) => (
          <Numbers key={line.name} line={line} xLabel={props.xLabel} writeX={writeX} writeY={writeY} />
        ))}
      </details>
    </figure>
  );
}

/** The plot in a sentence. */
function summary({ lines, writeY }: ChartProps): string {
  const ends = lines.flatMap(({ name, y }) => {
    const values = y.filter((value) => value !== null);
    return values.length === 0 ? [] : [`${name}: from ${writeY(values[0]!)} to ${writeY(values.at(-1)!)}`];
  });
  return ends.length === 0 ? "Nothing yet" : ends.join("; ");
}

function Legend({ lines, x, write }: {
  readonly lines: readonly Line[];
  readonly x: number | null;
  readonly write: (value: number | null) => string;
}): JSX.Element {
  return (
    <ul class="legend">
      {lines.map((line) => (
        <li key={line.name}>
          <span
            class={line.isSparse === true ? "key dashed" : "key"}
            style={{ borderColor: `var(${line.colour})` }}
          />
          {line.name} <b>{write(valueAt(line, x))}</b>
        </li>
      ))}
    </ul>
  );
}

/** The value of a line at or before a place; the last one without a place. */
function valueAt({ x, y }: Line, at: number | null): number | null {
  const last = at === null ? x.length - 1 : x.findLastIndex((value) => value <= at);
  return y[last] ?? null;
}

/** A line as a table of at most 20 rows. */
function Numbers({ line: { name, x, y }, xLabel, writeX, writeY }: {
  readonly line: Line;
  readonly xLabel: string;
  readonly writeX: (value: number) => string;
  readonly writeY: (value: number | null) => string;
}): JSX.Element {
  const every = Math.max(1, Math.ceil(x.length / 20));
  const rows = x.map((_, i) => i).filter((i) => (x.length - 1 - i) % every === 0);
  return (
    <table>
      <caption>{name}</caption>
      <thead>
        <tr>
          <th scope="col">{xLabel}</th>
          <th scope="col">Value</th>
        </tr>
      </thead>
      <tbody>
        {rows.map((i) => (
          <tr key={i}>
            <td>{writeX(x[i]!)}</td>
            <td>{writeY(y[i]!)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
