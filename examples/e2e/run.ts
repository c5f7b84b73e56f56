/**
 * The paper's five steps on E2E data, one program after the other: prepare, train the pruner, fine-tune with an
 * edge server and three devices, generate by beam search, decode and score. Each command is printed before it
 * runs, so that any of them can be run alone.
 *
 * @module
 */

import { pullDataset, pullModel } from "@edgetuner/core";
import { integer, number, readFlags, runProgram, text, toggle, UsageError } from "../_support/flags.ts";
import { duration } from "../_support/progress.ts";

const EXAMPLES = new URL("../", import.meta.url).pathname;

const FLAGS = {
  model: text("DIR", `${EXAMPLES}tiny_gpt2`, "folder of the base model, or OWNER/NAME with --pull"),
  train: text("FILE", `${EXAMPLES}restaurant/train.txt`, "training data, MR||text lines"),
  valid: text("FILE", `${EXAMPLES}restaurant/valid.txt`, "validation data"),
  test: text("FILE", `${EXAMPLES}restaurant/test.txt`, "test data"),
  pull: toggle("download the model, and E2E in place of --train, --valid and --test"),
  "pruner-steps": integer("N", 200, "unpruned steps that the predictor is trained on", { min: 120 }),
  steps: integer("N", 400, "fine-tuning steps", { min: 1 }),
  batch: integer("N", 8, "sequences per step", { min: 1 }),
  length: integer("N", 80, "tokens per sequence", { min: 2 }),
  rate: number("X", 1e-2, "peak learning rate", { min: 0 }),
  mode: text("MODE", "full", "what a head module reads", ["slice", "full"]),
  targets: text("LIST", "q,k,v", "projections that LoRA adapts: some of q, k, v"),
  rank: integer("N", 8, "LoRA rank of each head module", { min: 1, max: 256 }),
  tau: number("X", 0.9, "iHeadPruner: share of a layer's importance to keep", { min: 0, max: 1 }),
  eta: number("X", 0.6, "iHeadPruner: share of pruned heads above which a layer goes whole", {
    min: 0,
    max: 1,
  }),
  beams: integer("N", 10, "beams of the search", { min: 1 }),
  "max-tokens": integer("N", 64, "most tokens of a text", { min: 1 }),
  count: integer("N", 0, "test prompts to generate for; 0 = all", { min: 0 }),
  synonyms: text("WHICH", "npm", "METEOR's synonyms, as evaluate.ts takes them: npm, none, or a folder"),
  out: text("DIR", "runs/e2e", "where everything goes"),
};

/** Runs one of the programs and fails if it does. */
async function step(what: string, program: string, args: readonly string[]): Promise<void> {
  console.log(`\n== ${what}\ndeno run -A examples/${program} ${args.join(" ")}`);
  const started = performance.now();
  const { code } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${EXAMPLES}${program}`, ...args],
    stdin: "null",
  }).spawn().status;
  if (code !== 0) throw new UsageError(`Cannot go on as "${what}" must succeed: it ended with code ${code}`);
  console.log(`(${duration((performance.now() - started) / 1000)})`);
}

async function main(): Promise<void> {
  const flags = readFlags({
    name: "e2e/run.ts",
    about: "Runs the paper's five steps on E2E data; examples/e2e/README.md explains them.",
    examples: [
      "deno task e2e",
      "deno run -A examples/e2e/run.ts --pull --model openai-community/gpt2-medium --length 512 --batch 4 \\\n" +
      "    --mode slice --targets q,v --rate 2e-4 --steps 52600 --tau 0.7 --eta 0.4",
    ],
  }, FLAGS);
  let { model, train, valid, test } = flags;
  if (flags.pull) {
    model = await pullModel(flags.model);
    const e2e = await pullDataset("e2e");
    [train, valid, test] = [`${e2e}/train.txt`, `${e2e}/valid.txt`, `${e2e}/test.txt`];
  }
  const { out } = flags;
  await Deno.mkdir(out, { recursive: true });
  const common = ["--model", model, "--batch", `${flags.batch}`, "--length", `${flags.length}`];
  const lora = ["--mode", flags.mode, "--targets", flags.targets, "--rank", `${flags.rank}`];

  for (const [name, file] of Object.entries({ train, valid, test })) {
    await step(`Prepare: ${name}`, "format_data.ts", [
      ...["--format", "e2e", "--input", file, "--output", `${out}/${name}.jsonl`],
    ]);
  }
  await step("1. Train the pruner", "train_pruner.ts", [
    ...[...common, ...lora, "--data", `${out}/train.jsonl`, "--runs", "1"],
    ...["--steps", `${flags["pruner-steps"]}`, "--rate", `${flags.rate}`],
    ...["--samples", `${out}/samples.bin`, "--out", `${out}/predictor`],
  ]);
  await step("2. Fine-tune with EdgeTuner", "demo.ts", [
    ...[...common, ...lora, "--steps", `${flags.steps}`, "--rate", `${flags.rate}`],
    ...["--data", `${out}/train.jsonl`, "--valid", `${out}/valid.jsonl`, "--test", `${out}/test.jsonl`],
    ...["--pruner", "iheadpruner", "--predictor", `${out}/predictor`],
    ...["--tau", `${flags.tau}`, "--eta", `${flags.eta}`],
    ...["--out", out, "--report", `${out}/finetune.json`],
  ]);
  await step("3. Generate by beam search", "generate.ts", [
    ...["--model", model, "--adapter", `${out}/adapter`, "--data", `${out}/test.jsonl`],
    ...["--beams", `${flags.beams}`, "--length-penalty", "0.8", "--no-repeat-ngram", "4"],
    ...["--max-tokens", `${flags["max-tokens"]}`, "--count", `${flags.count}`, "--first", "0", "--distinct"],
    ...["--predictions", `${out}/beam.jsonl`],
  ]);
  await step("4. Decode", "decode.ts", [
    ...["--data", `${out}/test.jsonl`, "--predictions", `${out}/beam.jsonl`],
    ...["--model", model, "--output", out, ...(flags.count > 0 ? ["--drop-missing"] : [])],
  ]);
  await step("5. Score", "evaluate.ts", [
    ...["--references", `${out}/references.txt`, "--predictions", `${out}/predictions.txt`],
    ...["--synonyms", flags.synonyms, "--report", `${out}/scores.json`, "--pretty", `${out}/samples.html`],
  ]);
  console.log(`\nScores: ${out}/scores.json, texts beside their references: ${out}/samples.html`);
}

if (import.meta.main) await runProgram(main);
