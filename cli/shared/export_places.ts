/**
 * Where exports go: never over what they are made from, nor over anything that is not an export.
 *
 * @module
 */

import { previousOf } from "@edgetuner/core";
import { UsageError } from "../flags/flags.ts";
import { pathsOf } from "../process/places.ts";

/** Places by flag, without the dashes; those that are empty are left out. */
export type Places = Readonly<Record<string, string>>;

/** A path without links; of what is not there yet, its folder's and its name. */
async function realOf(path: string): Promise<string> {
  const plain = path.replace(/(?<=.)\/+$/, "");
  try {
    return await Deno.realPath(plain);
  } catch (error) {
    const [, folder, name] = /^(.*?)([^/]+)$/.exec(plain) ?? [];
    if (!(error instanceof Deno.errors.NotFound) || name === undefined || name === "..") return plain;
    return `${(await realOf(folder! || ".")).replace(/\/$/, "")}/${name}`;
  }
}

/**
 * Refuses to write where something is read, or two things into one folder.
 *
 * @param outputs Folders that are written.
 * @param inputs Folders that are read; of one flag several, separated by commas.
 * @throws {UsageError} If two of them are the same, whatever links lead there.
 */
export async function requireApart(outputs: Places, inputs: Places): Promise<void> {
  const taken = new Map<string, string>();
  for (const [flag, paths] of Object.entries(inputs)) {
    for (const path of await pathsOf(paths)) if (path !== "") taken.set(await realOf(path), flag);
  }
  for (const [flag, path] of Object.entries(outputs)) {
    if (path === "") continue;
    // What is written lies beside its place at first, and what was there before is kept beside it.
    for (const place of [path, `${path.replace(/\/+$/, "")}.partial`, previousOf(path)]) {
      const real = await realOf(place);
      const other = taken.get(real);
      if (other !== undefined) {
        throw new UsageError(
          `Cannot export as --${flag} must be another folder than --${other}, which would be lost: current value is "${path}"`,
        );
      }
      taken.set(real, flag);
    }
  }
}

/** The paper that lies beside every export. */
export const CERTIFICATE = "certificate.json";

/**
 * Refuses to replace what is not a former export of the same kind.
 *
 * @param flag Flag of the folder.
 * @param folder The folder; it need not be there.
 * @param own Names that an export of this kind can have, its certificate apart.
 * @returns Files of the former export.
 * @throws {UsageError} If the folder holds anything else; the message names it.
 */
export async function requireReplaceable(
  flag: string,
  folder: string,
  own: readonly string[],
): Promise<readonly string[]> {
  if (folder === "") return [];
  let names: string[];
  try {
    names = (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw unusable(flag, "a folder that can be written", folder, error);
  }
  const isExport = names.includes(CERTIFICATE);
  const other = names.find((name) => name !== CERTIFICATE && !(isExport && own.includes(name)));
  if (other === undefined) return names;
  throw new UsageError(
    `Cannot export as --${flag} must be a new folder, an empty one or a former export: current value is "${folder}", which holds ${other}`,
  );
}

/** The error of a flag whose path cannot be used. */
export function unusable(flag: string, rule: string, path: string, cause: unknown): UsageError {
  return new UsageError(
    `Cannot export as --${flag} must be ${rule}: current value is "${path}" (${(cause as Error).message})`,
    { cause },
  );
}
