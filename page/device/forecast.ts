/**
 * What a device would do in a run, before it takes part.
 *
 * @module
 */

import {
  allocateHeads,
  describeStep,
  findRunCodecs,
  headMemory,
  headParameters,
  type LoraSettings,
  messageBytes,
  messagesOf,
  type ModelShape,
  modeSize,
} from "@edgetuner/core/device";
import type { RunAbout } from "@edgetuner/transport";
import type { Forecast } from "./messages.ts";

/** Tokens of a step that the forecast holds for, where nobody has seen one: the commands begin with as many. */
const STEP = { batch: 8, length: 80 };

/**
 * What a device of a capacity would do.
 *
 * @returns `null` if the run does not say enough.
 */
export function forecastOf(about: RunAbout, capacity: number): Forecast | null {
  const { model } = about;
  if (model === null || capacity <= 0) return null;
  const heads = headsOf(about, model, capacity);
  if (heads === 0) return null;
  const lora = about.lora as unknown as LoraSettings;
  const size = modeSize(lora, model);
  return {
    heads,
    parameters: model.layers * heads * headParameters(lora, model),
    memoryBytes: memoryOf(model, lora, heads),
    stepBytes: bytesOf(about, { model, lora, size, heads }),
    tokens: STEP.batch * STEP.length,
  };
}

/** Heads of every layer; those who are still to come count as much as a device of capacity 1. */
function headsOf({ devices, places }: RunAbout, { heads }: ModelShape, capacity: number): number {
  const others = devices.filter((d) => d.capacity > 0).map((d) => d.capacity);
  const missing = Math.max(0, places - others.length - 1);
  const all = [capacity, ...others, ...Array.from({ length: missing }, () => 1)];
  return all.length > heads ? 0 : allocateHeads(heads, all)[0]!.count;
}

function memoryOf(model: ModelShape, lora: LoraSettings, heads: number): number {
  return headMemory(model, lora, { rows: STEP.batch * STEP.length, heads, copies: 1 });
}

function bytesOf(
  about: RunAbout,
  { model, lora, size, heads }: {
    readonly model: ModelShape;
    readonly lora: LoraSettings;
    readonly size: ReturnType<typeof modeSize>;
    readonly heads: number;
  },
): number {
  const codecs = findRunCodecs(about.codec);
  const parts = describeStep({
    ...model,
    tokens: STEP.batch * STEP.length,
    batch: STEP.batch,
    targets: lora.targets.length,
    rank: lora.rank,
    sharesInput: size.sharesInput,
    mode: lora.mode,
    headsPerDevice: heads === model.heads ? [heads] : [heads, model.heads - heads],
    statistics: 0,
    mask: new Uint8Array(model.layers * model.heads),
  });
  let bytes = 0;
  for (const message of messagesOf(parts)) {
    if (message.from !== 0 && message.to !== 0) continue;
    bytes += messageBytes(message, (shape, kind) => codecs.of(kind).byteLength(shape));
  }
  return bytes;
}
