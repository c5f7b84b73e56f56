import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { evenMask } from "./even_mask.ts";
import { ENVELOPE_BYTES, plan, type PlanOptions } from "./plan.ts";
import {
  checkCompute,
  type ComputeModel,
  headsBackwardWork,
  headsForwardWork,
  layerFlops,
  layerWork,
  lossWork,
  MODEL_SIZES,
  segmentMs,
  TYPICAL_COMPUTE,
  updateWork,
  wholeStepWork,
} from "./compute.ts";
import { LINK_PROFILES, type LinkProfile } from "./link_profile.ts";
import { encodeFrame, type Frame, stepTraffic } from "@edgetuner/core";

const MODEL = { layers: 5, heads: 6, hidden: 24, vocabulary: 50 };
const COMPUTE: ComputeModel = {
  edgeServer: { gflops: 1, overheadMs: 0.25 },
  device: { gflops: 0.5, overheadMs: 0.5 },
};
const COMMON: PlanOptions = { model: MODEL, batch: 2, length: 7, devices: 3, compute: COMPUTE };

Deno.test("operations of a layer, counted by hand", () => {
  const size = { model: MODEL, lora: { mode: "slice", targets: ["q", "v"], rank: 3 }, length: 7 } as const;
  // T = 14, d = 24, F = 96: products 2 m k n.
  assertEquals(layerFlops(size, 14), {
    norm: 8 * 14 * 24,
    qkv: 2 * 14 * 24 * 72,
    attention: 2 * 14 * 7 * 24,
    projection: 2 * 14 * 24 * 24,
    feedForward: 2 * 14 * 24 * 96 * 2,
  });
  const gated = { ...size, model: { ...MODEL, inner: 40, gated: true } };
  assertEquals(layerFlops(gated, 14).feedForward, 3 * 2 * 14 * 24 * 40);
  // D = 4: for each of 5 heads and 2 targets a product with A [3, 4] and one with B [4, 3].
  assertEquals(headsForwardWork(size, 14, 5).flops, 5 * 2 * 2 * (2 * 14 * 4 * 3));
  // Back: dDown, dB, dA, and dX unless it is the lowest layer.
  assertEquals(
    headsBackwardWork(size, { tokens: 14, kept: 5, needsInput: true }).flops,
    5 * 2 * 4 * (2 * 14 * 4 * 3),
  );
  assertEquals(
    headsBackwardWork(size, { tokens: 14, kept: 5, needsInput: false }).flops,
    5 * 2 * 3 * (2 * 14 * 4 * 3),
  );
  const full = { ...size, lora: { ...size.lora, mode: "full" as const } };
  assertEquals(headsForwardWork(full, 14, 5).flops, 5 * 2 * (2 * 14 * 24 * 3 + 2 * 14 * 3 * 4));
  assertEquals(updateWork(full, 2).flops, 14 * 2 * 2 * 3 * (24 + 4));
  assert(
    lossWork(size, { tokens: 14, counted: 14, training: true }).flops >
      lossWork(size, { tokens: 14, counted: 3, training: true }).flops,
  );
  assertEquals(
    lossWork(size, { tokens: 14, counted: 3, training: true }).flops,
    2 * lossWork(size, { tokens: 14, counted: 3, training: false }).flops,
  );
});

Deno.test("segmentMs() takes the segment's own rate, then the party's", () => {
  const party = { gflops: 2, overheadMs: 1, segments: { norm: { gflops: 4, overheadMs: 0 } } };
  assertEquals(segmentMs(party, { name: "norm", flops: 8e6 }), 2);
  assertEquals(segmentMs(party, { name: "qkv", flops: 8e6 }), 5);
});

Deno.test("checkCompute() refuses what is missing or out of range", () => {
  assertThrows(() => checkCompute({} as ComputeModel), TypeError, "edgeServer must be given");
  const wrong = { ...COMPUTE, device: { gflops: 0, overheadMs: 0 } };
  assertThrows(() => checkCompute(wrong), RangeError, "device");
  const missing = { ...COMPUTE, dataDevice: { gflops: 1 } } as unknown as ComputeModel;
  assertThrows(() => checkCompute(missing), TypeError, "dataDevice");
  const segment = {
    ...COMPUTE,
    device: { ...COMPUTE.device, segments: { norm: { gflops: 1, overheadMs: -1 } } },
  };
  assertThrows(() => checkCompute(segment), RangeError, "segment norm");
});

