/**
 * What an edge server shows and writes of its run while it goes on, and what it knows of it in the end.
 *
 * @module
 */

import {
  type Absences,
  adamwAt,
  type BestLoss,
  type EdgeServerEvent,
  missedSteps,
  type RunSettings,
  type SharedValidationEvent,
  type StepRecord,
  TokenMean,
} from "@edgetuner/core";
import { eventJson, stepJson } from "@edgetuner/transport/server";
import type { WorkerRun } from "../process/worker_run.ts";
import { MetricsLog, type MetricsRow } from "./metrics.ts";
import { OwnersLog, validationText } from "./owners_log.ts";
import { ProgressBar } from "./progress.ts";
import { MemoryLog } from "./report.ts";
import { Rows, StepFigures } from "./rows.ts";
import { stepTexts } from "./step_text.ts";

/** The flags that say what is shown and written. */
export interface ServeLogFlags {
  readonly steps: number;
  readonly generate: boolean;
  readonly events: boolean;
  readonly metrics: string;
  readonly report: string;
  readonly "log-every": number;
}

/** What is read of a run. */
export type LoggedRun = Pick<WorkerRun, "resumedFrom" | "devices" | "settings" | "subscribe">;

/** Follows a run from its first event on. */
export class ServeLog implements Disposable {
  /** All steps, for the report. */
  readonly records: Rows;
  /** Figures of the training steps. */
  readonly trained: StepFigures = new StepFigures();
  /** Validations, where the data device shares its loss. */
  readonly validations: Validations = new Validations();
  /** Several people's data, each owner's. */
  readonly owners: OwnersLog = new OwnersLog();
  /** Heads whose devices were away in the last step, in words; empty if none was. */
  away = "";
  /** The same as numbers, and the training steps that heads missed in this program's time. */
  #absent: readonly number[] = [];
  readonly #missed = new Map<number, number>();
  /** The last validation that heads were away in. */
  #awayAt = -1;
  /** Memory over the steps. */
  readonly memory: MemoryLog = new MemoryLog();
  /** What generation took. */
  readonly decoded = {
    passes: 0,
    tokens: 0,
    bytes: 0,
    seconds: 0,
    waitSeconds: 0,
    readbackSeconds: 0,
    cacheBytes: 0,
  };
  /** Why the run was ended on purpose; empty if it was not. */
  stopReason = "";
  /** Milliseconds at the start. */
  readonly started: number = performance.now();
  readonly #run: LoggedRun;
  readonly #isQuiet: boolean;
  readonly #metrics: MetricsLog | null;
  readonly #bar: ProgressBar;

