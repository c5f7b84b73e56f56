/**
 * What simulations of all kinds do alike.
 *
 * @module
 */

import {
  type HeadModules,
  LocalData,
  LocalHeads,
  maskSumOf,
  type RunSettings,
  runStep,
  shapeForDevices,
  type StepRecord,
  TokenMean,
} from "@edgetuner/core";
import type { StepShape } from "./compute.ts";
import { type LinkProfile, readLinkProfile } from "./link_profile.ts";
import type {
  SimulatedDevice,
  SimulatedModel,
  SimulatedStep,
  SimulationOptions,
} from "./simulation_options.ts";

/** In place of a checkpoint's: both halves of the model are the caller's. */
export const FINGERPRINT = "simulation";

/** Names whose order is that of the numbers: devices of equal capacity get their heads in it. */
export function nameOf(device: number): string {
  return `device ${String(device + 1).padStart(3, "0")}`;
}

export function sizeOf({ layers, ends }: SimulatedModel, { lora }: RunSettings): Omit<StepShape, "length"> {
  const { kvHeads } = layers.shape;
  const { vocabulary } = ends.shape;
  return { model: { ...shapeForDevices(layers.shape), kvHeads, vocabulary }, lora };
}

export function devicesOf(devices: number | readonly SimulatedDevice[]) {
  const all: readonly SimulatedDevice[] = typeof devices === "number"
    ? Array.from({ length: devices }, () => ({}))
    : devices;
  const none = all.every((d) => d.data !== true);
  const list = all.map(({ capacity = 1, speed = 1, link, memory, data = false }, i) => ({
    capacity,
    speed,
    link,
    memory,
    data: data || (none && i === 0),
  }));
  const dataDevices = list.filter((d) => d.data).length;
  if (dataDevices !== 1) {
    throw new TypeError(
      `Cannot simulate as there must be one data device among the devices: there are ${dataDevices}`,
    );
  }
  return list;
}

/** Checks the links before anything starts: a failure of a device that there is not would never come. */
export function requireLinks(
  all: readonly { readonly link?: LinkProfile | undefined }[],
  devices: number,
): void {
  for (const { link } of all) {
    if (link === undefined) continue;
    for (const [i, { device = 0 }] of (readLinkProfile(link).failures ?? []).entries()) {
      if (device < devices) continue;
      throw new TypeError(
        `Cannot simulate as failures[${i}].device of link "${link.name}" must be below the number of devices, ${devices}: current value is ${device}`,
      );
    }
  }
}

/** A step in virtual time: what of the wall's time its record holds means nothing. */
export function virtualStep(
  record: StepRecord,
  { edgeComputeMs, atMs }: Pick<SimulatedStep, "edgeComputeMs" | "atMs">,
): SimulatedStep {
  const { total, prune } = record.times;
  const wait = Math.max(0, total - edgeComputeMs);
  return { ...record, times: { total, prune, readback: 0, codec: 0, wait }, edgeComputeMs, atMs };
}

export function summary(steps: readonly SimulatedStep[]) {
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  const steady = steps.length > 1 ? steps.slice(1) : steps;
  return {
    steps,
    msPerStep: mean(steady.map((s) => s.times.total)),
    // All of them: an embedding that came ahead counts in the step before its own.
    bytesPerStep: mean(steps.map((s) => s.bytes)),
  };
}

export function checkEvaluation({ model, evaluation = [] }: SimulationOptions): void {
  if (evaluation.length > 0 && (model.deviceEngine ?? model.engine) !== model.engine) {
    throw new TypeError(
      "Cannot evaluate as devices and edge server must share an engine: the devices have another",
    );
  }
}

/** Mean loss by tokens over the evaluation batches, without label smoothing; `null` if there are none. */
export async function evaluate(
  { model, evaluation = [] }: SimulationOptions,
  modules: readonly HeadModules[],
): Promise<number | null> {
  if (evaluation.length === 0) return null;
  const { engine, layers: base, ends, projections } = model;
  using heads = new LocalHeads(modules, [], null, { keepsModules: true, projections });
  const { layers: L, heads: H } = base.shape;
  // Heads that nobody has are pruned: without any it is the base model alone, where all Deltas are zero.
  const isThere = (head: number) =>
    modules.some(({ options: { range } }) => head >= range.first && head < range.first + range.count);
  const mask = Uint8Array.from({ length: L * H }, (_, i) => isThere(i % H) ? 0 : 1);
  const mean = new TokenMean();
  for (const batch of evaluation) {
    const data = new LocalData(ends, { labelSmoothing: 0 }, () => ({ batch, mode: "evaluate" }));
    const { loss } = await runStep({ engine, base, heads, data }, 0, (await data.next(0))!, mask);
    mean.add(loss!, maskSumOf(batch));
  }
  return mean.value;
}
