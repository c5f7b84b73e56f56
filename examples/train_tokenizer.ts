/**
 * Trains the tokenizer of the tiny restaurant model on the texts that `make_data.ts` wrote. The same texts
 * always give the same file.
 *
 * @module
 */

import { writeWhole } from "@edgetuner/core";
import { parseArgs } from "node:util";
import { tokenizerJson, trainBpe } from "./_data/bpe_trainer.ts";

const HELP = `Trains the tokenizer of the tiny restaurant model: byte-level BPE in the manner of GPT-2.

  deno run --allow-read --allow-write examples/train_tokenizer.ts [options]

Reads pretrain.txt and train.txt of the data folder (make_data.ts writes them).

  --data DIR     the data folder; default examples/restaurant
  --out FILE     the tokenizer; default examples/tiny_gpt2/tokenizer.json
  --size N       how many entries, 256 bytes and <|endoftext|> included; default 1024
  --help         this text

Nothing is random here: the same texts always give the same file.
`;

async function main(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      data: { type: "string", default: `${import.meta.dirname}/restaurant` },
      out: { type: "string", default: `${import.meta.dirname}/tiny_gpt2/tokenizer.json` },
      size: { type: "string", default: "1024" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const size = Number(values.size);
  if (!/^\d+$/.test(values.size) || size < 257 || size > 65_536) {
    throw new RangeError(
      `Cannot train a tokenizer as '--size' must be an integer in [257, 65536]: current value is "${values.size}"`,
    );
  }
  const documents: string[] = [];
  for (const name of ["pretrain.txt", "train.txt"]) {
    const path = `${values.data}/${name}`;
    const text = await Deno.readTextFile(path).catch((error: unknown) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      throw new RangeError(
        `Cannot train a tokenizer as the texts must be there (run make_data.ts first): no file is at "${path}"`,
      );
    });
    // A task line is two texts for the tokenizer: the second one begins with a space, as in training.
    documents.push(...text.trimEnd().split("\n").flatMap((line) => line.replace("||", "\n ").split("\n")));
  }
  const model = trainBpe(documents, size - 1);
  await writeWhole(values.out, tokenizerJson(model, "<|endoftext|>"));
  console.log(`${values.out}: ${model.tokens.length + 1} entries`);
}

if (import.meta.main) {
  try {
    await main(Deno.args);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
}
