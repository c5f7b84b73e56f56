/**
 * How a step scales with the number of devices: each number is simulated in this process, in virtual
 * time, on emulated links.
 *
 * @module
 */

import {
  fixedBatches,
  gpt2Config,
  initialWeights,
  loadEmbeddingAndHead,
  loadLayers,
  type LoadOptions,
  type ModelFiles,
  modelShape,
  type Pruner,
  type RunSettings,
  shuffledBatches,
  type TokenBatch,
} from "@edgetuner/core";
import {
  type ComputeModel,
  evenMask,
  type LinkProfile,
  plan,
  simulate,
  type SimulationOptions,
} from "@edgetuner/transport";
import { Engine } from "@edgetuner/kernels";

import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { type FlagValues, number, text, UsageError } from "../flags/flags.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { Interrupts } from "../process/interrupts.ts";
import { bytes, duration, ProgressBar } from "../output/progress.ts";
import { versions, writeReport } from "../output/report.ts";
import { tellDone } from "../output/run_end.ts";
import { commandText, shownPath } from "../process/places.ts";
import { requireWritable } from "../process/writable.ts";
import {
  computeHere,
  computeOf,
  integersOf,
  LINK_FLAG,
  linkOf,
  MEASURED_FLAG,
  seconds,
  table,
} from "../flags/simulation_flags.ts";
import { availabilitiesOf, sweepAvailability } from "../shared/availability_sweep.ts";
import { readFitted } from "../shared/fitting.ts";
import { DATA_FLAGS, loadTrainingSet, type ReadingOptions } from "../shared/training_data.ts";
import { endProgram, INTERRUPTED } from "../process/supervisor.ts";
import { TUNING_FLAGS, tuningSettings } from "../flags/tuning_flags.ts";
import { loadGpu } from "../flags/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { PRUNER_FLAGS } from "../flags/pruners.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call, CallForm } from "../process/invocation.ts";
import { openTold } from "../shared/opened_model.ts";
import { type SweptWith, sweptWith } from "../shared/swept_with.ts";

/** Most batches of validation data that are evaluated. */
const VALID_BATCHES = 32;

/** A line of the table. */
interface Line {
  readonly devices: number;
  readonly msPerStep: number;
  readonly plannedMsPerStep: number;
  readonly bytesPerStep: number;
  readonly edgeMemoryBytes: number;
  readonly edgeComputeMs: number;
  readonly headsPerDevice: readonly number[];
  readonly losses: readonly (number | null)[];
}

const FLAGS = {
  ...TUNING_FLAGS,
  devices: text("LIST", "1,2,4,8,16,32,64", "numbers of devices, each at most the model's heads"),
  model: { ...MODEL_FLAG, default: "", help: `${MODEL_FLAG.help}; else one is made up` },
  tokenizer: TOKENIZER_FLAG,
  ...WEIGHTS_FLAG,
  data: { ...COMMON_FLAGS.data, default: "", help: "with --model: texts in place of random tokens" },
  "skip-bad": DATA_FLAGS["skip-bad"],
  map: DATA_FLAGS.map,
  "data-format": DATA_FLAGS["data-format"],
  valid: { ...COMMON_FLAGS.valid, help: "with --data: texts whose loss is taken before and after" },
  availability: text(
    "LIST",
    "",
    "with one number of --devices: shares of the time in % that each is there, in place of the numbers",
  ),
  away: number("S", 2, "--availability: mean length of an absence in virtual seconds", { min: 0.001 }),
  link: LINK_FLAG,
  compute: MEASURED_FLAG,
  keep: {
    ...PRUNER_FLAGS.keep,
    default: 1,
    help: "share of the heads kept, evenly over layers and devices",
  },
  pruner: { ...PRUNER_FLAGS.pruner, default: "", help: "pruner, in place of --keep" },
  codec: COMMON_FLAGS.codec,
  mode: { ...TUNING_FLAGS.mode, default: "slice" },
  steps: { ...TUNING_FLAGS.steps, default: 4, help: "training steps of each simulation" },
  layers: {
    ...COMMON_FLAGS.layers,
    default: 4,
    min: 1,
    help: "layers of the made-up model, which has random weights",
  },
  heads: {
    ...COMMON_FLAGS.heads,
    default: 64,
    min: 1,
    help: "heads of a layer; as many devices can hold some",
  },
  hidden: {
    ...COMMON_FLAGS.hidden,
    default: 512,
    min: 4,
    help: "hidden size, a multiple of 4 times the heads",
  },
  vocabulary: { ...COMMON_FLAGS.vocabulary, default: 256, min: 2 },
  batch: { ...COMMON_FLAGS.batch, default: 2 },
  length: { ...COMMON_FLAGS.length, default: 64 },
  webgpu: COMMON_FLAGS.webgpu,
  json: COMMON_FLAGS.json,
  out: { ...COMMON_FLAGS.out, help: "--availability: folder for a page and a plot of loss over seconds" },
  report: { ...COMMON_FLAGS.report, help: "write the JSON to a file" },
};

