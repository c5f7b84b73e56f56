/**
 * Accuracy of a model on tasks with several answers to choose from: Winogrande and OpenBookQA, scored as
 * EleutherAI's lm-evaluation-harness does, zero-shot.
 *
 * @module
 */

import {
  type BadLine,
  type ChoiceQuestion,
  type DataCounts,
  DataFormatError,
  type EncodedRequest,
  encodeRequest,
  parseOpenBookQa,
  parseWinogrande,
  type Tokenizer,
  writeWhole,
} from "@edgetuner/core";
import { choiceAccuracy, type MeanWithError, type ScoredChoice } from "@edgetuner/core/evaluation";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { type FlagValues, readFlags, text, UsageError } from "../flags/flags.ts";
import { SPLIT_FLAGS, throughSplit } from "../shared/split_session.ts";
import { neverBegan } from "../output/run_end.ts";
import { ProgressBar } from "../output/progress.ts";
import { versions, writeReport } from "../output/report.ts";
import { loadAdapterParts, TextModel } from "../shared/texts.ts";
import { DATA_FLAGS, readInput, skippedText } from "../shared/training_data.ts";
import { baseWeightsOf } from "../flags/weights_flag.ts";
import { requireWritable } from "../process/writable.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call } from "../process/invocation.ts";

const TASKS = { winogrande: parseWinogrande, openbookqa: parseOpenBookQa };
type Task = keyof typeof TASKS;

const FLAGS = {
  task: text("NAME", "winogrande", "whose questions the file holds", Object.keys(TASKS)),
  data: {
    ...COMMON_FLAGS.data,
    default: "",
    help: "questions with their answers, JSON lines as the task has them",
  },
  count: { ...COMMON_FLAGS.count, default: 0, help: "only the first N questions; 0 = all" },
  "skip-bad": {
    ...DATA_FLAGS["skip-bad"],
    help:
      "leave out questions that are not valid, or have an answer that the model has no room for, and count them",
  },
  ...SPLIT_FLAGS,
  adapter: {
    ...COMMON_FLAGS.adapter,
    help:
      "adapter folder, or the parts that devices saved: a,b,c; without one, and without --connect, the base model alone",
  },
  batch: { ...COMMON_FLAGS.batch, default: 16, help: "answers computed side by side" },
  results: text(
    "FILE",
    "",
    "write a line of JSON for each question: log-likelihoods, the right answer, the chosen",
  ),
  report: COMMON_FLAGS.report,
  connect: {
    ...COMMON_FLAGS.connect,
    help:
      "score with the heads of the devices at this edge server, which runs with --generate: ws(s)://.../join/ws",
  },
};

type Flags = FlagValues<typeof FLAGS>;

const ABOUT =
  `Accuracy of a model on Winogrande and OpenBookQA, scored as the lm-evaluation-harness does, zero-shot: the
answer that the model finds likeliest is its choice. Prints the share of right choices with its standard error:
acc by log-likelihood, and acc_norm by log-likelihood per character (of OpenBookQA, where it is the usual figure).

Papers report the validation rows of Winogrande and the test rows of OpenBookQA. With the files of edgetuner pull:

  edgetuner pull --dataset winogrande    # prints FOLDER
    train_xl.jsonl  to tune on, after edgetuner data --format winogrande
    dev.jsonl       to score: --task winogrande --data FOLDER/dev.jsonl
    test.jsonl      has no answers, so it cannot be scored
  edgetuner pull --dataset openbookqa
    train.jsonl     to tune on, after edgetuner data --format openbookqa
    dev.jsonl       to choose settings by
    test.jsonl      to score: --task openbookqa --data FOLDER/test.jsonl

Rows of the Hugging Face hub as JSON lines are read too.`;

const PROGRAM = {
  name: "choice.ts",
  about: ABOUT,
  examples: [
    "edgetuner choice --task winogrande --data QUESTIONS --model MODEL --count 200",
    "edgetuner choice --task openbookqa --data QUESTIONS --model MODEL --adapter runs/qa",
    "edgetuner data --format openbookqa --input TRAIN --output runs/qa.jsonl",
    "edgetuner tune --model MODEL --data runs/qa.jsonl --save runs/qa",
    "edgetuner choice --data QUESTIONS --model MODEL --connect ws://127.0.0.1:8787/join/ws --token T",
  ],
};

