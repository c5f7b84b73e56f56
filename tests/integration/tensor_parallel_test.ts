import { Engine } from "@edgetuner/kernels";
import {
  allocateShares,
  ChannelClosedError,
  checkRunSettings,
  DeadlineError,
  EdgeServer,
  type EdgeServerEvent,
  findCodec,
  type FrameKind,
  HandshakeError,
  type HeadWeights,
  Peer,
  ProtocolError,
  type RunSettings,
  runTensorParallelDevice,
  runUserDevice,
  shardBytes,
  shardShapes,
  shareMemory,
  type StepMode,
  type StepRecord,
  type TensorParallelDeviceResult,
  TensorParallelServer,
  type TensorParallelServerOptions,
  tensorParallelTraffic,
  TrainingError,
} from "@edgetuner/core";
import { inProcessTransport } from "@edgetuner/transport";
import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import { flatten, keepAll, sideBySide, TinyGpt2, tinySettings, trainLocally } from "../support/tiny_model.ts";
import {
  admitAll,
  dataSide,
  eventOf,
  openLink,
  serverOptions as splitOptions,
  tensorBytesByKind,
  type TransportName,
} from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const SHAPE = { layers: 3, heads: 4, hidden: 48 };
const LARGEST_STEP = { batch: 2, length: 13 };
const STEPS = 3;
const PLENTY = 2 ** 30;

function serverOptions(
  settings: RunSettings,
  options: Partial<TensorParallelServerOptions> = {},
): TensorParallelServerOptions {
  return {
    engine,
    model: model.model,
    fingerprint: "tiny",
    settings,
    devices: 1,
    largestStep: LARGEST_STEP,
    timeoutMs: 20_000,
    joinTimeoutMs: 20_000,
    ...options,
  };
}

interface Options {
  readonly settings: RunSettings;
  /** The server's own, then those of the devices in order of joining. */
  readonly capacities: readonly [number, ...number[]];
  readonly transport?: TransportName;
  readonly shareLoss?: boolean;
  readonly dataApart?: boolean;
  readonly modes?: readonly StepMode[];
  /** Bytes of memory of each device. */
  readonly memory?: readonly number[];
  readonly onEvent?: (event: EdgeServerEvent) => void;
}

/** Runs a server and its devices to the end; weights are of all ranks side by side. */
async function runTensorParallel(options: Options) {
  const { settings, capacities: [own, ...capacities], transport = "in-process", memory } = options;
  using server = new TensorParallelServer(
    serverOptions(settings, { devices: capacities.length, capacity: own }),
  );
  const events: EdgeServerEvent[] = [];
  server.subscribe((event) => {
    events.push(event);
    options.onEvent?.(event);
  });
  const data = dataSide(model, settings.steps, options);
  await using link = openLink(transport);
  const admitting = admitAll(link.listener, server);
  const running = server.start();
  running.catch(() => {}); // awaited below
  const devices: Promise<TensorParallelDeviceResult>[] = [];
  const join = async (capacity: number, withData: boolean) => {
    const i = devices.length;
    const name = `device ${i}`;
    const channel = await link.transport.connect();
    const joined = eventOf(server, (e) => e.type === "joined" && e.device.name === name);
    const device = runTensorParallelDevice({
      engine,
      channel,
      name,
      capacity,
      memory: memory?.[i] ?? PLENTY,
      data: withData ? data : undefined,
      timeoutMs: 20_000,
    });
    device.catch(() => {}); // whoever awaits it gets the error
    devices.push(device);
    await Promise.race([joined, device]);
  };
  for (const [i, capacity] of capacities.entries()) await join(capacity, i === 0 && !options.dataApart);
  if (options.dataApart) await join(0, true);
  const failure = await running.then(() => null, (error: unknown) => error);
  const results = await Promise.allSettled(devices);
  await link.listener[Symbol.asyncDispose]();
  await admitting;
  if (failure !== null) return { failure, results, events, server };
  const done = results.map((r) => {
    if (r.status === "rejected") throw r.reason;
    if (r.value.error !== null) throw r.value.error;
    return r.value;
  });
  const owners = done.filter((d) => d.modules !== null)
    .sort((a, b) => a.welcome.range!.first - b.welcome.range!.first);
  const parts: HeadWeights[][][][] = [await server.modules!.weights()];
  for (const { modules } of owners) {
    parts.push(await modules!.weights());
    modules![Symbol.dispose]();
  }
  return {
    failure: null,
    results,
    events,
    server,
    devices: done,
    records: events.flatMap((e): StepRecord[] => e.type === "step" ? [e.record] : []),
    losses: data.losses,
    weights: flatten(sideBySide(parts)),
    counts: [server.modules!.options.range.count, ...owners.map((d) => d.welcome.range!.count)],
    traffic: server.traffic(),
  };
}

