import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import {
  encodeFrame,
  type Pruner,
  type PrunerInput,
  type RunSettings,
  type StepRecord,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { type LossyOptions, type LossyResult, type PassedFrame, runLossy } from "./_lossy.ts";
import { shallowModel, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { maskOf, scriptedPruner } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine, shallowModel());

/** Training records. */
const trained = (records: readonly StepRecord[]) => records.filter((r) => r.mode === "train");

/** Runs in which a pruner prunes the heads that others lost, by the masks. */
class References {
  readonly #options: LossyOptions;
  readonly #known = new Map<string, LossyResult>();

  constructor(options: LossyOptions) {
    this.#options = options;
  }

  async of(records: readonly StepRecord[]): Promise<LossyResult> {
    const masks = trained(records).map(({ mask }) => mask);
    const key = masks.map((mask) => mask.join("")).join();
    let known = this.#known.get(key);
    if (known === undefined) {
      const pruner = scriptedPruner(masks, this.#options.pruner?.needs ?? []);
      known = await runLossy(model, { ...this.#options, pruner, faults: {} });
      assertEquals(known.error, null);
      this.#known.set(key, known);
    }
    return known;
  }
}

/** The frames of a device's channel in a run without a fault. */
async function framesOf(options: LossyOptions, device: number): Promise<PassedFrame[]> {
  const frames: PassedFrame[] = [];
  await runLossy(model, { ...options, faults: { [device]: (passed) => void frames.push(passed) } });
  return frames;
}

/** Losses, and what the devices that are left have learnt, bit for bit. */
function assertSame(lossy: LossyResult, reference: LossyResult, lost: readonly number[], at: string): void {
  const losses = ({ records }: LossyResult) => trained(records).map(({ loss }) => loss);
  assertEquals(losses(lossy), losses(reference), at);
  for (const [i, state] of lossy.states.entries()) {
    if (!lost.includes(i)) assertEquals(state, reference.states[i], `${at}: device ${i}`);
  }
}

/** Cuts the link of device 1 at each of its frames of a step, and compares. */
async function cutEverywhere(options: LossyOptions, step = 1): Promise<Set<number>> {
  const references = new References(options);
  const frames = await framesOf(options, 1);
  const first = frames.findIndex(({ frame }) => frame.kind === "mask" && frame.step === step);
  const last = frames.findIndex(({ frame }) => frame.kind === "mask" && frame.step === step + 1);
  assert(first > 0 && last > first + 5);
  const prunedFrom = new Set<number>();
  for (let cut = first; cut <= last; cut++) {
    const lossy = await runLossy(model, {
      ...options,
      faults: { 1: ({ index }) => index === cut ? "cut" : undefined },
    });
    const { frame: { kind } } = frames[cut]!;
    const at = `cut at frame ${cut} of ${first} to ${last}, "${kind}"`;
    assertEquals(lossy.error, null, at);
    assertEquals(trained(lossy.records).length, options.steps, at);
    const missed = trained(lossy.records).filter(({ away }) => away !== undefined).map((r) => r.step);
    assert(missed.includes(step + 1), at);
    prunedFrom.add(missed[0]!);
    assertSame(lossy, await references.of(lossy.records), [1], at);
  }
  return prunedFrom;
}

function settingsOf(more: Partial<RunSettings>): RunSettings {
  return { ...tinySettings("slice", 4), ...more };
}

for (
  const [name, capacities, more, pruner] of [
    ["two devices", [1, 1], {}, []],
    ["three devices, clipping, statistics", [2, 1, 1], { clipNorm: 0.5 }, ["gradientNorm", "loraNorm"]],
    ["two devices, micro-batches and accumulation", [1, 1], { microBatches: 2, accumulate: 2 }, []],
    ["two devices, a codec with a state", [1, 1], { codec: "int8-feedback" }, []],
    ["two devices, few bits", [1, 1], { codec: "int8-feedback,x=int4,delta=int8-group" }, []],
    ["two devices, rank space", [1, 1], { lora: tinySettings("core", 4).lora }, []],
    ["two devices, what is pruned fades", [1, 1], { prunedFade: 0.5 }, []],
  ] as const
) {
  Deno.test(`a link cut at any message of a step: ${name}: as if its heads were pruned, bit for bit [slow]`, async () => {
    const before = engine.stats.tensors;
    // Where heads fade, some of the device that is left do, a layer's all together too.
    const pruned = "prunedFade" in more ? [maskOf("1000 1100")] : [];
    const masks = [new Uint8Array(8), ...pruned];
    const prunedFrom = await cutEverywhere({
      settings: settingsOf(more),
      steps: 4,
      capacities,
      pruner: scriptedPruner(masks, pruner),
    });
    assertEquals([...prunedFrom], [1, 2]);
    assertEquals(engine.stats.tensors, before);
  });
}

Deno.test("two devices lost in one step, one of them in its second attempt: as if both were pruned [slow]", async () => {
  const options = { settings: settingsOf({ clipNorm: 0.5 }), steps: 3, capacities: [2, 1, 1] };
  const references = new References(options);
  for (const kind of ["mask", "input", "delta", "deltaGradient", "squaredNorm", "clip"]) {
    let again = false;
    const lossy = await runLossy(model, {
      ...options,
      faults: {
        1: ({ frame }) => frame.step === 1 && frame.kind === "inputGradient" ? "cut" : undefined,
        2: ({ frame }) => {
          again ||= frame.kind === "restart";
          return again && frame.kind === kind ? "cut" : undefined;
        },
      },
    });
    assertEquals(lossy.error, null, kind);
    // The edge server has sent the factor, and the step is over for it.
    const second = kind === "clip" ? [2] : [2, 3];
    assertEquals(trained(lossy.records).map(({ away }) => away), [undefined, second, [2, 3]], kind);
    assertSame(lossy, await references.of(lossy.records), [1, 2], kind);
  }
});

Deno.test("a device lost in evaluation is missed there, and the training is as if it was pruned from then on [slow]", async () => {
  const options: LossyOptions = {
    settings: settingsOf({}),
    steps: 3,
    capacities: [1, 1],
    modes: ["evaluate", "train", "evaluate", "evaluate", "train", "train", "evaluate"],
  };
  const references = new References(options);
  const frames = (await framesOf(options, 1)).map(({ frame, index }) => ({ frame, index }));
  const isPass = ({ frame }: { frame: PassedFrame["frame"] }) => frame.kind === "mask";
  const second = frames.filter(isPass)[2]!.index;
  const third = frames.filter(isPass)[3]!.index;
  // What evaluation gives where the device was away from the start of the first of the two batches.
  const losses = async (cut: number) => {
    const lossy = await runLossy(model, {
      ...options,
      faults: { 1: ({ index }) => index === cut ? "cut" : undefined },
    });
    assertEquals(lossy.error, null);
    assertSame(lossy, await references.of(lossy.records), [1], `cut at ${cut}`);
    assertEquals(lossy.records.map(({ away }) => away !== undefined), [0, 0, 1, 1, 1, 1, 1].map(Boolean));
    return lossy.records.map(({ loss }) => loss);
  };
  const expected = await losses(second);
  for (let cut = second + 1; cut < third; cut++) assertEquals(await losses(cut), expected, `cut at ${cut}`);
});

Deno.test("with no device left that has heads, or without the data, the run ends and says why", async () => {
  const options: LossyOptions = {
    settings: settingsOf({}),
    steps: 3,
    capacities: [1],
    dataApart: true,
    server: { lossWaitMs: 0 },
  };
  for (const device of [0, 1]) {
    const { error, records } = await runLossy(model, {
      ...options,
      faults: { [device]: ({ frame }) => frame.step === 1 ? "cut" : undefined },
    });
    assertEquals(error?.name, "ChannelClosedError");
    assertStringIncludes(error!.message, `"device ${device}"`);
    assertEquals(records.length, 1);
  }
  const { error } = await runLossy(model, {
    ...{ ...options, capacities: [1, 1], dataApart: false },
    server: { onLoss: "stop" },
    faults: { 1: ({ frame }) => frame.step === 1 ? "cut" : undefined },
  });
  assertStringIncludes(error!.message, `"device 1"`);
});

Deno.test("numbers that are not finite, and other shapes, prune the device that sent them; it hears why", async () => {
  const options = { settings: settingsOf({}), steps: 3, capacities: [1, 1] };
  const references = new References(options);
  for (
    const [spoil, name, says] of [
      [(values: Float32Array) => values.fill(NaN), "TrainingError", "must be finite"],
      [(values: Float32Array) => values.subarray(1), "ProtocolError", "must be"],
    ] as const
  ) {
    const lossy = await runLossy(model, {
      ...options,
      faults: {
        1: ({ frame }) => {
          if (frame.kind !== "delta" || frame.step !== 1) return;
          const [tensor] = frame.tensors;
          const data = spoil((tensor!.data as Float32Array).slice());
          const shape = data.length === tensor!.data.length ? tensor!.shape : [1, 1, 1, data.length];
          return encodeFrame({ ...frame, tensors: [{ ...tensor!, shape, data }] });
        },
      },
    });
    assertEquals(lossy.error, null);
    assertSame(lossy, await references.of(lossy.records), [1], says);
    const away = lossy.events.filter((e) => e.type === "away");
    assertEquals(away.map(({ device, step }) => [device.name, step]), [["device 1", 1]]);
    assertStringIncludes(away[0]!.reason, says);
    assertStringIncludes(away[0]!.reason, `"device 1"`);
    assertEquals(name === "TrainingError", (lossy.devices[1]!.error as Error).name === name);
  }
});

Deno.test("a device that keeps the others waiting longer than the deadline of a step is pruned", async () => {
  const options = { settings: settingsOf({}), steps: 3, capacities: [1, 1] };
  const lossy = await runLossy(model, {
    ...options,
    server: { stepDeadlineMs: 300 },
    faults: { 1: ({ frame }) => frame.step === 1 && frame.kind === "delta" ? "hold" : undefined },
  });
  assertEquals(lossy.error, null);
  assertSame(lossy, await new References(options).of(lossy.records), [1], "late");
  const [away] = lossy.events.filter((e) => e.type === "away");
  assertStringIncludes(away!.reason, "its part of a step must take at most 0.3 s");
});

Deno.test("pruners learn of a head that is away what they learn of a pruned one", async () => {
  const inputs: PrunerInput[] = [];
  const pruner: Pruner = {
    ...scriptedPruner([new Uint8Array(8)], ["gradientNorm", "loraNorm"]),
    decide(input) {
      inputs.push(input);
      return [{ mask: new Uint8Array(8) }, null];
    },
  };
  const { records } = await runLossy(model, {
    ...{ settings: settingsOf({}), steps: 4, capacities: [1, 1], pruner },
    faults: { 1: ({ frame }) => frame.step === 2 && frame.kind === "delta" ? "cut" : undefined },
  });
  assertEquals(records.map(({ away }) => away), [undefined, undefined, [2, 3], [2, 3]]);
  const [, , second, third] = inputs;
  const heads = [2, 3, 6, 7];
  assertEquals(heads.map((i) => third!.lastMask![i]), heads.map(() => 1));
  assertEquals(heads.map((i) => third!.gradientNorm![i]), heads.map(() => 0));
  assertEquals(heads.map((i) => third!.loraNorm![i]), heads.map((i) => second!.loraNorm![i]));
  assert(heads.every((i) => second!.loraNorm![i]! > 0));
});
