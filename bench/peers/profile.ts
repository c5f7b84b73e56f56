/**
 * Where the time of EdgeTuner's LoRA step goes: by kernel, by thread, and what is recorded for it.
 *
 * @module
 */

import type { KernelTime } from "@edgetuner/kernels";
import { writeWhole } from "@edgetuner/core";
import { parseArgs } from "node:util";
import { startOurs } from "./ours.ts";
import { medianOf, ProductMeter } from "./products.ts";
import { describeMachine, loadNow, machineText, numberText, tableText } from "./report.ts";
import { flopsOf, SHAPES, stepFlops, stepProducts, type StepShape } from "./shapes.ts";

const HELP = `Where the time of EdgeTuner's LoRA step goes

  deno run -A profile.ts [options]

Options [default]
  --shape NAME    A or B, see step.ts [A]
  --mode MODE     full, slice or core [full]
  --steps N       steps of each measurement, after two that compile [10]
  --json FILE     write the figures to a file too
  --help          this text`;

/** Steps at the start that are not counted. */
const WARM = 2;
/** Clock ticks of /proc a second. */
const TICKS = 100;

const MAIN = "main thread: JavaScript, recording";
const COLLECTOR = "V8's helpers: collector, compiler";
const ADAPTER = "the adapter: kernels, copies, submitting";

type Mode = "full" | "slice" | "core";

/** Processor milliseconds so far of this process's threads, by what they do; none where the system does not tell. */
async function threadMs(): Promise<Map<string, number>> {
  const sums = new Map<string, number>();
  try {
    for await (const { name } of Deno.readDir("/proc/self/task")) {
      const stat = await Deno.readTextFile(`/proc/self/task/${name}/stat`).catch(() => null);
      if (stat === null) continue;
      const end = stat.lastIndexOf(")");
      const thread = stat.slice(stat.indexOf("(") + 1, end);
      const [user, system] = stat.slice(end + 2).split(" ").slice(11, 13).map(Number);
      const kind = name === String(Deno.pid) ? MAIN : thread.startsWith("V8") ? COLLECTOR : ADAPTER;
      sums.set(kind, (sums.get(kind) ?? 0) + (user! + system!) * 1000 / TICKS);
    }
  } catch { /* not Linux */ }
  return sums;
}

/** Sizes of copies into textures, as [columns, rows], while `count` runs: what matrix products read. */
async function texturesOf(count: () => Promise<void>): Promise<[number, number][]> {
  const sizes: [number, number][] = [];
  const { prototype } = GPUCommandEncoder;
  const { copyBufferToTexture } = prototype;
  prototype.copyBufferToTexture = function (source, target, size) {
    const [width = 1, height = 1] = size as number[];
    sizes.push([width, height]);
    return copyBufferToTexture.call(this, source, target, size);
  };
  try {
    await count();
  } finally {
    prototype.copyBufferToTexture = copyBufferToTexture;
  }
  return sizes;
}

/** What steps took on an engine that does not time kernels. */
async function plainSteps(shape: StepShape, mode: Mode, steps: number) {
  await using system = await startOurs({ shape, mode });
  for (let i = 0; i < WARM; i++) await system.step();
  const counters = ["dispatches", "submits", "readbacks", "readbackMs"] as const;
  const read = () => counters.map((name) => system.engine.stats[name]);
  const [counted, threads] = [read(), await threadMs()];
  const times: number[] = [];
  for (let i = 0; i < steps; i++) {
    const before = performance.now();
    await system.step();
    times.push(performance.now() - before);
  }
  const [after, threadsAfter] = [read(), await threadMs()];
  const textures = await texturesOf(async () => {
    await system.step();
  });
  return {
    medianMs: medianOf(times),
    minMs: Math.min(...times),
    textures,
    counts: counters.map((name, i) => ({ name, perStep: (after[i]! - counted[i]!) / steps })),
    threads: [...threadsAfter].map(([name, ms]) => ({
      name,
      perStep: (ms - (threads.get(name) ?? 0)) / steps,
    })),
  };
}

