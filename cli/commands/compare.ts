/**
 * The paper's comparison: ServerTuner, EdgeTuner, DLoRA, vEdgeTuner and TPTensor fine-tune the same model on the
 * same data over the same emulated links, in virtual time; a table, plots, the pruners at equal budgets, and the
 * parameters one at a time.
 *
 * @module
 */

import {
  loadPredictor,
  permutation,
  type Predictor,
  type Pruner,
  type PrunerContext,
  randomStream,
  writeWhole,
} from "@edgetuner/core";
import { Engine, greedyPruneOnGpu } from "@edgetuner/kernels";
import {
  budgetPruner,
  dloraPruner,
  gradientPruner,
  greedyPruner,
  type GreedyPrunerOptions,
  iHeadPruner,
  type IHeadPrunerOptions,
  magnitudePruner,
  noPruner,
  oraclePruner,
} from "@edgetuner/plugins";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { type RunResult, spread, type System, Work } from "../shared/compared_systems.ts";
import { type FlagValues, integer, readFlags, text, toggle, UsageError } from "../flags/flags.ts";
import { heatMap, type Line, linePlot } from "../output/plots.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { bytes, duration, ProgressBar } from "../output/progress.ts";
import { versions } from "../output/report.ts";
import { TUNING_FLAGS, tuningSettings } from "../flags/tuning_flags.ts";
import { DATA_FLAGS } from "../shared/training_data.ts";
import { requireWritable } from "../process/writable.ts";
import { computeOf, LINK_FLAG, linkOf, MEASURED_FLAG } from "../flags/simulation_flags.ts";
import { loadGpu } from "../flags/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { assetPath } from "../process/places.ts";
import { PRUNER_FLAGS } from "../flags/pruners.ts";
import type { Call } from "../process/invocation.ts";

const SYSTEMS = ["ServerTuner", "EdgeTuner", "DLoRA", "vEdgeTuner", "TPTensor"] as const;
/** Kept shares at which the pruners are compared. */
const BUDGETS = [0.25, 0.5, 0.75];
/** Unpruned steps at the start, for every pruner of that comparison. */
const WARM_UP = 12;

const FLAGS = {
  ...TUNING_FLAGS,
  "train-on-prompt": DATA_FLAGS["train-on-prompt"],
  "skip-bad": DATA_FLAGS["skip-bad"],
  model: MODEL_FLAG,
  tokenizer: TOKENIZER_FLAG,
  ...WEIGHTS_FLAG,
  data: COMMON_FLAGS.data,
  valid: { ...COMMON_FLAGS.valid, default: assetPath("restaurant/valid.txt"), help: "validation data" },
  test: COMMON_FLAGS.test,
  link: LINK_FLAG,
  compute: MEASURED_FLAG,
  systems: text("LIST", SYSTEMS.join(","), "systems that take part"),
  seeds: integer("N", 2, "runs of each system, each with the next seed", { min: 1 }),
  steps: { ...TUNING_FLAGS.steps, default: 120, min: 2, help: "training steps of the table" },
  "lab-steps": integer("N", 40, "training steps of each run beside the table", { min: 20 }),
  batch: { ...COMMON_FLAGS.batch, default: 4 },
  length: COMMON_FLAGS.length,
  capacities: COMMON_FLAGS.capacities,
  memory: text(
    "LIST",
    "",
    "memory of the devices in MB; one too small for its share of TPTensor is out of it",
  ),
  predictor: { ...PRUNER_FLAGS.predictor, help: "EdgeTuner: folder of iHeadPruner's predictor" },
  tau: { ...PRUNER_FLAGS.tau, help: "EdgeTuner: share of a layer's importance to keep" },
  eta: {
    ...PRUNER_FLAGS.eta,
    help: "EdgeTuner: share of pruned heads above which a layer is pruned whole",
  },
  prompts: COMMON_FLAGS.prompts,
  "no-lab": toggle("leave out the pruners at equal budgets of bytes"),
  "no-study": toggle("leave out the parameters one at a time"),
  out: { ...COMMON_FLAGS.out, default: "runs/compare", help: "where table, JSON and plots go" },
  webgpu: COMMON_FLAGS.webgpu,
};

