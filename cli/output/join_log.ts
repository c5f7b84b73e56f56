/**
 * What a device shows of its run while it goes on, and what it knows of it in the end.
 *
 * @module
 */

import type { DeviceStep, Welcome } from "@edgetuner/core";
import { ProgressBar } from "./progress.ts";
import { MemoryLog } from "./report.ts";
import { keptIn, stepTexts } from "./step_text.ts";

/** Losses that the data device saw. */
export interface Losses {
  readonly train: number[];
  readonly before: number[];
  readonly after: number[];
  /** Whole validations. */
  readonly validations: { readonly step: number; readonly loss: number }[];
}

/** Follows a device from its welcome on. */
export class JoinLog {
  /** Losses, on the data device. */
  readonly losses: Losses = { train: [], before: [], after: [], validations: [] };
  /** Memory over the steps. */
  readonly memory: MemoryLog = new MemoryLog();
  /** Milliseconds at the start. */
  readonly started: number = performance.now();
  readonly #isQuiet: boolean;
  readonly #everySeconds: number;
  #bar: ProgressBar | null = null;
  #last = { at: performance.now(), bytes: 0 };

  /** @param flags The flags that say what is shown. */
  constructor(flags: { readonly events: boolean; readonly "log-every": number }) {
    this.#isQuiet = flags.events;
    this.#everySeconds = flags["log-every"];
  }

  /** A line for people. */
  say(line: string): void {
    if (!this.#isQuiet) console.log(line);
  }

  /** An event for programs. */
  emit(event: Record<string, unknown>): void {
    if (this.#isQuiet) console.log(JSON.stringify(event));
  }

  /** Something to know, for people or programs. */
  notice(text: string): void {
    if (this.#isQuiet) this.emit({ type: "notice", text });
    else console.error(text);
  }

  /** Milliseconds since the start. */
  get elapsedMs(): number {
    return performance.now() - this.started;
  }

  /** The run begins: says which heads are this device's. */
  welcome(name: string, { run, range, model, settings, start }: Welcome): void {
    const { steps } = settings;
    this.#bar = new ProgressBar(steps, { isShown: !this.#isQuiet, everySeconds: this.#everySeconds });
    this.#last = { at: performance.now(), bytes: 0 };
    const heads = range === null
      ? "no heads"
      : `heads ${range.first} to ${range.first + range.count - 1} of each of ${model.layers} layers`;
    this.say(`Run ${run}: this device has ${heads}${start > 0 ? `; it goes on from step ${start}` : ""}`);
    this.emit({ type: "welcome", name, range, start });
  }

  /** The run waits, or goes on. */
  pause(paused: boolean): void {
    this.say(paused ? "The run is paused; waiting" : "The run goes on");
    this.emit({ type: "pause", paused });
  }

  /** The connection is lost, or there again. */
  lost(error: Error | null): void {
    const text = error === null ? "The connection is there again" : `${error.message}; trying to come back`;
    this.say(text);
    this.emit(error === null ? { type: "back" } : { type: "lost", reason: error.message });
  }

  /** Heads whose devices are away: validations and texts are without them from now on. */
  away(heads: readonly number[]): void {
    this.emit({ type: "away", heads });
    this.say(
      heads.length === 0
        ? "Validation: all heads are there again"
        : `Validation: without heads ${heads.join(", ")}, whose devices are away`,
    );
  }

  /** A training step is done. */
  step(step: number, { mask, totalBytes }: DeviceStep): void {
    this.memory.sample(step);
    const now = performance.now();
    const text = stepTexts({
      loss: this.losses.train.at(-1) ?? null,
      validation: this.losses.validations.at(-1)?.loss ?? null,
      seconds: (now - this.#last.at) / 1000,
      traffic: { bytes: totalBytes - this.#last.bytes, unit: "/step" },
      kept: keptIn(mask),
      heads: mask.length,
    });
    this.#bar?.draw(step + 1, text);
    this.#last = { at: now, bytes: totalBytes };
  }

  /** Clears the bar. */
  end(): void {
    this.#bar?.end();
  }
}
