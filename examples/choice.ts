/**
 * Accuracy of a model on tasks with several answers to choose from: Winogrande and OpenBookQA, scored as
 * EleutherAI's lm-evaluation-harness does, zero-shot.
 *
 * @module
 */

import {
  type ChoiceQuestion,
  type EncodedRequest,
  encodeRequest,
  loadAdapter,
  loadEnds,
  parseOpenBookQa,
  parseWinogrande,
  runUserDevice,
  type Tokenizer,
  warmUp,
} from "@edgetuner/core";
import { choiceAccuracy, type MeanWithError, type ScoredChoice } from "@edgetuner/core/evaluation";
import { Engine } from "@edgetuner/kernels";
import { codecChoice, codecsOf } from "./_support/codecs.ts";
import { CONNECTION_FLAGS, openTransport } from "./_support/connection.ts";
import { type FlagValues, integer, readFlags, runProgram, text, UsageError } from "./_support/flags.ts";
import { MODEL_FLAG, openModel, TOKENIZER_FLAG } from "./_support/model_flags.ts";
import { ProgressBar } from "./_support/progress.ts";
import { versions, writeReport } from "./_support/report.ts";
import { TextModel } from "./_support/texts.ts";
import { loadGpu, WEBGPU_CHOICES } from "./_support/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "./_support/weights_flag.ts";

const TASKS = { winogrande: parseWinogrande, openbookqa: parseOpenBookQa };
type Task = keyof typeof TASKS;

const FLAGS = {
  task: text("NAME", "winogrande", "whose questions the file holds", Object.keys(TASKS)),
  data: text("FILE", "", "questions with their answers, JSON lines as the task has them"),
  count: integer("N", 0, "only the first N questions; 0 = all", { min: 0 }),
  model: MODEL_FLAG,
  ...WEIGHTS_FLAG,
  tokenizer: TOKENIZER_FLAG,
  adapter: text("DIR", "", "adapter folder; without one, and without --connect, the base model alone"),
  batch: integer("N", 16, "answers computed side by side", { min: 1 }),
  webgpu: text("NAME", "deno", "WebGPU implementation", WEBGPU_CHOICES),
  results: text(
    "FILE",
    "",
    "write a line of JSON for each question: log-likelihoods, the right answer, the chosen",
  ),
  report: text("FILE", "", "write a report as JSON"),
  connect: text(
    "URL",
    "",
    "score with the heads of the devices at this edge server, which runs with --generate: ws(s)://.../join/ws",
  ),
  ...CONNECTION_FLAGS,
  codec: text("FILE", "f32", "--connect: module of a codec that the run may use"),
};

type Flags = FlagValues<typeof FLAGS>;

const ABOUT =
  `Accuracy of a model on Winogrande and OpenBookQA, scored as the lm-evaluation-harness does, zero-shot: the
answer that the model finds likeliest is its choice. Prints the share of right choices with its standard error:
acc by log-likelihood, and acc_norm by log-likelihood per character (of OpenBookQA, where it is the usual figure).

Papers report the validation rows of Winogrande and the test rows of OpenBookQA. With the files of pull.ts:

  deno run -A examples/pull.ts --dataset winogrande    # prints FOLDER
    train_xl.jsonl  to tune on, after format_data.ts --format winogrande
    dev.jsonl       to score: --task winogrande --data FOLDER/dev.jsonl
    test.jsonl      has no answers, so it cannot be scored
  deno run -A examples/pull.ts --dataset openbookqa
    train.jsonl     to tune on, after format_data.ts --format openbookqa
    dev.jsonl       to choose settings by
    test.jsonl      to score: --task openbookqa --data FOLDER/test.jsonl

Rows of the Hugging Face hub as JSON lines are read too.`;

async function main(): Promise<void> {
  const flags = readFlags({
    name: "choice.ts",
    about: ABOUT,
    examples: [
      "deno run -A examples/choice.ts --task winogrande --data dev.jsonl --model MODEL --count 200",
      "deno run -A examples/choice.ts --task openbookqa --data test.jsonl --model MODEL --adapter runs/qa",
      "deno run -A examples/format_data.ts --format openbookqa --input train.jsonl --output tune.jsonl   # and:",
      "deno run -A examples/server_tuner.ts --model MODEL --data tune.jsonl --save runs/qa",
      "deno run -A examples/choice.ts --data dev.jsonl --model MODEL --connect ws://127.0.0.1:8787/join/ws --token T",
    ],
  }, FLAGS);
  if (flags.data === "") throw new UsageError("Cannot run choice.ts as --data must be given; see --help");
  if (flags.connect !== "" && flags.adapter !== "") {
    throw new UsageError(
      "Cannot score as one of --connect and --adapter may be given: with --connect the devices have the heads",
    );
  }
  const task = flags.task as Task;
  const all = TASKS[task](await readData(flags.data), { name: flags.data });
  const questions = flags.count === 0 ? all : all.slice(0, flags.count);
  const started = performance.now();
  const { likelihoods, bytes } = await (flags.connect === "" ? scoreHere : scoreThere)(flags, questions);
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
  if (flags.results !== "") await Deno.writeTextFile(flags.results, resultLines(scored));
  await writeReport(flags.report, {
    versions: versions(),
    settings: flags,
    questions: questions.length,
    seconds,
    bytes,
    acc: accuracy,
    acc_norm: normalisedAccuracy,
  });
}

