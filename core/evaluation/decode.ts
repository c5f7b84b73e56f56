/**
 * From the tokens of a beam search to texts beside their references.
 *
 * @module
 */

import type { FormattedPair } from "../data/formats.ts";
import { DataFormatError } from "../contracts/errors.ts";
import { oneLine, separateMarks, strip } from "../files/text.ts";

/** What a search found for one line of the data. */
export interface EncodedPrediction {
  /** Index of the line, from 0 on; the predictions may come in any order. */
  readonly id: number;
  /** Token ids, with what follows the end of the text. */
  readonly predict: readonly number[];
}

/** A prompt, its prediction and all its references. */
export interface DecodedInstance {
  /** The prompt. */
  readonly prompt: string;
  /** The completions of all lines with this prompt, in their order. */
  readonly references: readonly string[];
  /** The predicted text. */
  readonly prediction: string;
}

/** How to decode. */
export interface DecodeOptions {
  /**
   * Token ids to text, special tokens written out, bad bytes as U+FFFD: a tokenizer's `decode`.
   *
   * @param ids Token ids.
   */
  readonly decode: (ids: readonly number[]) => string;
  /** Tokens that end a text beside `<|endoftext|>`, written out: a tokenizer's `ends`. @default {none} */
  readonly ends?: readonly number[];
  /** WebNLG: only lines of categories that training has, or has not. @default {"all"} */
  readonly filter?: "all" | "seen" | "unseen";
  /** Makes small letters. @default {false} */
  readonly lowerCase?: boolean;
  /** Puts spaces round all characters that are not part of words. @default {false} */
  readonly tokenize?: boolean;
  /** What to do with prompts that have no prediction. @default {"refuse"} */
  readonly missing?: "refuse" | "drop";
}

/**
 * Decodes predictions and gathers the references of equal prompts, in the order in which the prompts first come.
 * Texts end at the end-of-text token, at one of `ends`, or at a blank line. If several lines of a prompt have a prediction, the
 * last one of the list counts.
 *
 * @param lines The data, in the order in which the ids count it.
 * @param predictions What the search found.
 * @param options Decoder and normalisation.
 * @returns One instance for each prompt.
 * @throws {DataFormatError} If an id is not a line, or a prompt has no prediction.
 */
export function decodePredictions(
  lines: readonly FormattedPair[],
  predictions: Iterable<EncodedPrediction>,
  options: DecodeOptions,
): DecodedInstance[] {
  const { decode, ends = [], filter = "all", missing = "refuse" } = options;
  const untilEnd = (ids: readonly number[]): readonly number[] => {
    const at = ids.findIndex((id) => ends.includes(id));
    return at < 0 ? ids : ids.slice(0, at);
  };
  const normalise = (text: string): string => {
    let result = textBeforeEnd(text);
    if (options.lowerCase) result = result.toLowerCase();
    return options.tokenize ? separateMarks(result) : result;
  };
  const references = new Map<string, string[]>();
  for (const { prompt, completion, cate } of lines) {
    if (filter !== "all" && cate !== (filter === "seen")) continue;
    const known = references.get(prompt);
    if (known) known.push(normalise(completion));
    else references.set(prompt, [normalise(completion)]);
  }
  const found = new Map<string, readonly number[]>();
  for (const { id, predict } of predictions) {
    const line = lines[id];
    if (line === undefined) {
      throw new DataFormatError(
        `Cannot decode predictions as ids must be below ${lines.length}, the number of lines: current value is ${id}`,
      );
    }
    found.set(line.prompt, predict);
  }
  const instances: DecodedInstance[] = [];
  for (const [prompt, texts] of references) {
    const ids = found.get(prompt);
    if (ids !== undefined) {
      instances.push({ prompt, references: texts, prediction: normalise(decode(untilEnd(ids))) });
    } else if (missing === "refuse") {
      throw new DataFormatError(
        `Cannot decode predictions as every prompt must have one: there is none for ${
          JSON.stringify(prompt)
        }`,
      );
    }
  }
  return instances;
}

/** The text before the end-of-text token and before the first blank line. */
function textBeforeEnd(text: string): string {
  return strip(text.split("<|endoftext|>", 1)[0]!.split("\n\n", 1)[0]!);
}

/** Contents of files of one text a line. */
export interface TextFiles<References> {
  /** The file of references, or each of them. */
  readonly references: References;
  /** The file of predictions. */
  readonly predictions: string;
  /** Texts with line ends of their own, which became spaces. */
  readonly joined: number;
}

/**
 * Writes instances for the E2E challenge's tool. Line ends within a text become spaces: each line is a text.
 *
 * @param instances The instances.
 * @returns Contents of the two files: references with an empty line after each instance, predictions one a line.
 */
export function e2eFiles(instances: readonly DecodedInstance[]): TextFiles<string> {
  const lines = new Lines();
  return {
    references: instances.map(({ references }) => `${references.map(lines.line).join("")}\n`).join(""),
    predictions: instances.map(({ prediction }) => lines.line(prediction)).join(""),
    joined: lines.joined,
  };
}

/**
 * Writes instances for the tools of WebNLG and DART: file k holds reference k of each instance, or its first one
 * if it has no such. Further references are left out. Line ends within a text become spaces.
 *
 * @param instances The instances.
 * @param count Number of reference files.
 * @returns Contents of the files.
 */
export function numberedFiles(
  instances: readonly DecodedInstance[],
  count: number,
): TextFiles<readonly string[]> {
  const lines = new Lines();
  const again = new Lines();
  const references = Array.from(
    { length: count },
    (_, k) =>
      instances.map(({ references }) => {
        const own = references[k];
        return own === undefined ? again.line(references[0]!) : lines.line(own);
      }).join(""),
  );
  const predictions = instances.map(({ prediction }) => lines.line(prediction)).join("");
  return { references, predictions, joined: lines.joined };
}

/** Makes lines of texts and counts those that had line ends. */
class Lines {
  joined = 0;

  readonly line = (text: string): string => {
    const joined = oneLine(text);
    if (joined !== text) this.joined++;
    return `${joined}\n`;
  };
}