async function completed(options: Options) {
  const run = await runTensorParallel(options);
  if (run.failure !== null) throw run.failure;
  return run;
}

/** Capacities of the ranks, the server's first, and heads of each. */
const [ONE, STRONG, TWO, THREE] = [
  { capacities: [1, 1], counts: [2, 2] },
  { capacities: [1, 3], counts: [1, 3] },
  { capacities: [2, 1, 1], counts: [2, 1, 1] },
  { capacities: [1, 1, 1, 1], counts: [1, 1, 1, 1] },
] as const;
/** Which of them run over which transport. */
const RUNS = {
  slice: { "in-process": [ONE, STRONG, TWO, THREE], websocket: [ONE, TWO, THREE], http: [TWO] },
  full: { "in-process": [ONE, STRONG, TWO, THREE], websocket: [THREE], http: [] },
} as const;

for (const mode of ["slice", "full"] as const) {
  const settings = tinySettings(mode, STEPS);
  const whole = await trainLocally(model, settings, keepAll(STEPS));

  for (const transport of ["in-process", "websocket", "http"] as const) {
    for (const { capacities, counts } of RUNS[mode][transport]) {
      Deno.test(`tensor parallelism, ${mode} mode over ${transport}, heads ${counts}: as the whole model [slow]`, async () => {
        const run = await completed({ settings, capacities, transport, shareLoss: true });
        assertEquals(run.counts, [...counts]);
        assertEquals(run.records.map((r) => r.loss), [...run.losses]);
        // Sums cross ranks in every block: another order of summation than on one machine.
        assertClose(run.losses, whole.losses, TOLERANCE.steps, "losses");
        assertClose(run.weights, whole.weights, TOLERANCE.steps, "weights");
        assertEquals(run.server.status, "ended");
      });
    }
  }

  Deno.test(`tensor parallelism, ${mode} mode: evaluation changes nothing, and the data may be apart`, async () => {
    const modes = ["evaluate", "train", "train", "evaluate", "train"] as const;
    const run = await completed({ settings, capacities: [2, 1, 1], modes, dataApart: true });
    assertEquals(run.devices.map((d) => d.modules === null), [false, false, true]);
    assertEquals(run.records.map((r) => [r.mode, r.step]), [
      ["evaluate", 0],
      ["train", 0],
      ["train", 1],
      ["evaluate", 2],
      ["train", 2],
    ]);
    const losses = run.losses.filter((_, i) => modes[i] === "train");
    assertClose(losses, whole.losses, TOLERANCE.steps, "losses");
    assertClose(run.weights, whole.weights, TOLERANCE.steps, "weights");
  });

  Deno.test(`tensor parallelism, ${mode} mode: the same run twice gives the same bits [slow]`, async () => {
    const options = { settings, capacities: [1, 2, 1] } as const;
    const [first, second] = [await completed(options), await completed(options)];
    assertEquals(first.losses, second.losses);
    assertEquals(first.weights, second.weights);
  });
}

Deno.test("tensor parallelism: memory does not grow from step to step, and is given back [slow]", async () => {
  const start = [engine.stats.tensors, engine.stats.liveBytes];
  const at: { tensors: number; allocatedBytes: number }[] = [];
  await completed({
    settings: tinySettings("full", 40),
    capacities: [1, 2, 1],
    onEvent: (event) => {
      if (event.type === "step") at.push(engine.stats);
    },
  });
  // After a step a device may or may not be done with its update: the least counts.
  const least = (from: number, to: number) => Math.min(...at.slice(from, to).map((s) => s.tensors));
  assert(least(30, 40) <= least(5, 15), `tensors: ${at.map((s) => s.tensors)}`);
  const [early, late] = [at[10]!.allocatedBytes, at[39]!.allocatedBytes];
  assert(late <= early * 1.25, `allocated bytes: ${early} at first, ${late} later`);
  assertEquals([engine.stats.tensors, engine.stats.liveBytes], start);
});

