/**
 * What devices may ask of a run before they join it.
 *
 * @module
 */

import type { Hono } from "hono";
import type { RunHandle } from "@edgetuner/core";
import type { RunAbout } from "../run_about.ts";

/**
 * Adds `GET /join/about`: all runs, as a device sees them that has not joined.
 *
 * @param app Where to; whatever guards `/join/*` guards this too.
 * @param runs The runs, by name.
 */
export function addDeviceRoutes(app: Hono, runs: ReadonlyMap<string, RunHandle>): void {
  app.get("/join/about", (context) => context.json([...runs.values()].map(aboutOf)));
}

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
    model: run.model ?? null,
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
