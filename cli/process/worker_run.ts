/**
 * A run whose steps are computed in a worker, seen from the thread that serves sockets.
 *
 * @module
 */

import type {
  BaseIdentity,
  Channel,
  EdgeServerEvent,
  JoinedDevice,
  JoinOptions,
  LedgerEntry,
  ModelShape,
  RunHandle,
  RunHealth,
  RunSettings,
  RunStatus,
  SavingTimes,
  StepRecord,
} from "@edgetuner/core";
import { messagePortChannel, relay } from "@edgetuner/transport";
import type { ServedModel } from "@edgetuner/transport/server";
import { servedModel } from "../shared/served_model.ts";
import type { EdgeWorkerOptions, FromEdgeWorker, ToEdgeWorker } from "./edge_worker.ts";
import type { ParameterCounts } from "../flags/run_flags.ts";

/** A run in a worker. */
export class WorkerRun implements RunHandle {
  /** Name of the run. */
  readonly run: string;
  /** Settings of the run. */
  readonly settings: RunSettings;
  /** Shape of the base model. */
  readonly model: ModelShape;
  /** Parts of the base model for devices with data; `null` if it cannot be served. */
  readonly served: ServedModel | null;
  /** What the base model is. */
  readonly base: BaseIdentity;
  /** Devices with heads that the run waits for. */
  readonly places: number;
  /** What the adapter calls itself. */
  readonly adapter: string;
  /** Name of the pruner. */
  readonly pruner: string;
  /** False if the pruner is a yardstick that no real run can afford. */
  readonly deployable: boolean;
  /** How many numbers the run trains. */
  readonly parameters: ParameterCounts;
  /** Where the state of the run goes; `null` if nowhere. */
  readonly stateFolder: string | null;
  /** Training steps that the run goes on from at most; `null` in a new run. */
  readonly resumedFrom: number | null;
  /** What saving took, once the run is over. */
  saving: SavingTimes | null = null;
  /** Resolves when the run is over; rejects if it failed. */
  readonly done: Promise<void>;
  status: RunStatus = "waiting";
  devices: readonly JoinedDevice[] = [];
  latest: StepRecord | null = null;
  #traffic: readonly LedgerEntry[] = [];
  readonly #worker: Worker;
  readonly #listeners = new Set<(event: EdgeServerEvent) => void>();
  readonly #relays = new Set<Promise<void>>();
  /** Devices that are there. */
  readonly #channels = new Set<Channel>();
  #heardAt = performance.now();
  #steppedAt: number | null = null;

  private constructor(
    worker: Worker,
    ready: Extract<FromEdgeWorker, { type: "ready" }>,
    done: Promise<void>,
    { devices, model: path }: EdgeWorkerOptions,
  ) {
    this.#worker = worker;
    this.run = ready.run;
    this.settings = ready.settings;
    this.model = ready.model;
    this.base = ready.base;
    this.served = servedModel({ ...ready, path });
    this.places = devices;
    this.adapter = ready.adapter;
    this.pruner = ready.pruner;
    this.deployable = ready.deployable;
    this.parameters = ready.parameters;
    this.stateFolder = ready.stateFolder;
    this.resumedFrom = ready.resumed;
    this.done = done;
  }

  /** Starts the worker; resolves once the model is loaded and devices may join. */
  static start(options: EdgeWorkerOptions): Promise<WorkerRun> {
    const worker = new Worker(import.meta.resolve("./edge_worker.ts"), { type: "module" });
    const ready = Promise.withResolvers<WorkerRun>();
    const done = Promise.withResolvers<void>();
    done.promise.catch(() => {}); // before the start it is told by `ready`
    let run: WorkerRun | null = null;
    const fail = (error: Error) => {
      ready.reject(error);
      done.reject(error);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      const error = new Error(`Cannot go on as the worker must run: ${event.message}`);
      fail(error);
      run?.lose(error.message);
    };
    worker.onmessage = ({ data }: MessageEvent<FromEdgeWorker>) => {
      if (run !== null) run.#heardAt = performance.now();
      if (data.type === "alive") return;
      if (data.type === "ready") {
        run = new WorkerRun(worker, data, done.promise, options);
        ready.resolve(run);
      } else if (data.type === "event") run?.hear(data);
      else if (data.error === null) {
        if (run !== null) run.saving = data.saving;
        done.resolve();
      } else {
        if (run !== null) run.saving = data.saving;
        const { name, message, device } = data.error;
        fail(Object.assign(new Error(message), { name, device }));
      }
    };
    worker.postMessage({ type: "start", options } satisfies ToEdgeWorker);
    return ready.promise;
  }

  /** Lets a device join; its frames are handed on to the worker and back. */
  join(channel: Channel, { device }: JoinOptions = {}): void {
    const { port1, port2 } = new MessageChannel();
    const message = { type: "join", port: port2, peer: channel.peer, device } satisfies ToEdgeWorker;
    this.#worker.postMessage(message, [port2]);
    const relayed = relay(channel, messagePortChannel(port1, "edge worker"));
    this.#relays.add(relayed);
    this.#channels.add(channel);
    relayed.finally(() => {
      this.#relays.delete(relayed);
      this.#channels.delete(channel);
    });
  }

  /** Removes a device for good; false if the run has no such device. */
  remove(device: string, reason?: string): boolean {
    const isThere = this.devices.some(({ name, id }) =>
      id === "" ? name === device : [8, 32].includes(device.length) && device.startsWith(id)
    );
    this.#worker.postMessage({ type: "remove", device, reason } satisfies ToEdgeWorker);
    return isThere;
  }

  /** Resolves when the last frames were handed on. */
  async drained(): Promise<void> {
    await Promise.all(this.#relays);
  }

  /** Takes in an event of the worker. */
  hear({ event, devices, traffic }: Extract<FromEdgeWorker, { type: "event" }>): void {
    this.devices = devices;
    this.#traffic = traffic;
    if (event.type === "status") this.status = event.status;
    if (event.type === "step") {
      this.latest = event.record;
      this.#steppedAt = performance.now();
    }
    for (const listener of this.#listeners) listener(event);
  }

  /** The worker has died: devices hear it in the words of the closed channel. */
  lose(reason: string): void {
    if (this.status !== "failed" && this.status !== "ended") {
      this.status = "failed";
      for (const listener of this.#listeners) listener({ type: "status", status: "failed", reason });
    }
    for (const channel of this.#channels) void channel.close(reason.slice(0, 100)).catch(() => {});
  }

  health(): RunHealth {
    const now = performance.now();
    return {
      silentMs: now - this.#heardAt,
      sinceStepMs: this.#steppedAt === null ? null : now - this.#steppedAt,
    };
  }

  traffic(): readonly LedgerEntry[] {
    return this.#traffic;
  }

  pause(): void {
    this.#worker.postMessage({ type: "pause" } satisfies ToEdgeWorker);
  }

  resume(): void {
    this.#worker.postMessage({ type: "resume" } satisfies ToEdgeWorker);
  }

  stop(reason = "stopped"): void {
    this.#worker.postMessage({ type: "stop", reason } satisfies ToEdgeWorker);
  }

  /** Ends the run now, in the middle of a step; devices keep what they learnt before it. */
  abort(reason = "stopped"): void {
    this.#worker.postMessage({ type: "abort", reason } satisfies ToEdgeWorker);
  }

  subscribe(listener: (event: EdgeServerEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}
