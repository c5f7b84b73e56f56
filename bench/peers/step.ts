/**
 * One LoRA step (forward, loss, backward, Adam; rank 8 on Q and V) on EdgeTuner, jax-js and
 * TensorFlow.js: the same weights, the same batch, the same adapter, a process each, taking turns. PyTorch on the
 * processor stands beside them where a Python that has it is given.
 *
 * @module
 */

import { writeWhole } from "@edgetuner/core";
import { parseArgs } from "node:util";
import { MARK, type Report } from "./child.ts";
import { medianOf, ProductMeter } from "./products.ts";
import { describeMachine, loadNow, machineText, numberText, tableText } from "./report.ts";
import { flopsOf, SHAPES, stepFlops, stepProducts, type StepShape } from "./shapes.ts";
import { torchModel } from "./torch_model.ts";

const SYSTEMS = ["ours", "jax", "tfjs"] as const;
type SystemName = typeof SYSTEMS[number] | "torch";

const TORCH_SCRIPT = new URL("./system_torch.py", import.meta.url).pathname;

/** Losses of step 0 may differ by this. */
const TOLERANCE = 1e-3;

const HELP = `Milliseconds of a LoRA step on EdgeTuner, jax-js and TensorFlow.js, all on WebGPU

  deno run -A step.ts [options]

Options [default]
  --shape NAME    A, B or A,B [A,B]
                  A: 4 layers, d 128, 4 heads, vocabulary 512, batch 8 x 64
                  B: 2 layers, d 768, 12 heads, vocabulary 50257, batch 1 x 128
  --only NAMES    some of ours,jax,tfjs [all]
  --rounds N      steps of each system after its first one, taking turns [5]
  --mode MODE     LoRA of EdgeTuner: full, or slice, whose losses cannot be compared [full]
  --whole         let the peers keep the vocabulary table in one piece even if no binding holds it
  --warm-cache    use the driver's own shader cache instead of an empty one for each system
  --timeout N     seconds that one step may take [600]
  --python PATH   a Python that has torch: PyTorch on the processor takes part too
  --json FILE     write the figures to a file too
  --help          this text`;

/** What became of a system. */
interface SystemResult {
  readonly system: SystemName;
  readonly about: string;
  readonly startMs: number;
  readonly firstMs: number;
  readonly medianMs: number;
  readonly minMs: number;
  readonly stepsMs: readonly number[];
  /** Median processor time of all threads: it hardly moves with the machine's load. */
  readonly processorMs: number;
  readonly losses: readonly number[];
  readonly peakBytes: number;
  /** `ok`, or what is wrong. */
  readonly verdict: string;
}

/** A child process and what it said. */
class Child implements AsyncDisposable {
  readonly system: SystemName;
  about = "";
  startMs = NaN;
  peakBytes = NaN;
  error: string | null = null;
  readonly times: number[] = [];
  readonly processorTimes: number[] = [];
  readonly losses: number[] = [];
  readonly #process: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reports: AsyncIterator<Report>;
  readonly #complaints: Promise<string>;
  readonly #timeoutMs: number;

  constructor(
    system: SystemName,
    { program, args, env, timeoutMs }: {
      readonly program: string;
      readonly args: readonly string[];
      readonly env: Record<string, string>;
      readonly timeoutMs: number;
    },
  ) {
    this.system = system;
    this.#timeoutMs = timeoutMs;
    this.#process = new Deno.Command(program, {
      args: [...args],
      cwd: import.meta.dirname!,
      env,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#input = this.#process.stdin.getWriter();
    this.#reports = reportsOf(this.#process.stdout);
    this.#complaints = new Response(this.#process.stderr).text();
  }

  /** Waits until the system has its weights. */
  async ready(): Promise<void> {
    const report = await this.#next();
    if (report?.kind === "ready") {
      this.about = report.about;
      this.startMs = report.ms;
    }
  }

  /** Has it take a step, unless it failed before. */
  async step(): Promise<void> {
    if (this.error !== null) return;
    await this.#input.write(new TextEncoder().encode("step\n")).catch(() => {});
    const report = await this.#next();
    if (report?.kind === "step") {
      this.times.push(report.ms);
      this.processorTimes.push(report.processorMs);
      this.losses.push(Number(report.loss));
    }
  }

  /** Ends it, and takes its peak memory. */
  async end(): Promise<void> {
    if (this.error !== null) return;
    await this.#input.close().catch(() => {});
    const report = await this.#next();
    if (report?.kind === "end") this.peakBytes = report.peakBytes;
  }

