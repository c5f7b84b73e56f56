import { assertAlmostEquals, assertEquals, assertNotEquals } from "@std/assert";
import type { SequenceSet } from "../data/sequences.ts";
import type { TokenBatch } from "../model/loss.ts";
import { stepsOfEpochs, TrainingPlan, type TrainingPlanOptions } from "./training_plan.ts";

/** Sequences of 3 to 8 tokens. */
function setOf(count: number): SequenceSet {
  const sequences = Array.from({ length: count }, (_, i) => ({
    tokens: Uint32Array.from({ length: 3 + i % 6 }, (_, t) => 10 * i + t),
    firstTarget: 1,
  }));
  return {
    sequences,
    length: 8,
    padding: 0,
    shortened: 0,
    shortenedPrompts: 0,
    shortenedCompletions: 0,
    droppedTokens: 0,
  };
}

const OPTIONS = { set: setOf(10), valid: setOf(5), batch: 2, seed: 1, validBatches: 2, evalEvery: 2 };

async function begun(): Promise<TrainingPlan> {
  const plan = await TrainingPlan.create(OPTIONS);
  plan.begin({ steps: 5, accumulate: 2 });
  return plan;
}

/** Goes through a plan; `lossOf` gives the loss of each validation. */
function walk(plan: TrainingPlan, start: number, lossOf: (step: number) => number) {
  const seen: string[] = [];
  const best: number[] = [];
  const batches: TokenBatch[] = [];
  for (let step = start;;) {
    const next = plan.next(step);
    if (plan.isBest()) best.push(step);
    if (next === null) return { seen, best, batches };
    seen.push(`${next.mode[0]}${step}`);
    plan.onLoss(step, next.mode, lossOf(step));
    if (next.mode === "train") {
      batches.push(next.batch);
      step++;
    }
  }
}

Deno.test("TrainingPlan validates before, after and every so many steps, and says which was the best", async () => {
  const plan = await begun();
  const losses = [5, 0, 3, 0, 4, 2];
  const { seen, best, batches } = walk(plan, 0, (step) => losses[step]!);
  assertEquals(seen.join(" "), "e0 e0 t0 t1 e2 e2 t2 t3 e4 e4 t4 e5 e5");
  assertEquals(best, [0, 2, 5]);
  assertEquals(plan.validations, [0, 2, 4, 5].map((step) => ({ step, loss: losses[step]! })));
  assertEquals(plan.best, { step: 5, loss: 2 });
  assertEquals(plan.bestBefore(5), { step: 2, loss: 3 });
  assertEquals(plan.bestBefore(0), null);
  assertEquals(batches.map((b) => b.batch), [4, 4, 4, 4, 4], "a step is all its parts");
});

Deno.test("TrainingPlan ends after so many validations without a lower loss, and after so many passes", async () => {
  const planOf = async (more: Partial<TrainingPlanOptions>) => {
    const plan = await TrainingPlan.create({ ...OPTIONS, evalEvery: 1, validBatches: 1, ...more });
    plan.begin({ steps: 9 });
    return plan;
  };
  const seenOf = async (more: Partial<TrainingPlanOptions>, losses: readonly number[]) =>
    walk(await planOf(more), 0, (step) => losses[step]!).seen.join(" ");
  const losses = [5, 4, 4, 3, 3, 3.5, 1, 1, 1, 1];
  assertEquals(await seenOf({ patience: 2 }, losses), "e0 t0 e1 t1 e2 t2 e3 t3 e4 t4 e5");
  assertEquals(await seenOf({ patience: 3 }, losses), await seenOf({}, losses));
  // A loss that is no number is no lower one.
  assertEquals(await seenOf({ patience: 1 }, [5, NaN, 1]), "e0 t0 e1");
  // Ten sequences in steps of two: five steps a pass; the last one is rounded up.
  assertEquals(await seenOf({ epochs: 0.5, evalEvery: 0 }, losses), "e0 t0 t1 t2 e3");
  assertEquals((await seenOf({ epochs: 9, evalEvery: 0 }, losses)).split(" ").at(-1), "e9");
  assertEquals(stepsOfEpochs(0.01, 10, 4), 1);
});

