import { Engine } from "@edgetuner/kernels";
import {
  clipFactor,
  decodeFrame,
  encodeFrame,
  type LedgerEntry,
  LocalData,
  LocalHeads,
  runStep,
} from "@edgetuner/core";
import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import { batchOf, LOSS, TinyGpt2, tinyHeads, tinySettings, trainLocally } from "../support/tiny_model.ts";
import {
  expectedBytesByKind,
  maskOf,
  type Passed,
  runSession,
  scriptedPruner,
  tensorBytesByKind,
} from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
/** Single heads, a whole layer, a whole device and everything pruned. */
const MASKS = [
  maskOf("0000 0000 0000"),
  maskOf("0100 0010 0001"),
  maskOf("0000 1111 0110"),
  maskOf("1111 1111 1111"),
  maskOf("1100 1100 1100"),
];
const batch = batchOf(3);

/** Frames and tensor bytes of a ledger's lines of one kind. */
function countedOf(entries: readonly LedgerEntry[], kind: string): [string, number, number][] {
  return entries.filter((e) => e.kind === kind).map((e) => [e.direction, e.frames, e.tensorBytes]);
}

for (const mode of ["slice", "full", "core"] as const) {
  // Far below the norms of these gradients in the first steps, so that every step is clipped.
  const settings = { ...tinySettings(mode, MASKS.length), clipNorm: 0.01 };

  Deno.test(`${mode} mode: clipping over M = 1, 2, 3 devices is that of one machine, pruned or not [slow]`, async () => {
    const tensors = engine.stats.tensors;
    const whole = await trainLocally(model, settings, MASKS, [4], ["gradientNorm"], batch);
    const free = await trainLocally(model, { ...settings, clipNorm: null }, MASKS, [4], [], batch);
    assertNotEquals(whole.weights, free.weights);
    for (const capacities of [[1], [3, 1], [2, 1, 1]]) {
      const run = await runSession(model, {
        settings,
        steps: MASKS.length,
        capacities,
        batch,
        pruner: scriptedPruner(MASKS, ["gradientNorm"]),
      });
      assertClose(run.losses, whole.losses, TOLERANCE.steps, "losses");
      assertClose(run.weights, whole.weights, TOLERANCE.steps, "weights");
      const local = await trainLocally(model, settings, MASKS, run.counts, [], batch);
      assertEquals(run.weights, local.weights, "the same sums in the same order");
      const norms = run.records.map((r) => r.gradientNorm!);
      assertEquals(norms.map((norm) => norm > settings.clipNorm), [true, true, true, false, true]);
      assertClose([norms.at(-1)!], [whole.statistics.globalNorm!], TOLERANCE.steps, "norm before clipping");
      // A scalar from each device and one to it, in every step.
      const frames = capacities.length * MASKS.length;
      assertEquals(countedOf(run.traffic, "squaredNorm"), [["received", frames, 4 * frames]]);
      assertEquals(countedOf(run.traffic, "clip"), [["sent", frames, 4 * frames]]);
      assertEquals(
        Object.fromEntries(tensorBytesByKind(run.traffic)),
        Object.fromEntries(expectedBytesByKind(run.records, settings, run.counts, 1)),
      );
    }
    assertEquals(engine.stats.tensors, tensors, "tensors left behind");
  });

  Deno.test(`${mode} mode: the norm counts kept heads only, of this step's gradients, and brings them to the limit`, async () => {
    // A first moment after one step is (1 - beta1) times the clipped gradient.
    const factors: number[] = [];
    const squares: number[] = [];
    const onFrame = ({ frame }: Passed) => {
      if (frame.kind === "clip") factors.push(frame.tensors[0]!.data[0]!);
      if (frame.kind === "squaredNorm") squares.push(frame.tensors[0]!.data[0]!);
    };
    const mask = maskOf("0100 1111 0001");
    const run = await runSession(model, {
      settings,
      steps: 1,
      capacities: [3, 1],
      batch,
      pruner: scriptedPruner([mask]),
      onFrame,
    });
    const sum = run.states.flatMap((s) => s.m.flat(2)).flatMap(({ a, b }) => [...a, ...b])
      .reduce((total, m) => total + (m / (1 - settings.optimizer.beta1)) ** 2, 0);
    assertClose([Math.sqrt(sum)], [settings.clipNorm], TOLERANCE.steps, "norm after clipping");
    assertEquals(factors, [clipFactor(squares, settings.clipNorm), clipFactor(squares, settings.clipNorm)]);
    assert(factors[0]! < 0.5);
  });
}

