/**
 * Digests that safetensors files of ours carry, so that a bit that a disk has lost is an error and no wrong weight.
 *
 * Two notes in the header: SHA-256 of the values of each tensor, and one over all that the header says, those digests
 * included. Readers of other projects see two more strings in `__metadata__`.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { parseJson } from "./json_file.ts";
import { sha256 } from "./sha256.ts";

/** Note with the digests of all tensors: JSON of 64 hexadecimal digits by name. */
const TENSORS = "edgetuner.sha256";
/** Note with the digest of the header. */
const HEADER = "edgetuner.header.sha256";
/** What stands there until a digest is known: digests have one length, so the header keeps its own. */
const UNKNOWN = "0".repeat(64);

/** A hash that takes its input piece by piece. */
export interface Sha256 {
  /** Takes in a piece. */
  update(piece: Uint8Array | Float32Array): void;
  /** 64 hexadecimal digits. */
  digest(): string;
}

/** Makes hashes. Only where files are read or written: browsers have no `node:crypto`. */
export async function sha256Maker(): Promise<() => Sha256> {
  const { createHash } = await import("node:crypto");
  return () => {
    const hash = createHash("sha256");
    return { update: (piece) => void hash.update(piece), digest: () => hash.digest("hex") };
  };
}

/** Shape of a tensor in a file. */
export interface DigestEntry {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
}

/** Notes with room for digests that are not known yet. */
export function withRoom(
  metadata: Readonly<Record<string, string>>,
  names: readonly string[],
): Record<string, string> {
  return withNotes(metadata, names.map((name) => [name, UNKNOWN]), UNKNOWN);
}

/** Notes with digests. */
export function withDigests(
  metadata: Readonly<Record<string, string>>,
  entries: readonly (DigestEntry & { readonly digest: string })[],
  make: () => Sha256,
): Record<string, string> {
  const digests = new Map(entries.map(({ name, digest }) => [name, digest]));
  return withNotes(metadata, [...digests], headerDigest(metadata, entries, digests, make));
}

/**
 * Notes with digests, where there is no `node:crypto`.
 *
 * @param metadata Other notes.
 * @param entries All tensors, with the digests of their values.
 */
export async function withDigestsInMemory(
  metadata: Readonly<Record<string, string>>,
  entries: readonly (DigestEntry & { readonly digest: string })[],
): Promise<Record<string, string>> {
  const digests = new Map(entries.map(({ name, digest }) => [name, digest]));
  return withNotes(metadata, [...digests], await sha256([headerText(metadata, entries, digests)]));
}

/** The digest of a file with these notes. */
export function digestNoted(metadata: Readonly<Record<string, string>>): string {
  return metadata[HEADER]!;
}

function withNotes(
  metadata: Readonly<Record<string, string>>,
  digests: readonly (readonly [string, string])[],
  header: string,
): Record<string, string> {
  return { ...metadata, [TENSORS]: JSON.stringify(Object.fromEntries(digests)), [HEADER]: header };
}

/** SHA-256 over all that a header says. */
function headerDigest(
  metadata: Readonly<Record<string, string>>,
  entries: readonly DigestEntry[],
  digests: ReadonlyMap<string, string>,
  make: () => Sha256,
): string {
  const hash = make();
  hash.update(headerText(metadata, entries, digests));
  return hash.digest();
}

/** All that a header says, in an order that does not depend on how it is written. */
function headerText(
  metadata: Readonly<Record<string, string>>,
  entries: readonly DigestEntry[],
  digests: ReadonlyMap<string, string>,
): Uint8Array {
  const sorted = (rows: unknown[][]) => rows.toSorted(([a], [b]) => String(a) < String(b) ? -1 : 1);
  const notes = Object.entries(metadata).filter(([name]) => name !== TENSORS && name !== HEADER);
  const tensors = entries.map(({ name, dtype, shape }) => [name, dtype, shape, digests.get(name) ?? null]);
  return new TextEncoder().encode(JSON.stringify([sorted(notes), sorted(tensors)]));
}

/** Digests that a file carries. */
export interface FileDigests {
  /** Of each tensor. */
  readonly tensors: ReadonlyMap<string, string>;
  /** Of the whole file: it covers the header, and with it the digests of all tensors. */
  readonly file: string;
  /** Makes a hash. */
  readonly make: () => Sha256;
}

/**
 * Reads the digests of a file, and checks that of its header.
 *
 * @param metadata Notes of the header.
 * @param entries All tensors that the header names.
 * @param file How errors call the file.
 * @returns `null` if it carries none, as files of other projects.
 * @throws {ModelFileError} If the header is not the one that was written.
 */
export async function readDigests(
  metadata: Readonly<Record<string, string>>,
  entries: readonly DigestEntry[],
  file: string,
): Promise<FileDigests | null> {
  const { [TENSORS]: noted, [HEADER]: header } = metadata;
  if (noted === undefined || header === undefined) return null;
  let tensors: Map<string, string>;
  try {
    tensors = new Map(Object.entries(parseJson(noted) as Record<string, string>));
  } catch (cause) {
    throw damaged(file, "its header", cause);
  }
  const make = await sha256Maker();
  if (headerDigest(metadata, entries, tensors, make) !== header) throw damaged(file, "its header");
  return { tensors, file: header, make };
}

/** The error of a file that is not what was written. */
export function damaged(file: string, what: string, cause?: unknown): ModelFileError {
  return new ModelFileError(
    `Cannot read ${file} as ${what} must have the digest that was noted when it was written: it has another one; the file is damaged, or a program changed it and kept its notes`,
    { cause },
  );
}
