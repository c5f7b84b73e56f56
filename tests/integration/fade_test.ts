import { Engine } from "@edgetuner/kernels";
import {
  adapterOf,
  fromPeft,
  type HeadModules,
  type HeadWeights,
  joinAdapters,
  loadAdapter,
  loadIntoModules,
  LocalTraining,
  type RunSettings,
  saveAdapter,
  type SequenceSet,
  toPeft,
  TrainingPlan,
} from "@edgetuner/core";
import { checkPruner, PluginError } from "@edgetuner/core/contracts";
import {
  dloraPruner,
  gradientPruner,
  greedyPruner,
  magnitudePruner,
  noPruner,
  oraclePruner,
  randomPruner,
} from "@edgetuner/plugins";
import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { normal } from "../support/kernels.ts";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import {
  BATCH,
  flatten,
  LOSS,
  sideBySide,
  TinyGpt2,
  tinyHeads,
  tinySettings,
  trainLocally,
} from "../support/tiny_model.ts";
import { maskOf, runSession, scriptedPruner } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

/** Nothing pruned, some heads of each layer, all heads of two layers. */
const MASKS = ["0000 0000 0000", "0110 1000 0001", "1111 1111 0011", "0110 0000 1000"].map(maskOf);

/** What a head that fades becomes, beside one that stays. */
function faded({ a, b }: HeadWeights, factor: number): HeadWeights {
  const times = (matrix: Float32Array) => matrix.map((x) => x * Math.fround(factor));
  return b.length === 0 ? { a: times(a), b } : { a, b: times(b) };
}

/** Weights that are drawn. */
function drawn(modules: HeadModules, weights: readonly HeadWeights[][][]): HeadModules {
  const of = (length: number, seed: number) => normal(length, seed);
  modules.load(weights.map((heads, l) =>
    heads.map((targets, h) =>
      targets.map(({ a, b }, k) => {
        const seed = 100 * l + 10 * h + k;
        return { a: of(a.length, seed), b: of(b.length, seed + 1000) };
      })
    )
  ));
  return modules;
}

for (const mode of ["slice", "full", "core"] as const) {
  Deno.test(`${mode} mode: what a pruned head answers with fades by the factor, and nothing else of it changes`, async () => {
    const settings = tinySettings(mode, 3);
    using stays = tinyHeads(engine, settings);
    using fades = tinyHeads(engine, { ...settings, prunedFade: 0.7 });
    const weights = await stays.weights();
    drawn(stays, weights);
    drawn(fades, weights);
    const mask = maskOf("0100 1111 0000");
    const tensors = engine.stats.tensors;
    for (const [step, power] of [1, 2].entries()) {
      await stays.update(step, mask, []);
      await fades.update(step, mask, []);
      const [before, after] = [await stays.state(), await fades.state()];
      assertEquals(after.m, before.m);
      assertEquals(after.v, before.v);
      assertEquals(after.updates, before.updates);
      before.weights.forEach((heads, l) =>
        heads.forEach((targets, h) =>
          targets.forEach((target, k) => {
            let wanted = target;
            if (mask[l * 4 + h] === 1) { for (let i = 0; i < power; i++) wanted = faded(wanted, 0.7); }
            assertEquals(after.weights[l]![h]![k], wanted, `layer ${l}, head ${h}`);
          })
        )
      );
    }
    assertEquals(engine.stats.tensors, tensors, "tensors left behind");
  });
}

Deno.test("a factor of 0 makes a pruned head new, and one of 1 costs no dispatch", async () => {
  const settings = tinySettings("slice", 2);
  using cleared = tinyHeads(engine, { ...settings, prunedFade: 0 });
  drawn(cleared, await cleared.weights());
  const dispatches = async (modules: HeadModules) => {
    const before = engine.stats.dispatches;
    await modules.update(0, maskOf("1111 0111 0000"), []);
    return engine.stats.dispatches - before;
  };
  const fading = await dispatches(cleared);
  for (const { b } of (await cleared.weights())[0]!.flat()) assert(b.every((x) => x === 0));
  using stays = tinyHeads(engine, settings);
  // Two targets in each of two layers; in the first, nothing is updated.
  assertEquals(fading - await dispatches(stays), 5);
});

for (const mode of ["slice", "core"] as const) {
  Deno.test(`${mode} mode: heads fade in a split run as on one machine, bit for bit, for not a byte more`, async () => {
    const fading = { ...tinySettings(mode, 4), prunedFade: 0.6 };
    const run = (settings: RunSettings) =>
      runSession(model, {
        ...{ settings, steps: 4, capacities: [2, 1, 1], shareLoss: true },
        pruner: scriptedPruner(MASKS, ["loraNorm"]),
      });
    const split = await run(fading);
    const local = await trainLocally(model, fading, MASKS);
    assertEquals(split.weights, local.weights);
    assertEquals(split.losses, local.losses);
    const today = await run({ ...fading, prunedFade: 1 });
    assertNotEquals(today.weights, split.weights);
    // The welcome says the factor.
    const steps = ({ traffic }: typeof split) => traffic.filter(({ kind }) => kind !== "welcome");
    assertEquals(steps(split), steps(today));
  });
}

