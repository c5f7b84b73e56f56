import { Engine } from "@edgetuner/kernels";
import { assertEquals, assertRejects } from "@std/assert";
import { BATCH, LOSS, TinyGpt2, tinyHeads, tinySettings } from "../../tests/support/tiny_model.ts";
import { LocalHeads } from "../lora/local_heads.ts";
import { LocalData } from "./local_data.ts";
import { runStep } from "./step.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

Deno.test("runStep() disposes everything it made, in training and evaluation, pruned or not [slow]", async () => {
  using heads = new LocalHeads([tinyHeads(engine, tinySettings("slice", 10))], ["gradientNorm"]);
  let mode: "train" | "evaluate" = "train";
  const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode }));
  const context = { engine, base: model.layers, heads, data };
  const masks = [
    new Uint8Array(12),
    new Uint8Array(12).fill(1),
    Uint8Array.of(1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0),
  ];
  const once = async (mask: Uint8Array) => await runStep(context, 0, (await data.next(0))!, mask);
  for (const mask of masks) await once(mask); // head lists stay
  const before = [engine.stats.tensors, engine.stats.liveBytes];
  for (mode of ["train", "evaluate"] as const) {
    for (const mask of masks) {
      const { statistics } = await once(mask);
      assertEquals(Object.keys(statistics), mode === "evaluate" ? [] : ["gradientNorm"]);
    }
  }
  assertEquals([engine.stats.tensors, engine.stats.liveBytes], before);
});

Deno.test("runStep() disposes everything when a port fails", async () => {
  using heads = new LocalHeads([tinyHeads(engine, tinySettings("slice", 10))]);
  const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
  const mask = new Uint8Array(12);
  await runStep({ engine, base: model.layers, heads, data }, 0, (await data.next(0))!, mask);
  const before = engine.stats.tensors;
  const broken = { next: () => data.next(0), loss: () => Promise.reject(new Error("no labels")) };
  const batch = (await data.next(0))!;
  await assertRejects(
    () => runStep({ engine, base: model.layers, heads, data: broken }, 0, batch, mask),
    Error,
    "no labels",
  );
  // What the forward pass keeps for the backward pass is the head modules' own, until the next one.
  await runStep({ engine, base: model.layers, heads, data }, 0, (await data.next(0))!, mask);
  assertEquals(engine.stats.tensors, before);
});

Deno.test("LocalData wants a batch before a loss, and passes the end on", async () => {
  using hidden = engine.zeros(26, 48);
  const none = new LocalData(model.ends, LOSS, () => null);
  assertEquals(await none.next(0), null);
  await assertRejects(() => none.loss(0, hidden), TypeError, "batch must come first");
});
