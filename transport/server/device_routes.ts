/**
 * What devices may ask of a run before they join it.
 *
 * @module
 */

import { type RunHandle, shapeForDevices } from "@edgetuner/core";
import type { RunAbout } from "../run_about.ts";

/** What a device is told of a run. */
export function aboutOf(run: RunHandle): RunAbout {
  const { latest, settings: { lora, steps, codec = "f32" } } = run;
  const isTraining = latest?.mode === "train";
  return {
    run: run.run,
    status: run.status,
    step: latest === null ? 0 : latest.step + (isTraining ? 1 : 0),
    steps,
    loss: isTraining ? latest.loss : null,
    stepMs: isTraining ? latest.times.total : null,
    model: run.model === undefined ? null : shapeForDevices(run.model),
    base: run.base ?? null,
    lora: { ...lora },
    codec,
    places: run.places ?? 0,
    devices: run.devices.map(({ name, id, capacity, range, data, connected }) => ({
      ...{ name, id, capacity, data, connected },
      heads: range?.count ?? null,
    })),
  };
}