async function readOptions(call: Call): Promise<{ readonly flags: Flags }> {
  const flags = readFlags(PROGRAM, FLAGS, call);
  if (flags.data === "") throw new UsageError("Cannot run choice.ts as --data must be given; see --help");
  if (flags.connect !== "" && flags.adapter !== "") {
    throw new UsageError(
      "Cannot score as one of --connect and --adapter may be given: with --connect the devices have the heads",
    );
  }
  await requireWritable("choice.ts", { files: { results: flags.results, report: flags.report } });
  return { flags };
}

async function main({ flags }: { readonly flags: Flags }): Promise<void> {
  const task = flags.task as Task;
  const read = await readQuestions(flags, task);
  const started = performance.now();
  const { likelihoods, bytes, questions, counts } = await (flags.connect === "" ? scoreHere : scoreThere)(
    flags,
    read,
  );
  const seconds = (performance.now() - started) / 1000;

  let place = 0;
  const scored = questions.map(({ requests, gold, lengths }): ScoredChoice => {
    const logLikelihoods = likelihoods.slice(place, place += requests.length);
    // Winogrande scores the same text in two contexts: there is nothing to divide by.
    return task === "winogrande" ? { logLikelihoods, gold } : { logLikelihoods, gold, lengths };
  });
  const { accuracy, normalisedAccuracy } = choiceAccuracy(scored);
  console.log(`${task}: ${questions.length} questions, ${likelihoods.length} answers`);
  console.log(`acc       ${shown(accuracy)}`);
  if (normalisedAccuracy !== null) console.log(`acc_norm  ${shown(normalisedAccuracy)}`);
  if (flags.results !== "") await writeWhole(flags.results, resultLines(scored, questions));
  await writeReport(flags.report, {
    versions: versions(),
    settings: flags,
    questions: questions.length,
    data: { test: counts },
    seconds,
    bytes,
    acc: accuracy,
    acc_norm: normalisedAccuracy,
  });
}

/** A question and where it is from. */
interface Question extends ChoiceQuestion {
  /** Number of its line, from 1 on. */
  readonly line: number;
}

/** What a file holds. */
interface Read {
  readonly questions: readonly Question[];
  /** Lines that were left out. */
  readonly skipped: readonly BadLine[];
}

async function readQuestions(flags: Flags, task: Task): Promise<Read> {
  const content = await readInput("score", "data", flags.data);
  const bad: BadLine[] = [];
  const all = TASKS[task](content, {
    name: flags.data,
    ...(flags["skip-bad"] ? { onBadLine: (line: BadLine) => void bad.push(line) } : {}),
  });
  // The lines that are not bad, in their order.
  const left = new Set(bad.map(({ line }) => line));
  let line = 0;
  const questions = all.map((question): Question => {
    do line++; while (left.has(line));
    return { ...question, line };
  });
  const some = flags.count === 0 ? questions : questions.slice(0, flags.count);
  // Those behind the last question that is asked for do not matter.
  const end = some.length < questions.length ? some.at(-1)!.line : Infinity;
  return { questions: some, skipped: bad.filter(({ line }) => line < end) };
}

/** A mean with its standard error; a single question has none. */
function shown({ mean, standardError }: MeanWithError): string {
  return `${mean.toFixed(4)} ± ${Number.isNaN(standardError) ? "-" : standardError.toFixed(4)}`;
}

/** One object a line, in the order of the data. */
function resultLines(scored: readonly ScoredChoice[], questions: readonly Question[]): string {
  return scored.map((choice, question) => {
    const { logLikelihoods, gold, lengths } = choice;
    const chosen = (values: readonly number[]) => values.indexOf(Math.max(...values));
    const line = {
      question,
      line: questions[question]!.line,
      gold,
      chosen: chosen(logLikelihoods),
      ...(lengths ? { chosenByCharacter: chosen(logLikelihoods.map((v, k) => v / lengths[k]!)) } : {}),
      logLikelihoods,
    };
    return `${JSON.stringify(line)}\n`;
  }).join("");
}

