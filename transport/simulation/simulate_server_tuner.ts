/**
 * Fine-tuning with everything on the edge server, in virtual time.
 *
 * @module
 */

import { LocalTraining, type TokenBatch } from "@edgetuner/core";
import { TrainingError } from "@edgetuner/core/contracts";
import { evaluate, sizeOf, summary } from "./_simulation.ts";
import { LocalCurve } from "./_learning_curve.ts";
import { segmentMs, TYPICAL_COMPUTE, wholeStepWork } from "./compute.ts";
import type { SimulatedStep, SimulationOptions, SimulationResult } from "./simulation_options.ts";

/**
 * Fine-tunes with everything on the edge server and no network (ServerTuner), in virtual time: the floor
 * that the others are compared with. A loss that is not finite ends the run early, with a `TrainingError` in
 * `error`.
 *
 * @throws {RangeError} If an option is out of range.
 * @throws {TypeError} If the data side is on another engine.
 */
export async function simulateServerTuner(options: SimulationOptions): Promise<SimulationResult> {
  const { model, settings, batches, compute = TYPICAL_COMPUTE, signal } = options;
  const { engine, layers, ends, projections } = model;
  if ((model.deviceEngine ?? engine) !== engine) {
    throw new TypeError("Cannot train on one machine as there must be one engine: the devices have another");
  }
  const size = sizeOf(model, settings);
  const { layers: L, heads: H } = size.model;
  const before = await evaluate(options, []);
  const steps: SimulatedStep[] = [];
  let batch: TokenBatch | null = null;
  const curve = new LocalCurve(options, before);
  using training = new LocalTraining({
    ...{ engine, base: layers, ends, projections, settings, loss: options.loss },
    source(step) {
      signal?.throwIfAborted();
      const due = curve.due(step);
      if (due !== null) return { batch: due, mode: "evaluate", loss: { labelSmoothing: 0 } };
      return step < settings.steps ? { batch: batch = batches(step), mode: "train" } : null;
    },
    onEvent(event) {
      if (event.type !== "step") return;
      if (event.mode === "evaluate") return curve.take(event.step, event.loss!);
      const { length, mask: places } = batch!;
      const counted = places.reduce((sum, m) => sum + (m === 0 ? 0 : 1), 0);
      const total = wholeStepWork({ ...size, length }, places.length, counted)
        .reduce((sum, segment) => sum + segmentMs(compute.edgeServer, segment), 0);
      const record: SimulatedStep = {
        step: event.step,
        mode: "train",
        loss: event.loss,
        times: { total, prune: 0, readback: 0, codec: 0, wait: 0 },
        bytes: 0,
        mask: event.decision.mask,
        kept: Array(L).fill(H),
        scores: null,
        tokens: event.tokens,
        batch: event.batch,
        edgeComputeMs: total,
        atMs: steps.reduce((sum, s) => sum + s.times.total, total),
      };
      steps.push(record);
      options.onStep?.(record);
    },
  });
  const { modules } = training;
  let after: number | null = NaN;
  let error: TrainingError | null = null;
  try {
    await training.trainer.run();
    after = await evaluate(options, modules);
    if (after !== null) curve.points.push({ step: settings.steps, loss: after });
  } catch (cause) {
    if (!(cause instanceof TrainingError)) throw cause;
    error = cause;
  }
  await options.onTrained?.(modules);
  return {
    ...summary(steps),
    totalMs: steps.reduce((sum, s) => sum + s.times.total, 0),
    ledger: [],
    evaluation: before === null || after === null ? null : { before, after },
    curve: curve.points,
    edgeMemoryBytes: engine.stats.allocatedBytes,
    devices: [],
    error,
  };
}
