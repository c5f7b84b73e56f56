/**
 * What a run measured, step by step, as files that spreadsheets and plots read.
 *
 * @module
 */

/** One row: numbers by name; `null` where there is none. */
export type MetricsRow = Readonly<Record<string, number | string | null>>;

/**
 * Appends rows to `metrics.csv` and `metrics.jsonl` as they come, so that a run that is cut off has left its
 * figures. The first row's names are the columns.
 */
export class MetricsLog implements Disposable {
  readonly #csv: Deno.FsFile;
  readonly #jsonl: Deno.FsFile;
  #columns: readonly string[] | null = null;
  /** Rows of the run before it was taken up again, until it is known which of them stay. */
  #earlier: readonly MetricsRow[];

  /**
   * @param folder Made if need be; a log that is there is written anew.
   * @param resumed True to keep the rows of steps before the first that is written. @default {false}
   */
  constructor(folder: string, resumed = false) {
    Deno.mkdirSync(folder, { recursive: true });
    this.#earlier = resumed ? rowsOf(`${folder}/metrics.jsonl`) : [];
    const open = (name: string) =>
      Deno.openSync(`${folder}/${name}`, { write: true, create: true, truncate: true });
    this.#csv = open("metrics.csv");
    this.#jsonl = open("metrics.jsonl");
    // Rows that a crash now would lose are written at once, and anew when the first one comes.
    for (const earlier of this.#earlier) append(this.#jsonl, `${JSON.stringify(earlier)}\n`);
  }

  /** Writes a row. */
  write(row: MetricsRow): void {
    const earlier = this.#earlier.filter((r) => Number(r.step) < Number(row.step));
    if (this.#earlier.length > 0) {
      this.#earlier = [];
      this.#jsonl.truncateSync(0);
      this.#jsonl.seekSync(0, Deno.SeekMode.Start);
      for (const one of earlier) this.write(one);
    }
    if (this.#columns === null) {
      this.#columns = Object.keys(row);
      append(this.#csv, `${this.#columns.join(",")}\n`);
    }
    append(this.#csv, `${this.#columns.map((name) => row[name] ?? "").join(",")}\n`);
    append(this.#jsonl, `${JSON.stringify(row)}\n`);
  }

  [Symbol.dispose](): void {
    this.#csv.close();
    this.#jsonl.close();
  }
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

function append(file: Deno.FsFile, text: string): void {
  const bytes = encoder.encode(text);
  for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
}
