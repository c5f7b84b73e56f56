import { assertEquals, assertNotEquals } from "@std/assert";
import { Engine } from "@edgetuner/kernels";
import {
  LocalTraining,
  maskSumOf,
  type SequenceSet,
  sumLosses,
  type TokenBatch,
  TokenMean,
  TrainingPlan,
} from "@edgetuner/core";
import { noPruner } from "@edgetuner/plugins";
import { LINK_PROFILES, simulate } from "@edgetuner/transport";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import { BATCH, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { runSession } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

/** Sequences of which very different numbers of tokens count. */
const SET: SequenceSet = {
  sequences: Array.from({ length: 5 }, (_, i) => ({
    tokens: Uint32Array.from({ length: 4 + 2 * i }, (_, t) => (7 * i + 3 * t) % 67),
    firstTarget: 1 + (i % 2) * 2,
  })),
  length: 13,
  padding: 0,
  shortened: 0,
  shortenedPrompts: 0,
  shortenedCompletions: 0,
  droppedTokens: 0,
};

Deno.test("the validation loss is one number on the data device, the edge server, one machine and in a simulation [slow]", async () => {
  const settings = tinySettings("full", 1);
  const plan = await TrainingPlan.create({ set: SET, valid: SET, batch: 2, seed: 1, smoothing: 0 });
  plan.begin({ steps: 1 });
  const batches: TokenBatch[] = [];
  for (let i = 0; i < 3; i++) {
    batches.push(plan.next(0)!.batch);
    plan.onLoss(0, "evaluate", 0);
  }
  assertEquals(plan.next(0)!.mode, "train", "all of the file is read, and no more");

  let drawn = 0;
  const session = await runSession(model, {
    settings,
    steps: 0,
    capacities: [1, 1],
    shareLoss: true,
    modes: ["evaluate", "evaluate", "evaluate"],
    batch: () => batches[drawn++]!,
  });
  const onDevice = new TokenMean(), onServer = new TokenMean();
  session.losses.forEach((loss, i) => onDevice.add(loss, maskSumOf(batches[i]!)));
  for (const { loss, counted } of session.records) onServer.add(loss!, counted!);
  assertEquals(onServer.value, onDevice.value);
  assertNotEquals(
    onServer.value,
    session.losses.reduce((a, b) => a + b) / 3,
    "batches of which other numbers of tokens count have other weights",
  );

  const source = await TrainingPlan.create({ set: SET, valid: SET, batch: 2, seed: 1 });
  const { layers: base, ends } = model;
  using training = new LocalTraining({ engine, base, ends, settings, source });
  await training.trainer.run();
  const { evaluation } = await simulate({
    model: { engine, layers: base, ends },
    settings,
    devices: 1,
    pruner: noPruner(),
    link: LINK_PROFILES["wifi-5"],
    batches: () => BATCH,
    evaluation: batches,
  });
  const alone = source.validations[0]!.loss;
  assertClose([onServer.value, evaluation!.before], [alone, alone], TOLERANCE.model, "validation loss");
});

Deno.test("a mean by tokens is that of all tokens together", () => {
  const mean = new TokenMean();
  assertEquals([mean.value, mean.batches], [NaN, 0]);
  mean.add(1, 3);
  mean.add(5, 1);
  assertEquals([mean.value, mean.batches], [2, 2]);
  assertEquals(sumLosses([Float32Array.of(0.75), Float32Array.of(1.25)]), mean.value);
});
