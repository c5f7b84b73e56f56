/**
 * Does what networks, machines and people do to runs on real processes, and counts whether they go on. At the end
 * each run is run again, undisturbed, with the same heads pruned: losses and heads must be the same, bit for bit.
 *
 * @module
 */

import { type RandomStream, randomStream } from "@edgetuner/core";
import { COMMON_FLAGS } from "../cli/flags/common_flags.ts";
import { integer, number, readFlags, runProgram, text, UsageError } from "../cli/flags/flags.ts";
import { versions, writeReport } from "../cli/output/report.ts";
import { takes } from "../tests/support/until.ts";
import { comeAndGo } from "./chaos/absence.ts";
import { type FaultPlan, FAULTS } from "./chaos/faults.ts";
import { replay, type Replayed } from "./chaos/replay.ts";
import { ChaosRun, type TransportName, TRANSPORTS } from "./chaos/run.ts";

const FLAGS = {
  faults: integer("N", 20, "faults, over all transports", { min: 1 }),
  transports: text("LIST", TRANSPORTS.join(","), "how devices reach the edge server; the faults take turns"),
  kinds: text("LIST", "", `which faults, of ${Object.keys(FAULTS).join(", ")}; all without it`),
  longest: number("S", 120, "seconds: longest time that a process is stopped", { min: 1 }),
  minutes: number("M", 0, "in place of single faults: each device comes and goes for so long", { min: 0 }),
  away: number("X", 0.33, "--minutes: share of the time for which each device is away", { min: 0, max: 0.9 }),
  seed: integer("N", 1, "seed of the faults, and of the runs", { min: 0 }),
  devices: integer("N", 3, "devices with heads, one of them with the data", { min: 2, max: 8 }),
  pruner: text("NAME", "none", "pruner of the runs"),
  batch: integer("N", 2, "sequences per step", { min: 1 }),
  length: integer("N", 48, "tokens per sequence", { min: 2 }),
  webgpu: COMMON_FLAGS.webgpu,
  report: COMMON_FLAGS.report,
};

type Flags = ReturnType<typeof readOptions>;

/** Most steps of a run: more than there is time for. */
const MOST_STEPS = 1_000_000;