Deno.test("TrainingPlan goes on from a step with the same batches and the same best", async () => {
  const losses = [5, 0, 3, 0, 4, 2];
  const whole = walk(await begun(), 0, (step) => losses[step]!);
  const plan = await begun();
  plan.resume({ step: 2, loss: 3 });
  const rest = walk(plan, 3, (step) => losses[step]!);
  assertEquals(rest.seen.join(" "), "t3 e4 e4 t4 e5 e5");
  assertEquals(rest.batches, whole.batches.slice(3));
  assertEquals(rest.best, [5], "4 is not below the 3 of before");
});

Deno.test("TrainingPlan weighs batches of validation data by the places that count", async () => {
  const plan = await begun();
  const counts: number[] = [];
  for (let i = 0; i < 2; i++) {
    const { batch } = plan.next(0)!;
    counts.push(batch.mask.reduce((a, b) => a + b, 0));
    plan.onLoss(0, "evaluate", i);
  }
  assertNotEquals(counts[0], counts[1]);
  assertAlmostEquals(plan.validations[0]!.loss, counts[1]! / (counts[0]! + counts[1]!), 1e-12);
});

Deno.test("TrainingPlan's fingerprint depends on data, batches, seed and validation, not on how often it validates", async () => {
  const of = async (change: Partial<TrainingPlanOptions>) =>
    (await TrainingPlan.create({ ...OPTIONS, ...change })).fingerprint;
  const first = await of({});
  assertEquals(await of({ evalEvery: 3 }), first);
  for (
    const change of [{ seed: 2 }, { batch: 3 }, { set: setOf(9) }, { valid: setOf(6) }, { smoothing: 0 }, {
      padToMultipleOf: 4,
    }]
  ) {
    assertNotEquals(await of(change), first);
  }
});

Deno.test("TrainingPlan.turn() gives the batches that next() gives, by their numbers; epochs and patience end its own part", async () => {
  const [pushed, asked] = [await begun(), await begun()];
  const { batches } = walk(pushed, 0, () => 1);
  assertEquals(asked.given, null);
  const order = [2, 0, 4, 1, 3, 2];
  for (const position of order) {
    assertEquals(asked.turn({ mode: "train", position, step: 40 + position }), batches[position]!);
    assertEquals(asked.given, position + 1);
  }
  // Two batches of validation data; a step that begins again counts once.
  const validate = (step: number, losses: readonly (readonly [position: number, loss: number])[]) =>
    losses.map(([position, loss]) => {
      const batch = asked.turn({ mode: "evaluate", position, step });
      return batch === null ? null : asked.onLoss(step, "evaluate", loss);
    });
  assertEquals(validate(6, [[0, 3], [0, 4], [1, 4], [1, 4], [2, 0]]), [null, null, 4, 4, null]);
  assertEquals(validate(8, [[0, 2], [1, 2]]), [null, 2]);
  // The run goes on from before it: what came after does not count.
  assertEquals(validate(6, [[0, 5], [1, 5]]), [null, 5]);
  assertEquals(asked.validations, [{ step: 6, loss: 5 }]);
  const few = await TrainingPlan.create({ ...OPTIONS, epochs: 2, patience: 1 });
  few.begin({ steps: 100, accumulate: 2 });
  const trains = (position: number) => few.turn({ mode: "train", position, step: 50 }) !== null;
  assertEquals([0, 4, 5].map(trains), [true, true, false]);
  for (const [step, loss] of [[0, 1], [2, 2]] as const) {
    for (const position of [0, 1]) {
      few.turn({ mode: "evaluate", position, step });
      few.onLoss(step, "evaluate", loss);
    }
  }
  assertEquals(trains(0), false);
});
