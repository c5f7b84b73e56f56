/**
 * The whole thing on one machine: an edge server and three user devices as separate processes,
 * fine-tuning a small GPT-2 together over WebSocket, with heads pruned as they go.
 *
 * @module
 */

import {
  adapterOrigin,
  chatTemplateOf,
  claimFolder,
  joinAdapters,
  loadAdapter,
  loadModelConfig,
  type ReadExamples,
  saveAdapter,
} from "@edgetuner/core";
import { codecChoice } from "../flags/codecs.ts";
import { emulatedLink } from "../flags/connection.ts";
import { parseGiven, UsageError, withDefaults } from "../flags/flags.ts";
import { prunerFlags } from "../flags/pruners.ts";
import { NEWEST, type ParameterCounts, parameterText } from "../flags/run_flags.ts";
import { tuningSettings } from "../flags/tuning_flags.ts";
import { requireWaits } from "../flags/waiting_flags.ts";
import { peakMemory, versions, writeReport } from "../output/report.ts";
import { goOnCommand, type RunEnd, tellEnd } from "../output/run_end.ts";
import { command, type CommandRun } from "../process/command.ts";
import { type EndingName, worstEnding } from "../process/exit_codes.ts";
import type { Call } from "../process/invocation.ts";
import { commandText, shownPath } from "../process/places.ts";
import { requireWritable } from "../process/writable.ts";
import { type DemoFlags, FLAGS, PERSONA_FLAGS } from "../shared/demo/flags.ts";
import { DemoLog } from "../shared/demo/log.ts";
import { type DemoDevice, DemoProcesses } from "../shared/demo/processes.ts";
import { compare, type Comparison } from "../shared/demo/samples.ts";
import { commonState, goesOn, partiesOf } from "../shared/demo/states.ts";
import { show, summarise, type Summary } from "../shared/demo/summary.ts";
import { type ChosenFlags, chosenWith, rankText, readFitted, tellSettings } from "../shared/fitting.ts";
import { readExamples, withEpochs } from "../shared/training_data.ts";
import { requirePlan } from "../shared/training_plan.ts";

export { FLAGS } from "../shared/demo/flags.ts";

const PROGRAM = {
  name: "demo.ts",
  about: "Starts an edge server and user devices as processes and fine-tunes a small GPT-2 with them.",
  examples: [
    "edgetuner demo",
    "edgetuner demo --pruner none --steps 40",
    "edgetuner demo --bandwidth 20 --latency 5   # every link: 20 Mbit/s, 5 ms",
    "edgetuner demo --latency 20 --micro-batches 2 --codec f16",
    "edgetuner demo --resume   # after it was interrupted or killed",
    "edgetuner demo --model MODEL --persona   # a chat model gets another voice",
  ],
};

/** The flags, and what they mean together. */
interface Options {
  readonly flags: DemoFlags;
  /** Those that were chosen to fit the model. */
  readonly chosen: ChosenFlags;
  readonly pruner: ReturnType<typeof prunerFlags>;
  readonly codec: Awaited<ReturnType<typeof codecChoice>>;
  readonly capacities: readonly number[];
  /** Folder of the run. */
  readonly out: string;
  /** Data whose prompts are continued before and after. */
  readonly test: ReadExamples;
}

/** Reads all that is wrong before four processes start. */
async function readOptions(call: Call): Promise<Options> {
  const early = parseGiven(PROGRAM, FLAGS, call);
  const all = early.given.persona ? PERSONA_FLAGS : FLAGS;
  if (early.given.persona && !early.isToPrint) await requireChatModel(withDefaults(all, early.given));
  const { given, flags: fitted, chosen } = await readFitted(PROGRAM, all, call);
  const flags = await withEpochs(fitted);
  const pruner = prunerFlags("demo.ts", flags, given);
  const out = flags.resume === "" || flags.resume === NEWEST ? flags.out : flags.resume;
  const capacities = flags.capacities.split(",").map(Number);
  if (capacities.length === 0 || capacities.some((c) => !(c > 0))) {
    throw new UsageError(
      `Cannot run demo.ts as --capacities must be positive numbers: current value is "${flags.capacities}"`,
    );
  }
  requireWaits("demo.ts", flags);
  requirePlan("demo.ts", flags);
  await emulatedLink(flags);
  await requireWritable("demo.ts", { files: { report: flags.report }, folders: { out } });
  for (const file of [flags.data, flags.valid]) await readExamples(file, flags, () => {});
  const test = await readExamples(flags.test, flags);
  const codec = await codecChoice(flags.codec);
  return { flags, chosen: chosenWith(pruner, chosen), pruner, out, capacities, test, codec };
}

