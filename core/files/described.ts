/**
 * Folders of two files that are one thing: a safetensors file and the JSON that says what it is.
 *
 * The weights file says it too, in its header, and that counts: it gets its name in one rename, so a reader finds the
 * old weights with the old description or the new ones with the new, whenever the writer was killed. The JSON beside
 * it is for people and other programs, and is renamed after it.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import type { NamedArray, NamedArrays } from "./named_arrays.ts";
import { keepPrevious, makeFolder, writeWhole } from "./atomic.ts";
import { parseJson, readJson as readJsonFile } from "./json_file.ts";
import { showValue } from "../contracts/plain_text.ts";
import { readSafetensors, safetensorsBytes, saveSafetensors } from "./safetensors.ts";
import { readMetadata } from "./tensor_header.ts";
import { requireFiniteValues } from "./finite_values.ts";
import { StoredTensors } from "./stored_tensors.ts";

/** Names of the two files. */
export interface DescribedFiles {
  /** JSON. */
  readonly config: string;
  /** Safetensors. */
  readonly weights: string;
}

/** Note of the header with the description. */
const DESCRIPTION = "edgetuner.config";

/** What is written. */
export interface Described {
  /** What the weights are; the same for the same weights, whichever run they come from. */
  readonly config: Readonly<Record<string, unknown>>;
  /** What else the JSON says. */
  readonly notes: Readonly<Record<string, unknown>>;
  /** The weights. */
  readonly tensors: NamedArrays;
}

/**
 * Writes such a folder; makes it if need be.
 *
 * @param folder Where to.
 * @param files Names of the files.
 * @param described What.
 * @param isOwn Says, by the JSON that is there, whether what is there may be lost; else it is kept in
 * `FOLDER.previous`.
 * @returns Where the former files are kept; `null` if there were none, or they may be lost.
 * @throws {SaveError} If a file cannot be written; the former ones are still there.
 */
export async function saveDescribed(
  folder: string,
  files: DescribedFiles,
  { config, notes, tensors }: Described,
  isOwn: (json: Readonly<Record<string, unknown>>) => boolean,
): Promise<string | null> {
  await makeFolder(folder);
  const former = await readJson(`${folder}/${files.config}`).catch(() => null);
  const previous = former !== null && isOwn(former)
    ? null
    : await keepPrevious(folder, [files.config, files.weights]);
  const digest = await saveSafetensors(`${folder}/${files.weights}`, tensors, {
    [DESCRIPTION]: JSON.stringify(config),
  });
  const json = { ...config, ...notes, digest };
  await writeWhole(`${folder}/${files.config}`, `${JSON.stringify(json, null, 2)}\n`);
  return previous;
}

/**
 * The files of such a folder, for where there are none.
 *
 * @param files Their names.
 * @param described What they say.
 * @returns The content of each, by name.
 */
export async function describedFiles(
  files: DescribedFiles,
  { config, notes, tensors }: Described,
): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const { bytes, digest } = await safetensorsBytes(tensors, { [DESCRIPTION]: JSON.stringify(config) });
  return new Map([
    [files.weights, bytes],
    [files.config, new TextEncoder().encode(`${JSON.stringify({ ...config, ...notes, digest }, null, 2)}\n`)],
  ]);
}

/**
 * Reads such a folder. Folders whose weights say nothing of themselves, as older ones, are what their JSON says.
 *
 * @param folder Where.
 * @param files Names of the files.
 * @returns What the weights are, and the weights.
 * @throws {ModelFileError} If a file is missing or damaged, or the JSON says something else than its weights do.
 */
export async function loadDescribed(
  folder: string,
  files: DescribedFiles,
): Promise<
  { readonly config: Readonly<Record<string, unknown>>; readonly tensors: ReadonlyMap<string, NamedArray> }
> {
  const path = `${folder}/${files.config}`;
  let json: Record<string, unknown> | null = null;
  let missing: unknown = null;
  try {
    json = await readJson(path);
  } catch (error) {
    // A writer that was killed before it wrote the first one leaves none.
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    missing = error;
  }
  let stored: StoredTensors;
  try {
    stored = await StoredTensors.open(`${folder}/${files.weights}`);
  } catch (error) {
    throw missing ?? error;
  }
  const noted = stored.metadata[DESCRIPTION];
  if (noted === undefined) {
    if (json === null) throw missing;
    return { config: json, tensors: finite(folder, files, stored) };
  }
  const config = parseJson(noted) as Record<string, unknown>;
  if (json !== null && json.digest === stored.digest) {
    for (const [name, value] of Object.entries(config)) {
      if (JSON.stringify(json[name]) === JSON.stringify(value)) continue;
      throw new ModelFileError(
        `Cannot load ${path} as "${name}" must be ${showValue(value)}, as its weights say: current value is ${
          showValue(json[name])
        }; the file is damaged or was edited`,
      );
    }
  }
  return { config, tensors: finite(folder, files, stored) };
}

/**
 * Reads such weights from memory, where there are no files: they say themselves what they are.
 *
 * @param bytes Content of the file of weights.
 * @param name How errors call it.
 * @returns What the weights are, and the weights.
 * @throws {ModelFileError} If it is damaged, or says nothing of itself.
 */
export function readDescribed(
  bytes: Uint8Array,
  name: string,
): { readonly config: Readonly<Record<string, unknown>>; readonly tensors: ReadonlyMap<string, NamedArray> } {
  const noted = readMetadata(bytes, name)[DESCRIPTION];
  if (noted === undefined) {
    throw new ModelFileError(`Cannot load ${name} as its header must have "${DESCRIPTION}": it has none`);
  }
  const tensors = readSafetensors(bytes, name);
  requireFiniteValues(`load ${name}`, tensors, name);
  return { config: parseJson(noted) as Record<string, unknown>, tensors };
}

/** Everything in memory, checked. */
function finite(
  folder: string,
  files: DescribedFiles,
  stored: StoredTensors,
): ReadonlyMap<string, NamedArray> {
  const tensors = new Map(stored);
  requireFiniteValues(`load ${folder}`, tensors, files.weights);
  return tensors;
}

async function readJson(path: string): Promise<Record<string, unknown>> {
  const json = await readJsonFile(path);
  if (typeof json === "object" && json !== null && !Array.isArray(json)) {
    return json as Record<string, unknown>;
  }
  throw new TypeError(`it must be an object: current value is ${showValue(json)}`);
}
