/**
 * What `deno test` printed: how many tests passed and failed, the names of those that failed, and what each
 * file took.
 *
 * @module
 */

/** Tests of one `deno test`, or of several together. */
export interface TestReport {
  readonly passed: number;
  readonly failed: number;
  /** `name => file:line:column` of each test that failed. */
  readonly failures: readonly string[];
  /** Seconds that the tests of each file took. Files that run beside each other share the machine. */
  readonly seconds: ReadonlyMap<string, number>;
}

// deno-lint-ignore no-control-regex -- colors are escape sequences
const COLORS = /\x1b\[[\d;]*m/g;
const SUMMARY = /^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed/;
/** The end of a test's line, but not of a step's. Where files run beside each other, it begins with the file. */
const ENDED = /^(?! {2})(?:(\S+\.tsx?) => )?.*?(?:ok|FAILED) \((?:(\d+)m)?(?:([\d.]+)(µs|ms|s))?\)$/;
/** Where files run one after the other, a heading says which. */
const HEADING = /^running \d+ tests? from (\S+)$/;

/** Reads the output of one `deno test` as it comes. */
export class TestOutput {
  #rest = "";
  #file = "";
  #summary: RegExpExecArray | null = null;
  #inFailures = false;
  readonly #failures: string[] = [];
  readonly #seconds = new Map<string, number>();

  /**
   * Takes the next piece.
   *
   * @param text What follows the piece before
   */
  add(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop()!;
    for (const line of lines) this.#read(line.replace(COLORS, "").trimEnd());
  }

  /**
   * What the tests came to, after the last piece.
   *
   * @param success Whether `deno test` ended with exit code 0
   */
  end(success: boolean): TestReport {
    this.add("\n");
    const passed = Number(this.#summary?.[1] ?? 0);
    let failed = Number(this.#summary?.[2] ?? 0);
    // Type errors, crashes and the like are in no summary.
    if (failed === 0 && (!success || this.#summary === null)) failed = 1;
    return { passed, failed, failures: this.#failures, seconds: this.#seconds };
  }

  #read(line: string): void {
    this.#file = HEADING.exec(line)?.[1] ?? this.#file;
    const summary = SUMMARY.exec(line);
    if (summary) [this.#summary, this.#inFailures] = [summary, false];
    if (this.#inFailures && line !== "") this.#failures.push(line);
    if (line === " FAILURES") this.#inFailures = true;
    const ended = ENDED.exec(line);
    if (!ended || this.#inFailures) return;
    const [, file = this.#file, minutes = "0", amount = "0", unit] = ended;
    const seconds = Number(minutes) * 60 + Number(amount) / (unit === "s" ? 1 : unit === "ms" ? 1e3 : 1e6);
    this.#seconds.set(file, (this.#seconds.get(file) ?? 0) + seconds);
  }
}

/**
 * Puts reports together.
 *
 * @param reports Reports, at least none
 */
export function together(reports: readonly TestReport[]): TestReport {
  const seconds = new Map<string, number>();
  for (const report of reports) {
    for (const [file, took] of report.seconds) seconds.set(file, (seconds.get(file) ?? 0) + took);
  }
  return {
    passed: reports.reduce((sum, { passed }) => sum + passed, 0),
    failed: reports.reduce((sum, { failed }) => sum + failed, 0),
    failures: reports.flatMap(({ failures }) => failures),
    seconds,
  };
}

/**
 * The files whose tests took longest, a line each.
 *
 * @param report What the tests came to
 * @param most How many files, at most
 */
export function longest({ seconds }: TestReport, most: number): string[] {
  return [...seconds].toSorted((a, b) => b[1] - a[1]).slice(0, most)
    .map(([file, took]) => `${took.toFixed(0).padStart(6)} s  ${file}`);
}
