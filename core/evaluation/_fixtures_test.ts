/**
 * The cases that tests of scores share.
 *
 * @module
 */

import { loadMeteorData, type MeteorData } from "./meteor_data.ts";

/** Folder of all evaluation fixtures. */
export const FIXTURES = `${import.meta.dirname}/../../tests/fixtures/eval`;

/** METEOR's data, with synonyms of the words that the fixtures have. */
export async function meteorData(): Promise<MeteorData> {
  return await loadMeteorData({
    synonyms: `${FIXTURES}/meteor`,
    words: `${import.meta.dirname}/../../cli/assets/meteor`,
  });
}

/** Content of a fixture. */
export function read(path: string): string {
  return Deno.readTextFileSync(`${FIXTURES}/${path}`);
}

/** Lines of JSON of a fixture. */
export function readJsonLines<T>(path: string): T[] {
  return read(path).trimEnd().split("\n").map((line) => JSON.parse(line) as T);
}
