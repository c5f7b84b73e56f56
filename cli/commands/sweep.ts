/**
 * How a step scales with the number of devices: each number is simulated in this process, in virtual
 * time, on emulated links.
 *
 * @module
 */

import {
  gpt2Config,
  initialWeights,
  loadEmbeddingAndHead,
  loadLayers,
  type LoadOptions,
  type ModelFiles,
  modelShape,
  openModel,
  type Pruner,
  shuffledBatches,
  type TokenBatch,
} from "@edgetuner/core";
import { evenMask, plan, simulate } from "@edgetuner/transport";
import { Engine } from "@edgetuner/kernels";

import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { readFlags, text, UsageError } from "../flags/flags.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { Interrupts } from "../process/interrupts.ts";
import { bytes } from "../output/progress.ts";
import { versions, writeReport } from "../output/report.ts";
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
import { DATA_FLAGS, loadTrainingSet } from "../shared/training_data.ts";
import { endProgram, INTERRUPTED } from "../process/supervisor.ts";
import { TUNING_FLAGS, tuningSettings } from "../flags/tuning_flags.ts";
import { loadGpu } from "../flags/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { PRUNER_FLAGS } from "../flags/pruners.ts";
import type { Call } from "../process/invocation.ts";

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

async function main(call: Call): Promise<number> {
  const flags = readFlags({
    name: "sweep.ts",
    about: "Simulates steps with more and more devices on emulated links, in virtual time.",
    examples: [
      "edgetuner sweep",
      "edgetuner sweep --devices 1,3,8 --link lte --keep 0.5",
      "edgetuner sweep --compute measured --link my_link.json --report sweep.json",
      "edgetuner sweep --model my.gguf --base-weights int8 --devices 1,2,4",
    ],
  }, {
    ...TUNING_FLAGS,
    devices: text("LIST", "1,2,4,8,16,32,64", "numbers of devices, each at most the model's heads"),
    model: { ...MODEL_FLAG, default: "", help: `${MODEL_FLAG.help}; else one is made up` },
    tokenizer: TOKENIZER_FLAG,
    ...WEIGHTS_FLAG,
    data: { ...COMMON_FLAGS.data, default: "", help: "with --model: texts in place of random tokens" },
    "skip-bad": DATA_FLAGS["skip-bad"],
    link: LINK_FLAG,
    compute: MEASURED_FLAG,
    keep: {
      ...PRUNER_FLAGS.keep,
      default: 1,
      help: "share of the heads kept, evenly over layers and devices",
    },
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
    report: { ...COMMON_FLAGS.report, help: "write the JSON to a file" },
  }, call);
  const counts = integersOf("devices", flags.devices);
  const link = await linkOf(flags.link);
  const { model, batch } = flags.model === "" ? madeUp(flags) : await opened(flags);
  const shape = modelShape(model.config);
  const { layers: L, heads: H, hidden } = shape;
  const most = counts.find((devices) => devices > H);
  if (most !== undefined) {
    throw new UsageError(
      `Cannot run sweep.ts as --devices must be from 1 to the model's ${H} heads, of which each device has one at least: current value is ${most}`,
    );
  }
  const gpu = await loadGpu(flags.webgpu);
  // Apart from each other, so that the edge server's memory can be seen.
  using engine = await Engine.create({ gpu });
  using deviceEngine = await Engine.create({ gpu });
  const loading = { baseWeights: baseWeightsOf(flags) };
  using layers = loadLayers(engine, model, loading);
  using ends = loadEmbeddingAndHead(deviceEngine, model, loading);
  const settings = tuningSettings(flags);
  const compute = flags.compute === "measured"
    ? await measured(engine, model, loading, settings, batch)
    : await computeOf(flags.compute);
  const lines: Line[] = [];
  let failed: string | null = null;
  /** Writes and prints what is done. */
  const write = async () => {
    const report = {
      versions: versions(),
      adapter: engine.adapterName,
      settings: flags,
      link,
      compute,
      lines,
      error: failed,
    };
    await writeReport(flags.report, report);
    if (flags.json) return console.log(JSON.stringify(report, null, 1));
    console.log(
      `${L} layers, ${H} heads, d ${hidden}, ${batch.batch} x ${batch.length} tokens, ` +
        `${flags.mode} mode, ${Math.round(100 * flags.keep)} % of the heads, ${link.name}; virtual time`,
    );
    const head = ["devices", "s/step", "planned", "per step", "edge GPU memory", "heads of a device"];
    for (
      const line of table([
        head,
        ...lines.map((l) => [
          `${l.devices}`,
          seconds(l.msPerStep),
          seconds(l.plannedMsPerStep),
          bytes(l.bytesPerStep),
          bytes(l.edgeMemoryBytes),
          range(l.headsPerDevice),
        ]),
      ])
    ) console.log(line);
  };
  let finished: Promise<void> | null = null;
  const finish = () => finished ??= write();
  // A simulation may take long: what the others gave is shown at once.
  using interrupts = new Interrupts(() => void finish().finally(() => endProgram(INTERRUPTED)));
  for (const devices of counts) {
    if (interrupts.asked) break;
    await engine.trim();
    const run = await simulated({
      model: { engine, layers, ends, deviceEngine },
      settings,
      devices,
      pruner: evenPruner(flags.keep),
      batches: () => batch,
      link,
      compute,
      linkSeed: flags.seed + 1,
    });
    if (run.error !== null) {
      // What is done already is shown all the same.
      failed = `Cannot go on with ${devices} devices: ${(run.error as Error).message}`;
      break;
    }
    const planned = plan({
      model: { layers: L, heads: H, hidden, vocabulary: ends.shape.vocabulary },
      batch: batch.batch,
      length: batch.length,
      lora: settings.lora,
      devices,
      keep: flags.keep,
      link,
      compute,
      sharesLoss: true,
    });
    lines.push({
      devices,
      msPerStep: run.msPerStep,
      plannedMsPerStep: planned.msPerStep,
      bytesPerStep: run.bytesPerStep,
      edgeMemoryBytes: run.edgeMemoryBytes,
      edgeComputeMs: run.steps.at(-1)!.edgeComputeMs,
      headsPerDevice: run.devices.map((d) => d.range?.count ?? 0),
      losses: run.steps.map((s) => s.loss),
    });
  }
  await finish();
  if (failed === null) return interrupts.asked ? INTERRUPTED : 0;
  console.error(failed);
  return 1;
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
  readonly batch: TokenBatch;
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
    batch: randomBatch(flags.vocabulary, flags.batch, flags.length),
  };
}