type Flags = FlagValues<typeof FLAGS>;

const PROGRAM = {
  name: "sweep.ts",
  about: "Simulates steps with more and more devices on emulated links, in virtual time.",
  examples: [
    "edgetuner sweep",
    "edgetuner sweep --devices 1,3,8 --link lte --keep 0.5",
    "edgetuner sweep --compute measured --devices 1,2,4 --report runs/sweep.json",
    "edgetuner sweep --availability 100,70 --devices 8 --steps 60 --out runs/availability",
    `edgetuner sweep --model ${shownPath(MODEL_FLAG.default)} --base-weights int8 --devices 1,2,4`,
  ],
};

async function readOptions(call: Call): Promise<{ readonly flags: Flags }> {
  return await readFitted(PROGRAM, FLAGS, call, { shape: (values) => values.model === "" ? values : null });
}

async function main({ flags }: { readonly flags: Flags }, call: Call): Promise<number> {
  const counts = integersOf("devices", flags.devices);
  const link = await linkOf(flags.link);
  await requireWritable("sweep.ts", { files: { report: flags.report }, folders: { out: flags.out } });
  const swept = flags.model === "" ? madeUp(flags) : await opened(flags);
  const { model, batch } = swept;
  const shape = modelShape(model.config);
  requireHeads(counts, shape.heads);
  const shares = flags.availability === "" ? null : sharesOf(flags, counts);
  const gpu = await loadGpu(flags.webgpu);
  // Apart from each other, so that the edge server's memory can be seen.
  using engine = await Engine.create({ gpu });
  using apart = shares === null ? await Engine.create({ gpu }) : null;
  const deviceEngine = apart ?? engine;
  const loading = { baseWeights: baseWeightsOf(flags) };
  using layers = loadLayers(engine, model, loading);
  using ends = loadEmbeddingAndHead(deviceEngine, model, loading);
  const compute = flags.compute === "measured"
    ? await measured({ engine, model, loading }, tuningSettings(flags), batch)
    : await computeOf(flags.compute);
  const halves = { engine, layers, ends, deviceEngine };
  const own = await sweptWith(flags, engine);
  const settings = { ...tuningSettings(flags), codec: own.codec.name };
  const sweep = new Sweep(
    { flags, form: call.form, counts, link, compute, batch, shape, own, settings },
    halves,
  );
  if (shares !== null) {
    const { evaluation, batches } = swept;
    return await sweepAvailability(shares, {
      ...{ model: halves, settings, evaluation, batches, link, compute, codecs: own.codecs },
      ...{ devices: counts[0]!, awayMs: 1000 * flags.away, linkSeed: flags.seed + 1 },
      pruner: () => own.pruner ?? evenPruner(flags.keep),
      msPerStep: sweep.planned(counts[0]!),
      ...{ report: flags.report, out: flags.out, json: flags.json, flags },
    });
  }
  // A simulation may take long: what the others gave is shown at once.
  using interrupts = new Interrupts(() => void sweep.finish().finally(() => endProgram(INTERRUPTED)));
  for (const devices of counts) {
    if (interrupts.asked || !await sweep.add(devices)) break;
  }
  await sweep.finish();
  if (sweep.failed === null) return interrupts.asked ? INTERRUPTED : 0;
  console.error(sweep.failed);
  return 1;
}

/**
 * Refuses more devices than the model has heads.
 *
 * @throws {UsageError} If one of the numbers is too large.
 */
function requireHeads(counts: readonly number[], heads: number): void {
  const most = counts.find((devices) => devices > heads);
  if (most === undefined) return;
  throw new UsageError(
    `Cannot run sweep.ts as --devices must be from 1 to the model's ${heads} heads, of which each device has one at least: current value is ${most}`,
  );
}

/**
 * Shares of the time, where they are asked for.
 *
 * @throws {UsageError} If they are none, or there are several numbers of devices.
 */
function sharesOf({ availability, devices, out }: Flags, counts: readonly number[]): number[] | null {
  if (availability === "") {
    if (out === "") return null;
    throw new UsageError("Cannot run sweep.ts as --out needs --availability: it is missing");
  }
  if (counts.length === 1) return availabilitiesOf(availability);
  throw new UsageError(
    `Cannot run sweep.ts as --availability needs one number of --devices: current value is "${devices}"`,
  );
}

