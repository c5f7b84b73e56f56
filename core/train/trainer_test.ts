import { Engine } from "@edgetuner/kernels";
import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import {
  BATCH,
  flatten,
  keepAll,
  sideBySide,
  TinyGpt2,
  tinySettings,
  trainLocally,
} from "../../tests/support/tiny_model.ts";
import { type Pruner, type PrunerInput, STATISTICS } from "../contracts/pruner.ts";
import { PluginError } from "../contracts/errors.ts";
import { LocalTraining, type LocalTrainingOptions } from "../session/local_training.ts";
import type { RunState } from "../session/run_state.ts";
import { Trainer, type TrainerEvent } from "./trainer.ts";
import { TrainingPlan } from "./training_plan.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const { layers: base, ends } = model;
const train = (steps: number) => (step: number) =>
  step < steps ? { batch: BATCH, mode: "train" as const, loss: { labelSmoothing: 0.1 } } : null;

function training(steps: number, more: Partial<LocalTrainingOptions> = {}): LocalTraining {
  const settings = tinySettings("slice", steps);
  return new LocalTraining({ engine, base, ends, settings, source: train(steps), ...more });
}

async function weightsOf({ modules }: LocalTraining): Promise<Float32Array> {
  return flatten(sideBySide(await Promise.all(modules.map((m) => m.weights()))));
}

Deno.test("a run of the trainer has the bits of its steps one by one, on any number of virtual devices", async () => {
  const settings = tinySettings("slice", 4);
  const expected = await trainLocally(model, settings, keepAll(4));
  for (const capacities of [[1], [2, 1]]) {
    const losses: (number | null)[] = [];
    using run = training(4, {
      capacities,
      onEvent: (event) => void (event.type === "step" && losses.push(event.loss)),
    });
    const { ending, step, losses: atEnds, lastLoss } = await run.trainer.run();
    assertEquals(losses, [...expected.losses]);
    assertEquals(await weightsOf(run), expected.weights);
    const [before, after] = [expected.losses[0]!, expected.losses[3]!];
    assertEquals([ending, step, lastLoss], ["done", 4, after]);
    assertEquals(atEnds, { kind: "training loss", before, after });
  }
});

Deno.test("a pruner on one machine is told all statistics that it asks for, as behind a network", async () => {
  const inputs: PrunerInput[] = [];
  const pruner: Pruner = {
    name: "curious",
    needs: [...STATISTICS],
    init: () => null,
    decide(input) {
      inputs.push(input);
      const mask = new Uint8Array(12);
      mask[input.step] = 1;
      return [{ mask }, null];
    },
  };
  using run = training(3, { pruner, baseNorm: new Float32Array(12).fill(2), capacities: [1, 1] });
  await run.trainer.run();
  assertEquals(inputs.map(({ step }) => step), [0, 1, 2]);
  const [first, second] = inputs;
  assertEquals([first!.gradientNorm, first!.loraNorm, first!.weightChange], [null, null, null]);
  for (const name of STATISTICS) {
    // There are no links on one machine.
    if (name === "links") assertEquals(second!.links, null);
    else assertEquals(second![name]!.length, name === "embeddingMean" ? 48 : 12, name);
  }
  assertEquals(second!.lastMask![0], 1);
  assertEquals(second!.gradientNorm![0], 0, "of a pruned head");
  assertNotEquals(second!.trueGradientNorm![0], 0, "of a probe, in which no head is pruned");
});

Deno.test("what a pruner does wrong ends the run, and nothing is left on the GPU", async () => {
  const pruner: Pruner = { name: "late", needs: [], init: () => null, decide: () => Promise.reject("no") };
  using run = training(1, { pruner });
  const before = engine.stats.allocatedBytes;
  await assertRejects(() => run.trainer.run(), PluginError, `pruner "late" must decide`);
  await engine.idle();
  assertEquals(engine.stats.allocatedBytes, before);
});

/** Sequences of one length for a plan. */
function setOf(count: number) {
  const sequences = Array.from({ length: count }, (_, i) => ({
    tokens: Uint32Array.from({ length: 6 }, (_, t) => (7 * i + t) % 30),
    firstTarget: 1,
  }));
  const none = { shortened: 0, shortenedPrompts: 0, shortenedCompletions: 0, droppedTokens: 0 };
  return { sequences, length: 6, padding: 0, ...none };
}

