/**
 * A user device: joins an edge server, trains its share of the head modules, and with `--data` also
 * holds the texts, labels and loss.
 *
 * @module
 */

import {
  adapterOf,
  type DataSide,
  encodePrompt,
  fixedBatches,
  loadAdapter,
  loadEnds,
  loadPairs,
  runUserDevice,
  sample,
  saveAdapter,
  warmUp,
  type Welcome,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { integer, number, readFlags, runProgram, text, toggle, UsageError } from "./_support/flags.ts";
import { codecChoice, codecsOf } from "./_support/codecs.ts";
import { CONNECTION_FLAGS, openTransport } from "./_support/connection.ts";
import { MODEL_FLAG, openModel, TOKENIZER_FLAG } from "./_support/model_flags.ts";
import { bytes, ProgressBar } from "./_support/progress.ts";
import { MemoryLog, peakMemory, versions, writeReport } from "./_support/report.ts";
import { DATA_FLAGS, loadTrainingSet, paddingSaved, trainingBatches } from "./_support/training_data.ts";
import { loadGpu, WEBGPU_CHOICES } from "./_support/webgpu.ts";

const FLAGS = {
  server: text(
    "URL",
    "ws://127.0.0.1:8787/join/ws",
    "where to join: ws(s)://.../join/ws, or http(s)://.../join/http through proxies",
  ),
  ...CONNECTION_FLAGS,
  name: text("NAME", "", "name shown to people; else a random one"),
  capacity: number("X", 1, "compute capacity compared with the other devices; 0 = data only, no heads", {
    min: 0,
  }),
  data: text(
    "FILE",
    "",
    "makes this the data device: MR||text lines, or JSONL with prompt and completion, text, or messages",
  ),
  valid: text("FILE", "", "data device: validation data of the same form, evaluated before and after"),
  ...DATA_FLAGS,
  model: { ...MODEL_FLAG, help: `data device: ${MODEL_FLAG.help}` },
  tokenizer: { ...TOKENIZER_FLAG, help: `data device: ${TOKENIZER_FLAG.help}` },
  batch: integer("N", 8, "data device: sequences per step", { min: 1 }),
  length: integer("N", 80, "data device: tokens per sequence", { min: 2 }),
  "valid-batches": integer("N", 4, "data device: batches of validation data to evaluate", { min: 1 }),
  smoothing: number("X", 0.1, "data device: label smoothing in training", { min: 0, max: 0.99 }),
  "share-loss": toggle("data device: tell the edge server the loss of each step"),
  seed: integer("N", 1, "data device: seed of the order of the data", { min: 0, max: 0xffff_ffff }),
  samples: integer("N", 0, "data device: continue the first N prompts of --valid after the last step", {
    min: 0,
  }),
  save: text("DIR", "", "folder for what this device's heads have learnt"),
  load: text(
    "DIR",
    "",
    "what they learnt before, for a run that only generates: see edge_server.ts --generate",
  ),
  codec: text("FILE", "f32", "module of a codec that the run may use; the built-in ones are known anyway"),
  webgpu: text("NAME", "deno", "WebGPU implementation", WEBGPU_CHOICES),
  timeout: number("S", 120, "longest wait for the edge server during the run, in seconds", { min: 0.1 }),
  "join-timeout": number("S", 600, "longest wait for the other devices, in seconds", { min: 0.1 }),
  events: toggle("print what happens as JSON lines"),
  report: text("FILE", "", "write a report as JSON"),
};

/** Losses that the data device saw. */
interface Losses {
  readonly train: number[];
  readonly before: number[];
  readonly after: number[];
}

async function main(): Promise<number> {
  const flags = readFlags({
    name: "user_device.ts",
    about: "Joins an edge server and trains its share of the LoRA head modules.",
    examples: [
      "deno run -A examples/user_device.ts --server ws://192.168.1.20:8787/join/ws --token T --capacity 5",
      "deno run -A examples/user_device.ts --token T --data examples/restaurant/train.txt --save my_heads",
      "deno run -A examples/user_device.ts --token T --load my_heads",
    ],
  }, FLAGS);
  const emit = (event: Record<string, unknown>) => {
    if (flags.events) console.log(JSON.stringify(event));
  };
  const say = (line: string) => {
    if (!flags.events) console.log(line);
  };
  const name = flags.name || `device-${crypto.randomUUID().slice(0, 4)}`;
  const abort = new AbortController();
  let interrupted = false;
  const onInterrupt = () => {
    if (interrupted) Deno.exit(130);
    interrupted = true;
    // The edge server may end the run in good order; if it does not, this device does.
    setTimeout(() => abort.abort(new DOMException("interrupted", "AbortError")), 3000);
  };
  Deno.addSignalListener("SIGINT", onInterrupt);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", onInterrupt);

  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const losses: Losses = { train: [], before: [], after: [] };
  let welcome: Welcome | null = null;
  const adapter = flags.load === "" ? undefined : await loadAdapter(flags.load);
  if (adapter !== undefined && (flags.data !== "" || flags.save !== "" || flags.capacity === 0)) {
    throw new UsageError(
      "Cannot use --load as a device that only generates must have heads, and neither --data nor --save: it has",
    );
  }
  if (flags.samples > 0 && flags.valid === "") {
    throw new UsageError("Cannot use --samples as --valid must be given, whose prompts they are: it is not");
  }
  const data = flags.data === "" ? null : await openData(engine, flags, losses, () => welcome!, emit);
  const transport = openTransport(flags, flags.server, "--server");
  // Before it joins: kernels that compile in a step would make the others wait.
  await warmUp(engine, [...flags.capacity > 0 ? ["heads" as const] : [], ...data ? ["data" as const] : []]);
  const channel = await transport.connect({
    signal: AbortSignal.any([abort.signal, AbortSignal.timeout(flags["connect-timeout"] * 1000)]),
  });
  say(`${name} joined on ${engine.adapterName}; waiting for the other devices`);
  const log = new MemoryLog();
  let bar: ProgressBar | null = null;
  const result = await runUserDevice({
    engine,
    channel,
    name,
    capacity: flags.capacity,
    data: data?.side,
    task: adapter === undefined ? "train" : "generate",
    adapter,
    codecs: await codecsOf((await codecChoice(flags.codec)).module),
    signal: abort.signal,
    timeoutMs: flags.timeout * 1000,
    joinTimeoutMs: flags["join-timeout"] * 1000,
    onWelcome: (w) => {
      welcome = w;
      bar = new ProgressBar(w.settings.steps, flags.events ? false : undefined);
      const heads = w.range === null
        ? "no heads"
        : `heads ${w.range.first} to ${
          w.range.first + w.range.count - 1
        } of each of ${w.model.layers} layers`;
      say(`Run ${w.run}: this device has ${heads}`);
      emit({ type: "welcome", name, range: w.range });
    },
    onStep: (step) => {
      log.sample(step);
      const loss = losses.train.length > 0 ? `loss ${losses.train.at(-1)!.toFixed(3)}` : "";
      bar?.draw(step + 1, loss);
    },
  });
  (bar as ProgressBar | null)?.end();
  if (result.modules !== null && flags.save !== "") {
    await saveAdapter(flags.save, await adapterOf(result.modules, data?.fingerprint ?? ""));
    say(`Saved ${result.modules.parameterCount} parameters to ${flags.save}`);
  }
  const memory = peakMemory();
  const summary = {
    name,
    range: result.welcome.range,
    steps: result.steps,
    losses,
    padding: data === null ? null : paddingSaved(data.batches),
    samples: data?.samples ?? [],
    traffic: result.ledger.entries(),
    peakMemoryBytes: memory,
    memory: log.samples,
    reason: result.reason,
    error: result.error === null ? null : String((result.error as Error).message ?? result.error),
  };
  await writeReport(flags.report, { versions: versions(), adapter: engine.adapterName, ...summary });
  emit({ type: "done", ...summary });
  for (const { prompt, generated } of summary.samples) say(`${prompt}\n  ${generated}`);
  say(
    `${adapter === undefined ? `${result.steps} steps` : "Generation is over"}, ${
      bytes(result.ledger.totalBytes)
    } on the wire${summary.padding === null ? "" : `; ${summary.padding.text}`}`,
  );
  result.modules?.[Symbol.dispose]();
  data?.dispose();
  Deno.removeSignalListener("SIGINT", onInterrupt);
  if (Deno.build.os !== "windows") Deno.removeSignalListener("SIGTERM", onInterrupt);
  if (interrupted) return 130;
  if (result.error !== null) {
    console.error((result.error as Error).message);
    return 1;
  }
  return 0;
}

type Flags = ReturnType<typeof readFlags<typeof FLAGS>>;

/** Loads model ends and texts, and says which batch comes when: validation, all steps, validation. */
async function openData(
  engine: Engine,
  flags: Flags,
  losses: Losses,
  welcome: () => Welcome,
  emit: (event: Record<string, unknown>) => void,
) {
  const { model, tokenizer } = await openModel(flags);
  const ends = loadEnds(engine, model);
  const { length } = flags;
  if (length > ends.shape.positions) {
    throw new UsageError(
      `Cannot use --length ${length} as the model takes at most ${ends.shape.positions} tokens`,
    );
  }
  const set = await loadTrainingSet(flags.data, { ...flags, tokenizer });
  const batches = trainingBatches(set, flags);
  const shortened = set.shortenedPrompts + set.shortenedCompletions;
  if (shortened > 0) {
    console.error(`${shortened} of ${set.sequences.length} examples were cut to ${length} tokens`);
  }
  const valid = flags.valid === ""
    ? []
    : fixedBatches(await loadTrainingSet(flags.valid, { ...flags, tokenizer }), flags.batch).slice(
      0,
      flags["valid-batches"],
    );
  const prompts = flags.samples === 0
    ? []
    : (await loadPairs(flags.valid)).slice(0, flags.samples).map(({ prompt }) => prompt);
  const samples: { readonly prompt: string; readonly generated: string }[] = [];
  let evaluated = 0;
  const side: DataSide = {
    ends,
    loss: { labelSmoothing: flags.smoothing },
    fingerprint: model.fingerprint,
    shareLoss: flags["share-loss"],
    next(step) {
      const { steps } = welcome().settings;
      // Validation before the first and after the last step; what is evaluated starts again for both.
      if (step === 0 && evaluated < valid.length) return { batch: valid[evaluated++]!, mode: "evaluate" };
      if (step < steps) return { batch: batches.next(), mode: "train" };
      if (evaluated < 2 * valid.length) {
        return { batch: valid[evaluated++ - valid.length]!, mode: "evaluate" };
      }
      return null;
    },
    onLoss(step, mode, loss) {
      if (mode === "train") losses.train.push(loss);
      else (step === 0 ? losses.before : losses.after).push(loss);
      emit({ type: "loss", step, mode, loss });
    },
    async generate(session) {
      for (const prompt of prompts) {
        const tokens = await sample(session, encodePrompt(tokenizer, prompt), {
          maxNewTokens: 64,
          endTokens: [tokenizer.eos],
        });
        const generated = tokenizer.decode(tokens.filter((t) => t !== tokenizer.eos)).trim();
        samples.push({ prompt, generated });
      }
    },
  };
  return { side, batches, samples, fingerprint: model.fingerprint, dispose: () => ends[Symbol.dispose]() };
}

if (import.meta.main) await runProgram(main);
