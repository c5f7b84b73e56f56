/**
 * Reference and prediction files in the layout of the E2E challenge's tool.
 *
 * @module
 */

import { DataFormatError } from "../contracts/errors.ts";
import { readText, splitLines, strip } from "../files/text.ts";
import type { Corpus } from "./corpus.ts";

/**
 * Reads references: one a line, an empty line after each instance. If there is no empty line between two texts,
 * every line is an instance of its own, unless it is known that there is only one.
 *
 * @param text Content of the file.
 * @param instances Number of instances, if it is known.
 * @returns The references of each instance.
 * @throws {DataFormatError} If there is none, or two empty lines in a row make an instance without one.
 */
export function parseReferences(text: string, instances?: number): string[][] {
  const lines = textLines(text);
  const found: string[][] = [[]];
  lines.forEach((line, i) => {
    if (line !== "") {
      found.at(-1)!.push(line);
    } else if (found.at(-1)!.length === 0) {
      throw new DataFormatError(
        `Cannot read the references, line ${
          i + 1
        }, as every instance must have one: two lines in a row are empty`,
      );
    } else {
      found.push([]);
    }
  });
  if (found.at(-1)!.length === 0) found.pop();
  if (found.length === 0) {
    throw new DataFormatError("Cannot read the references as there must be at least one: the text is empty");
  }
  return found.length === 1 && instances !== 1 ? found[0]!.map((line) => [line]) : found;
}

/**
 * Reads predictions: one a line; an empty line is an empty prediction.
 *
 * @param text Content of the file.
 * @returns The predictions.
 */
export function parsePredictions(text: string): string[] {
  return textLines(text);
}

/**
 * Reads references from several files: line k of each belongs to instance k, as WebNLG and DART have it. An
 * empty line means that there is no further reference.
 *
 * @param texts Contents of the files.
 * @returns The references of each instance.
 * @throws {DataFormatError} If the files differ in their number of lines, or an instance has no reference.
 */
export function parseNumberedReferences(texts: readonly string[]): string[][] {
  const files = texts.map(textLines);
  const count = files[0]?.length ?? 0;
  const other = files.find((lines) => lines.length !== count);
  if (other !== undefined) {
    throw new DataFormatError(
      `Cannot read the references as all files must have as many lines: there are ${count} and ${other.length}`,
    );
  }
  return Array.from({ length: count }, (_, i) => {
    const references = files.map((lines) => lines[i]!).filter((line) => line !== "");
    if (references.length === 0) {
      throw new DataFormatError(
        `Cannot read the references, line ${
          i + 1
        }, as every instance must have one: it is empty in all files`,
      );
    }
    return references;
  });
}

/**
 * Reads a corpus from disk.
 *
 * @param references One file of references, or several numbered ones.
 * @param predictions File of predictions.
 * @returns The corpus.
 * @throws {ModelFileError} If a file cannot be read.
 * @throws {DataFormatError} If the counts differ.
 */
export async function loadCorpus(
  references: string | readonly string[],
  predictions: string,
): Promise<Corpus> {
  const texts = parsePredictions(await readText(predictions));
  const list = typeof references === "string"
    ? parseReferences(await readText(references), texts.length)
    : parseNumberedReferences(await Promise.all(references.map(readText)));
  return corpusOf(list, texts, { references, predictions });
}

/**
 * Reads predictions from disk, for references that are read in another way.
 *
 * @param list The references of each instance.
 * @param files Where references and predictions are.
 * @returns The corpus.
 * @throws {ModelFileError} If the file cannot be read.
 * @throws {DataFormatError} If the counts differ.
 */
export async function loadCorpusOf(
  list: readonly (readonly string[])[],
  files: { readonly references: string; readonly predictions: string },
): Promise<Corpus> {
  return corpusOf(list, parsePredictions(await readText(files.predictions)), files);
}

function corpusOf(
  list: readonly (readonly string[])[],
  texts: readonly string[],
  { references, predictions }: {
    readonly references: string | readonly string[];
    readonly predictions: string;
  },
): Corpus {
  if (list.length !== texts.length) {
    throw new DataFormatError(
      `Cannot score ${predictions} as it must have one line for each instance of ${references}: there are ` +
        `${texts.length} lines and ${list.length} instances`,
    );
  }
  return { references: list, predictions: texts };
}

function textLines(text: string): string[] {
  return splitLines(text).map(strip);
}
