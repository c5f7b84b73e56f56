/**
 * Makes training data of the paper's data sets.
 *
 * @module
 */

import {
  type BadLine,
  formatDart,
  formatE2eCsv,
  formatE2eLines,
  type FormatOptions,
  type FormattedPair,
  formatWebnlg,
  instructOpenBookQa,
  instructWinogrande,
  parseOpenBookQa,
  parseWinogrande,
  rightAnswers,
  writeFormatted,
  writeWhole,
} from "@edgetuner/core";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { readFlags, text, toggle, UsageError } from "../flags/flags.ts";
import { previewOf } from "../shared/data_preview.ts";
import { DATA_FLAGS, readInput, skippedText } from "../shared/training_data.ts";
import { tellDone } from "../output/run_end.ts";
import { requireWritable } from "../process/writable.ts";
import type { Call } from "../process/invocation.ts";

type Format<T> = (text: string, options: FormatOptions) => T[] | Promise<T[]>;

const PAIRS: Readonly<Record<string, Format<FormattedPair>>> = {
  "e2e": formatE2eLines,
  "e2e-csv": formatE2eCsv,
  "webnlg": formatWebnlg,
  "dart": formatDart,
};
const CHOICES = {
  "winogrande": { parse: parseWinogrande, instruct: instructWinogrande },
  "openbookqa": { parse: parseOpenBookQa, instruct: instructOpenBookQa },
};

function pairLines(pairs: readonly FormattedPair[]): { content: string; counts: string } {
  const prompts = new Set(pairs.map(({ prompt }) => prompt)).size;
  return { content: writeFormatted(pairs), counts: `${pairs.length} pairs, ${prompts} prompts` };
}

/** Right answers, whose likelihood is what edgetuner choice scores. */
function answerLines(
  content: string,
  options: FormatOptions & { name: string },
  parse: typeof parseWinogrande,
) {
  const { name } = options;
  const questions = parse(content, options);
  const examples = rightAnswers(questions);
  if (examples.length === 0) {
    throw new UsageError(`Cannot format ${name} as an answer must have something to learn: none has`);
  }
  return {
    content: examples.map((example) => `${JSON.stringify(example)}\n`).join(""),
    counts: `${examples.length} right answers of ${questions.length} questions`,
  };
}

/** `edgetuner data FILE` is `edgetuner data --data FILE`. */
function withFile(call: Call): Call {
  const [first, ...rest] = call.args;
  return first === undefined || first.startsWith("-") ? call : { ...call, args: ["--data", first, ...rest] };
}

async function main(given: Call): Promise<void> {
  const flags = readFlags({
    name: "format_data.ts",
    about:
      `Shows what data holds before anything is trained: edgetuner data FILE. Or makes training data of a data set,
one JSON object a line: --input, --output and --format.

The first names what was recognised, shows three examples with what is learnt of them, lengths, and what would be
cut; with --model in the tokens and the chat template of that model. The second is for the data sets of papers:

Of e2e, e2e-csv, webnlg and dart prompts and completions, as fine-tuning and edgetuner decode read them.
Of winogrande and openbookqa the right answers as they are scored by edgetuner choice: a context and its
continuation, encoded without anything between them, of which the continuation is learnt. With --instruct
instead a prompt that has all options and a completion that names the right one, as in the paper of
LLM-Adapters; edgetuner choice does not score that form. Rows without an answer (test.jsonl of winogrande) are
refused. edgetuner pull --dataset NAME downloads the files.`,
    examples: [
      "edgetuner data FILE --model MODEL",
      "edgetuner data TABLE.csv --map prompt=question,completion=answer",
      "edgetuner data --format dart --input DART.json --output runs/dev.jsonl",
      "edgetuner data --format winogrande --input TRAIN.jsonl --output runs/train.jsonl",
      "edgetuner data --format openbookqa --instruct --input TRAIN.jsonl --output runs/told.jsonl",
    ],
  }, {
    data: { ...COMMON_FLAGS.data, default: "", help: "file or folder to show" },
    model: { ...MODEL_FLAG, default: "", help: "model whose tokens and chat template count" },
    tokenizer: TOKENIZER_FLAG,
    length: COMMON_FLAGS.length,
    "train-on-prompt": DATA_FLAGS["train-on-prompt"],
    map: DATA_FLAGS.map,
    "data-format": DATA_FLAGS["data-format"],
    format: text(
      "NAME",
      "e2e",
      "e2e: MR||text lines; e2e-csv: the challenge's CSV; webnlg: 2017, JSON; dart: v1.1.1, JSON; " +
        "winogrande, openbookqa: JSON lines",
      [...Object.keys(PAIRS), ...Object.keys(CHOICES)],
    ),
    input: text("FILE", "", "the data set's own file"),
    output: { ...COMMON_FLAGS.output, value: "FILE", help: "the file to write" },
    instruct: toggle("winogrande, openbookqa: all options in the prompt, the name of the right one to write"),
    "skip-bad": DATA_FLAGS["skip-bad"],
  }, withFile(given));
  if (flags.data !== "") {
    const isColoured = Deno.stdout.isTerminal() && !Deno.noColor;
    for (const line of await previewOf(flags.data, { ...flags, isColoured })) console.log(line);
    return;
  }
  await formatData(flags);
}

/** Makes training data of a data set's own file. */
async function formatData(
  { input, output, format, instruct, "skip-bad": skipBad }: {
    readonly input: string;
    readonly output: string;
    readonly format: string;
    readonly instruct: boolean;
    readonly "skip-bad": boolean;
  },
): Promise<void> {
  if (input === "" || output === "") {
    throw new UsageError(
      "Cannot run format_data.ts as a file to show, or --input and --output, must be given; see --help",
    );
  }
  const choice = format in CHOICES ? CHOICES[format as keyof typeof CHOICES] : null;
  if (instruct && choice === null) {
    throw new UsageError(
      `Cannot run format_data.ts as --instruct must come with one of ${
        Object.keys(CHOICES).join(", ")
      }: current value of --format is "${format}"`,
    );
  }
  await requireWritable("format_data.ts", { files: { output } });
  const data = await readInput("format the data", "input", input);
  const skipped: BadLine[] = [];
  const options = {
    name: input,
    ...(skipBad ? { onBadLine: (bad: BadLine) => void skipped.push(bad) } : {}),
  };
  const { content, counts } = choice !== null && !instruct
    ? answerLines(data, options, choice.parse)
    : pairLines(await (choice?.instruct ?? PAIRS[format]!)(data, options));
  const left = skippedText(input, skipped);
  if (left !== null) console.error(left);
  await writeWhole(output, content);
  tellDone({ done: counts, saved: [output] });
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
