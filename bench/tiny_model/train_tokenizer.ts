/**
 * Trains the tokenizer of the tiny restaurant model on the texts that `make_data.ts` wrote. The same texts
 * always give the same file.
 *
 * @module
 */

import { writeWhole } from "@edgetuner/core";
import { tokenizerJson, trainBpe } from "./bpe_trainer.ts";
import { integer, readFlags, runProgram, text, UsageError } from "../../cli/flags/flags.ts";
import { assetPath } from "../../cli/process/places.ts";

async function main(): Promise<void> {
  const { data, out, size } = readFlags({
    name: "train_tokenizer.ts",
    about:
      `Trains the tokenizer of the tiny restaurant model: byte-level BPE in the manner of GPT-2. Reads pretrain.txt and
train.txt of the data folder (make_data.ts writes them). The same texts always give the same file.`,
    examples: [
      "deno run -A bench/tiny_model/train_tokenizer.ts --data runs/restaurant --out runs/tokenizer.json",
    ],
  }, {
    data: text("DIR", assetPath("restaurant"), "the data folder"),
    out: text("FILE", assetPath("tiny_gpt2/tokenizer.json"), "the tokenizer"),
    size: integer("N", 1024, "how many entries, 256 bytes and <|endoftext|> included", {
      min: 257,
      max: 65_536,
    }),
  });
  const documents: string[] = [];
  for (const name of ["pretrain.txt", "train.txt"]) {
    const path = `${data}/${name}`;
    const content = await Deno.readTextFile(path).catch((error: unknown) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      throw new UsageError(
        `Cannot train a tokenizer as the texts must be there (run make_data.ts first): no file is at "${path}"`,
      );
    });
    // A task line is two texts for the tokenizer: the second one begins with a space, as in training.
    documents.push(...content.trimEnd().split("\n").flatMap((line) => line.replace("||", "\n ").split("\n")));
  }
  const model = trainBpe(documents, size - 1);
  await writeWhole(out, tokenizerJson(model, "<|endoftext|>"));
  console.log(`${out}: ${model.tokens.length + 1} entries`);
}

if (import.meta.main) await runProgram(main);
