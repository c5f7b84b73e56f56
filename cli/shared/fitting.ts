/**
 * Values of flags that are chosen to fit the model and its data, where none are given.
 *
 * @module
 */

import {
  contextLength,
  encodeExamples,
  type FittingOptions,
  type FittingSettings,
  fittingSettings,
  INPUT_MODE_NAMES,
  type InputModeName,
  loadAdapter,
  loadModelConfig,
  loadTokenizerOf,
  type LoraSettings,
  type ModelConfig,
  modelShape,
  peftRank,
} from "@edgetuner/core";
import {
  type Flag,
  type FlagValues,
  type GivenFlags,
  parseGiven,
  printConfig,
  type ProgramText,
  UsageError,
  withDefaults,
} from "../flags/flags.ts";
import { loraTargets } from "../flags/tuning_flags.ts";
import type { Call } from "../process/invocation.ts";
import { pathsOf } from "../process/places.ts";
import { readExamples, withEpochs } from "./training_data.ts";

/** Most examples that the length of sequences is chosen by. */
const MOST_EXAMPLES = 500;

/** Values of flags that were chosen. */
export type ChosenFlags = Readonly<Record<string, number>>;

/** What was read and chosen. */
export interface FittedFlags<S extends Record<string, Flag>> {
  /** All flags. */
  readonly flags: FlagValues<S>;
  /** Those that were given. */
  readonly given: GivenFlags<S>;
  /** Those that were chosen. */
  readonly chosen: ChosenFlags;
}

type Values = Readonly<Record<string, string | number | boolean>>;
type Shape = FittingOptions["shape"];

/** How to choose. */
export interface FittingRead<S extends Record<string, Flag>> {
  /** Shape of a model that there are no files of. @default {what the files of `--model` say} */
  readonly shape?: (flags: FlagValues<S>) => Shape | null;
  /** False if nothing is to be chosen. @default {something is} */
  readonly isNeeded?: (flags: FlagValues<S>) => boolean;
}

/**
 * Reads flags as `readFlags` does and chooses what fits the model where nothing is given.
 *
 * @throws {UsageError} If a flag is unknown or its value out of range.
 * @throws {ModelFileError} If model or data are needed and cannot be read.
 */
export async function readFitted<const S extends Record<string, Flag>>(
  program: ProgramText,
  flags: S,
  call: Call,
  { shape = () => null, isNeeded = () => true }: FittingRead<S> = {},
): Promise<FittedFlags<S>> {
  const { given, isToPrint } = parseGiven(program, flags, call);
  const values = withDefaults(flags, given);
  const open = Object.entries(flags).filter(([name, flag]) =>
    (flag.kind === "number" || flag.kind === "integer") && flag.fits === true && !Object.hasOwn(given, name)
  ).map(([name]) => name);
  const ranked = await rankOf(program, values as Values, given);
  const isOpen = open.length > 0 && isNeeded(values);
  const choosing = isOpen ? chosenFor(values as Values, open, shape(values)) : Promise.resolve({});
  // A file may be written before model and data are there: it leaves open what they say.
  if (isToPrint) printConfig(flags, given, await choosing.catch(() => ({})) as GivenFlags<S>);
  const chosen = { ...await choosing, ...ranked };
  return { flags: { ...values, ...chosen }, given, chosen };
}

/** The rank for each head that `--total-rank` asks for; nothing without it. */
async function rankOf(
  program: ProgramText,
  values: Values,
  given: Readonly<Record<string, unknown>>,
): Promise<ChosenFlags> {
  const total = Number(values["total-rank"] ?? 0);
  if (total === 0) return {};
  if (Object.hasOwn(given, "rank")) {
    throw new UsageError(`Cannot run ${program.name} with both --rank and --total-rank: one says the other`);
  }
  const targets = loraTargets(`${values.targets}`);
  const least = peftRank(await loadModelConfig(`${values.model}`), { rank: 1, targets });
  const rank = Math.floor(total / least);
  if (rank < 1 || rank > 256) {
    throw new UsageError(
      `Cannot run ${program.name} as --total-rank must be from ${least} to ${
        256 * least
      }, as each of the model's heads ` +
        `has ranks of its own: current value is ${total}`,
    );
  }
  return { rank };
}

