/**
 * What a step will take for models of any size, before anything runs: seconds, bytes and memory of the
 * systems that this library compares, on one link and one compute model.
 *
 * @module
 */

import {
  allocateHeads,
  BASE_WEIGHTS,
  type BaseWeights,
  findRunCodecs,
  headParameters,
  headSizeOf,
  type LoraForm,
  type RunCodecs,
  stepMemory,
} from "@edgetuner/core";
import { weightBytes } from "@edgetuner/kernels";
import {
  type ComputeModel,
  type LinkProfile,
  MODEL_SIZES,
  type ModelSize,
  type Plan,
  plan,
  type PlanOptions,
  type PlanSystem,
} from "@edgetuner/transport";
import { codecChoice, codecsOf } from "../flags/codecs.ts";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { type FlagValues, integer, number, readFlags, text, toggle, UsageError } from "../flags/flags.ts";
import { bytes } from "../output/progress.ts";
import { versions, writeReport } from "../output/report.ts";
import { loraFormOf, TUNING_FLAGS } from "../flags/tuning_flags.ts";
import {
  COMPUTE_FLAG,
  computeOf,
  LINK_FLAG,
  linkOf,
  numbersOf,
  seconds,
  table,
} from "../flags/simulation_flags.ts";
import { unknownName } from "../flags/suggest.ts";
import { requireWritable } from "../process/writable.ts";
import { PRUNER_FLAGS } from "../flags/pruners.ts";
import type { Call } from "../process/invocation.ts";

/** A system, as a plan sees it. */
interface System {
  readonly name: string;
  readonly system: PlanSystem;
  readonly keep?: number;
  readonly keepLayers?: number;
  readonly statistics?: number;
}

const FLAGS = {
  models: text(
    "LIST",
    "gpt2-medium,llama2-7b,opt-6.7b",
    `shapes: some of ${Object.keys(MODEL_SIZES).join(", ")}`,
  ),
  layers: {
    ...COMMON_FLAGS.layers,
    help: "layers of a shape of your own, with --heads, --hidden and --vocabulary",
  },
  heads: COMMON_FLAGS.heads,
  hidden: COMMON_FLAGS.hidden,
  "head-size": integer("N", 0, "columns of a head; 0 = hidden size / heads", { min: 0 }),
  "kv-heads": integer("N", 0, "heads of keys and values; 0 = as many as heads", { min: 0 }),
  vocabulary: COMMON_FLAGS.vocabulary,
  inner: integer("N", 0, "inner size of the feed-forward network; 0 = 4 times the hidden size", { min: 0 }),
  gated: toggle("the feed-forward network has a gate"),
  batch: { ...COMMON_FLAGS.batch, default: 4 },
  length: { ...COMMON_FLAGS.length, default: 512, min: 1 },
  capacities: COMMON_FLAGS.capacities,
  speeds: text("LIST", "", "how many times as fast as the compute model's device each is; all 1 if empty"),
  link: LINK_FLAG,
  compute: COMPUTE_FLAG,
  keep: { ...PRUNER_FLAGS.keep, default: 0.4, help: "EdgeTuner: share of the heads kept" },
  "keep-layers": number("X", 1, "EdgeTuner: share of the layers that keep any head", { min: 0, max: 1 }),
  active: number("X", 0.125, "DLoRA: share of the head modules that are active", { min: 0, max: 1 }),
  mode: { ...TUNING_FLAGS.mode, default: "slice" },
  projections: TUNING_FLAGS.projections,
  "projection-seed": TUNING_FLAGS["projection-seed"],
  "shared-a": TUNING_FLAGS["shared-a"],
  targets: { ...TUNING_FLAGS.targets, default: "q,v" },
  rank: { ...TUNING_FLAGS.rank, fits: false },
  bits: integer("N", 32, "bits of a number on the wire", { min: 1, max: 32 }),
  codec: { ...COMMON_FLAGS.codec, default: "", help: "codecs as in a run, in place of --bits" },
  json: COMMON_FLAGS.json,
  report: { ...COMMON_FLAGS.report, help: "write the JSON to a file" },
};

type Flags = FlagValues<typeof FLAGS>;

/** The systems, with the shares of heads that the flags give them. */
function systemsOf(flags: Flags): System[] {
  return [
    { name: "ServerTuner", system: "serverTuner" },
    { name: "TPTensor", system: "tensorParallel" },
    { name: "vEdgeTuner", system: "split" },
    { name: "DLoRA", system: "split", keep: flags.active, statistics: 1 },
    { name: "EdgeTuner", system: "split", keep: flags.keep, keepLayers: flags["keep-layers"], statistics: 1 },
  ];
}

