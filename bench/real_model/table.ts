/**
 * The table of a comparison, and numbers as it shows them.
 *
 * @module
 */

/** A row: what was compared, what this project says, what another says, and how far they are apart. */
export interface Row {
  readonly what: string;
  readonly ours: string;
  readonly theirs: string;
  readonly apart: string;
}

/** What stands where a peer is missing. */
export const NOT_COMPARED = "not compared";

/** The table in Markdown. */
export function markdown(rows: readonly Row[]): string {
  const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll("\n", " ");
  return [
    "| what | EdgeTuner | other | apart |",
    "| ---- | --------- | ----- | ----- |",
    ...rows.map((row) =>
      `| ${cell(row.what)} | ${cell(row.ours)} | ${cell(row.theirs)} | ${cell(row.apart)} |`
    ),
  ].join("\n");
}

/** How far two lists of numbers are apart. */
export interface Difference {
  /** The largest difference. */
  readonly largest: number;
  /** Root of the mean square, in proportion to that of the second list. */
  readonly relative: number;
  /** The largest number of the second list. */
  readonly most: number;
}

/** How far `a` is from `b`. */
export function differenceOf(a: Float32Array, b: Float32Array): Difference {
  if (a.length !== b.length) {
    throw new RangeError(
      `Cannot compare as both must have as many numbers: they have ${a.length} and ${b.length}`,
    );
  }
  let [largest, most, squares, all] = [0, 0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    const apart = a[i]! - b[i]!;
    largest = Math.max(largest, Math.abs(apart));
    most = Math.max(most, Math.abs(b[i]!));
    squares += apart ** 2;
    all += b[i]! ** 2;
  }
  return { largest, most, relative: Math.sqrt(squares / all) };
}

/** A difference in words. */
export function apartText({ largest, most, relative }: Difference): string {
  return `${largest.toExponential(1)} of ${most.toFixed(1)} at most, RMS ${
    (100 * relative).toPrecision(2)
  } %`;
}

/** Of how many rows of logits the largest is at the same place. */
export function sameTop(a: Float32Array, b: Float32Array, vocabulary: number): string {
  const rows = a.length / vocabulary;
  const top = (values: Float32Array) => values.reduce((best, x, i) => x > values[best]! ? i : best, 0);
  let same = 0;
  for (let row = 0; row < rows; row++) {
    const [begin, end] = [row * vocabulary, (row + 1) * vocabulary];
    if (top(a.subarray(begin, end)) === top(b.subarray(begin, end))) same++;
  }
  return `${same} of ${rows}`;
}
