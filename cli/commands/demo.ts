/**
 * The whole thing on one machine: an edge server and three user devices as separate processes,
 * fine-tuning a small GPT-2 together over WebSocket, with heads pruned as they go.
 *
 * @module
 */

import {
  adapterOrigin,
  type BestLoss,
  chatTemplateOf,
  CheckpointError,
  claimFolder,
  type DataCounts,
  findCodec,
  type InputModeName,
  joinAdapters,
  loadAdapter,
  openCheckpoints,
  type ReadExamples,
  saveAdapter,
  setAside,
  stepTraffic,
  type WireCodec,
} from "@edgetuner/core";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { Child, type ChildEvent } from "../process/child.ts";
import { codecChoice, codecsOf } from "../flags/codecs.ts";
import { CONNECTION_FLAGS, emulatedLink } from "../flags/connection.ts";
import { worstOf } from "../process/exit_codes.ts";
import {
  flagArgs,
  type FlagValues,
  type GivenFlags,
  ProgramEnd,
  readGiven,
  text,
  UsageError,
  withDefaults,
} from "../flags/flags.ts";
import { Interrupts } from "../process/interrupts.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { curve, headMap } from "../output/picture.ts";
import { cutText, encodePrompts, endTokens, havePrompts, textOf } from "../shared/prompts.ts";
import { PRUNER_FLAGS, prunerFlags } from "../flags/pruners.ts";
import { Rows, StepFigures } from "../output/rows.ts";
import { bytes, duration, ProgressBar, prunerTime } from "../output/progress.ts";
import { peakMemory, versions, writeReport } from "../output/report.ts";
import {
  CHECKPOINT_FLAGS,
  NEWEST,
  type ParameterCounts,
  parameterText,
  PROGRESS_FLAGS,
  RUN_FLAGS,
} from "../flags/run_flags.ts";
import { countSlots, type SlotCount } from "../shared/slots.ts";
import { INTERRUPTED } from "../process/supervisor.ts";
import { TextModel } from "../shared/texts.ts";
import {
  type AllCounts,
  DATA_FLAGS,
  EPOCHS_FLAG,
  readExamples,
  readingFlags,
  withEpochs,
} from "../shared/training_data.ts";
import { PLAN_FLAGS } from "../shared/training_plan.ts";
import { goOnCommand, type SavedState, savedState, tellEnd } from "../output/run_end.ts";
import { CONNECT_WAITS, requireWaits, RUN_WAITS } from "../flags/waiting_flags.ts";
import { TUNING_FLAGS } from "../flags/tuning_flags.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { requireWritable } from "../process/writable.ts";
import type { Needs } from "../process/permissions.ts";
import { assetPath, commandText, folderOf } from "../process/places.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call } from "../process/invocation.ts";

/** Flags of long runs that go to the edge server as they are. */
const PASSED_RUN_FLAGS = { accumulate: RUN_FLAGS.accumulate, "clip-norm": RUN_FLAGS["clip-norm"] };

/** A step as the edge server prints it. */
interface Step {
  readonly step: number;
  readonly mode: "train" | "evaluate";
  readonly loss: number | null;
  readonly times: {
    readonly total: number;
    readonly readback: number;
    readonly codec: number;
    readonly wait: number;
    readonly prune: number;
  };
  readonly bytes: number;
  readonly mask: readonly number[];
  readonly kept: readonly number[];
  readonly tokens: number;
  readonly batch: number;
}

/** What the processes said. */
interface Seen {
  readonly steps: Rows;
  /** Figures of the training steps. */
  readonly trained: StepFigures;
  readonly devices: Map<string, ChildEvent>;
  /** Losses that the data device tells. */
  readonly losses: Rows;
  /** Whole validations, as the data device tells them. */
  readonly validations: { step: number; loss: number }[];
  /** What became of the data. */
  data: AllCounts | null;
  adapter: string;
  server: ChildEvent | null;
}

