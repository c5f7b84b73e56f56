/**
 * Makes the texts of the tiny restaurant model. Everything is invented by the grammar in `_data/`, and a
 * function of the seed alone.
 *
 * @module
 */

import { writeWhole } from "@edgetuner/core";
import { generalTalk } from "./general_talk.ts";
import { guideEntries } from "../../cli/shared/restaurant/guide_entries.ts";
import { integer, readFlags, runProgram, text } from "../../cli/flags/flags.ts";
import { assetPath } from "../../cli/process/places.ts";

/** Sizes of the parts of the task. */
const PARTS = [["train", 2000], ["valid", 200], ["test", 200]] as const;

async function main(): Promise<void> {
  const { seed, out, sentences } = readFlags({
    name: "make_data.ts",
    about: `Makes the texts of the tiny restaurant model. Writes to the output folder:
  pretrain.txt   general restaurant talk, one document a line
  train.txt      2,000 lines "meaning representation||guide-book entry"
  valid.txt        200 more
  test.txt         200 more; no meaning is in two of the three files`,
    examples: ["deno run -A bench/tiny_model/make_data.ts --out runs/restaurant --seed 2"],
  }, {
    seed: integer("N", 1, "seed of everything", { min: 0, max: 0xffff_ffff }),
    out: text("DIR", assetPath("restaurant"), "the output folder"),
    sentences: integer("N", 60_000, "how many sentences of talk at least", { min: 1, max: 0xffff_ffff }),
  });
  const talk = generalTalk({ seed, sentences });
  const entries = guideEntries({ seed, count: PARTS.reduce((sum, [, count]) => sum + count, 0) });

  await Deno.mkdir(out, { recursive: true });
  await write(`${out}/pretrain.txt`, talk);
  let start = 0;
  for (const [part, count] of PARTS) {
    const lines = entries.slice(start, start + count).map((entry) =>
      `${entry.representation}||${entry.text}`
    );
    await write(`${out}/${part}.txt`, lines);
    start += count;
  }
}

async function write(path: string, lines: string[]): Promise<void> {
  await writeWhole(path, lines.join("\n") + "\n");
  console.log(`${path}: ${lines.length} lines`);
}

if (import.meta.main) await runProgram(main);