/** What is scored. */
interface Encoded {
  readonly questions: readonly Question[];
  /** Tokens of all answers, question by question. */
  readonly requests: readonly EncodedRequest[];
  readonly counts: DataCounts;
}

/** Why a request cannot be scored: which rule it breaks, and the current value; `null` if it can. */
function problemOf({ continuation }: EncodedRequest, text: string, positions: number): string | null {
  if (continuation.length === 0) {
    return `what is scored must have a token of its own: current value is ${
      JSON.stringify(text.slice(0, 80))
    }`;
  }
  return continuation.length <= positions
    ? null
    : `what is scored must have at most the model's ${positions} tokens: current value is ${continuation.length}`;
}

/** Encodes all answers, and says what was left out, and how many contexts the model is not given whole. */
function encodeAll(
  tokenizer: Tokenizer,
  { questions, skipped }: Read,
  flags: Flags,
  positions: number,
): Encoded {
  const { data: name } = flags;
  const bad = [...skipped];
  const kept: Question[] = [];
  const requests: EncodedRequest[] = [];
  for (const question of questions) {
    const encoded = question.requests.map((request) => encodeRequest(tokenizer, request));
    const problem = encoded.map((one, k) => problemOf(one, question.requests[k]!.continuation, positions))
      .find((found) => found !== null);
    if (problem === undefined) {
      kept.push(question);
      requests.push(...encoded);
    } else if (flags["skip-bad"]) {
      bad.push({ name, line: question.line, problem });
    } else {
      throw new DataFormatError(
        `Cannot score line ${question.line} of ${name} as ${problem}; --skip-bad leaves such questions out`,
      );
    }
  }
  const left = skippedText(name, bad.toSorted((a, b) => a.line - b.line));
  if (left !== null) console.error(left);
  if (kept.length === 0) {
    throw new DataFormatError(`Cannot score ${name} as it must hold at least one question: no line is valid`);
  }
  // The model is given all tokens but the last.
  const length = ({ context, continuation }: EncodedRequest) => context.length + continuation.length - 1;
  const truncated = requests.filter((request) => length(request) > positions).length;
  if (truncated > 0) {
    console.error(
      `${truncated} of ${requests.length} answers of ${name} scored after a context that was cut: the model takes ${positions} tokens`,
    );
  }
  return {
    questions: kept,
    requests,
    counts: { sequences: requests.length, truncated, skipped: bad.length },
  };
}

interface Likelihoods extends Omit<Encoded, "requests"> {
  readonly likelihoods: readonly number[];
  /** Bytes on the wire. */
  readonly bytes: number;
}

/** With the whole model on this machine. */
async function scoreHere(flags: Flags, read: Read): Promise<Likelihoods> {
  const adapter = await loadAdapterParts(flags.adapter);
  using model = await TextModel.open(flags, adapter, flags.webgpu, baseWeightsOf(flags));
  const { requests, ...encoded } = encodeAll(model.tokenizer, read, flags, model.positions);
  const bar = new ProgressBar(requests.length);
  const likelihoods = await model.logLikelihoods(requests, {
    batch: flags.batch,
    onProgress: (done) => bar.draw(done, "answers"),
  });
  bar.end();
  return { ...encoded, likelihoods, bytes: 0 };
}

/** As the data device of a run, an answer at a time: the layers are at the edge server, the heads on other devices. */
async function scoreThere(flags: Flags, read: Read): Promise<Likelihoods> {
  const likelihoods: number[] = [];
  const { prepared, bytes } = await throughSplit(
    flags,
    "choice",
    ({ tokenizer, positions }) => encodeAll(tokenizer, read, flags, positions),
    async (session, { requests }) => {
      const bar = new ProgressBar(requests.length);
      for (const request of requests) {
        likelihoods.push(await session.logLikelihood(request));
        bar.draw(likelihoods.length, "answers");
      }
      bar.end();
    },
  );
  const { requests: _, ...encoded } = prepared;
  return { ...encoded, likelihoods, bytes };
}

/** Runs the command. */
export const run: CommandRun = command(
  readOptions,
  (options, call) => main(options).catch((error) => neverBegan(call, "choice.ts", error)),
  "answers",
);
