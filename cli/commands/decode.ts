/**
 * Makes texts of the tokens that a search has found, and puts the references beside them.
 *
 * @module
 */

import {
  DataFormatError,
  endsOf,
  loadText,
  loadTokenizerOf,
  parseFormatted,
  writeWhole,
} from "@edgetuner/core";
import {
  decodePredictions,
  e2eFiles,
  type EncodedPrediction,
  numberedFiles,
} from "@edgetuner/core/evaluation";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { integer, readFlags, text, toggle, UsageError } from "../flags/flags.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { tellDone } from "../output/run_end.ts";
import { commandText } from "../process/places.ts";
import { requireWritable } from "../process/writable.ts";
import type { Call } from "../process/invocation.ts";

/** Lines `{"id": 0, "predict": [1, 2]}`. */
function parsePredictions(content: string, name: string): EncodedPrediction[] {
  return content.trimEnd().split("\n").map((line, i) => {
    let value: { id?: unknown; predict?: unknown } | null = null;
    try {
      value = JSON.parse(line);
    } catch {
      // Told below.
    }
    const { id, predict } = value ?? {};
    if (!Number.isInteger(id) || !Array.isArray(predict) || !predict.every(Number.isInteger)) {
      throw new DataFormatError(
        `Cannot read ${name}, line ${
          i + 1
        }, as it must be {"id": index, "predict": [token, ...]}: current value is ${line.slice(0, 80)}`,
      );
    }
    return { id: id as number, predict };
  });
}

/** The files have one text a line. */
function tellJoined(joined: number): void {
  if (joined > 0) console.error(`${joined} texts had line breaks, which became spaces`);
}

const FLAGS = {
  data: { ...COMMON_FLAGS.data, default: "", help: "prompts and completions, from edgetuner data" },
  predictions: {
    ...COMMON_FLAGS.predictions,
    help: 'lines {"id": index in the data, "predict": [token, ...]}',
  },
  model: { ...MODEL_FLAG, default: "", help: "folder with the model's tokenizer.json, or a GGUF file" },
  tokenizer: TOKENIZER_FLAG,
  output: {
    ...COMMON_FLAGS.output,
    value: "FOLDER",
    help: "where to write references.txt or reference0, ..., and predictions.txt",
  },
  numbered: integer("N", 0, "write N numbered files of references, as WebNLG and DART have them", {
    min: 0,
  }),
  filter: text("WHICH", "all", "WebNLG: categories that training has, or has not", [
    "all",
    "seen",
    "unseen",
  ]),
  "lower-case": COMMON_FLAGS["lower-case"],
  tokenize: COMMON_FLAGS.tokenize,
  "drop-missing": toggle("leave out prompts that have no prediction instead of stopping"),
};

async function main(call: Call): Promise<void> {
  const flags = readFlags(
    {
      name: "decode.ts",
      about:
        "Makes texts of the tokens that a search has found, gathers the references of equal prompts, and writes\n" +
        "the files that edgetuner evaluate reads.",
      examples: [
        "edgetuner decode --data TEST.jsonl --predictions BEAM.jsonl --model MODEL --output runs/e2e",
        "edgetuner decode --data DEV.jsonl --predictions BEAM.jsonl --model MODEL --output runs/dart --numbered 6 --lower-case --tokenize",
      ],
    },
    FLAGS,
    call,
  );
  for (const name of ["data", "predictions", "model", "output"] as const) {
    if (flags[name] === "") {
      throw new UsageError(`Cannot run decode.ts as --${name} must be given; see --help`);
    }
  }
  await requireWritable("decode.ts", { folders: { output: flags.output } });
  const tokenizer = await loadTokenizerOf(flags.model, flags.tokenizer);
  let unknown = 0, withUnknown = 0;
  const instances = decodePredictions(
    parseFormatted(await loadText(flags.data), { name: flags.data }),
    parsePredictions(await Deno.readTextFile(flags.predictions), flags.predictions),
    {
      // Models may have more rows than their tokenizer has tokens.
      decode: (ids) => {
        const known = ids.filter((id) => id >= 0 && id < tokenizer.vocabSize);
        unknown += ids.length - known.length;
        if (known.length < ids.length) withUnknown++;
        return tokenizer.decode(known);
      },
      ends: endsOf(tokenizer),
      filter: flags.filter as "all" | "seen" | "unseen",
      lowerCase: flags["lower-case"],
      tokenize: flags.tokenize,
      missing: flags["drop-missing"] ? "drop" : "refuse",
    },
  );
  if (unknown > 0) {
    console.error(
      `${unknown} tokens of ${withUnknown} predictions left out: the tokenizer has tokens below ${tokenizer.vocabSize} only`,
    );
  }
  const write = (name: string, content: string): Promise<void> =>
    writeWhole(`${flags.output}/${name}`, content);
  if (flags.numbered > 0) {
    const { references, predictions, joined } = numberedFiles(instances, flags.numbered);
    tellJoined(joined);
    await Promise.all(references.map((content, k) => write(`reference${k}`, content)));
    await write("predictions.txt", predictions);
  } else {
    const { references, predictions, joined } = e2eFiles(instances);
    tellJoined(joined);
    await write("references.txt", references);
    await write("predictions.txt", predictions);
  }
  const files = flags.numbered > 0
    ? "reference0, ... and predictions.txt"
    : "references.txt and predictions.txt";
  tellDone({
    done: `${instances.length} instances`,
    saved: [`${files} in ${flags.output}`],
    next: commandText("evaluate.ts", [
      ...["--references", flags.numbered > 0 ? flags.output : `${flags.output}/references.txt`],
      ...["--predictions", `${flags.output}/predictions.txt`],
    ], call.form),
  });
}

/**
 * Runs the command.
 *
 * @param call Its flags, as they were typed.
 * @returns Its exit code.
 */
export async function run(call: Call): Promise<number | void> {
  return await main(call);
}