/** What a step costs, by unit. */
const COSTS: readonly [string, (run: RunResult) => number][] = [
  ["seconds", (run) => run.secondsPerStep],
  ["bytes", (run) => run.bytesPerStep],
];

/** A system's runs. */
interface Row {
  readonly name: string;
  readonly runs: readonly RunResult[];
}

/** True if all runs came to their end. */
function isComplete({ runs }: Row): boolean {
  return runs.every((run) => run.refused === null);
}

/** True if a run ended early for another reason than too little memory, which is a result. */
function hasFailed({ refused }: RunResult): boolean {
  return refused !== null && memoryNeeded(refused) === null;
}

/** The memory that a device would have needed, if that is what a run ended for. */
function memoryNeeded(refused: string): number | null {
  const found = /needs (\d+) bytes of memory/.exec(refused);
  return found === null ? null : Number(found[1]);
}

/** One run beside the table. */
interface Point {
  readonly name: string;
  readonly x: number;
  readonly run: RunResult;
}

/** Runs with one progress bar over all of them. */
class Job {
  readonly #work: Work;
  readonly #settings: ReturnType<typeof tuningSettings>;
  readonly #bar: ProgressBar;
  #done = 0;

  constructor(work: Work, settings: ReturnType<typeof tuningSettings>, total: number) {
    this.#work = work;
    this.#settings = settings;
    this.#bar = new ProgressBar(total);
  }

