/**
 * What one state to resume from costs each party of the demo, in processor time of its process: reading the heads
 * back, checking them, and writing the file. Nothing else runs, so it can be told within some tenths of a
 * millisecond, however busy the machine is. `saving.ts` compares whole runs.
 *
 * @module
 */

import { defaultRunSettings, HeadModules, type RunState, saveHeads, saveRunState } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { cpuUsage } from "node:process";
import { integer, readFlags, runProgram } from "../cli/flags/flags.ts";
import { RUN_FLAGS } from "../cli/flags/run_flags.ts";

/** Layers, heads and hidden size of the tiny model. */
const MODEL = { layers: 4, heads: 8, hidden: 128 };
/** Heads of the demo's devices, and an edge server without. */
const PARTIES = [4, 2, 2, 0];
/** States at the beginning, of which a run of minutes has more than later ones: V8 has not compiled the code yet. */
const FIRST = 10;

/** Processor time of this process so far, in milliseconds. */
function processorMs(): number {
  const { user, system } = cpuUsage();
  return (user + system) / 1000;
}

/** Milliseconds of each of so many states. */
async function costsOf(engine: Engine, heads: number, states: number): Promise<number[]> {
  const settings = { ...defaultRunSettings(states), prunedFade: 1 };
  const folder = await Deno.makeTempDir();
  const range = { first: 0, count: heads };
  using modules = heads === 0 ? null : new HeadModules(engine, { ...settings, ...MODEL, range });
  const costs: number[] = [];
  try {
    for (let step = 1; step <= states; step++) {
      const before = processorMs();
      const state: RunState = {
        ...{ run: "bench", step, settings, fingerprint: "", pruning: null, devices: [], data: null },
        heads: modules === null ? null : await saveHeads(modules),
      };
      await saveRunState(`${folder}/state-${step % 2}`, state);
      costs.push(processorMs() - before);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  return costs;
}

/** Mean and standard error. */
function meanOf(values: readonly number[]): readonly [mean: number, error: number] {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return [mean, Math.sqrt(squares / (values.length - 1) / values.length)];
}

async function main(): Promise<void> {
  const { states } = readFlags({
    name: "bench_state.ts",
    about: "Says what a state to resume from costs each party of the demo, in processor time.",
    examples: ["deno run -A bench/state.ts"],
  }, { states: integer("N", 200, "states of each party", { min: 2 * FIRST }) });
  using engine = await Engine.create();
  const all: number[][] = [];
  for (const heads of PARTIES) {
    const costs = await costsOf(engine, heads, states);
    all.push(costs);
    const [[first], [mean, error]] = [meanOf(costs.slice(0, FIRST)), meanOf(costs.slice(FIRST))];
    console.log(
      `${heads} heads  first ${FIRST} ${first.toFixed(1)} ms  later ${mean.toFixed(2)} +- ${
        error.toFixed(2)
      } ms`,
    );
  }
  const sums = Array.from({ length: states }, (_, i) => all.reduce((sum, costs) => sum + costs[i]!, 0));
  const every = RUN_FLAGS["state-seconds"].default;
  for (const [what, values] of [["first", sums.slice(0, FIRST)], ["later", sums.slice(FIRST)]] as const) {
    const [mean, error] = meanOf(values);
    const share = (ms: number) => (ms / every / 10).toFixed(2);
    console.log(
      `All parties, ${what}: ${mean.toFixed(1)} +- ${error.toFixed(1)} ms, one every ${every} s takes ${
        share(mean)
      } +- ${share(error)} % of one processor`,
    );
  }
}

if (import.meta.main) await runProgram(main);