async function main(call: Call): Promise<void> {
  const flags = readFlags(
    {
      name: "plan.ts",
      about: "Forecasts seconds and bytes of a fine-tuning step for several systems; nothing is run.",
      examples: [
        "edgetuner plan",
        "edgetuner plan --models llama2-7b --link lan-1g --capacities 8,5,3 --bits 16",
        "edgetuner plan --layers 24 --heads 16 --hidden 1024 --vocabulary 50257 --keep 0.4",
      ],
    },
    FLAGS,
    call,
  );
  await requireWritable("plan.ts", { files: { report: flags.report } });
  const link = await linkOf(flags.link);
  const compute = await computeOf(flags.compute);
  const codec = flags.codec === "" ? undefined : await planCodec(flags.codec);
  const forecasts = forecastsOf(flags, { link, compute, codec });
  const report = { versions: versions(), settings: flags, link, compute, models: forecasts };
  await writeReport(flags.report, report);
  if (flags.json) return console.log(JSON.stringify(report, null, 1));
  console.log(
    `${flags.batch} x ${flags.length} tokens, ${forecasts[0]!.devices} devices, ${flags.mode} mode, ` +
      `${flags.codec || `${flags.bits} bits a number`}, ${link.name}; a forecast, nothing was run`,
  );
  for (const forecast of forecasts) show(forecast);
}

/** What numbers travel as. */
async function planCodec(flag: string): Promise<RunCodecs> {
  const { name, modules } = await codecChoice(flag);
  return findRunCodecs(name, await codecsOf(modules));
}

/** What is forecast for a model. */
type Forecast = ReturnType<typeof forecastsOf>[number];

/** Forecasts of all systems for each model. */
function forecastsOf(
  flags: Flags,
  { link, compute, codec }: {
    readonly link: LinkProfile;
    readonly compute: ComputeModel;
    readonly codec: RunCodecs | undefined;
  },
) {
  const capacities = numbersOf("plan.ts", "capacities", flags.capacities);
  const speeds = flags.speeds === "" ? capacities.map(() => 1) : numbersOf("plan.ts", "speeds", flags.speeds);
  if (speeds.length !== capacities.length) {
    throw new UsageError(
      `Cannot run plan.ts as --speeds must be as many as --capacities: there are ${speeds.length} and ${capacities.length}`,
    );
  }
  const lora = loraFormOf(flags);
  return shapesOf(flags).map(([name, model]) => ({
    name,
    model,
    devices: capacities.length,
    rank: rankOf(name, model, lora),
    systems: systemsOf(flags).map(({ name, ...system }) => {
      const options: PlanOptions = {
        ...{ model, batch: flags.batch, length: flags.length, lora, link, compute, ...system },
        devices: capacities.map((capacity, m) => ({ capacity, speed: speeds[m]! })),
        bytesPerNumber: flags.bits / 8,
        ...(codec && { codec }),
      };
      const forecast = plan(options);
      return { name, ...forecast, deviceBytes: deviceBytes(model, lora, system.system, forecast) };
    }),
    memory: memoryOf(model, { ...flags, lora, capacities }),
  }));
}

/**
 * The rank in words. GPT-2 has Q, K and V in one module, so that an exported adapter has the rows of all of them; of
 * shapes without a family a gate says that they are apart.
 */
function rankOf(
  name: string,
  { heads, gated = false }: ModelSize,
  { rank, targets }: Pick<LoraForm, "rank" | "targets">,
): string {
  const apart = rank * heads;
  const together = apart * targets.length;
  const most = name.startsWith("gpt2")
    ? `${together}`
    : gated || Object.hasOwn(MODEL_SIZES, name) || targets.length === 1
    ? `${apart}`
    : `${apart}, or ${together} if Q, K and V are one module,`;
  return `LoRA rank ${rank} for each of ${heads} heads, ${most} at most for an exported adapter`;
}

/** Prints a model's table. */
function show({ name, model, systems, memory, rank }: Forecast): void {
  console.log(`\n${name}: ${model.layers} layers, ${model.heads} heads, d ${model.hidden}; ${rank}`);
  const head = ["", "s/step", "edge s", "device s", "per step", "frames", "weights on a device"];
  const rows = systems.map((s) => [
    s.name,
    seconds(s.msPerStep),
    seconds(s.edgeComputeMs),
    s.deviceComputeMs.length === 0 ? "-" : seconds(Math.max(...s.deviceComputeMs)),
    s.frames === 0 ? "-" : bytes(s.frameBytes),
    s.frames === 0 ? "-" : `${s.frames}`,
    s.deviceBytes === 0 ? "-" : bytes(s.deviceBytes),
  ]);
  for (const line of table([head, ...rows])) console.log(line);
  console.log("Adapter memory, all heads kept");
  for (const line of table(memoryRows(memory))) console.log(line);
}

