/**
 * Settings of a fine-tuning run: LoRA, optimizer and learning rate.
 *
 * @module
 */

import type { AdamWSettings } from "@edgetuner/kernels";
import { headSizeOf, type ModelShape } from "../contracts/model_shape.ts";
import { showValue } from "../contracts/plain_text.ts";
import type { InputModelSize } from "./input_mode.ts";
import { INPUT_MODE_NAMES, INPUT_MODES, type InputModeName } from "./input_modes.ts";
import {
  DEFAULT_PROJECTIONS,
  LORA_TARGETS,
  type LoraTarget,
  PROJECTION_SOURCES,
  type ProjectionSettings,
} from "./targets.ts";

export { DEFAULT_PROJECTIONS, LORA_TARGETS, type LoraTarget, PROJECTION_SOURCES, type ProjectionSettings };

/**
 * LoRA settings. Delta = (alpha / rank) * dropout(X) A^T B^T per head module and target.
 *
 * @category Training
 */
export interface LoraSettings {
  /** What a head module reads of X, see `INPUT_MODES`. */
  readonly mode: InputModeName;
  /** Adapted projections, in the order q, k, v. */
  readonly targets: readonly LoraTarget[];
  /** r, rank of each head module. */
  readonly rank: number;
  /** Scale numerator: Deltas are multiplied by alpha / rank. */
  readonly alpha: number;
  /** Share of X's elements dropped in training, in [0, 1). */
  readonly dropout: number;
  /** Frozen projections, only in modes that have them. @default {DEFAULT_PROJECTIONS, in such modes} */
  readonly projections?: ProjectionSettings;
}

/** What of LoRA settings the shapes of a mode depend on. */
export type LoraForm = Pick<LoraSettings, "mode" | "targets" | "rank" | "projections">;

/** The projections of LoRA settings; `null` in modes without. */
export function projectionsOf(
  { mode, projections = DEFAULT_PROJECTIONS }: Omit<LoraForm, "targets" | "rank">,
): ProjectionSettings | null {
  return INPUT_MODES[mode].projects ? projections : null;
}

/** LoRA settings in a few words, those that head modules must have in common. */
export function loraText(lora: LoraSettings): string {
  const { mode, targets, rank, alpha } = lora;
  const { from, seed, shared } = projectionsOf(lora) ?? {};
  const made = from === undefined ? "" : ` projections from ${from} ${seed}${shared ? ", shared" : ""}`;
  return `${mode} ${targets} rank ${rank} alpha ${alpha}${made}`;
}

/** Every size that an input mode may ask for. */
export type ModeSize = { readonly [K in keyof InputModelSize]-?: NonNullable<InputModelSize[K]> };

/** The sizes that an input mode asks for, of LoRA settings and a model. */
export function modeSize(
  { targets, rank, projections = DEFAULT_PROJECTIONS }: Omit<LoraForm, "mode">,
  model: Omit<ModelShape, "layers">,
): ModeSize {
  const { heads, hidden } = model;
  const headSize = headSizeOf(model);
  return { heads, hidden, headSize, targets: targets.length, rank, sharesInput: projections.shared };
}

/**
 * Numbers that are trained in one head module: c * (r * inputs + outputs * r), where A is [r, inputs] and B
 * [outputs, r].
 *
 * @param lora LoRA settings.
 * @param shape H, d and D of the base model.
 */
export function headParameters(lora: LoraForm, shape: Omit<ModelShape, "layers">): number {
  const mode = INPUT_MODES[lora.mode];
  const size = modeSize(lora, shape);
  return lora.targets.length * lora.rank * (mode.columns(size) + mode.outputs(size));
}

/** Courses of the learning rate after the warm-up. */
export const SCHEDULES = ["linear", "cosine", "constant"] as const;

/** See `SCHEDULES`. */
export type Schedule = typeof SCHEDULES[number];

/**
 * Optimizer settings.
 *
 * @category Training
 */
export interface OptimizerSettings {
  /** Peak learning rate. */
  readonly learningRate: number;
  /** Steps over which the learning rate rises from 0. */
  readonly warmupSteps: number;
  /** What follows: `linear` and `cosine` (half a wave) fall to 0 after the last step, `constant` stays. */
  readonly schedule: Schedule;
  /** AdamW's decay of the first moment. */
  readonly beta1: number;
  /** AdamW's decay of the second moment. */
  readonly beta2: number;
  /** AdamW's denominator offset. */
  readonly epsilon: number;
  /** Decoupled weight decay. */
  readonly weightDecay: number;
}

/**
 * LoRA settings of library and commands. They fit small models; {@linkcode PAPER_LORA} has those of the paper.
 *
 * @category Training
 */
export const DEFAULT_LORA: LoraSettings = {
  mode: "full",
  targets: ["q", "k", "v"],
  rank: 8,
  alpha: 32,
  dropout: 0,
};

/**
 * Optimizer settings of library and commands. They fit small models; {@linkcode PAPER_OPTIMIZER} has those of the
 * paper.
 *
 * @category Training
 */
export const DEFAULT_OPTIMIZER: OptimizerSettings = {
  learningRate: 1e-2,
  warmupSteps: 10,
  schedule: "linear",
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0.01,
};

