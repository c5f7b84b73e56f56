/** Collecting samples and predicting importance in runs over channels. */

import { predictorTrainer, type PrunerSample } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { collectingPruner, iHeadPruner } from "@edgetuner/plugins";
import { assert, assertEquals } from "@std/assert";
import { keepAll, TinyGpt2, tinySettings, trainLocally } from "../support/tiny_model.ts";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import { expectedBytesByKind, runSession, tensorBytesByKind } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

async function collect(capacities: readonly number[]): Promise<PrunerSample[]> {
  const samples: PrunerSample[] = [];
  await runSession(model, {
    settings: tinySettings("slice", 6),
    steps: 5,
    capacities,
    pruner: collectingPruner({ write: (sample) => void samples.push(sample) }),
  });
  return samples;
}

Deno.test("samples of a networked run are those of a run on one machine, whoever owns the heads [slow]", async () => {
  const one = await collect([1]);
  const three = await collect([2, 1, 1]);
  assertEquals(one.map((s) => [s.step, s.seed]), [[1, 7], [2, 7], [3, 7]]);
  one.forEach((sample, i) => {
    for (const name of ["gradientNorm", "loraNorm", "embeddingMean"] as const) {
      assertClose(three[i]![name], sample[name], TOLERANCE.model, `${name} of step ${sample.step}`);
    }
  });
  const needs = ["gradientNorm", "loraNorm"] as const;
  const settings = tinySettings("slice", 6);
  const { statistics } = await trainLocally(model, settings, keepAll(3), [4], needs);
  assertClose(one[1]!.gradientNorm, statistics.gradientNorm!, TOLERANCE.model, "gradients of step 2");
  assertClose(one[2]!.loraNorm, statistics.loraNorm!, TOLERANCE.model, "norms before step 3");
});

Deno.test("iHeadPruner() trains and takes over in a networked run, and costs two statistics [slow]", async () => {
  const settings = tinySettings("slice", 14);
  const run = () =>
    runSession(model, {
      settings,
      steps: 14,
      capacities: [2, 1, 1],
      pruner: iHeadPruner({
        history: 2,
        online: { train: predictorTrainer(engine, { epochs: 2 }), steps: 8 },
      }),
    });
  const first = await run();
  const masks = first.records.map((record) => record.mask);
  assert(masks.slice(0, 8).every((mask) => !mask.includes(1)));
  assert(masks.slice(8).some((mask) => mask.includes(1)));
  assertEquals(
    tensorBytesByKind(first.traffic),
    expectedBytesByKind(first.records, settings, first.counts, 2),
  );
  const second = await run();
  assertEquals(second.records.map((record) => record.mask), masks);
  assertEquals(second.weights, first.weights);
});