/** Refuses to give a voice to a model that does not chat. */
async function requireChatModel({ model, tokenizer }: DemoFlags): Promise<void> {
  if (await chatTemplateOf(model, tokenizer) !== null) return;
  throw new UsageError(
    `Cannot run demo.ts as --persona needs a --model with a chat template: ${model} has none; ` +
      "a small one that has is HuggingFaceTB/SmolLM2-135M-Instruct",
  );
}

async function main(options: Options, call: Call): Promise<number> {
  const { flags, capacities, out, codec } = options;
  using _claim = await claim(out);
  const parties = partiesOf(capacities.length);
  using log = new DemoLog(out, flags);
  const run = { ...options, form: call.form, goesOn: await goesOn(out, parties, flags.resume) };
  using processes = new DemoProcesses(run, log);
  const address = await processes.startServer();
  await announce(options, log);
  processes.startDevices(address);
  const endings = await processes.ended();
  const { seconds } = log;
  const saved = await saveWhole(options, log, processes.devices);
  const summary = await summarise(log, flags, codec);
  const isDone = worstEnding(endings) === "done" && !processes.wasInterrupted;
  let compared: Comparison | null = null;
  if (saved.isWhole && isDone && log.trained.count > 0) {
    show(log, summary, seconds);
    compared = await compare(`${out}/adapter`, flags, options.test);
  }
  await report(options, log, { saved, summary, compared, seconds });
  console.error("");
  return tellEnd(
    await endOf(options, log, {
      ...{ saved, summary, call },
      ending: processes.wasInterrupted && isGood(endings) ? "interrupted" : worstEnding(endings),
    }),
  );
}

function isGood(endings: readonly EndingName[]): boolean {
  return endings.every((ending) => ending === "done" || ending === "interrupted");
}

/** Takes the folder, for this run alone. */
async function claim(out: string): Promise<Disposable> {
  const claimed = await claimFolder(out);
  if (claimed !== null) return claimed;
  throw new UsageError(
    `Cannot run demo.ts as one run at a time may use ${out}: another one is using it; wait for its end, or name another folder with --out`,
  );
}

/** Says what runs. */
async function announce({ flags, chosen, capacities }: Options, log: DemoLog): Promise<void> {
  if (Deno.stderr.isTerminal()) {
    console.log(`Edge server on ${log.adapter}; ${capacities.length} devices join over ${flags.transport}`);
  }
  const parameters = parameterText(log.server!.parameters as ParameterCounts);
  tellSettings(chosen, parameters, rankText(await loadModelConfig(flags.model), tuningSettings(flags).lora));
}

/** What the devices saved of this run. */
interface Saved {
  /** Those whose heads are there. */
  readonly devices: readonly DemoDevice[];
  /** True if all are: then there is an adapter of them. */
  readonly isWhole: boolean;
}

