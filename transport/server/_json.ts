/**
 * What happens in a run as JSON.
 *
 * @module
 */

import type { EdgeServerEvent, RunHandle, StepRecord } from "@edgetuner/core";
import type { RunHealthJson, RunJson, StepJson } from "../control/types.ts";
import { isOver } from "./_event_log.ts";

/** A step record as JSON. */
export function stepJson(record: StepRecord): StepJson & Record<string, unknown> {
  return { ...record, mask: [...record.mask], scores: record.scores === null ? null : [...record.scores] };
}

/** An event as JSON. */
export function eventJson(event: EdgeServerEvent): Record<string, unknown> {
  return event.type === "step" ? { type: "step", record: stepJson(event.record) } : { ...event };
}

/** A run as JSON. */
export function runJson(run: RunHandle): RunJson {
  return {
    run: run.run,
    status: run.status,
    settings: run.settings,
    devices: run.devices,
    latest: run.latest === null ? null : stepJson(run.latest),
    traffic: run.traffic(),
  };
}

/** How a run is, for anyone to see: no names, no losses. */
export function healthJson(run: RunHandle, silentLimitMs: number): RunHealthJson {
  const { silentMs = 0, sinceStepMs = null } = run.health?.() ?? {};
  const health = run.status === "failed"
    ? "failed"
    : !isOver(run.status) && silentMs > silentLimitMs
    ? "silent"
    : "ok";
  return {
    health,
    state: run.status,
    step: run.latest?.step ?? null,
    secondsSinceStep: sinceStepMs === null ? null : Math.round(sinceStepMs) / 1000,
    secondsSilent: Math.round(silentMs) / 1000,
  };
}