Deno.test("a limit above the norm changes no bit, and without clipping nothing of it travels", async () => {
  const settings = tinySettings("slice", 2);
  const run = (clipNorm: number | null) =>
    runSession(model, { settings: { ...settings, clipNorm }, steps: 2, capacities: [3, 1], batch });
  const [clipped, free] = [await run(1e6), await run(null)];
  assertEquals(clipped.weights, free.weights);
  assertEquals(countedOf(free.traffic, "clip"), []);
  assertEquals(countedOf(free.traffic, "squaredNorm"), []);
});

Deno.test("squaredGradientNorm() is the sum of the squares of the kept heads' gradients, old ones of pruned heads apart", async () => {
  const settings = tinySettings("full", 1);
  const modules = tinyHeads(engine, settings);
  using heads = new LocalHeads([modules]);
  assertEquals(await modules.squaredGradientNorm(new Uint8Array(12)), 0);
  const data = new LocalData(model.ends, LOSS, () => ({ batch, mode: "train" }));
  const context = { engine, base: model.layers, heads, data };
  await runStep(context, 0, (await data.next(0))!, new Uint8Array(12));
  const mask = maskOf("0100 1111 0001");
  await runStep(context, 1, (await data.next(1))!, mask);
  const squares = (await modules.gradients()).flat().map((targets) =>
    targets.flatMap(({ a, b }) => [...a, ...b]).reduce((sum, g) => sum + g * g, 0)
  );
  assert(squares.every((square) => square > 0));
  const kept = squares.reduce((sum, square, i) => mask[i] === 0 ? sum + square : sum, 0);
  assertClose([await modules.squaredGradientNorm(mask)], [kept], TOLERANCE.sum);
});

Deno.test("clipFactor() is 1 up to the limit, and limit / norm above it", () => {
  assertEquals(clipFactor([9, 16], 10), 1);
  assertEquals(clipFactor([], 10), 1);
  assertClose([clipFactor([9, 16], 2.5)], [0.5], TOLERANCE.sum);
});

Deno.test("a squared norm that is not finite ends the training; negative, and a factor above 1, are protocol errors", async () => {
  const settings = { ...tinySettings("slice", 2), clipNorm: 1 };
  for (
    const [kind, value] of [["squaredNorm", NaN], ["squaredNorm", -1], ["clip", 1.5], ["clip", NaN]] as const
  ) {
    const change = (bytes: Uint8Array) => {
      const frame = decodeFrame(bytes);
      if (frame.kind !== kind) return bytes as Uint8Array<ArrayBuffer>;
      return encodeFrame({ ...frame, tensors: [{ ...frame.tensors[0]!, data: Float32Array.of(value) }] });
    };
    await assertRejects(
      () =>
        runSession(model, {
          settings,
          steps: 2,
          capacities: [1],
          batch,
          wrap: (channel) => ({
            peer: channel.peer,
            closed: channel.closed,
            send: (bytes, options) => channel.send(change(bytes), options),
            async receive(options) {
              const bytes = await channel.receive(options);
              return bytes === null ? null : change(bytes);
            },
            close: (reason) => channel.close(reason),
            [Symbol.asyncDispose]: () => channel.close(),
          }),
        }),
      Error,
      kind === "clip"
        ? value > 1 ? "factor must be from 0 to 1" : "must be finite"
        : value < 0
        ? "must not be negative"
        : "must be finite: in step 0",
    );
  }
});
