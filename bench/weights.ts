/**
 * What it costs to hold the frozen base as f16, int8 or int4: bytes on the adapter, error of the logits,
 * validation loss and time of a step, as a Markdown table.
 *
 * @module
 */

import {
  BASE_WEIGHTS,
  baseWeightBytes,
  type BaseWeights,
  embedTokens,
  fixedBatches,
  HeadModules,
  loadEmbeddingAndHead,
  loadLayers,
  loadModelFolder,
  loadModelTokenizer,
  LocalData,
  LocalHeads,
  logitsOf,
  type ModelFolder,
  modelLoss,
  runStep,
  sumLosses,
  Tape,
  type TokenBatch,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { integer, readFlags, runProgram, text, withDefaults } from "../cli/flags/flags.ts";
import { writeReport } from "../cli/output/report.ts";
import { DATA_FLAGS, loadTrainingSet } from "../cli/shared/training_data.ts";
import { TUNING_FLAGS, tuningSettings } from "../cli/flags/tuning_flags.ts";
import { loadGpu, WEBGPU_CHOICES } from "../cli/flags/webgpu.ts";
import { assetPath } from "../cli/process/places.ts";

/** What was seen of one format. */
interface Seen {
  /** Bytes of the weights, by formula. */
  readonly weightBytes: number;
  /** Bytes in use after a step; among them what software adapters copy. */
  readonly liveBytes: number;
  /** Logits of the first validation batch. */
  readonly logits: Float32Array;
  /** Mean over the validation batches. */
  readonly loss: number;
  /** Milliseconds of each timed step. */
  readonly steps: readonly number[];
}

/** Loads a base in a format, evaluates it, and takes LoRA steps on it; nothing is left. */
async function measure(
  engine: Engine,
  model: ModelFolder,
  format: BaseWeights,
  valid: readonly TokenBatch[],
  steps: number,
): Promise<Seen> {
  using base = loadLayers(engine, model, { baseWeights: format });
  using ends = loadEmbeddingAndHead(engine, model, { baseWeights: format });
  let loss = 0;
  let logits: Float32Array | null = null;
  for (const batch of valid) {
    using tape = new Tape(engine, { training: false });
    const hidden = await base.forward(
      tape,
      tape.variable(embedTokens(ends, batch), { needsGradient: false }),
      batch,
      null,
    );
    const { losses } = modelLoss(ends, hidden.value, batch, { labelSmoothing: 0, gradient: false });
    loss += sumLosses(await engine.read(losses)) / valid.length;
    for (const part of losses) part.dispose();
    if (logits === null) {
      // Of places that count, 64 at most: a row has as many numbers as the vocabulary.
      const counted = [...batch.mask.keys()].filter((i) => batch.mask[i] !== 0).slice(0, 64);
      using rows = logitsOf(ends, hidden.value, Uint32Array.from(counted));
      logits = await rows.read();
    }
  }
  const { layers, heads } = base.shape;
  const settings = tuningSettings({ ...DEFAULTS, steps: steps + 1 });
  const modules = new HeadModules(engine, {
    ...settings,
    ...base.shape,
    range: { first: 0, count: heads },
  });
  using local = new LocalHeads([modules]);
  let next = 0;
  const data = new LocalData(
    ends,
    { labelSmoothing: 0.1 },
    () => ({ batch: valid[next++ % valid.length]!, mode: "train" }),
  );
  const times: number[] = [];
  for (let step = 0; step <= steps; step++) {
    const started = performance.now();
    const batch = (await data.next(step))!;
    await runStep({ engine, base, heads: local, data }, step, batch, new Uint8Array(layers * heads));
    await engine.idle();
    if (step > 0) times.push(performance.now() - started); // the first one compiles
  }
  return {
    weightBytes: baseWeightBytes(model.config, format).total,
    liveBytes: engine.stats.liveBytes,
    logits: logits!,
    loss,
    steps: times,
  };
}

const DEFAULTS = withDefaults(TUNING_FLAGS, {});

async function main(): Promise<void> {
  const flags = readFlags({
    name: "bench_weights.ts",
    about: "Compares formats of a frozen base: memory, error of the logits, validation loss, time of a step.",
    examples: [
      "deno run -A bench/weights.ts",
      "deno run -A bench/weights.ts --model my_gpt2 --batch 2 --length 256 --rounds 3",
    ],
  }, {
    model: text("DIR", assetPath("tiny_gpt2"), "folder of the base model"),
    valid: text("FILE", assetPath("restaurant/valid.txt"), "validation data"),
    ...DATA_FLAGS,
    batch: integer("N", 8, "sequences of a step", { min: 1 }),
    length: integer("N", 80, "tokens of a sequence", { min: 2 }),
    "valid-batches": integer("N", 8, "batches of validation data", { min: 1 }),
    steps: integer("N", 5, "timed steps of each round", { min: 1 }),
    rounds: integer("N", 5, "rounds, in each of which every format has its turn", { min: 1 }),
    webgpu: text("NAME", "deno", "WebGPU implementation", WEBGPU_CHOICES),
    report: text("FILE", "", "write a report as JSON"),
  });
  const model = await loadModelFolder(flags.model);
  const tokenizer = await loadModelTokenizer(flags.model);
  const set = await loadTrainingSet(flags.valid, { ...flags, encoder: tokenizer });
  const valid = fixedBatches(set, flags.batch).slice(0, flags["valid-batches"]);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const rounds: Map<BaseWeights, Seen>[] = [];
  for (let round = 0; round < flags.rounds; round++) {
    const seen = new Map<BaseWeights, Seen>();
    for (const format of BASE_WEIGHTS) {
      seen.set(
        format,
        await measure(engine, model, format, round === 0 ? valid : valid.slice(0, 1), flags.steps),
      );
    }
    rounds.push(seen);
  }
  const plain = rounds[0]!.get("f32")!;
  const fastest = (format: BaseWeights) => Math.min(...rounds.flatMap((seen) => seen.get(format)!.steps));
  const rows = BASE_WEIGHTS.map((format) => {
    const { weightBytes, liveBytes, logits, loss } = rounds[0]!.get(format)!;
    const differences = logits.map((x, i) => Math.abs(x - plain.logits[i]!));
    const rootMeanSquare = (values: Float32Array) =>
      Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
    return {
      format,
      weightBytes,
      liveBytes,
      largest: differences.reduce((a, b) => Math.max(a, b), 0),
      rms: rootMeanSquare(differences),
      relative: rootMeanSquare(differences) / rootMeanSquare(plain.logits),
      loss,
      // The fastest, as whatever else the machine does only adds time.
      ms: fastest(format),
      ratio: fastest(format) / fastest("f32"),
    };
  });
  const mega = (bytes: number) => (bytes / 1e6).toFixed(2);
  const table = [
    [
      "format",
      "weights, MB",
      "in use, MB",
      "logits: RMS",
      "largest",
      "RMS, relative",
      "loss",
      "ms a step",
      "of f32",
    ],
    ["---", "---", "---", "---", "---", "---", "---", "---", "---"],
    ...rows.map((row) => [
      row.format,
      mega(row.weightBytes),
      mega(row.liveBytes),
      row.rms.toPrecision(2),
      row.largest.toPrecision(2),
      `${(100 * row.relative).toPrecision(2)} %`,
      row.loss.toFixed(4),
      row.ms.toFixed(0),
      row.ratio.toFixed(2),
    ]),
  ];
  console.log(table.map((cells) => `| ${cells.join(" | ")} |`).join("\n"));
  await writeReport(flags.report, { adapter: engine.adapterName, settings: flags, rows });
}

if (import.meta.main) await runProgram(main);
