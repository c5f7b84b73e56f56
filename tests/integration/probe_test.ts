import { Engine } from "@edgetuner/kernels";
import {
  checkRunSettings,
  type FrameKind,
  LocalData,
  LocalHeads,
  Peer,
  probeStep,
  ProtocolError,
  type Pruner,
  type PrunerInput,
  runStep,
  runUserDevice,
  stepTraffic,
} from "@edgetuner/core";
import { dloraPruner, oraclePruner } from "@edgetuner/plugins";
import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import {
  BATCH,
  flatten,
  keepAll,
  LOSS,
  TinyGpt2,
  tinyHeads,
  tinySettings,
  trainLocally,
} from "../support/tiny_model.ts";
import {
  dataSide,
  expectedBytesByKind,
  maskOf,
  openLink,
  type Passed,
  runSession,
  scriptedPruner,
  tensorBytesByKind,
} from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const STEPS = 4;

/** Applies masks in turn and writes down what the engine passes in. */
function listening(masks: readonly Uint8Array[], needs: Pruner["needs"]): [Pruner, PrunerInput[]] {
  const inputs: PrunerInput[] = [];
  const scripted = scriptedPruner(masks, needs);
  return [{
    ...scripted,
    decide(input, state, context) {
      inputs.push(structuredClone(input));
      return scripted.decide(input, state, context);
    },
  }, inputs];
}

const MASKS = [
  maskOf("0000 0000 0000"),
  maskOf("0110 1111 0001"),
  maskOf("1111 1111 1111"),
  maskOf("0000 0000 0000"),
];

for (const mode of ["slice", "full", "core"] as const) {
  Deno.test(`${mode} mode: a local probe gives G of the unpruned step and leaves weights, moments and counts [slow]`, async () => {
    const settings = tinySettings(mode, STEPS);
    using heads = new LocalHeads(
      [{ first: 0, count: 3 }, { first: 3, count: 1 }].map((range) => tinyHeads(engine, settings, range)),
      ["gradientNorm"],
    );
    const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
    const context = { engine, base: model.layers, heads, data };
    const tensors: number[] = [];
    for (const [step, mask] of MASKS.entries()) {
      const batch = (await data.next(step))!;
      const g = await probeStep(context, step, batch);
      const { statistics } = await runStep(context, step, batch, mask);
      if (mask.every((z) => z === 0)) assertEquals(g, statistics.gradientNorm!, `step ${step}`);
      assert(g.every((x) => x > 0), "nothing is pruned in a probe");
      tensors.push(engine.stats.tensors);
    }
    assertEquals(tensors[3], tensors[2], "nothing is left over");
    // A moment or a count that had changed would show in the weights after the next update.
    const without = await trainLocally(model, settings, MASKS, [3, 1]);
    const weights = await Promise.all(heads.devices.map((d) => d.weights()));
    const joined = weights[0]!.map((layer, l) => [...layer, ...weights[1]![l]!]);
    assertEquals(flatten(joined), without.weights);
  });

  for (const transport of ["in-process", "websocket"] as const) {
    Deno.test(`${mode} mode over ${transport}: a probe gives G of the unpruned step and changes nothing else [slow]`, async () => {
      const options = {
        settings: tinySettings(mode, STEPS),
        steps: STEPS,
        capacities: [2, 1, 1],
        transport,
        shareLoss: true,
      };
      const [pruner, inputs] = listening(MASKS, ["trueGradientNorm", "gradientNorm"]);
      const told: number[] = [];
      const probed = await runSession(model, { ...options, pruner, onStep: (step) => void told.push(step) });
      assertEquals(told, [0, 1, 2, 3].flatMap((step) => [step, step, step]), "a probe is no step");
      const plain = await runSession(model, {
        ...options,
        transport: "in-process",
        pruner: scriptedPruner(MASKS),
      });
      assertEquals(probed.losses, plain.losses);
      assertEquals(probed.weights, plain.weights);
      assertEquals(inputs.length, STEPS);
      assertEquals(inputs[0]!.trueGradientNorm, inputs[1]!.gradientNorm, "step 0 was not pruned");
      for (const { trueGradientNorm } of inputs) assert(trueGradientNorm!.every((x) => x > 0));
    });
  }
}

