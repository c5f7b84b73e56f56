/** A prediction in TypeScript and on the GPU, for the demo's model and for GPT-2 medium. */

import { Engine } from "@edgetuner/kernels";
import { Tape } from "../../model/tape.ts";
import { predictImportance } from "./forward.ts";
import { PredictorNetwork } from "./network.ts";
import { DEFAULT_PREDICTOR_SIZES, initialPredictor } from "./predictor.ts";
import { predictorFeatures, type TrackedStep, trackStep } from "./windows.ts";

const engine = await Engine.create();

for (
  const [name, layers, heads, hidden] of [["demo", 4, 8, 128], ["GPT-2 medium", 24, 16, 1024]] as const
) {
  const config = { layers, heads, hidden, history: 10, lambda: 0.8, ...DEFAULT_PREDICTOR_SIZES };
  const predictor = initialPredictor(config, 1);
  const before: TrackedStep[] = [];
  for (let step = 0; step < 10; step++) {
    const map = Float32Array.from({ length: layers * heads }, (_, i) => (i * 7 + step) % 11 / 11);
    before.push(trackStep(before.at(-1) ?? null, {
      gradient: map,
      importance: map,
      seen: new Uint8Array(map.length).fill(1),
      embedding: Float32Array.from({ length: hidden }, (_, i) => (i + step) % 5),
      loraNorm: map,
    }));
  }
  const now = before.at(-1)!;
  Deno.bench({ name: "TypeScript", group: name, baseline: true }, () => {
    predictImportance(predictor, before, now, null);
  });
  const network = new PredictorNetwork(engine, predictor);
  Deno.bench({ name: "WGSL and reading back", group: name }, async () => {
    using tape = new Tape(engine, { training: false });
    const z = await network.forward(tape, [predictorFeatures(predictor, before, now, null)]);
    await z.value.read();
  });
}
