/**
 * What keeping a state to resume from costs: runs with a state after each step and without one in turn, in seconds and
 * in processor time of all processes. What a state costs is small beside the differences of two runs of the same kind.
 * So many of them are told, and only in steps: starting, compiling, validation and ending are left out.
 *
 * @module
 */

import { integer, readFlags, runProgram, text } from "../cli/flags/flags.ts";
import { RUN_FLAGS } from "../cli/flags/run_flags.ts";
import { runAsUsersDo } from "../cli/process/launch.ts";
import { fileURLToPath } from "node:url";

/** A state after each step. */
const EACH_STEP = ["--state-every", "1"];
/** Programs with the flags that keep no state. The demo's processes always save once, at the end. */
const WITHOUT = { tune: ["--state", ""], demo: ["--state-seconds", "0"] } as const;

/** Steps at the beginning that do not count: the programs still compile. */
const FIRST = 20;
/** Between two looks at how far a run is, in milliseconds. */
const LOOK_MS = 100;

/** What a step of a run took, in seconds. */
interface Taken {
  readonly wall: number;
  /** Of all its processes; `null` where the system does not say it. */
  readonly processor: number | null;
}

/** Processor time in seconds of all processes below this one, now; `null` where the system does not say it. */
function processorOfChildren(): number | null {
  if (Deno.build.os !== "linux") return null;
  const parents = new Map<number, number>();
  const seconds = new Map<number, number>();
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      // Behind the name: the state, the parent, and as 12th and 13th field hundredths of a second.
      const fields = Deno.readTextFileSync(`/proc/${name}/stat`).replace(/^.*\) /s, "").split(" ");
      parents.set(Number(name), Number(fields[1]));
      seconds.set(Number(name), (Number(fields[11]) + Number(fields[12])) / 100);
    } catch {
      // It has ended.
    }
  }
  const isBelow = (pid: number | undefined): boolean =>
    pid !== undefined && (parents.get(pid) === Deno.pid || isBelow(parents.get(pid)));
  return [...seconds].reduce((sum, [pid, own]) => isBelow(pid) ? sum + own : sum, 0);
}

/** How far a run is, with what it has taken until now. */
interface Mark {
  readonly steps: number;
  readonly at: number;
  readonly processor: number | null;
}

function markOf(metrics: string): Mark {
  let rows = "";
  try {
    rows = Deno.readTextFileSync(`${metrics}/metrics.jsonl`);
  } catch {
    // There is none yet.
  }
  const steps = rows.split('"mode":"train"').length - 1;
  return { steps, at: performance.now() / 1000, processor: processorOfChildren() };
}

/** What a step takes, once the program has compiled, and before it ends. */
async function take(program: keyof typeof WITHOUT, steps: number, flags: readonly string[]): Promise<Taken> {
  const out = await Deno.makeTempDir();
  try {
    const places = program === "demo"
      ? ["--out", `${out}/demo`, "--prompts", "1"]
      : ["--save", `${out}/heads`, ...(flags.includes("--state") ? [] : ["--state", `${out}/state`])];
    const main = fileURLToPath(new URL("../cli/main.ts", import.meta.url));
    const all = ["--steps", `${steps}`, "--eval-every", "0", "--log-every", "3600", ...places, ...flags];
    const marks: Mark[] = [];
    const look = setInterval(() => {
      const mark = markOf(`${out}/metrics`);
      if (mark.steps >= FIRST && mark.steps < steps) marks.push(mark);
    }, LOOK_MS);
    const code = await runAsUsersDo([main, program, ...all, "--metrics", `${out}/metrics`])
      .finally(() => clearInterval(look));
    if (code !== 0) throw new Error(`edgetuner ${program} ended with ${code}`);
    const [first, last] = [marks[0]!, marks.at(-1)!];
    const done = last.steps - first.steps;
    return {
      wall: (last.at - first.at) / done,
      processor: first.processor === null || last.processor === null
        ? null
        : (last.processor - first.processor) / done,
    };
  } finally {
    await Deno.remove(out, { recursive: true });
  }
}

/** Seconds from one saved state to the next, where nobody says otherwise. */
const EVERY_S = RUN_FLAGS["state-seconds"].default;

/** Mean and standard error. */
function meanOf(values: readonly number[]): readonly [mean: number, error: number] {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return [mean, Math.sqrt(squares / (values.length - 1) / values.length)];
}

/**
 * What a saved state costs, over all pairs: the difference of their steps.
 *
 * @returns In milliseconds for one of them, and as a share of a run that saves one every `EVERY_S` seconds.
 */
function costOf(pairs: readonly (readonly [Taken, Taken])[], what: keyof Taken): string {
  const one = pairs.map(([each, none]) => (each[what] ?? NaN) - (none[what] ?? NaN));
  // What a run takes in the seconds from one state to the next.
  const shares = pairs.map(([, none], i) => 100 * one[i]! / ((none[what] ?? NaN) / none.wall * EVERY_S));
  const [mean, error] = meanOf(one.map((seconds) => 1000 * seconds));
  const [share, shareError] = meanOf(shares);
  return `${mean.toFixed(1)} +- ${error.toFixed(1)} ms, ${share.toFixed(2)} +- ${shareError.toFixed(2)} %`;
}

function shown({ wall, processor }: Taken): string {
  const ms = (seconds: number) => `${(1000 * seconds).toFixed(1)} ms`;
  return `${ms(wall)}${processor === null ? "" : ` (processor ${ms(processor)})`}`;
}

async function main(): Promise<void> {
  const flags = readFlags({
    name: "bench_saving.ts",
    about:
      "Runs a program with a state to resume from after each step, and without, in turn, and says what a state costs.",
    examples: ["deno run -A bench/saving.ts", "deno run -A bench/saving.ts --program demo"],
  }, {
    program: text("NAME", "tune", "what runs: on one machine, or an edge server and three devices", [
      "tune",
      "demo",
    ]),
    pairs: integer("N", 4, "runs of each kind", { min: 2 }),
    steps: integer("N", 120, `training steps of a run, of which the first ${FIRST} do not count`, {
      min: 2 * FIRST,
    }),
  });
  const program = flags.program as keyof typeof WITHOUT;
  // Not counted: it fills the caches of modules and shaders.
  await take(program, 2 * FIRST, []);
  const pairs: [Taken, Taken][] = [];
  for (let i = 0; i < flags.pairs; i++) {
    // In turn, and not always the same first: a machine is not equally busy all the time.
    const order = i % 2 === 0 ? [0, 1] : [1, 0];
    const pair: Taken[] = [];
    for (const kind of order) {
      pair[kind] = await take(program, flags.steps, kind === 0 ? EACH_STEP : WITHOUT[program]);
    }
    pairs.push([pair[0]!, pair[1]!]);
    console.log(`pair ${i + 1}  a step with a state ${shown(pair[0]!)}  without ${shown(pair[1]!)}`);
  }
  console.log(`A state of all parties; one every ${EVERY_S} s as a share of the run:`);
  console.log(`  time            ${costOf(pairs, "wall")}`);
  console.log(`  processor time  ${costOf(pairs, "processor")}`);
}

if (import.meta.main) await runProgram(main);
