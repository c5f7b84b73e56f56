/**
 * What overlapping computing and waiting is worth on slow links: the same run with no overlap at all,
 * with the base product computed while devices work, and with micro-batches in flight. Processes on
 * loopback with an emulated latency, which share this machine's cores; the variants take turns. Or on the
 * simulated network, where each party has a computer of its own, as fast as this one.
 *
 * @module
 */

import {
  DEFAULT_LORA,
  DEFAULT_OPTIMIZER,
  encodePairs,
  INPUT_MODE_NAMES,
  type InputModeName,
  loadEmbeddingAndHead,
  loadLayers,
  loadModelFolder,
  loadModelTokenizer,
  loadPairs,
  type LoraTarget,
  type RunSettings,
  shuffledBatches,
} from "@edgetuner/core";
import { LINK_PROFILES, simulate } from "@edgetuner/transport";
import { Engine } from "@edgetuner/kernels";
import { noPruner, randomPruner } from "@edgetuner/plugins";

import { Child } from "../cli/process/child.ts";
import {
  type FlagValues,
  integer,
  number,
  readFlags,
  runProgram,
  text,
  toggle,
  UsageError,
} from "../cli/flags/flags.ts";
import { versions, writeReport } from "../cli/output/report.ts";
import { computeHere, computeOf, MEASURED_FLAG } from "../cli/flags/simulation_flags.ts";
import { assetPath } from "../cli/process/places.ts";

/** Steps at the start that are not counted: shaders compile there. */
const WARM = 4;

/** What one variant of a run took. */
interface Times {
  readonly total: number[];
  readonly wait: number[];
  readonly readback: number[];
  readonly losses: number[];
}

/** The value below which a share of the values lies. */
function quantile(values: readonly number[], share: number): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length * share)] ?? NaN;
}

const median = (values: readonly number[]) => quantile(values, 0.5);

/** Runs an edge server and its devices as processes and adds the times of the steps. */
async function runProcesses(
  server: readonly string[],
  device: readonly string[],
  data: readonly string[],
  capacities: readonly number[],
  into: Times,
): Promise<void> {
  const token = crypto.randomUUID();
  const listening = Promise.withResolvers<string>();
  into.losses.length = 0;
  const edge = new Child("edge server", "edge_server.ts", [
    ...["--port", "0", "--join-token", token, "--devices", `${capacities.length}`],
    ...server,
  ], (event) => {
    if (event.type === "listening") listening.resolve(String(event.address));
    if (event.type !== "step") return;
    const { step, loss, times } = event.record as {
      step: number;
      loss: number;
      times: Record<"total" | "wait" | "readback", number>;
    };
    into.losses.push(loss);
    if (step < WARM) return;
    for (const name of ["total", "wait", "readback"] as const) into[name].push(times[name]);
  });
  edge.ended.then(() => listening.reject(new Error(edge.errors)));
  const address = await listening.promise;
  const devices = capacities.map((capacity, i) =>
    new Child(`device ${i + 1}`, "user_device.ts", [
      ...["--server", `ws://${address}/join/ws`, "--token", token, "--name", `device-${i + 1}`],
      ...["--capacity", `${capacity}`, ...device, ...(i === 0 ? data : [])],
    ], () => {})
  );
  for (const child of [...devices, edge]) {
    if (await child.ended !== 0) throw new Error(`${child.name}: ${child.errors}`);
  }
}

/** How a variant overlaps. */
type Variant = Required<Pick<RunSettings, "microBatches" | "overlap">>;

/** Runs a variant with a share of its heads pruned, and adds the times of its steps. */
type Run = (variant: Variant, share: number, into: Times) => Promise<void>;

const TRAIN = assetPath("restaurant/train.txt");

const FLAGS = {
  mode: text("MODE", "full", "what a head module reads", INPUT_MODE_NAMES),
  targets: text("LIST", "q,k,v", "projections that LoRA adapts: some of q, k, v"),
  steps: integer("N", 14, "steps of each variant in a round", { min: WARM + 2 }),
  rounds: integer("N", 2, "rounds; the variants take turns", { min: 1 }),
  batch: integer("N", 16, "sequences per step", { min: 1 }),
  length: integer("N", 96, "tokens per sequence", { min: 2 }),
  capacities: text("LIST", "8,5,3", "capacities of the devices"),
  codec: text("NAME", "f32", "how numbers travel", ["f32", "f16", "int8"]),
  latency: number("MS", 20, "latency of every link each way", { min: 0 }),
  bandwidth: number("MBIT", 0, "bandwidth of every link each way; 0 = as it is", { min: 0 }),
  "micro-batches": text("LIST", "2,4", "numbers of micro-batches"),
  share: number("X", 0.5, "share of heads that the pruned runs prune, at random", { min: 0, max: 1 }),
  threads: integer("N", 0, "threads of the software driver in each process; 0 = one for every core", {
    min: 0,
  }),
  simulated: toggle("virtual time on emulated links, each party with a computer of its own"),
  compute: { ...MEASURED_FLAG, default: "measured", help: `with --simulated, ${MEASURED_FLAG.help}` },
  report: text("FILE", "", "write the figures as JSON"),
};

type Flags = FlagValues<typeof FLAGS>;

/** Processes on this machine. */
function onProcesses(flags: Flags, capacities: readonly number[]): Run {
  const shared = ["--steps", `${flags.steps}`, "--mode", flags.mode, "--targets", flags.targets];
  const device = ["--latency", `${flags.latency}`, "--bandwidth", `${flags.bandwidth}`];
  const data = [
    ...["--data", TRAIN, "--share-loss", "--batch", `${flags.batch}`, "--length", `${flags.length}`],
  ];
  return async ({ microBatches, overlap }, share, into) => {
    const pruner = share === 0 ? ["--pruner", "none"] : ["--pruner", "random", "--share", `${share}`];
    const options = overlap ? ["--micro-batches", `${microBatches}`] : ["--no-overlap"];
    const server = [...shared, "--codec", flags.codec, ...pruner, ...options];
    await runProcesses(server, device, data, capacities, into);
  };
}

