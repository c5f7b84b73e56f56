/**
 * The edge server's steps in a worker, so that waiting for the GPU never holds up its sockets.
 *
 * @module
 */

import {
  type BaseIdentity,
  baseNorms,
  baseProjections,
  type BaseWeights,
  type DataSharing,
  EdgeServer,
  type EdgeServerEvent,
  familyOf,
  GenerationServer,
  type JoinedDevice,
  type JoinOptions,
  type LedgerEntry,
  loadLayers,
  type LossPolicy,
  type ModelShape,
  parameterCount,
  type RunSettings,
  type SavingTimes,
  type TensorDigest,
  TrainingError,
  warmUp,
} from "@edgetuner/core";
import { messagePortChannel } from "@edgetuner/transport";
import { codecsOf } from "../flags/codecs.ts";
import { CollectedSamples } from "../shared/collected_samples.ts";
import { shareInterrupts } from "./interrupts.ts";
import { makePruner, type PrunerChoice } from "../flags/pruners.ts";
import { pluginLimit } from "./plugin_host.ts";
import { claimRunStates, countParameters, type ParameterCounts } from "../flags/run_flags.ts";
import { openEngine } from "../flags/webgpu.ts";
import { loadTold } from "../shared/opened_model.ts";

/** What the worker needs to begin. */
export interface EdgeWorkerOptions {
  /** The base model: its folder, or a GGUF file. */
  readonly model: string;
  /** How it is held. @default {"f32"} */
  readonly baseWeights?: BaseWeights;
  /** Settings of the run. */
  readonly settings: RunSettings;
  /** Devices with heads. */
  readonly devices: number;
  /** The pruner. */
  readonly pruner: PrunerChoice;
  /** Modules of codecs of your own. @default {[]} */
  readonly codecs?: readonly string[];
  /** File that samples to train a predictor from are appended to, with every head kept; none if empty. */
  readonly collect?: string;
  /** Folder for states; none if empty. @default {""} */
  readonly state?: string;
  /** The folder for states that is taken where none is named. */
  readonly defaultState?: string;
  /** Milliseconds from one state to the next; 0 for none but at the end. @default {0} */
  readonly saveEveryMs?: number;
  /** State, or folder of them, to go on from; a new run if empty. @default {""} */
  readonly resume?: string;
  /** WebGPU implementation. */
  readonly webgpu: string;
  /** Most megabytes of the adapter's memory to hold; 0 for no limit. @default {0} */
  readonly "gpu-mb"?: number;
  /** Most bytes of keys and values that generation may keep. @default {1073741824} */
  readonly maxCacheBytes?: number;
  /** True for a run for generation that goes on until it is stopped, whoever comes and goes. @default {false} */
  readonly stays?: boolean;
  /** Longest wait for a device in a step, in milliseconds. */
  readonly timeoutMs: number;
  /** Longest wait for all devices to join, in milliseconds. */
  readonly joinTimeoutMs: number;
  /** Longest pause, in milliseconds; 0 for no limit. @default {86400000} */
  readonly pauseTimeoutMs?: number;
  /** What to do when a device is lost. @default {"prune"} */
  readonly onLoss?: LossPolicy;
  /** How several people's data is shared. @default {there is one device with data} */
  readonly sharing?: DataSharing | undefined;
  /** How many times as large as usual an answer of a device may be. @default {10000} */
  readonly outlierFactor?: number;
  /** Steps after which a new device may take over the heads of one that is away. @default {never} */
  readonly adoptAfter?: number;
  /** Longest wait in milliseconds for a lost device that the run cannot do without. @default {60000} */
  readonly lossWaitMs?: number;
  /** Longest time in milliseconds that a device may keep the others waiting in a step. @default {Infinity} */
  readonly stepDeadlineMs?: number;
  /** See `sharedInterrupts`. */
  readonly interrupts?: Int32Array<SharedArrayBuffer> | null;
}

/** What the worker hears. */
export type ToEdgeWorker =
  | { readonly type: "start"; readonly options: EdgeWorkerOptions }
  | {
    readonly type: "join";
    readonly port: MessagePort;
    readonly peer: string;
    readonly device: JoinOptions["device"];
  }
  | { readonly type: "remove"; readonly device: string; readonly reason: string | undefined }
  | { readonly type: "pause" | "resume" }
  | { readonly type: "stop" | "abort"; readonly reason: string };

/** What the worker says. */
export type FromEdgeWorker =
  | {
    readonly type: "ready";
    readonly run: string;
    readonly settings: RunSettings;
    readonly model: ModelShape;
    readonly base: BaseIdentity;
    readonly fingerprint: string;
    /** Digests of its weights; none of a model in a GGUF file. */
    readonly digests: readonly TensorDigest[];
    readonly adapter: string;
    readonly pruner: string;
    readonly deployable: boolean;
    readonly parameters: ParameterCounts;
    /** Where the state of the run goes; `null` if nowhere. */
    readonly stateFolder: string | null;
    /** Training steps that the run goes on from at most; `null` in a new run. */
    readonly resumed: number | null;
  }
  | {
    readonly type: "event";
    readonly event: EdgeServerEvent;
    readonly devices: readonly JoinedDevice[];
    readonly traffic: readonly LedgerEntry[];
  }
  /** A sign of life, once a second. */
  | { readonly type: "alive" }
  | {
    readonly type: "done";
    readonly error:
      | { readonly name: string; readonly message: string; readonly device: string | null }
      | null;
    /** What saving took; `null` if the run did not begin. */
    readonly saving: SavingTimes | null;
  };

