import { Engine } from "@edgetuner/kernels";
import {
  type Channel,
  checkRunSettings,
  decodeFrame,
  encodeFrame,
  type Frame,
  ProtocolError,
  type RawFrame,
  runUserDevice,
} from "@edgetuner/core";
import { greedyPruner } from "@edgetuner/plugins";
import { emulateLinkChannel } from "@edgetuner/transport";
import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { memoryChannels } from "../support/memory_channel.ts";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import { batchOf, keepAll, TinyGpt2, tinySettings, trainLocally } from "../support/tiny_model.ts";
import {
  expectedBytesByKind,
  maskOf,
  type Passed,
  runSession,
  scriptedPruner,
  tensorBytesByKind,
} from "./_session.ts";
import { until } from "../support/until.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const STEPS = 3;
/** An odd number of sequences, so that the parts differ in size. */
const batch = batchOf(5);
const MASKS = [
  maskOf("0100 0010 0001"),
  maskOf("0000 1111 0110"),
  maskOf("1111 1111 1111"),
  maskOf("1111 0000 1100"),
];

for (const mode of ["slice", "full", "core"] as const) {
  const settings = tinySettings(mode, STEPS);
  const base = { settings, steps: STEPS, batch };
  const whole = await trainLocally(model, settings, keepAll(STEPS), [4], [], batch);

  Deno.test(`${mode} mode: a run with micro-batches learns as the unsplit one, LoRA dropout and all [slow]`, async () => {
    const before = engine.stats.tensors;
    for (const [microBatches, capacities] of [[2, [2, 1, 1]], [5, [1]]] as const) {
      const split = { ...settings, microBatches };
      const run = await runSession(model, { ...base, settings: split, capacities });
      assertClose(run.losses, whole.losses, TOLERANCE.steps, "losses");
      assertClose(run.weights, whole.weights, TOLERANCE.steps, "weights");
      // The same parts added up in the same order in one process: the same bits.
      const local = await trainLocally(model, split, keepAll(STEPS), run.counts, [], batch);
      assertEquals(run.losses, local.losses);
      assertEquals(run.weights, local.weights);
      assertEquals(engine.stats.tensors, before, "tensors left behind");
    }
  });

  Deno.test(`${mode} mode: pruned and with evaluation in between, micro-batches change nothing [slow]`, async () => {
    const modes = ["evaluate", "train", "train", "evaluate", "train", "train", "evaluate"] as const;
    const options = { ...base, settings: tinySettings(mode, 4), steps: 4, modes, capacities: [2, 1, 1] };
    const run = (microBatches: number) =>
      runSession(model, {
        ...options,
        settings: { ...options.settings, microBatches },
        pruner: scriptedPruner(MASKS, ["gradientNorm", "loraNorm"]),
      });
    const [unsplit, split] = [await run(1), await run(4)];
    assertClose(split.losses, unsplit.losses, TOLERANCE.steps, "losses");
    assertClose(split.weights, unsplit.weights, TOLERANCE.steps, "weights");
    // Evaluation goes forward only: what the formula says of Deltas holds for both kinds of steps.
    for (const result of [unsplit, split]) {
      const expected = expectedBytesByKind(result.records, options.settings, result.counts, 2);
      assertEquals(tensorBytesByKind(result.traffic).get("delta"), expected.get("delta"));
    }
  });

  Deno.test(`${mode} mode: the same run twice gives the same bits, in whatever order frames arrive [slow]`, async () => {
    let seed = 1;
    const run = () =>
      runSession(model, {
        ...base,
        settings: { ...settings, microBatches: 3 },
        capacities: [2, 1, 1],
        pruner: greedyPruner({ warmupSteps: 1 }),
        wrap: (channel) =>
          emulateLinkChannel(
            channel,
            { bandwidthBytesPerSecond: 1e9, latencyMs: 0.5, jitterMs: 4 },
            { seed: seed++ },
          ),
      });
    const [first, second] = [await run(), await run()];
    assertEquals(first.losses, second.losses);
    assertEquals(first.weights, second.weights);
    assertEquals(first.records.map((r) => r.mask), second.records.map((r) => r.mask));
  });

  Deno.test(`${mode} mode: without any overlap the bits are the same [slow]`, async () => {
    const run = (overlap: boolean) =>
      runSession(model, { ...base, settings: { ...settings, overlap }, capacities: [2, 1, 1] });
    const [without, withOverlap] = [await run(false), await run(true)];
    assertEquals(without.losses, withOverlap.losses);
    assertEquals(without.weights, withOverlap.weights);
  });

  // A codec writes what it is given: one mode is enough.
  for (const codec of mode === "slice" ? ["f32", "int8"] : ["f32"]) {
    Deno.test(`${mode} mode, ${codec}: micro-batches put as many tensor bytes on the wire, in more frames [slow]`, async () => {
      const settings = { ...tinySettings(mode, 4), codec };
      const run = (microBatches: number) =>
        runSession(model, {
          ...base,
          settings: { ...settings, microBatches },
          steps: 4,
          capacities: [2, 1, 1],
          pruner: scriptedPruner(MASKS, ["gradientNorm"]),
        });
      const [unsplit, split] = [await run(1), await run(3)];
      const bytes = (result: typeof split) =>
        Object.fromEntries([...tensorBytesByKind(result.traffic)].sort(([a], [b]) => a.localeCompare(b)));
      const expected = expectedBytesByKind(split.records, { ...settings, microBatches: 3 }, split.counts, 1);
      assertEquals(bytes(split), Object.fromEntries([...expected].sort(([a], [b]) => a.localeCompare(b))));
      assertEquals(bytes(split), bytes(unsplit));
      for (const entry of unsplit.traffic) {
        const { frames } = split.traffic.find((e) =>
          e.kind === entry.kind && e.direction === entry.direction
        )!;
        const isSplit = /^(input|delta|hidden)/.test(entry.kind);
        assertEquals(frames, isSplit ? 3 * entry.frames : entry.frames, entry.kind);
      }
    });
  }
}

