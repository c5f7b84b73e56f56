/**
 * Reference and prediction files in the layout of the E2E challenge's tool.
 *
 * @module
 */

import { CheckpointError } from "../errors.ts";
import { readText, splitLines, strip } from "../text.ts";
import type { Corpus } from "./corpus.ts";

/**
 * Reads references: one a line, an empty line after each instance. If there is no empty line between two texts,
 * every line is an instance of its own.
 *
 * @param text Content of the file.
 * @returns The references of each instance.
 * @throws {CheckpointError} If there is none, or two empty lines in a row make an instance without one.
 */
export function parseReferences(text: string): string[][] {
  const lines = textLines(text);
  const instances: string[][] = [[]];
  lines.forEach((line, i) => {
    if (line !== "") {
      instances.at(-1)!.push(line);
    } else if (instances.at(-1)!.length === 0) {
      throw new CheckpointError(
        `Cannot read the references, line ${
          i + 1
        }, as every instance must have one: two lines in a row are empty`,
      );
    } else {
      instances.push([]);
    }
  });
  if (instances.at(-1)!.length === 0) instances.pop();
  if (instances.length === 0) {
    throw new CheckpointError("Cannot read the references as there must be at least one: the text is empty");
  }
  return instances.length === 1 ? instances[0]!.map((line) => [line]) : instances;
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
 * @throws {CheckpointError} If the files differ in their number of lines, or an instance has no reference.
 */
export function parseNumberedReferences(texts: readonly string[]): string[][] {
  const files = texts.map(textLines);
  const count = files[0]?.length ?? 0;
  const other = files.find((lines) => lines.length !== count);
  if (other !== undefined) {
    throw new CheckpointError(
      `Cannot read the references as all files must have as many lines: there are ${count} and ${other.length}`,
    );
  }
  return Array.from({ length: count }, (_, i) => {
    const references = files.map((lines) => lines[i]!).filter((line) => line !== "");
    if (references.length === 0) {
      throw new CheckpointError(
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
 * @throws {CheckpointError} If a file cannot be read or the counts differ.
 */
export async function loadCorpus(
  references: string | readonly string[],
  predictions: string,
): Promise<Corpus> {
  const list = typeof references === "string"
    ? parseReferences(await readText(references))
    : parseNumberedReferences(await Promise.all(references.map(readText)));
  const texts = parsePredictions(await readText(predictions));
  if (list.length !== texts.length) {
    throw new CheckpointError(
      `Cannot score ${predictions} as it must have one line for each instance of ${references}: there are ` +
        `${texts.length} lines and ${list.length} instances`,
    );
  }
  return { references: list, predictions: texts };
}

function textLines(text: string): string[] {
  return splitLines(text).map(strip);
}
