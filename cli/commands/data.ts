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
import { readFlags, text, toggle, UsageError } from "../flags/flags.ts";
import { DATA_FLAGS, readInput, skippedText } from "../shared/training_data.ts";
import { requireWritable } from "../process/writable.ts";
import type { Call } from "../process/invocation.ts";

type Format<T> = (text: string, options: FormatOptions) => T[];

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

async function main(call: Call): Promise<void> {
  const { input, output, format, instruct, "skip-bad": skipBad } = readFlags({
    name: "format_data.ts",
    about: `Makes training data of a data set, one JSON object a line.

Of e2e, e2e-csv, webnlg and dart prompts and completions, as fine-tuning and edgetuner decode read them.
Of winogrande and openbookqa the right answers as they are scored by edgetuner choice: a context and its
continuation, encoded without anything between them, of which the continuation is learnt. With --instruct
instead a prompt that has all options and a completion that names the right one, as in the paper of
LLM-Adapters; edgetuner choice does not score that form. Rows without an answer (test.jsonl of winogrande) are
refused. edgetuner pull --dataset NAME downloads the files.`,
    examples: [
      "edgetuner data --format dart --input dart-v1.1.1-full-dev.json --output dev.jsonl",
      "edgetuner data --format winogrande --input train_xl.jsonl --output train.jsonl",
      "edgetuner data --format openbookqa --instruct --input train.jsonl --output told.jsonl",
    ],
  }, {
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
  }, call);
  if (input === "" || output === "") {
    throw new UsageError("Cannot run format_data.ts as --input and --output must be given; see --help");
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
    : pairLines((choice?.instruct ?? PAIRS[format]!)(data, options));
  const left = skippedText(input, skipped);
  if (left !== null) console.error(left);
  await writeWhole(output, content);
  console.log(`${counts}: ${output}`);
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
