import { assertEquals } from "@std/assert";
import type { RunSettings } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { batchOf, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { type OwnersOptions, runOwners, type TestOwner, turnsOf } from "./_owners.ts";
import { runSession } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

const settingsOf = (steps: number, more: Partial<RunSettings> = {}): RunSettings => ({
  ...tinySettings("slice", steps),
  ...more,
});

/** Batches of two owners: of different sizes. */
const DATA: Readonly<Record<string, (position: number) => ReturnType<typeof batchOf>>> = {
  anna: (position) => batchOf(2 + position % 2),
  ben: (position) => batchOf(3 + position % 3),
};
const owner = (name: string, more: Partial<TestOwner> = {}): TestOwner => ({
  name,
  train: DATA[name]!,
  ...more,
});

Deno.test("two owners with half of the data each give the run of one with the interleaved data, bit for bit", async () => {
  const before = engine.stats.tensors;
  for (
    const [what, capacities, more] of [
      ["one device", [1], {}],
      ["two devices, clipping", [1, 1], { clipNorm: 0.5 }],
      ["three devices, micro-batches and accumulation", [2, 1, 1], { microBatches: 2, accumulate: 2 }],
      ["two devices, a codec", [1, 1], { codec: "int8" }],
    ] as const
  ) {
    const settings = settingsOf(6, more);
    const options: OwnersOptions = { settings, owners: [owner("anna"), owner("ben")], capacities };
    const shared = await runOwners(model, options);
    assertEquals([shared.error, shared.devices.map((d) => d.error)], [
      null,
      shared.devices.map(() => null),
    ]);
    const turns = turnsOf(shared.records);
    // Equal shares: one after the other.
    assertEquals(turns.filter((name) => name === "anna").length, 3, what);
    assertEquals(new Set([turns[0], turns[1]]).size, 2, what);
    const single = await runSession(model, {
      ...{ settings, steps: 6, capacities, dataApart: true, shareLoss: true },
      batch: (step) =>
        DATA[turns[step]!]!(turns.slice(0, step).filter((name) => name === turns[step]).length),
    });
    assertEquals(shared.records.map((r) => r.loss), [...single.losses], what);
    assertEquals(shared.states, single.states, what);
  }
  assertEquals(engine.stats.tensors, before);
});