/** Adapter memory of each party of a split run, and of one machine: weights by format, and a step. */
function memoryOf(
  model: ModelSize,
  { lora, capacities, batch, length }: {
    readonly lora: LoraForm;
    readonly capacities: readonly number[];
    readonly batch: number;
    readonly length: number;
  },
) {
  const { heads: count, kvHeads = count, hidden, vocabulary, inner = 4 * hidden, gated = false } = model;
  const most = Math.max(...allocateHeads(count, capacities).map((range) => range.count));
  const norms = gated ? 1 : 2;
  const step = stepMemory({
    model: {
      ...{ ...model, kvHeads, headSize: headSizeOf(model), inner, vocabulary },
      ...{ keptInner: 2, innerGradients: gated ? 3 : 1, normStatistics: norms },
    },
    ...{ batch, length, lora: { ...lora, dropout: 0 }, heads: most },
  });
  return {
    step,
    weights: Object.fromEntries(BASE_WEIGHTS.map((format) => [format, weightsOf(model, format)])),
  };
}

/** Bytes of the matrices of a model in a format; norms, biases and positions are little beside them. */
function weightsOf(
  model: ModelSize,
  format: BaseWeights,
): { readonly layers: number; readonly ends: number } {
  const { layers, heads, kvHeads = heads, hidden, vocabulary, inner = 4 * hidden, gated, tied = true } =
    model;
  const size = headSizeOf(model);
  const matrix = (rows: number, columns: number) =>
    weightBytes({ format, rows, columns, groupsAlong: "columns" });
  const layer = matrix((heads + 2 * kvHeads) * size, hidden) + matrix(hidden, heads * size) +
    (gated ? 2 : 1) * matrix(inner, hidden) + matrix(hidden, inner);
  return { layers: layers * layer, ends: (tied ? 1 : 2) * matrix(vocabulary, hidden) };
}

/** Lines of a table of the memory: a party each. */
function memoryRows({ step, weights }: ReturnType<typeof memoryOf>): string[][] {
  const of = (part: "layers" | "ends" | "total") =>
    BASE_WEIGHTS.map((format) => {
      const { layers, ends } = weights[format]!;
      return bytes(part === "layers" ? layers : part === "ends" ? ends : layers + ends);
    });
  const none = BASE_WEIGHTS.map(() => "-");
  return [
    ["", "a step", ...BASE_WEIGHTS.map((format) => `weights ${format}`)],
    ["edge server", bytes(step.edgeServer), ...of("layers")],
    ["data device", bytes(step.dataDevice), ...of("ends")],
    ["largest device's heads", bytes(step.headModules), ...none],
    ["one machine", bytes(step.oneMachine), ...of("total")],
  ];
}

/** The models by name, or the one that the flags describe. */
function shapesOf(flags: Flags): [string, ModelSize][] {
  const { layers, heads, hidden, vocabulary, inner, gated } = flags;
  if (layers + heads + hidden > 0) {
    if (layers === 0 || heads === 0 || hidden % heads !== 0) {
      throw new UsageError(
        `Cannot run plan.ts as --layers and --heads must be given and --hidden be a multiple of --heads: current values are ${layers}, ${heads} and ${hidden}`,
      );
    }
    const [headSize, kvHeads] = [flags["head-size"] || hidden / heads, flags["kv-heads"] || heads];
    if (headSize % 4 !== 0 || heads % kvHeads !== 0) {
      throw new UsageError(
        `Cannot run plan.ts as --head-size must be a multiple of 4 and --kv-heads divide --heads: current values are ${headSize} and ${kvHeads}`,
      );
    }
    const size = { layers, heads, hidden, headSize, kvHeads, vocabulary, gated };
    return [["your model", inner > 0 ? { ...size, inner } : size]];
  }
  return flags.models.split(",").map((given) => {
    const name = given.trim();
    if (!Object.hasOwn(MODEL_SIZES, name)) {
      throw new UsageError(
        `Cannot run plan.ts as --models must be some of ${Object.keys(MODEL_SIZES).join(", ")}: ${
          unknownName(name, Object.keys(MODEL_SIZES))
        }`,
      );
    }
    return [name, MODEL_SIZES[name as keyof typeof MODEL_SIZES]];
  });
}

/** What the largest device holds: float32 weights of its share of the base model, or of its LoRA with gradients and moments. */
function deviceBytes(
  model: ModelSize,
  lora: Parameters<typeof headParameters>[0],
  system: PlanSystem,
  { headsPerDevice }: Plan,
): number {
  if (system === "serverTuner") return 0;
  const { layers, heads, kvHeads = heads, hidden: d, inner = 4 * d, gated = false } = model;
  const most = Math.max(...headsPerDevice);
  const module = headParameters(lora, model);
  const adapter = 16 * layers * most * module;
  if (system === "split") return adapter;
  return 4 * layers * (2 * d * headSizeOf(model) * (heads + kvHeads) + (gated ? 3 : 2) * d * inner) /
      (headsPerDevice.length + 1) + adapter;
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
