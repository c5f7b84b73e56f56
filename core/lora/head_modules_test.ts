import { Engine } from "@edgetuner/kernels";
import { inputRows } from "./input_mode.ts";
import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  keepAll,
  sideBySide,
  TinyGpt2,
  tinyHeads,
  tinySettings,
  trainLocally,
} from "../../tests/support/tiny_model.ts";
import { dot, normal } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { initialA } from "./head_arena.ts";
import { keptHeads, lowestLayer, maskOfRange, putRange } from "./head_mask.ts";

const engine = await Engine.create();

Deno.test("head modules start the same whatever the partition", async () => {
  for (const mode of ["slice", "full", "core"] as const) {
    const settings = tinySettings(mode, 1);
    using whole = tinyHeads(engine, settings);
    const weights = await whole.weights();
    for (const counts of [[2, 2], [3, 1], [1, 1, 2]]) {
      let first = 0;
      const parts = [];
      for (const count of counts) {
        using part = tinyHeads(engine, settings, { first, count });
        parts.push(await part.weights());
        first += count;
      }
      assertEquals(sideBySide(parts), weights);
    }
    if (mode === "core") {
      // A core is zero, and there is no B.
      for (const { a, b } of weights.flat(2)) assertEquals([a, b.length], [new Float32Array(16), 0]);
      continue;
    }
    // A is uniform in +-1 / sqrt(inputs), different for each head module; B is zero.
    const inputs = mode === "slice" ? 12 : 48;
    const seen = new Set<string>();
    for (const { a, b } of weights.flat(2)) {
      assertEquals(a.length, 4 * inputs);
      assert(a.every((x) => Math.abs(x) <= 1 / Math.sqrt(inputs)));
      assert(b.every((x) => x === 0) && b.length === 12 * 4);
      seen.add(String(a));
    }
    assertEquals(seen.size, 3 * 4 * 2);
    const all = weights.flat(2).flatMap(({ a }) => [...a]);
    const variance = all.reduce((sum, x) => sum + x * x, 0) / all.length * 3 * inputs;
    assert(variance > 0.9 && variance < 1.1, `variance ${variance} of that expected`);
  }
});

Deno.test("initialA() depends on each of seed, layer, head and target", () => {
  const base = { seed: 1, layer: 2, head: 3, target: 1, rank: 4, inputs: 8 };
  const first = initialA(base);
  assertEquals(initialA(base), first);
  for (const change of [{ seed: 2 }, { layer: 3 }, { head: 2 }, { target: 2 }]) {
    assert(initialA({ ...base, ...change }).every((x, i) => x !== first[i]), JSON.stringify(change));
  }
});

Deno.test("weights() gives back what load() took, and load() starts the moments again [slow]", async () => {
  using model = new TinyGpt2(engine);
  const settings = tinySettings("slice", 2);
  using modules = tinyHeads(engine, settings, { first: 1, count: 2 });
  const other = (await modules.weights()).map((heads, l) =>
    heads.map((targets, i) =>
      targets.map(({ a, b }, k) => ({ a: a.map((x) => x + l + i), b: b.map((_, j) => j / 7 - k) }))
    )
  );
  modules.load(other);
  assertEquals(await modules.weights(), other);
  assertEquals(modules.parameterCount, 3 * 2 * 2 * 4 * (12 + 12));
  // A module that has been trained and then reset goes on as a fresh one.
  const twice = await trainLocally(model, settings, keepAll(2));
  assertEquals((await trainLocally(model, settings, keepAll(2))).weights, twice.weights);
});

Deno.test("load() refuses arrays of another length", async () => {
  using modules = tinyHeads(engine, tinySettings("slice", 1), { first: 2, count: 1 });
  const right = await modules.weights();
  assertThrows(() => modules.load([]), TypeError, "head module 2 of layer 0");
  assertThrows(() => modules.load(right.slice(0, 2)), TypeError, "layer 2");
  const short = right.map((heads) =>
    heads.map((targets) => targets.map(({ a, b }) => ({ a: a.subarray(1), b })))
  );
  assertThrows(() => modules.load(short), TypeError, "A must have 48");
});