Deno.test("a probe runs in micro-batches like its step", async () => {
  const options = {
    settings: { ...tinySettings("full", STEPS), microBatches: 2 },
    steps: STEPS,
    capacities: [2, 1, 1],
  };
  const [pruner, inputs] = listening(MASKS, ["trueGradientNorm", "gradientNorm"]);
  const probed = await runSession(model, { ...options, pruner });
  const plain = await runSession(model, { ...options, pruner: scriptedPruner(MASKS) });
  assertEquals(probed.losses, plain.losses);
  assertEquals(probed.weights, plain.weights);
  assertEquals(inputs[0]!.trueGradientNorm, inputs[1]!.gradientNorm, "step 0 was not pruned");
});

Deno.test("a probe's traffic is that of an unpruned step without E, told apart from the step's own", async () => {
  const steps = 3;
  const settings = tinySettings("slice", steps);
  const passed: Passed[] = [];
  const run = await runSession(model, {
    settings,
    steps,
    capacities: [2, 1, 1],
    pruner: oraclePruner({ keep: 0.5 }),
    shareLoss: true,
    onFrame: (frame) => void passed.push(frame),
  });
  assertEquals(run.records.map((r) => r.mask.reduce((n, z) => n + z, 0)), [6, 6, 6]);
  const expected = expectedBytesByKind(run.records, settings, run.counts, 0);
  const probe = stepTraffic({
    layers: 3,
    heads: 4,
    hidden: 48,
    tokens: 26,
    targets: 2,
    rank: 4,
    mode: "slice",
    headsPerDevice: run.counts,
    statistics: 1,
    mask: maskOf("0000 0000 0000"),
  });
  probe.delete("embedding");
  for (const [kind, bytes] of probe) expected.set(kind, (expected.get(kind) ?? 0) + steps * bytes);
  const sorted = (map: Map<FrameKind, number>) => [...map].sort(([a], [b]) => a.localeCompare(b));
  assertEquals(sorted(tensorBytesByKind(run.traffic)), sorted(expected));
  // Frame bytes: all that is not a handshake or the end belongs to a step or to its probe.
  const other = ["hello", "welcome", "end", "finished"];
  const frames = run.traffic.filter((e) => !other.includes(e.kind)).reduce((sum, e) => sum + e.frameBytes, 0);
  const told = run.records.reduce((sum, r) => sum + r.bytes + r.probeBytes!, 0);
  // The first E may have come before its step was looked at.
  assert(told <= frames && told > 0.9 * frames, `${told} of ${frames} bytes`);
  for (const { bytes, probeBytes } of run.records) assert(probeBytes! > bytes, "half the heads are pruned");
  const losses = passed.filter(({ frame }) => frame.kind === "loss").length;
  assertEquals(losses, steps, "a probe reports no loss");
  assertEquals(run.losses.length, steps);
});

Deno.test("a data device answers one probe of a training step, and none in evaluation", async () => {
  const hidden = { dtype: "f32", shape: [26, 48], data: new Float32Array(26 * 48) } as const;
  for (
    const [mode, answers, why] of [
      ["train", 1, "the probe was answered"],
      ["evaluate", 0, "only training is probed"],
    ] as const
  ) {
    await using link = openLink("in-process");
    const device = runUserDevice({
      engine,
      channel: await link.transport.connect(),
      name: "data",
      capacity: 0,
      data: dataSide(model, 1, { modes: [mode] }),
    });
    await using peer = new Peer((await link.listener.accept())!);
    await peer.receive("hello");
    const shape = { layers: 3, heads: 4, hidden: 48 };
    const settings = checkRunSettings(tinySettings("slice", 1));
    await peer.send("welcome", {
      meta: { run: "r", settings, model: shape, range: null, statistics: [] },
    });
    peer.run = "r";
    await peer.receive("embedding");
    for (let i = 0; i <= answers; i++) {
      await peer.send("hidden", { meta: { probe: true }, tensors: [hidden] });
    }
    for (let i = 0; i < answers; i++) await peer.receive("hiddenGradient", { step: 0, shapes: [[26, 48]] });
    const { error } = await device;
    assertInstanceOf(error, ProtocolError);
    assert(error.message.includes(`micro-batch 0 of a probe in step 0: ${why}`), error.message);
  }
});

