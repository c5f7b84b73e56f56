import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  type Channel,
  EdgeServer,
  type EdgeServerEvent,
  type EdgeServerOptions,
  type Frame,
  HandshakeError,
  newDeviceKey,
  openRunStates,
  Peer,
  proveDevice,
  type RunSettings,
  type RunState,
  runStateWriter,
  runUserDevice,
  type StepRecord,
  type TokenBatch,
  type UserDeviceOptions,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { inProcessTransport } from "@edgetuner/transport";
import { natsListener, natsTransport } from "@edgetuner/transport/nats";
import { NatsServer } from "../support/nats_server.ts";
import { batchOf, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { faulty, type LossyOptions, type LossyResult, type PassedFrame, runLossy } from "./_lossy.ts";
import { admitAll, dataSide, eventOf, runSession, scriptedPruner, serverOptions } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

const settingsOf = (steps: number, more: Partial<RunSettings> = {}): RunSettings => ({
  ...tinySettings("slice", steps),
  ...more,
});
const masksOf = (records: readonly StepRecord[]) => records.map(({ mask }) => mask);
const backOf = (events: readonly EdgeServerEvent[]) =>
  events.flatMap((e) => e.type === "back" ? [[e.device.name, e.step] as const] : []);

/** Runs in which a pruner prunes the heads that others missed, by the masks, with the states that device 1 saved. */
type References = Map<string, Pick<LossyResult, "records" | "states"> & { readonly saved: Saved }>;
type Saved = Map<number, RunState["heads"]>;

/** What cuts of one run have in common. */
interface Cuts {
  readonly options: LossyOptions;
  readonly device: number;
  /** What device 1 saves, if it does. */
  readonly saved: Saved;
  /** Many cuts miss the same heads. */
  readonly references: References;
}

/** What is compared: losses, and what every device has learnt. */
async function assertAsPruned(
  { options, device, saved, references }: Cuts,
  cut: (passed: PassedFrame) => boolean,
  at: string,
) {
  saved.clear();
  const lossy = await runLossy(model, {
    ...options,
    comesBack: true,
    faults: { [device]: (passed) => passed.link === 0 && cut(passed) ? "cut" : undefined },
  });
  assertEquals([lossy.error, lossy.devices.map((d) => d.error)], [null, lossy.devices.map(() => null)], at);
  const kept = new Map(saved);
  const masks = masksOf(lossy.records);
  const key = masks.map((mask) => mask.join("")).join();
  let reference = references.get(key);
  if (reference === undefined) {
    saved.clear();
    const { records, states } = await runLossy(model, { ...options, pruner: scriptedPruner(masks) });
    reference = { records, states, saved: new Map(saved) };
    references.set(key, reference);
  }
  // States that it saved before and after it was away.
  for (const [step, heads] of kept) {
    assertEquals(heads, reference.saved.get(step), `${at}: state of step ${step}`);
  }
  assertEquals(lossy.records.map((r) => r.loss), reference.records.map((r) => r.loss), at);
  assertEquals(lossy.states, reference.states, at);
  return lossy;
}

for (
  const [name, more] of [
    ["a plain step", {}],
    ["a step whose gradients are clipped", { settings: settingsOf(4, { clipNorm: 0.01 }) }],
    ["a step of parts and micro-batches", { settings: settingsOf(4, { accumulate: 2, microBatches: 2 }) }],
    ["a step whose state is saved", { settings: settingsOf(4, { saveEvery: 1 }) }],
    ["rank space", { settings: { ...settingsOf(4), lora: tinySettings("core", 4).lora } }],
    ["the device with the data", { device: 0 }],
  ] as const
) {
  Deno.test(`a device whose link drops at any message comes back within two steps, with what it has learnt: as if it was pruned meanwhile, bit for bit: ${name} [slow]`, async () => {
    const before = engine.stats.tensors;
    const { device = 1, settings = settingsOf(4) } = more as { device?: number; settings?: RunSettings };
    const saved: Saved = new Map();
    const options: LossyOptions = {
      ...{ settings, steps: 4, capacities: [1, 1] },
      device: (i) => i === 1 ? { onState: ({ step, heads }) => void saved.set(step, heads) } : {},
    };
    const frames: PassedFrame[] = [];
    await runLossy(model, { ...options, faults: { [device]: (passed) => void frames.push(passed) } });
    const inStep = frames.filter(({ frame }) => frame.step === 1 && frame.kind !== "welcome");
    // The way back is where steps differ.
    const from = name === "a plain step"
      ? 0
      : inStep.findIndex(({ frame }) => frame.kind === "deltaGradient");
    const cuts: Cuts = { options, device, saved, references: new Map() };
    for (const { index, frame: { kind } } of inStep.slice(from)) {
      const at = `cut at frame ${index}, "${kind}"`;
      const lossy = await assertAsPruned(cuts, (passed) => passed.index === index, at);
      const [, step] = backOf(lossy.events)[0]!;
      assert(step <= 3, `${at}: back in step ${step}`);
      assertEquals(lossy.devices[1]!.steps, 4, at);
    }
    assertEquals(engine.stats.tensors, before);
  });
}

Deno.test("the only device with heads, and the data device, are waited for: as if nothing had happened, bit for bit [slow]", async () => {
  const options: LossyOptions = {
    settings: settingsOf(4, { accumulate: 2, microBatches: 2 }),
    steps: 4,
    capacities: [1],
    dataApart: true,
  };
  for (const device of [0, 1]) {
    const frames: PassedFrame[] = [];
    await runLossy(model, { ...options, faults: { [device]: (passed) => void frames.push(passed) } });
    const inStep = frames.filter(({ frame }) => frame.step === 1 && frame.kind !== "welcome");
    const cuts: Cuts = { options, device, saved: new Map(), references: new Map() };
    for (const { index, frame: { kind } } of inStep) {
      const at = `device ${device}, cut at frame ${index}, "${kind}"`;
      const { records } = await assertAsPruned(cuts, (passed) => passed.index === index, at);
      assertEquals(records.map(({ away }) => away), [undefined, undefined, undefined, undefined], at);
    }
  }
});

Deno.test("with the policy wait no head is missed", async () => {
  const options: LossyOptions = {
    settings: settingsOf(4),
    steps: 4,
    capacities: [1, 1],
    server: { onLoss: "wait" },
  };
  const isCut = ({ frame }: PassedFrame) => frame.step === 1 && frame.kind === "delta";
  const cuts: Cuts = { options, device: 1, saved: new Map(), references: new Map() };
  const { records } = await assertAsPruned(cuts, isCut, "wait");
  assertEquals(records.map(({ away }) => away), [undefined, undefined, undefined, undefined]);
});

/** A device that says hello over a channel of its own; what comes first. */
async function helloOf(
  connect: () => Promise<Channel>,
  hello: { readonly id: string; readonly key?: string },
  prove: (nonce: string) => Promise<string> = () => Promise.resolve("p".repeat(86)),
): Promise<string> {
  await using peer = new Peer(await connect(), { remote: "server", timeoutMs: 5000 });
  const meta = { name: "device 1", capacity: 1, data: false, fingerprint: "", sharesLoss: false, ...hello };
  await peer.send("hello", { meta });
  const first = await peer.next("control", "an answer");
  if (first.kind !== "challenge") return first.kind;
  await peer.send("proof", { meta: { proof: await prove(first.meta.nonce) } });
  return (await peer.next("control", "an answer")).kind;
}

Deno.test("nobody takes the place of a device without its key, neither before the start nor later", async () => {
  const [key, other] = await Promise.all([newDeviceKey(), newDeviceKey()]);
  const server = new EdgeServer(serverOptions(model, settingsOf(400), { devices: 2, onLoss: "prune" }));
  const { transport, listener } = inProcessTransport();
  const admitting = admitAll(listener, server);
  const running = server.start();
  const connect = () => transport.connect();
  const id = "1".repeat(32);
  const refusals = async (has: RegExp) => {
    for (
      const [hello, prove] of [
        [{ id }, undefined],
        [{ id, key: other.publicKey }, (nonce: string) => proveDevice(other, id, nonce)],
        [{ id, key: key.publicKey }, (nonce: string) => proveDevice(other, id, nonce)],
        [{ id, key: key.publicKey }, (nonce: string) => proveDevice(key, "another id", nonce)],
      ] as const
    ) {
      await assertRejects(() => helloOf(connect, hello, prove), HandshakeError, "must have the key");
    }
    assertMatch(server.status, has);
  };
  const common = { engine, capacity: 1, timeoutMs: 20_000 };
  const joined = eventOf(server, (e) => e.type === "joined");
  const owner = runUserDevice({ ...common, name: "device 1", id, key, channel: await connect() });
  await joined;
  await refusals(/waiting/);
  const stepped = eventOf(server, (e) => e.type === "step");
  const data = dataSide(model, 400);
  const first = runUserDevice({ ...common, name: "device 0", data, channel: await connect() });
  await stepped;
  await refusals(/running/);
  // The owner itself may, and its former connection is given up.
  const back = eventOf(server, (e) => e.type === "back");
  const channel = await connect();
  await using again = new Peer(channel, { remote: "server", timeoutMs: 5000 });
  await again.send("hello", {
    meta: { name: "x", id, key: key.publicKey, capacity: 1, data: false, fingerprint: "", sharesLoss: false },
  });
  const asked = await again.receive("challenge");
  await again.send("proof", { meta: { proof: await proveDevice(key, id, asked.meta.nonce) } });
  const { meta } = await again.receive("welcome");
  assertEquals(meta.range, { first: 2, count: 2 });
  await back;
  server.stop();
  await again.close();
  await running;
  for (const { modules } of [await owner, await first]) modules?.[Symbol.dispose]();
  await listener[Symbol.asyncDispose]();
  await admitting;
});

type InProcess = ReturnType<typeof inProcessTransport>;
type Awaitable<T> = T | Promise<T>;

/** A run whose edge server dies at a frame of device 1, and starts again from its state. */
async function killServer(
  settings: RunSettings,
  batch: (step: number) => TokenBatch,
  { dies, connectThrough = inProcessTransport }: {
    readonly dies: (frame: Frame) => boolean;
    readonly connectThrough?: () => Awaitable<Pick<InProcess, "transport" | "listener">>;
  },
) {
  const root = await Deno.makeTempDir();
  const paths = ["server", "device-0", "device-1"].map((name) => `${root}/${name}`);
  const write = await Promise.all(paths.map((path) => runStateWriter(path, null)));
  const losses = new Map<number, number | null>();
  let pair = await connectThrough();
  const killed = Promise.withResolvers<void>();
  let isKilled = false;
  const links: Channel[] = [];
  const open = (more: Partial<EdgeServerOptions>) => {
    const server = new EdgeServer(serverOptions(model, settings, { devices: 2, onLoss: "prune", ...more }));
    server.subscribe((e) => e.type === "step" && losses.set(e.record.step, e.record.loss));
    return { server, admitting: admitAll(pair.listener, server) };
  };
  const before = open({ onState: (state) => write[0]!(state) });
  const abort = new AbortController();
  const running = before.server.start(abort.signal);
  const data = { ...dataSide(model, settings.steps, { batch, shareLoss: true }), rewind() {} };
  const results = [0, 1].map(async (i) => {
    const connect = async () => {
      const channel = await pair.transport.connect();
      if (isKilled) return channel;
      links.push(channel);
      return faulty(channel, ({ frame }) => {
        if (i === 1 && dies(frame)) killed.resolve();
        return i === 1 && dies(frame) ? "cut" : undefined;
      });
    };
    return await runUserDevice({
      ...{ engine, name: `device ${i}`, id: `${i}`.repeat(16), capacity: 1, timeoutMs: 20_000 },
      channel: await connect(),
      reconnect: connect,
      data: i === 0 ? data : undefined,
      onState: (state) => write[i + 1]!(state),
      savedStates: () => openRunStates(paths[i + 1]!).catch(() => null),
    });
  });
  await killed.promise;
  isKilled = true;
  const { listener } = pair;
  for (const link of links) await link.close("killed");
  abort.abort(new DOMException("killed", "AbortError"));
  await Promise.allSettled([running, listener[Symbol.asyncDispose](), before.admitting]);
  pair = await connectThrough();
  const resume = await openRunStates(paths[0]!);
  const write2 = await runStateWriter(paths[0]!, resume);
  const after = open({ resume, onState: (state) => write2(state) });
  await after.server.start();
  const devices = await Promise.all(results);
  await pair.listener[Symbol.asyncDispose]();
  await after.admitting;
  await Deno.remove(root, { recursive: true });
  for (const { error } of devices) assertEquals(error, null);
  const states = await Promise.all(devices.map((d) => d.modules!.state()));
  for (const { modules } of devices) modules![Symbol.dispose]();
  return {
    states,
    losses: [...losses].sort(([a], [b]) => a - b).map(([, loss]) => loss),
    from: resume.steps,
  };
}

Deno.test("an edge server that is killed in a step comes back with its state: the run goes on by itself and ends as if nothing had happened, bit for bit [slow]", async () => {
  const settings = settingsOf(8, { saveEvery: 2 });
  const batch = (step: number) => batchOf(2 + step % 3);
  const tensors = engine.stats.tensors;
  const whole = await runSession(model, { settings, steps: 8, capacities: [1, 1], batch, shareLoss: true });
  for (const [kind, step] of [["delta", 5], ["inputGradient", 6], ["mask", 7], ["mask", 4]] as const) {
    const { states, losses } = await killServer(settings, batch, {
      dies: (f) => f.kind === kind && f.step === step,
    });
    assertEquals(states, whole.states, `${kind} ${step}`);
    assertEquals(losses, [...whole.losses], `${kind} ${step}`);
  }
  assertEquals(engine.stats.tensors, tensors);
});

Deno.test("through a broker too: the edge server comes back there, and the run ends as if nothing had happened, bit for bit [slow]", async () => {
  const settings = settingsOf(6, { saveEvery: 2 });
  const batch = (step: number) => batchOf(2 + step % 3);
  await using broker = await NatsServer.start();
  const url = broker.url("a-run");
  const whole = await runSession(model, { settings, steps: 6, capacities: [1, 1], batch, shareLoss: true });
  const { states, losses } = await killServer(settings, batch, {
    dies: (f) => f.kind === "inputGradient" && f.step === 3,
    connectThrough: async () => ({
      transport: natsTransport({ url }),
      listener: await natsListener({ url }),
    }),
  });
  assertEquals(states, whole.states);
  assertEquals(losses, [...whole.losses]);
});

Deno.test("who joins late takes over the heads of a device that left or stays away, from their start; the former owner may not come back", async () => {
  const settings = settingsOf(12);
  // One that says that it leaves is not waited for, whatever `adoptAfter` says.
  for (const adoptAfter of [0, 100]) {
    const server = new EdgeServer(
      serverOptions(model, settings, { devices: 2, onLoss: "prune", adoptAfter }),
    );
    const { transport, listener } = inProcessTransport();
    const admitting = admitAll(listener, server);
    const running = server.start();
    const common = { engine, capacity: 1, timeoutMs: 20_000 };
    const join = async (name: string, id: string, more: Partial<UserDeviceOptions> = {}) =>
      runUserDevice({ ...common, name, id, channel: await transport.connect(), ...more });
    const records: StepRecord[] = [];
    const away = eventOf(server, (e) => e.type === "away");
    const abort = new AbortController();
    server.subscribe((e) => {
      if (e.type !== "step") return;
      records.push(e.record);
      if (e.record.step === 2) abort.abort();
    });
    const first = join("device 0", "0".repeat(16), { data: dataSide(model, 12) });
    const second = join("device 1", "1".repeat(16), { signal: abort.signal });
    await away;
    server.pause();
    await eventOf(server, (e) => e.type === "status" && e.status === "paused");
    const stranger = join("late", "2".repeat(16));
    await eventOf(server, (e) => e.type === "joined");
    await assertRejects(() => join("device 1", "1".repeat(16)), HandshakeError, "none are free now");
    server.resume();
    await running;
    const devices = await Promise.all([first, second, stranger]);
    assertEquals(devices[2]!.error, null);
    assertEquals(devices[2]!.welcome.range, { first: 2, count: 2 });
    assertEquals(records.at(-1)!.away, undefined);
    assert(records.some((r) => r.away?.join() === "2,3"));
    assertEquals(devices[2]!.steps, 12);
    // Their counts of updates are of what they took part in alone.
    const { updates } = await devices[2]!.modules!.state();
    assertEquals(updates[0], records.filter((r) => r.away === undefined && r.step > 2).length);
    for (const { modules } of devices) modules?.[Symbol.dispose]();
    await listener[Symbol.asyncDispose]();
    await admitting;
  }
});