/** What is the same for every number of devices. */
interface SweepOptions {
  readonly flags: Flags;
  readonly form: CallForm;
  readonly counts: readonly number[];
  readonly link: LinkProfile;
  readonly compute: ComputeModel;
  readonly batch: TokenBatch;
  readonly shape: ReturnType<typeof modelShape>;
  readonly own: SweptWith;
  readonly settings: RunSettings;
}

/** Simulations of more and more devices, and what came of them. */
class Sweep {
  /** Why it could not go on; `null` if it could. */
  failed: string | null = null;
  readonly #options: SweepOptions;
  readonly #model: SimulationOptions["model"];
  readonly #bar: ProgressBar;
  readonly #lines: Line[] = [];
  readonly #started = performance.now();
  #finished: Promise<void> | null = null;
  #done = 0;

  constructor(options: SweepOptions, model: SimulationOptions["model"]) {
    this.#options = options;
    this.#model = model;
    this.#bar = new ProgressBar(options.counts.length * options.flags.steps, { unit: "step" });
  }

  /** Simulates so many devices; false if that cannot be, and no more would. */
  async add(devices: number): Promise<boolean> {
    const { flags, link, compute, batch, own, settings } = this.#options;
    await this.#model.engine.trim();
    const name = `${devices} ${devices === 1 ? "device" : "devices"}`;
    const run = await simulated({
      model: this.#model,
      settings,
      devices,
      pruner: own.pruner ?? evenPruner(flags.keep),
      codecs: own.codecs,
      batches: () => batch,
      link,
      compute,
      linkSeed: flags.seed + 1,
      onStep: () => this.#bar.draw(++this.#done, name),
    });
    if (run.error !== null) {
      // What is done already is shown all the same.
      this.failed = `Cannot go on with ${devices} devices: ${(run.error as Error).message}`;
      return false;
    }
    this.#lines.push({
      devices,
      msPerStep: run.msPerStep,
      plannedMsPerStep: this.planned(devices),
      bytesPerStep: run.bytesPerStep,
      edgeMemoryBytes: run.edgeMemoryBytes,
      edgeComputeMs: run.steps.at(-1)!.edgeComputeMs,
      headsPerDevice: run.devices.map((d) => d.range?.count ?? 0),
      losses: run.steps.map((s) => s.loss),
    });
    return true;
  }

  /** Milliseconds of a step, by the forecast. */
  planned(devices: number): number {
    const { flags, link, compute, batch, shape, own, settings } = this.#options;
    const model = { ...shape, vocabulary: this.#model.ends.shape.vocabulary };
    return plan({
      ...{ model, devices, link, compute, batch: batch.batch, length: batch.length },
      ...{ lora: settings.lora, codec: own.codec, keep: flags.keep },
      sharesLoss: true,
    }).msPerStep;
  }

  /** Writes and prints what is done, once. */
  finish(): Promise<void> {
    return this.#finished ??= this.#write();
  }

  async #write(): Promise<void> {
    this.#bar.end();
    const { flags, link, compute, batch, shape } = this.#options;
    const report = {
      versions: versions(),
      adapter: this.#model.engine.adapterName,
      settings: flags,
      link,
      compute,
      lines: this.#lines,
      error: this.failed,
    };
    await writeReport(flags.report, report);
    if (flags.json) return console.log(JSON.stringify(report, null, 1));
    console.log(
      `${shape.layers} layers, ${shape.heads} heads, d ${shape.hidden}, ${batch.batch} x ${batch.length} tokens, ` +
        `${flags.mode} mode, ${
          flags.pruner || `${Math.round(100 * flags.keep)} % of the heads`
        }, ${flags.codec}, ${link.name}; virtual time`,
    );
    for (const line of tableOf(this.#lines)) console.log(line);
    if (this.failed === null) this.#tell();
  }

  /** How it went. */
  #tell(): void {
    const { flags, counts, form } = this.#options;
    const fastest = this.#lines.toSorted((a, b) => a.msPerStep - b.msPerStep)[0];
    if (fastest !== undefined) {
      const { devices, msPerStep } = fastest;
      console.log(
        `Fastest: ${devices} ${devices === 1 ? "device" : "devices"}, ${seconds(msPerStep)} s a step`,
      );
    }
    const count = this.#lines.length === counts.length
      ? `${counts.length}`
      : `${this.#lines.length} of ${counts.length}`;
    tellDone({
      done: `${count} numbers of devices in ${duration((performance.now() - this.#started) / 1000)}`,
      saved: flags.report === "" ? [] : [flags.report],
      next: fastest === undefined ? "" : commandText("plan.ts", [
        ...["--link", flags.link, "--capacities", Array(fastest.devices).fill("1").join(",")],
      ], form),
    });
  }
}