Deno.test("a data device takes each micro-batch once, and a probe's only as a whole before them", async () => {
  const hidden = (microBatch: number, probe = false, rows = 13) => ({
    microBatch,
    meta: probe ? { probe } : {},
    tensors: [{ dtype: "f32" as const, shape: [rows, 48], data: new Float32Array(rows * 48) }],
  });
  const faults = [
    ["unknown", [hidden(2)], "Unexpected micro-batch 2 in step 0: there are 2"],
    ["twice", [hidden(1), hidden(1)], "Unexpected micro-batch 1 in step 0: it was answered"],
    [
      "half a probe",
      [hidden(1, true), hidden(0)],
      "Unexpected micro-batch 0 in step 0: its probe is not complete",
    ],
    [
      "a late probe",
      [hidden(1), hidden(0, true)],
      "Unexpected micro-batch 0 of a probe in step 0: the step has begun",
    ],
    ["rows of the whole", [hidden(0, false, 26)], "[13,48]"],
  ] as const;
  for (const [what, frames, message] of faults) {
    const before = engine.stats.tensors;
    await using link = openLink("in-process");
    const device = runUserDevice({
      engine,
      channel: await link.transport.connect(),
      name: "data",
      capacity: 0,
      data: dataSide(model, 1),
    });
    await using peer = new Peer((await link.listener.accept())!);
    await peer.receive("hello");
    const settings = checkRunSettings({ ...tinySettings("slice", 1), microBatches: 2 });
    await peer.send("welcome", {
      meta: { run: "r", settings, model: { layers: 3, heads: 4, hidden: 48 }, range: null, statistics: [] },
    });
    peer.run = "r";
    await peer.receive("embedding");
    for (const frame of frames) await peer.send("hidden", frame);
    const { error } = await device;
    assertInstanceOf(error, ProtocolError, what);
    assert(error.message.includes(message), `${what}: ${error.message}`);
    assertEquals(engine.stats.tensors, before, `${what}: tensors left behind`);
  }
});

Deno.test("evaluation is not probed, and a pruner that needs no probe gets none", async () => {
  const settings = tinySettings("slice", 1);
  const evaluated = await runSession(model, {
    settings,
    steps: 1,
    capacities: [1],
    modes: ["evaluate"],
    pruner: oraclePruner(),
  });
  const plain = await runSession(model, { settings, steps: 1, capacities: [1] });
  for (const { records, traffic } of [evaluated, plain]) {
    assertEquals(records[0]!.probeBytes, undefined);
    assertEquals(traffic.find((e) => e.kind === "hidden")!.frames, 1);
  }
});

Deno.test("the oracle keeps the heads whose gradients are largest in this very step", async () => {
  const settings = tinySettings("slice", 2);
  const run = await runSession(model, {
    settings,
    steps: 2,
    capacities: [3, 1],
    pruner: oraclePruner({ keep: 0.25 }),
  });
  const { statistics } = await trainLocally(model, settings, keepAll(1), [3, 1], ["gradientNorm"]);
  const order = [...statistics.gradientNorm!.keys()]
    .sort((a, b) => statistics.gradientNorm![b]! - statistics.gradientNorm![a]!);
  const expected = new Uint8Array(12).fill(1);
  for (const i of order.slice(0, 3)) expected[i] = 0;
  assertEquals(run.records[0]!.mask, expected);
  assertEquals(run.records[0]!.scores, statistics.gradientNorm!);
});

Deno.test("DLoRA: a killed head neither computes nor communicates, and its statistic is one map a step", async () => {
  const steps = 8;
  const settings = { ...tinySettings("slice", steps), prunedFade: 1 };
  const run = await runSession(model, {
    settings,
    steps,
    capacities: [2, 1, 1],
    pruner: dloraPruner({ warmupSteps: 2, period: 2, activeFraction: 0.25, reviveFraction: 0.2 }),
  });
  const kept = run.records.map((r) => r.kept.reduce((a, b) => a + b, 0));
  assertEquals(kept, [12, 12, 3, 3, 3, 3, 3, 3]);
  assert(String(run.records[7]!.mask) !== String(run.records[2]!.mask), "some were revived");
  assertEquals(
    [...tensorBytesByKind(run.traffic)].sort(),
    [...expectedBytesByKind(run.records, settings, run.counts, 1)].sort(),
  );
  const local = await trainLocally(model, settings, run.records.map((r) => r.mask));
  assertEquals(run.losses, local.losses);
  assertEquals(run.weights, local.weights);
});