/** Its flags. */
export const FLAGS = {
  ...TUNING_FLAGS,
  ...PASSED_RUN_FLAGS,
  "checkpoint-every": RUN_FLAGS["checkpoint-every"],
  "checkpoint-seconds": RUN_FLAGS["checkpoint-seconds"],
  resume: {
    ...CHECKPOINT_FLAGS.resume,
    help: "go on with the run in --out, or whose --out this is; other flags as before",
  },
  model: MODEL_FLAG,
  tokenizer: TOKENIZER_FLAG,
  ...WEIGHTS_FLAG,
  data: COMMON_FLAGS.data,
  ...DATA_FLAGS,
  ...EPOCHS_FLAG,
  ...PLAN_FLAGS,
  valid: { ...COMMON_FLAGS.valid, default: assetPath("restaurant/valid.txt"), help: "validation data" },
  "keep-best": {
    ...PLAN_FLAGS["keep-best"],
    help: "also save the adapter with the best validation loss, as adapter-best",
  },
  test: { ...COMMON_FLAGS.test, help: "data whose prompts are continued before and after" },
  prompts: {
    ...COMMON_FLAGS.prompts,
    help: "how many of them, from the first on; the three longest are shown",
  },
  capacities: COMMON_FLAGS.capacities,
  batch: { ...COMMON_FLAGS.batch, help: "sequences per step, or per part of a step" },
  length: COMMON_FLAGS.length,
  ...PRUNER_FLAGS,
  tau: { ...PRUNER_FLAGS.tau, default: 0.9 },
  eta: { ...PRUNER_FLAGS.eta, default: 0.6 },
  codec: COMMON_FLAGS.codec,
  "no-overlap": COMMON_FLAGS["no-overlap"],
  "micro-batches": COMMON_FLAGS["micro-batches"],
  bandwidth: CONNECTION_FLAGS.bandwidth,
  latency: CONNECTION_FLAGS.latency,
  link: CONNECTION_FLAGS.link,
  ...CONNECT_WAITS,
  ...RUN_WAITS,
  "join-timeout": { ...RUN_WAITS["join-timeout"], default: 120 },
  transport: text("NAME", "ws", "how frames travel", ["ws", "http"]),
  webgpu: COMMON_FLAGS.webgpu,
  port: { ...COMMON_FLAGS.port, default: 0, help: "port of the edge server; 0 = any free one" },
  out: { ...COMMON_FLAGS.out, default: "runs/demo", help: "folder for the adapter" },
  ...PROGRESS_FLAGS,
  metrics: COMMON_FLAGS.metrics,
  report: COMMON_FLAGS.report,
};

type Flags = FlagValues<typeof FLAGS>;

interface Options {
  readonly flags: Flags;
  readonly given: GivenFlags<typeof FLAGS>;
}

async function readOptions(call: Call): Promise<Options> {
  const given = readGiven(
    {
      name: "demo.ts",
      about: "Starts an edge server and user devices as processes and fine-tunes a small GPT-2 with them.",
      examples: [
        "edgetuner demo",
        "edgetuner demo --pruner none --steps 40",
        "edgetuner demo --bandwidth 20 --latency 5   # every link: 20 Mbit/s, 5 ms",
        "edgetuner demo --latency 20 --micro-batches 2 --codec f16",
        "edgetuner demo --resume   # after it was interrupted or killed",
      ],
    },
    FLAGS,
    call,
  );
  const flags = await withEpochs(withDefaults(FLAGS, given));
  return { flags, given };
}