  async run(name: string, system: System, steps: number, seed: number, texts = true): Promise<RunResult> {
    const settings = {
      ...this.#settings,
      steps,
      seed,
      optimizer: {
        ...this.#settings.optimizer,
        warmupSteps: Math.min(this.#settings.optimizer.warmupSteps, steps),
      },
    };
    const result = await this.#work.run(system, settings, () => this.#bar.draw(++this.#done, name), texts);
    if (result.refused !== null) this.#done += steps - result.steps.length;
    return result;
  }

  end(): void {
    this.#bar.end();
  }
}

async function main(call: Call): Promise<number> {
  const flags = readFlags(
    {
      name: "compare.ts",
      about: "Compares five systems on one link, prints the paper's table and draws what happened.",
      examples: [
        "edgetuner compare",
        "edgetuner compare --link lte --seeds 1 --no-lab --no-study",
        "edgetuner compare --model my.gguf --systems ServerTuner,DLoRA,vEdgeTuner --no-lab --no-study",
      ],
    },
    FLAGS,
    call,
  );
  const started = performance.now();
  const wanted = flags.systems.split(",").map((name) => name.trim());
  const unknown = wanted.find((name) => !SYSTEMS.some((s) => s === name));
  if (unknown !== undefined) {
    throw new UsageError(
      `Cannot compare as --systems must be some of ${SYSTEMS.join(", ")}: current value is "${unknown}"`,
    );
  }
  const capacities = flags.capacities.split(",").map(Number);
  if (capacities.some((c) => !(c > 0))) {
    throw new UsageError(
      `Cannot compare as --capacities must be positive numbers: current value is "${flags.capacities}"`,
    );
  }
  const memory = flags.memory === "" ? null : flags.memory.split(",").map((mb) => 1e6 * Number(mb));
  if (memory !== null && (memory.length !== capacities.length || memory.some((m) => !(m > 0)))) {
    throw new UsageError(
      `Cannot compare as --memory must be a positive number for each of ${capacities.length} devices: current value is "${flags.memory}"`,
    );
  }
  await requireWritable("compare.ts", { folders: { out: flags.out } });
  const predictor = await loadPredictor(flags.predictor);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const settings = tuningSettings(flags);
  using work = await Work.open(engine, {
    ...flags,
    baseWeights: baseWeightsOf(flags),
    settings,
    validBatches: 8,
    capacities,
    memory,
    link: await linkOf(flags.link),
    compute: flags.compute === "measured" ? null : await computeOf(flags.compute),
  });
  requireFit(work, wanted, { ...flags, predictor });
  const rules = makeRules(engine, predictor);
  const study = flags["no-study"] ? [] : studyOf(rules, flags);
  const lab = flags["no-lab"] ? [] : labOf(
    rules,
    (mask, { headsPerDevice }) => work.bytesOf(mask, headsPerDevice, settings),
  );
  // DLoRA runs twice: at its own share and at EdgeTuner's.
  const rows = wanted.length + (wanted.includes("DLoRA") && wanted.includes("EdgeTuner") ? 1 : 0);
  // vEdgeTuner runs twice more with fewer steps: half of them each, until EdgeTuner's seconds and bytes are known.
  const both = wanted.includes("vEdgeTuner") && wanted.includes("EdgeTuner");
  const total = (rows + (both ? 1 : 0)) * flags.seeds * flags.steps +
    (study.length + lab.length) * flags["lab-steps"];
  const job = new Job(work, settings, total);

  const table: Row[] = [];
  const points: Point[] = [];
  /** After every run, so that an interruption loses only what is running. */
  const saveRuns = async () =>
    await writeWhole(
      `${flags.out}/compare.json`,
      `${
        JSON.stringify(
          {
            versions: versions(),
            settings: flags,
            table: table.map(jsonOf),
            points: points.map(({ name, x, run }) => ({ name, x, ...plain(run) })),
          },
          null,
          1,
        )
      }\n`,
    );
  const add = async (name: string, system: System, steps = flags.steps) => {
    const runs: RunResult[] = [];
    for (let i = 0; i < flags.seeds; i++) runs.push(await job.run(name, system, steps, flags.seed + i));
    table.push({ name, runs });
    await saveRuns();
  };
  for (const name of SYSTEMS.filter((s) => wanted.includes(s))) {
    await add(name, systemOf(name, rules, flags));
    const edge = table.find((row) => row.name === "EdgeTuner");
    if (name === "DLoRA" && edge !== undefined && isComplete(edge)) {
      const share = spread(edge.runs.map((r) => r.kept)).mean;
      // Over the whole run: what its unpruned steps at the start keep too much is kept less afterwards.
      const activeFraction = activeFractionFor(share, flags.steps);
      await add(`DLoRA at ${Math.round(100 * share)} %`, {
        kind: "split",
        pruner: dloraPruner({ activeFraction, warmupSteps: WARM_UP }),
      });
    }
    const whole = table.find((row) => row.name === "vEdgeTuner");
    if (name === "vEdgeTuner" && edge && whole && isComplete(edge) && isComplete(whole)) {
      for (const [unit, cost] of COSTS) {
        const of = (row: Row) => spread(row.runs.map(cost)).mean;
        const steps = Math.max(1, Math.round(flags.steps * of(edge) / of(whole)));
        await add(`vEdgeTuner, as many ${unit} (${steps} steps)`, systemOf(name, rules, flags), steps);
      }
    }
  }
  for (const { name, x, pruner } of [...lab, ...study]) {
    const run = await job.run(name, { kind: "split", pruner }, flags["lab-steps"], flags.seed, false);
    points.push({ name, x, run });
    await saveRuns();
  }
  job.end();

  const minutes = duration((performance.now() - started) / 1000);
  const lines = tableLines(table);
  const findings = [...findingsOf(table), ...failuresOf(table, points)];
  const pictures = picturesOf(table, points.slice(0, lab.length), points.slice(lab.length), work.shape);
  for (const [name, svg] of pictures) await writeWhole(`${flags.out}/${name}.svg`, svg);
  const about =
    `${flags.steps} steps of ${flags.batch} x ${flags.length} tokens, ${capacities.length} devices of ` +
    `capacities ${capacities.join(" : ")}, link ${flags.link}, ${flags.compute} compute, virtual time, ` +
    `${flags.seeds} ${flags.seeds === 1 ? "seed" : "seeds"}`;
  const markdown = `${about}\n\n${
    lines.map((cells) => `| ${cells.join(" | ")} |`).toSpliced(
      1,
      0,
      `| ${lines[0]!.map(() => "---").join(" | ")} |`,
    ).join("\n")
  }\n\n${findings.map((f) => `- ${f}`).join("\n")}\n`;
  await writeWhole(`${flags.out}/table.md`, markdown);
  await writeWhole(`${flags.out}/index.html`, page(about, lines, findings, pictures));
  console.log(`${about}\n`);
  const widths = lines[0]!.map((_, c) => Math.max(...lines.map((cells) => cells[c]!.length)));
  for (const cells of lines) {
    console.log(
      cells.map((cell, c) => c === 0 ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!)).join("   "),
    );
  }
  console.log(`\n${findings.join("\n")}`);
  console.log(`\nPlots, table and JSON: ${flags.out} (index.html shows them all). It took ${minutes}.`);
  return [...table.flatMap((row) => row.runs), ...points.map((p) => p.run)].some(hasFailed) ? 1 : 0;
}

