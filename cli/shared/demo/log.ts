/**
 * What the processes of the demo say, and the bar that is drawn of it.
 *
 * @module
 */

import type { BestLoss } from "@edgetuner/core";
import { ProgressBar } from "../../output/progress.ts";
import { Rows, StepFigures } from "../../output/rows.ts";
import { stepTexts } from "../../output/step_text.ts";
import type { ChildEvent } from "../../process/child.ts";
import type { AllCounts } from "../training_data.ts";

/** A step as the edge server prints it. */
export interface DemoStep {
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
  readonly embeddingRows?: readonly number[];
  readonly figures?: Readonly<Record<string, number>>;
}

/** Heads of each layer that a device has. */
interface Range {
  readonly first: number;
  readonly count: number;
}

/** Follows the processes of a run. */
export class DemoLog implements Disposable {
  /** All steps: what bytes they would have taken unpruned is computed at the end. */
  readonly steps: Rows;
  /** Losses that the data device tells. */
  readonly losses: Rows;
  /** Figures of the training steps. */
  readonly trained: StepFigures = new StepFigures();
  /** Whole validations, as the data device tells them. */
  readonly validations: { step: number; loss: number }[] = [];
  /** What each device said at its end. */
  readonly devices: Map<string, ChildEvent> = new Map();
  /** What became of the data. */
  data: AllCounts | null = null;
  /** What the edge server said at the start, and at the end. */
  server: ChildEvent | null = null;
  /** True once nothing more is to be drawn. */
  isStopping = false;
  readonly #bar: ProgressBar;
  readonly #started = performance.now();

  /**
   * @param out Folder of the run.
   * @param flags What is shown and written.
   */
  constructor(
    out: string,
    flags: { readonly steps: number; readonly report: string; readonly "log-every": number },
  ) {
    this.steps = new Rows(`${out}/steps.partial`);
    this.losses = Rows.of(flags.report, "losses");
    this.#bar = new ProgressBar(flags.steps, { everySeconds: flags["log-every"] });
  }

  /** Name of the run. */
  get run(): string {
    return String(this.server?.run);
  }

  /** What the edge server's adapter calls itself. */
  get adapter(): string {
    return String(this.server?.adapter ?? "");
  }

  /** The best validation of the run, as its data device knows it. */
  get best(): BestLoss | null {
    for (const device of this.devices.values()) {
      if (device.best) return device.best as BestLoss;
    }
    return null;
  }

  /** Heads of each device, in order of their heads. */
  get headsPerDevice(): number[] {
    return [...this.devices.values()].map((device) => device.range as Range | null)
      .filter((range) => range !== null).sort((a, b) => a.first - b.first).map(({ count }) => count);
  }

  /** Seconds since the start. */
  get seconds(): number {
    return (performance.now() - this.#started) / 1000;
  }

  /** Clears the bar, so that something else can be printed. */
  clear(): void {
    this.#bar.end();
  }

  /** Takes in what the edge server says. */
  hearServer(event: ChildEvent): void {
    if (event.type === "listening") this.server = event;
    else if (event.type === "step") this.#step(event.record as DemoStep);
    else if (event.type === "done") this.server = { ...this.server, ...event };
  }

  /** Takes in what a device says. */
  hearDevice(name: string, event: ChildEvent): void {
    if (event.type === "loss") this.losses.add(event);
    else if (event.type === "notice") {
      this.clear();
      console.error(event.text);
    } else if (event.type === "data") this.data = { train: event.train, valid: event.valid } as AllCounts;
    else if (event.type === "validation") {
      this.validations.push({ step: Number(event.step), loss: Number(event.loss) });
    } else if (event.type === "done") this.devices.set(name, event);
  }

  #step(step: DemoStep): void {
    this.steps.add(step);
    if (step.mode !== "train") return;
    this.trained.add(step);
    if (this.isStopping) return;
    this.#bar.draw(
      step.step + 1,
      stepTexts({
        loss: step.loss,
        validation: this.validations.at(-1)?.loss ?? null,
        seconds: step.times.total / 1000,
        traffic: { bytes: step.bytes, unit: "/step" },
        kept: step.kept.reduce((a, b) => a + b, 0),
        heads: step.mask.length,
        gaveUp: step.figures?.importanceGivenUp,
      }),
    );
  }

  [Symbol.dispose](): void {
    this.steps[Symbol.dispose]();
    this.losses[Symbol.dispose]();
  }
}
