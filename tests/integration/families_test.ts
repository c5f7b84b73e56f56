import { Engine } from "@edgetuner/kernels";
import {
  type FrameKind,
  type InputModeName,
  LocalData,
  LocalHeads,
  modeSize,
  type RunSettings,
  runStep,
  shapeForDevices,
  stepTraffic,
} from "@edgetuner/core";
import { assert, assertEquals } from "@std/assert";
import { FAMILY_NAMES, familyFolder, familyHeads, TinyFamily } from "../support/families.ts";
import { BATCH, flatten, LOSS, sideBySide } from "../support/tiny_model.ts";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import { maskOf, runSession, scriptedPruner, tensorBytesByKind } from "./_session.ts";

const engine = await Engine.create();
/** Nothing; one head of a group; a whole group; the lower layer. */
const MASKS = ["0000 0000", "0100 0001", "0011 0000", "1111 0110"].map(maskOf);

function settingsOf(mode: InputModeName): RunSettings {
  return {
    lora: { mode, targets: ["q", "k", "v"], rank: 3, alpha: 6, dropout: 0.1 },
    optimizer: {
      learningRate: 1e-2,
      warmupSteps: 0,
      schedule: "constant",
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      weightDecay: 0.01,
    },
    steps: MASKS.length,
    seed: 7,
  };
}

/** The same run with all heads in this process. */
async function locally(model: TinyFamily, settings: RunSettings, counts: readonly number[]) {
  const devices = familyHeads(model, settings, counts);
  using heads = new LocalHeads(devices);
  const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
  const losses: number[] = [];
  for (const [step, mask] of MASKS.entries()) {
    const context = { engine, base: model.layers, heads, data };
    losses.push((await runStep(context, step, (await data.next(step))!, mask)).loss!);
  }
  const weights = flatten(sideBySide(await Promise.all(devices.map((d) => d.weights()))));
  return { losses, weights };
}

for (const name of FAMILY_NAMES.filter((name) => name !== "llama")) {
  const base = new TinyFamily(engine, await familyFolder(name));
  for (const mode of ["slice", "full", "core"] as const) {
    Deno.test(`${name}, ${mode} mode: two devices as one machine, and the bytes of the formula [slow]`, async () => {
      const settings = settingsOf(mode);
      const run = await runSession(base, {
        settings,
        steps: MASKS.length,
        capacities: [3, 1],
        pruner: scriptedPruner(MASKS),
        shareLoss: true,
      });
      assertEquals(run.counts, [3, 1], "devices share a group of query heads");
      assertEquals(run.records.map((r) => r.mask), MASKS);

      // The same sums in the same order as virtual devices with the same heads: the same bits.
      const virtual = await locally(base, settings, [3, 1]);
      assertEquals(run.losses, virtual.losses);
      assertEquals(run.weights, virtual.weights);
      const whole = await locally(base, settings, [4]);
      const tolerance = mode === "slice" ? TOLERANCE.exact : TOLERANCE.steps;
      assertClose(run.losses, whole.losses, tolerance, "losses");
      assertClose(run.weights, whole.weights, tolerance, "weights");
      assert(run.losses[3]! < run.losses[0]!, "the loss falls");

      const expected = new Map<FrameKind, number>();
      for (const { tokens, batch, mask, embeddingRows } of run.records) {
        const model = shapeForDevices(base.layers.shape);
        const sizes = modeSize(settings.lora, model);
        const shape = {
          ...sizes,
          layers: model.layers,
          tokens,
          batch,
          embeddingRows,
          mode,
          mask,
          statistics: 0,
        };
        for (const [kind, bytes] of stepTraffic({ ...shape, headsPerDevice: [3, 1] })) {
          if (bytes > 0) expected.set(kind, (expected.get(kind) ?? 0) + bytes);
        }
      }
      const sorted = (bytes: Map<FrameKind, number>) => [...bytes].sort(([a], [b]) => a.localeCompare(b));
      assertEquals(sorted(tensorBytesByKind(run.traffic)), sorted(expected));
    });
  }
}