/**
 * Checks before the first run what some systems need of the model.
 *
 * @throws {UsageError} If one of them cannot take part.
 */
function requireFit(
  work: Work,
  wanted: readonly string[],
  flags: Omit<FlagValues<typeof FLAGS>, "predictor"> & { readonly predictor: Predictor },
): void {
  const { layers, heads, hidden } = work.shape;
  const trained = flags.predictor.config;
  const pruned = wanted.includes("EdgeTuner") || !flags["no-lab"] || !flags["no-study"];
  if (pruned && (trained.layers !== layers || trained.heads !== heads || trained.hidden !== hidden)) {
    throw new UsageError(
      `Cannot compare as --predictor must be trained for a model of ${layers} layers, ${heads} heads and d ${hidden}, as --model is: ` +
        `it is for ${trained.layers}, ${trained.heads} and ${trained.hidden}; train one with edgetuner train-pruner, or leave it out ` +
        "(--systems without EdgeTuner, --no-lab, --no-study)",
    );
  }
  if (!wanted.includes("TPTensor")) return;
  // A rank gets its share of the weights over the wire, as f32, and computes GPT-2's blocks.
  const isGpt2 = !("model_type" in work.model.config);
  if (!isGpt2 || flags["base-weights"] !== "f32") {
    throw new UsageError(
      `Cannot compare TPTensor as the model must be a GPT-2 and --base-weights f32: current values are ${
        isGpt2 ? "a GPT-2" : "another family"
      } and ${flags["base-weights"]}; leave TPTensor out of --systems`,
    );
  }
}

/** Makes the pruners of the table and of the study. */
function makeRules(engine: Engine, predictor: Predictor) {
  const compute: NonNullable<GreedyPrunerOptions["compute"]> = (args) => greedyPruneOnGpu(engine, args);
  return {
    predicted: (options: IHeadPrunerOptions) => iHeadPruner({ compute, predictor, ...options }) as Pruner,
    measured: (options: GreedyPrunerOptions) => greedyPruner({ compute, ...options }) as Pruner,
  };
}

type Rules = ReturnType<typeof makeRules>;

function systemOf(
  name: typeof SYSTEMS[number],
  rules: Rules,
  { tau, eta }: { readonly tau: number; readonly eta: number },
): System {
  switch (name) {
    case "ServerTuner":
      return { kind: "serverTuner" };
    case "TPTensor":
      return { kind: "tensorParallel" };
    case "vEdgeTuner":
      return { kind: "split", pruner: noPruner() };
    case "DLoRA":
      return { kind: "split", pruner: dloraPruner() };
    case "EdgeTuner":
      return { kind: "split", pruner: rules.predicted({ tau, eta }) };
  }
}

/** DLoRA's share after its unpruned steps, so that over all steps it keeps `share` of the heads, or as near as it can. */
function activeFractionFor(share: number, steps: number): number {
  const unpruned = Math.min(WARM_UP, steps - 1);
  return Math.min(1, Math.max(0.01, (share * steps - unpruned) / (steps - unpruned)));
}

/** Every pruner at every budget of bytes: after the unpruned steps no step may take more than this share of theirs. */
function labOf(
  rules: Rules,
  cost: (mask: Uint8Array, context: PrunerContext) => number,
): { name: string; x: number; pruner: Pruner }[] {
  const scored: readonly [string, (keep: number) => Pruner][] = [
    ["iHeadPruner", () => rules.predicted({})],
    ["greedy", () => rules.measured({})],
    ["gradient", (keep) => gradientPruner({ keep }) as Pruner],
    ["magnitude", (keep) => magnitudePruner({ keep }) as Pruner],
    ["oracle (not deployable)", (keep) => oraclePruner({ keep }) as Pruner],
    ["random", () => RANDOM_SCORES],
    // Its choice is its mask: scores only say which of the heads that it keeps goes first.
    ["DLoRA", (keep) => dloraPruner({ activeFraction: keep, warmupSteps: WARM_UP, period: 20 }) as Pruner],
  ];
  return BUDGETS.flatMap((keep) =>
    scored.map(([name, make]) => ({
      name,
      x: keep,
      pruner: budgetPruner({
        ...{ pruner: make(keep), keep, cost, warmupSteps: WARM_UP },
        keptFirst: name === "DLoRA",
      }) as Pruner,
    }))
  );
}