async function main({ flags, given }: Options, call: Call): Promise<number> {
  const pruner = prunerFlags("demo.ts", flags, given);
  const out = flags.resume === "" || flags.resume === NEWEST ? flags.out : flags.resume;
  const capacities = flags.capacities.split(",").map(Number);
  if (capacities.length === 0 || capacities.some((c) => !(c > 0))) {
    throw new UsageError(
      `Cannot run demo.ts as --capacities must be positive numbers: current value is "${flags.capacities}"`,
    );
  }
  // Checked before four processes start.
  requireWaits("demo.ts", flags);
  await emulatedLink(flags);
  await requireWritable("demo.ts", { files: { report: flags.report }, folders: { out } });
  for (const file of [flags.data, flags.valid]) await readExamples(file, flags, () => {});
  const test = await readExamples(flags.test, flags);
  const codec = await codecChoice(flags.codec);

  using claim = await claimFolder(out);
  if (claim === null) {
    throw new UsageError(
      `Cannot run demo.ts as one run at a time may use ${out}: another one is using it; wait for its end, or name another folder with --out`,
    );
  }
  const parties = ["edge-server", ...capacities.map((_, i) => `device-${i + 1}`)];
  const goesOn = flags.resume !== "" && await canGoOn(out, parties, flags.resume);
  if (!goesOn) {
    for (const party of parties) {
      await setAside(stateOf(out, party), (line) => party === "edge-server" && console.error(line));
    }
  }

  const joinToken = crypto.randomUUID();
  // What bytes the same steps would have taken unpruned is computed at the end, from all of them.
  using steps = new Rows(`${out}/steps.partial`);
  using losses = Rows.of(flags.report, "losses");
  const seen: Seen = {
    steps,
    trained: new StepFigures(),
    devices: new Map(),
    losses,
    validations: [],
    data: null,
    adapter: "",
    server: null,
  };
  const bar = new ProgressBar(flags.steps, { everySeconds: flags["log-every"] });
  const listening = Promise.withResolvers<string>();
  const started = performance.now();
  const children: Child[] = [];
  using interrupts = new Interrupts((count) => {
    if (count > 1) {
      for (const child of children) child.endWithin(0);
      return;
    }
    bar.end();
    console.error("Stopping; what was learnt is saved. Once more to stop at once.");
    for (const child of children) child.interrupt();
  });

  /** Where a party saves its checkpoints, and what it goes on from. */
  const checkpoints = (party: string) => {
    return [goesOn ? "--resume" : "--checkpoint", stateOf(out, party)];
  };
  const waits = (names: Partial<typeof RUN_WAITS & typeof CONNECT_WAITS>) =>
    (Object.keys(names) as (keyof typeof flags)[]).flatMap((name) => [`--${name}`, `${flags[name]}`]);
  const passed = [...Object.keys(TUNING_FLAGS), ...Object.keys(PASSED_RUN_FLAGS)] as (keyof typeof flags)[];
  const own = ownNeeds(flags, out);
  const server = new Child("edge server", {
    file: "edge_server.ts",
    needs: own && { ...own, net: [`127.0.0.1:${flags.port}`] },
    form: call.form,
  }, [
    ...["--model", flags.model, "--devices", `${capacities.length}`],
    ...["--base-weights", flags["base-weights"]],
    ...passed.flatMap((name) => [`--${name}`, `${flags[name]}`]),
    ...checkpoints("edge-server"),
    ...["--checkpoint-every", `${flags["checkpoint-every"]}`],
    ...["--checkpoint-seconds", `${flags["checkpoint-seconds"]}`],
    ...(flags.metrics === "" ? [] : ["--metrics", flags.metrics]),
    ...["--port", `${flags.port}`, "--join-token", joinToken, "--admin-token", crypto.randomUUID()],
    ...flagArgs({ pruner: flags.pruner, ...pruner }),
    ...["--codec", flags.codec, "--micro-batches", `${flags["micro-batches"]}`],
    ...flagArgs({ "no-overlap": flags["no-overlap"] }),
    ...["--webgpu", flags.webgpu, ...waits(RUN_WAITS)],
  ], (event) => {
    if (event.type === "listening") {
      seen.adapter = String(event.adapter);
      seen.server = event;
      listening.resolve(String(event.address));
    } else if (event.type === "step") {
      const step = event.record as Step;
      seen.steps.add(step);
      if (step.mode !== "train") return;
      seen.trained.add(step);
      if (!interrupts.asked) bar.draw(step.step + 1, stepText(step));
    } else if (event.type === "done") seen.server = { ...seen.server, ...event };
  });
  children.push(server);
  server.ended.then((code) =>
    listening.reject(
      interrupts.asked
        ? new ProgramEnd(INTERRUPTED)
        : new UsageError(server.errors.trim() || `The edge server ended with code ${code}`),
    )
  );
  const address = await listening.promise;
  if (Deno.stderr.isTerminal()) {
    console.log(`Edge server on ${seen.adapter}; ${capacities.length} devices join over ${flags.transport}`);
  }
  console.log(parameterText(seen.server!.parameters as ParameterCounts));

  const url = flags.transport === "ws" ? `ws://${address}/join/ws` : `http://${address}/join/http`;
  const parts = capacities.map((capacity, i) => {
    const name = `device-${i + 1}`;
    const folder = `${out}/${name}`;
    const data = i === 0
      ? [
        ...["--data", flags.data, "--valid", flags.valid, "--model", flags.model, "--share-loss"],
        ...flagArgs({ tokenizer: flags.tokenizer, ...readingFlags(flags) }),
        ...["--base-weights", flags["base-weights"]],
        ...["--batch", `${flags.batch}`, "--length", `${flags.length}`, "--seed", `${flags.seed}`],
        ...["--valid-batches", `${flags["valid-batches"]}`, "--eval-every", `${flags["eval-every"]}`],
        ...["--smoothing", `${flags.smoothing}`, ...(flags["keep-best"] ? ["--keep-best"] : [])],
      ]
      : [];
    children.push(
      new Child(name, { file: "user_device.ts", needs: own && { ...own, net: [address] }, form: call.form }, [
        ...[
          "--server",
          url,
          "--token",
          joinToken,
          "--name",
          name,
          "--capacity",
          `${capacity}`,
          "--save",
          folder,
        ],
        ...["--bandwidth", `${flags.bandwidth}`, "--latency", `${flags.latency}`, "--webgpu", flags.webgpu],
        ...flagArgs({ link: flags.link, "link-seed": flags.seed, "link-device": i }),
        ...["--codec", flags.codec, ...waits(RUN_WAITS), ...waits(CONNECT_WAITS)],
        ...checkpoints(name),
        ...data,
      ], (event) => {
        if (event.type === "loss") seen.losses.add(event);
        else if (event.type === "notice") {
          bar.end();
          console.error(event.text);
        } else if (event.type === "data") seen.data = { train: event.train, valid: event.valid } as AllCounts;
        else if (event.type === "validation") {
          seen.validations.push(event as unknown as Seen["validations"][number]);
        } else if (event.type === "done") seen.devices.set(name, event);
      }),
    );
    return { name, folder };
  });
  const codes = await Promise.all(children.map((child) =>
    child.ended.then(async (code) => {
      // If one process fails the others end by themselves, within this time.
      if (code !== 0) await Promise.all(children.map((c) => c.endWithin(15_000)));
      return code;
    })
  ));
  bar.end();
  const seconds = (performance.now() - started) / 1000;
  // Before the first step nothing can get lost: those who had not begun to listen, or whose server was gone first,
  // have ended as they were asked to.
  const isEarly = interrupts.asked && seen.trained.count === 0;
  const endings = codes.map((code) => {
    const ending = worstOf([code]);
    return isEarly && ending === "lost" ? "interrupted" : ending;
  });
  const failed = children.filter((_, i) => endings[i] !== "done" && endings[i] !== "interrupted");
  // Those that were ended because another one failed have nothing to say.
  const spoke = failed.filter((child) => child.errors.trim() !== "");
  for (const child of spoke.length > 0 ? spoke : failed) {
    console.error(`${child.name}: ${child.errors.trim() || "ended without a word"}`);
  }

  const run = String(seen.server?.run);
  /** Which devices have saved heads of this run: those of another one may lie there. */
  const savedWith = async (suffix: string) => {
    const origins = await Promise.all(parts.map(({ folder }) => adapterOrigin(`${folder}${suffix}`)));
    return parts.filter((_, i) => origins[i]?.run === run);
  };
  const saved = (await savedWith("")).filter(({ name }) => seen.devices.has(name));
  const complete = saved.length === parts.length;
  if (complete) {
    const join = async (suffix: string) => {
      const folder = `${out}/adapter${suffix}`;
      const adapters = await Promise.all(parts.map((part) => loadAdapter(`${part.folder}${suffix}`)));
      const { steps } = (await adapterOrigin(`${parts[0]!.folder}${suffix}`))!;
      const previous = await saveAdapter(folder, joinAdapters(adapters), { run, steps });
      if (previous !== null) console.log(`The adapter of another run is kept: ${previous}`);
    };
    await join("");
    // A run that is stopped within its first validation has none.
    if (flags["keep-best"] && (await savedWith("-best")).length === parts.length) await join("-best");
  }
  const summary = await summarise(
    seen,
    flags.targets.split(",").length,
    flags.mode as InputModeName,
    !["none", "random", "oracle"].includes(flags.pruner),
    findCodec(codec.name, await codecsOf(codec.module)),
    flags,
  );
  let compared: Comparison | null = null;
  if (complete && !interrupts.asked && failed.length === 0 && seen.trained.count > 0) {
    show(seen, summary, seconds);
    compared = await compare(`${out}/adapter`, flags, test);
  }
  const { last } = seen.trained;
  const best = complete && flags["keep-best"] ? bestOf(seen) : null;
  await writeReport(flags.report, {
    versions: versions(),
    settings: flags,
    adapter: seen.adapter,
    adapterFolder: complete ? `${out}/adapter` : null,
    parameters: seen.server?.parameters ?? null,
    data: { ...seen.data, test: compared?.counts ?? null },
    validations: seen.validations,
    best: bestOf(seen),
    run: seen.server,
    devices: Object.fromEntries(seen.devices),
    summary,
    steps: seen.steps,
    losses: seen.losses,
    slots: compared?.slots ?? null,
    samples: compared?.samples ?? [],
    seconds,
    peakMemoryBytes: peakMemory(),
  });
  const ending = failed.length > 0 ? worstOf(codes) : interrupts.asked ? "interrupted" : "done";
  const state = await commonState(out, String(seen.server?.run), [
    "edge-server",
    ...parts.map(({ name }) => name),
  ]);
  const heads = saved.map(({ folder }) => folder).join(", ");
  console.log("");
  return tellEnd({
    ending,
    why: ending === "interrupted" ? "interrupted" : "",
    done: `${last === null ? 0 : last.step + 1} steps`,
    losses: summary.validBefore === null || summary.validAfter === null
      ? null
      : { kind: "validation loss", before: summary.validBefore, after: summary.validAfter },
    best: bestOf(seen),
    next: complete
      ? commandText(
        "generate.ts",
        ["--adapter", `${out}/adapter`, "--count", "3"].concat(
          flags.model === FLAGS.model.default ? [] : ["--model", flags.model],
        ),
        call.form,
      )
      : "",
    saved: [
      ...(complete
        ? [`the adapter in ${out}/adapter`]
        : saved.length > 0
        ? [`the heads of ${saved.length} of ${parts.length} devices in ${heads}, no whole adapter`]
        : []),
      ...(best === null || best.step === 0 ? [] : [
        `the one of the lowest validation loss, ${
          best.loss.toFixed(3)
        } after ${best.step} steps, in ${out}/adapter-best`,
      ]),
      ...(state === null ? [] : [`the state of step ${state.step} in ${out}`]),
    ],
    state,
    command: ending === "failed" ? "" : goOnCommand(call, "demo.ts", state),
  });
}