Deno.test("where the settings name no factor the pruner's own holds, in a split run as on one machine", async () => {
  const settings = tinySettings("slice", 4);
  const split = async (settings: RunSettings, prunedFade?: number) => {
    const pruner = { ...scriptedPruner(MASKS), ...(prunedFade !== undefined && { prunedFade }) };
    return (await runSession(model, { settings, steps: 4, capacities: [2, 1, 1], pruner })).weights;
  };
  const [own, stays] = [await split(settings, 0.6), await split(settings)];
  assertNotEquals(own, stays);
  assertEquals(own, await split({ ...settings, prunedFade: 0.6 }));
  assertEquals(stays, await split({ ...settings, prunedFade: 1 }, 0.6), "what is given counts");
  using local = new LocalTraining({
    ...{ engine, base: model.layers, ends: model.ends, settings, capacities: [2, 1, 1] },
    source: (step) => step < 4 ? { batch: BATCH, mode: "train" } : null,
    loss: LOSS,
    pruner: { ...scriptedPruner(MASKS), prunedFade: 0.6 },
  });
  await local.trainer.run();
  const weights = await Promise.all(local.modules.map((modules) => modules.weights()));
  assertEquals(flatten(sideBySide(weights)), own);
});

Deno.test("pruners that choose by importance fade what rests, the others do not", () => {
  const fades = [
    ...[greedyPruner(), gradientPruner(), magnitudePruner(), dloraPruner(), oraclePruner()],
    ...[randomPruner({ share: 0.5 }), noPruner()],
  ].map(({ name, prunedFade = 1 }) => [name, prunedFade]);
  assertEquals(fades, [
    ...["greedy", "gradient", "magnitude", "dlora", "oracle"].map((name) => [name, 0.9]),
    ...["random", "none"].map((name) => [name, 1]),
  ]);
  const bad = { ...noPruner(), prunedFade: 1.5 };
  assertThrows(() => checkPruner(bad), PluginError, "prunedFade must be from 0 to 1: it is 1.5");
});

/** Sequences of a validation. */
const SET: SequenceSet = {
  sequences: Array.from({ length: 5 }, (_, i) => ({
    tokens: Uint32Array.from({ length: 4 + 2 * i }, (_, t) => (7 * i + 3 * t) % 67),
    firstTarget: 1,
  })),
  length: 13,
  padding: 0,
  shortened: 0,
  shortenedPrompts: 0,
  shortenedCompletions: 0,
  droppedTokens: 0,
};

Deno.test("the saved adapter and its form for PEFT give the last validation loss of a run that pruned [slow]", async () => {
  const settings = { ...tinySettings("slice", 4), prunedFade: 0.5 };
  const { layers: base, ends } = model;
  const planned = () => TrainingPlan.create({ set: SET, valid: SET, batch: 2, seed: 1 });
  const source = await planned();
  const pruner = scriptedPruner(MASKS);
  using training = new LocalTraining({ engine, base, ends, settings, source, pruner, capacities: [2, 1, 1] });
  const { losses } = await training.trainer.run();
  assertEquals(losses!.kind, "validation loss");

  /** The validation loss before the first step of a run that begins with an adapter. */
  const lossOf = async (adapter: Awaited<ReturnType<typeof adapterOf>>) => {
    const source = await planned();
    using again = new LocalTraining({
      ...{ engine, base, ends, source },
      settings: { ...settings, lora: adapter.lora, steps: 1 },
    });
    loadIntoModules(adapter, again.modules[0]!);
    await again.trainer.run();
    return source.validations[0]!.loss;
  };
  const adapter = joinAdapters(await Promise.all(training.modules.map((modules) => adapterOf(modules))));
  const root = await Deno.makeTempDir();
  try {
    await saveAdapter(`${root}/heads`, adapter);
    assertEquals(await lossOf(await loadAdapter(`${root}/heads`)), losses!.after, "bit for bit");
  } finally {
    await Deno.remove(root, { recursive: true });
  }
  const { layers, heads, hidden } = base.shape;
  const peft = fromPeft(toPeft(adapter, "gpt2"), "gpt2", { layers, heads, hidden });
  assertClose([await lossOf(peft)], [losses!.after], TOLERANCE.model, "through PEFT");
});