/** Knows nothing of the heads. */
const RANDOM_SCORES: Pruner = {
  name: "random",
  needs: [],
  init: () => null,
  decide({ step }, state, { layers, heads, seed }) {
    const draws = permutation(layers * heads, randomStream(seed, step));
    return [{ mask: new Uint8Array(layers * heads), scores: Float32Array.from(draws) }, state];
  },
};

/** METHOD's parameters one at a time; lambda and K belong to a predictor's training, so theirs are the measured rules. */
function studyOf(
  { predicted, measured }: Rules,
  { tau, eta }: { readonly tau: number; readonly eta: number },
): { name: string; x: number; pruner: Pruner }[] {
  const of = (name: string, values: readonly number[], make: (x: number) => Pruner) =>
    values.map((x) => ({ name, x, pruner: make(x) }));
  return [
    ...of("tau", [0.3, 0.5, 0.7, 0.9], (x) => predicted({ tau: x, eta })),
    ...of("eta", [0.2, 0.4, 0.6, 1], (x) => predicted({ tau, eta: x })),
    ...of("rho", [0, 0.2, 1], (x) => predicted({ tau, eta, rho: x })),
    ...of("beta", [0, 0.3, 1], (x) => predicted({ tau, eta, beta: x })),
    ...of("lambda", [0.2, 0.5, 0.8, 1], (x) => measured({ tau, eta, lambda: x, warmupSteps: WARM_UP })),
    // The unpruned steps at the start are K by default: here as many for each.
    ...of("K", [1, 5, 10, 20], (x) => measured({ tau, eta, history: x, warmupSteps: WARM_UP })),
  ];
}

/** A number with its spread over the seeds. */
function cell(values: readonly number[], digits: number): string {
  const { mean, deviation } = spread(values);
  return values.length < 2 ? mean.toFixed(digits) : `${mean.toFixed(digits)} ± ${deviation.toFixed(digits)}`;
}

function tableLines(table: readonly Row[]): string[][] {
  const head = [
    "system",
    "s a step",
    "planned",
    "validation loss",
    "slots right",
    "MB a step",
    "planned",
    "heads kept",
    "layers asked",
  ];
  const rows = table.map(({ name, runs }) => {
    const refused = runs.find((r) => r.refused !== null)?.refused;
    if (refused !== undefined && refused !== null) {
      const memory = memoryNeeded(refused);
      const why = memory === null ? "ended early" : `out of memory: needs ${bytes(memory)}`;
      return [name, why, ...head.slice(2).map(() => "")];
    }
    const of = (value: (r: RunResult) => number, digits: number) => cell(runs.map(value), digits);
    const slots = runs.flatMap((r) => r.slots === null ? [] : [100 * r.slots]);
    return [
      name,
      of((r) => r.secondsPerStep, 3),
      of((r) => r.planned.seconds, 3),
      of((r) => r.validLoss.after, 3),
      slots.length === 0 ? "-" : `${cell(slots, 0)} %`,
      of((r) => r.bytesPerStep / 1e6, 2),
      of((r) => r.planned.bytes / 1e6, 2),
      `${of((r) => 100 * r.kept, 0)} %`,
      of((r) => r.layers, 1),
    ];
  });
  return [head, ...rows];
}