Deno.test("validation every N steps and the best heads are the trainer's", async () => {
  const source = await TrainingPlan.create({
    set: setOf(6),
    valid: setOf(3),
    batch: 2,
    seed: 3,
    evalEvery: 2,
  });
  const events: TrainerEvent[] = [];
  const kept: [number, Float32Array][] = [];
  using run = training(5, {
    source,
    onEvent: (event) => void events.push(event),
    onBest: async (step) => void kept.push([step, await weightsOf(run)]),
  });
  const { validations, best, losses } = await run.trainer.run();
  assertEquals(validations.map(({ step }) => step), [0, 2, 4, 5]);
  const told = events.flatMap((e) => e.type === "validation" ? [{ step: e.step, loss: e.loss }] : []);
  assertEquals(told, [...validations]);
  const [before, after] = [validations[0]!.loss, validations.at(-1)!.loss];
  assertEquals(losses, { kind: "validation loss", before, after });
  assert(after < before);
  const lowest = Math.min(...validations.map(({ loss }) => loss));
  assertEquals(best, validations.find(({ loss }) => loss === lowest));
  const bests = events.flatMap((e) => e.type === "validation" && e.isBest && e.step > 0 ? [e.step] : []);
  assertEquals(kept.map(([step]) => step), bests);
  assertEquals(bests.at(-1), best!.step);
  if (best!.step === 5) assertEquals(kept.at(-1)![1], await weightsOf(run));
  assertEquals(events.at(-1), { type: "finished", step: 5 });
});

Deno.test("a run is held before a step, goes on, and is stopped in the middle of one; its state is saved once", async () => {
  const saved: number[] = [];
  let stopAt = Infinity;
  const seen: number[] = [];
  using run = training(100, {
    shouldStop: () => seen.length >= stopAt,
    saving: {
      every: { steps: 2 },
      read: (step) => ({ step }) as RunState,
      write: ({ step }) => void saved.push(step),
    },
    onEvent: (event) => {
      if (event.type === "step") seen.push(event.step);
      if (seen.length === 3) run.trainer.pause();
    },
  });
  const going = run.trainer.run();
  await assertRejects(() => run.trainer.run(), TypeError, "must not be running");
  while (seen.length < 3) await engine.yieldToEventLoop();
  for (let i = 0; i < 20; i++) await engine.yieldToEventLoop();
  assertEquals([seen.length, run.trainer.step], [3, 3], "held");
  stopAt = 5;
  run.trainer.resume();
  const { ending, step } = await going;
  assertEquals([ending, step, saved], ["stopped", 5, [2, 4, 5]]);

  // In the middle: the step's heads stay as they were.
  let asked = 0;
  using other = training(100, { shouldStop: () => ++asked > 4 });
  const start = await weightsOf(other);
  assertEquals((await other.trainer.run()).step, 0);
  assertEquals(await weightsOf(other), start);
  // By a signal, also while held.
  using held = training(100);
  held.trainer.pause();
  const abort = new AbortController();
  const ended = held.trainer.run(abort.signal);
  abort.abort();
  assertEquals((await ended).ending, "stopped");
});

Deno.test("a run that goes on from a step has the bits of one without a break", async () => {
  using whole = training(4);
  await whole.trainer.run();
  using first = training(4, { source: train(2) });
  await first.trainer.run();
  using rest = training(4, { start: 2 });
  rest.modules[0]!.restore(await first.modules[0]!.state());
  await rest.trainer.run();
  assertEquals(await weightsOf(rest), await weightsOf(whole));
});

Deno.test("any step can be a trainer's: saves are announced to others even where nothing is written", async () => {
  const announced: boolean[] = [];
  const trainer = new Trainer<{ readonly mode: "train" | "evaluate" }>({
    next: (step) => Promise.resolve(step < 4 ? { mode: "train" } : null),
    step: (step) => Promise.resolve({ loss: step, statistics: {}, batch: 1, tokens: 1 }),
    saving: { every: { steps: 2 }, announce: (isSaved) => void announced.push(isSaved) },
  });
  assertEquals((await trainer.run()).losses, { kind: "training loss", before: 0, after: 3 });
  assertEquals(announced, [false, true, false, true]);
});
