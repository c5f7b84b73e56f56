/**
 * The paper's comparison: ServerTuner, EdgeTuner, DLoRA, vEdgeTuner and TPTensor fine-tune the same model on the
 * same data over the same emulated links, in virtual time; a table, plots, the pruners at equal budgets, and the
 * parameters one at a time.
 *
 * @module
 */

import { loadPredictor, type Predictor, type RunSettings, writeWhole } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import type { LinkProfile } from "@edgetuner/transport";
import { dloraPruner } from "@edgetuner/plugins";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { type FlagValues, integer, number, text, toggle, UsageError } from "../flags/flags.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { PRUNER_FLAGS } from "../flags/pruners.ts";
import { computeOf, LINK_FLAG, linkOf, MEASURED_FLAG, numbersOf, table } from "../flags/simulation_flags.ts";
import { TUNING_FLAGS, tuningSettings } from "../flags/tuning_flags.ts";
import { loadGpu } from "../flags/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { duration } from "../output/progress.ts";
import { versions } from "../output/report.ts";
import { tellDone } from "../output/run_end.ts";
import { assetPath, commandText, shownPath } from "../process/places.ts";
import { requireWritable } from "../process/writable.ts";
import { type ComparisonOptions, type System, SystemComparison } from "../shared/compared_systems.ts";
import {
  entriesOf,
  entryOptions,
  gridCodecs,
  isGrid,
  listOf,
  modesOf,
  onlyOf,
} from "../shared/comparison/grid.ts";
import { type GridOptions, gridSteps, runGrid } from "../shared/comparison/grid_run.ts";
import { markdown, page, picturesOf } from "../shared/comparison/page.ts";
import {
  COSTS,
  hasFailed,
  isComplete,
  jsonOf,
  meanOf,
  type Point,
  type Row,
} from "../shared/comparison/results.ts";
import { RunQueue } from "../shared/comparison/run_queue.ts";
import { FinishedRuns, written } from "../shared/comparison/finished_runs.ts";
import {
  activeFractionFor,
  labOf,
  makeRules,
  type Rules,
  studyOf,
  type SystemName,
  systemOf,
  SYSTEMS,
  systemsOf,
  type Trial,
  WARM_UP,
} from "../shared/comparison/systems.ts";
import { failuresOf, findingsOf, lowestLoss, tableLines } from "../shared/comparison/table.ts";
import { chosenText, type FittedFlags, readFitted } from "../shared/fitting.ts";
import { DATA_FLAGS, EPOCHS_FLAG, withEpochs } from "../shared/training_data.ts";
import { PLAN_FLAGS } from "../shared/training_plan.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call, CallForm } from "../process/invocation.ts";