const sorted = (map: Map<FrameKind, number>) => [...map].sort(([a], [b]) => a.localeCompare(b));

Deno.test("tensor parallelism puts on the wire what the formula says, the shares once at the start [slow]", async () => {
  const modes = ["train", "evaluate", "train"] as const;
  for (const [capacities, codec] of [[[1, 1], "f32"], [[2, 1, 1], "f32"], [[2, 1, 1], "f16"]] as const) {
    const settings = { ...tinySettings("slice", 2), codec };
    const run = await completed({ settings, capacities, modes });
    const expected = new Map<FrameKind, number>();
    for (const [i, mode] of modes.entries()) {
      const step = tensorParallelTraffic({
        embeddingRows: run.records[i]!.embeddingRows,
        layers: 3,
        hidden: 48,
        tokens: 26,
        devices: capacities.length - 1,
        mode,
        batch: 2,
        codec: findCodec(codec),
      });
      for (const [kind, bytes] of step) expected.set(kind, (expected.get(kind) ?? 0) + bytes);
    }
    const shares = allocateShares(SHAPE, capacities).slice(1);
    expected.set("shard", shares.reduce((sum, share) => sum + shardBytes(SHAPE, share), 0));
    assertEquals(sorted(tensorBytesByKind(run.traffic)), sorted(expected));
    // Of a training step per device: 8 L - 1 times T * d numbers.
    const perStep = tensorParallelTraffic({ layers: 3, hidden: 48, tokens: 26, devices: 1, mode: "train" });
    const sum = [...perStep.values()].reduce((a, b) => a + b, 0);
    assertEquals(sum, 4 * 26 * 48 * (3 + 8 * 3 - 1));
    // The shares are no part of any step.
    const steps = run.records.reduce((total, r) => total + r.bytes, 0);
    const shard = run.traffic.find((e) => e.kind === "shard")!;
    assertEquals(shard.frames, 3 * shares.length);
    assert(steps < run.server.ledger.totalBytes - shard.tensorBytes);
  }
});

Deno.test("shares cover the model once, and all of them hold what one machine would", () => {
  for (const capacities of [[1], [1, 2], [0.3, 7, 2.2], [1, 1, 1, 1]]) {
    const shares = allocateShares(SHAPE, capacities);
    for (const [which, whole] of [["heads", 4], ["columns", 192]] as const) {
      let next = 0;
      for (const share of shares) {
        assertEquals(share[which].first, next);
        assert(share[which].count > 0);
        next += share[which].count;
      }
      assertEquals(next, whole);
    }
    // Norms are on every rank, the biases of projection and down on the server.
    const all = shares.reduce((sum, share) => sum + shardBytes(SHAPE, share), 0) / 4 / 3;
    const once = 48 * 144 + 144 + 48 * 48 + 48 * 192 + 192 + 192 * 48;
    assertEquals(all, once + shares.length * 4 * 48);
  }
  assertThrows(() => allocateShares(SHAPE, [1, 1, 1, 1, 1]), RangeError, "1 to 4 devices");
});

Deno.test("a share's memory is what a device takes [slow]", async () => {
  for (const mode of ["slice", "full"] as const) {
    const settings = tinySettings(mode, 2);
    using apart = await Engine.create({ adapterClass: "hardware" }); // no texture copies
    const before = apart.stats.allocatedBytes;
    using server = new TensorParallelServer(serverOptions(settings, { capacity: 1 }));
    await using link = openLink("in-process");
    const admitting = admitAll(link.listener, server);
    const running = server.start();
    const join = async (name: string, on: Engine, capacity: number, data: boolean) =>
      runTensorParallelDevice({
        engine: on,
        channel: await link.transport.connect(),
        name,
        capacity,
        memory: PLENTY,
        data: data ? dataSide(model, 2) : undefined,
      });
    const results = await Promise.all([join("data", engine, 0, true), join("worker", apart, 3, false)]);
    await running;
    const [, share] = allocateShares(SHAPE, [1, 3]);
    const { total } = shareMemory(SHAPE, share!, { lora: settings.lora, step: LARGEST_STEP });
    const taken = apart.stats.allocatedBytes - before;
    // Pools round sizes up, by an eighth at most, and keep what is free.
    assert(total <= taken && taken <= total * 1.2, `${mode}: ${total} reckoned, ${taken} taken`);
    results[1]!.modules![Symbol.dispose]();
    assertEquals(apart.stats.tensors, 3, "only the engine's own tensors are left");
    await link.listener[Symbol.asyncDispose]();
    await admitting;
  }
});