/** Joins what the devices saved to one adapter, if all did. */
async function saveWhole(
  { flags, out }: Options,
  log: DemoLog,
  devices: readonly DemoDevice[],
): Promise<Saved> {
  /** Devices that have saved heads of this run: those of another one may lie there. */
  const savedWith = async (suffix: string) => {
    const origins = await Promise.all(devices.map(({ folder }) => adapterOrigin(`${folder}${suffix}`)));
    return devices.filter((_, i) => origins[i]?.run === log.run);
  };
  const saved = (await savedWith("")).filter(({ name }) => log.devices.has(name));
  const isWhole = saved.length === devices.length;
  if (!isWhole) return { devices: saved, isWhole };
  const join = async (suffix: string) => {
    const adapters = await Promise.all(devices.map(({ folder }) => loadAdapter(`${folder}${suffix}`)));
    const { steps } = (await adapterOrigin(`${devices[0]!.folder}${suffix}`))!;
    const origin = { run: log.run, steps };
    const previous = await saveAdapter(`${out}/adapter${suffix}`, joinAdapters(adapters), origin);
    if (previous !== null) console.error(`The adapter of another run is kept: ${previous}`);
  };
  await join("");
  // A run that is stopped within its first validation has none.
  if (flags["keep-best"] && (await savedWith("-best")).length === devices.length) await join("-best");
  return { devices: saved, isWhole };
}

/** Writes the report. */
async function report(
  { flags, out }: Options,
  log: DemoLog,
  { saved, summary, compared, seconds }: {
    readonly saved: Saved;
    readonly summary: Summary;
    readonly compared: Comparison | null;
    readonly seconds: number;
  },
): Promise<void> {
  await writeReport(flags.report, {
    versions: versions(),
    settings: flags,
    adapter: log.adapter,
    adapterFolder: saved.isWhole ? `${out}/adapter` : null,
    parameters: log.server?.parameters ?? null,
    data: { ...log.data, test: compared?.counts ?? null },
    validations: log.validations,
    best: log.best,
    run: log.server,
    devices: Object.fromEntries(log.devices),
    summary,
    steps: log.steps,
    losses: log.losses,
    slots: compared?.slots ?? null,
    samples: compared?.samples ?? [],
    seconds,
    peakMemoryBytes: peakMemory(),
  });
}

/** How it went. */
async function endOf(
  { flags, capacities, out }: Options,
  log: DemoLog,
  { saved, summary: { validBefore, validAfter }, ending, call }: {
    readonly saved: Saved;
    readonly summary: Summary;
    readonly ending: EndingName;
    readonly call: Call;
  },
): Promise<RunEnd> {
  const { last } = log.trained;
  const state = await commonState(out, log.run, partiesOf(capacities.length));
  const model = flags.model === FLAGS.model.default ? [] : ["--model", shownPath(flags.model)];
  return {
    ending,
    why: ending === "interrupted" ? "interrupted" : "",
    done: `${last === null ? 0 : last.step + 1} steps`,
    losses: validBefore === null || validAfter === null
      ? null
      : { kind: "validation loss", before: validBefore, after: validAfter },
    best: log.best,
    next: !saved.isWhole ? "" : commandText(
      flags.persona ? "chat" : "generate.ts",
      ["--adapter", `${out}/adapter`, ...(flags.persona ? [] : ["--count", "3"]), ...model],
      call.form,
    ),
    saved: [
      ...savedTexts(flags, log, { ...saved, out, all: capacities.length }),
      ...(state === null ? [] : [`the state of step ${state.step} in ${out}`]),
    ],
    state,
    command: ending === "failed" ? "" : goOnCommand(call, "demo.ts", state),
  };
}

/** What was saved and where, in words. */
function savedTexts(
  flags: DemoFlags,
  { best }: DemoLog,
  { devices, isWhole, out, all }: Saved & { readonly out: string; readonly all: number },
): string[] {
  if (!isWhole) {
    const folders = devices.map(({ folder }) => folder).join(", ");
    return devices.length === 0
      ? []
      : [`the heads of ${devices.length} of ${all} devices in ${folders}, no whole adapter`];
  }
  if (!flags["keep-best"] || best === null || best.step === 0) return [`the adapter in ${out}/adapter`];
  return [
    `the adapter in ${out}/adapter`,
    `the one of the lowest validation loss, ${
      best.loss.toFixed(3)
    } after ${best.step} steps, in ${out}/adapter-best`,
  ];
}

/** Runs the command. */
export const run: CommandRun = command(readOptions, main);
