/**
 * Parts of the comparison in which something is learnt: tuning, before and after; the split; exports.
 *
 * @module
 */

import {
  type Adapter,
  adapterOf,
  defaultRunSettings,
  encodeChat,
  exactRank,
  familyName,
  fittingSettingsOf,
  loadHeads,
  LocalTraining,
  modelShape,
  saveGgufLora,
  savePeft,
  type SequenceSet,
  shuffledBatches,
  toPeft,
  TrainingPlan,
} from "@edgetuner/core";
import { noPruner } from "@edgetuner/plugins";
import { LINK_PROFILES, simulate, splitLogits } from "@edgetuner/transport";
import { assetPath } from "../../cli/process/places.ts";
import { loadTrainingSet } from "../../cli/shared/training_data.ts";
import type { Peers } from "./peers.ts";
import type { Subject } from "./subject.ts";
import { apartText, differenceOf, NOT_COMPARED, type Row, sameTop } from "./table.ts";

/** Questions that are answered before and after. */
const QUESTIONS = ["How do I fall asleep at night?", "What is the capital of France?"];
/** Sequences of a step. */
const BATCH = 2;
/** Most tokens of an answer. */
const ANSWER = 32;

/** What is learnt, and for how long. */
export interface Task {
  readonly name: string;
  readonly data: string;
  readonly valid: string;
  readonly steps: number;
  /** Tokens of a sequence. */
  readonly length: number;
  /** Batches of validation data; 0 for all. */
  readonly validBatches: number;
}

/** What came of it. */
export interface Learnt {
  readonly rows: readonly Row[];
  readonly adapter: Adapter;
}

async function setOf({ path, tokenizer }: Subject, file: string, length: number): Promise<SequenceSet> {
  return await loadTrainingSet(file, {
    ...{ model: path, encoder: tokenizer, length, "skip-bad": false, "train-on-prompt": false },
  });
}

/** Tokens of a question, as a chat model is asked it. */
function prompt({ template, tokenizer }: Subject, content: string): number[] {
  const messages = [{ role: "user", content }];
  return encodeChat(tokenizer, template.render({ messages }, { addGenerationPrompt: true }));
}

/** Tunes with the settings that fit the model. */
export async function tune(subject: Subject, task: Task): Promise<Learnt> {
  const { engine, base, ends, model, tokenizer } = subject;
  const [set, valid] = [
    await setOf(subject, task.data, task.length),
    await setOf(subject, task.valid, task.length),
  ];
  const { labelSmoothing: smoothing } = fittingSettingsOf(model.config, { steps: task.steps });
  const { validBatches, steps } = task;
  const source = await TrainingPlan.create({
    ...{ set, valid, batch: BATCH, seed: 1, validBatches, smoothing, padToMultipleOf: 8 },
  });
  const settings = defaultRunSettings(steps, model.config);
  using training = new LocalTraining({ engine, base, ends, settings, source });
  const started = performance.now();
  const { losses } = await training.trainer.run();
  const minutes = (performance.now() - started) / 60_000;
  const rows: Row[] = [{
    what: `${task.name}: validation loss, ${steps} steps of ${BATCH} sequences`,
    ours: `${losses!.before.toFixed(3)} before, ${losses!.after.toFixed(3)} after`,
    theirs: "",
    apart: `${minutes.toFixed(1)} minutes`,
  }];
  for (const question of task.data.endsWith(".jsonl") ? QUESTIONS : []) {
    const asked = prompt(subject, question);
    const answer = async (heads: typeof training.heads | null) =>
      tokenizer.decode(await subject.greedy(asked, ANSWER, heads)).trim();
    rows.push({
      what: `"${question}" before and after`,
      ours: `${await answer(training.heads)}`,
      theirs: `the base: ${await answer(null)}`,
      apart: "",
    });
  }
  return { rows, adapter: await adapterOf(training.modules[0]!, model.fingerprint) };
}