Deno.test("micro-batches are in flight at the same time", async () => {
  const passed: Passed[] = [];
  await runSession(model, {
    settings: { ...tinySettings("slice", 1), microBatches: 2 },
    steps: 1,
    batch,
    capacities: [1],
    onFrame: (frame) => void passed.push(frame),
    wrap: (channel) => emulateLinkChannel(channel, { bandwidthBytesPerSecond: 1e9, latencyMs: 15 }),
  });
  const order = passed.filter(({ frame }) => ["input", "delta"].includes(frame.kind))
    .map(({ frame }) => `${frame.kind} ${frame.layer}.${frame.microBatch ?? 0}`);
  const at = (what: string) => order.indexOf(what);
  for (const layer of [0, 1, 2]) {
    assert(at(`input ${layer}.1`) < at(`input ${layer + 1}.0`) || layer === 2, `${order}`);
    assertEquals(passed.filter(({ frame }) => frame.kind === "input" && frame.layer === layer).length, 2);
  }
  // The second one's X is under way before the first one's Deltas are back at the edge server.
  const [x1, d0] = [at("input 0.1"), at("delta 0.0")];
  assert(x1 >= 0 && d0 >= 0 && x1 - d0 <= 1, `${order}`);
});

Deno.test("a micro-batch goes back before another one has gone forward, and the bits stay the same", async () => {
  const settings = { ...tinySettings("full", 2), microBatches: 2 };
  const order: string[] = [];
  const run = await runSession(model, {
    settings,
    steps: 2,
    batch,
    capacities: [2, 1, 1],
    onFrame: ({ frame }) => void order.push(`${frame.kind} ${frame.step}.${frame.microBatch ?? 0}`),
    // The second micro-batch's last layer is on its way to the devices until the first one has come back so far.
    wrap: (channel) => ({
      ...channel,
      peer: channel.peer,
      closed: channel.closed,
      send: (bytes, options) => channel.send(bytes, options),
      receive: async (options) => {
        const bytes = await channel.receive(options);
        const frame = bytes === null ? null : decodeFrame(bytes);
        const isLate = frame?.kind === "hidden" && (frame.microBatch ?? 0) === 1;
        if (isLate) {
          await until(() => order.includes(`deltaGradient ${frame.step}.0`), "the first one comes back");
        }
        return bytes;
      },
      close: (reason) => channel.close(reason),
      [Symbol.asyncDispose]: () => channel.close(),
    }),
  });
  assert(order.indexOf("deltaGradient 0.0") < order.indexOf("hiddenGradient 0.1"), `${order}`);
  const local = await trainLocally(model, settings, keepAll(2), run.counts, [], batch);
  assertEquals(run.losses, local.losses);
  assertEquals(run.weights, local.weights);
});

/** Changes frames that a device sends. */
function changed(channel: Channel, change: (frame: Frame) => RawFrame): Channel {
  return {
    peer: channel.peer,
    closed: channel.closed,
    send: (bytes, options) => channel.send(encodeFrame(change(decodeFrame(bytes))), options),
    receive: (options) => channel.receive(options),
    close: (reason) => channel.close(reason),
    [Symbol.asyncDispose]: () => channel.close(),
  };
}