/** The newest state that all parties have. */
async function commonState(
  out: string,
  run: string,
  parties: readonly string[],
): Promise<SavedState | null> {
  const states = await Promise.all(parties.map((party) => savedState(stateOf(out, party), run)));
  const steps = states.flatMap((state) => state === null ? [] : [state.step]);
  return steps.length < parties.length ? null : { folder: out, step: Math.min(...steps) };
}

/** Files that the processes read and write; `null` if they need what cannot be listed: Dawn is a native library. */
function ownNeeds(flags: Flags, out: string): Needs | null {
  if (flags.webgpu === "dawn") return null;
  const modules = [flags.pruner, flags.codec].filter((flag) =>
    /[./\\]/.test(flag) && !/^[a-z]{2,}:/i.test(flag)
  );
  const files = [flags.model, flags.tokenizer, flags.data, flags.valid, flags.predictor, flags.link];
  return {
    read: [...files.filter((file) => file !== ""), ...modules.map(folderOf)],
    write: [out, flags.metrics],
  };
}

function stepText(step: Step): string {
  const kept = step.kept.reduce((a, b) => a + b, 0);
  const loss = step.loss === null ? "" : `loss ${step.loss.toFixed(3)}  `;
  return `${loss}${(step.times.total / 1000).toFixed(2)} s/step  ${
    bytes(step.bytes)
  }/step  kept ${kept}/${step.mask.length}`;
}