/** The same steps by an edge server and three devices, and on one machine. */
export async function splitRows(subject: Subject, adapter: Adapter): Promise<Row[]> {
  const { engine, base, ends, model } = subject;
  const steps = 3;
  const settings = defaultRunSettings(steps, model.config);
  const set = await setOf(subject, assetPath("lighthouse/train.jsonl"), 80);
  const batches = () => {
    const stream = shuffledBatches(set, { batch: BATCH, seed: 1 });
    return () => stream.next();
  };
  const loss = { labelSmoothing: 0 };
  const split = await simulate({
    ...{ model: { engine, layers: base, ends }, settings, batches: batches(), loss },
    ...{ pruner: noPruner(), devices: 3, link: LINK_PROFILES["lan-1g"]! },
  });
  if (split.error !== null) throw split.error;
  const next = batches();
  const here: number[] = [];
  using training = new LocalTraining({
    ...{ engine, base, ends, settings, loss },
    source: (step) => step < steps ? { batch: next(), mode: "train" } : null,
    onEvent: (event) => {
      if (event.type === "step" && event.loss !== null) here.push(event.loss);
    },
  });
  await training.trainer.run();
  const apart = Math.max(...here.map((value, i) => Math.abs(value - split.steps[i]!.loss!)));
  const tokens = prompt(subject, QUESTIONS[1]!);
  const [through] = await splitLogits({ engine, layers: base, ends, adapter, devices: 3, samples: [tokens] });
  using heads = loadHeads(engine, adapter);
  const whole = await subject.logits(tokens, heads);
  return [{
    what: `losses of ${steps} steps, split over 3 devices`,
    ours: split.steps.map(({ loss }) => loss!.toFixed(4)).join(", "),
    theirs: `one machine: ${here.map((value) => value.toFixed(4)).join(", ")}`,
    apart: `${apart.toExponential(1)} at most`,
  }, {
    what: `logits after ${tokens.length} tokens, through 3 devices`,
    ours: `${whole.length} logits`,
    theirs: "one machine",
    apart: apartText(differenceOf(through!, whole)),
  }];
}

/** The adapter in PEFT and in llama.cpp. */
export async function exportRows(
  subject: Subject,
  peers: Peers,
  { adapter, folder }: { readonly adapter: Adapter; readonly folder: string },
): Promise<Row[]> {
  const { engine, model, tokenizer } = subject;
  const [family, shape] = [familyName(model.config), modelShape(model.config)];
  const { peft } = await exactRank(toPeft(adapter, family, shape.kvHeads));
  await savePeft(`${folder}/peft`, peft);
  await saveGgufLora(`${folder}/adapter.gguf`, peft, family, shape);
  using heads = loadHeads(engine, adapter);
  const tokens = prompt(subject, QUESTIONS[1]!);
  const ours = await subject.logits(tokens, heads);
  const effect = differenceOf(ours, await subject.logits(tokens));
  const gguf = { model: "float32", adapter: `${folder}/adapter.gguf` } as const;
  const row = (who: string, theirs: Float32Array | null): Row => ({
    what: `logits with the exported adapter, rank ${peft.config.r}`,
    ours: `changes the base's by ${effect.largest.toFixed(1)} at most`,
    theirs: theirs === null ? `${who}: ${NOT_COMPARED}` : who,
    apart: theirs === null
      ? ""
      : `${apartText(differenceOf(ours, theirs))}; most likely token: ${
        sameTop(ours, theirs, subject.ends.shape.vocabulary)
      }`,
  });
  const rows = [
    row("PEFT", await peers.transformersLogits(tokens, `${folder}/peft`)),
    row("llama.cpp, float32 weights", await peers.llamaLogits(tokens, gguf)),
  ];
  const prompts = QUESTIONS.map((question) => prompt(subject, question));
  const { model: which, adapter: file } = gguf;
  const answer = await peers.llama({ prompts, maxTokens: ANSWER, adapter: file }, which);
  for (const [i, asked] of prompts.entries()) {
    const mine = await subject.greedy(asked, ANSWER, heads);
    const other = answer?.greedy[i];
    const differs = mine.findIndex((id, t) => id !== other?.[t]);
    const same = differs < 0 ? mine.length : differs;
    rows.push({
      what: `greedy answer to "${QUESTIONS[i]}"`,
      ours: tokenizer.decode(mine).trim(),
      theirs: other === undefined
        ? NOT_COMPARED
        : `llama.cpp with the GGUF adapter: ${tokenizer.decode(other).trim()}`,
      apart: other === undefined ? "" : `the first ${same} of ${mine.length} tokens are the same`,
    });
  }
  return rows;
}
