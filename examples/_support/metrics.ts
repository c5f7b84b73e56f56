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

  /** @param folder Made if need be; a log that is there is written anew. */
  constructor(folder: string) {
    Deno.mkdirSync(folder, { recursive: true });
    const open = (name: string) =>
      Deno.openSync(`${folder}/${name}`, { write: true, create: true, truncate: true });
    this.#csv = open("metrics.csv");
    this.#jsonl = open("metrics.jsonl");
  }

  /** Writes a row. */
  write(row: MetricsRow): void {
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

const encoder = new TextEncoder();

function append(file: Deno.FsFile, text: string): void {
  const bytes = encoder.encode(text);
  for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
}