/** The paper's LoRA settings, for GPT-2 medium. */
export const PAPER_LORA: LoraSettings = { ...DEFAULT_LORA, mode: "slice", targets: ["q", "v"], dropout: 0.1 };

/** The paper's optimizer settings, for GPT-2 medium. */
export const PAPER_OPTIMIZER: OptimizerSettings = {
  ...DEFAULT_OPTIMIZER,
  learningRate: 2e-4,
  warmupSteps: 500,
};

/**
 * Checks LoRA settings and puts the targets in order.
 *
 * @throws {RangeError} If a number is out of range.
 * @throws {TypeError} If mode or targets are unknown.
 */
export function checkLora(settings: LoraSettings): LoraSettings {
  const { mode, targets, rank, alpha, dropout } = settings;
  if (!INPUT_MODE_NAMES.includes(mode)) {
    const names = INPUT_MODE_NAMES.map((name) => `"${name}"`).join(" or ");
    throw new TypeError(
      `Cannot use LoRA settings as mode must be ${names}: current value is ${showValue(mode)}`,
    );
  }
  const ordered = LORA_TARGETS.filter((t) => targets.includes(t));
  if (ordered.length === 0 || ordered.length !== targets.length) {
    throw new TypeError(
      `Cannot use LoRA settings as targets must be one or more of q, k, v, each once: current value is ${
        showValue(targets)
      }`,
    );
  }
  if (!Number.isInteger(rank) || rank < 1 || rank > 256) {
    throw new RangeError(
      `Cannot use LoRA settings as rank must be an integer from 1 to 256: current value is ${rank}`,
    );
  }
  if (!(alpha > 0 && Number.isFinite(alpha))) {
    throw new RangeError(`Cannot use LoRA settings as alpha must be positive: current value is ${alpha}`);
  }
  if (!(dropout >= 0 && dropout < 1)) {
    throw new RangeError(
      `Cannot use LoRA settings as dropout must be at least 0 and below 1: current value is ${dropout}`,
    );
  }
  const projections = checkProjections(settings);
  return { mode, targets: ordered, rank, alpha, dropout, ...(projections && { projections }) };
}

function checkProjections({ mode, projections }: LoraSettings): ProjectionSettings | null {
  const refuse = (rule: string, value: unknown): never => {
    throw new TypeError(`Cannot use LoRA settings as ${rule}: current value is ${showValue(value)}`);
  };
  if (!INPUT_MODES[mode].projects) {
    if (projections !== undefined) refuse(`projections must be left out in mode "${mode}"`, projections);
    return null;
  }
  const { from, seed, shared } = projections ?? DEFAULT_PROJECTIONS;
  if (!PROJECTION_SOURCES.includes(from)) refuse(`projections must be from "seed" or "base"`, from);
  if (!Number.isInteger(seed) || seed < 0 || seed > 0xffff_ffff) {
    refuse("the seed of projections must be a 32-bit unsigned integer", seed);
  }
  if (typeof shared !== "boolean") refuse("projections must be shared or not, true or false", shared);
  return { from, seed, shared };
}

/**
 * Checks optimizer settings.
 *
 * @throws {RangeError} If a number is out of range.
 */
export function checkOptimizer(settings: OptimizerSettings): OptimizerSettings {
  const rules: [keyof OptimizerSettings, (v: number) => boolean, string][] = [
    ["learningRate", (v) => v > 0, "must be positive"],
    ["warmupSteps", (v) => Number.isInteger(v) && v >= 0, "must be an integer of at least 0"],
    ["beta1", (v) => v >= 0 && v < 1, "must be at least 0 and below 1"],
    ["beta2", (v) => v >= 0 && v < 1, "must be at least 0 and below 1"],
    ["epsilon", (v) => v > 0, "must be positive"],
    ["weightDecay", (v) => v >= 0, "must be at least 0"],
  ];
  for (const [name, holds, rule] of rules) {
    const value = settings[name] as number;
    if (typeof value !== "number" || !Number.isFinite(value) || !holds(value)) {
      throw new RangeError(`Cannot use optimizer settings as ${name} ${rule}: current value is ${value}`);
    }
  }
  if (!SCHEDULES.includes(settings.schedule)) {
    throw new RangeError(
      `Cannot use optimizer settings as schedule must be one of ${
        SCHEDULES.join(", ")
      }: current value is ${settings.schedule}`,
    );
  }
  return settings;
}

/**
 * AdamW's settings in a step: linear warm-up from 0, then the schedule.
 *
 * @param settings Optimizer settings.
 * @param step Step, counted from 0.
 * @param steps Steps of the whole run.
 */
export function adamwAt(settings: OptimizerSettings, step: number, steps: number): AdamWSettings {
  const { learningRate, warmupSteps, schedule } = settings;
  let factor = 1;
  if (step < warmupSteps) factor = (step + 1) / warmupSteps;
  else if (schedule !== "constant") {
    const left = Math.max(0, (steps - step) / Math.max(1, steps - warmupSteps));
    factor = schedule === "linear" ? left : 0.5 * (1 - Math.cos(Math.PI * left));
  }
  return {
    rate: learningRate * factor,
    beta1: settings.beta1,
    beta2: settings.beta2,
    epsilon: settings.epsilon,
    decay: settings.weightDecay,
  };
}