/** What each kernel of a step took: the median of steps, so that a burst of load does not count. */
async function kernelTimes(shape: StepShape, mode: Mode, steps: number): Promise<KernelTime[]> {
  await using system = await startOurs({ shape, mode }, { profile: true });
  for (let i = 0; i < WARM; i++) await system.step();
  await system.engine.profile();
  const all = new Map<string, { runs: number; ms: number[] }>();
  for (let i = 0; i < steps; i++) {
    await system.step();
    for (const { kernel, runs, ms } of await system.engine.profile()) {
      const own = all.get(kernel) ?? { runs, ms: [] };
      own.ms.push(ms);
      all.set(kernel, own);
    }
  }
  return [...all].map(([kernel, { runs, ms }]) => ({ kernel, runs, ms: medianOf(ms) }))
    .sort((a, b) => b.ms - a.ms);
}

/** The step's products at the speed that products reach here and now: by the clock, and in processor time. */
async function floorOf(shape: StepShape, samples: number) {
  const products = stepProducts(shape);
  using meter = await ProductMeter.create(products);
  const before = (await threadMs()).get(ADAPTER) ?? NaN;
  for (let i = 0; i < samples; i++) await meter.sample();
  const processorMs = ((await threadMs()).get(ADAPTER) ?? NaN) - before;
  const sampled = products.reduce((sum, product) => sum + flopsOf({ ...product, count: 1 }), 0);
  const work = products.reduce((sum, product) => sum + flopsOf(product), 0);
  const ms = meter.results().reduce((sum, { product, median }) => sum + product.count * median, 0);
  const flops = stepFlops(shape);
  return { ms: flops * ms / work, processorMs: flops * processorMs / samples / sampled };
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    args: Deno.args,
    options: {
      shape: { type: "string", default: "A" },
      mode: { type: "string", default: "full" },
      steps: { type: "string", default: "10" },
      json: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  const steps = Number(values.steps);
  const shape = SHAPES[values.shape];
  if (shape === undefined || !["full", "slice", "core"].includes(values.mode) || !(steps >= 1)) {
    console.error(
      "Cannot profile as --shape must be A or B, --mode full, slice or core, and --steps at least 1",
    );
    return 2;
  }
  const mode = values.mode as Mode;
  const machine = await describeMachine();
  console.log(`${machineText(machine)}\n`);
  const plain = await plainSteps(shape, mode, steps);
  const kernels = await kernelTimes(shape, mode, steps);
  const floor = await floorOf(shape, steps);
  const sum = kernels.reduce((total, { ms }) => total + ms, 0);
  const dispatched = kernels.reduce((total, { runs }) => total + runs, 0);
  console.log(
    `Shape ${values.shape}, mode ${mode}: median ${numberText(plain.medianMs)} ms a step, best ${
      numberText(plain.minMs)
    }; the products alone ${numberText(floor.ms)} ms\n`,
  );
  const texels = plain.textures.reduce((total, [columns, rows]) => total + columns * rows, 0);
  console.log(tableText([
    ["a step", ""],
    ...plain.counts.map((c) => [c.name, numberText(c.perStep)]),
    ["copies to textures", `${plain.textures.length}`],
    ["MB of them", numberText(texels * 16 / 1e6)],
  ]));
  console.log(
    `\n${
      tableText([["processor time", "ms"], ...plain.threads.map((t) => [t.name, numberText(t.perStep)]), [
        "products alone, with copies of their operands",
        numberText(floor.processorMs),
      ]])
    }\n`,
  );
  console.log(tableText([
    ["kernel", "runs", "ms", "share"],
    ...kernels.map((k) => [k.kernel, `${k.runs}`, numberText(k.ms), `${(100 * k.ms / sum).toFixed(1)} %`]),
    ["all", `${dispatched}`, numberText(sum), "100 %"],
  ]));
  console.log(`\nload at the end ${loadNow().join(" ")}`);
  if (values.json !== undefined) {
    await writeWhole(values.json, JSON.stringify({ machine, mode, shape, plain, kernels, floor }));
  }
  return 0;
}

Deno.exit(await main());
