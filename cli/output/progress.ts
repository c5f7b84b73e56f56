/**
 * A progress line with rate and time left; silent when the output is not a terminal.
 *
 * @module
 */

import type { StepFigures } from "./rows.ts";

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

/** A bar on one line of the terminal. */
export class ProgressBar {
  readonly #total: number;
  readonly #started = performance.now();
  readonly #visible: boolean;
  #lastDrawn = 0;

  /**
   * @param total Steps in all.
   * @param visible @default {true if standard error is a terminal}
   */
  constructor(total: number, visible = Deno.stderr.isTerminal()) {
    this.#total = total;
    this.#visible = visible;
  }

  /** Draws the bar; `text` stands behind it. At most twenty times a second. */
  draw(done: number, text: string): void {
    const now = performance.now();
    if (!this.#visible || (now - this.#lastDrawn < 50 && done < this.#total)) return;
    this.#lastDrawn = now;
    const elapsed = (now - this.#started) / 1000;
    const left = done > 0 ? elapsed / done * (this.#total - done) : Infinity;
    const width = 24;
    const filled = Math.round(width * done / this.#total);
    const line = `${"█".repeat(filled)}${"░".repeat(width - filled)} ${done}/${this.#total}  ${text}  ${
      duration(left)
    } left`;
    let columns = 120;
    try {
      columns = Deno.consoleSize().columns;
    } catch {
      // Not a terminal that knows its size.
    }
    Deno.stderr.writeSync(encoder.encode(`\r\x1b[K${line.slice(0, columns - 1)}`));
  }

  /** Clears the line. */
  end(): void {
    if (this.#visible) Deno.stderr.writeSync(encoder.encode("\r\x1b[K"));
  }
}