/** Figures of a run. */
interface Summary {
  readonly validBefore: number | null;
  readonly validAfter: number | null;
  readonly bytes: number;
  readonly unprunedBytes: number;
  readonly keptShare: number;
  readonly secondsPerStep: number;
  readonly headsPerDevice: readonly number[];
}

/** Where a party of a run keeps its state. */
function stateOf(out: string, party: string): string {
  return `${out}/checkpoints/${party}`;
}

/** True if the run in a folder can be resumed; not if it was cut off before all parties had saved once. */
async function canGoOn(out: string, parties: readonly string[], resume: string): Promise<boolean> {
  const stepsOf = async (party: string): Promise<readonly number[]> => {
    try {
      return (await openCheckpoints(stateOf(out, party))).steps;
    } catch (error) {
      if (error instanceof CheckpointError) return [];
      throw error;
    }
  };
  const steps = await Promise.all(parties.map(stepsOf));
  const isCommon = steps[0]!.some((step) => steps.every((all) => all.includes(step)));
  const isBegun = steps.some((all) => all.length > 0);
  if (isCommon || (!isBegun && resume !== NEWEST) || steps.some((all) => all.length > 1)) return true;
  console.error(`The run in ${out} was cut off before its state was saved: a new run begins`);
  return false;
}

/** The best validation of the run, as its data device knows it. */
function bestOf(seen: Seen): BestLoss | null {
  for (const device of seen.devices.values()) {
    if (device.best) return device.best as BestLoss;
  }
  return null;
}

