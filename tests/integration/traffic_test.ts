import { Engine } from "@edgetuner/kernels";
import { type FrameKind, keptPerLayer, type LedgerEntry, type StatisticName } from "@edgetuner/core";
import { assert, assertEquals } from "@std/assert";
import bf16Codec from "../../examples/custom_codec.ts";
import { TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import {
  expectedBytesByKind,
  maskOf,
  runSession,
  scriptedPruner,
  type SessionResult,
  tensorBytesByKind,
} from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

const UNPRUNED = [maskOf("0000 0000 0000")];
/** Single heads, a whole layer (the first, too), a whole device, and everything. */
const PRUNED = [
  maskOf("0100 0010 0001"),
  maskOf("0000 1111 0110"),
  maskOf("1111 0000 0000"),
  maskOf("1100 1100 1100"),
  maskOf("1111 1111 1111"),
];
const STATISTICS: readonly (readonly StatisticName[])[] = [[], ["gradientNorm"], [
  "gradientNorm",
  "loraNorm",
]];

/** Frames of each kind and direction that the server should have counted. */
function expectedFrames(run: SessionResult, statistics: boolean, shareLoss: boolean): Record<string, number> {
  const frames: Record<string, number> = {};
  const add = (line: `${"sent" | "received"} ${FrameKind}`, count: number) => {
    if (count > 0) frames[line] = (frames[line] ?? 0) + count;
  };
  const devices = run.counts.length;
  add("received hello", devices);
  add("sent welcome", devices);
  add("sent end", devices);
  add("received finished", 1);
  for (const { mask } of run.records) {
    let asked = 0;
    let askedAboveLowest = 0;
    // Nothing is trained below the lowest layer with a kept head: no device sends it a gradient of X.
    const lowest = [0, 1, 2].find((l) => mask.subarray(l * 4, (l + 1) * 4).includes(0)) ?? 3;
    for (let l = 0; l < 3; l++) {
      let first = l * 4;
      for (const count of run.counts) {
        const keeps = mask.subarray(first, first + count).includes(0);
        first += count;
        if (keeps) asked++;
        if (keeps && l > lowest) askedAboveLowest++;
      }
    }
    add("received embedding", 1);
    add("sent hidden", 1);
    add("received hiddenGradient", 1);
    add("received loss", shareLoss ? 1 : 0);
    add("sent mask", devices);
    add("sent input", asked);
    add("received delta", asked);
    add("sent deltaGradient", asked);
    add("received inputGradient", askedAboveLowest);
    add("received statistics", statistics ? devices : 0);
  }
  return frames;
}

function countedFrames(entries: readonly LedgerEntry[]): Record<string, number> {
  return Object.fromEntries(entries.map((e) => [`${e.direction} ${e.kind}`, e.frames]));
}

const sorted = (map: Map<FrameKind, number>) => [...map].sort(([a], [b]) => a.localeCompare(b));

for (const mode of ["slice", "full", "core"] as const) {
  for (const [what, masks] of [["unpruned", UNPRUNED], ["pruned", PRUNED]] as const) {
    for (const needs of STATISTICS) {
      const name = `${mode} mode, ${what}, statistics ${needs.join(" and ") || "off"}`;
      Deno.test(`a run puts exactly on the wire what the formula says: ${name} [slow]`, async () => {
        const steps = masks.length + 1;
        const settings = tinySettings(mode, steps);
        for (const capacities of [[1], [2, 1, 1]]) {
          const run = await runSession(model, {
            settings,
            steps,
            capacities,
            pruner: scriptedPruner(masks, needs),
          });
          assertEquals(run.records.length, steps);
          assertEquals(
            sorted(tensorBytesByKind(run.traffic)),
            sorted(expectedBytesByKind(run.records, settings, run.counts, needs.length)),
          );
          // All lines, so that nothing else can be there.
          assertEquals(countedFrames(run.traffic), expectedFrames(run, needs.length > 0, false));
          for (const entry of run.traffic) {
            const envelope = (entry.frameBytes - entry.tensorBytes) / entry.frames;
            assert(envelope > 0, `${entry.kind}: ${envelope} bytes around the tensors`);
            if (entry.kind !== "welcome") {
              assert(envelope < 300, `${entry.kind}: ${envelope} bytes around the tensors`);
            }
          }
        }
      });
    }
  }

  for (const codec of ["f16", "int8", "int8-feedback", "bf16", "int4", "f16,e=int8,delta=int4"]) {
    Deno.test(`a run puts exactly on the wire what the formula says: ${mode} mode, ${codec} [slow]`, async () => {
      const settings = { ...tinySettings(mode, 6), codec };
      const codecs = [bf16Codec()];
      const pruner = scriptedPruner(PRUNED, ["gradientNorm"]);
      const run = await runSession(model, { settings, steps: 6, capacities: [2, 1, 1], pruner, codecs });
      const expected = expectedBytesByKind(run.records, settings, run.counts, 1, codecs);
      assertEquals(sorted(tensorBytesByKind(run.traffic)), sorted(expected));
      // All but masks and statistics shrinks.
      const plain = expectedBytesByKind(run.records, { ...settings, codec: "f32" }, run.counts, 1);
      for (const [kind, bytes] of expected) {
        const share = bytes / plain.get(kind)!;
        if (kind === "mask" || kind === "statistics") assertEquals(share, 1);
        else if (codec.endsWith("16")) assertEquals(share, 0.5, kind);
        // Half a byte or a byte a number, and two bytes for at most 64 of them.
        else if (codec.includes("int4")) {
          assert(share > 0.125 && share < (codec === "int4" ? 0.2 : 0.51), kind);
        } // A byte a number, and four bytes for each row of 12 (or in embeddings, and X of full mode, 48).
        // In rank space the rows of what goes to heads and back have 4 numbers.
        else if (mode === "core" && ["input", "inputGradient", "delta", "deltaGradient"].includes(kind)) {
          assertEquals(share, 0.5, kind);
        } else assert(share > 0.27 && share < 0.34, `${kind}: ${share}`);
      }
    });
  }

  Deno.test(`${mode} mode: the numbers on the wire as METHOD counts them`, async () => {
    const [tokens, d, headSize, layers, heads, targets, devices] = [26, 48, 12, 3, 4, 2, 3];
    const run = await runSession(model, { settings: tinySettings(mode, 1), steps: 1, capacities: [2, 1, 1] });
    const bytes = tensorBytesByKind(run.traffic);
    const total = [...bytes.values()].reduce((a, b) => a + b, 0);
    const rank = 4;
    const deltas = tokens * (mode === "core" ? rank : headSize) * heads * targets;
    const inputs =
      { slice: tokens * d, full: tokens * d * devices, core: tokens * rank * heads * targets }[mode];
    const numbers = 3 * tokens * d + layers * (inputs + deltas) + layers * deltas + (layers - 1) * inputs;
    assertEquals(total, 4 * numbers + layers * heads);
  });
}

Deno.test("devices and server count the same", async () => {
  const run = await runSession(model, {
    settings: tinySettings("slice", 3),
    steps: 3,
    capacities: [2, 1, 1],
    pruner: scriptedPruner(PRUNED, ["gradientNorm"]),
  });
  const sums: Record<string, [number, number, number]> = {};
  for (const { ledger } of run.devices) {
    for (const { direction, kind, frames, tensorBytes, frameBytes } of ledger.entries()) {
      const sum = sums[`${direction === "sent" ? "received" : "sent"} ${kind}`] ??= [0, 0, 0];
      sum[0] += frames;
      sum[1] += tensorBytes;
      sum[2] += frameBytes;
    }
  }
  const server = run.traffic.map((
    e,
  ) => [`${e.direction} ${e.kind}`, [e.frames, e.tensorBytes, e.frameBytes]]);
  assertEquals(sums, Object.fromEntries(server));
});

Deno.test("sharing the loss costs one frame a step and no tensor bytes", async () => {
  for (const shareLoss of [false, true]) {
    const settings = tinySettings("slice", 4);
    const pruner = scriptedPruner(PRUNED);
    const run = await runSession(model, { settings, steps: 4, capacities: [3, 1], pruner, shareLoss });
    assertEquals(countedFrames(run.traffic), expectedFrames(run, false, shareLoss));
    assertEquals(
      sorted(tensorBytesByKind(run.traffic)),
      sorted(expectedBytesByKind(run.records, settings, run.counts, 0)),
    );
    assertEquals(run.records.map((r) => r.loss), shareLoss ? [...run.losses] : [null, null, null, null]);
  }
});

Deno.test("evaluation sends no gradients and no statistics, and prunes nothing", async () => {
  const run = await runSession(model, {
    settings: tinySettings("slice", 1),
    steps: 1,
    capacities: [2, 1, 1],
    modes: ["evaluate"],
    pruner: scriptedPruner(PRUNED, ["gradientNorm"]),
  });
  assertEquals(countedFrames(run.traffic), {
    "received hello": 3,
    "sent welcome": 3,
    "received embedding": 1,
    "sent mask": 3,
    "sent input": 9,
    "received delta": 9,
    "sent hidden": 1,
    "received finished": 1,
    "sent end": 3,
  });
  assertEquals(run.records[0]!.kept, [4, 4, 4]);
});

Deno.test("a step's record says what was kept", async () => {
  const run = await runSession(model, {
    settings: tinySettings("slice", 5),
    steps: 5,
    capacities: [2, 1, 1],
    pruner: scriptedPruner(PRUNED),
  });
  assertEquals(run.records.map((r) => r.kept), [[3, 3, 3], [4, 0, 2], [0, 4, 4], [2, 2, 2], [0, 0, 0]]);
  assertEquals(run.records.map((r) => r.mask), PRUNED);
  assertEquals(keptPerLayer(PRUNED[1]!, 3, 4), [4, 0, 2]);
  for (const { bytes, times, tokens } of run.records) {
    assertEquals(tokens, 26);
    assert(bytes > 0);
    for (const time of Object.values(times)) assert(time >= 0);
  }
});
