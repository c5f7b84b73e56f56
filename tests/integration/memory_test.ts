import { Engine } from "@edgetuner/kernels";
import { LocalData, LocalHeads, runStep } from "@edgetuner/core";
import { assert, assertEquals } from "@std/assert";
import { BATCH, LOSS, TinyGpt2, tinyHeads, tinySettings } from "../support/tiny_model.ts";
import { maskOf, runSession, scriptedPruner } from "./_session.ts";

const engine = await Engine.create();

/** Five masks in turn: from step 5 on nothing is new. */
const MASKS = [
  maskOf("0000 0000 0000"),
  maskOf("0100 1111 0011"),
  maskOf("1111 1111 1111"),
  maskOf("1010 0001 1100"),
  maskOf("1100 0000 0110"),
];

function memory() {
  const { tensors, liveBytes, allocatedBytes, allocatedCount, liveCount } = engine.stats;
  return { tensors, liveBytes, allocatedBytes, allocatedCount, liveCount };
}

/** Bind groups are a cache of what was bound together, emptied when it is full. */
const MOST_BIND_GROUPS = 8192;

for (const mode of ["slice", "full", "core"] as const) {
  Deno.test(`${mode} mode on one machine: memory is the same after step 10 and after step 60 [slow]`, async () => {
    const start = memory();
    {
      using model = new TinyGpt2(engine);
      using heads = new LocalHeads([tinyHeads(engine, tinySettings(mode, 60))], ["gradientNorm"]);
      const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
      let atTen = start;
      for (let step = 0; step < 60; step++) {
        if (step === 10) atTen = memory();
        const batch = await data.next(step);
        await runStep({ engine, base: model.layers, heads, data }, step, batch!, MASKS[step % 5]!);
      }
      assertEquals(memory(), atTen);
      assert(engine.stats.bindGroups <= MOST_BIND_GROUPS);
    }
    assertEquals([engine.stats.tensors, engine.stats.liveBytes], [start.tensors, start.liveBytes]);
  });

  Deno.test(`${mode} mode with devices: memory does not grow from step 10 to step 60, and is given back [slow]`, async () => {
    const start = memory();
    {
      using model = new TinyGpt2(engine);
      const at: ReturnType<typeof memory>[] = [];
      await runSession(model, {
        settings: tinySettings(mode, 60),
        steps: 60,
        capacities: [2, 1, 1],
        pruner: scriptedPruner(MASKS, ["gradientNorm"]),
        shareLoss: true,
        onEvent: (event) => {
          if (event.type === "step") at[event.record.step + 1] = memory();
        },
      });
      // After a step the data device may or may not have its next E on the GPU: the least counts.
      const least = (name: "tensors" | "liveBytes", steps: number[]) =>
        Math.min(...steps.map((s) => at[s]![name]));
      for (const name of ["tensors", "liveBytes"] as const) {
        const [early, late] = [least(name, [5, 10, 15]), least(name, [50, 55, 60])];
        assert(late <= early, `${name}: ${early} at first, ${late} later`);
      }
      // How many devices compute at the same time varies, and with it the size of the pool.
      const [early, late] = [at[10]!.allocatedBytes, at[60]!.allocatedBytes];
      assert(late <= early * 1.25, `allocated bytes: ${early} at first, ${late} later`);
      assert(engine.stats.bindGroups <= MOST_BIND_GROUPS);
    }
    assertEquals([engine.stats.tensors, engine.stats.liveBytes], [start.tensors, start.liveBytes]);
  });
}
