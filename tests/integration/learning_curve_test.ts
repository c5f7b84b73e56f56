import { LINK_PROFILES, simulate, simulateServerTuner } from "@edgetuner/transport";
import { Engine } from "@edgetuner/kernels";
import { noPruner } from "@edgetuner/plugins";
import { assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import { BATCH, batchOf, LOSS, TinyGpt2, tinySettings } from "../support/tiny_model.ts";

const engine = await Engine.create();
const tiny = new TinyGpt2(engine);
const COMMON = {
  model: { engine, layers: tiny.layers, ends: tiny.ends },
  settings: tinySettings("slice", 6),
  evaluation: [BATCH, batchOf(3)],
  batches: () => BATCH,
  loss: LOSS,
};
const NETWORK = { devices: [{ capacity: 2 }, {}], link: LINK_PROFILES["lan-1g"], pruner: noPruner() };

Deno.test("the evaluation loss in between is the same in a network as on one machine, and costs nothing", async () => {
  const { tensors } = engine.stats;
  const split = await simulate({ ...COMMON, ...NETWORK, evaluateEvery: 2 });
  assertEquals(split.curve.map(({ step }) => step), [0, 2, 4, 6]);
  assertEquals(split.curve[0]!.loss, split.evaluation!.before);
  assertEquals(split.curve.at(-1)!.loss, split.evaluation!.after);
  const local = await simulateServerTuner({ ...COMMON, evaluateEvery: 2 });
  const losses = (curve: typeof local.curve) => curve.map(({ loss }) => loss);
  assertEquals(local.curve.map(({ step }) => step), [0, 2, 4, 6]);
  assertClose(losses(split.curve), losses(local.curve), TOLERANCE.steps, "curve");
  assertEquals(local.steps.map(({ mode }) => mode), Array(6).fill("train"));
  const plain = await simulate({ ...COMMON, ...NETWORK });
  assertEquals(plain.curve, [split.curve[0]!, split.curve[3]!]);
  // That a state follows a step is said in a few bytes.
  assertAlmostEquals(plain.bytesPerStep, split.bytesPerStep, 1e-3 * plain.bytesPerStep);
  assertEquals(engine.stats.tensors, tensors, "nothing is left behind");
  await assertRejects(
    () => simulate({ ...COMMON, ...NETWORK, evaluateEvery: 1.5 }),
    RangeError,
    "evaluateEvery must be an integer of at least 0: current value is 1.5",
  );
});
