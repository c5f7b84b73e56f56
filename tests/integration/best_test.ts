import { Engine } from "@edgetuner/kernels";
import { decodeFrame, type HeadWeights } from "@edgetuner/core";
import { greedyPruner } from "@edgetuner/plugins";
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { flatten, sideBySide, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { runSession, type SessionOptions } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const STEPS = 4;
const MODES = ["train", "evaluate", "train", "train", "evaluate", "train", "evaluate"] as const;

/** Runs with validations after steps 1, 3 and 4, and says which was the best so far. */
async function run(bestAfter: readonly number[], options: Partial<SessionOptions> = {}) {
  const saved: { device: number; step: number; weights: HeadWeights[][][] }[] = [];
  let calls = 0;
  const session = await runSession(model, {
    settings: tinySettings("slice", STEPS),
    steps: STEPS,
    capacities: [2, 1, 1],
    pruner: greedyPruner({ warmupSteps: 1 }),
    modes: MODES,
    // Asked after each batch was taken: true right after a validation, before what follows it.
    isBest: (step) => MODES[calls++ - 1] === "evaluate" && bestAfter.includes(step),
    onBest: async (device, step, modules) => {
      saved.push({ device, step, weights: await modules.weights() });
    },
    ...options,
  });
  return { session, saved };
}

Deno.test("all devices keep the heads of the best validation, as they were then, in the run and at its end [slow]", async () => {
  const tensors = engine.stats.tensors;
  const { session, saved } = await run([1, 4], {
    settings: { ...tinySettings("slice", STEPS), accumulate: 2 },
  });
  assertEquals(saved.map(({ device, step }) => `${device} ${step}`).sort(), [
    "0 1",
    "0 4",
    "1 1",
    "1 4",
    "2 1",
    "2 4",
  ]);
  const of = (step: number) =>
    flatten(sideBySide(
      saved.filter((s) => s.step === step).sort((a, b) => a.device - b.device).map((s) => s.weights),
    ));
  assertEquals(of(4), session.weights, "the best are the last");
  // A run of one step ends with the heads that were the best after one step.
  const short = await runSession(model, {
    settings: { ...tinySettings("slice", STEPS), accumulate: 2 },
    steps: 1,
    capacities: [2, 1, 1],
    pruner: greedyPruner({ warmupSteps: 1 }),
  });
  assertEquals(of(1), short.weights);
  assertNotEquals(of(1), session.weights);
  assertEquals(engine.stats.tensors, tensors, "tensors left behind");
});

Deno.test("what is best changes nothing of the run, costs no frame and no tensor bytes, and says one bit", async () => {
  const [with_, without] = [await run([1, 3]), await run([])];
  assertEquals(with_.session.weights, without.session.weights);
  assertEquals(without.saved, []);
  const counted = ({ session }: typeof with_) =>
    session.traffic.map(({ kind, direction, frames, tensorBytes }) => [kind, direction, frames, tensorBytes]);
  assertEquals(counted(with_), counted(without));
});

Deno.test("a run that is stopped right after a validation does not take older heads for the best", async () => {
  const { saved } = await run([1, 3], {
    onEvent: (event, server) => {
      if (event.type === "step" && event.record.step === 1 && event.record.mode === "train") server.stop();
    },
  });
  assertEquals(saved.map(({ step }) => step), [1, 1, 1]);
});

Deno.test("the word of the best heads travels with the next batch", async () => {
  const seen: string[] = [];
  await run([1], {
    wrap: (channel) => ({
      peer: channel.peer,
      closed: channel.closed,
      send(bytes, options) {
        const frame = decodeFrame(bytes);
        if ("best" in frame.meta && frame.meta.best === true) seen.push(`${frame.kind} ${frame.step}`);
        return channel.send(bytes, options);
      },
      receive: (options) => channel.receive(options),
      close: (reason) => channel.close(reason),
      [Symbol.asyncDispose]: () => channel.close(),
    }),
  });
  assertEquals(seen, ["embedding 1"]);
  assert(MODES[2] === "train");
});
