/**
 * Shows that memory does not grow with the steps of a run: an edge server and a device in this process train a tiny
 * model, and everything that a program keeps of a step is kept here too: rows of a report, metrics, figures, and an
 * event stream that is read slowly.
 *
 * @module
 */

import {
  EdgeServer,
  gpt2Config,
  initialWeights,
  loadEmbeddingAndHead,
  loadLayers,
  runUserDevice,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { randomPruner } from "@edgetuner/plugins";
import { inProcessTransport } from "@edgetuner/transport";
import { createControlApp, stepJson } from "@edgetuner/transport/server";
import { integer, readFlags, runProgram, text, toggle } from "../cli/flags/flags.ts";
import { Interrupts } from "../cli/process/interrupts.ts";
import { runAsUsersDo } from "../cli/process/launch.ts";
import { MetricsLog } from "../cli/output/metrics.ts";
import { bytes } from "../cli/output/progress.ts";
import { MemoryLog, versions, writeReport } from "../cli/output/report.ts";
import { Rows, StepFigures } from "../cli/output/rows.ts";
import { INTERRUPTED } from "../cli/process/supervisor.ts";
import { TUNING_FLAGS, tuningSettings } from "../cli/flags/tuning_flags.ts";
import { loadGpu, WEBGPU_CHOICES } from "../cli/flags/webgpu.ts";

/** As small as head modules allow. */
const SHAPE = { n_layer: 1, n_head: 2, n_embd: 8, vocab_size: 32, n_positions: 8 };

/** Parts of a process's memory after a step, in bytes. */
interface MemoryLine {
  readonly step: number;
  readonly resident: number;
  /** What JavaScript holds in this thread; with it, garbage that V8 has not collected. */
  readonly heap: number;
  /** What V8 has reserved for that. */
  readonly reservedHeap: number;
  /** Array buffers and the like outside the heap. */
  readonly external: number;
  /** Buffers of the GPU; a software driver has them in the memory of the process. */
  readonly gpu: number;
  /** What else is resident: the runtime's own memory, the driver's, code. */
  readonly rest: number;
}

/** The parts that grow or do not, by the name that is printed. */
const PARTS = {
  resident: "resident",
  heap: "heap",
  reservedHeap: "heap reserved",
  external: "external",
  gpu: "GPU buffers",
  rest: "rest",
} as const;

function memoryAfter(step: number, engine: Engine): MemoryLine {
  const { rss, heapUsed, heapTotal, external } = Deno.memoryUsage();
  const gpu = engine.stats.allocatedBytes;
  return {
    ...{ step, resident: rss, heap: heapUsed, reservedHeap: heapTotal, external, gpu },
    rest: rss - heapTotal - external - gpu,
  };
}

function shown(line: MemoryLine): string {
  const parts = Object.entries(PARTS).map(([key, name]) =>
    `${name} ${bytes(line[key as keyof typeof PARTS])}`
  );
  return `${line.step} steps  ${parts.join("  ")}`;
}

/** Bytes per 1,000 steps of each part, by least squares over the lines from 1,000 steps on. */
function growth(lines: readonly MemoryLine[]): string[] {
  const later = lines.filter(({ step }) => step >= 1000);
  if (later.length < 2) return [];
  const mean = (of: (line: MemoryLine) => number) => later.reduce((sum, l) => sum + of(l), 0) / later.length;
  const middle = mean((l) => l.step);
  const spread = mean((l) => (l.step - middle) ** 2);
  const slopes = Object.entries(PARTS).map(([key, name]) => {
    const slope = 1000 * mean((l) => (l.step - middle) * l[key as keyof typeof PARTS]) / spread;
    return `${name} ${slope < 0 ? "-" : "+"}${bytes(Math.abs(slope))}`;
  });
  return [`Per 1,000 steps after the first 1,000: ${slopes.join("  ")}`];
}

async function main(): Promise<number> {
  const flags = readFlags({
    name: "bench_records.ts",
    about: "Trains a tiny model for many steps and prints the resident memory as it goes.",
    examples: [
      "deno run -A bench/records.ts   # with the flags of V8 that the command runs with",
      "deno run -A bench/records.ts --collect   # collects garbage before each figure",
      "deno run -A bench/records.ts --here   # in this process, with the flags of V8 that it has",
    ],
  }, {
    collect: toggle("collect garbage before each figure, so that they are those of what is held"),
    here: toggle("measure this process instead of one with the flags of V8 that users have"),
    ...TUNING_FLAGS,
    steps: integer("N", 10_000, "training steps", { min: 1 }),
    every: integer("N", 1000, "steps between two lines", { min: 1 }),
    webgpu: text("NAME", "deno", "WebGPU implementation", WEBGPU_CHOICES),
    report: text("FILE", "", "write the figures as JSON"),
  });
  if (!flags.here) {
    const args = [import.meta.url, "--here", ...Deno.args];
    return await runAsUsersDo(args, flags.collect ? ["--expose-gc"] : []);
  }
  const folder = await Deno.makeTempDir();
  const gpu = await loadGpu(flags.webgpu);
  using engine = await Engine.create({ gpu });
  const config = gpt2Config(SHAPE);
  const model = { config, weights: initialWeights(config, flags.seed) };
  using base = loadLayers(engine, model);
  using ends = loadEmbeddingAndHead(engine, model);
  const settings = tuningSettings(flags);
  const server = new EdgeServer({
    ...{ engine, base, settings, fingerprint: "tiny", devices: 1 },
    pruner: randomPruner({ share: 0.5 }),
  });
  using interrupts = new Interrupts(() => server.stop("interrupted"));
  const app = createControlApp({
    runs: new Map([[server.run, server]]),
    joinToken: crypto.randomUUID(),
    adminToken: flags.seed.toString().padStart(8, "0"),
  });
  using rows = Rows.of(`${folder}/report.json`, "steps");
  using metrics = new MetricsLog(folder);
  const figures = new StepFigures();
  const log = new MemoryLog();
  const lines: MemoryLine[] = [];
  server.subscribe((event) => {
    if (event.type !== "step") return;
    const { record } = event;
    rows.add(stepJson(record));
    metrics.write({ step: record.step, loss: record.loss, seconds: record.times.total / 1000 });
    figures.add(record);
    log.sample(record.step);
    if ((record.step + 1) % flags.every !== 0) return;
    if (flags.collect) (globalThis as { readonly gc?: () => void }).gc?.();
    const line = memoryAfter(record.step + 1, engine);
    lines.push(line);
    console.log(`${shown(line)}  loss ${record.loss?.toFixed(3)}  ${figures.medianMs.toFixed(1)} ms a step`);
  });
  const events = await app.request(`/api/runs/${server.run}/events`, {
    headers: { authorization: `Bearer ${flags.seed.toString().padStart(8, "0")}` },
  });
  const tokens = Uint32Array.from({ length: 8 }, (_, i) => (7 * i) % SHAPE.vocab_size);
  const batch = { tokens, targets: tokens, mask: new Float32Array(8).fill(1), batch: 1, length: 8 };
  const { transport, listener } = inProcessTransport();
  const joining = listener.accept().then((channel) => server.join(channel!));
  const far = await transport.connect();
  const device = runUserDevice({
    ...{ engine, channel: far, name: "device", capacity: 1 },
    data: {
      ...{ ends, loss: { labelSmoothing: 0 }, fingerprint: "tiny", shareLoss: true },
      next: (step) => step < flags.steps ? { batch, mode: "train" } : null,
    },
  });
  const reading = (async () => {
    for await (const _ of events.body ?? []) { /* as they come */ }
  })();
  await server.start();
  const result = await device;
  await Promise.all([joining, reading]);
  result.modules?.[Symbol.dispose]();
  await listener[Symbol.asyncDispose]();
  await writeReport(`${folder}/report.json`, { steps: rows });
  const { size } = await Deno.stat(`${folder}/report.json`);
  console.log(`The report holds all ${rows.count} steps: ${bytes(size)}`);
  for (const text of growth(lines)) console.log(text);
  await writeReport(flags.report, { versions: versions(), adapter: engine.adapterName, lines });
  await Deno.remove(folder, { recursive: true });
  return interrupts.asked ? INTERRUPTED : 0;
}

if (import.meta.main) await runProgram(main);