/** Chooses what is open. */
async function chosenFor(values: Values, open: readonly string[], shape: Shape | null): Promise<ChosenFlags> {
  const config = shape === null ? await loadModelConfig(`${values.model}`) : null;
  const of = shape ?? modelShape(config!);
  const mode = await modeOf(values);
  const choose = (options: Omit<FittingOptions, "shape">) =>
    valuesOf(fittingSettings({
      ...(config === null ? {} : { positions: contextLength(config) }),
      ...options,
      mode,
      shape: of,
    }));
  const lengths = config === null || !open.includes("length") ? undefined : await lengthsOf(values, config);
  const steps = Number(values.steps ?? 1);
  const first = only(open, choose({ steps, lengths }));
  const all = choose({ steps: await stepsOf({ ...values, ...first }, steps), lengths });
  return only(open, all);
}

/** What head modules are to read: as in the adapter that the run begins with, if there is one. */
async function modeOf({ mode, adapter = "" }: Values): Promise<InputModeName | undefined> {
  if (mode === undefined || adapter === "") return INPUT_MODE_NAMES.find((name) => name === mode);
  const [first] = await pathsOf(`${adapter}`);
  return (await loadAdapter(first!)).lora.mode;
}

/** What settings are called as flags. */
function valuesOf(settings: FittingSettings) {
  const { learningRate, warmupSteps, rank, labelSmoothing, length, batch, pruning } = settings;
  return {
    ...{ rate: learningRate, warmup: warmupSteps, rank },
    ...{ smoothing: labelSmoothing, length, batch, ...pruning },
  };
}

function only(names: readonly string[], values: ChosenFlags): ChosenFlags {
  return Object.fromEntries(Object.entries(values).filter(([name]) => names.includes(name)));
}

/** Tokens of some of the data's sequences. */
async function lengthsOf(values: Values, config: ModelConfig): Promise<number[] | undefined> {
  if (values.data === undefined || values.data === "") return undefined;
  const { examples } = await readExamples(`${values.data}`, readingOf(values), () => {});
  const every = Math.max(1, Math.floor(examples.length / MOST_EXAMPLES));
  const tokenizer = await loadTokenizerOf(`${values.model}`, `${values.tokenizer ?? ""}`);
  const length = Math.min(contextLength(config), 4096);
  const { sequences } = encodeExamples(examples.filter((_, i) => i % every === 0), tokenizer, { length });
  // The last token is a target alone.
  return sequences.map(({ tokens }) => tokens.length - 1);
}

/** Training steps, which `--epochs` may say. */
async function stepsOf(values: Values, steps: number): Promise<number> {
  const { epochs, accumulate, data } = values;
  if (!Number(epochs) || accumulate === undefined) return steps;
  const all = {
    ...readingOf(values),
    ...{ epochs: Number(epochs), accumulate: Number(accumulate), steps, data: `${data}` },
    ...{ batch: Number(values.batch), length: Number(values.length), tokenizer: `${values.tokenizer ?? ""}` },
  };
  return (await withEpochs(all)).steps;
}

/** How the data is read. */
function readingOf(values: Values) {
  return {
    ...{ model: `${values.model}`, map: `${values.map ?? ""}` },
    ...{ "skip-bad": values["skip-bad"] === true, "data-format": `${values["data-format"] ?? ""}` },
  };
}

/** What a number of a flag is called. */
const NAMES: Readonly<Record<string, string>> = {
  rate: "learning rate",
  warmup: "warm-up",
  tau: "pruner's tau",
  eta: "eta",
};

/** Without what the pruner does not take. */
export function chosenWith(pruner: Readonly<Record<string, unknown>>, chosen: ChosenFlags): ChosenFlags {
  return Object.fromEntries(
    Object.entries(chosen).filter(([name]) => !["tau", "eta"].includes(name) || name in pruner),
  );
}

/** Without the rank, which an adapter has. */
export function withoutRank(chosen: ChosenFlags): ChosenFlags {
  return Object.fromEntries(Object.entries(chosen).filter(([name]) => name !== "rank"));
}

/** What was chosen, in a line; `null` if nothing was. */
export function chosenText(chosen: ChosenFlags): string | null {
  const parts = Object.entries(chosen).map(([name, value]) => `${NAMES[name] ?? name} ${value}`);
  return parts.length === 0 ? null : `Chosen to fit the model: ${parts.join(", ")}`;
}

/** Says what is trained, and with which settings. */
export function tellSettings(
  chosen: ChosenFlags,
  ...[parameters, rank]: readonly [parameters: string, rank: string]
): void {
  console.log(`${parameters}; ${rank}`);
  const text = chosenText(chosen);
  if (text !== null) console.error(text);
}

/** The rank, as this project and as PEFT counts it. */
export function rankText(config: ModelConfig, lora: LoraSettings): string {
  return `LoRA rank ${lora.rank} for each of ${modelShape(config).heads} heads, ${
    peftRank(config, lora)
  } at most for an exported adapter`;
}