async function summarise(
  seen: Seen,
  targets: number,
  mode: InputModeName,
  statistics: boolean,
  codec: WireCodec,
  flags: { readonly "micro-batches": number; readonly accumulate: number; readonly "clip-norm": number },
): Promise<Summary> {
  const ranges = [...seen.devices.values()].map((d) => d.range as { first: number; count: number } | null)
    .filter((r) => r !== null).sort((a, b) => a.first - b.first);
  const headsPerDevice = ranges.map((r) => r.count);
  const heads = headsPerDevice.reduce((a, b) => a + b, 0);
  // What the same steps would have sent with every head kept: the formula that a run's ledger equals.
  let unpruned = 0;
  let pruned = 0;
  for await (const line of seen.steps.lines()) {
    const step = JSON.parse(line) as Step;
    if (step.mode !== "train") continue;
    const layers = step.kept.length;
    const hidden = Number((seen.server?.model as { hidden?: number } | undefined)?.hidden ?? 0);
    // Devices that were killed have not said which heads they had.
    if (hidden === 0 || step.mask.length !== layers * heads) break;
    const shape = {
      layers,
      heads,
      hidden,
      tokens: step.tokens,
      targets,
      mode,
      headsPerDevice,
      // iHeadPruner's predictor reads the norms of the LoRA weights too.
      statistics: String(seen.server?.pruner).startsWith("ihead") ? 2 : Number(statistics),
      batch: step.batch,
      microBatches: flags["micro-batches"],
      accumulate: flags.accumulate,
      clip: flags["clip-norm"] > 0,
      codec,
    };
    const sum = (mask: Uint8Array) =>
      [...stepTraffic({ ...shape, mask }).values()].reduce((a, b) => a + b, 0);
    unpruned += sum(new Uint8Array(layers * heads));
    pruned += sum(Uint8Array.from(step.mask));
  }
  return {
    validBefore: seen.validations.find((v) => v.step === 0)?.loss ?? null,
    validAfter: seen.validations.findLast((v) => v.step > 0)?.loss ?? null,
    bytes: pruned,
    unprunedBytes: unpruned,
    keptShare: seen.trained.keptShare,
    secondsPerStep: seen.trained.medianMs / 1000,
    headsPerDevice,
  };
}

