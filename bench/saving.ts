/**
 * What keeping a state to resume from costs: whole runs with and without it in turn, in seconds and in processor time.
 *
 * @module
 */

import { integer, readFlags, runProgram, text } from "../cli/flags/flags.ts";
import { runAsUsersDo } from "../cli/process/launch.ts";
import { fileURLToPath } from "node:url";

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

/** How much more the first took than the second: the mean over all pairs and its standard error, in percent. */
function more(pairs: readonly (readonly [Taken, Taken])[], what: keyof Taken): string {
  const ratios = pairs.map(([first, second]) => 100 * ((first[what] ?? NaN) / (second[what] ?? NaN) - 1));
  const mean = ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length;
  const squares = ratios.reduce((sum, ratio) => sum + (ratio - mean) ** 2, 0);
  const error = Math.sqrt(squares / (ratios.length - 1) / ratios.length);
  return `${mean.toFixed(2)} +- ${error.toFixed(2)} %`;
}

function shown({ wall, processor }: Taken): string {
  return `${wall.toFixed(1)} s${processor === null ? "" : ` (processor ${processor.toFixed(1)} s)`}`;
}

async function main(): Promise<void> {
  const flags = readFlags({
    name: "bench_saving.ts",
    about:
      "Runs a program with and without a state to resume from, in turn, and says how much more the first takes.",
    examples: ["deno run -A bench/saving.ts", "deno run -A bench/saving.ts --program demo --steps 100"],
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
      pair[kind] = await take(program, kind === 0 ? args : [...args, ...WITHOUT[program]]);
    }
    pairs.push([pair[0]!, pair[1]!]);
    console.log(`pair ${i + 1}  with ${shown(pair[0]!)}  without ${shown(pair[1]!)}`);
  }
  console.log(
    `With a state: ${more(pairs, "wall")} more time, ${more(pairs, "processor")} more processor time`,
  );
}

if (import.meta.main) await runProgram(main);