Deno.test("an answer for another micro-batch ends the run with a ProtocolError, and leaves no tensors", async () => {
  for (const kind of ["delta", "inputGradient"]) {
    for (const other of [1, 7]) {
      const before = engine.stats.tensors;
      const run = runSession(model, {
        settings: { ...tinySettings("slice", 2), microBatches: 2 },
        steps: 2,
        batch,
        capacities: [1],
        wrap: (channel) =>
          changed(
            channel,
            (frame) =>
              frame.kind === kind && frame.layer === 1 && !frame.microBatch
                ? { ...frame, microBatch: other }
                : frame,
          ),
      });
      await assertRejects(() => run, ProtocolError, "must be of micro-batch 0");
      // The device's head modules are lost with the failed run: three layers of four tensors, and head lists.
      await until(() => engine.stats.tensors - before < 40, "the device puts away what it has");
    }
  }
});

/** What a device answers to an edge server that is made up. */
async function deviceFaces(frames: readonly Partial<RawFrame>[]): Promise<unknown> {
  const [near, far] = memoryChannels();
  const device = runUserDevice({ engine, channel: near, name: "d", capacity: 1, timeoutMs: 5000 });
  let sequence = 0;
  const say = (frame: Partial<RawFrame>) => {
    const blank = { kind: "mask", run: "r", step: 0, layer: 0, meta: {}, tensors: [] } as const;
    return far.send(encodeFrame({ ...blank, ...frame, sequence: sequence++ }));
  };
  const model = { layers: 3, heads: 4, hidden: 48 };
  const settings = checkRunSettings({ ...tinySettings("slice", 2), microBatches: 2 });
  const meta = { run: "r", settings, model, range: { first: 0, count: 4 }, statistics: [] };
  await far.receive();
  await say({ kind: "welcome", meta });
  for (const frame of frames) await say(frame).catch(() => {});
  const result = await device;
  result.modules?.[Symbol.dispose]();
  return result.error;
}

Deno.test("a device refuses micro-batches that are unknown, out of order or of another size", async () => {
  const mask = (rows: unknown) => ({
    meta: { mode: "train", lowest: 0, rows },
    tensors: [{ dtype: "u8", shape: [3, 4], data: new Uint8Array(12) }],
  });
  const tensor = (...shape: number[]) => ({
    dtype: "f32",
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)),
  });
  const input = (microBatch: number, layer: number, rows: number): Partial<Frame> => ({
    kind: "input",
    layer,
    microBatch,
    tensors: [tensor(4, rows, 12)],
  });
  const faults: [string, Partial<Frame>[], string][] = [
    ["unknown", [mask([6, 5]), input(2, 0, 5)], "must be below 2"],
    ["a layer left out", [mask([6, 5]), input(0, 0, 6), input(1, 1, 5)], "must be of layer 0"],
    ["a layer twice", [mask([6, 5]), input(1, 0, 5), input(1, 0, 5)], "must be of layer 1"],
    ["rows of another one", [mask([6, 5]), input(1, 0, 6)], "[4,5,12]"],
    ["unknown without a split", [mask([11]), input(1, 0, 5)], "must be below 1"],
    ["rows left out", [mask(undefined)], `"mask.rows" must be a list of 1 to 32`],
    ["no rows", [mask([])], `"mask.rows" must be a list of 1 to 32`],
    ["rows of zero", [mask([6, 0])], `"mask.rows" must be an integer from 1`],
    ["no list", [mask("two")], `"mask.rows" must be a list of 1 to 32`],
    ["null", [mask([null])], `"mask.rows" must be an integer from 1`],
    ["back too early", [
      mask([6, 5]),
      ...[0, 1, 2].map((layer) => input(1, layer, 5)),
      ...[0, 1].map((layer) => input(0, layer, 6)),
      { kind: "deltaGradient", layer: 2, tensors: [tensor(2, 4, 6, 12)] },
    ], `must be "input": it is "deltaGradient"`],
    ["another step in between", [mask([6, 5]), input(0, 0, 6), { ...mask([6, 5]), step: 1 }], "must be done"],
  ];
  for (const [what, frames, message] of faults) {
    const before = engine.stats.tensors;
    const error = await deviceFaces(frames);
    assertInstanceOf(error, ProtocolError, what);
    assert(error.message.includes(message), `${what}: ${error.message}`);
    assertEquals(engine.stats.tensors, before, `${what}: tensors left behind`);
  }
});