function show(seen: Seen, summary: Summary, seconds: number): void {
  const { trained } = seen;
  const { validBefore, validAfter, keptShare, secondsPerStep } = summary;
  console.log(
    `\n${trained.count} steps in ${duration(seconds)} (${
      secondsPerStep.toFixed(2)
    } s a step), on ${seen.adapter}`,
  );
  if (validAfter !== null) {
    const before = validBefore === null ? "" : `${validBefore.toFixed(3)} before, `;
    console.log(`Validation loss ${before}${validAfter.toFixed(3)} after`);
  }
  console.log(
    `${bytes(summary.bytes)} of tensors on the wire, ${
      (100 * summary.bytes / summary.unprunedBytes).toFixed(0)
    } % of the ${bytes(summary.unprunedBytes)} without pruning; ${
      (100 * keptShare).toFixed(0)
    } % of the heads kept`,
  );
  if (seen.server?.pruner !== "none") console.log(prunerTime(trained));
  if (seen.server?.deployable === false) {
    console.log(
      `Pruner ${seen.server.pruner} is a yardstick: it is not deployable, and its probes are not counted`,
    );
  }
  console.log("\nTraining loss over the steps");
  for (const line of curve([...trained.losses.values])) console.log(line);
  console.log("\nHow often each head was kept (devices apart; ██ always, blank never)");
  for (const line of headMap(trained.keptShares, trained.last!.layers, summary.headsPerDevice)) {
    console.log(line);
  }
}

/** A generation before and after. */
interface Sample {
  readonly prompt: string;
  readonly reference: string;
  readonly before: string;
  readonly after: string;
}

/** Generations, and how many slots of all prompts they realise. */
interface Comparison {
  readonly samples: readonly Sample[];
  readonly slots: { readonly before: SlotCount; readonly after: SlotCount };
  /** What became of the prompts' lines. */
  readonly counts: DataCounts;
}

/** Continues the first prompts of a file, before and after; shows the longest, which are hardest. */
async function compare(adapter: string, flags: Flags, read: ReadExamples): Promise<Comparison | null> {
  if (!havePrompts(read.examples)) {
    console.log(`\nNo texts before and after: ${flags.test} holds texts without prompts`);
    return null;
  }
  const trained = await loadAdapter(adapter);
  using model = await TextModel.open(flags, trained, flags.webgpu, baseWeightsOf(flags));
  const { tokenizer, room } = model;
  const choice = { count: flags.prompts, first: 0, distinct: false };
  const { prompts: all, counts } = encodePrompts(read, tokenizer, choice, room);
  const cut = cutText(flags.test, counts, room);
  if (cut !== null) console.error(cut);
  const ends = endTokens(tokenizer, await chatTemplateOf(flags.model, flags.tokenizer));
  const generate = async (base: boolean) => {
    const tokens = await model.generateTokens(all.map(({ tokens }) => tokens), 40, { base });
    return tokens.map((ids) => textOf(tokenizer, ids, ends));
  };
  const before = await generate(true);
  const after = await generate(false);
  const prompts = all.map(({ text }) => text);
  const samples = all.map(({ text: prompt, reference }, i) => ({
    ...{ prompt, reference },
    before: before[i]!,
    after: after[i]!,
  }));
  const longest = samples.toSorted((a, b) => b.prompt.length - a.prompt.length).slice(0, 3);
  for (const { prompt, reference, before, after } of longest) {
    console.log(`\n${prompt}\n  before     ${before}\n  after      ${after}\n  reference  ${reference}`);
  }
  const slots = { before: countSlots(prompts, before), after: countSlots(prompts, after) };
  const slotCount = slots.before.all;
  if (slotCount > 0) {
    const share = ({ right }: SlotCount) => (100 * right / slotCount).toFixed(0);
    console.log(
      `\nSlots right: ${share(slots.before)} % before, ${
        share(slots.after)
      } % after (${slotCount} slots of ${prompts.length} test prompts)`,
    );
  }
  return { samples, slots, counts };
}

/** Runs the command. */
export const run: CommandRun = command(readOptions, main);