  /** Listens to the run at once. */
  constructor(run: LoggedRun, flags: ServeLogFlags) {
    this.#run = run;
    this.#isQuiet = flags.events;
    this.#metrics = flags.metrics === ""
      ? null
      : new MetricsLog(flags.metrics, { resumed: run.resumedFrom !== null });
    this.records = Rows.of(flags.report, "steps");
    this.#bar = new ProgressBar(flags.steps, {
      isShown: !flags.events && !flags.generate,
      everySeconds: flags["log-every"],
    });
    run.subscribe((event) => this.#hear(event));
  }

  /** A line for people. */
  say(line: string): void {
    if (!this.#isQuiet) console.log(line);
  }

  /** An event for programs. */
  emit(event: Record<string, unknown>): void {
    if (this.#isQuiet) console.log(JSON.stringify(event));
  }

  /** Clears the bar. */
  end(): void {
    this.#bar.end();
  }

  /** Heads that were away in the last step, and what heads missed. */
  get absences(): Absences {
    const missed = missedSteps([...this.#missed].sort(([a], [b]) => a - b));
    return { ...(this.#absent.length > 0 && { away: this.#absent }), ...(missed.length > 0 && { missed }) };
  }

  /** Milliseconds since the start. */
  get elapsedMs(): number {
    return performance.now() - this.started;
  }

  #hear(event: EdgeServerEvent): void {
    this.emit(eventJson(event));
    if (event.type === "status" && event.status === "ended") this.stopReason = event.reason;
    else if (event.type === "joined") {
      const { name, id, capacity } = event.device;
      const hasNamesake = this.#run.devices.filter((d) => d.name === name).length > 1;
      this.say(`${name}${hasNamesake ? ` (id ${id})` : ""} joined (capacity ${capacity})`);
    } else if (event.type === "back") {
      this.say(`${event.device.name} is back from step ${event.step} on`);
    } else if (event.type === "away") {
      const { name, capacity } = event.device;
      const heads = capacity > 0 ? ", its heads are pruned" : "";
      this.say(`${name} is away from step ${event.step} on${heads}: ${event.reason}`);
    } else if (event.type === "validation") {
      this.validations.tell(event);
      this.owners.tell(event);
      this.say(validationText(event));
    } else if (event.type === "refused") this.say(`Refused ${event.peer}: ${event.reason}`);
    else if (event.type === "decoding") this.#decoding(event.record);
    else if (event.type === "step") this.#step(event.record);
  }

  #decoding(
    { rows, tokens, bytes, times, cacheBytes }: Extract<EdgeServerEvent, { type: "decoding" }>["record"],
  ): void {
    const { decoded } = this;
    decoded.passes++;
    decoded.tokens += rows * tokens;
    decoded.bytes += bytes;
    decoded.seconds += times.total / 1000;
    decoded.waitSeconds += times.wait / 1000;
    decoded.readbackSeconds += times.readback / 1000;
    decoded.cacheBytes = Math.max(decoded.cacheBytes, cacheBytes);
  }

  #step(record: StepRecord): void {
    const { step, mode, loss, times, bytes, kept, mask } = record;
    this.records.add(stepJson(record));
    this.#metrics?.write(metricsOf(record, this.#run.settings));
    // Of several owners' data the edge server tells validations itself.
    if (record.owners === undefined) this.validations.add(record);
    this.owners.add(record);
    const away = (record.away ?? []).join(", ");
    if (mode === "evaluate" && away !== "" && step !== this.#awayAt) {
      this.say(`The validation before step ${step} is without heads ${away}, whose devices are away`);
      this.#awayAt = step;
    }
    this.away = away;
    this.#absent = record.away ?? [];
    if (mode !== "train") return;
    for (const head of this.#absent) this.#missed.set(head, (this.#missed.get(head) ?? 0) + 1);
    this.trained.add(record);
    this.memory.sample(step);
    this.#bar.draw(
      step + 1,
      stepTexts({
        loss,
        validation: this.validations.means.at(-1)?.loss ?? null,
        seconds: times.total / 1000,
        traffic: { bytes, unit: "/step" },
        kept: kept.reduce((a, b) => a + b, 0),
        heads: mask.length,
        gaveUp: record.figures?.importanceGivenUp,
      }),
    );
  }

  [Symbol.dispose](): void {
    this.#metrics?.[Symbol.dispose]();
    this.records[Symbol.dispose]();
  }
}

/** Losses of validations, where the data device shares them: as it tells them, means by tokens. */
class Validations {
  /** The validations so far. */
  readonly means: { readonly step: number; loss: number }[] = [];
  #mean = new TokenMean();
  /** The best that the edge server told: it compares only those on the same owners' data. */
  #told: BestLoss | null = null;

  /** Takes in a step. */
  add({ step, mode, loss, counted = 0 }: StepRecord): void {
    if (mode !== "evaluate" || loss === null) return;
    if (this.means.at(-1)?.step !== step) {
      this.#mean = new TokenMean();
      this.means.push({ step, loss });
    }
    this.#mean.add(loss, counted);
    this.means.at(-1)!.loss = this.#mean.value;
  }

  /** Takes in a validation on several people's data. */
  tell({ step, loss, isBest }: SharedValidationEvent): void {
    this.means.push({ step, loss });
    if (isBest) this.#told = { step, loss };
  }

  /** The one of the lowest loss; `null` without any. */
  get best(): BestLoss | null {
    if (this.#told !== null) return this.#told;
    return this.means.reduce<BestLoss | null>((a, b) => a === null || b.loss < a.loss ? b : a, null);
  }
}

/** A row of the metrics. */
function metricsOf(record: StepRecord, { optimizer, steps }: RunSettings): MetricsRow {
  const { step, mode, loss, times, bytes, kept, tokens, gradientNorm, owners } = record;
  return {
    step,
    mode,
    loss,
    rate: adamwAt(optimizer, step, steps).rate,
    seconds: times.total / 1000,
    wait_seconds: times.wait / 1000,
    prune_seconds: times.prune / 1000,
    bytes,
    tokens,
    kept_heads: kept.reduce((a, b) => a + b, 0),
    gradient_norm: gradientNorm ?? null,
    ...(owners === undefined ? {} : { owners: owners.join("+") }),
  };
}