const FLAGS = {
  ...TUNING_FLAGS,
  "train-on-prompt": DATA_FLAGS["train-on-prompt"],
  "skip-bad": DATA_FLAGS["skip-bad"],
  map: DATA_FLAGS.map,
  "data-format": DATA_FLAGS["data-format"],
  model: MODEL_FLAG,
  tokenizer: TOKENIZER_FLAG,
  ...WEIGHTS_FLAG,
  data: COMMON_FLAGS.data,
  valid: { ...COMMON_FLAGS.valid, default: assetPath("restaurant/valid.txt"), help: "validation data" },
  test: COMMON_FLAGS.test,
  link: LINK_FLAG,
  compute: MEASURED_FLAG,
  systems: text("LIST", SYSTEMS.join(","), "systems that take part, or modules of pruners"),
  modes: text("LIST", "", "modes that each system runs in; --mode if empty"),
  codecs: text("LIST", "", "codecs that each system runs with, with ; between them; f32 if empty"),
  pruners: text("LIST", "", "pruners that take part beside --systems: names or modules"),
  set: text(
    "LIST",
    "",
    "options: NAME.key=value of a system, a pruner or a mode, such as greedy.tau=0.5,core.rank=8",
  ),
  rates: text("LIST", "0.3,1,3", "with --modes: factors of each mode's rate that are tried first; 1 = none"),
  "rate-steps": integer("N", 0, "steps of a run that tries a rate; 0 = half of --steps", { min: 0 }),
  "eval-every": {
    ...PLAN_FLAGS["eval-every"],
    default: 0,
    help: "steps between evaluations; 0 = a tenth of --steps",
  },
  target: number("X", 0, "validation loss that costs are counted to; 0 = by --margin", { min: 0 }),
  margin: number("X", 0.02, "target above the loss of the first unpruned system, as a share", { min: 0 }),
  "budget-mb": number("X", 0, "MB at which losses are compared; 0 = what the cheapest took", { min: 0 }),
  "budget-seconds": number("X", 0, "seconds at which losses are compared; 0 = what the fastest took", {
    min: 0,
  }),
  only: text("LIST", "", "of all combinations those with these names in the table, with ; between them"),
  links: text("LIST", "", "further links that each system runs on, for robustness"),
  "resume-runs": toggle("take the runs that an interrupted comparison finished in --out"),
  seeds: integer("N", 2, "runs of each system, each with the next seed", { min: 1 }),
  steps: { ...TUNING_FLAGS.steps, default: 120, min: 2, help: "training steps of the table" },
  ...EPOCHS_FLAG,
  "lab-steps": integer("N", 40, "training steps of each run beside the table", { min: 20 }),
  batch: { ...COMMON_FLAGS.batch, default: 4 },
  "valid-batches": PLAN_FLAGS["valid-batches"],
  smoothing: PLAN_FLAGS.smoothing,
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

type Flags = FlagValues<typeof FLAGS>;

const PROGRAM = {
  name: "compare.ts",
  about: "Compares five systems on one link, prints the paper's table and draws what happened.",
  examples: [
    "edgetuner compare",
    "edgetuner compare --link lte --seeds 1 --no-lab --no-study",
    "edgetuner compare --systems vEdgeTuner --pruners greedy --modes full,core --codecs 'f32;int8'",
    "edgetuner compare --model MODEL --systems ServerTuner,DLoRA,vEdgeTuner --no-lab --no-study",
  ],
};

async function readOptions(call: Call): Promise<FittedFlags<typeof FLAGS>> {
  const fitted = await readFitted(PROGRAM, FLAGS, call);
  const { steps } = await withEpochs({ ...fitted.flags, accumulate: 1 });
  // The table needs a step after the first.
  return { ...fitted, flags: { ...fitted.flags, steps: Math.max(2, steps) } };
}

async function main(fitted: FittedFlags<typeof FLAGS>, call: Call): Promise<number> {
  return isGrid(fitted.flags) ? await compareGrid(fitted, call) : await comparePaper(fitted, call);
}

/** Runs of before that go on, or none. */
async function storeOf(flags: Flags): Promise<FinishedRuns> {
  const { out, systems: _, modes: __, codecs: ___, pruners: ____, seeds: _____, ...common } = flags;
  const reports = [
    "links",
    "target",
    "margin",
    "budget-mb",
    "budget-seconds",
    "rates",
    "only",
    "resume-runs",
  ];
  const free = [...reports, "no-lab", "no-study", "lab-steps", "eval-every"];
  const kept = Object.entries(common).filter(([name]) => !free.includes(name));
  const folder = `${out}/runs`;
  if (!flags["resume-runs"]) await Deno.remove(folder, { recursive: true }).catch(() => {});
  return new FinishedRuns(folder, {
    versions: versions(),
    ...Object.fromEntries(kept),
    evalEvery: evalEveryOf(flags),
  });
}

function evalEveryOf(flags: Flags): number {
  return flags["eval-every"] || Math.max(1, Math.round(flags.steps / 10));
}

/** Systems x modes x codecs x pruners. */
async function compareGrid({ flags, chosen }: FittedFlags<typeof FLAGS>, call: Call): Promise<number> {
  const started = performance.now();
  const options = entryOptions(flags.set);
  const factors = numbersOf("compare.ts", "rates", flags.rates);
  const links: [string, LinkProfile][] = [];
  for (const name of listOf(flags.links)) links.push([name, await linkOf(name)]);
  const { names: codecNames, codecs } = await gridCodecs(flags.codecs);
  const common = { ...await comparisonOptions(flags), codecs };
  await requireWritable("compare.ts", { folders: { out: flags.out } });
  const predictor = await loadPredictor(flags.predictor);
  const told = chosenText(chosen);
  if (told !== null) console.error(told);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  using comparison = await SystemComparison.open(engine, common);
  const named = listOf(flags.systems).filter((name): name is SystemName => SYSTEMS.some((s) => s === name));
  requireFit(comparison, named, { ...flags, "no-lab": true, "no-study": true }, predictor);
  const modes = modesOf(flags, options, comparison.shape);
  const rules = makeRules(engine, predictor);
  const all = await entriesOf(flags, { codecNames, modes, options, rules, engine });
  const entries = onlyOf(all, flags.only);
  const { seeds, seed, steps, out, link } = flags;
  const grid: GridOptions = {
    ...{ entries, seeds, seed, link, links, out, flags },
    rateSteps: flags["rate-steps"] || Math.max(2, Math.round(steps / 2)),
    factors: flags.modes === "" ? [1] : factors,
    protocols: {
      ...{ target: flags.target, margin: flags.margin },
      ...{ megabytes: flags["budget-mb"], seconds: flags["budget-seconds"] },
    },
    about: aboutOf(flags),
  };
  const store = await storeOf(flags);
  const total = gridSteps(grid);
  using queue = new RunQueue(comparison, {
    ...{ settings: common.settings, total, store },
    evalEvery: evalEveryOf(flags),
  });
  const { saved, failed } = await runGrid(grid, queue);
  const before = queue.found === 0 ? "" : `, ${queue.found} of them finished before`;
  tellDone({
    done: `${entries.length} systems in ${duration((performance.now() - started) / 1000)}${before}`,
    saved: [saved],
    next: commandText("demo.ts", ["--model", shownPath(flags.model), "--link", flags.link], call.form),
  });
  return failed ? 1 : 0;
}

/** The settings, in a sentence. */
function aboutOf(flags: Flags): string {
  const capacities = flags.capacities.split(",");
  return `${flags.steps} steps of ${flags.batch} x ${flags.length} tokens, ${capacities.length} devices of ` +
    `capacities ${capacities.join(" : ")}, link ${flags.link}, ${flags.compute} compute, virtual time, ` +
    `${flags.seeds} ${flags.seeds === 1 ? "seed" : "seeds"}`;
}

/** The paper's table, with what stands beside it. */
async function comparePaper({ flags, chosen }: FittedFlags<typeof FLAGS>, call: Call): Promise<number> {
  const started = performance.now();
  const wanted = systemsOf(flags.systems);
  const options = await comparisonOptions(flags);
  await requireWritable("compare.ts", { folders: { out: flags.out } });
  const predictor = await loadPredictor(flags.predictor);
  const told = chosenText(chosen);
  if (told !== null) console.error(told);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  using comparison = await SystemComparison.open(engine, options);
  requireFit(comparison, wanted, flags, predictor);
  const rules = makeRules(engine, predictor);
  const { settings } = options;
  const lab = flags["no-lab"] ? [] : labOf(
    rules,
    (mask, { headsPerDevice }) => comparison.bytesOf(mask, headsPerDevice, settings),
  );
  const study = flags["no-study"] ? [] : studyOf(rules, flags);

  const results = new Results(flags);
  {
    const total = stepsOf(flags, wanted, lab.length + study.length);
    const store = await storeOf(flags);
    using queue = new RunQueue(comparison, { settings, total, store, evalEvery: evalEveryOf(flags) });
    await runSystems({ flags, wanted, rules, queue, results });
    await runTrials([...lab, ...study], flags, queue, results);
  }
  const points = { lab: results.points.slice(0, lab.length), study: results.points.slice(lab.length) };
  await tell(flags, results, points, { shape: comparison.shape, started, form: call.form });
  return results.all.some(hasFailed) ? 1 : 0;
}

/**
 * What all runs have in common.
 *
 * @throws {UsageError} If capacities, memory, link or compute model are not valid.
 */
async function comparisonOptions(
  flags: Flags,
): Promise<ComparisonOptions & { readonly settings: RunSettings }> {
  const capacities = numbersOf("compare.ts", "capacities", flags.capacities);
  const memory = flags.memory === ""
    ? null
    : numbersOf("compare.ts", "memory", flags.memory).map((mb) => 1e6 * mb);
  if (memory !== null && memory.length !== capacities.length) {
    throw new UsageError(
      `Cannot run compare.ts as --memory must be a positive number for each of ${capacities.length} devices: current value is "${flags.memory}"`,
    );
  }
  return {
    ...flags,
    baseWeights: baseWeightsOf(flags),
    settings: tuningSettings(flags),
    validBatches: flags["valid-batches"],
    codecs: [],
    capacities,
    memory,
    link: await linkOf(flags.link),
    compute: flags.compute === "measured" ? null : await computeOf(flags.compute),
  };
}

/**
 * Checks before the first run what some systems need of the model.
 *
 * @throws {UsageError} If one of them cannot take part.
 */
function requireFit(
  comparison: SystemComparison,
  wanted: readonly SystemName[],
  flags: Flags,
  predictor: Predictor,
): void {
  const { layers, heads, hidden } = comparison.shape;
  const trained = predictor.config;
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
  const isGpt2 = !("model_type" in comparison.model.config);
  if (!isGpt2 || flags["base-weights"] !== "f32") {
    throw new UsageError(
      `Cannot compare TPTensor as the model must be a GPT-2 and --base-weights f32: current values are ${
        isGpt2 ? "a GPT-2" : "another family"
      } and ${flags["base-weights"]}; leave TPTensor out of --systems`,
    );
  }
}

/** Steps of all runs, as far as they are known before the first one. */
function stepsOf(flags: Flags, wanted: readonly SystemName[], trials: number): number {
  const hasEdge = wanted.includes("EdgeTuner");
  // DLoRA runs twice: at its own share and at EdgeTuner's.
  const dlora = wanted.includes("DLoRA") && hasEdge ? 1 : 0;
  // vEdgeTuner runs twice more with fewer steps: half of them each, until EdgeTuner's seconds and bytes are known.
  const vanilla = wanted.includes("vEdgeTuner") && hasEdge ? 1 : 0;
  return (wanted.length + dlora + vanilla) * flags.seeds * flags.steps + trials * flags["lab-steps"];
}

/** What the runs gave; it is in a file after every run, so that an interruption loses only what is running. */
class Results {
  readonly table: Row[] = [];
  readonly points: Point[] = [];
  readonly #flags: Flags;

  constructor(flags: Flags) {
    this.#flags = flags;
  }

  /** All runs. */
  get all() {
    return [...this.table.flatMap((row) => row.runs), ...this.points.map((p) => p.run)];
  }

  /** A system's row, if it is there and complete. */
  row(name: SystemName): Row | null {
    return this.table.find((row) => row.name === name && isComplete(row)) ?? null;
  }

  /** Writes what is there. */
  async save(): Promise<void> {
    const content = {
      versions: versions(),
      settings: this.#flags,
      table: this.table.map(jsonOf),
      points: this.points.map(({ name, x, run }) => ({ name, x, ...written(run) })),
    };
    await writeWhole(`${this.#flags.out}/compare.json`, `${JSON.stringify(content, null, 1)}\n`);
  }
}

/** Runs every system, and after it what can be held against it. */
async function runSystems({ flags, wanted, rules, queue, results }: {
  readonly flags: Flags;
  readonly wanted: readonly SystemName[];
  readonly rules: Rules;
  readonly queue: RunQueue;
  readonly results: Results;
}): Promise<void> {
  const add = async (name: string, system: System, steps = flags.steps) => {
    const runs: Row["runs"][number][] = [];
    for (let i = 0; i < flags.seeds; i++) {
      runs.push(await queue.run({ name, system, steps, seed: flags.seed + i }));
    }
    results.table.push({ name, runs });
    await results.save();
  };
  for (const name of wanted) {
    await add(name, systemOf(name, rules, flags));
    const [own, edge] = [results.row(name), results.row("EdgeTuner")];
    if (edge === null) continue;
    if (name === "DLoRA") {
      const share = meanOf(edge, (r) => r.kept);
      // Over the whole run: what its unpruned steps at the start keep too much is kept less afterwards.
      const activeFraction = activeFractionFor(share, flags.steps);
      const pruner = dloraPruner({ activeFraction, warmupSteps: WARM_UP });
      await add(`DLoRA at ${Math.round(100 * share)} %`, { kind: "split", pruner });
    }
    if (name !== "vEdgeTuner" || own === null) continue;
    for (const [unit, cost] of COSTS) {
      const steps = Math.max(1, Math.round(flags.steps * meanOf(edge, cost) / meanOf(own, cost)));
      await add(`vEdgeTuner, as many ${unit} (${steps} steps)`, systemOf(name, rules, flags), steps);
    }
  }
}

/** Runs the pruners beside the table. */
async function runTrials(
  trials: readonly Trial[],
  flags: Flags,
  queue: RunQueue,
  results: Results,
): Promise<void> {
  for (const { name, x, pruner } of trials) {
    const system: System = { kind: "split", pruner };
    const run = await queue.run({ name, system, steps: flags["lab-steps"], seed: flags.seed, texts: false });
    results.points.push({ name, x, run });
    await results.save();
  }
}

/** Writes plots, page and table, and says how it went. */
async function tell(
  flags: Flags,
  { table: rows, points }: Results,
  { lab, study }: { readonly lab: readonly Point[]; readonly study: readonly Point[] },
  { shape, started, form }: {
    readonly shape: SystemComparison["shape"];
    readonly started: number;
    readonly form: CallForm;
  },
): Promise<void> {
  const lines = tableLines(rows);
  const findings = [...findingsOf(rows), ...failuresOf(rows, points)];
  const pictures = picturesOf({ table: rows, lab, study, shape });
  for (const [name, svg] of pictures) await writeWhole(`${flags.out}/${name}.svg`, svg);
  const about = aboutOf(flags);
  await writeWhole(`${flags.out}/table.md`, markdown({ about, lines, findings }));
  await writeWhole(`${flags.out}/index.html`, page({ about, lines, findings, pictures }));
  console.log(`${about}\n`);
  for (const line of table(lines, "   ")) console.log(line);
  if (findings.length > 0) console.log(`\n${findings.join("\n")}`);
  const lowest = lowestLoss(rows);
  if (lowest !== null) {
    console.log(
      `\nLowest validation loss: ${lowest.name}, ${lowest.before.toFixed(3)} before and ${
        lowest.after.toFixed(3)
      } after`,
    );
  }
  tellDone({
    done: `${rows.length} rows of the table and ${points.length} runs beside it in ${
      duration((performance.now() - started) / 1000)
    }`,
    saved: [
      `table.md, compare.json, ${pictures.length} plots and index.html, which shows them all, in ${flags.out}`,
    ],
    next: commandText("demo.ts", [
      ...["--model", shownPath(flags.model), "--link", flags.link, "--codec", "f16"],
    ], form),
  });
}

/** Runs the command. */
export const run: CommandRun = command(readOptions, main);