/** What the table shows, in words, whether it is as published or not. */
function findingsOf(table: readonly Row[]): string[] {
  const seconds = (name: string) => {
    const row = table.find((r) => r.name === name);
    return row === undefined || row.runs.some((r) => r.refused !== null)
      ? null
      : spread(row.runs.map((r) => r.secondsPerStep)).mean;
  };
  const order = SYSTEMS.flatMap((name) => {
    const s = seconds(name);
    return s === null ? [] : [{ name, s }];
  });
  const found = order.toSorted((a, b) => a.s - b.s).map(({ name }) => name);
  const published = order.map(({ name }) => name);
  const findings = found.length < 2 ? [] : [
    found.join() === published.join()
      ? `Seconds a step are in the paper's order: ${found.join(" < ")}.`
      : `Seconds a step are in the order ${found.join(" < ")}; the paper's is ${published.join(" < ")}.`,
  ];
  const [edge, vanilla, dlora] = ["EdgeTuner", "vEdgeTuner", "DLoRA"].map((name) =>
    table.find((r) => r.name === name && isComplete(r))?.runs
  );
  if (edge && vanilla) {
    const loss = (runs: readonly RunResult[]) => spread(runs.map((r) => r.validLoss.after)).mean;
    const [a, b] = [loss(edge), loss(vanilla)];
    const time = spread(edge.map((r) => r.secondsPerStep)).mean /
      spread(vanilla.map((r) => r.secondsPerStep)).mean;
    const data = spread(edge.map((r) => r.bytesPerStep)).mean /
      spread(vanilla.map((r) => r.bytesPerStep)).mean;
    findings.push(
      `EdgeTuner takes ${(100 * time).toFixed(0)} % of vEdgeTuner's seconds and ${
        (100 * data).toFixed(0)
      } % of its bytes; ` +
        `its validation loss is ${a.toFixed(3)} beside ${b.toFixed(3)}, ${
          (100 * (a / b - 1)).toFixed(1)
        } % above.`,
    );
    for (const { name, runs } of table.filter((r) => r.name.startsWith("vEdgeTuner,") && isComplete(r))) {
      findings.push(
        `${name} ends at ${loss(runs).toFixed(3)}, EdgeTuner at ${a.toFixed(3)}: ${
          loss(runs) < a
            ? "pruning does not pay for itself here"
            : loss(runs) > a
            ? "pruning pays for itself"
            : "no difference"
        }.`,
      );
    }
  }
  if (edge && dlora && seconds("DLoRA")! < seconds("EdgeTuner")!) {
    const layers = (runs: readonly RunResult[]) => spread(runs.map((r) => r.layers)).mean.toFixed(1);
    const kept = (runs: readonly RunResult[]) => (100 * spread(runs.map((r) => r.kept)).mean).toFixed(0);
    findings.push(
      `DLoRA is faster than EdgeTuner here because it keeps ${kept(dlora)} % of the heads and EdgeTuner ${
        kept(edge)
      } %: ` +
        `it asks devices in ${layers(dlora)} layers a step, EdgeTuner in ${
          layers(edge)
        }, and where bytes count more than ` +
        `round trips the fewer heads win. At EdgeTuner's share see the row below it.`,
    );
  }
  return findings;
}

/** Runs that ended early, and why. */
function failuresOf(table: readonly Row[], points: readonly Point[]): string[] {
  const all = [
    ...table.flatMap(({ name, runs }) => runs.map((run) => ({ name, run }))),
    ...points.map(({ name, x, run }) => ({ name: `${name} at ${x}`, run })),
  ];
  const failed = all.filter(({ run }) => hasFailed(run));
  return [
    ...new Set(failed.map(({ name, run }) => `${name} ended early, so it says nothing: ${run.refused}`)),
  ];
}

