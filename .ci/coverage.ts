/**
 * Runs tests and says how much of the published code they run, and which functions no test calls. Programs that
 * tests start count too, if they end by themselves.
 *
 * Usage: `deno task coverage [--fast] [PATH...]`; all tests without a path.
 *
 * @module
 */

const ROOT = `${import.meta.dirname}/..`;
/** Rooms whose code is published. */
const PUBLISHED = /\/(?:kernels|core|transport|plugins|page|cli)\/(?!.*_(?:test|bench)\.ts$)/;

interface Totals {
  found: number;
  hit: number;
}

/** What `lcov` calls found and hit, by the letters of its records. */
const KINDS = { "branches": "BR", "functions": "FN", "lines": "L" } as const;

/**
 * Adds up a report.
 *
 * @param lcov Text of the report.
 * @returns Totals by kind, and functions that were never called, as `file: name`.
 */
export function summary(lcov: string): { totals: Record<keyof typeof KINDS, Totals>; uncalled: string[] } {
  const totals = {
    branches: { found: 0, hit: 0 },
    functions: { found: 0, hit: 0 },
    lines: { found: 0, hit: 0 },
  };
  const uncalled: string[] = [];
  for (const record of lcov.split("end_of_record")) {
    const [, file] = /^SF:(.*)$/m.exec(record) ?? [];
    if (file === undefined || !PUBLISHED.test(file)) continue;
    for (const [kind, letters] of Object.entries(KINDS)) {
      const total = totals[kind as keyof typeof KINDS];
      total.found += Number(new RegExp(`^${letters}F:(\\d+)$`, "m").exec(record)?.[1] ?? 0);
      total.hit += Number(new RegExp(`^${letters}H:(\\d+)$`, "m").exec(record)?.[1] ?? 0);
    }
    for (const [, name] of record.matchAll(/^FNDA:0,(.*)$/gm)) {
      uncalled.push(`${file.replace(/.*\/(?=(?:kernels|core|transport|plugins|page|cli)\/)/, "")}: ${name}`);
    }
  }
  return { totals, uncalled };
}

async function main(): Promise<number> {
  const folder = await Deno.makeTempDir();
  try {
    const run = (args: string[], options: Deno.CommandOptions = {}) =>
      new Deno.Command(Deno.execPath(), { args, cwd: ROOT, stdin: "null", ...options }).spawn();
    const tests = run(["run", "-A", ".ci/gate.ts", "test", ...Deno.args], {
      env: { DENO_COVERAGE_DIR: folder },
    });
    const { code } = await tests.status;
    const report = `${folder}/report.lcov`;
    await run(["coverage", "--lcov", `--output=${report}`, folder]).status;
    const { totals, uncalled } = summary(await Deno.readTextFile(report));
    console.log(`\nFunctions that no test calls:\n${uncalled.sort().join("\n")}\n`);
    for (const [kind, { found, hit }] of Object.entries(totals)) {
      console.log(`${kind.padEnd(10)} ${(100 * hit / found).toFixed(1)} % of ${found}`);
    }
    return code;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) Deno.exit(await main());
