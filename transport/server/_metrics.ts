/**
 * Figures of runs as OpenMetrics text.
 *
 * @module
 */

import type { RunHandle, RunStatus } from "@edgetuner/core";
import { type DeviceTime, deviceTimes } from "../control/device_times.ts";

/** Type of the text. */
export const METRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const STATES: readonly RunStatus[] = ["waiting", "running", "paused", "ended", "failed"];

/** One figure with its labels. */
type Sample = readonly [labels: Readonly<Record<string, string>>, value: number];

/** A kind of figure. */
interface Family {
  readonly name: string;
  readonly type: "gauge" | "counter" | "stateset";
  readonly unit?: string;
  readonly help: string;
  /** Figures of a run. */
  readonly of: (run: RunHandle) => readonly Sample[];
}

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

const FAMILIES: readonly Family[] = [
  {
    name: "edgetuner_run_state",
    type: "stateset",
    help: "State of the run.",
    of: ({ status }) => STATES.map((state) => [{ edgetuner_run_state: state }, Number(state === status)]),
  },
  {
    name: "edgetuner_run_silent_seconds",
    type: "gauge",
    unit: "seconds",
    help: "Time since the last sign of life of whoever computes the steps.",
    of: (run) => [[{}, (run.health?.().silentMs ?? 0) / 1000]],
  },
  {
    name: "edgetuner_step",
    type: "gauge",
    help: "Training steps before the last one.",
    of: ({ latest }) => latest === null ? [] : [[{}, latest.step]],
  },
  {
    name: "edgetuner_steps_planned",
    type: "gauge",
    help: "Training steps that the run is to have.",
    of: ({ settings }) => [[{}, settings.steps]],
  },
  {
    name: "edgetuner_loss",
    type: "gauge",
    help: "Loss of the last step, where the data device shares it.",
    of: ({ latest }) => latest === null || latest.loss === null ? [] : [[{ mode: latest.mode }, latest.loss]],
  },
  {
    name: "edgetuner_step_seconds",
    type: "gauge",
    unit: "seconds",
    help: "Where the time of the last step went.",
    of: ({ latest }) =>
      latest === null ? [] : Object.entries(latest.times).map(([part, ms]) => [{ part }, ms / 1000]),
  },
  {
    name: "edgetuner_device_step_seconds",
    type: "gauge",
    unit: "seconds",
    help: "Time of each device in the last step: computing, on the wire, and waiting.",
    of: ({ latest, devices }) => latest === null ? [] : deviceTimes(latest, devices).flatMap(timeSamples),
  },
  {
    name: "edgetuner_kept_heads",
    type: "gauge",
    help: "Heads that took part in the last step.",
    of: ({ latest }) => latest === null ? [] : [[{}, sum(latest.kept)]],
  },
  {
    name: "edgetuner_devices",
    type: "gauge",
    help: "Devices that joined, by whether they are connected.",
    of: ({ devices }) =>
      [true, false].map((connected) => [
        { connected: String(connected) },
        devices.filter((device) => device.connected === connected).length,
      ]),
  },
  {
    name: "edgetuner_frames",
    type: "counter",
    help: "Frames that travelled.",
    of: (run) => run.traffic().map(({ kind, direction, frames }) => [{ kind, direction }, frames]),
  },
  {
    name: "edgetuner_frame_bytes",
    type: "counter",
    unit: "bytes",
    help: "Bytes of frames that travelled.",
    of: (run) => run.traffic().map(({ kind, direction, frameBytes }) => [{ kind, direction }, frameBytes]),
  },
];

/** Times of a device by part; computing and wire are one where the device does not tell them apart. */
function timeSamples({ device, heads, ms, computeMs, waitMs }: DeviceTime): Sample[] {
  const parts = computeMs === null
    ? { answer: ms, wait: waitMs }
    : { compute: computeMs, wire: ms - computeMs, wait: waitMs };
  return Object.entries(parts).map((
    [part, value],
  ) => [{ device, does: heads ? "heads" : "data", part }, value / 1000]);
}

/** A label's value as the text has it. */
function escaped(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

/** A number as the text has it. */
function figure(value: number): string {
  return Number.isNaN(value) ? "NaN" : Number.isFinite(value) ? String(value) : value > 0 ? "+Inf" : "-Inf";
}

/** Figures of runs as OpenMetrics text. */
export function metricsText(runs: Iterable<RunHandle>): string {
  const all = [...runs];
  const lines = FAMILIES.flatMap(({ name, type, unit, help, of }) => {
    const suffix = type === "counter" ? "_total" : "";
    const samples = all.flatMap((run) =>
      of(run).map(([labels, value]) => {
        const texts = Object.entries({ run: run.run, ...labels }).map(([key, text]) =>
          `${key}="${escaped(text)}"`
        );
        return `${name}${suffix}{${texts.join(",")}} ${figure(value)}`;
      })
    );
    return [
      `# TYPE ${name} ${type}`,
      ...(unit === undefined ? [] : [`# UNIT ${name} ${unit}`]),
      `# HELP ${name} ${help}`,
      ...samples,
    ];
  });
  return [...lines, "# EOF", ""].join("\n");
}
