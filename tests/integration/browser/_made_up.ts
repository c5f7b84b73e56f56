/**
 * Runs that compute nothing, with figures as real ones have: for pictures of the dashboard.
 *
 * @module
 */

import type { EdgeServerEvent, JoinedDevice, LedgerEntry, RunHandle, StepRecord } from "@edgetuner/core";
import { tinySettings } from "../../support/tiny_model.ts";

/** What a made-up run is like. */
export interface ShownRunOptions {
  readonly run: string;
  readonly layers: number;
  readonly heads: number;
  /** Names of devices with heads. */
  readonly devices: readonly string[];
  /** Names of devices with data. @default {one, called desk} */
  readonly owners?: readonly string[];
  /** Training steps that are planned. */
  readonly steps: number;
  /** What its losses begin at and end near. @default {[4.6, 2.1]} */
  readonly losses?: readonly [number, number];
  readonly seed: number;
}

/** Random numbers from 0 to 1, the same for a seed. */
function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** A run whose steps are made up one after the other. */
export class ShownRun implements RunHandle {
  readonly run: string;
  status: RunHandle["status"] = "running";
  readonly settings: RunHandle["settings"];
  readonly model: NonNullable<RunHandle["model"]>;
  readonly devices: JoinedDevice[];
  latest: StepRecord | null = null;
  readonly #options: ShownRunOptions;
  readonly #random: () => number;
  readonly #listeners = new Set<(event: EdgeServerEvent) => void>();
  #step = 0;
  #mask: Uint8Array;

  constructor(options: ShownRunOptions) {
    const { run, layers, heads, devices, owners = ["desk"], steps, seed } = options;
    this.#options = options;
    this.run = run;
    this.settings = tinySettings("slice", steps);
    this.model = { layers, heads, hidden: 64 * heads };
    this.#random = random(seed);
    this.#mask = new Uint8Array(layers * heads);
    const share = Math.floor(heads / devices.length);
    const id = (i: number) => (0x51ab57d0 + 977 * i).toString(16);
    this.devices = [
      ...owners.map((name, i) => ({
        ...{ name, id: id(i), capacity: 0, data: true, range: null, connected: true },
      })),
      ...devices.map((name, i) => ({
        ...{ name, id: id(i + owners.length), data: false, connected: true },
        capacity: i === devices.length - 1 ? heads - share * (devices.length - 1) : share,
        range: {
          first: share * i,
          count: i === devices.length - 1 ? heads - share * (devices.length - 1) : share,
        },
      })),
    ];
  }

  /** Tells what joined. */
  begin(): void {
    for (const device of this.devices) this.emit({ type: "joined", device });
    this.emit({ type: "status", status: "running", reason: "" });
  }

  /** Makes a step up, with a validation before each tenth. */
  step(): void {
    const { steps, losses: [first, last] = [4.6, 2.1], owners = ["desk"] } = this.#options;
    const at = this.#step;
    const loss = last + (first - last) * Math.exp(-4 * at / steps) + 0.25 * (this.#random() - 0.5);
    if (at % 10 === 0) this.#emitStep({ mode: "evaluate", loss: loss - 0.2, counted: 2048 });
    if (owners.length > 1 && at % 100 === 0) {
      const of = owners.map((name, i) => ({ name, loss: loss - 0.1 * i, counted: 1024 }));
      const event = { step: at, loss: loss - 0.1, counted: 2048, isBest: true, owners: of, without: [] };
      this.emit({ type: "validation", ...event });
    }
    const turn = owners.length > 1 ? { owners: [owners[at % owners.length]!] } : {};
    this.#emitStep({ mode: "train", loss, ...turn });
    this.#step++;
  }

  #emitStep(of: Pick<StepRecord, "mode" | "loss" | "counted" | "owners">): void {
    const { layers, heads } = this.#options;
    const { owners: [owner] = [this.devices[0]!.name] } = of;
    if (of.mode === "train" && this.#step > 10) {
      this.#mask = this.#mask.map((z) => this.#random() < 0.1 ? Number(this.#random() < 0.7) : z);
    }
    const away = this.devices.filter(({ connected, range }) => !connected && range !== null);
    const mask = of.mode === "train" ? this.#mask.slice() : new Uint8Array(layers * heads);
    for (const { range } of away) {
      for (let h = range!.first; h < range!.first + range!.count; h++) {
        for (let l = 0; l < layers; l++) mask[l * heads + h] = 1;
      }
    }
    const kept = Array.from(
      { length: layers },
      (_, l) => mask.subarray(l * heads, (l + 1) * heads).reduce((sum, z) => sum + 1 - z, 0),
    );
    const wobble = () => 0.8 + 0.4 * this.#random();
    const answers = this.devices.filter(({ range, connected }) => connected && range !== null)
      .map(({ range }, i) => {
        const ms = (90 + 30 * (i % 4)) * wobble();
        return { first: range!.first, ms, computeMs: ms * (0.3 + 0.1 * (i % 3)) };
      });
    const record: StepRecord = {
      ...of,
      step: this.#step,
      times: { total: 260 * wobble(), prune: 4, readback: 38 * wobble(), codec: 9, wait: 170 * wobble() },
      bytes: Math.round(1_900_000 * wobble()),
      mask,
      kept,
      scores: Float32Array.from(mask, (z) => z === 1 ? 0.2 * this.#random() : 0.4 + this.#random()),
      tokens: 512,
      batch: 8,
      ...(away.length === 0 ? {} : { away: away.map(({ range }) => range!.first) }),
      answers,
      dataAnswers: [{ name: owner!, ms: 41 * wobble(), computeMs: 25 * wobble() }],
    };
    this.latest = record;
    this.emit({ type: "step", record });
  }

  /** A device is lost. */
  lose(name: string): void {
    const device = this.devices.find((other) => other.name === name)!;
    device.connected = false;
    this.emit({ type: "away", device, step: this.#step, reason: "it was silent for 10 s" });
  }

  traffic(): readonly LedgerEntry[] {
    const done = this.#step;
    const of = (kind: LedgerEntry["kind"], direction: LedgerEntry["direction"], bytes: number) => (
      { kind, direction, frames: 3 * done, tensorBytes: bytes * done, frameBytes: (bytes + 320) * done }
    );
    return [
      of("embedding", "received", 131_072),
      of("hidden", "sent", 131_072),
      of("hiddenGradient", "received", 131_072),
      of("input", "sent", 412_000),
      of("delta", "received", 403_000),
      of("deltaGradient", "sent", 403_000),
      of("inputGradient", "received", 390_000),
      of("mask", "sent", 432),
      of("statistics", "received", 576),
      of("loss", "received", 0),
    ];
  }

  pause(): void {
    this.#become("paused");
  }

  resume(): void {
    this.#become("running");
  }

  stop(reason = ""): void {
    this.#become("ended", reason);
  }

  #become(status: RunHandle["status"], reason = ""): void {
    this.emit({ type: "status", status: this.status = status, reason });
  }

  subscribe(listener: (event: EdgeServerEvent) => void) {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  emit(event: EdgeServerEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}
