/**
 * A progress line with rate and time left: a bar on a terminal, elsewhere a plain line now and then.
 *
 * @module
 */

import type { StepFigures } from "./rows.ts";
import { terminalColumns } from "./terminal.ts";

const encoder = new TextEncoder();

/** Seconds as people read them. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  return minutes < 60
    ? `${minutes} min ${String(whole % 60).padStart(2, "0")} s`
    : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** Bytes as people read them. */
export function bytes(count: number): string {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 1000 || unit === "GB") {
      return `${count < 10 && unit !== "B" ? count.toFixed(1) : Math.round(count)} ${unit}`;
    }
    count /= 1000;
  }
  return "";
}

/**
 * What the pruner took of the steps, in words: its decision as most steps have it, and its share of all their time
 * together, which counts a predictor's training in the run.
 */
export function prunerTime({ pruneMs, totalMs }: StepFigures): string {
  const prune = pruneMs.values.toSorted();
  const sum = (values: Float64Array) => values.reduce((a, b) => a + b, 0);
  const all = sum(totalMs.values);
  const longest = prune.at(-1) ?? 0;
  return `The pruner takes ${(prune[prune.length >> 1] ?? 0).toFixed(1)} ms of a step (at most ${
    longest.toFixed(0)
  } ms), and ${(all > 0 ? 100 * sum(prune) / all : 0).toFixed(1)} % of all steps' time`;
}

/** How a progress is shown. */
export interface ProgressOptions {
  /** False to show nothing. @default {true} */
  readonly isShown?: boolean;
  /** What is counted, such as `step`, to say the rate behind the text. @default {no rate} */
  readonly unit?: string;
  /** Off a terminal: seconds from one line to the next. @default {10} */
  readonly everySeconds?: number;
  /** Columns of the terminal; `null` where there is none. @default {those of standard error} */
  readonly columns?: number | null;
  /** Writes to standard error. */
  readonly write?: (text: string) => void;
  /** Milliseconds. @default {performance.now} */
  readonly now?: () => number;
}

/** How fast it goes: `0.25 s/step` or `12 steps/s`; empty before there is anything to tell it from. */
function rateText(unit: string, done: number, seconds: number): string {
  if (done === 0 || seconds === 0) return "";
  const each = seconds / done;
  return each >= 1 / 3 ? `  ${each.toPrecision(2)} s/${unit}` : `  ${Math.round(1 / each)} ${unit}s/s`;
}

/** Columns of a bar at most. */
const BAR = 24;
/** Columns of a bar at least; below that it is left out. */
const SMALLEST_BAR = 8;

/**
 * One line of a progress that fits so many columns: the bar gives way first, then a text with shorter forms takes the
 * next one, and the shortest loses its end. What is done and the time left stay.
 */
export function barLine(
  { done, total, text, left }: {
    readonly done: number;
    readonly total: number;
    /** The text, or its forms from the longest to the shortest. */
    readonly text: string | readonly string[];
    readonly left: string;
  },
  columns: number,
): string {
  const count = `${done}/${total}`;
  const end = `  ${left} left`;
  const most = Math.max(0, columns - count.length - end.length - 2);
  const forms = typeof text === "string" ? [text] : text;
  const form = forms.find(({ length }) => length <= most) ?? forms.at(-1) ?? "";
  const room = columns - count.length - end.length - form.length - 3;
  const width = columns < Infinity && room >= SMALLEST_BAR ? Math.min(BAR, room) : 0;
  const filled = Math.round(width * Math.min(1, total > 0 ? done / total : 0));
  const bar = width === 0 ? "" : `${"█".repeat(filled)}${"░".repeat(width - filled)} `;
  const shown = fitting(form, most);
  return `${bar}${count}${shown === "" ? "" : `  ${shown}`}${end}`.slice(0, columns);
}

/** As many whole fields of a text, with two spaces between them, as fit; of the first one its start. */
function fitting(text: string, width: number): string {
  const fields = text.split("  ");
  while (fields.length > 1 && fields.join("  ").length > width) fields.pop();
  return fields.join("  ").slice(0, width).trimEnd();
}

/** A bar on one line of the terminal; elsewhere a plain line every so many seconds. */
export class ProgressBar {
  readonly #total: number;
  readonly #started: number;
  readonly #isShown: boolean;
  readonly #unit: string;
  readonly #everyMs: number;
  readonly #columns: number | null | undefined;
  readonly #write: (text: string) => void;
  readonly #now: () => number;
  #lastDrawn: number;
  /** From where and when on the time left is told: a run may go on from a later step. */
  #base: { readonly done: number; readonly at: number } | null = null;

  /** @param total Steps in all. */
  constructor(total: number, options: ProgressOptions = {}) {
    const { isShown = true, unit = "", everySeconds = 10, columns, now = () => performance.now() } = options;
    this.#total = total;
    this.#unit = unit;
    this.#isShown = isShown;
    this.#everyMs = 1000 * everySeconds;
    this.#columns = columns === undefined && !Deno.stderr.isTerminal() ? null : columns;
    this.#write = options.write ?? ((text) => void Deno.stderr.writeSync(encoder.encode(text)));
    this.#now = now;
    this.#started = now();
    this.#lastDrawn = this.#columns === null ? this.#started : -Infinity;
  }

  /**
   * Shows how far it is, at most twenty times a second.
   *
   * @param text What stands behind it, or the forms of it from the longest to the shortest.
   */
  draw(done: number, text: string | readonly string[]): void {
    const now = this.#now();
    // Not from the start on: waiting for others, loading and compiling happen once.
    this.#base ??= { done, at: now };
    const isLast = done >= this.#total;
    const wait = this.#columns === null ? this.#everyMs : isLast ? 0 : 50;
    if (!this.#isShown || now - this.#lastDrawn < wait) return;
    this.#lastDrawn = now;
    const since = done - this.#base.done;
    const seconds = (now - this.#base.at) / 1000;
    const left = isLast
      ? duration(0)
      : duration(since > 0 ? seconds / since * (this.#total - done) : Infinity);
    const rate = this.#unit === "" ? "" : rateText(this.#unit, since, seconds);
    const forms = (typeof text === "string" ? [text] : text).map((form) => `${form}${rate}`);
    const parts = { done, total: this.#total, text: forms, left };
    if (this.#columns === null) return this.#write(`${barLine(parts, Infinity)}\n`);
    this.#write(`\r\x1b[K${barLine(parts, (this.#columns ?? terminalColumns()) - 1)}`);
  }

  /** Clears the line. */
  end(): void {
    if (this.#isShown && this.#columns !== null) this.#write("\r\x1b[K");
  }
}
