/**
 * Step 0: gets the base model and the E2E data, downloaded or by path, and notes in the run's folder what the
 * steps after it are to use.
 *
 * @module
 */

import {
  type BadLine,
  DataFormatError,
  formatE2eCsv,
  formatE2eLines,
  type FormattedPair,
  loadText,
  writeFormatted,
  writeWhole,
} from "@edgetuner/core";
import { COMMON_FLAGS } from "../../flags/common_flags.ts";
import {
  NEW_OUT_FLAG,
  newOut,
  nextCommand,
  readNote,
  type RunNote,
  writeNote,
} from "../../shared/five_steps.ts";
import { type FlagValues, readFlags, text, toggle, UsageError } from "../../flags/flags.ts";
import { HUB_MODEL_FLAG, TOKENIZER_FLAG } from "../../flags/model_flags.ts";
import { PULL_FLAGS, pulling } from "../../shared/pulling.ts";
import { DATA_FLAGS, skippedText } from "../../shared/training_data.ts";
import { requireWritable } from "../../process/writable.ts";
import { assetPath } from "../../process/places.ts";
import type { Call } from "../../process/invocation.ts";
import { loadTold } from "../../shared/opened_model.ts";

const TINY = assetPath("tiny_gpt2");

/** Settings of the steps, by what the model is. */
const SETTINGS = {
  // The paper's; five epochs of E2E's 42,061 pairs.
  paper: {
    ...{ batch: 4, length: 512, mode: "slice", targets: "q,v", rank: 8, alpha: 32, dropout: 0.1 },
    ...{ rate: 2e-4, warmup: 500, schedule: "linear", smoothing: 0.1, steps: 52_600 },
    ...{ "pruner-steps": 400, tau: 0.7, eta: 0.4 },
  },
  // For `cli/assets/tiny_gpt2`.
  tiny: {
    ...{ batch: 8, length: 128, mode: "full", targets: "q,k,v", rank: 8, alpha: 32, dropout: 0 },
    ...{ rate: 1e-2, warmup: 10, schedule: "linear", smoothing: 0.1, steps: 400 },
    ...{ "pruner-steps": 200, tau: 0.9, eta: 0.6 },
  },
} as const;

/** Its flags. */
export const FLAGS = {
  model: {
    ...HUB_MODEL_FLAG,
    value: "MODEL",
    default: TINY,
    help: "base model: a folder, a GGUF file, or OWNER/NAME of the hub, which is downloaded",
  },
  tokenizer: TOKENIZER_FLAG,
  train: text("FILE", "", "E2E training data, MR||text lines or CSV; without one E2E is downloaded"),
  valid: {
    ...COMMON_FLAGS.valid,
    help: "validation data; without one the last tenth of the training prompts is held out",
  },
  test: { ...COMMON_FLAGS.test, default: "", help: "test data" },
  restaurant: toggle("this repository's own task in place of E2E, whatever the files"),
  settings: text("NAME", "", "of all steps: the paper's, or those of the tiny model [by the model]", [
    "",
    ...Object.keys(SETTINGS),
  ]),
  "skip-bad": DATA_FLAGS["skip-bad"],
  ...PULL_FLAGS,
};

type Flags = FlagValues<typeof FLAGS>;

/** Files of the three parts; an empty one is not there. */
type Parts = RunNote["data"];

/** Pairs of a file; those of bad lines are left out and counted if so wished. */
async function readPairs(
  file: string,
  { "skip-bad": skipBad }: Pick<Flags, "skip-bad">,
): Promise<FormattedPair[]> {
  const content = await loadText(file);
  const skipped: BadLine[] = [];
  const pairs = await (file.endsWith(".csv") ? formatE2eCsv : formatE2eLines)(content, {
    name: file,
    ...(skipBad ? { onBadLine: (bad: BadLine) => void skipped.push(bad) } : {}),
  });
  const text = skippedText(file, skipped);
  if (text !== null) console.error(text);
  if (pairs.length > 0) return pairs;
  throw new DataFormatError(`Cannot read ${file} as it must hold at least one pair: no line is valid`);
}

/** Holds out the last tenth of the prompts, with all their texts. */
function holdOut(pairs: readonly FormattedPair[]): { train: FormattedPair[]; valid: FormattedPair[] } {
  const prompts = [...new Set(pairs.map(({ prompt }) => prompt))];
  const held = new Set(prompts.slice(-Math.max(1, Math.floor(prompts.length / 10))));
  if (held.size === prompts.length) {
    throw new DataFormatError(
      "Cannot hold out prompts for validation as the training data must have at least 2: it has 1; give --valid",
    );
  }
  const { train = [], valid = [] } = Object.groupBy(
    pairs,
    ({ prompt }) => held.has(prompt) ? "valid" : "train",
  );
  return { train, valid };
}

