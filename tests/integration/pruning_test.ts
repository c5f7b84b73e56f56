import { Engine } from "@edgetuner/kernels";
import type { HeadModules, HeadWeights } from "@edgetuner/core";
import { assert, assertEquals } from "@std/assert";
import { flatten, keepAll, TinyGpt2, tinyHeads, tinySettings, trainLocally } from "../support/tiny_model.ts";
import { normal } from "../support/kernels.ts";
import { maskOf, type Passed, runSession, scriptedPruner } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

const KEEP = maskOf("0000 0000 0000");

/** Frames of one step, "device direction kind layer" each, without the data device's. */
function framesOf(passed: readonly Passed[], step: number): string[] {
  const heads = ["mask", "input", "delta", "deltaGradient", "inputGradient", "statistics"];
  return passed.filter(({ frame }) => heads.includes(frame.kind) && frame.step === step)
    .map(({ device, direction, frame }) => `${device} ${direction} ${frame.kind} ${frame.layer}`);
}

Deno.test("a whole layer that is pruned sends nothing in either direction [slow]", async () => {
  const passed: Passed[] = [];
  await runSession(model, {
    settings: tinySettings("slice", 2),
    steps: 2,
    capacities: [2, 1, 1],
    pruner: scriptedPruner([KEEP, maskOf("0000 1111 0000")]),
    onFrame: (frame) => void passed.push(frame),
  });
  assertEquals(framesOf(passed, 0).filter((f) => /put|delta/i.test(f) && f.endsWith(" 1")).length, 3 * 4);
  assertEquals(framesOf(passed, 1).filter((f) => f.endsWith(" 1")), []);
  assertEquals(framesOf(passed, 1).filter((f) => f.endsWith(" 2")).length, 3 * 4);
});

Deno.test("a device none of whose heads is kept gets its mask and sends its statistics, nothing else", async () => {
  const passed: Passed[] = [];
  const run = await runSession(model, {
    settings: tinySettings("slice", 2),
    steps: 2,
    capacities: [2, 1, 1],
    pruner: scriptedPruner([KEEP, maskOf("0010 0010 0010")], ["gradientNorm"]),
    onFrame: (frame) => void passed.push(frame),
  });
  assertEquals(run.devices[1]!.welcome.range, { first: 2, count: 1 });
  const frames = framesOf(passed, 1).filter((f) => f.startsWith("1 "));
  assertEquals(frames, ["1 received mask 0", "1 sent statistics 0"]);
});

Deno.test("a pruned head is missing from the tensors of its layer, in every direction and all modes", async () => {
  for (const mode of ["slice", "full", "core"] as const) {
    const passed: Passed[] = [];
    await runSession(model, {
      settings: tinySettings(mode, 1),
      steps: 1,
      capacities: [1],
      pruner: scriptedPruner([maskOf("0000 0110 0000")]),
      onFrame: (frame) => void passed.push(frame),
    });
    const shapes = Object.fromEntries(
      passed.filter(({ frame }) => frame.layer === 1).map((
        { frame },
      ) => [frame.kind, frame.tensors[0]!.shape]),
    );
    const x = { slice: [2, 26, 12], full: [26, 48], core: [2, 2, 26, 4] }[mode];
    const delta = [2, 2, 26, mode === "core" ? 4 : 12];
    assertEquals(shapes, { input: x, delta, deltaGradient: delta, inputGradient: x });
  }
});

Deno.test("pruned heads are not computed: fewer dispatches, and smaller ones", async () => {
  const settings = tinySettings("slice", 1);
  const dispatches = async (mask: string) => {
    await trainLocally(model, settings, [maskOf(mask)]); // staged weights and head lists are there afterwards
    const before = engine.stats.dispatches;
    await trainLocally(model, settings, [maskOf(mask)]);
    return engine.stats.dispatches - before;
  };
  const all = await dispatches("0000 0000 0000");
  const layerPruned = await dispatches("0000 1111 0000");
  const twoPruned = await dispatches("0000 1111 1111");
  const allPruned = await dispatches("1111 1111 1111");
  assert(
    all > layerPruned && layerPruned > twoPruned && twoPruned > allPruned,
    `${[all, layerPruned, twoPruned]}`,
  );
  // A layer of which some heads are kept: only those are computed.
  using modules = tinyHeads(engine, settings);
  const x = engine.upload(normal(2 * 5 * 12, 1), 2 * 5, 12, "x");
  const deltas = modules.forward(0, [1, 3], x, { step: 0, mode: "evaluate", ownsInput: true });
  assertEquals(deltas.map((d) => [d.rows, d.columns]), [[10, 12], [10, 12]]);
  for (const delta of deltas) delta.dispose();
});