Deno.test("evenMask() keeps the share of the heads, in the share of the layers, evenly", () => {
  for (const counts of [[6], [3, 2, 1], [1, 1, 1, 1, 1, 1], [7, 4]]) {
    const heads = counts.reduce((a, b) => a + b, 0);
    for (const layers of [1, 5, 24]) {
      for (const keep of [0, 0.125, 1 / 3, 0.5, 0.73, 1]) {
        const mask = evenMask(counts, { layers, keep });
        const perLayer = Array.from(
          { length: layers },
          (_, l) => mask.subarray(l * heads, (l + 1) * heads).reduce((sum, z) => sum + 1 - z, 0),
        );
        assertEquals(perLayer.reduce((a, b) => a + b, 0), Math.round(keep * layers * heads));
        assert(Math.max(...perLayer) - Math.min(...perLayer) <= 1, perLayer.join());
      }
    }
  }
  const mask = evenMask([3, 3], { layers: 4, keep: 0.25, keepLayers: 0.5 });
  const kept = [0, 1, 2, 3].map((l) => mask.subarray(6 * l, 6 * l + 6).filter((z) => z === 0).length);
  assertEquals(kept.toSorted(), [0, 0, 3, 3]);
  assertThrows(() => evenMask([1], { layers: 1, keep: 1.5 }), RangeError, "keep must be from 0 to 1");
});

Deno.test("plan(): tensor bytes are those of the formula, for any mode, mask and statistics", () => {
  for (const mode of ["slice", "full", "core"] as const) {
    for (const keep of [1, 0.4, 0]) {
      for (const statistics of [0, 2]) {
        const lora = { mode, targets: ["q", "k", "v"] as const, rank: 4 };
        const forecast = plan({ ...COMMON, lora, keep, statistics });
        const mask = evenMask(forecast.headsPerDevice, { layers: 5, keep });
        const formula = stepTraffic({
          ...{ layers: 5, heads: 6, hidden: 24, tokens: 14, targets: 3, rank: 4, mode, statistics, mask },
          headsPerDevice: forecast.headsPerDevice,
        });
        assertEquals(forecast.tensorBytes, [...formula.values()].reduce((a, b) => a + b, 0));
        assertEquals(forecast.frameBytes, forecast.tensorBytes + forecast.frames * ENVELOPE_BYTES);
        assertEquals(forecast.kept, Math.round(keep * 30));
      }
    }
  }
  const half = plan({ ...COMMON, bytesPerNumber: 2 });
  // Masks are bytes whatever a number takes.
  assertEquals(2 * (half.tensorBytes - 30), plan(COMMON).tensorBytes - 30);
});

Deno.test("an envelope has about as many bytes as plans take it to have", () => {
  const frame: Frame = {
    kind: "deltaGradient",
    run: "a1b2c3d4",
    sequence: 12_345,
    step: 300,
    layer: 20,
    meta: {},
    tensors: [{ dtype: "f32", shape: [2, 5, 2048, 64], data: new Float32Array(2 * 5 * 2048 * 64) }],
  };
  const envelope = encodeFrame(frame).length - 4 * 2 * 5 * 2048 * 64;
  assert(Math.abs(envelope - ENVELOPE_BYTES) < 20, `${envelope}`);
});

Deno.test("plan(): the server alone takes the sum of its work and sends nothing", () => {
  const lora = { mode: "slice", targets: ["q", "v"], rank: 8 } as const;
  const forecast = plan({ ...COMMON, lora, system: "serverTuner" });
  const work = wholeStepWork({ model: MODEL, lora, length: 7 }, 14, 14);
  // Three base segments and one of the heads each way, less the lowest layer's product back.
  assertEquals(work.length, 1 + 5 * 4 + 1 + 5 * 3 - 1 + 1);
  assertAlmostEquals(
    forecast.msPerStep,
    work.reduce((sum, s) => sum + segmentMs(COMPUTE.edgeServer, s), 0),
    1e-9,
  );
  assertEquals([forecast.tensorBytes, forecast.frames], [0, 0]);
  assert(layerWork({ model: MODEL, lora, length: 7 }, "rest", 14).flops > 0);
});