function readOptions() {
  const flags = readFlags({
    name: "bench_chaos.ts",
    about: "Kills, stops and cuts off the processes of runs, and counts whether they go on.",
    examples: [
      "deno run -A bench/chaos.ts --faults 200",
      "deno run -A bench/chaos.ts --kinds kill,reset --transports ws",
    ],
  }, FLAGS);
  const kinds = flags.kinds === "" ? Object.keys(FAULTS) : flags.kinds.split(",");
  const transports = flags.transports.split(",") as TransportName[];
  const unknown = [
    ...kinds.filter((kind) => !Object.hasOwn(FAULTS, kind)),
    ...transports.filter((name) => !TRANSPORTS.includes(name)),
  ];
  if (unknown.length > 0) throw new UsageError(`Cannot do "${unknown[0]}": see --help`);
  return { ...flags, kinds, transports };
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;

/** What became of a fault. */
interface Outcome {
  readonly transport: TransportName;
  readonly kind: string;
  readonly what: string;
  readonly who: string;
  /** Why the run did not go on; `null` if it did. */
  readonly failure: string | null;
  /** Longest time from one step to the next, in seconds. */
  readonly stillSeconds: number;
  /** Seconds from when the device could be reached again until all were there. */
  readonly backSeconds: number;
  /** Steps from then on without the device. */
  readonly backSteps: number;
}

function draw(flags: Flags, random: RandomStream): string {
  const all = flags.kinds.map((kind) => [kind, FAULTS[kind]!.weight] as const);
  let at = random.float() * all.reduce((sum, [, weight]) => sum + weight, 0);
  return all.find(([, weight]) => (at -= weight) < 0)?.[0] ?? all.at(-1)![0];
}

/** Does one fault, and waits until all is well again. */
async function inflict(run: ChaosRun, plan: FaultPlan): Promise<Omit<Outcome, "transport" | "kind">> {
  const since = performance.now();
  let reached = since, step = run.steps.length;
  let failure: string | null = null;
  try {
    await plan.act();
    reached = performance.now();
    step = run.steps.length;
    const { told } = run;
    await run.until(() => run.told > told + 1 && run.isWhole, "a step with all devices");
  } catch (error) {
    const away = run.devices.filter((d) => d.awaySince !== null);
    failure = `${(error as Error).message}${
      away.map(({ party, reason }) => `; ${party.name} is away: ${reason}`).join("")
    }`;
  }
  return {
    what: plan.what,
    who: plan.device?.party.name ?? "edge server",
    failure,
    stillSeconds: run.stillMs(since) / 1000,
    backSeconds: (performance.now() - reached) / 1000,
    backSteps: plan.device === null ? 0 : Math.max(0, run.backAt(plan.device, since) - step),
  };
}

/** One run with faults, until they are done or one of them is not survived. */
async function oneRun(
  flags: Flags,
  { transport, random, count, folder }: {
    readonly transport: TransportName;
    readonly random: RandomStream;
    readonly count: number;
    readonly folder: string;
  },
): Promise<{ readonly outcomes: Outcome[]; readonly run: ChaosRun; readonly replayed: Replayed | null }> {
  const { batch, length, seed, pruner, devices } = flags;
  const capacities = Array.from({ length: devices }, () => 1);
  const options = { transport, capacities, batch, length, seed, folder, pruner };
  await using run = new ChaosRun({ ...options, steps: MOST_STEPS });
  const outcomes: Outcome[] = [];
  await run.start();
  while (outcomes.length < count && outcomes.every(({ failure }) => failure === null)) {
    await takes(1000 * random.float());
    const kind = draw(flags, random);
    const plan = FAULTS[kind]!.plan(run, random, flags.longest * 1000);
    const outcome = { transport, kind, ...await inflict(run, plan) };
    outcomes.push(outcome);
    say(outcome, run);
  }
  if (outcomes.at(-1)?.failure !== null) return { outcomes, run, replayed: null };
  return { outcomes, run, replayed: await endAndReplay(run, flags) };
}

/** Ends a run, and runs it again undisturbed. */
async function endAndReplay(
  run: ChaosRun,
  { batch, length, seed, webgpu, devices, minutes }: Flags,
): Promise<Replayed> {
  await run.stop();
  const { settings, steps, restored } = run;
  const capacities = Array.from({ length: devices }, () => 1);
  const again = { settings: settings!, capacities, batch, length, seed, webgpu, validBatches: 8 };
  const folders = run.devices.map(({ save }) => save);
  return await replay(again, { steps, restored, folders }, { isComparedToUndisturbed: minutes > 0 });
}

/** A run whose devices come and go, and what it has learnt in the end. */
async function comingAndGoing(flags: Flags): Promise<void> {
  const { batch, length, seed, pruner, devices, minutes, away: share, transports: [transport] } = flags;
  const capacities = Array.from({ length: devices }, () => 1);
  const folder = await Deno.makeTempDir({ prefix: "chaos-" });
  const options = { transport: transport!, capacities, batch, length, seed, folder, pruner };
  await using run = new ChaosRun({ ...options, steps: MOST_STEPS });
  await run.start();
  const absence = await comeAndGo(run, { share, minutes, seed });
  const replayed = await endAndReplay(run, flags);
  const { firstOther, otherHeads, validation, undisturbed, untrained } = replayed;
  const isEqual = firstOther === null && otherHeads.length === 0;
  console.log(
    `${run.steps.length} steps in ${minutes} min; devices went ${absence.times} times; ${
      (100 * absence.headsAway).toFixed(0)
    } % of the heads were away in a step; the longest stand-still ${absence.stillSeconds.toFixed(1)} s`,
  );
  console.log(`validation loss ${untrained.toFixed(4)} untrained, ${validation.toFixed(4)} at the end`);
  console.log(`undisturbed, after as many steps: ${undisturbed!.toFixed(4)}`);
  console.log(
    isEqual ? "bit-equal to the run with the same heads pruned" : `OTHER from step ${firstOther} on`,
  );
  await writeReport(flags.report, { versions: versions(), settings: flags, absence, replayed });
  if (!isEqual) Deno.exitCode = 1;
  await Deno.remove(folder, { recursive: true });
}

function say(
  { transport, kind, what, who, failure, stillSeconds, backSeconds, backSteps }: Outcome,
  run: ChaosRun,
) {
  const figures = `still ${stillSeconds.toFixed(1)} s, all there after ${
    backSeconds.toFixed(1)
  } s and ${backSteps} steps`;
  console.log(
    `${transport} ${kind}: ${who}, ${what}: ${
      failure === null ? figures : `FAILED: ${failure}`
    } (step ${run.steps.length})`,
  );
}

async function main(): Promise<void> {
  const flags = readOptions();
  if (flags.minutes > 0) return await comingAndGoing(flags);
  const random = randomStream(flags.seed);
  const outcomes: Outcome[] = [];
  const runs: Record<string, unknown>[] = [];
  for (const [i, transport] of flags.transports.entries()) {
    const upTo = Math.round((i + 1) * flags.faults / flags.transports.length);
    while (outcomes.length < upTo) {
      const folder = await Deno.makeTempDir({ prefix: "chaos-" });
      const count = upTo - outcomes.length;
      const { outcomes: own, run, replayed } = await oneRun(flags, { transport, random, count, folder });
      outcomes.push(...own);
      const { twice, steps } = run;
      runs.push({ transport, faults: own.length, steps: steps.length, twice, ...replayed });
      const equal = replayed === null
        ? "not compared"
        : replayed.firstOther === null && replayed.otherHeads.length === 0
        ? "bit-equal to the run with the same heads pruned"
        : `OTHER from step ${replayed.firstOther} on, heads of devices ${
          replayed.otherHeads.join(", ") || "none"
        }`;
      console.log(`${transport}: ${steps.length} steps, ${twice} done twice, ${equal}`);
      if (replayed !== null) await Deno.remove(folder, { recursive: true });
      else console.log(`What is left of it: ${folder}`);
      if (own.length === 0) break;
    }
  }
  const failed = outcomes.filter(({ failure }) => failure !== null).length;
  const unequal =
    runs.filter(({ firstOther, otherHeads }) =>
      firstOther !== null || (otherHeads as readonly number[]).length > 0
    ).length;
  const held = outcomes.filter(({ failure }) => failure === null);
  const still = held.map((o) => o.stillSeconds);
  const backs = held.map((o) => o.backSteps);
  console.log(
    `${outcomes.length} tried, ${held.length} held, ${failed} failed; the longest stand-still ${
      Math.max(...still).toFixed(1)
    } s, median ${median(still).toFixed(1)} s; back within ${Math.max(...backs)} steps, median ${
      median(backs)
    }; ${runs.length - unequal} of ${runs.length} runs bit-equal`,
  );
  await writeReport(flags.report, { versions: versions(), settings: flags, outcomes, runs });
  if (failed + unequal > 0) Deno.exitCode = 1;
}

if (import.meta.main) await runProgram(main);
