/**
 * What keeping a state to resume from costs: whole runs with a state after each step and without one in turn, in
 * seconds and in processor time. What a state costs is small beside the differences of two runs of the same kind; so
 * many of them can be told.
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

/** What a run took, in seconds. */
interface Taken {
  readonly wall: number;
  /** Of all its processes; `null` where the system does not say it. */
  readonly processor: number | null;
}

/** Processor time in seconds of all processes that this one has waited for, and of those that they have. */
function processorOfChildren(): number | null {
  if (Deno.build.os !== "linux") return null;
  // Fields 16 and 17 behind the name, in hundredths of a second.
  const fields = Deno.readTextFileSync("/proc/self/stat").replace(/^.*\) /s, "").split(" ");
  return (Number(fields[13]) + Number(fields[14])) / 100;
}

async function take(program: keyof typeof WITHOUT, flags: readonly string[]): Promise<Taken> {
  const out = await Deno.makeTempDir();
  try {
    const places = program === "demo"
      ? ["--out", `${out}/demo`, "--prompts", "1"]
      : ["--save", `${out}/heads`, ...(flags.includes("--state") ? [] : ["--state", `${out}/state`])];
    const started = performance.now();
    const before = processorOfChildren();
    const main = fileURLToPath(new URL("../cli/main.ts", import.meta.url));
    const code = await runAsUsersDo([main, program, "--log-every", "3600", ...places, ...flags]);
    if (code !== 0) throw new Error(`edgetuner ${program} ended with ${code}`);
    const after = processorOfChildren();
    return {
      wall: (performance.now() - started) / 1000,
      processor: before === null || after === null ? null : after - before,
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
 * What a saved state costs, over all pairs: the difference is that of `steps` states.
 *
 * @returns In milliseconds for one of them, and as a share of a run that saves one every `EVERY_S` seconds.
 */
function costOf(pairs: readonly (readonly [Taken, Taken])[], what: keyof Taken, steps: number): string {
  const one = pairs.map(([each, none]) => ((each[what] ?? NaN) - (none[what] ?? NaN)) / steps);
  const shares = pairs.map(([, none], i) => 100 * one[i]! * (none.wall / EVERY_S) / (none[what] ?? NaN));
  const [mean, error] = meanOf(one.map((seconds) => 1000 * seconds));
  const [share, shareError] = meanOf(shares);
  return `${mean.toFixed(1)} +- ${error.toFixed(1)} ms, ${share.toFixed(2)} +- ${shareError.toFixed(2)} %`;
}

function shown({ wall, processor }: Taken): string {
  return `${wall.toFixed(1)} s${processor === null ? "" : ` (processor ${processor.toFixed(1)} s)`}`;
}

async function main(): Promise<void> {
  const flags = readFlags({
    name: "bench_saving.ts",
    about:
      "Runs a program with a state to resume from after each step, and without, in turn, and says what a state costs.",
    examples: ["deno run -A bench/saving.ts", "deno run -A bench/saving.ts --program demo --steps 60"],
  }, {
    program: text("NAME", "tune", "what runs: on one machine, or an edge server and three devices", [
      "tune",
      "demo",
    ]),
    pairs: integer("N", 4, "runs of each kind", { min: 2 }),
    steps: integer("N", 100, "training steps of a run", { min: 1 }),
  });
  const program = flags.program as keyof typeof WITHOUT;
  const args = ["--steps", `${flags.steps}`];
  // Not counted: it fills the caches of modules and shaders.
  await take(program, args);
  const pairs: [Taken, Taken][] = [];
  for (let i = 0; i < flags.pairs; i++) {
    // In turn, and not always the same first: a machine is not equally busy all the time.
    const order = i % 2 === 0 ? [0, 1] : [1, 0];
    const pair: Taken[] = [];
    for (const kind of order) {
      pair[kind] = await take(program, [...args, ...kind === 0 ? EACH_STEP : WITHOUT[program]]);
    }
    pairs.push([pair[0]!, pair[1]!]);
    console.log(`pair ${i + 1}  each step ${shown(pair[0]!)}  without ${shown(pair[1]!)}`);
  }
  console.log(`A state of all parties; one every ${EVERY_S} s as a share of the run:`);
  console.log(`  time            ${costOf(pairs, "wall", flags.steps)}`);
  console.log(`  processor time  ${costOf(pairs, "processor", flags.steps)}`);
}

if (import.meta.main) await runProgram(main);