/** The table of what was simulated. */
function tableOf(lines: readonly Line[]): string[] {
  const head = ["devices", "s/step", "planned", "per step", "edge GPU memory", "heads of a device"];
  const rows = lines.map((l) => [
    `${l.devices}`,
    seconds(l.msPerStep),
    seconds(l.plannedMsPerStep),
    bytes(l.bytesPerStep),
    bytes(l.edgeMemoryBytes),
    range(l.headsPerDevice),
  ]);
  return table([head, ...rows]);
}

/** A simulation; what the link says of devices that there are not is said in one line. */
async function simulated(options: Parameters<typeof simulate>[0]): ReturnType<typeof simulate> {
  try {
    return await simulate(options);
  } catch (error) {
    if (error instanceof TypeError) throw new UsageError(error.message, { cause: error });
    throw error;
  }
}

/** Keeps the same share of heads in every step, evenly over layers and devices. */
function evenPruner(keep: number): Pruner {
  return {
    name: "even",
    needs: [],
    init: () => null,
    decide: (
      _,
      state,
      { layers, headsPerDevice },
    ) => [{ mask: evenMask(headsPerDevice, { layers, keep }) }, state],
  };
}

/** What a sweep runs on. */
interface Swept {
  readonly model: ModelFiles;
  /** The batch of every step of a sweep over devices. */
  readonly batch: TokenBatch;
  /** The batch of each step where devices come and go. */
  readonly batches: (step: number) => TokenBatch;
  /** What is evaluated there. */
  readonly evaluation: readonly TokenBatch[];
}

interface Sizes {
  readonly layers: number;
  readonly heads: number;
  readonly hidden: number;
  readonly vocabulary: number;
  readonly batch: number;
  readonly length: number;
  readonly seed: number;
  readonly data: string;
  readonly valid: string;
}

/** The same batch in every step. */
function always(batch: TokenBatch): Omit<Swept, "model"> {
  return { batch, batches: () => batch, evaluation: [batch] };
}

/** A GPT-2 of any shape with random weights, and random tokens. */
function madeUp(flags: Sizes): Swept {
  if (flags.data !== "") throw new UsageError("Cannot run sweep.ts as --data needs --model: it is missing");
  if (flags.hidden % (4 * flags.heads) !== 0) {
    throw new UsageError(
      `Cannot run sweep.ts as --hidden must be a multiple of 4 times --heads: current values are ${flags.hidden} and ${flags.heads}`,
    );
  }
  const config = gpt2Config({
    n_layer: flags.layers,
    n_head: flags.heads,
    n_embd: flags.hidden,
    vocab_size: flags.vocabulary,
    n_positions: flags.length,
  });
  return {
    model: { config, weights: initialWeights(config, flags.seed) },
    ...always(randomBatch(flags.vocabulary, flags.batch, flags.length)),
  };
}

/** A model from files, with texts or random tokens. */
async function opened(
  flags: Sizes & ReadingOptions & { readonly tokenizer: string },
): Promise<Swept> {
  const { model, tokenizer } = await openTold(flags.model, flags);
  if (flags.data === "") {
    return { model, ...always(randomBatch(model.config.vocab_size, flags.batch, flags.length)) };
  }
  const encoded = (file: string) =>
    loadTrainingSet(file, { ...flags, encoder: tokenizer, "train-on-prompt": false });
  const shuffled = shuffledBatches(await encoded(flags.data), { batch: flags.batch, seed: flags.seed });
  const batches = (step: number) => {
    shuffled.position = step;
    return shuffled.next();
  };
  const evaluation = flags.valid === "" ? [] : fixedBatches(await encoded(flags.valid), flags.batch);
  return { model, batch: batches(0), batches, evaluation: evaluation.slice(0, VALID_BATCHES) };
}

function randomBatch(vocabulary: number, batch: number, length: number): TokenBatch {
  const tokens = Uint32Array.from({ length: batch * length }, (_, i) => (i * i * 31 + i * 7) % vocabulary);
  const targets = Uint32Array.from(tokens, (_, i) => tokens[(i + 1) % tokens.length]!);
  return { tokens, targets, mask: new Float32Array(tokens.length).fill(1), batch, length };
}

/** How fast this machine computes, by a measurement. */
async function measured(
  { engine, model, loading }: {
    readonly engine: Engine;
    readonly model: ModelFiles;
    readonly loading: LoadOptions;
  },
  settings: RunSettings,
  batch: TokenBatch,
) {
  using layers = loadLayers(engine, model, loading);
  using ends = loadEmbeddingAndHead(engine, model, loading);
  return await computeHere({ layers, ends }, settings, batch);
}

function range(counts: readonly number[]): string {
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  return least === most ? `${least}` : `${least} to ${most}`;
}

/** Runs the command. */
export const run: CommandRun = command(readOptions, main);
