import { Engine } from "@edgetuner/kernels";
import {
  ChannelClosedError,
  DeadlineError,
  EdgeServer,
  type EdgeServerEvent,
  encodeFrame,
  HandshakeError,
  Peer,
  PluginError,
  PROTOCOL_VERSION,
  type Pruner,
  runUserDevice,
  sampleSettings,
  type UserDeviceResult,
} from "@edgetuner/core";
import { decode, encode } from "cborg";
import {
  httpListener,
  httpTransport,
  simulate,
  webSocketListener,
  webSocketTransport,
} from "@edgetuner/transport";
import {
  assert,
  assertEquals,
  assertGreater,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { BATCH, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import {
  admitAll,
  dataSide,
  eventOf,
  joinDevice,
  type Link,
  openLink,
  runSession,
  scriptedPruner,
  serverOptions,
} from "./_session.ts";
import { settled, until } from "../support/until.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const settings = tinySettings("slice", 100);
const HELLO = {
  name: "a device",
  capacity: 1,
  data: false,
  fingerprint: "",
  sharesLoss: false,
};

/** A server that lets devices in, and all that happens to it. */
class Stage implements AsyncDisposable {
  readonly link: Link = openLink("in-process");
  readonly server: EdgeServer;
  readonly events: EdgeServerEvent[] = [];
  readonly #admitting: Promise<void>;

  constructor(options: Parameters<typeof serverOptions>[2] = {}) {
    this.server = new EdgeServer(serverOptions(model, settings, options));
    this.server.subscribe((event) => void this.events.push(event));
    this.#admitting = admitAll(this.link.listener, this.server);
  }

  get refusals(): string[] {
    return this.events.flatMap((e) => e.type === "refused" ? [e.reason] : []);
  }

  join(name: string, capacity: number, steps?: number, fingerprint = "tiny") {
    const data = steps === undefined ? undefined : dataSide(model, steps, { fingerprint });
    return joinDevice(this.link, this.server, { engine, name, capacity, data });
  }

  /** Says hello as told and expects to be refused for a reason. */
  async refused(hello: Record<string, unknown>, reason: string): Promise<void> {
    const count = this.refusals.length;
    const peer = new Peer(await this.link.transport.connect(), { timeoutMs: 5000 });
    await peer.send("hello", { meta: hello as never });
    await assertRejects(() => peer.next("control", "welcome"), HandshakeError, reason);
    await peer.close();
    assertEquals(this.refusals.length, count + 1);
    assert(this.refusals.at(-1)!.includes(reason), this.refusals.at(-1));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.link[Symbol.asyncDispose]();
    await this.#admitting;
  }
}

function dispose(results: readonly UserDeviceResult[]): void {
  for (const { modules } of results) modules?.[Symbol.dispose]();
}

Deno.test("devices that must not join are refused with a reason, and the others run", async () => {
  await using stage = new Stage({ devices: 2 });
  const running = stage.server.start();
  await stage.refused({ ...HELLO, token: 1 }, `"hello" must be a map of`);
  await stage.refused({}, `"hello.name" must be a name`);
  await stage.refused({ ...HELLO, capacity: 0 }, "capacity must be positive");
  for (const capacity of [-1, NaN, Infinity, -Infinity, "1", null, undefined]) {
    await stage.refused(
      { ...HELLO, capacity },
      `"hello.capacity" must be a number`,
    );
  }
  for (const name of ["", "n".repeat(65), 7, null, "a\nb", "\u001b[31mred", "\u202egnp"]) {
    await stage.refused({ ...HELLO, name }, `"hello.name" must be a name of 1 to 64 characters`);
  }
  await stage.refused({ ...HELLO, sharesLoss: "yes" }, `"hello.sharesLoss" must be true or false`);
  await stage.refused({ ...HELLO, data: 1 }, `"hello.data" must be true or false`);
  await stage.refused({ ...HELLO, data: true, fingerprint: "another" }, "model must be the server's");
  await stage.refused({ ...HELLO, fingerprint: "another" }, "adapter's base model must be the server's");
  assertEquals(stage.server.devices, []);

  const first = await stage.join("first", 1, 2);
  await stage.refused({ ...HELLO, data: true, fingerprint: "tiny" }, "there is one already");
  const second = await stage.join("second", 1);
  await running;
  const results = await Promise.all([first.result, second.result]);
  assertEquals(results.map((r) => [r.error, r.reason, r.steps]), [[null, "", 2], [null, "", 2]]);
  dispose(results);
  assertEquals(stage.server.status, "ended");
  await stage.refused(HELLO, "it is ended");
});

Deno.test("peers of protocol version 2 hear and say a refusal that names both versions", async () => {
  const old = { v: 2, run: "", seq: 0, step: 0, layer: 0, tensors: [] };
  {
    await using stage = new Stage({ devices: 1 });
    const channel = await stage.link.transport.connect();
    await channel.send(
      encode({ ...old, kind: "hello", meta: { ...HELLO, protocol: 2 } }) as Uint8Array<ArrayBuffer>,
    );
    const answer = decode((await channel.receive())!) as {
      v: number;
      kind: string;
      meta: { reason: string };
    };
    assertEquals([answer.v, answer.kind], [2, "refuse"]);
    assert(
      answer.meta.reason.includes(`version must be ${PROTOCOL_VERSION}: current value is 2`),
      answer.meta.reason,
    );
    await channel.closed;
    assertEquals(stage.refusals, [answer.meta.reason]);
  }
  await using link = openLink("in-process");
  const device = runUserDevice({ engine, channel: await link.transport.connect(), name: "d", capacity: 1 });
  const server = (await link.listener.accept())!;
  await server.receive();
  await server.send(encode({ ...old, kind: "welcome", meta: {} }) as Uint8Array<ArrayBuffer>);
  await assertRejects(
    () => device,
    HandshakeError,
    `version must be ${PROTOCOL_VERSION}: current value is 2`,
  );
});

Deno.test("a device too many is refused", async () => {
  await using stage = new Stage({ devices: 1 });
  const only = await stage.join("only", 1);
  await stage.refused(HELLO, "all have joined");
  stage.server.stop();
  await stage.server.start();
  await assertRejects(() => only.result, ChannelClosedError, "stopped");
});

Deno.test("what is no hello is refused and the server goes on taking in others", async () => {
  await using stage = new Stage({ devices: 1 });
  const say = async (bytes: Uint8Array<ArrayBuffer>) => {
    const refused = eventOf(stage.server, (e) => e.type === "refused");
    const channel = await stage.link.transport.connect();
    await channel.send(bytes);
    await refused;
    await channel.closed;
    await channel.close();
  };
  const frame = { kind: "hello", run: "", sequence: 0, step: 0, layer: 0, meta: HELLO, tensors: [] } as const;
  await say(new Uint8Array(100).fill(0x81));
  await say(encodeFrame({ ...frame, sequence: 1 }));
  await say(encodeFrame({ ...frame, kind: "welcome" }));
  await say(encodeFrame(frame).subarray(0, 20));
  const leaving = await stage.link.transport.connect();
  const refused = eventOf(stage.server, (e) => e.type === "refused");
  await leaving.close();
  await refused;
  assertEquals(stage.refusals.length, 5);
  const running = stage.server.start();
  const device = await stage.join("real", 1, 1);
  await running;
  dispose([await device.result]);
});

Deno.test("a device that leaves before the start makes room for another", async () => {
  await using stage = new Stage({ devices: 1 });
  const early = await stage.join("early", 1, 1);
  assertEquals(stage.server.devices.map((d) => [d.name, d.connected]), [["early", true]]);
  const left = eventOf(stage.server, (e) => e.type === "left");
  await early.channel.close("changed my mind");
  await left;
  await assertRejects(() => early.result, ChannelClosedError);
  assertEquals(stage.server.devices, []);
  const running = stage.server.start();
  const late = await stage.join("late", 1, 1);
  await running;
  dispose([await late.result]);
  assertEquals(stage.server.status, "ended");
});

Deno.test("the run does not start without all devices: DeadlineError, and those who came are released", async () => {
  await using stage = new Stage({ devices: 2, joinTimeoutMs: 80 });
  const device = await stage.join("alone", 1, 1);
  await assertRejects(() => stage.server.start(), DeadlineError, "1 joined, with a data device");
  assertEquals(stage.server.status, "failed");
  await assertRejects(() => device.result, ChannelClosedError, "must join within 80 ms");
});

Deno.test("a device that waits too long for the start gives up", async () => {
  await using stage = new Stage({ devices: 2 });
  const channel = await stage.link.transport.connect();
  const device = runUserDevice({ engine, channel, name: "impatient", capacity: 1, joinTimeoutMs: 50 });
  await assertRejects(() => device, DeadlineError, "50 ms");
  stage.server.stop();
  await stage.server.start();
});

Deno.test("pause holds the run, resume lets it go on, stop ends it with a reason", async () => {
  await using stage = new Stage({ devices: 2 });
  const { server } = stage;
  server.pause();
  const running = server.start();
  const paused = eventOf(server, (e) => e.type === "status" && e.status === "paused");
  const devices = [await stage.join("a", 1, 1000), await stage.join("b", 1)];
  await paused;
  await settled();
  assertEquals([server.status, server.latest], ["paused", null]);
  const thirdStep = eventOf(server, (e) => e.type === "step" && e.record.step === 2);
  server.resume();
  await thirdStep;
  assertEquals(server.status, "running");
  const again = eventOf(server, (e) => e.type === "status" && e.status === "paused");
  server.pause();
  await again;
  const held = server.latest!.step;
  await settled();
  assertEquals(server.latest!.step, held);
  const next = eventOf(server, (e) => e.type === "step");
  server.resume();
  await next;
  server.stop("enough for today");
  await running;
  const results = await Promise.all(devices.map((d) => d.result));
  for (const { reason, error, modules, steps } of results) {
    assertEquals([reason, error], ["enough for today", null]);
    assert(modules !== null && steps === server.latest!.step + 1);
  }
  dispose(results);
  const statuses = stage.events.flatMap((e) => e.type === "status" ? [e.status] : []);
  assertEquals(statuses, ["running", "paused", "running", "paused", "running", "ended"]);
});

Deno.test("a pause that is longer than the devices wait changes nothing but the time [slow]", async () => {
  const run = { settings: tinySettings("slice", 6), steps: 6, capacities: [2, 1] };
  const whole = await runSession(model, run);
  let heard = 0;
  let server: EdgeServer | undefined;
  const started = performance.now();
  const paused = await runSession(model, {
    ...run,
    timeoutMs: 1000,
    onEvent(event, of) {
      server = of;
      if (event.type === "step" && event.record.step === 2) of.pause();
    },
    onFrame({ frame, device }) {
      // A second and a half after the first: without them all limits would be over.
      if (frame.kind === "paused" && device === 1 && ++heard === 8) server!.resume();
    },
  });
  assertGreater(performance.now() - started, 1500);
  assertEquals(heard, 8);
  assertEquals(paused.states, whole.states);
  assertEquals(paused.losses, whole.losses);
});

Deno.test("a pause that nobody ends has a limit: the run ends without a fault", async () => {
  await using stage = new Stage({ devices: 1, pauseTimeoutMs: 150 });
  const { server } = stage;
  const running = server.start();
  const device = await stage.join("a", 1, 1000);
  await eventOf(server, (e) => e.type === "step" && e.record.step === 1);
  // A pause that is ended in time counts for nothing.
  const held = eventOf(server, (e) => e.type === "status" && e.status === "paused");
  server.pause();
  await held;
  server.resume();
  await eventOf(server, (e) => e.type === "step");
  const started = performance.now();
  server.pause();
  await running;
  assertGreater(performance.now() - started, 150 * 0.97);
  const result = await device.result;
  assertEquals(
    [server.status, result.error, result.reason],
    ["ended", null, "a pause must be at most 0.15 s long: nobody has resumed the run"],
  );
  assertEquals(result.steps, server.latest!.step + 1);
  dispose([result]);
  assertThrows(() => new Stage({ devices: 1, pauseTimeoutMs: -1 }), RangeError, "pauseTimeoutMs");
});

Deno.test("a device that is lost while the run is paused ends it, and the others keep what they learnt", async () => {
  await using stage = new Stage({ devices: 2, timeoutMs: 2000 });
  const { server } = stage;
  const running = server.start();
  const held = eventOf(server, (e) => e.type === "status" && e.status === "paused");
  const devices = [await stage.join("a", 1, 1000), await stage.join("b", 1)];
  await eventOf(server, (e) => e.type === "step" && e.record.step === 1);
  server.pause();
  await held;
  await devices[1]!.channel.close("gone");
  await assertRejects(
    () => running,
    ChannelClosedError,
    'device "b" must stay in the run: it left while the run was paused',
  );
  assertEquals(server.status, "failed");
  const results = await Promise.all(devices.map((d) => d.result));
  for (const { modules, steps } of results) assert(modules !== null && steps === server.latest!.step + 1);
  dispose(results);
});

Deno.test("devices of one name are told apart by their ids, and refused where one has none", async () => {
  await using stage = new Stage({ devices: 2 });
  const running = stage.server.start();
  const anonymous = await stage.join("phone", 1);
  await stage.refused(
    { ...HELLO, name: "phone" },
    'Cannot admit "phone" as devices of one name must have ids',
  );
  await stage.refused({ ...HELLO, name: "phone", id: "12345678-b" }, "(id 12345678) as devices of one name");
  await anonymous.channel.close();
  await assertRejects(() => anonymous.result);
  const join = (id: string, steps?: number) =>
    joinDevice(stage.link, stage.server, {
      engine,
      name: "phone",
      id,
      capacity: 1,
      data: steps === undefined ? undefined : dataSide(model, steps),
    });
  const devices = [await join("bbbbbbbb-2", 2), await join("aaaaaaaa-1")];
  const results = await Promise.all(devices.map((d) => d.result));
  await running;
  assertEquals(stage.server.devices.map(({ name, id, range }) => [name, id, range!.first]), [
    ["phone", "bbbbbbbb", 2],
    ["phone", "aaaaaaaa", 0],
  ]);
  dispose(results);
});

Deno.test("a device that crashed before the start joins again at once, even if its link seems to be alive", async () => {
  await using stage = new Stage({ devices: 1 });
  const running = stage.server.start();
  const join = (steps: number) =>
    joinDevice(stage.link, stage.server, {
      engine,
      name: "phone",
      id: "0123456789",
      capacity: 1,
      data: dataSide(model, steps),
    });
  // Its channel closes: its place is free at once. It is not needed, so the run is not complete by it.
  const peer = new Peer(await stage.link.transport.connect(), { timeoutMs: 5000 });
  const joined = () => eventOf(stage.server, (e) => e.type === "joined");
  let seen = joined();
  const hello = { ...HELLO, id: "0123456789" };
  await peer.send("hello", { meta: hello });
  await seen;
  const left = eventOf(stage.server, (e) => e.type === "left");
  await peer.close();
  await left;
  // Its channel stays: whoever joins with its id takes its place.
  const dead = new Peer(await stage.link.transport.connect(), { timeoutMs: 5000 });
  seen = joined();
  await dead.send("hello", { meta: hello });
  await seen;
  const device = await join(2);
  const end = await dead.next("control", "the end");
  assertEquals(end.meta, { reason: 'device "phone" (id 01234567) has joined again' });
  await dead.close();
  const result = await device.result;
  await running;
  assertEquals([result.steps, stage.server.devices.length], [2, 1]);
  dispose([result]);
});

for (const name of ["websocket", "http"] as const) {
  Deno.test(`a ${name} channel that never says hello frees its place at the deadline`, async () => {
    const listener = name === "websocket"
      ? webSocketListener({ maxChannels: 1 })
      : httpListener({ maxChannels: 1 });
    await using served = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      (request) => listener.handle(request),
    );
    const url = `http://127.0.0.1:${served.addr.port}/`;
    const transport = name === "websocket" ? webSocketTransport({ url }) : httpTransport({ url });
    const server = new EdgeServer(serverOptions(model, settings, { devices: 1, helloTimeoutMs: 300 }));
    const admitting = admitAll(listener, server);
    const running = server.start();
    const refused = eventOf(server, (e) => e.type === "refused");
    const silent = await transport.connect();
    await assertRejects(() => transport.connect(), ChannelClosedError);
    await refused;
    assertStringIncludes((await silent.closed).reason, "300 ms");
    const channel = await until(() => transport.connect().catch(() => null), "a connection that is taken");
    const result = await runUserDevice({ engine, channel, name: "a", capacity: 1, data: dataSide(model, 1) });
    await running;
    assertEquals([result.steps, result.error], [1, null]);
    dispose([result]);
    await listener[Symbol.asyncDispose]();
    await admitting;
  });
}

Deno.test("stop while paused and stop before the start end the run", async () => {
  await using stage = new Stage({ devices: 1 });
  stage.server.pause();
  const running = stage.server.start();
  const paused = eventOf(stage.server, (e) => e.type === "status" && e.status === "paused");
  const device = await stage.join("a", 1, 10);
  await paused;
  stage.server.stop("no");
  await running;
  const result = await device.result;
  assertEquals([result.reason, result.steps, result.error], ["no", 0, null]);
  assertEquals(result.ending, { step: 0, best: false });
  dispose([result]);

  await using early = new Stage({ devices: 1 });
  const waiting = early.server.start();
  early.server.stop("never mind");
  await waiting;
  assertEquals([early.server.status, early.server.latest], ["ended", null]);
});

Deno.test("a signal ends the server's run: while waiting, and within a step", async () => {
  {
    await using stage = new Stage({ devices: 2 });
    const abort = new AbortController();
    const device = await stage.join("a", 1, 10);
    const running = stage.server.start(abort.signal);
    abort.abort();
    await running;
    assertEquals(stage.server.status, "ended");
    await assertRejects(() => device.result);
  }
  {
    await using stage = new Stage({ devices: 1 });
    const abort = new AbortController();
    const device = await stage.join("a", 1, 1000);
    const running = stage.server.start(abort.signal);
    await eventOf(stage.server, (e) => e.type === "step" && e.record.step === 2);
    abort.abort();
    await running;
    assertEquals(stage.server.status, "ended");
    const result = await device.result;
    assert(result.modules !== null && result.steps >= 3);
    // The step was not over, so there is an error. But nothing failed: somebody stopped the run.
    assertEquals([result.wasStopped, result.reason], [true, "aborted"]);
    dispose([result]);
  }
  {
    await using stage = new Stage({ devices: 1 });
    await stage.server.start(AbortSignal.abort());
    assertEquals(stage.server.status, "ended");
  }
});

Deno.test("a signal ends a device; it keeps its weights, and the server's run fails", async () => {
  await using stage = new Stage({ devices: 2 });
  const abort = new AbortController();
  const running = stage.server.start();
  running.catch(() => {});
  const first = await stage.join("first", 1, 1000);
  const second = await joinDevice(stage.link, stage.server, {
    engine,
    name: "second",
    capacity: 1,
    signal: abort.signal,
    onStep: (step) => step === 1 && abort.abort(),
  });
  await assertRejects(() => running, ChannelClosedError, `device "second"`);
  const results = await Promise.all([first.result, second.result]);
  assertEquals(results[1]!.error, abort.signal.reason);
  assert(results[0]!.reason.includes(`device "second"`) || results[0]!.error !== null);
  for (const { modules, steps } of results) assert(modules !== null && steps >= 2);
  dispose(results);
  assertEquals(stage.server.devices.map((d) => d.connected), [false, false]);
});

const CONTRACT = { name: "bad", needs: [], init: () => null } as const;
const BAD_PRUNERS: Record<string, Pruner["decide"]> = {
  "a mask of another length": () => [{ mask: new Uint8Array(11) }, null],
  "a mask of another type": () => [{ mask: Array(12).fill(0) as unknown as Uint8Array }, null],
  "a mask entry of 2": () => [{ mask: new Uint8Array(12).fill(2) }, null],
  "NaN scores": () => [{ mask: new Uint8Array(12), scores: new Float32Array(12).fill(NaN) }, null],
  "scores of another length": () => [{ mask: new Uint8Array(12), scores: new Float32Array(3) }, null],
  "no pair": () => ({ mask: new Uint8Array(12) }) as unknown as [{ mask: Uint8Array }, null],
  "no decision": () => [undefined, null] as unknown as [{ mask: Uint8Array }, null],
  "nothing": () => undefined as unknown as [{ mask: Uint8Array }, null],
  "an error": () => {
    throw new Error("no idea");
  },
  "a rejection": () => Promise.reject(new Error("no idea")),
  "nothing, ever": () => new Promise(() => {}),
};

for (const [what, decide] of Object.entries(BAD_PRUNERS)) {
  Deno.test(`a pruner that gives ${what}: PluginError, and everyone is released`, async () => {
    const before = engine.stats.tensors;
    await using stage = new Stage({ devices: 2, pruner: { ...CONTRACT, decide }, timeoutMs: 300 });
    const running = stage.server.start();
    running.catch(() => {});
    const devices = [await stage.join("a", 1, 5), await stage.join("b", 1)];
    const error = await assertRejects(() => running, PluginError, `pruner "bad"`);
    assertEquals(stage.server.status, "failed");
    const results = await Promise.all(devices.map((d) => d.result));
    for (const { reason, error: own, modules, steps } of results) {
      assertEquals([reason, steps], [(error as Error).message, 0]);
      assertInstanceOf(own, ChannelClosedError, "it has lost its run");
      assertStringIncludes(own.message, reason);
      assertInstanceOf(modules, Object);
    }
    dispose(results);
    assertEquals(engine.stats.tensors, before, "tensors left behind");
  });
}

Deno.test("what is no pruner is refused before anyone joins, by servers and simulations", async () => {
  const good = scriptedPruner([new Uint8Array(12)]);
  const { init: _, ...noInit } = good;
  for (
    const [pruner, message] of [
      [{ ...good, needs: ["gradNorm"] }, "needs must be some of gradientNorm, loraNorm, weightChange"],
      [noInit, "init must be a function: it is undefined"],
      [undefined, "it must be an object: it is undefined"],
    ] as unknown as [Pruner, string][]
  ) {
    const settings = tinySettings("slice", 1);
    const server = () => new EdgeServer(serverOptions(model, settings, { pruner }));
    assertThrows(server, PluginError, message);
    const simulated = () => simulate({ model, settings, pruner, devices: 1, batches: () => BATCH });
    await assertRejects(simulated, PluginError, message);
  }
});

Deno.test("a pruner is told the settings that its statistics come from", async () => {
  const settings = tinySettings("slice", 1);
  let told: unknown;
  const pruner: Pruner = {
    ...scriptedPruner([new Uint8Array(12)]),
    init: (context) => void (told = context.settings),
  };
  const run = await simulate({ model, settings, pruner, devices: 1, batches: () => BATCH });
  assertEquals(run.error, null);
  assertEquals(told, sampleSettings(settings));
});

Deno.test("a pruner whose init() throws: PluginError, and everyone is released", async () => {
  const init = () => {
    throw new Error("no idea");
  };
  await using stage = new Stage({
    pruner: { ...CONTRACT, init, decide: () => [{ mask: new Uint8Array(12) }, null] },
  });
  const running = stage.server.start();
  running.catch(() => {});
  const device = await stage.join("a", 1, 5);
  await assertRejects(() => running, PluginError, `pruner "bad"`);
  dispose([await device.result]);
});

Deno.test("a server with options out of range is not made", () => {
  for (const devices of [0, 5, 1.5, NaN]) {
    assertThrows(() => new EdgeServer(serverOptions(model, settings, { devices })), RangeError, "devices");
  }
  assertThrows(() => new EdgeServer(serverOptions(model, { ...settings, steps: 0 })), RangeError, "steps");
});

Deno.test("listeners can end their subscription", async () => {
  await using stage = new Stage();
  let count = 0;
  const end = stage.server.subscribe(() => void count++);
  end();
  stage.server.stop();
  await stage.server.start();
  assertEquals(count, 0);
});
