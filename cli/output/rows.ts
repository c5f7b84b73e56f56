/**
 * What a run gives step by step, without the memory of a process growing with its steps.
 *
 * @module
 */

/** Rows that are written at a time. */
const BATCH = 64;

/** Rows of a report as lines of JSON in a file of their own, until the report is written. */
export class Rows implements Disposable {
  readonly #path: string | null;
  #file: Deno.FsFile | null = null;
  #waiting: string[] = [];
  #count = 0;

  /** @param path The file; removed at the end. With an empty one rows are counted only. */
  constructor(path: string) {
    this.#path = path === "" ? null : path;
  }

  /** The rows of one list of a report; kept nowhere if there is to be none. */
  static of(report: string, list: string): Rows {
    return new Rows(report === "" ? "" : `${report}.${list}.partial`);
  }

  /** Rows so far. */
  get count(): number {
    return this.#count;
  }

  /** Adds a row. */
  add(row: unknown): void {
    this.#count++;
    if (this.#path === null) return;
    this.#waiting.push(JSON.stringify(row));
    if (this.#waiting.length >= BATCH) this.#flush();
  }

  /** All rows as lines of JSON. */
  async *lines(): AsyncGenerator<string, void> {
    this.#flush();
    if (this.#file === null) return;
    using file = await Deno.open(this.#path!);
    let rest = "";
    for await (const text of file.readable.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      yield* lines;
    }
  }

  #flush(): void {
    if (this.#path === null || this.#waiting.length === 0) return;
    this.#file ??= Deno.openSync(this.#path, { write: true, create: true, truncate: true });
    const bytes = new TextEncoder().encode(`${this.#waiting.join("\n")}\n`);
    for (let at = 0; at < bytes.length;) at += this.#file.writeSync(bytes.subarray(at));
    this.#waiting = [];
  }

  [Symbol.dispose](): void {
    if (this.#file === null) return;
    this.#file.close();
    this.#file = null;
    try {
      Deno.removeSync(this.#path!);
    } catch {
      // Someone else did.
    }
  }
}

/** Numbers that only become more, 8 bytes each. */
export class Series {
  #values = new Float64Array(256);
  #length = 0;

  /** Adds a number. */
  push(value: number): void {
    if (this.#length === this.#values.length) {
      const larger = new Float64Array(2 * this.#length);
      larger.set(this.#values);
      this.#values = larger;
    }
    this.#values[this.#length++] = value;
  }

  /** How many there are. */
  get length(): number {
    return this.#length;
  }

  /** All of them; holds until the next one is added. */
  get values(): Float64Array {
    return this.#values.subarray(0, this.#length);
  }
}

/** What is known of a step, as far as figures over all steps need it. */
export interface StepOfFigures {
  readonly step: number;
  readonly loss: number | null;
  readonly times: { readonly prune: number; readonly total: number };
  /** Head mask, [L * H], 1 = pruned. */
  readonly mask: ArrayLike<number>;
  /** Kept heads of each layer, [L]. */
  readonly kept: readonly number[];
}

/** Figures over all training steps of a run, in a few bytes a step. */
export class StepFigures {
  /** Losses of the steps that have one. */
  readonly losses: Series = new Series();
  /** Milliseconds of the pruner. */
  readonly pruneMs: Series = new Series();
  /** Milliseconds of the whole steps. */
  readonly totalMs: Series = new Series();
  /** The last step; `null` before the first. */
  last: { readonly step: number; readonly layers: number } | null = null;
  /** How often each head was kept, [L * H]. */
  #kept = new Float64Array(0);

  /** Takes in a training step. */
  add({ step, loss, times, mask, kept }: StepOfFigures): void {
    if (loss !== null) this.losses.push(loss);
    this.pruneMs.push(times.prune);
    this.totalMs.push(times.total);
    this.last = { step, layers: kept.length };
    if (this.#kept.length !== mask.length) this.#kept = new Float64Array(mask.length);
    for (let i = 0; i < mask.length; i++) this.#kept[i]! += 1 - mask[i]!;
  }

  /** Steps so far. */
  get count(): number {
    return this.totalMs.length;
  }

  /** Share of the steps in which each head was kept, [L * H]. */
  get keptShares(): number[] {
    return Array.from(this.#kept, (kept) => kept / this.count);
  }

  /** Share of all heads of all steps that were kept; 1 without a step. */
  get keptShare(): number {
    if (this.#kept.length === 0) return 1;
    return this.#kept.reduce((a, b) => a + b, 0) / (this.#kept.length * this.count);
  }

  /** The median step, in milliseconds; NaN without a step. */
  get medianMs(): number {
    return this.totalMs.values.toSorted()[Math.floor(this.count / 2)] ?? NaN;
  }
}