for (const mode of ["slice", "full", "core"] as const) {
  for (const rate of [0, 0.5]) {
    Deno.test(`${mode} mode, dropout ${rate}: backward is the adjoint of forward, for X, A and B`, async () => {
      using modules = tinyHeads(engine, tinySettings(mode, 1, rate));
      modules.load(
        (await modules.weights()).map((heads, l) =>
          heads.map((targets, i) =>
            targets.map(({ a, b }, k) => {
              const drawn = (length: number) => normal(length, 100 * l + 10 * i + k);
              return { a: a.some((x) => x !== 0) ? a : drawn(a.length), b: drawn(b.length) };
            })
          )
        ),
      );
      const kept = [0, 2, 3];
      const length = 7;
      const [layer, step] = [1, 5];
      const { rows, columns } = inputRows(modules.input.shape(kept.length, length, modules.size));
      const size = rows * columns;
      const width = modules.input.deltaColumns(modules.size);
      const x = normal(size, 1);
      const gradients = [2, 3].map((seed) => normal(kept.length * length * width, seed));
      const input = engine.upload(x, size / columns, columns, "x");
      const deltas = modules.forward(layer, kept, input, { step, mode: "train", ownsInput: true });
      const outputs = await engine.read(deltas);
      const uploaded = gradients.map((g) => engine.upload(g, kept.length * length, width, "gradient"));
      using dx = modules.backward(layer, uploaded, { step, needsInput: true })!;
      // A Delta is linear in X, in A and in B: <gradient, Delta> = <dX, X> = <dA, A> = <dB, B>.
      const expected = outputs.map((output, k) => dot(output, gradients[k]!));
      const largest = outputs.reduce(
        (sum, output, k) => sum + dot(output.map(Math.abs), gradients[k]!.map(Math.abs)),
        0,
      );
      const close = (actual: number, expected: number, what: string) =>
        assert(
          Math.abs(actual - expected) < largest * TOLERANCE.sum.relative,
          `${what}: ${actual}, expected ${expected}`,
        );
      close(dot(await dx.read(), x), expected[0]! + expected[1]!, "X");
      const [weights, derivatives] = [(await modules.weights())[layer]!, (await modules.gradients())[layer]!];
      for (const matrix of modules.outputs === 0 ? ["a"] as const : ["a", "b"] as const) {
        for (const k of [0, 1]) {
          const products = kept.map((h) => dot(derivatives[h]![k]![matrix], weights[h]![k]![matrix]));
          close(products.reduce((a, b) => a + b, 0), expected[k]!, `${matrix} of target ${k}`);
        }
      }
      // Half of X is dropped, the rest is doubled: what dX does not reach is what was dropped. In rank space the edge
      // server does it.
      const dropped = (await dx.read()).filter((v) => v === 0).length / size;
      assert(Math.abs(dropped - (mode === "core" ? 0 : rate)) < 0.1, `${dropped} of X is dropped`);
      for (const tensor of [...deltas, ...uploaded]) tensor.dispose();
    });
  }
}

for (const mode of ["slice", "full", "core"] as const) {
  Deno.test(`${mode} mode: micro-batches give the gradients of the whole batch, in whatever order they come`, async () => {
    const [layer, step, kept, rows] = [1, 5, [0, 2, 3], [5, 3, 1]];
    const whole = rows.reduce((a, b) => a + b, 0);
    const slots = { slice: kept.length, full: 1, core: 2 * kept.length }[mode];
    const [columns, width] = { slice: [12, 12], full: [48, 12], core: [4, 4] }[mode] as [number, number];
    const x = normal(slots * whole * columns, 1);
    const gradients = [2, 3].map((seed) => normal(kept.length * whole * width, seed));
    /** Rows `first` .. of each slot of head-major blocks. */
    const part = (values: Float32Array, slots: number, columns: number, first: number, count: number) =>
      Float32Array.from(
        Array.from({ length: slots }, (_, s) => [
          ...values.subarray((s * whole + first) * columns, (s * whole + first + count) * columns),
        ]).flat(),
      );
    const run = async (rows: readonly number[], order: readonly number[], deferWeightGradients: boolean) => {
      using modules = tinyHeads(engine, tinySettings(mode, 1, 0.5));
      modules.load(
        (await modules.weights()).map((heads, l) =>
          heads.map((targets, i) =>
            targets.map(({ a, b }, k) => {
              const drawn = (length: number) => normal(length, 100 * l + 10 * i + k);
              return { a: a.some((x) => x !== 0) ? a : drawn(a.length), b: drawn(b.length) };
            })
          )
        ),
      );
      const firstRows = rows.map((_, m) => rows.slice(0, m).reduce((a, b) => a + b, 0));
      for (const m of order.toReversed()) {
        const [first, count] = [firstRows[m]!, rows[m]!];
        const input = engine.upload(part(x, slots, columns, first, count), slots * count, columns, "x");
        const microBatch = { index: m, firstRow: first };
        const context = { step, mode: "train", ownsInput: true, microBatch } as const;
        for (const delta of modules.forward(layer, kept, input, context)) delta.dispose();
      }
      const dx = new Float32Array(x.length);
      for (const m of order) {
        const [first, count] = [firstRows[m]!, rows[m]!];
        const uploaded = gradients.map((g) =>
          engine.upload(part(g, kept.length, width, first, count), kept.length * count, width, "gradient")
        );
        const context = { step, needsInput: true, microBatch: m, deferWeightGradients };
        using out = modules.backward(layer, uploaded, context)!;
        const values = await out.read();
        for (let s = 0; s < slots; s++) {
          const slot = values.subarray(s * count * columns, (s + 1) * count * columns);
          dx.set(slot, (s * whole + first) * columns);
        }
      }
      if (deferWeightGradients) modules.accumulate(layer);
      const weights = (await modules.gradients())[layer]!.flat().flatMap(({ a, b }) => [...a, ...b]);
      return { dx, weights };
    };
    const before = engine.stats.tensors;
    const unsplit = await run([whole], [0], false);
    const split = await run(rows, [0, 1, 2], false);
    assertClose(split.weights, unsplit.weights, TOLERANCE.sum, "gradients of the weights");
    assertEquals(split.dx, unsplit.dx);
    for (
      const [order, deferWeightGradients] of [[[2, 1, 0], false], [[1, 2, 0], true], [
        [0, 2, 1],
        true,
      ]] as const
    ) {
      assertEquals(await run(rows, order, deferWeightGradients), split, `order ${order}`);
    }
    assertEquals(engine.stats.tensors, before, "tensors left behind");
  });
}

