/**
 * Makes prompts and completions of the paper's data sets.
 *
 * @module
 */

import {
  formatDart,
  formatE2eCsv,
  formatE2eLines,
  type FormatOptions,
  type FormattedPair,
  formatWebnlg,
  writeFormatted,
} from "@edgetuner/core";
import { readFlags, runProgram, text, UsageError } from "./_support/flags.ts";

const FORMATS: Readonly<Record<string, (text: string, options: FormatOptions) => FormattedPair[]>> = {
  "e2e": formatE2eLines,
  "e2e-csv": formatE2eCsv,
  "webnlg": formatWebnlg,
  "dart": formatDart,
};

async function main(): Promise<void> {
  const { input, output, format } = readFlags({
    name: "format_data.ts",
    about:
      "Makes prompts and completions of a data set, one JSON object a line, as fine-tuning and decode.ts read it.",
    examples: [
      "deno run -A examples/format_data.ts --format dart --input dart-v1.1.1-full-dev.json --output dev.jsonl",
    ],
  }, {
    format: text(
      "NAME",
      "e2e",
      "e2e: MR||text lines; e2e-csv: the challenge's CSV; webnlg: 2017, JSON; dart: v1.1.1, JSON",
      Object.keys(FORMATS),
    ),
    input: text("FILE", "", "the data set's own file"),
    output: text("FILE", "", "the file to write"),
  });
  if (input === "" || output === "") {
    throw new UsageError("Cannot run format_data.ts as --input and --output must be given; see --help");
  }
  const pairs = FORMATS[format]!(await Deno.readTextFile(input), { name: input });
  await Deno.writeTextFile(output, writeFormatted(pairs));
  console.log(`${pairs.length} pairs, ${new Set(pairs.map(({ prompt }) => prompt)).size} prompts: ${output}`);
}

if (import.meta.main) await runProgram(main);