/** A model from files, with texts or random tokens. */
async function opened(
  flags: Sizes & { readonly model: string; readonly tokenizer: string; readonly "skip-bad": boolean },
): Promise<Swept> {
  const { model, tokenizer } = await openModel(flags.model, flags);
  if (flags.data === "") {
    return { model, batch: randomBatch(model.config.vocab_size, flags.batch, flags.length) };
  }
  const set = await loadTrainingSet(flags.data, { ...flags, tokenizer, "train-on-prompt": false });
  return { model, batch: shuffledBatches(set, { batch: flags.batch, seed: flags.seed }).next() };
}

function randomBatch(vocabulary: number, batch: number, length: number): TokenBatch {
  const tokens = Uint32Array.from({ length: batch * length }, (_, i) => (i * i * 31 + i * 7) % vocabulary);
  const targets = Uint32Array.from(tokens, (_, i) => tokens[(i + 1) % tokens.length]!);
  return { tokens, targets, mask: new Float32Array(tokens.length).fill(1), batch, length };
}

async function measured(
  engine: Engine,
  model: ModelFiles,
  loading: LoadOptions,
  settings: ReturnType<typeof tuningSettings>,
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

/**
 * Runs the command.
 *
 * @param call Its flags, as they were typed.
 * @returns Its exit code.
 */
export async function run(call: Call): Promise<number | void> {
  return await main(call);
}