Deno.test("backward() needs a forward pass, and evaluation leaves none", () => {
  using modules = tinyHeads(engine, tinySettings("slice", 1));
  const x = () => engine.zeros(5, 12, "x");
  const back = () => modules.backward(0, [], { step: 0, needsInput: false });
  assertThrows(back, TypeError, "layer 0");
  for (const t of modules.forward(0, [1], x(), { step: 0, mode: "evaluate", ownsInput: true })) t.dispose();
  assertThrows(back, TypeError, "layer 0");
});

Deno.test("statistics: zero for pruned heads, loraNorm grows from zero", async () => {
  using model = new TinyGpt2(engine);
  const mask = Uint8Array.of(0, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1);
  const { statistics } = await trainLocally(model, tinySettings("slice", 1), [mask], [3, 1], [
    "gradientNorm",
    "loraNorm",
  ]);
  for (const name of ["gradientNorm", "loraNorm"] as const) {
    const map = statistics[name]!;
    assertEquals(map.length, 12);
    map.forEach((value, i) => assertEquals(value === 0, mask[i] === 1, `${name} of head ${i}: ${value}`));
  }
});

Deno.test("masks: parts of devices, kept heads, lowest layer", () => {
  const mask = Uint8Array.of(1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 1);
  assertEquals(maskOfRange(mask, 4, { first: 1, count: 2 }), Uint8Array.of(1, 1, 1, 1, 0, 0));
  assertEquals(keptHeads(mask, 4, 1, { first: 0, count: 4 }), [0, 3]);
  assertEquals(keptHeads(mask, 4, 1, { first: 2, count: 2 }), [1]);
  assertEquals(lowestLayer(mask, 4), 1);
  assertEquals(lowestLayer(new Uint8Array(12), 4), 0);
  assertEquals(lowestLayer(new Uint8Array(12).fill(1), 4), 3);
  const whole = new Float32Array(12);
  putRange(Float32Array.of(1, 2, 3, 4, 5, 6), whole, 4, { first: 1, count: 2 });
  assertEquals(whole, Float32Array.of(0, 1, 2, 0, 0, 3, 4, 0, 0, 5, 6, 0));
});

Deno.test("weightChange is the relative change of each head module's weights, and 0 for pruned heads", async () => {
  using model = new TinyGpt2(engine);
  for (const mode of ["slice", "full", "core"] as const) {
    const settings = tinySettings(mode, 3);
    const mask = Uint8Array.of(0, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1);
    const masks = [...keepAll(1), mask];
    const before = await trainLocally(model, settings, masks.slice(0, 1));
    const after = await trainLocally(model, settings, masks, [4], ["weightChange"]);
    const size = after.weights.length / 12;
    const expected = Float64Array.from(mask, (z, i) => {
      let change = 0, norm = 0;
      for (let k = i * size; k < (i + 1) * size; k++) {
        change += (after.weights[k]! - before.weights[k]!) ** 2;
        norm += after.weights[k]! ** 2;
      }
      return z === 1 ? 0 : Math.sqrt(change / norm);
    });
    assertClose(after.statistics.weightChange!, expected, TOLERANCE.sum, mode);
    assertEquals(after.statistics.weightChange!.map((x) => x > 0 ? 0 : 1), Float32Array.from(mask));
    // Asking for it changes nothing, and costs nothing if it is not asked for.
    const without = await trainLocally(model, settings, masks, [2, 2]);
    assertEquals(Object.keys(without.statistics), []);
    if (mode === "slice") assertEquals(without.weights, after.weights);
  }
});
