/**
 * The edge server's steps in a worker, so that waiting for the GPU never holds up its sockets.
 *
 * @module
 */

import {
  baseNorms,
  EdgeServer,
  type EdgeServerEvent,
  Gpt2Layers,
  type JoinedDevice,
  type LedgerEntry,
  loadModelFolder,
  type ModelShape,
  type RunSettings,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { messagePortChannel } from "@edgetuner/transport";
import { CollectedSamples } from "./collected_samples.ts";
import { makePruner, type PrunerChoice } from "./pruners.ts";
import { loadGpu } from "./webgpu.ts";

/** What the worker needs to begin. */
export interface EdgeWorkerOptions {
  /** Folder of the base model. */
  readonly model: string;
  /** Settings of the run. */
  readonly settings: RunSettings;
  /** Devices with heads. */
  readonly devices: number;
  /** The pruner. */
  readonly pruner: PrunerChoice;
  /** File that samples to train a predictor from are appended to, with every head kept; none if empty. */
  readonly collect?: string;
  /** WebGPU implementation. */
  readonly webgpu: string;
  /** Longest wait for a device in a step, in milliseconds. */
  readonly timeoutMs: number;
  /** Longest wait for all devices to join, in milliseconds. */
  readonly joinTimeoutMs: number;
}

/** What the worker hears. */
export type ToEdgeWorker =
  | { readonly type: "start"; readonly options: EdgeWorkerOptions }
  | { readonly type: "join"; readonly port: MessagePort; readonly peer: string }
  | { readonly type: "pause" | "resume" }
  | { readonly type: "stop"; readonly reason: string };

/** What the worker says. */
export type FromEdgeWorker =
  | {
    readonly type: "ready";
    readonly run: string;
    readonly settings: RunSettings;
    readonly model: ModelShape;
    readonly adapter: string;
    readonly pruner: string;
  }
  | {
    readonly type: "event";
    readonly event: EdgeServerEvent;
    readonly devices: readonly JoinedDevice[];
    readonly traffic: readonly LedgerEntry[];
  }
  | { readonly type: "done"; readonly error: { readonly name: string; readonly message: string } | null };

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ToEdgeWorker>) => void) | null;
  postMessage(message: FromEdgeWorker): void;
  close(): void;
};

let server: EdgeServer | null = null;

async function start(options: EdgeWorkerOptions): Promise<void> {
  const model = await loadModelFolder(options.model);
  using engine = await Engine.create({ gpu: await loadGpu(options.webgpu) });
  using base = new Gpt2Layers(engine, model.config, model.weights);
  const baseNorm = baseNorms(model.config, model.weights);
  using collected = !options.collect ? null : new CollectedSamples(options.collect, {
    hidden: model.config.n_embd,
    fingerprint: model.fingerprint,
    baseNorm,
  });
  const pruner = collected?.pruner ?? await makePruner(options.pruner, engine);
  const run = new EdgeServer({
    engine,
    base,
    fingerprint: model.fingerprint,
    settings: options.settings,
    pruner,
    baseNorm,
    devices: options.devices,
    timeoutMs: options.timeoutMs,
    joinTimeoutMs: options.joinTimeoutMs,
  });
  run.subscribe((event) =>
    scope.postMessage({ type: "event", event, devices: structuredClone(run.devices), traffic: run.traffic() })
  );
  server = run;
  scope.postMessage({
    type: "ready",
    run: run.run,
    settings: run.settings,
    model: { layers: model.config.n_layer, heads: model.config.n_head, hidden: model.config.n_embd },
    adapter: engine.adapterName,
    pruner: pruner.name,
  });
  await run.start();
}

scope.onmessage = ({ data }) => {
  if (data.type === "start") {
    start(data.options).then(
      () => scope.postMessage({ type: "done", error: null }),
      (error: Error) =>
        scope.postMessage({ type: "done", error: { name: error.name, message: error.message } }),
    ).finally(() => scope.close());
  } else if (data.type === "join") {
    void server?.join(messagePortChannel(data.port, data.peer));
  } else if (data.type === "stop") server?.stop(data.reason);
  else server?.[data.type]();
};
