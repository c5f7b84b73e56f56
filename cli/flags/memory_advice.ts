/**
 * What to turn when memory runs out: flags with smaller values, and what each would save.
 *
 * @module
 */

/** Values of the flags that memory depends on, as far as a command has them. */
export interface MemoryFlags {
  readonly batch?: unknown;
  readonly length?: unknown;
  readonly accumulate?: unknown;
  readonly "base-weights"?: unknown;
  readonly model?: unknown;
}

/** Bits of a weight in each format. */
const BITS: Readonly<Record<string, number>> = { f32: 32, f16: 16, int8: 8, int4: 4 };

/** True if an error says that the memory of the adapter or of the process did not suffice. */
export function isOutOfMemory(error: unknown): boolean {
  const { name, message } = error instanceof Error ? error : { name: "", message: String(error) };
  return /out of memory|not enough memory|OutOfMemory|allocation failed|invalid (typed )?array length/i.test(
    message,
  ) ||
    (name === "RangeError" && /must fit a buffer of \d+ bytes/.test(message));
}

/**
 * Flags with smaller values, a line each, those that change least first; empty if the command has none of them.
 *
 * What the layers keep for the backward pass grows with the sequences and the tokens at once; weights with the bits of
 * each.
 */
export function memoryAdvice(flags: MemoryFlags): string[] {
  const { batch, length, accumulate, "base-weights": format } = flags;
  const lines: string[] = [];
  if (typeof batch === "number" && batch > 1) {
    const less = Math.ceil(batch / 2);
    const share = percent(1 - less / batch);
    const same = typeof accumulate === "number" && batch % 2 === 0
      ? `; with --accumulate ${2 * accumulate} (now ${accumulate}) the steps stay the same`
      : "";
    lines.push(`--batch ${less} (now ${batch}): ${share} less for what the layers keep of a step${same}`);
  }
  if (typeof length === "number" && length > 2) {
    const less = Math.ceil(length / 2);
    lines.push(
      `--length ${less} (now ${length}): at least ${
        percent(1 - less / length)
      } less for the same; longer sequences are cut`,
    );
  }
  for (const smaller of ["f16", "int8", "int4"]) {
    if (typeof format !== "string" || BITS[format] === undefined || BITS[smaller]! >= BITS[format]!) continue;
    lines.push(
      `--base-weights ${smaller} (now ${format}): ${
        percent(1 - BITS[smaller]! / BITS[format]!)
      } less for the frozen weights`,
    );
  }
  return lines;
}

/** An error, and what a person can turn so that it does not come again. */
export class AdvisedError extends Error {
  /** What went wrong. */
  readonly error: unknown;
  /** What to turn, a line each. */
  readonly advice: readonly string[];

  /**
   * @param error What went wrong.
   * @param advice What to turn, a line each.
   */
  constructor(error: unknown, advice: readonly string[]) {
    super(error instanceof Error ? error.message : String(error), { cause: error });
    this.error = error;
    this.advice = advice;
  }
}

/** What to print below an error: the flags to turn if it means that memory ran out, else nothing. */
export function adviceFor(error: unknown, flags: MemoryFlags): string[] {
  const lines = isOutOfMemory(error) ? memoryAdvice(flags) : [];
  return lines.length === 0
    ? []
    : ["Out of memory. Any of these needs less:", ...lines.map((line) => `  ${line}`)];
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}