Deno.test("a device with too little memory is refused with the figure it needs, and the run fails", async () => {
  const before = engine.stats.tensors;
  const settings = tinySettings("slice", STEPS);
  const shares = allocateShares(SHAPE, [1, 2, 1]);
  const need = shares.map((share) =>
    shareMemory(SHAPE, share, { lora: settings.lora, step: LARGEST_STEP }).total
  );
  const capacities = [1, 2, 1] as const;
  const run = await runTensorParallel({ settings, capacities, memory: [need[1]!, need[2]! - 1] });
  assertInstanceOf(run.failure, HandshakeError);
  const figure = `needs ${need[2]} bytes of memory: it has ${need[2]! - 1}`;
  assert(run.failure.message.includes(figure), run.failure.message);
  const [kept, refused] = run.results;
  assert(refused!.status === "rejected" && refused!.reason instanceof HandshakeError);
  assert(refused!.reason.message.includes(figure), refused!.reason.message);
  assert(
    kept!.status === "rejected" && kept!.reason instanceof ChannelClosedError,
    "the run has ended for it",
  );
  assert(run.events.some((e) => e.type === "refused" && e.reason.includes(figure)));
  assertEquals(run.server.status, "failed");
  assertEquals(engine.stats.tensors, before, "tensors left behind");
  // Enough is enough.
  const enough = await completed({ settings, capacities, memory: need.slice(1) });
  assertEquals(enough.losses.length, STEPS);
});

Deno.test("devices of another system are refused on both sides, and ones without a memory figure", async () => {
  using server = new TensorParallelServer(serverOptions(tinySettings("slice", 1)));
  await using link = openLink("in-process");
  const admitting = admitAll(link.listener, server);
  const channel = await link.transport.connect();
  await assertRejects(
    () => runUserDevice({ engine, channel, name: "split", capacity: 1 }),
    HandshakeError,
    'system "tensorParallel"',
  );
  const split = new EdgeServer(splitOptions(model, tinySettings("slice", 1)));
  const pair = inProcessTransport();
  const refusing = admitAll(pair.listener, split);
  const other = await pair.transport.connect();
  await assertRejects(
    () => runTensorParallelDevice({ engine, channel: other, name: "tensor", capacity: 1, memory: PLENTY }),
    HandshakeError,
    'system "split"',
  );
  await pair.listener[Symbol.asyncDispose]();
  await refusing;
  const running = server.start();
  const names = [["no figure", undefined, 1], ["data", PLENTY, 0]] as const;
  const devices = names.map(async ([name, memory, capacity]) => {
    const data = capacity === 0 ? dataSide(model, 1) : undefined;
    const channel = await link.transport.connect();
    return runTensorParallelDevice({ engine, channel, name, capacity, memory: memory!, data });
  });
  const refused = assertRejects(() => devices[0]!, HandshakeError, "did not say what it has");
  await assertRejects(() => running, HandshakeError, "bytes of memory");
  await refused;
  await assertRejects(() => devices[1]!, ChannelClosedError, "the server ended the run");
  await link.listener[Symbol.asyncDispose]();
  await admitting;
});

