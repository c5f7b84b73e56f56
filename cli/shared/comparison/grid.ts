/**
 * Systems x modes x codecs x pruners: what takes part in a comparison beside the paper's table.
 *
 * @module
 */

import {
  INPUT_MODE_NAMES,
  INPUT_MODES,
  type InputModeName,
  type Pruner,
  type RunSettings,
  type WireCodec,
} from "@edgetuner/core";
import type { Engine } from "@edgetuner/kernels";
import { codecChoice, codecsOf } from "../../flags/codecs.ts";
import { UsageError } from "../../flags/flags.ts";
import { makePruner, prunerChoice } from "../../flags/pruners.ts";
import { unknownName } from "../../flags/suggest.ts";
import { tuningSettings } from "../../flags/tuning_flags.ts";
import type { System } from "../compared_systems.ts";
import { type Rules, type SystemName, systemOf, SYSTEMS } from "./systems.ts";

/** What takes part: a system in one of its forms. */
export interface Entry {
  /** Its system, mode and codec. */
  readonly name: string;
  /** The system or the pruner alone. */
  readonly system: string;
  /** The mode; `null` where it has none. */
  readonly mode: InputModeName;
  /** The codec; `null` where nothing travels. */
  readonly codec: string | null;
  /** What is trained. */
  readonly runs: System;
  /** Its settings, but for rate and seed. */
  readonly settings: RunSettings;
}

/** Flags that say what takes part. */
export type GridFlags = Parameters<typeof tuningSettings>[0] & {
  readonly systems: string;
  readonly modes: string;
  readonly codecs: string;
  readonly pruners: string;
  readonly set: string;
  readonly tau: number;
  readonly eta: number;
  readonly predictor: string;
};

/** Options by the name that they are for: a system, a pruner or a mode. */
export type EntryOptions = ReadonlyMap<string, Readonly<Record<string, number>>>;

/** The parts of a list; none of an empty one. */
export function listOf(text: string, separator = ","): string[] {
  return text.split(separator).map((part) => part.trim()).filter((part) => part !== "");
}

/** What `--set` says of a mode. A mode that learns less in a step may take more steps to the same loss. */
const MODE_OPTIONS: readonly string[] = ["rank", "rate", "alpha", "dropout", "steps"];

/** True if the flags ask for more than the paper's table. */
export function isGrid({ systems, modes, codecs, pruners }: GridFlags): boolean {
  const isOwn = listOf(systems).some((name) => !SYSTEMS.some((known) => known === name) && isModule(name));
  return modes !== "" || codecs !== "" || pruners !== "" || isOwn;
}

function isModule(name: string): boolean {
  return /[./\\:]/.test(name);
}

/**
 * Reads `--set NAME.key=value,...`.
 *
 * @throws {UsageError} If a part has another form, or its value is no number.
 */
export function entryOptions(text: string): EntryOptions {
  const options = new Map<string, Record<string, number>>();
  for (const part of listOf(text)) {
    const [, name = "", key = "", value = ""] = /^(.+)\.([\w-]+)=(.+)$/.exec(part) ?? [];
    if (name === "" || !Number.isFinite(Number(value))) {
      throw new UsageError(
        `Cannot compare as --set must be NAME.key=number, with commas between them: current value is "${part}"`,
      );
    }
    options.set(name, { ...options.get(name), [key]: Number(value) });
  }
  return options;
}

/**
 * The modes that take part, each with its settings.
 *
 * @param model H and d of the model, which rates fit that nobody gave.
 * @throws {UsageError} If a mode or an option of it is not known.
 */
export function modesOf(
  flags: GridFlags,
  options: EntryOptions,
  model: { readonly heads: number; readonly hidden: number },
): Map<InputModeName, RunSettings> {
  const names = flags.modes === "" ? [flags.mode] : listOf(flags.modes);
  return new Map(names.map((name) => {
    const unknown = names.find((other) => !INPUT_MODE_NAMES.includes(other as InputModeName));
    if (unknown !== undefined) {
      throw new UsageError(
        `Cannot compare as --modes must be some of ${INPUT_MODE_NAMES.join(", ")}: ${
          unknownName(unknown, INPUT_MODE_NAMES)
        }`,
      );
    }
    const mode = name as InputModeName;
    const { projects } = INPUT_MODES[mode];
    const own = options.get(mode) ?? {};
    const stray = Object.keys(own).find((key) => !MODE_OPTIONS.includes(key));
    if (stray !== undefined) {
      throw new UsageError(
        `Cannot compare as --set ${mode}.* must be one of ${
          MODE_OPTIONS.join(", ")
        }: current value is "${stray}"`,
      );
    }
    if (own.steps !== undefined && !(Number.isInteger(own.steps) && own.steps >= 2)) {
      throw new UsageError(
        `Cannot compare as --set ${mode}.steps must be a whole number from 2: current value is ${own.steps}`,
      );
    }
    const rate = mode === flags.mode
      ? flags.rate
      : Number(INPUT_MODES[mode].learningRate(model).toPrecision(2));
    const settings = tuningSettings({
      ...{ ...flags, rate, ...own },
      mode,
      "shared-a": projects && flags["shared-a"],
      projections: projects ? flags.projections : "seed",
    });
    return [mode, settings];
  }));
}