/** A simulated network. */
async function onSimulatedNetwork(
  engine: Engine,
  flags: Flags,
  capacities: readonly number[],
  owned: DisposableStack,
): Promise<Run> {
  const folder = assetPath("tiny_gpt2");
  const model = await loadModelFolder(folder);
  const tokenizer = await loadModelTokenizer(folder);
  const { batch, length } = flags;
  const layers = owned.use(loadLayers(engine, model));
  const ends = owned.use(loadEmbeddingAndHead(engine, model));
  const examples = encodePairs(await loadPairs(TRAIN), tokenizer, { length });
  const { steps } = flags;
  const settings: RunSettings = {
    lora: {
      ...DEFAULT_LORA,
      mode: flags.mode as InputModeName,
      targets: flags.targets.split(",") as LoraTarget[],
    },
    optimizer: DEFAULT_OPTIMIZER,
    steps,
    seed: 1,
    codec: flags.codec,
  };
  const batches = shuffledBatches(examples, { batch, seed: settings.seed });
  const compute = flags.compute === "measured"
    ? await computeHere({ layers, ends }, settings, batches.next())
    : await computeOf(flags.compute);
  const way = { bandwidthMbit: flags.bandwidth || LINK_PROFILES["lan-1g"].up.bandwidthMbit };
  const direction = { ...way, latencyMs: flags.latency };
  const link = { name: `${flags.latency} ms`, up: direction, down: direction };
  return async (variant, share, into) => {
    const { steps, error } = await simulate({
      model: { engine, layers, ends },
      settings: { ...settings, ...variant },
      devices: capacities.map((capacity) => ({ capacity })),
      pruner: share === 0 ? noPruner() : randomPruner({ share }),
      batches: (step) => {
        batches.position = step;
        return batches.next();
      },
      link,
      compute,
    });
    if (error !== null) throw error;
    into.losses.splice(0, Infinity, ...steps.map((s) => s.loss!));
    for (const { times, edgeComputeMs } of steps.slice(WARM)) {
      into.total.push(times.total);
      into.wait.push(times.wait);
      into.readback.push(edgeComputeMs);
    }
  };
}

async function main(): Promise<void> {
  const flags = readFlags({
    name: "bench_overlap.ts",
    about: "Measures a step on slow links without overlap, with it, and with micro-batches in flight.",
    examples: [
      "deno run -A bench/overlap.ts",
      "deno run -A bench/overlap.ts --capacities 1 --threads 1    # a core to each of two processes",
      "deno run -A bench/overlap.ts --simulated",
      "deno run -A bench/overlap.ts --latency 0 --bandwidth 50 --batch 8",
    ],
  }, FLAGS);
  const [capacities, splits] = [flags.capacities, flags["micro-batches"]].map((l) =>
    l.split(",").map(Number)
  ) as [
    number[],
    number[],
  ];
  if (![...capacities, ...splits].every((n) => n > 0)) {
    throw new UsageError(
      "Cannot run bench_overlap.ts as capacities and micro-batches must be positive numbers",
    );
  }
  // Mesa's variable; processes that are started from here inherit it.
  if (flags.threads > 0) Deno.env.set("LP_NUM_THREADS", `${flags.threads}`);
  const variants: [string, Variant][] = [
    ["no overlap", { microBatches: 1, overlap: false }],
    ["base product overlaps", { microBatches: 1, overlap: true }],
    ...splits.map((microBatches): [string, Variant] => [
      `${microBatches} micro-batches`,
      { microBatches, overlap: true },
    ]),
  ];
  using owned = new DisposableStack();
  const run = flags.simulated
    ? await onSimulatedNetwork(owned.use(await Engine.create()), flags, capacities, owned)
    : onProcesses(flags, capacities);
  const results: Record<string, Record<string, Times>> = {};
  for (const share of new Set([0, flags.share])) {
    const pruning = share === 0 ? "unpruned" : `${share * 100} % pruned`;
    const times = results[pruning] = Object.fromEntries(
      variants.map(([name]): [string, Times] => [name, { total: [], wait: [], readback: [], losses: [] }]),
    );
    // Virtual time is the same in every round.
    for (let round = 0; round < (flags.simulated ? 1 : flags.rounds); round++) {
      for (const [name, variant] of variants) await run(variant, share, times[name]!);
    }
    const baseline = times["no overlap"]!;
    // Other work on the machine only ever adds time: the lower quartile suffers less from it.
    console.log(
      `${pruning.padEnd(24)} ms a step   faster   lower quartile   faster   waiting   own GPU   last loss`,
    );
    for (const [name, t] of Object.entries(times)) {
      const total = median(t.total);
      const cells = [
        total.toFixed(0).padStart(9),
        `${(median(baseline.total) / total).toFixed(2)} x`.padStart(9),
        quantile(t.total, 0.25).toFixed(0).padStart(17),
        `${(quantile(baseline.total, 0.25) / quantile(t.total, 0.25)).toFixed(2)} x`.padStart(9),
        median(t.wait).toFixed(0).padStart(10),
        median(t.readback).toFixed(0).padStart(10),
        t.losses.at(-1)!.toFixed(5).padStart(12),
      ];
      console.log(`  ${name.padEnd(22)}${cells.join("")}`);
    }
  }
  await writeReport(flags.report, { versions: versions(), settings: flags, results });
}

if (import.meta.main) await runProgram(main);