Deno.test("devices of one name are told apart by their ids", async () => {
  using server = new TensorParallelServer(serverOptions(tinySettings("slice", 1), { devices: 2 }));
  await using link = openLink("in-process");
  const admitting = admitAll(link.listener, server);
  const running = server.start();
  const devices: Promise<TensorParallelDeviceResult>[] = [];
  for (const id of ["first-device", "other-device"]) {
    const channel = await link.transport.connect();
    const joined = eventOf(server, (e) => e.type === "joined" && e.device.id === id.slice(0, 8));
    const data = devices.length === 0 ? dataSide(model, 1) : undefined;
    const device = runTensorParallelDevice({
      ...{ engine, channel, name: "phone", id, capacity: 1, memory: PLENTY, data, timeoutMs: 20_000 },
    });
    device.catch(() => {}); // awaited below
    devices.push(device);
    await Promise.race([joined, device]);
  }
  await running;
  for (const { error, modules } of await Promise.all(devices)) {
    assertEquals(error, null);
    modules![Symbol.dispose]();
  }
  await link.listener[Symbol.asyncDispose]();
  await admitting;
});

Deno.test("a server with options out of range is not made", () => {
  const settings = tinySettings("slice", 1);
  for (const devices of [0, 4, 1.5]) { // the server needs a head, too
    assertThrows(
      () => new TensorParallelServer(serverOptions(settings, { devices })),
      RangeError,
      "from 1 to 3",
    );
  }
  assertThrows(
    () => new TensorParallelServer(serverOptions(settings, { capacity: 0 })),
    RangeError,
    "capacity must be positive",
  );
  assertThrows(
    () => new TensorParallelServer(serverOptions(settings, { largestStep: { batch: 0, length: 1 } })),
    RangeError,
    "batch must be positive",
  );
});

/** A device that says the right things until it is to send its part of a block, and what comes of it. */
async function wicked(act: (peer: Peer, step: number) => Promise<void>, timeoutMs = 5000): Promise<unknown> {
  const before = engine.stats.tensors;
  using server = new TensorParallelServer(serverOptions(tinySettings("slice", 5), { timeoutMs }));
  await using link = openLink("in-process");
  const admitting = admitAll(link.listener, server);
  const running = server.start();
  running.catch(() => {}); // awaited below
  const data = runTensorParallelDevice({
    engine,
    channel: await link.transport.connect(),
    name: "data",
    capacity: 0,
    memory: PLENTY,
    data: dataSide(model, 5),
  });
  const peer = new Peer(await link.transport.connect(), { timeoutMs: 10_000 });
  await peer.send("hello", {
    meta: {
      system: "tensorParallel",
      name: "wicked",
      capacity: 1,
      memory: PLENTY,
      data: false,
      fingerprint: "",
      sharesLoss: false,
    },
  });
  peer.run = (await peer.receive("welcome")).meta.run;
  const [, share] = allocateShares(SHAPE, [1, 1]);
  for (let layer = 0; layer < 3; layer++) {
    await peer.receive("shard", { layer, shapes: shardShapes(SHAPE, share!) });
  }
  const { step } = await peer.receive("activation", { layer: 0, shapes: [[26, 48]] });
  await act(peer, step);
  const failure = await running.then(() => null, (error: unknown) => error);
  await peer.close();
  const honest = await data;
  assert(honest.error !== null, "the others hear of it");
  await link.listener[Symbol.asyncDispose]();
  await admitting;
  server[Symbol.dispose]();
  assertEquals(engine.stats.tensors, before, "tensors left behind");
  return failure;
}

Deno.test("a device that answers wrongly, leaves or falls silent ends the run, and nothing is left behind", async () => {
  const part = (shape: number[]) => ({
    dtype: "f32" as const,
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)),
  });
  const right = { step: 0, layer: 0, tensors: [part([26, 48])] };
  for (
    const [kind, frame] of [
      ["partial", { ...right, layer: 1 }],
      ["partial", { ...right, step: 1 }],
      ["partial", { ...right, tensors: [part([48, 26])] }],
      ["partialGradient", right],
      ["delta", right],
    ] as const
  ) {
    assertInstanceOf(await wicked((peer) => peer.send(kind, frame)), ProtocolError, kind);
  }
  const spoilt = { ...part([26, 48]), data: new Float32Array(26 * 48).with(7, NaN) };
  const error = await wicked((peer) => peer.send("partial", { ...right, tensors: [spoilt] }));
  assertInstanceOf(error, TrainingError);
  assert(error.message.includes(`"partial" of device "wicked" must be finite`), error.message);
  assertInstanceOf(await wicked((peer) => peer.close("battery empty")), ChannelClosedError);
  assertInstanceOf(await wicked(() => Promise.resolve(), 200), DeadlineError);
});