  /** GPU errors that it wrote to standard error, the first line of the first one. */
  async gpuError(): Promise<string | null> {
    const text = await this.#complaints;
    return /^.*(?:uncaptured|validation error|GPUValidationError|exceeds).*$/im.exec(text)?.[0].trim() ??
      null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#process.kill();
    } catch { /* it has ended */ }
    await this.#process.status;
  }

  async #next(): Promise<Report | null> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<"late">((resolve) => timer = setTimeout(() => resolve("late"), this.#timeoutMs));
    const result = await Promise.race([this.#reports.next(), late]);
    clearTimeout(timer);
    if (result === "late") {
      this.error = `no answer in ${this.#timeoutMs / 1000} s`;
      this.#process.kill();
      return null;
    }
    if (result.done) {
      const { code } = await this.#process.status;
      this.error = `ended with code ${code}: ${(await this.#complaints).trim().split("\n").at(-1) ?? ""}`;
      return null;
    }
    if (result.value.kind === "failed") this.error = result.value.error;
    return result.value;
  }
}

async function* reportsOf(stream: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<Report, void> {
  let rest = "";
  for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (line.startsWith(MARK)) yield JSON.parse(line.slice(MARK.length)) as Report;
    }
  }
}

/** What is wrong with a system's losses, if anything. */
function verdictOf(child: Child, expected: number | null, gpuError: string | null): string {
  if (child.error !== null) return `failed: ${child.error}`;
  const cause = gpuError === null ? "" : `; it wrote: ${gpuError.slice(0, 160)}`;
  const first = child.losses[0]!;
  if (first === 0) return `silently wrong: the loss is 0${cause}`;
  if (child.losses.some((loss) => !Number.isFinite(loss))) return `wrong: a loss is not finite${cause}`;
  if (expected !== null && Math.abs(first - expected) > TOLERANCE) {
    return `wrong: the loss of step 0 is ${first}, others have ${expected}${cause}`;
  }
  if (child.losses.length > 1 && !(child.losses.at(-1)! < first)) {
    return `wrong: the loss does not fall${cause}`;
  }
  // Even with a loss that looks right: a dispatch that fails leaves what was there before.
  return gpuError === null ? "ok" : `wrong: a GPU error${cause}`;
}

interface Options {
  readonly systems: readonly SystemName[];
  readonly rounds: number;
  readonly mode: string;
  readonly whole: boolean;
  readonly warmCache: boolean;
  /** A Python that has torch; empty for none. */
  readonly python: string;
  readonly timeoutMs: number;
}

async function measure(name: string, shape: StepShape, options: Options) {
  const { systems, rounds, mode, whole, warmCache, timeoutMs } = options;
  const products = stepProducts(shape);
  using meter = await ProductMeter.create(products);
  const folder = await Deno.makeTempDir({ prefix: "edgetuner_bench_" });
  const children: Child[] = [];
  try {
    for (const system of systems) {
      const env: Record<string, string> = {};
      if (!warmCache) {
        env.MESA_SHADER_CACHE_DIR = `${folder}/${system}`;
        await Deno.mkdir(env.MESA_SHADER_CACHE_DIR);
      }
      // Vulkan drivers warn without it.
      if (!Deno.env.get("XDG_RUNTIME_DIR")) env.XDG_RUNTIME_DIR = folder;
      const script = new URL(`./system_${system}.ts`, import.meta.url).href;
      const child = new Child(
        system,
        system === "torch"
          ? { program: options.python, args: [TORCH_SCRIPT, await torchModel(folder, shape)], env, timeoutMs }
          : {
            program: Deno.execPath(),
            args: ["run", "-A", "--quiet", script, name, mode, whole ? "whole" : "pieces"],
            ...{ env, timeoutMs },
          },
      );
      children.push(child);
      await child.ready();
      await child.step();
    }
    for (let round = 0; round < rounds; round++) {
      for (let i = 0; i < children.length; i++) {
        // Next to every step, so that the floor is measured under the same load as the steps.
        await meter.sample();
        await children[(round + i) % children.length]!.step();
      }
    }
    for (const child of children) await child.end();
  } finally {
    for (const child of children) await child[Symbol.asyncDispose]();
    await Deno.remove(folder, { recursive: true });
  }
  const ours = children.find(({ system }) => system === "ours");
  // Without EdgeTuner, or with it in slice mode, the peers are compared with each other.
  const comparable = children.filter(({ system, losses }) =>
    losses[0] !== undefined && losses[0] !== 0 && (system !== "ours" || mode === "full")
  );
  const expected = (comparable.find((child) => child === ours) ?? comparable[0])?.losses[0] ?? null;
  const results: SystemResult[] = [];
  for (const child of children) {
    const compared = child === ours && mode === "slice" ? null : expected;
    const steps = child.times.slice(1);
    results.push({
      system: child.system,
      about: child.about,
      startMs: child.startMs,
      firstMs: child.times[0] ?? NaN,
      medianMs: medianOf(steps),
      minMs: steps.length === 0 ? NaN : Math.min(...steps),
      stepsMs: steps,
      processorMs: medianOf(child.processorTimes.slice(1)),
      losses: child.losses,
      peakBytes: child.peakBytes,
      verdict: verdictOf(child, compared, await child.gpuError()),
    });
  }
  const times = meter.results();
  const work = products.reduce((sum, product) => sum + flopsOf(product), 0);
  const rate = (of: "min" | "median") =>
    work / times.reduce((sum, time) => sum + time.product.count * time[of], 0) / 1e6;
  const flops = stepFlops(shape);
  const gflops = rate("median");
  return {
    shape: name,
    results,
    floor: { flops, gflops, bestGflops: rate("min"), ms: flops / gflops / 1e6 },
  };
}

