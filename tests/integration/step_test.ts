import {
  describeStep,
  type FrameKind,
  type InputModeName,
  type LedgerEntry,
  messageBytes,
  messagesOf,
  type PartDescription,
  type RunSettings,
  type StepMode,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { assertEquals } from "@std/assert";
import { BATCH, batchOf, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { maskOf, runSession, scriptedPruner } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

const NONE = maskOf("0000 0000 0000");
/** Some heads of one device, a whole layer, everything. */
const PRUNED = [maskOf("0100 1111 0001"), maskOf("1111 0000 0110"), maskOf("1111 1111 1111")];

/** A combination of all that a step's messages depend on. */
interface Combination {
  readonly mode?: InputModeName;
  readonly masks?: readonly Uint8Array[];
  readonly more?: Pick<RunSettings, "microBatches" | "accumulate" | "clipNorm" | "overlap">;
  readonly statistics?: 0 | 1 | 2;
  readonly shareLoss?: boolean;
  readonly probe?: boolean;
  readonly modes?: readonly StepMode[];
}

const COMBINATIONS: Readonly<Record<string, Combination>> = {
  "nothing but a step": {},
  "full mode, pruned, two statistics": { mode: "full", masks: PRUNED, statistics: 2 },
  "micro-batches, pruned, the loss shared": { masks: PRUNED, more: { microBatches: 3 }, shareLoss: true },
  "parts, clipped": { more: { accumulate: 3, clipNorm: 0.1 } },
  "parts in micro-batches, clipped, pruned, a statistic, full mode": {
    mode: "full",
    masks: PRUNED,
    more: { accumulate: 2, microBatches: 2, clipNorm: 0.1 },
    statistics: 1,
    shareLoss: true,
  },
  "a probe in micro-batches, pruned": { masks: PRUNED, more: { microBatches: 2 }, probe: true },
  "a probe, clipped, a statistic, the loss shared": {
    more: { clipNorm: 1 },
    probe: true,
    statistics: 1,
    shareLoss: true,
  },
  "no overlap, clipped": { more: { overlap: false, clipNorm: 0.1 }, masks: PRUNED },
  "evaluation between steps, all settings on": {
    masks: PRUNED,
    more: { accumulate: 2, microBatches: 2, clipNorm: 0.1 },
    statistics: 2,
    shareLoss: true,
    modes: ["evaluate", "train", "evaluate", "train"],
  },
};

/** Frames and tensor bytes by kind. */
type Counts = Readonly<Record<string, readonly [frames: number, bytes: number]>>;

/** What steps are to put on the wire. */
function described(steps: readonly (readonly PartDescription[])[]): Counts {
  const counts: Record<string, [number, number]> = {};
  for (const message of messagesOf(steps.flat())) {
    if (message.kind === null) continue;
    const count = counts[message.kind] ??= [0, 0];
    count[0]++;
    count[1] += messageBytes(message, (shape) => 4 * shape.reduce((a, b) => a * b, 1));
  }
  return counts;
}

/** What a run did put on the wire, but for its handshake and its end. */
function counted(entries: readonly LedgerEntry[]): Counts {
  const others: readonly FrameKind[] = ["hello", "welcome", "end", "finished"];
  return Object.fromEntries(
    entries.filter(({ kind }) => !others.includes(kind)).map((e) => [e.kind, [e.frames, e.tensorBytes]]),
  );
}

for (const [name, combination] of Object.entries(COMBINATIONS)) {
  Deno.test(`a run sends the messages of its description, no more and no fewer: ${name} [slow]`, async () => {
    const { mode = "slice", masks = [NONE], more, statistics = 0, shareLoss = false, probe = false } =
      combination;
    const modes = combination.modes ?? ["train", "train", "train"];
    const settings = { ...tinySettings(mode, modes.length), ...more };
    const batch = more?.microBatches || more?.accumulate ? batchOf(7) : BATCH;
    const needs = [
      ...(["gradientNorm", "loraNorm"] as const).slice(0, statistics),
      ...(probe ? ["trueGradientNorm" as const] : []),
    ];
    const pruner = scriptedPruner(masks, needs);
    const run = await runSession(model, {
      ...{ settings, steps: modes.length, capacities: [2, 1, 1], modes, batch, shareLoss, pruner },
    });
    assertEquals(run.records.map((r) => r.mode), [...modes]);
    const steps = run.records.map(({ mode: purpose, mask, embeddingRows }) =>
      describeStep({
        ...{
          layers: 3,
          heads: 4,
          hidden: 48,
          targets: 2,
          rank: 4,
          mode,
          headsPerDevice: run.counts,
          mask,
          statistics,
        },
        ...{ tokens: batch.batch * batch.length, batch: batch.batch, purpose, probe, sharesLoss: shareLoss },
        embeddingRows,
        microBatches: settings.microBatches ?? 1,
        accumulate: settings.accumulate ?? 1,
        clip: more?.clipNorm !== undefined,
      })
    );
    assertEquals(counted(run.traffic), described(steps));
  });
}