Deno.test("a step that is larger than memory was reckoned for is refused", async () => {
  using server = new TensorParallelServer(
    serverOptions(tinySettings("slice", 1), { largestStep: { batch: 2, length: 12 } }),
  );
  await using link = openLink("in-process");
  const admitting = admitAll(link.listener, server);
  const running = server.start();
  running.catch(() => {}); // awaited below
  const device = runTensorParallelDevice({
    engine,
    channel: await link.transport.connect(),
    name: "device",
    capacity: 1,
    memory: PLENTY,
    data: dataSide(model, 1),
  });
  await assertRejects(() => running, ProtocolError, "it is 2 x 13");
  const { modules, error } = await device;
  assert(error !== null && modules !== null);
  modules[Symbol.dispose]();
  await link.listener[Symbol.asyncDispose]();
  await admitting;
});

Deno.test("a device that is told nonsense by a tensor-parallel server stops with a ProtocolError", async () => {
  const before = engine.stats.tensors;
  const [, share] = allocateShares(SHAPE, [1, 1]);
  const settings = checkRunSettings(tinySettings("slice", 1));
  const welcome = {
    run: "r",
    settings,
    model: SHAPE,
    range: share!.heads,
    columns: share!.columns,
    epsilon: 1e-5,
    statistics: [],
  };
  const begin = async () => {
    const { transport, listener } = openLink("in-process");
    const device = runTensorParallelDevice({
      engine,
      channel: await transport.connect(),
      name: "d",
      capacity: 1,
      memory: PLENTY,
    });
    const peer = new Peer((await listener.accept())!);
    await peer.receive("hello");
    return { device, peer };
  };
  for (
    const change of [
      { columns: null },
      { columns: { first: 96, count: 100 } },
      { columns: { first: 1, count: 4 } },
      { epsilon: 0 },
      { range: null },
    ]
  ) {
    const { device, peer } = await begin();
    await peer.send("welcome", { meta: { ...welcome, ...change } });
    await assertRejects(() => device, ProtocolError, "welcome must be complete");
    await peer.close();
  }
  const shapes = shardShapes(SHAPE, share!);
  const shard = shapes.map((shape) => ({
    dtype: "f32" as const,
    shape,
    data: new Float32Array(shape[0] * shape[1]),
  }));
  const input = { dtype: "f32" as const, shape: [26, 48], data: new Float32Array(26 * 48) };
  const size = { mode: "train", batch: 2, length: 13 };
  const scripts: [FrameKind, Parameters<Peer["send"]>[1]][][] = [
    [["activation", { meta: size, tensors: [input] }]],
    [["shard", { layer: 1, tensors: shard }]],
    [["shard", { layer: 0, tensors: shard.slice(1) }]],
    [["shard", { layer: 0, tensors: [shard[1]!, ...shard.slice(2), shard[0]!] }]],
  ];
  const all = [0, 1, 2].map((layer): [FrameKind, Parameters<Peer["send"]>[1]] => ["shard", {
    layer,
    tensors: shard,
  }]);
  for (const meta of [{}, { ...size, mode: "probe" }, { ...size, length: 12 }, { ...size, batch: 0 }]) {
    scripts.push([...all, ["activation", { meta, tensors: [input] }]]);
  }
  scripts.push([...all, ["activationGradient", { tensors: [input] }]]);
  scripts.push([...all, ["activation", { layer: 1, meta: size, tensors: [input] }]]);
  for (const script of scripts) {
    const { device, peer } = await begin();
    await peer.send("welcome", { meta: welcome });
    peer.run = "r";
    for (const [kind, frame] of script) await peer.send(kind, frame).catch(() => {});
    const { error, modules } = await device;
    assertInstanceOf(error, ProtocolError, JSON.stringify(script.at(-1)![1]!.meta));
    modules![Symbol.dispose]();
    await peer.close();
  }
  assertEquals(engine.stats.tensors, before, "tensors left behind");
});
