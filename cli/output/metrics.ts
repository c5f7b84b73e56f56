/**
 * What a run measured, step by step, as files that spreadsheets and plots read.
 *
 * @module
 */

import { saveError, writeWholeSync } from "@edgetuner/core";

/** One row: numbers by name; `null` where there is none. */
export type MetricsRow = Readonly<Record<string, number | string | null>>;

/**
 * Appends rows to `metrics.csv` and `metrics.jsonl` as they come, so that a run that is cut off has left its
 * figures. The first row's names are the columns.
 */
export class MetricsLog implements Disposable {
  readonly #folder: string;
  #files: { readonly csv: Deno.FsFile; readonly jsonl: Deno.FsFile } | null = null;
  #columns: readonly string[] = [];
  /** Rows of the run before it was resumed, until it is known which of them stay. */
  #earlier: readonly MetricsRow[];

  /**
   * @param folder Made if need be; a log that is there is replaced when the first row comes.
   * @param options `resumed` keeps the rows of steps before the first that is written.
   * @throws {SaveError} If the folder cannot be made.
   */
  constructor(folder: string, { resumed = false }: { readonly resumed?: boolean | undefined } = {}) {
    this.#folder = folder;
    try {
      Deno.mkdirSync(folder, { recursive: true });
    } catch (error) {
      throw saveError(folder, error);
    }
    this.#earlier = resumed ? rowsOf(`${folder}/metrics.jsonl`) : [];
  }

  /**
   * Writes a row.
   *
   * @throws {SaveError} If it cannot be written, on a full disk for example.
   */
  write(row: MetricsRow): void {
    const { csv, jsonl } = this.#files ?? this.#begin(row);
    this.#append(csv, "metrics.csv", this.#line(row));
    this.#append(jsonl, "metrics.jsonl", `${JSON.stringify(row)}\n`);
  }

  /** Writes what stays of an earlier log, in one piece each, and opens the files for what follows. */
  #begin(row: MetricsRow) {
    const stay = this.#earlier.filter((r) => Number(r.step) < Number(row.step));
    this.#columns = Object.keys(stay[0] ?? row);
    const lines = stay.map((earlier) => this.#line(earlier));
    writeWholeSync(`${this.#folder}/metrics.csv`, [`${this.#columns.join(",")}\n`, ...lines].join(""));
    writeWholeSync(
      `${this.#folder}/metrics.jsonl`,
      stay.map((earlier) => `${JSON.stringify(earlier)}\n`).join(""),
    );
    const open = (name: string) => Deno.openSync(`${this.#folder}/${name}`, { append: true });
    return this.#files = { csv: open("metrics.csv"), jsonl: open("metrics.jsonl") };
  }

  #line(row: MetricsRow): string {
    return `${this.#columns.map((name) => cell(row[name] ?? "")).join(",")}\n`;
  }

  #append(file: Deno.FsFile, name: string, text: string): void {
    const bytes = encoder.encode(text);
    try {
      for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
    } catch (error) {
      throw saveError(`${this.#folder}/${name}`, error);
    }
  }

  [Symbol.dispose](): void {
    this.#files?.csv.close();
    this.#files?.jsonl.close();
  }
}

/** A cell of CSV: names of devices may have commas and quotes. */
function cell(value: number | string): string {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Rows of a log; a torn last line is left out. */
function rowsOf(file: string): MetricsRow[] {
  let content: string;
  try {
    content = Deno.readTextFileSync(file);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
  return content.split("\n").slice(0, -1).map((line) => JSON.parse(line));
}

const encoder = new TextEncoder();