/** What takes part, and the codecs of modules. */
export interface Grid {
  /** In the order in which they run. */
  readonly entries: readonly Entry[];
  /** Codecs besides the built-in ones. */
  readonly codecs: readonly WireCodec[];
  /** Modes with their settings. */
  readonly modes: ReadonlyMap<InputModeName, RunSettings>;
}

/** The codecs that take part: names for the run settings, and the codecs of modules. */
export async function gridCodecs(
  flag: string,
): Promise<{ readonly names: readonly string[]; readonly codecs: readonly WireCodec[] }> {
  const choices = [];
  for (const text of flag === "" ? ["f32"] : listOf(flag, ";")) choices.push(await codecChoice(text));
  const modules = [...new Set(choices.flatMap((choice) => choice.modules))];
  return { names: choices.map(({ name }) => name), codecs: await codecsOf(modules) };
}

/**
 * Makes what takes part.
 *
 * @throws {UsageError} If a name is not known, or an option is for nobody.
 */
export async function entriesOf(
  flags: GridFlags,
  { codecNames, modes, options, rules, engine }: {
    readonly codecNames: readonly string[];
    readonly modes: ReadonlyMap<InputModeName, RunSettings>;
    readonly options: EntryOptions;
    readonly rules: Rules;
    readonly engine: Engine;
  },
): Promise<Entry[]> {
  const systems: { readonly name: string; readonly runs: System }[] = [];
  for (const name of listOf(flags.systems)) {
    if (isModule(name)) systems.push(await prunerEntry(name, flags, options, engine));
    else if (SYSTEMS.some((known) => known === name)) {
      const own = { tau: flags.tau, eta: flags.eta, ...options.get(name) };
      systems.push({ name, runs: systemOf(name as SystemName, rules, own) });
    } else {
      throw new UsageError(
        `Cannot compare as --systems must be some of ${SYSTEMS.join(", ")}, or modules of pruners: ${
          unknownName(name, SYSTEMS)
        }`,
      );
    }
  }
  for (const name of listOf(flags.pruners)) systems.push(await prunerEntry(name, flags, options, engine));
  const known = [
    ...systems.map(({ name }) => name),
    ...listOf(flags.pruners),
    ...listOf(flags.systems),
    ...modes.keys(),
  ];
  const stray = [...options.keys()].find((name) => !known.includes(name));
  if (stray !== undefined) {
    throw new UsageError(
      `Cannot compare as --set must be for what takes part: ${unknownName(stray, known)}`,
    );
  }
  return systems.flatMap(({ name, runs }) =>
    [...modes].flatMap(([mode, settings]): Entry[] => {
      // It trains A and B where the weights are, in one form.
      if (runs.kind === "tensorParallel" && mode !== [...modes.keys()][0]) return [];
      const base = { system: name, runs, mode };
      // On one machine nothing travels.
      if (runs.kind === "serverTuner") return [{ ...base, name: `${name} ${mode}`, codec: null, settings }];
      return codecNames.map((codec) => ({
        ...base,
        name: `${name} ${mode} ${codec}`,
        codec,
        settings: { ...settings, codec },
      }));
    })
  );
}

/**
 * The entries with some names, in their order; all without any.
 *
 * @throws {UsageError} If there is no entry of a name.
 */
export function onlyOf(entries: readonly Entry[], list: string): readonly Entry[] {
  const wanted = listOf(list, ";");
  if (wanted.length === 0) return entries;
  const names = entries.map(({ name }) => name);
  const unknown = wanted.find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw new UsageError(
      `Cannot compare as --only must be some of "${names.join("; ")}": ${unknownName(unknown, names)}`,
    );
  }
  return entries.filter(({ name }) => wanted.includes(name));
}

async function prunerEntry(
  name: string,
  flags: GridFlags,
  options: EntryOptions,
  engine: Engine,
): Promise<{ readonly name: string; readonly runs: System }> {
  const choice = prunerChoice(name, options.get(name) ?? {}, flags.predictor);
  const pruner: Pruner = await makePruner(choice, engine);
  return { name: isModule(name) ? pruner.name : name, runs: { kind: "split", pruner } };
}