type Measured = Awaited<ReturnType<typeof measure>>;

function resultText({ shape, results, floor }: Measured, mode: string): string {
  const { n_layer, n_embd, n_head, vocab_size, batch, length } = SHAPES[shape]!;
  const ours = results.find(({ system, verdict }) => system === "ours" && verdict === "ok")?.medianMs ?? NaN;
  const table = tableText([
    [
      "system",
      "median ms",
      "min ms",
      "processor ms",
      "first step ms",
      "peak RSS MB",
      "loss of step 0",
      "times ours",
      "times floor",
    ],
    ...results.map((r) => [
      r.system === "ours" ? `ours (${mode})` : r.system,
      numberText(r.medianMs),
      numberText(r.minMs),
      numberText(r.processorMs),
      numberText(r.firstMs),
      numberText(r.peakBytes / 1e6),
      r.losses[0]?.toFixed(5) ?? "-",
      numberText(r.medianMs / ours),
      numberText(r.medianMs / floor.ms),
    ]),
  ]);
  const verdicts = results.map(({ system, verdict }) => `${system}: ${verdict}`).join("\n");
  return `Shape ${shape}: ${n_layer} layers, d ${n_embd}, ${n_head} heads, vocabulary ${vocab_size}, ` +
    `batch ${batch} x ${length}\n\n${table}\n\n${verdicts}\n` +
    `floor: ${(floor.flops / 1e9).toFixed(2)} GFLOP of products at the ${floor.gflops.toFixed(1)} GFLOP/s ` +
    `measured in this run (best ${floor.bestGflops.toFixed(1)}) = ${numberText(floor.ms)} ms\n`;
}

function isSystem(name: string): name is SystemName {
  return (SYSTEMS as readonly string[]).includes(name);
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    args: Deno.args,
    options: {
      shape: { type: "string", default: "A,B" },
      only: { type: "string", default: SYSTEMS.join() },
      rounds: { type: "string", default: "5" },
      mode: { type: "string", default: "full" },
      whole: { type: "boolean", default: false },
      "warm-cache": { type: "boolean", default: false },
      timeout: { type: "string", default: "600" },
      json: { type: "string" },
      python: { type: "string", default: "" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  const names = values.shape.split(",");
  const known = values.only.split(",").filter(isSystem);
  const systems: SystemName[] = values.python === "" ? known : [...known, "torch"];
  const rounds = Number(values.rounds);
  const timeoutMs = Number(values.timeout) * 1000;
  const valid = names.every((name) => Object.hasOwn(SHAPES, name)) &&
    known.length === values.only.split(",").length && Number.isInteger(rounds) && rounds >= 1 &&
    timeoutMs > 0 &&
    ["full", "slice"].includes(values.mode);
  if (!valid) {
    console.error("Cannot measure as shapes, systems, rounds, mode and timeout must be those of --help");
    return 2;
  }
  const machine = await describeMachine();
  console.log(`${machineText(machine)}\nrounds     ${rounds}, interleaved\n`);
  const measured: (Measured & { readonly loadAfter: readonly number[] })[] = [];
  for (const name of names) {
    const result = await measure(name, SHAPES[name]!, {
      systems,
      rounds,
      mode: values.mode,
      whole: values.whole,
      python: values.python,
      warmCache: values["warm-cache"],
      timeoutMs,
    });
    measured.push({ ...result, loadAfter: loadNow() });
    console.log(resultText(result, values.mode));
    console.log(`load at the end  ${loadNow().join(" ")}\n`);
  }
  if (values.json !== undefined) {
    const text = JSON.stringify(
      { machine, rounds, mode: values.mode, whole: values.whole, shapes: measured },
      null,
      2,
    );
    await writeWhole(values.json, text + "\n");
  }
  return measured.every(({ results }) => results.every(({ verdict }) => verdict === "ok")) ? 0 : 1;
}

try {
  Deno.exit(await main());
} catch (error) {
  // What `parseArgs` refuses is the user's to mend.
  if (!(error instanceof TypeError && "code" in error && `${error.code}`.startsWith("ERR_PARSE_ARGS"))) {
    throw error;
  }
  console.error(error.message);
  Deno.exit(2);
}
