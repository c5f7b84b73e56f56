/**
 * A run on real processes to which faults are done: an edge server, devices, and a proxy before each of them.
 *
 * @module
 */

import type { RunSettings } from "@edgetuner/core";
import { assetPath } from "../../cli/process/places.ts";
import { NatsServer } from "../../tests/support/nats_server.ts";
import { until } from "../../tests/support/until.ts";
import { Party, type PartyEvent } from "./party.ts";
import { FaultyProxy } from "./proxy.ts";
import { SmallDisk } from "./small_disk.ts";

/** How devices reach the edge server. */
export const TRANSPORTS = ["ws", "http", "nats"] as const;
/** One of them. */
export type TransportName = typeof TRANSPORTS[number];

/** What a run is made of. */
export interface ChaosRunOptions {
  readonly transport: TransportName;
  /** Capacities of the devices with heads; the first has the data too. */
  readonly capacities: readonly number[];
  readonly batch: number;
  readonly length: number;
  readonly seed: number;
  /** Folder for states and what is learnt. */
  readonly folder: string;
  /** Most training steps. */
  readonly steps: number;
  readonly pruner: string;
}

/** A training step as it counts. */
export interface CountedStep {
  readonly step: number;
  readonly loss: number;
  readonly mask: Uint8Array;
  /** Heads whose devices were away. */
  readonly away: readonly number[];
  /** When it was done, in milliseconds. */
  readonly at: number;
}

/** A device in the run. */
export interface ChaosDevice {
  readonly party: Party;
  readonly proxy: FaultyProxy;
  readonly index: number;
  /** Its folders of states and of what it has learnt. */
  readonly state: string;
  readonly save: string;
  /** The disk of its states; `null` where this process may make none. */
  readonly disk: SmallDisk | null;
  /** Since which step it is away; `null` if it is there. */
  awaySince: number | null;
  /** Why. */
  reason: string;
}

/** A device that took its heads from a state: before training step `at`, from the state after `from` steps; 0 for new ones. */
export interface Restored {
  readonly device: number;
  readonly at: number;
  readonly from: number;
}

/** Limits of the processes, in seconds: short, so that what is lost is noticed soon. */
const WAITS = ["--ping-interval", "1", "--idle-timeout", "4", "--step-timeout", "20"];
/** Longest wait for something that is to come, in milliseconds. */
const LIMIT_MS = 120_000;

/** A run that goes on whatever is done to it. */
export class ChaosRun implements AsyncDisposable {
  readonly #options: ChaosRunOptions;
  /** Where the edge server listens: where it finds a place at first, and the same later. */
  #port = 0;
  readonly #token = crypto.randomUUID();
  readonly #adminToken = crypto.randomUUID();
  #broker: NatsServer | null = null;
  /** Between the edge server and the broker; `null` without one. */
  #serverProxy: FaultyProxy | null = null;
  /** The edge server. */
  readonly server: Party;
  readonly devices: ChaosDevice[] = [];
  /** The training steps that count, by their numbers. */
  readonly steps: CountedStep[] = [];
  /** Steps that were done more than once. */
  twice = 0;
  /** Steps that the edge server told, those that do not count too. */
  told = 0;
  /** Heads that were taken from a state. */
  restored: Restored[] = [];
  /** Settings of the run, as the edge server tells them. */
  settings: Required<RunSettings> | null = null;
  #run = "";
  #isListening = false;