function picturesOf(
  table: readonly Row[],
  lab: readonly Point[],
  study: readonly Point[],
  { layers, heads }: { readonly layers: number; readonly heads: number },
): [string, string][] {
  const pictures: [string, string][] = [];
  const curve = (x: (step: RunResult["steps"][number]) => number): Line[] =>
    table.filter(isComplete).map(({ name, runs }) => {
      let sum = 0;
      const points = runs[0]!.steps.map((step): [number, number] => [sum += x(step), step.loss ?? NaN]);
      return { name, points: smooth(points) };
    });
  const loss = "training loss (mean of 8 steps)";
  pictures.push([
    "loss_over_time",
    linePlot({ title: "Loss over time", x: "virtual seconds", y: loss }, curve((s) => s.times.total / 1000)),
  ]);
  pictures.push([
    "loss_over_bytes",
    linePlot(
      { title: "Loss over bytes", x: "MB on the wire", y: loss },
      curve((s) => s.bytes / 1e6).filter(({ points }) => points.at(-1)![0] > 0),
    ),
  ]);
  const edge = table.find((r) => r.name === "EdgeTuner" && isComplete(r));
  if (edge !== undefined) {
    const { steps } = edge.runs[0]!;
    const names = Array.from({ length: layers * heads }, (_, i) => `${Math.floor(i / heads)}.${i % heads}`);
    const cells = names.map((_, i) => steps.map(({ mask }) => 1 - mask[i]!));
    pictures.push([
      "which_heads_matter",
      heatMap(
        { title: "Heads that EdgeTuner keeps", x: "step", y: "layer.head", low: "pruned", high: "kept" },
        cells,
        names,
      ),
    ]);
  }
  const named = (points: readonly Point[], at: (p: Point) => [number, number]): Line[] =>
    [...new Set(points.map((p) => p.name))].map((name) => ({
      name,
      points: points.filter((p) => p.name === name).map(at).sort((a, b) => a[0] - b[0]),
    }));
  const drawn = (points: readonly Point[]) => points.filter((p) => p.run.refused === null);
  lab = drawn(lab);
  study = drawn(study);
  if (lab.length > 0) {
    const megabytes = ({ run }: Point) => run.steps.reduce((sum, s) => sum + s.bytes, 0) / 1e6;
    pictures.push([
      "quality_over_bytes",
      linePlot(
        { title: "Pruners at equal budgets of bytes", x: "MB of the whole run", y: "validation loss after" },
        named(lab, (p) => [megabytes(p), p.run.validLoss.after]),
        { marks: true },
      ),
    ]);
  }
  for (const name of new Set(study.map((p) => p.name))) {
    const own = study.filter((p) => p.name === name);
    pictures.push([
      `study_${name}`,
      linePlot({ title: titleOfStudy(name), x: name, y: "s a step; validation loss" }, [
        { name: "s a step", points: own.map(({ x, run }) => [x, run.secondsPerStep]) },
        { name: "validation loss", points: own.map(({ x, run }) => [x, run.validLoss.after]) },
      ], { marks: true, minY: 0 }),
    ]);
  }
  return pictures;
}

function titleOfStudy(name: string): string {
  // See studyOf: a predictor is trained for one lambda and one K.
  return name === "lambda" || name === "K"
    ? `Parameter ${name}, importance measured, not predicted`
    : `Parameter ${name}`;
}

function smooth(points: readonly [number, number][]): [number, number][] {
  return points.map(([x], i) => {
    const window = points.slice(Math.max(0, i - 7), i + 1);
    return [x, window.reduce((sum, [, y]) => sum + y, 0) / window.length];
  });
}

/** A run without its masks: small enough for a report. */
function plain({ steps, ...run }: RunResult) {
  return {
    ...run,
    steps: steps.map(({ loss, bytes, times, kept }) => ({ loss, bytes, ms: times.total, kept })),
  };
}

function jsonOf({ name, runs }: Row) {
  return { name, runs: runs.map(plain) };
}

function page(
  about: string,
  lines: readonly (readonly string[])[],
  findings: readonly string[],
  pictures: readonly (readonly [string, string])[],
): string {
  const escape = (s: string) => s.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const row = (cells: readonly string[], tag: string) =>
    `<tr>${cells.map((c) => `<${tag}>${escape(c)}</${tag}>`).join("")}</tr>`;
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>EdgeTuner: five systems compared</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; } svg { max-width: 100%; height: auto; margin: 1rem 0; }
</style>
<h1>Five systems compared</h1>
<p>${escape(about)}</p>
<table>${row(lines[0]!, "th")}${lines.slice(1).map((cells) => row(cells, "td")).join("")}</table>
<ul>${findings.map((f) => `<li>${escape(f)}</li>`).join("")}</ul>
${pictures.map(([, svg]) => svg).join("\n")}
</html>
`;
}

/**
 * Runs the command.
 *
 * @param call Its flags, as they were typed.
 * @returns Its exit code.
 */
export async function run(call: Call): Promise<number | void> {
  return await main(call);
}