/** Weights of each head module, "layer.head" to bits. */
function byHead(weights: readonly (readonly (readonly HeadWeights[])[])[]): Map<string, Float32Array> {
  const map = new Map<string, Float32Array>();
  weights.forEach((heads, l) =>
    heads.forEach((targets, h) =>
      void map.set(`${l}.${h}`, Float32Array.from(targets.flatMap(({ a, b }) => [...a, ...b])))
    )
  );
  return map;
}

/** One step of a layer's heads with made-up input and gradients. */
async function stepOf(modules: HeadModules, step: number, mask: Uint8Array): Promise<void> {
  for (let layer = 0; layer < 3; layer++) {
    const kept = [0, 1, 2, 3].filter((h) => mask[layer * 4 + h] === 0);
    if (kept.length === 0) continue;
    const size = kept.length * 6 * 12;
    // The same numbers for a head whichever others are kept.
    const rows = (seed: number) => Float32Array.from(kept.flatMap((h) => [...normal(6 * 12, seed + h)]));
    const seed = 1000 * step + 100 * layer;
    const x = engine.upload(rows(seed), kept.length * 6, 12, "x");
    for (const t of modules.forward(layer, kept, x, { step, mode: "train", ownsInput: true })) t.dispose();
    const gradients = [20, 40].map((s) => engine.upload(rows(seed + s), size / 12, 12, "gradient"));
    modules.backward(layer, gradients, { step, needsInput: true })?.dispose();
    for (const t of gradients) t.dispose();
  }
  await modules.update(step, mask, []);
}

Deno.test("a pruned head keeps its weights bit by bit while the others move, and moves again when it is back", async () => {
  using modules = tinyHeads(engine, tinySettings("slice", 3));
  const mask = maskOf("0100 1111 0011");
  await stepOf(modules, 0, KEEP);
  const before = byHead(await modules.weights());
  await stepOf(modules, 1, mask);
  const pruned = byHead(await modules.weights());
  for (const [name, weights] of pruned) {
    const [l, h] = name.split(".").map(Number) as [number, number];
    const same = weights.every((w, i) => w === before.get(name)![i]);
    assertEquals(same, mask[l * 4 + h] === 1, `head ${name} unchanged`);
  }
  await stepOf(modules, 2, KEEP);
  for (const [name, weights] of byHead(await modules.weights())) {
    assert(weights.some((w, i) => w !== pruned.get(name)![i]), `head ${name} moves again`);
  }
});

Deno.test("a pruned head keeps its moments and its count of updates", async () => {
  const settings = tinySettings("slice", 5);
  using pruned = tinyHeads(engine, settings);
  using never = tinyHeads(engine, settings);
  // Head 1 of layer 0 and all of layer 2 miss steps 1 and 3; for `never` those steps do not exist.
  const mask = maskOf("0100 0000 1111");
  for (const step of [0, 1, 2, 3, 4]) await stepOf(pruned, step, step % 2 === 1 ? mask : KEEP);
  for (const step of [0, 2, 4]) await stepOf(never, step, KEEP);
  const [a, b] = [byHead(await pruned.weights()), byHead(await never.weights())];
  for (const name of ["0.1", "2.0", "2.1", "2.2", "2.3"]) {
    assertEquals(a.get(name), b.get(name), `head ${name}`);
  }
  assert(a.get("0.0")!.some((w, i) => w !== b.get("0.0")![i]), "a kept head had two steps more");
});

Deno.test("with everything pruned nothing is learnt, and learning goes on afterwards", async () => {
  const all = maskOf("1111 1111 1111");
  const settings = tinySettings("slice", 3);
  const initial = tinyHeads(engine, settings);
  const start = flatten(await initial.weights());
  initial[Symbol.dispose]();
  const options = { settings, capacities: [3, 1], shareLoss: true };
  const idle = await runSession(model, { ...options, steps: 2, pruner: scriptedPruner([all]) });
  assertEquals(idle.weights, start);
  assertEquals(idle.losses[0], idle.losses[1]);
  const back = await runSession(model, { ...options, steps: 3, pruner: scriptedPruner([all, KEEP, KEEP]) });
  assert(back.weights.some((w, i) => w !== start[i]));
  assertEquals(back.weights, (await trainLocally(model, settings, [all, ...keepAll(2)])).weights);
});