Deno.test("plan(): one exchange, calculated by hand", () => {
  // One layer, one head, one device; computers that take 1, 2 and 3 ms for anything.
  const link: LinkProfile = {
    name: "by hand",
    up: { bandwidthMbit: 8, latencyMs: 10 }, // 1000 bytes a millisecond
    down: { bandwidthMbit: 80, latencyMs: 5 },
  };
  const compute: ComputeModel = {
    edgeServer: { gflops: 1e9, overheadMs: 1 },
    device: { gflops: 1e9, overheadMs: 2 },
    dataDevice: { gflops: 1e9, overheadMs: 3 },
  };
  const model = { layers: 1, heads: 1, hidden: 8, vocabulary: 10 };
  const lora = { mode: "slice", targets: ["q"], rank: 4 } as const;
  const { msPerStep, edgeComputeMs, deviceComputeMs } = plan({
    ...{ model, lora, batch: 1, length: 100, devices: 1, link, compute, statistics: 1 },
  });
  const frame = (bytes: number) => bytes + ENVELOPE_BYTES;
  const up = (bytes: number) => frame(bytes) / 1000 + 10;
  const down = (bytes: number) => frame(bytes) / 10_000 + 5;
  const state = 100 * 8 * 4;
  // prune, mask and norm; X behind the mask; the device's Delta comes long after the base product.
  const forward = 1 + 1 + Math.max(0, frame(1) / 10_000 - 1) + down(state) + 2 + up(state) + 1;
  const loss = down(state) + 3 + up(state);
  // E of the next step goes up behind dh_L, and is through before the statistics come.
  const backward = 1 + down(state) + 2 + 2 + up(4);
  assertAlmostEquals(msPerStep, forward + loss + backward, 1e-3);
  assertAlmostEquals(edgeComputeMs, 5, 1e-3);
  assertAlmostEquals(deviceComputeMs[0]!, 2 + 3 + 3 + 2 + 2, 1e-3);
});

Deno.test("plan(): fewer heads, faster links and more devices never make a step longer", () => {
  const model = MODEL_SIZES["gpt2-medium"];
  const wide = { ...COMMON, model, batch: 4, length: 512, compute: TYPICAL_COMPUTE };
  const ms = (more: Partial<PlanOptions>) => plan({ ...wide, ...more }).msPerStep;
  assert(ms({ keep: 0.5 }) < ms({}));
  assert(ms({ keep: 0.5, keepLayers: 0.6 }) < ms({ keep: 0.5 }));
  assert(ms({ link: LINK_PROFILES["lan-1g"] }) < ms({ link: LINK_PROFILES["wifi-5"] }));
  assert(ms({ link: LINK_PROFILES["wifi-5"] }) < ms({ link: LINK_PROFILES.lte }));
  const link = LINK_PROFILES["lan-1g"];
  assert(ms({ link, devices: 3 }) < ms({ link, devices: 1 }));
  // On a shared link more devices carry no more.
  assert(ms({ devices: 3 }) > 0.9 * ms({ devices: 1 }));
  assert(ms({ link, devices: [{}, { speed: 0.01 }, {}] }) > ms({ link, devices: 3 }));
  assert(ms({ bytesPerNumber: 1 }) < ms({}));
  assert(ms({ system: "serverTuner" }) < ms({}));
  const none = plan({ ...wide, keep: 0, statistics: 1 });
  assert(none.frames > 0 && none.msPerStep > 0 && none.kept === 0);
});

Deno.test("plan(): tensor parallelism has two all-reduces a layer each way", () => {
  const forecast = plan({ ...COMMON, system: "tensorParallel" });
  const state = 14 * 24 * 4;
  // E, h_L and dh_L; per device a block's input down and its part up, without the very last one.
  assertEquals(forecast.tensorBytes, state * (3 + 3 * (5 * 4 * 2 - 1)));
  assert(forecast.msPerStep > plan(COMMON).msPerStep);
});

Deno.test("plan() refuses what cannot be", () => {
  assertThrows(() => plan({ ...COMMON, devices: 7 }), RangeError, "1 to 6 devices");
  assertThrows(() => plan({ ...COMMON, batch: 0 }), RangeError, "batch must be a positive integer");
  assertThrows(() => plan({ ...COMMON, keep: -1 }), RangeError, "keep");
});