async function readData(file: string): Promise<string> {
  try {
    return await Deno.readTextFile(file);
  } catch (cause) {
    throw new UsageError(
      `Cannot score as --data must be a file that can be read: current value is "${file}" (${
        (cause as Error).message
      })`,
      { cause },
    );
  }
}

/** A mean with its standard error; a single question has none. */
function shown({ mean, standardError }: MeanWithError): string {
  return `${mean.toFixed(4)} ± ${Number.isNaN(standardError) ? "-" : standardError.toFixed(4)}`;
}

/** One object a line, in the order of the data. */
function resultLines(scored: readonly ScoredChoice[]): string {
  return scored.map((choice, question) => {
    const { logLikelihoods, gold, lengths } = choice;
    const chosen = (values: readonly number[]) => values.indexOf(Math.max(...values));
    const line = {
      question,
      gold,
      chosen: chosen(logLikelihoods),
      ...(lengths ? { chosenByCharacter: chosen(logLikelihoods.map((v, k) => v / lengths[k]!)) } : {}),
      logLikelihoods,
    };
    return `${JSON.stringify(line)}\n`;
  }).join("");
}

/** Tokens of all answers, question by question. */
function encodeAll(
  tokenizer: Tokenizer,
  questions: readonly ChoiceQuestion[],
  file: string,
): EncodedRequest[] {
  return questions.flatMap(({ requests }, i) =>
    requests.map((request) => {
      const encoded = encodeRequest(tokenizer, request);
      if (encoded.continuation.length > 0) return encoded;
      throw new UsageError(
        `Cannot score line ${
          i + 1
        } of ${file} as what is scored must have a token of its own: current value is ${
          JSON.stringify(request)
        }`,
      );
    })
  );
}

interface Likelihoods {
  readonly likelihoods: readonly number[];
  /** Bytes on the wire. */
  readonly bytes: number;
}

/** With the whole model on this machine. */
async function scoreHere(flags: Flags, questions: readonly ChoiceQuestion[]): Promise<Likelihoods> {
  const adapter = flags.adapter === "" ? null : await loadAdapter(flags.adapter);
  using model = await TextModel.open(flags, adapter, flags.webgpu, baseWeightsOf(flags));
  const requests = encodeAll(model.tokenizer, questions, flags.data);
  const bar = new ProgressBar(requests.length);
  const likelihoods = await model.logLikelihoods(requests, {
    batch: flags.batch,
    onProgress: (done) => bar.draw(done, "answers"),
  });
  bar.end();
  return { likelihoods, bytes: 0 };
}

/** As the data device of a run, an answer at a time: the layers are at the edge server, the heads on other devices. */
async function scoreThere(flags: Flags, questions: readonly ChoiceQuestion[]): Promise<Likelihoods> {
  const transport = await openTransport(flags, flags.connect, "--connect");
  const { model, tokenizer } = await openModel(flags);
  const requests = encodeAll(tokenizer, questions, flags.data);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const baseWeights = baseWeightsOf(flags);
  using ends = loadEnds(engine, model, { baseWeights });
  await warmUp(engine, ["data"], baseWeights);
  const bar = new ProgressBar(requests.length);
  const likelihoods: number[] = [];
  const channel = await transport.connect();
  const { error, ledger } = await runUserDevice({
    engine,
    channel,
    name: `choice-${crypto.randomUUID().slice(0, 4)}`,
    capacity: 0,
    task: "generate",
    joinTimeoutMs: 600_000,
    codecs: await codecsOf((await codecChoice(flags.codec)).module),
    data: {
      ends,
      loss: { labelSmoothing: 0 },
      fingerprint: model.fingerprint,
      next: () => null,
      async generate(session) {
        for (const request of requests) {
          likelihoods.push(await session.logLikelihood(request));
          bar.draw(likelihoods.length, "answers");
        }
      },
    },
  });
  bar.end();
  if (error !== null) throw error;
  return { likelihoods, bytes: ledger.totalBytes };
}

if (import.meta.main) await runProgram(main);
