/**
 * Makes the texts of the tiny restaurant model. Everything is invented by the grammar in `_data/`, and a
 * function of the seed alone.
 *
 * @module
 */

import { writeWhole } from "@edgetuner/core";
import { parseArgs } from "node:util";
import { generalTalk } from "./_data/general_talk.ts";
import { guideEntries } from "./_data/guide_entries.ts";

const HELP = `Makes the texts of the tiny restaurant model.

  deno run --allow-read --allow-write --allow-env examples/make_data.ts [options]

Writes to the output folder:
  pretrain.txt   general restaurant talk, one document a line
  train.txt      2,000 lines "meaning representation||guide-book entry"
  valid.txt        200 more
  test.txt         200 more; no meaning is in two of the three files

  --seed N        an integer in [0, 2^32); default 1
  --out DIR       the output folder; default examples/restaurant
  --sentences N   how many sentences of talk at least; default 60000
  --help          this text
`;

/** Sizes of the parts of the task. */
const PARTS = [["train", 2000], ["valid", 200], ["test", 200]] as const;

function readInteger(option: string, text: string, lowest: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < lowest || value > 0xffff_ffff) {
    throw new RangeError(
      `Cannot make data as '--${option}' must be an integer in [${lowest}, 2^32): current value is "${text}"`,
    );
  }
  return value;
}

async function main(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      seed: { type: "string", default: "1" },
      out: { type: "string", default: `${import.meta.dirname}/restaurant` },
      sentences: { type: "string", default: "60000" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const seed = readInteger("seed", values.seed, 0);
  const talk = generalTalk({ seed, sentences: readInteger("sentences", values.sentences, 1) });
  const entries = guideEntries({ seed, count: PARTS.reduce((sum, [, count]) => sum + count, 0) });

  await Deno.mkdir(values.out, { recursive: true });
  await write(`${values.out}/pretrain.txt`, talk);
  let start = 0;
  for (const [part, count] of PARTS) {
    const lines = entries.slice(start, start + count).map((entry) =>
      `${entry.representation}||${entry.text}`
    );
    await write(`${values.out}/${part}.txt`, lines);
    start += count;
  }
}

async function write(path: string, lines: string[]): Promise<void> {
  await writeWhole(path, lines.join("\n") + "\n");
  console.log(`${path}: ${lines.length} lines`);
}

if (import.meta.main) {
  try {
    await main(Deno.args);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
}