  constructor(options: ChaosRunOptions) {
    this.#options = options;
    const { folder, steps, capacities, seed, pruner, transport } = options;
    this.server = new Party({
      ...{ name: "edge server", program: "edge_server.ts", cwd: folder },
      args: () => args(),
      onEvent: (event) => this.#onServer(event),
    });
    const args = () => [
      ...["--port", `${this.#port}`, "--devices", `${capacities.length}`, "--steps", `${steps}`],
      ...[
        "--join-token",
        this.#token,
        "--admin-token",
        this.#adminToken,
        "--pruner",
        pruner,
        "--seed",
        `${seed}`,
      ],
      ...["--state", `${folder}/server`, "--state-seconds", "1", "--loss-wait", "300", ...WAITS],
      ...["--rank", "4", "--mode", "slice"],
      ...(transport === "nats" ? ["--nats", this.#address(this.#serverProxy!.port)] : []),
    ];
  }

  /** Starts everything, and waits for the first step. */
  async start(): Promise<void> {
    const { transport, capacities, folder } = this.#options;
    if (transport === "nats") {
      this.#broker = await NatsServer.start();
      this.#serverProxy = await FaultyProxy.start(this.#broker.port);
    }
    this.server.start();
    await this.until(() => this.#isListening, "the edge server listens");
    for (const [index, capacity] of capacities.entries()) {
      const proxy = await FaultyProxy.start(this.#broker?.port ?? this.#port);
      const [state, save] = [`${folder}/state-${index}`, `${folder}/heads-${index}`];
      const disk = await SmallDisk.mount(state);
      const party = new Party({
        ...{ name: `device ${index}`, program: "user_device.ts", cwd: folder },
        args: () => [
          ...["--server", this.#address(proxy.port), "--token", this.#token, "--name", `device ${index}`],
          ...["--capacity", `${capacity}`, "--state", state, "--save", save, ...WAITS],
          ...["--retry-timeout", "3", ...(index === 0 ? this.#data() : [])],
        ],
        onEvent: () => {},
      });
      this.devices.push({ party, proxy, index, state, save, disk, awaySince: null, reason: "" });
    }
    for (const { party } of this.devices) party.start();
    await this.until(() => this.steps.length > 2, "the first steps");
  }

  #data(): string[] {
    const { batch, length, seed } = this.#options;
    return [
      ...["--data", assetPath("restaurant/train.txt"), "--batch", `${batch}`, "--length", `${length}`],
      ...["--share-loss", "--seed", `${seed}`],
    ];
  }

  #address(port: number): string {
    const { transport } = this.#options;
    if (transport === "nats") return `nats+ws://127.0.0.1:${port}/chaos`;
    return `${transport}://127.0.0.1:${port}/join/${transport}`;
  }

  /** What lies between the edge server and everyone else: the broker's link, or those of all devices. */
  get serverLinks(): readonly FaultyProxy[] {
    return this.#serverProxy === null ? this.devices.map(({ proxy }) => proxy) : [this.#serverProxy];
  }

  /** L, layers of the model. */
  layers = 0;

  /** True if all are there. */
  get isWhole(): boolean {
    return this.devices.every(({ awaySince }) => awaySince === null) &&
      (this.steps.at(-1)?.away.length ?? 1) === 0;
  }

  /** Waits for something, unless a process ends before. */
  async until<T>(get: () => T | Promise<T>, what: string, limitMs: number = LIMIT_MS): Promise<T> {
    return await until(
      () => {
        for (const party of [this.server, ...this.devices.map((d) => d.party)]) {
          if (party.code !== null && party.starts > 0 && !this.#mayEnd.has(party)) {
            throw new Error(`${party.name} ended with ${party.code}: ${party.errors}`);
          }
        }
        return get();
      },
      what,
      limitMs,
    ) as T;
  }

  readonly #mayEnd = new Set<Party>();

  /** Kills a device; it is started again from its newest state by `restart`. */
  async kill({ party }: ChaosDevice): Promise<void> {
    this.#mayEnd.add(party);
    await party.kill();
  }

  /** Waits until a device ends by itself. */
  async untilEnded({ party }: ChaosDevice, what: string): Promise<void> {
    this.#mayEnd.add(party);
    await this.until(() => party.code !== null, what);
  }

  /** Starts a device again that was killed. */
  restart(device: ChaosDevice): void {
    this.#killed.set(device.index, statesIn(device.state));
    device.party.start("--resume");
    this.#mayEnd.delete(device.party);
  }

  readonly #killed = new Map<number, readonly number[]>();

  /** Kills the edge server, and starts it again from its newest state after a while. */
  async restartServer(pause: () => Promise<void>): Promise<void> {
    this.#mayEnd.add(this.server);
    await this.server.kill();
    await pause();
    this.#isListening = false;
    // It begins with all devices.
    for (const device of this.devices) device.awaySince = null;
    this.server.start("--resume");
    this.#mayEnd.delete(this.server);
  }

  /** Ends the run after its current step; returns once everyone has ended. */
  async stop(): Promise<void> {
    for (const party of [this.server, ...this.devices.map((d) => d.party)]) this.#mayEnd.add(party);
    const url = `http://127.0.0.1:${this.#port}/api/runs/${this.#run}/stop`;
    const answer = await fetch(url, {
      method: "POST",
      headers: { authorization: `Bearer ${this.#adminToken}` },
    });
    await answer.body?.cancel();
    await until(() => this.devices.every(({ party }) => party.code !== null), "the end of all", LIMIT_MS);
    await this.server.ended;
  }

  #onServer(event: PartyEvent): void {
    if (event.type === "listening") {
      this.#isListening = true;
      this.#port = Number(String(event.address).split(":").at(-1));
      this.#run = String(event.run);
      this.settings = event.settings as Required<RunSettings>;
      this.layers = (event.model as { readonly layers: number }).layers;
    } else if (event.type === "step") this.#onStep(event.record as StepJson);
    else if (event.type === "away" || event.type === "back") {
      const { device: { name }, step, reason = "" } = event as unknown as PresenceJson;
      const device = this.devices.find(({ party }) => party.name === name)!;
      if (event.type === "away") Object.assign(device, { awaySince: step, reason });
      else this.#onBack(device, step);
    }
  }

  /** The longest time from one step to the next since a moment, in milliseconds. */
  stillMs(since: number): number {
    const after = [since, ...this.#times.filter((at) => at > since), performance.now()];
    return Math.max(...after.slice(1).map((at, i) => at - after[i]!));
  }

  /** The step that a device was last taken in again before, since a moment; 0 if it was not. */
  backAt({ index }: ChaosDevice, since: number): number {
    return this.#backs.findLast((back) => back.device === index && back.at >= since)?.step ?? 0;
  }

  readonly #times: number[] = [];
  readonly #backs: { readonly device: number; readonly step: number; readonly at: number }[] = [];

  #onBack(device: ChaosDevice, step: number): void {
    this.#backs.push({ device: device.index, step, at: performance.now() });
    const states = this.#killed.get(device.index);
    this.#killed.delete(device.index);
    if (states !== undefined) {
      const trained = device.awaySince ?? step;
      const from = states.findLast((s) => s <= trained) ?? 0;
      this.restored.push({ device: device.index, at: step, from });
    }
    device.awaySince = null;
  }

  #onStep({ step, mode, loss, mask, away = [] }: StepJson): void {
    if (mode !== "train") return;
    this.told++;
    this.#times.push(performance.now());
    if (step < this.steps.length) {
      // An edge server that goes on from its state does some steps again.
      this.twice += this.steps.length - step;
      this.steps.length = step;
      this.restored = this.restored.filter(({ at }) => at < step);
    }
    this.steps.push({ step, loss: loss!, mask: Uint8Array.from(mask), away, at: performance.now() });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const parties = [this.server, ...this.devices.map((d) => d.party)];
    for (const party of parties) if (party.starts > 0) await party.kill();
    for (const { proxy, disk } of this.devices) {
      await proxy[Symbol.asyncDispose]();
      await disk?.[Symbol.asyncDispose]();
    }
    await this.#serverProxy?.[Symbol.asyncDispose]();
    await this.#broker?.[Symbol.asyncDispose]();
  }
}

/** A record as the edge server prints it. */
interface StepJson {
  readonly step: number;
  readonly mode: "train" | "evaluate";
  readonly loss: number | null;
  readonly mask: readonly number[];
  readonly away?: readonly number[];
}

interface PresenceJson {
  readonly device: { readonly name: string };
  readonly step: number;
  readonly reason?: string;
}

/** Steps of the states in a folder, ascending. */
function statesIn(folder: string): number[] {
  try {
    const names = [...Deno.readDirSync(folder)].map(({ name }) => /^step-(\d+)\.safetensors$/.exec(name));
    return names.flatMap((found) => found === null ? [] : [Number(found[1])]).sort((a, b) => a - b);
  } catch {
    return []; // it has saved nothing yet
  }
}
