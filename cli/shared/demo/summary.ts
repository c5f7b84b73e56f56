/**
 * Figures of a run of the demo, and how they are shown.
 *
 * @module
 */

import { findRunCodecs, type ModelShape, modeSize, type RunCodecs, stepTraffic } from "@edgetuner/core";
import { type CodecChoice, codecsOf } from "../../flags/codecs.ts";
import { loraFormOf } from "../../flags/tuning_flags.ts";
import { curve, headMap } from "../../output/picture.ts";
import { bytes, duration, prunerTime } from "../../output/progress.ts";
import type { DemoFlags } from "./flags.ts";
import type { DemoLog, DemoStep } from "./log.ts";

/** Figures of a run. */
export interface Summary {
  readonly validBefore: number | null;
  readonly validAfter: number | null;
  /** Bytes of all tensors of the training steps. */
  readonly bytes: number;
  /** What the same steps would have sent with every head kept. */
  readonly unprunedBytes: number;
  readonly keptShare: number;
  readonly secondsPerStep: number;
  readonly headsPerDevice: readonly number[];
}

/** Pruners that ask the devices for nothing. */
const WITHOUT_STATISTICS = ["none", "random", "oracle"];

/** Sums a run up. */
export async function summarise(
  log: DemoLog,
  flags: DemoFlags,
  codec: CodecChoice,
): Promise<Summary> {
  const { validations, trained, headsPerDevice } = log;
  const traffic = await trafficOf(log, flags, findRunCodecs(codec.name, await codecsOf(codec.modules)));
  return {
    validBefore: validations.find((v) => v.step === 0)?.loss ?? null,
    validAfter: validations.findLast((v) => v.step > 0)?.loss ?? null,
    bytes: traffic.pruned,
    unprunedBytes: traffic.unpruned,
    keptShare: trained.keptShare,
    secondsPerStep: trained.medianMs / 1000,
    headsPerDevice,
  };
}

/** Bytes of all training steps, by the formula that a run's ledger equals. */
async function trafficOf(
  log: DemoLog,
  flags: DemoFlags,
  codec: RunCodecs,
): Promise<{ readonly pruned: number; readonly unpruned: number }> {
  const { server, headsPerDevice } = log;
  const heads = headsPerDevice.reduce((a, b) => a + b, 0);
  const { hidden = 0, headSize } = (server?.model ?? {}) as Partial<ModelShape>;
  const lora = loraFormOf(flags);
  const sum = { pruned: 0, unpruned: 0 };
  for await (const line of log.steps.lines()) {
    const step = JSON.parse(line) as DemoStep;
    if (step.mode !== "train") continue;
    const layers = step.kept.length;
    // Devices that were killed have not said which heads they had.
    if (hidden === 0 || step.mask.length !== layers * heads) break;
    const shape = {
      ...modeSize(lora, { heads, hidden, headSize }),
      ...{ layers, headsPerDevice, codec, mode: lora.mode, tokens: step.tokens, batch: step.batch },
      // iHeadPruner's predictor reads the norms of the LoRA weights too.
      statistics: String(server?.pruner).startsWith("ihead")
        ? 2
        : Number(!WITHOUT_STATISTICS.includes(flags.pruner)),
      microBatches: flags["micro-batches"],
      accumulate: flags.accumulate,
      clip: flags["clip-norm"] > 0,
      embeddingRows: step.embeddingRows,
    };
    const bytesWith = (mask: Uint8Array) =>
      [...stepTraffic({ ...shape, mask }).values()].reduce((a, b) => a + b, 0);
    sum.unpruned += bytesWith(new Uint8Array(layers * heads));
    sum.pruned += bytesWith(Uint8Array.from(step.mask));
  }
  return sum;
}

/** Shows a run: time, bytes, the pruner, the loss over the steps, and which heads were kept. */
export function show(log: DemoLog, summary: Summary, seconds: number): void {
  const { trained, server } = log;
  const { bytes: sent, unprunedBytes, keptShare, secondsPerStep } = summary;
  const percent = (share: number) => (100 * share).toFixed(0);
  const lines = [
    "",
    `${trained.count} steps in ${duration(seconds)} (${
      secondsPerStep.toFixed(2)
    } s a step), on ${log.adapter}`,
    `${bytes(sent)} of tensors on the wire, ${percent(sent / unprunedBytes)} % of the ${
      bytes(unprunedBytes)
    } without pruning; ${percent(keptShare)} % of the heads kept`,
    ...(server?.pruner === "none" ? [] : [prunerTime(trained)]),
    ...(server?.deployable === false
      ? [`Pruner ${server.pruner} is a yardstick: it is not deployable, and its probes are not counted`]
      : []),
    "",
    "Training loss over the steps",
    ...curve([...trained.losses.values]),
    "",
    "How often each head was kept (devices apart; ██ always, blank never)",
    ...headMap(trained.keptShares, trained.last!.layers, summary.headsPerDevice),
  ];
  for (const line of lines) console.log(line);
}