/** What people call a model: the last part of its path. */
function nameOf(path: string): string {
  return path.split(/[\\/]/).findLast((part) => part !== "") ?? "";
}

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ToEdgeWorker>) => void) | null;
  postMessage(message: FromEdgeWorker): void;
};

let server: EdgeServer | GenerationServer | null = null;

/** What saving took; `null` of a run that saves nothing. */
function savingTimes(): SavingTimes | null {
  return server instanceof EdgeServer ? server.saving : null;
}

const abort = new AbortController();

async function start(options: EdgeWorkerOptions): Promise<void> {
  if (options.interrupts) shareInterrupts(options.interrupts);
  using states = await claimRunStates({
    state: options.state ?? "",
    resume: options.resume ?? "",
  }, { baseWeights: options.baseWeights ?? "f32", defaultFolder: options.defaultState });
  const { resumed, write } = states;
  const model = await loadTold(options.model);
  using engine = await openEngine(options);
  const { baseWeights = "f32" } = options;
  using base = loadLayers(engine, model, { baseWeights });
  const baseNorm = baseNorms(model);
  const projections = await baseProjections(model, options.settings.lora);
  using collected = !options.collect ? null : new CollectedSamples(options.collect, {
    hidden: base.shape.hidden,
    fingerprint: model.fingerprint,
    baseNorm,
    settings: { baseWeights },
  });
  const pluginLimitMs = pluginLimit(options.timeoutMs);
  const pruner = collected?.pruner ?? await makePruner(options.pruner, engine, pluginLimitMs);
  // Before anyone joins: kernels that compile in a step would make all devices wait.
  const greedy = ["greedy", "iheadpruner", "iheadpruner-online"].includes(options.pruner.name);
  const task = options.settings.task ?? "train";
  await warmUp(engine, { layers: base, pruning: greedy && task === "train", task });
  const codecs = await codecsOf(options.codecs ?? [], pluginLimitMs);
  const shared = {
    ...{ engine, base, projections, fingerprint: model.fingerprint, settings: options.settings, codecs },
    ...{ devices: options.devices, maxCacheBytes: options.maxCacheBytes },
    ...{ timeoutMs: options.timeoutMs, joinTimeoutMs: options.joinTimeoutMs },
    pauseTimeoutMs: options.pauseTimeoutMs,
  };
  const losses = { onLoss: options.onLoss, lossWaitMs: options.lossWaitMs };
  const run = options.stays ? new GenerationServer({ ...shared, ...losses }) : new EdgeServer({
    ...{ ...shared, pruner, baseNorm, resume: resumed ?? undefined, saveEveryMs: options.saveEveryMs },
    ...losses,
    ...{
      sharing: options.sharing,
      adoptAfter: options.adoptAfter,
      stepDeadlineMs: options.stepDeadlineMs,
      outlierFactor: options.outlierFactor,
    },
    ...(write === null ? {} : { onState: write }),
  });
  run.subscribe((event) =>
    scope.postMessage({ type: "event", event, devices: structuredClone(run.devices), traffic: run.traffic() })
  );
  server = run;
  scope.postMessage({
    type: "ready",
    run: run.run,
    settings: run.settings,
    model: base.shape,
    fingerprint: model.fingerprint,
    digests: model.digests ?? [],
    base: { name: nameOf(options.model), family: familyOf(model.config).name, kvHeads: base.shape.kvHeads },
    adapter: engine.adapterName,
    pruner: pruner.name,
    deployable: pruner.deployable ?? true,
    stateFolder: states.folder,
    resumed: resumed?.steps.at(-1) ?? null,
    parameters: countParameters(run.settings.lora, base.shape, parameterCount(model)),
  });
  const alive = setInterval(() => scope.postMessage({ type: "alive" }), 1000);
  try {
    await run.start(abort.signal);
  } finally {
    clearInterval(alive);
  }
}

scope.onmessage = ({ data }) => {
  if (data.type === "start") {
    start(data.options).then(
      () => scope.postMessage({ type: "done", error: null, saving: savingTimes() }),
      (error: Error) =>
        scope.postMessage({
          type: "done",
          error: {
            ...{ name: error.name, message: error.message },
            device: error instanceof TrainingError ? error.device : null,
          },
          saving: savingTimes(),
        }),
    );
    // It stays idle until the process ends: Mesa may crash where a process ends while a worker that had a GPU closes.
  } else if (data.type === "join") {
    void server?.join(messagePortChannel(data.port, data.peer), { device: data.device });
  } else if (data.type === "remove") server?.remove(data.device, data.reason);
  else if (data.type === "stop") server?.stop(data.reason);
  else if (data.type === "abort") {
    server?.stop(data.reason);
    abort.abort(new DOMException(data.reason, "AbortError"));
  } else server?.[data.type]();
};
