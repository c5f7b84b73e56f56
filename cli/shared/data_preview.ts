/**
 * What data holds, before anything is trained: what was recognised, some examples with what is learnt of them, lengths,
 * and what would be cut.
 *
 * @module
 */

import {
  chatTemplateFromConfig,
  encodeExamples,
  loadTokenizerOf,
  type ReadExamples,
  type Tokenizer,
  type TokenSequence,
  type TrainingData,
  type TrainingExample,
} from "@edgetuner/core";
import { terminalColumns } from "../output/terminal.ts";
import { loadTrainingSet, readExamples, type ReadingOptions, truncationText } from "./training_data.ts";

/** What to show. */
export interface PreviewOptions extends ReadingOptions {
  /** Another tokenizer than the model's; else empty. */
  readonly tokenizer: string;
  /** Tokens per sequence. */
  readonly length: number;
  readonly "train-on-prompt": boolean;
  /** True to mark by colour, false by brackets. */
  readonly isColoured: boolean;
}

/** Examples that are shown. */
const SHOWN = 3;
/** Most characters of an example that are shown. */
const MOST_SHOWN = 1200;
/** Rows of the histogram. */
const BINS = 8;

/** A piece of what is shown. */
interface Piece {
  readonly text: string;
  readonly isLearnt: boolean;
}

/** What data of this kind is called. */
function kindOf(example: TrainingExample): string {
  if ("text" in example) return "texts";
  if ("prompt" in example) return "pairs";
  return "continuation" in example ? "continuations" : "conversations";
}

function countsOfKinds({ examples }: ReadExamples): string {
  const counts = new Map<string, number>();
  for (const example of examples) {
    const kind = kindOf(example);
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return [...counts].map(([kind, count]) => `${count} ${count === 1 ? kind.replace(/s$/, "") : kind}`).join(
    ", ",
  );
}

/** Pieces of an example as its file has it. */
function piecesOf(example: TrainingExample): Piece[] {
  if ("text" in example) return [{ text: example.text, isLearnt: true }];
  if ("parts" in example) return [...example.parts];
  const [given, learnt] = "prompt" in example
    ? [example.prompt, ` ${example.completion}`]
    : [example.context, example.continuation];
  return [{ text: given, isLearnt: false }, { text: learnt, isLearnt: true }];
}

/** Pieces of a sequence, as it is trained on. */
function piecesOfSequence({ tokens, firstTarget, counts }: TokenSequence, tokenizer: Tokenizer): Piece[] {
  const pieces: { ids: number[]; isLearnt: boolean }[] = [];
  tokens.forEach((id, i) => {
    const isLearnt = i >= firstTarget && (counts === undefined || counts[i] === 1);
    const last = pieces.at(-1);
    if (last?.isLearnt === isLearnt) last.ids.push(id);
    else pieces.push({ ids: [id], isLearnt });
  });
  return pieces.map(({ ids, isLearnt }) => ({ text: tokenizer.decode(ids), isLearnt }));
}

function shown(pieces: readonly Piece[], { isColoured }: Pick<PreviewOptions, "isColoured">): string {
  let left = MOST_SHOWN;
  const texts = pieces.map(({ text, isLearnt }) => {
    const part = text.length > left ? `${text.slice(0, Math.max(0, left))}...` : text;
    left -= text.length;
    if (part === "...") return "";
    // Data is whoever's: nothing in it may steer the terminal.
    // deno-lint-ignore no-control-regex -- what steers terminals
    const plain = part.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\uFFFD");
    if (!isLearnt || plain === "") return plain;
    return isColoured ? `\u001b[32m${plain}\u001b[0m` : `[[${plain}]]`;
  });
  return texts.join("").split("\n").map((line) => `  ${line}`).join("\n");
}

/** Bars of how many are how long. */
export function histogram(lengths: readonly number[], width: number): string[] {
  const longest = lengths.reduce((most, length) => Math.max(most, length), 1);
  const shortest = lengths.reduce((least, length) => Math.min(least, length), longest);
  const step = Math.max(1, Math.ceil((longest - shortest + 1) / BINS));
  const counts = new Array<number>(Math.floor((longest - shortest) / step) + 1).fill(0);
  for (const length of lengths) counts[Math.floor((length - shortest) / step)]! += 1;
  const most = Math.max(...counts);
  const name = (i: number) => {
    const first = shortest + i * step;
    return step === 1 ? `${first}` : `${first} to ${first + step - 1}`;
  };
  const left = Math.max(...counts.map((_, i) => name(i).length));
  const digits = `${most}`.length;
  const room = Math.max(8, Math.min(60, width - left - digits - 6));
  return counts.map((count, i) =>
    `  ${name(i).padStart(left)}  ${`${count}`.padStart(digits)}  ${
      "#".repeat(Math.ceil(count / most * room))
    }`
  );
}

/** In place of a model's own template, to show conversations without one. */
const PLAIN_TEMPLATE = chatTemplateFromConfig({
  chat_template: "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}" +
    "{% if add_generation_prompt %}<assistant> {% endif %}",
});

/** Lines that say what a file or folder holds. */
export async function previewOf(file: string, options: PreviewOptions): Promise<string[]> {
  const { model, isColoured } = options;
  const notes: string[] = [];
  const reading = model !== "" ? options : { ...options, chatTemplate: PLAIN_TEMPLATE };
  const read = await readExamples(file, reading, (line) => notes.push(line));
  const heading = `${file}: ${read.formats.join(", ")}, ${countsOfKinds(read)}${
    read.skipped > 0 ? `, ${read.skipped} bad lines left out` : ""
  }`;
  const mark = isColoured ? "green" : "[[in brackets]]";
  const lines = [heading, ...notes];
  const encoded = model === "" ? null : await encodedSet(file, options, read);
  const count = encoded?.set.sequences.length ?? read.examples.length;
  for (let i = 0; i < Math.min(SHOWN, count); i++) {
    const pieces = encoded === null
      ? piecesOf(read.examples[i]!)
      : piecesOfSequence(encoded.set.sequences[i]!, encoded.tokenizer);
    lines.push("", `Example ${i + 1}; what is learnt is ${mark}`, shown(pieces, options));
  }
  const unit = encoded === null ? "characters" : "tokens";
  const lengths = encoded?.lengths ??
    read.examples.map((example) => piecesOf(example).reduce((sum, { text }) => sum + text.length, 0));
  lines.push("", `Lengths in ${unit}`, ...histogram(lengths, terminalColumns()));
  if (encoded !== null) {
    lines.push(
      "",
      truncationText(file, encoded.set.counts, options.length) ??
        `Nothing is cut at --length ${options.length}`,
    );
  } else lines.push("", "With --model lengths are in tokens, and what would be cut is told.");
  return lines;
}

async function encodedSet(
  file: string,
  options: PreviewOptions,
  read: ReadExamples,
): Promise<
  { readonly tokenizer: Tokenizer; readonly set: TrainingData; readonly lengths: readonly number[] }
> {
  const tokenizer = await loadTokenizerOf(options.model, options.tokenizer);
  const set = await loadTrainingSet(file, { ...options, encoder: tokenizer }, () => {});
  // Texts that are packed are as long as they are cut; others as they would be uncut.
  const whole = read.formats.includes("text")
    ? set
    : encodeExamples(read.examples, tokenizer, { length: 2 ** 30 });
  return { tokenizer, set, lengths: whole.sequences.map(({ tokens }) => tokens.length) };
}
