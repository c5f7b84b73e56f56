/**
 * Answers that are far too large are a fault of their device, and honest runs have none.
 */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { EdgeServer, encodeFrame, type FrameKind, type RunSettings } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { randomPruner } from "@edgetuner/plugins";
import { TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { type Fault, runLossy } from "./_lossy.ts";
import { scriptedPruner, serverOptions } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const STEPS = 12;
const settingsOf = (more: Partial<RunSettings> = {}): RunSettings => ({
  ...tinySettings("slice", STEPS),
  ...more,
});

/** From step 10 on, a device says a million times what it has computed. */
function enlarging(which: FrameKind): Fault {
  return ({ direction, frame }) => {
    if (direction !== "sent" || frame.kind !== which || frame.step < 10) return undefined;
    const factor = which === "squaredNorm" ? 1e12 : 1e6;
    const tensors = frame.tensors.map((tensor) => ({
      ...tensor,
      data: Float32Array.from(tensor.data, (x) => factor * x),
    }));
    return encodeFrame({ ...frame, tensors });
  };
}

for (
  const [kind, settings, reason] of [
    ["delta", settingsOf(), /its "delta" of layer \d must be at most 10000 times as large as usual/],
    ["inputGradient", settingsOf({ lora: tinySettings("core", STEPS).lora }), /its "inputGradient" of layer/],
    ["squaredNorm", settingsOf({ clipNorm: 1e9 }), /its norm of gradients must be/],
  ] as const
) {
  Deno.test(`a device whose "${kind}" is far too large is pruned and named, and the others learn what they do without it`, async () => {
    const hostile = await runLossy(model, {
      ...{ settings, steps: STEPS, capacities: [1, 1] },
      faults: { 1: enlarging(kind) },
      comesBack: true,
    });
    assertEquals([hostile.error, hostile.devices[0]!.error], [null, null]);
    const away = hostile.events.flatMap((e) => e.type === "away" ? [e] : []);
    assertEquals(away.map(({ device, step }) => [device.name, step]), [["device 1", 10]]);
    assertMatch(away[0]!.reason, reason);
    // It may not come back.
    assert(hostile.events.some((e) => e.type === "refused"));
    assertEquals(hostile.records.map((r) => r.away), [...Array(10).fill(undefined), [2, 3], [2, 3]]);
    const masks = hostile.records.map(({ mask }) => mask);
    const reference = await runLossy(model, {
      ...{ settings, steps: STEPS, capacities: [1, 1], pruner: scriptedPruner(masks) },
    });
    assertEquals(hostile.records.map((r) => r.loss), reference.records.map((r) => r.loss));
    assertEquals(hostile.states[0], reference.states[0]);
  });
}

for (
  const [name, more] of [
    ["a rate that rises from nearly nothing", {}],
    ["rank space, and clipping that is always at work", {
      lora: tinySettings("core", STEPS).lora,
      clipNorm: 1e-3,
    }],
    ["heads that come and go, and fade", { prunedFade: 0.5 }],
    ["eight bits a number", { codec: "int8" }],
  ] as const
) {
  Deno.test(`an honest run stays far below the limit: ${name}`, async () => {
    const settings = settingsOf(more);
    const { optimizer } = settings;
    const run = (outlierFactor?: number) =>
      runLossy(model, {
        ...{ steps: STEPS, capacities: [1, 1], pruner: randomPruner({ share: 0.5 }) },
        settings: { ...settings, optimizer: { ...optimizer, warmupSteps: STEPS, learningRate: 0.1 } },
        server: { ...(outlierFactor !== undefined && { outlierFactor }) },
      });
    const strict = await run(100);
    assertEquals(strict.events.filter((e) => e.type === "away"), []);
    // What is compared changes nothing.
    if (Object.keys(more).length > 0) return;
    const without = await run(Infinity);
    assertEquals([strict.states, strict.records.map((r) => r.loss)], [
      without.states,
      without.records.map((r) => r.loss),
    ]);
  });
}

Deno.test("a limit that would lose everyone is refused", () => {
  const options = serverOptions(model, settingsOf(), { outlierFactor: 0.5 });
  assertThrows(() => new EdgeServer(options), RangeError, "outlierFactor must be above 1");
});