/** The model and the files, downloaded where they are no paths. */
async function find(flags: Flags): Promise<{ readonly model: string; readonly data: Parts }> {
  const { train, valid, test } = flags;
  if (!flags.restaurant && (train === "") !== (test === "")) {
    throw new UsageError(
      "Cannot run e2e/pull.ts as --train and --test must be given together: one of them is",
    );
  }
  const isPath = await Deno.stat(flags.model).then(() => true, () => false);
  if (!isPath && !/^[\w.-]+\/[\w.-]+(@[\w./-]+)?$/.test(flags.model)) {
    throw new UsageError(
      `Cannot run e2e/pull.ts as --model must be a path that exists, or OWNER/NAME: current value is "${flags.model}"`,
    );
  }
  if (isPath && flags.revision !== "") {
    throw new UsageError(
      `Cannot run e2e/pull.ts as --revision must be that of a model of the hub: ${flags.model} is a path`,
    );
  }
  return await pulling(flags, async (puller) => {
    const model = isPath ? await Deno.realPath(flags.model) : await puller.model(flags.model);
    if (flags.restaurant) {
      const of = (name: string) => assetPath(`restaurant/${name}.txt`);
      return { model, data: { train: of("train"), valid: of("valid"), test: of("test") } };
    }
    if (train !== "") {
      const path = (file: string) => file === "" ? file : Deno.realPath(file);
      return { model, data: { train: await path(train), valid: await path(valid), test: await path(test) } };
    }
    const e2e = await puller.dataset("e2e");
    return {
      model,
      data: { train: `${e2e}/train.txt`, valid: `${e2e}/valid.txt`, test: `${e2e}/test.txt` },
    };
  });
}

/** True for the path of the tiny model. */
async function isTiny(model: string): Promise<boolean> {
  return await Deno.realPath(model).catch(() => "") === await Deno.realPath(TINY);
}

/** The folder that the flags name, or else that of this kind of run. */
export async function outOf({ model, restaurant }: Flags, out: string): Promise<string> {
  if (out !== "") return out;
  return newOut(restaurant ? "restaurant" : await isTiny(model) ? "tiny" : "other");
}

/** Gets everything and writes the note. */
export async function pull(flags: Flags, out: string): Promise<void> {
  await requireWritable("e2e/pull.ts", { folders: { out } });
  console.error("\n== 0. Get the model and the data");
  const { model: path, data } = await find(flags);
  const before = await readNote(out);
  if (before !== null && (before.model !== path || JSON.stringify(before.data) !== JSON.stringify(data))) {
    throw new UsageError(
      `Cannot run e2e/pull.ts as ${out} must not hold a run of another model or other data: it holds one of ${before.model} on ${before.data.train}; pass another --out, or remove the folder`,
    );
  }
  const model = await loadTold(path);
  const name = flags.settings || (await isTiny(path) ? "tiny" : "paper");
  const settings = SETTINGS[name as keyof typeof SETTINGS];
  const { config } = model;
  const longest = "n_positions" in config ? config.n_positions : config.max_position_embeddings;
  const read = await readPairs(data.train, flags);
  const parts = data.valid === ""
    ? holdOut(read)
    : { train: read, valid: await readPairs(data.valid, flags) };
  for (
    const [part, pairs] of Object.entries({ ...parts, test: await readPairs(data.test, flags) })
  ) {
    await writeWhole(`${out}/${part}.jsonl`, writeFormatted(pairs));
    const prompts = new Set(pairs.map(({ prompt }) => prompt)).size;
    console.log(`${part.padEnd(6)}${pairs.length} texts of ${prompts} prompts: ${out}/${part}.jsonl`);
  }
  await writeNote(out, {
    model: path,
    tokenizer: flags.tokenizer === "" ? "" : await Deno.realPath(flags.tokenizer),
    data,
    settings: {
      ...settings,
      // The restaurant's sequences are short.
      length: Math.min(flags.restaurant ? 80 : settings.length, longest),
    },
    partial: false,
    ...(before?.collected === undefined ? {} : { collected: before.collected }),
  });
  console.log(`Model ${path}; settings: ${name}`);
}

async function main(call: Call): Promise<void> {
  const { out: asked, ...flags } = readFlags(
    {
      name: "e2e/pull.ts",
      about:
        "Step 0 of 5: gets the base model and the E2E data, and notes in --out what the other steps use.",
      examples: [
        "edgetuner e2e pull --model openai-community/gpt2-medium",
        "HF_TOKEN=TOKEN edgetuner e2e pull --model meta-llama/Llama-2-7b-hf --out runs/llama",
        "edgetuner e2e pull --model MODEL --train TRAIN.txt --valid VALID.txt --test TEST.txt",
        "edgetuner e2e pull --restaurant   # no network: the tiny model on this repository's task",
      ],
    },
    { ...FLAGS, out: NEW_OUT_FLAG },
    call,
  );
  const out = await outOf(flags, asked);
  await pull(flags, out);
  console.error(`Next: ${nextCommand("pull.ts", out, call.form)}`);
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
