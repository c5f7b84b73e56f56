/**
 * Links, compute models and tables of programs that simulate or plan.
 *
 * @module
 */

import {
  type BaseLayers,
  type EmbeddingAndHead,
  Gpt2EmbeddingAndHead,
  Gpt2Layers,
  type RunSettings,
  type TokenBatch,
} from "@edgetuner/core";
import {
  checkCompute,
  type ComputeModel,
  LINK_PROFILES,
  type LinkProfile,
  measureCompute,
  readLinkProfile,
  TYPICAL_COMPUTE,
} from "@edgetuner/transport";
import { text, UsageError } from "./flags.ts";
import { unknownName } from "./suggest.ts";

/** The link of a forecast or a simulation. */
export const LINK_FLAG = text(
  "LINK",
  "wifi-5",
  `link of every device: ${Object.keys(LINK_PROFILES).join(", ")}, or a JSON file`,
);

/** The compute model of a forecast. */
export const COMPUTE_FLAG = text("MODEL", "typical", "how fast all parties compute: typical, or a JSON file");

/** The same for commands that run a model and so can measure. */
export const MEASURED_FLAG = {
  ...COMPUTE_FLAG,
  help: `${COMPUTE_FLAG.help}, or measured: each has this machine for itself`,
};

/**
 * The link of a flag: a name, or a file with a profile.
 *
 * @throws {UsageError} If it is neither, or the file holds no profile.
 */
export async function linkOf(flag: string): Promise<LinkProfile> {
  if (Object.hasOwn(LINK_PROFILES, flag)) return readLinkProfile(flag);
  await requireFile("link", flag, Object.keys(LINK_PROFILES));
  return await explained("--link", async () => readLinkProfile(await readJson(flag)));
}

/**
 * The compute model of a flag: `typical`, or a file with one.
 *
 * @throws {UsageError} If the file holds none.
 */
export async function computeOf(flag: string): Promise<ComputeModel> {
  if (flag === "typical") return TYPICAL_COMPUTE;
  await requireFile("compute", flag, ["typical", "measured"]);
  return await explained("--compute", async () => checkCompute(await readJson(flag) as ComputeModel));
}

/**
 * How fast this machine computes a model's step.
 *
 * @throws {UsageError} If the model is not a GPT-2.
 */
export async function computeHere(
  { layers, ends }: { readonly layers: BaseLayers; readonly ends: EmbeddingAndHead },
  settings: RunSettings,
  batch: TokenBatch,
): Promise<ComputeModel> {
  if (!(layers instanceof Gpt2Layers && ends instanceof Gpt2EmbeddingAndHead)) {
    throw new UsageError(
      "Cannot use --compute measured as the model must be a GPT-2: current value is one of another family",
    );
  }
  return await measureCompute({ layers, ends, settings, batch });
}

/**
 * Refuses what is neither one of the names nor a file that is there.
 *
 * @throws {UsageError} If it is not; with the name that may have been meant.
 */
async function requireFile(flag: string, given: string, names: readonly string[]): Promise<void> {
  const isMissing = await Deno.stat(given).then(
    () => false,
    (error) => error instanceof Deno.errors.NotFound,
  );
  if (!isMissing) return;
  throw new UsageError(
    `Cannot use --${flag} as it must be one of ${names.join(", ")}, or a JSON file that is there: ${
      unknownName(given, names)
    }`,
  );
}

async function readJson(file: string): Promise<unknown> {
  return JSON.parse(await Deno.readTextFile(file));
}

async function explained<T>(flag: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (cause) {
    throw new UsageError(`${flag}: ${(cause as Error).message}`);
  }
}

/** Whole numbers from a list such as "1,2,4". */
export function integersOf(flag: string, list: string): number[] {
  const numbers = list.split(",").map(Number);
  if (numbers.length === 0 || numbers.some((n) => !Number.isInteger(n) || n < 1)) {
    throw new UsageError(
      `Cannot use --${flag} as it must be whole numbers from 1, with commas between: current value is "${list}"`,
    );
  }
  return numbers;
}

/**
 * Positive numbers from a list such as "8,5,3".
 *
 * @param program The command, for the message.
 * @throws {UsageError} If one is none.
 */
export function numbersOf(program: string, flag: string, list: string): number[] {
  const numbers = list.split(",").map(Number);
  if (numbers.some((n) => !(n > 0 && n < Infinity))) {
    throw new UsageError(
      `Cannot run ${program} as --${flag} must be positive numbers with commas between: current value is "${list}"`,
    );
  }
  return numbers;
}

/** Seconds with three digits that count. */
export function seconds(ms: number): string {
  return (ms / 1000).toPrecision(3);
}

/** Lines of a table: the first row is its head, the first column is left-aligned. */
export function table(rows: readonly (readonly string[])[], between = "  "): string[] {
  const widths = rows[0]!.map((_, c) => Math.max(...rows.map((row) => row[c]?.length ?? 0)));
  return rows.map((row) =>
    row.map((cell, c) => c === 0 ? cell.padEnd(widths[c]!) : cell.padStart(widths[c] ?? 0)).join(between)
      .trimEnd()
  );
}
