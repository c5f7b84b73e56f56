import { Engine } from "@edgetuner/kernels";
import {
  type Channel,
  ChannelClosedError,
  checkRunSettings,
  DeadlineError,
  decodeFrame,
  EdgeServer,
  encodeFrame,
  type Frame,
  ProtocolError,
  type RawFrame,
  runUserDevice,
  TrainingError,
  type UserDeviceResult,
  type WireTensor,
} from "@edgetuner/core";
import { webSocketListener, webSocketTransport } from "@edgetuner/transport";
import { assert, assertEquals, assertInstanceOf, assertRejects, assertStringIncludes } from "@std/assert";
import { flatten, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import {
  admitAll,
  dataSide,
  eventOf,
  joinDevice,
  openLink,
  scriptedPruner,
  serverOptions,
} from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const settings = tinySettings("slice", 100);

/** What is answered; its sequence number comes with sending. */
type Answer = Omit<RawFrame, "sequence">;

/** What a made-up device does in step 1, where it should answer. */
type Fault = (device: MadeUpDevice, answer: Answer) => Promise<void> | void;

function zeros(shape: readonly number[]): WireTensor {
  return { dtype: "f32", shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) };
}

/** A device with one head whose Deltas are zero, until it does something wrong. */
class MadeUpDevice {
  readonly #channel: Channel;
  #sequence = 0;
  #run = "";

  constructor(channel: Channel) {
    this.#channel = channel;
  }

  send(frame: Partial<RawFrame> & Pick<RawFrame, "kind">): Promise<void> {
    return this.#channel.send(encodeFrame({
      run: this.#run,
      sequence: this.#sequence++,
      step: 0,
      layer: 0,
      meta: {},
      tensors: [],
      ...frame,
    }));
  }

  raw(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    return this.#channel.send(bytes);
  }

  leave(): Promise<void> {
    return this.#channel.close("battery empty");
  }

  /** Takes part until the channel is closed; returns the reason that came with the end. */
  async play(faultAt: Frame["kind"], fault: Fault): Promise<string> {
    const hello = {
      name: "wicked",
      capacity: 0.1,
      data: false,
      fingerprint: "",
      sharesLoss: false,
    };
    await this.send({ kind: "hello", meta: hello });
    let reason = "";
    const reply = async (frame: Answer) => {
      if (frame.step === 1 && frame.kind === faultAt) await fault(this, frame);
      else await this.send(frame).catch(() => {});
    };
    let gone = 0;
    for (let bytes = await this.#channel.receive(); bytes !== null; bytes = await this.#channel.receive()) {
      const frame = decodeFrame(bytes);
      const { kind, step, layer, tensors } = frame;
      const base = { run: this.#run, step, layer, meta: {} };
      const answer = (kind: Frame["kind"], ...shapes: number[][]) => {
        return reply({ ...base, kind, tensors: shapes.map(zeros) });
      };
      if (frame.kind === "welcome") this.#run = frame.meta.run;
      else if (kind === "mask") gone = 0;
      else if (kind === "input") await answer("delta", [2, ...tensors[0]!.shape]);
      else if (kind === "deltaGradient") {
        if (layer > 0) await answer("inputGradient", tensors[0]!.shape.slice(1));
        if (++gone === 3) await answer("statistics", [3, 1]);
      } else if (frame.kind === "end") reason = frame.meta.reason;
    }
    return reason;
  }
}

interface Outcome {
  readonly error: unknown;
  readonly good: readonly UserDeviceResult[];
  readonly wickedReason: string;
  readonly server: EdgeServer;
}

/** A run of two good devices and a made-up one. */
async function runWith(faultAt: Frame["kind"], fault: Fault, timeoutMs = 10_000): Promise<Outcome> {
  await using link = openLink("in-process");
  const pruner = scriptedPruner([new Uint8Array(12)], ["gradientNorm"]);
  const server = new EdgeServer(serverOptions(model, settings, { devices: 3, pruner, timeoutMs }));
  const admitting = admitAll(link.listener, server);
  const running = server.start().then(() => null, (error: unknown) => error);
  const joined = eventOf(server, (e) => e.type === "joined");
  const wicked = new MadeUpDevice(await link.transport.connect()).play(faultAt, fault);
  await joined;
  const good = [
    await joinDevice(link, server, { engine, name: "a", capacity: 1, data: dataSide(model, 100) }),
    await joinDevice(link, server, { engine, name: "b", capacity: 1 }),
  ];
  const error = await running;
  const results = await Promise.all(good.map((g) => g.result));
  const wickedReason = await wicked;
  await link[Symbol.asyncDispose]();
  await admitting;
  return { error, good: results, wickedReason, server };
}

const FAULTS: readonly [string, Frame["kind"], Fault, string][] = [
  [
    "another kind",
    "delta",
    (d, a) => d.send({ ...a, kind: "partial", tensors: [zeros([26, 48])] }),
    `must be "delta"`,
  ],
  [
    "a frame of another lane",
    "delta",
    (d, a) => d.send({ ...a, kind: "finished", tensors: [] }).then(() => d.leave()),
    "battery empty",
  ],
  ["another step", "delta", (d, a) => d.send({ ...a, step: 0 }), "must be of step 1"],
  ["another layer", "delta", (d, a) => d.send({ ...a, layer: a.layer + 1 }), "must be of layer"],
  ["one head too many", "delta", (d, a) => d.send({ ...a, tensors: [zeros([2, 2, 26, 12])] }), "[2,1,26,12]"],
  [
    "more tokens than asked for",
    "delta",
    (d, a) => d.send({ ...a, tensors: [zeros([2, 1, 4000, 12])] }),
    "[2,1,26,12]",
  ],
  ["no tensor", "delta", (d, a) => d.send({ ...a, tensors: [] }), "a list of 1"],
  [
    "two tensors",
    "delta",
    (d, a) => d.send({ ...a, tensors: [a.tensors[0]!, a.tensors[0]!] }),
    "a list of 1",
  ],
  [
    "bytes instead of floats",
    "delta",
    (d, a) => d.send({ ...a, tensors: [{ dtype: "u8", shape: [2, 1, 26, 12], data: new Uint8Array(624) }] }),
    "must be written with a codec",
  ],
  [
    "a gradient of another shape",
    "inputGradient",
    (d, a) => d.send({ ...a, tensors: [zeros([1, 26, 48])] }),
    "[1,26,12]",
  ],
  [
    "statistics of another shape",
    "statistics",
    (d, a) => d.send({ ...a, tensors: [zeros([3, 4])] }),
    "[3,1]",
  ],
  ["a frame twice", "delta", async (d, a) => {
    await d.send(a);
    await d.send({ ...a, sequence: 3 });
  }, "must come next"],
  ["a frame of another run", "delta", (d, a) => d.send({ ...a, run: "another" }), "must belong to run"],
  ["a frame of a server", "delta", (d, a) => d.send({ ...a, kind: "input" }), "must not come from a device"],
  [
    "a field that it does not have",
    "delta",
    (d, a) => d.send({ ...a, meta: { mode: "train" } }),
    "must be a map of",
  ],
  ["no frame but noise", "delta", (d) => d.raw(new Uint8Array(1000).fill(0xff)), "Cannot read frame"],
  ["an empty message", "delta", (d) => d.raw(new Uint8Array(0)), "Cannot read frame"],
  [
    "a cut frame",
    "delta",
    (d, a) => d.raw(encodeFrame({ ...a, sequence: 3 }).subarray(0, 500)),
    "Cannot read frame",
  ],
];

async function assertReleased(outcome: Outcome, message: string): Promise<void> {
  assertEquals(outcome.server.status, "failed");
  for (const { modules, steps, reason, error } of outcome.good) {
    assert(modules !== null && steps >= 1, "what was learnt in step 0 is kept");
    // Either the server's last word came through, or the channel's.
    assert(`${reason} ${error}`.includes(message.slice(0, 20)), `${reason} ${error}`);
    const weights = flatten(await modules.weights());
    assert(weights.every(Number.isFinite));
    modules[Symbol.dispose]();
  }
}

for (const [what, faultAt, fault, message] of FAULTS) {
  Deno.test(`a device that answers with ${what} ends the run, and the others keep their weights [slow]`, async () => {
    const before = engine.stats.tensors;
    const outcome = await runWith(faultAt, fault);
    const Expected = message === "battery empty" ? ChannelClosedError : ProtocolError;
    assertInstanceOf(outcome.error, Expected, `${outcome.error}`);
    const text = (outcome.error as Error).message;
    assert(text.includes(message), text);
    await assertReleased(outcome, text);
    assertEquals(engine.stats.tensors, before, "tensors left behind");
  });
}

for (const kind of ["delta", "inputGradient", "statistics"] as const) {
  for (const value of [NaN, Infinity, -Infinity]) {
    Deno.test(`a device whose ${kind} holds ${value} ends the run, named, and no other head learns from it`, async () => {
      const before = engine.stats.tensors;
      const outcome = await runWith(kind, (device, answer) => {
        const { shape, data } = answer.tensors[0]!;
        const spoilt = Float32Array.from(data).with(data.length - 1, value);
        return device.send({ ...answer, tensors: [{ dtype: "f32", shape, data: spoilt }] });
      });
      assertInstanceOf(outcome.error, TrainingError, `${outcome.error}`);
      const { message } = outcome.error;
      assert(message.includes(`"${kind}" of device "wicked" must be finite: in step 1`), message);
      assert(message.includes(` is ${value};`), message);
      for (const { error } of outcome.good) assertEquals((error as Error).message, message);
      await assertReleased(outcome, message);
      assertEquals(engine.stats.tensors, before, "tensors left behind");
    });
  }
}

Deno.test("a device that says nothing: DeadlineError within the limit", async () => {
  const before = engine.stats.tensors;
  const outcome = await runWith("delta", () => {}, 250);
  assertInstanceOf(outcome.error, DeadlineError);
  assertEquals(outcome.wickedReason, (outcome.error as Error).message);
  await assertReleased(outcome, (outcome.error as Error).message);
  assertEquals(engine.stats.tensors, before, "tensors left behind");
});

for (const faultAt of ["delta", "inputGradient", "statistics"] as const) {
  Deno.test(`a device that leaves instead of sending its ${faultAt}: ChannelClosedError`, async () => {
    const before = engine.stats.tensors;
    const outcome = await runWith(faultAt, (device) => device.leave());
    assertInstanceOf(outcome.error, ChannelClosedError);
    assert((outcome.error as Error).message.includes(`device "wicked"`));
    await assertReleased(outcome, (outcome.error as Error).message);
    assertEquals(engine.stats.tensors, before, "tensors left behind");
    assertEquals(outcome.server.devices.map((d) => d.connected), [false, false, false]);
  });
}

Deno.test("a frame that is larger than the transport allows ends the run on both sides", async () => {
  const before = engine.stats.tensors;
  // E alone takes 9984 bytes.
  await using listener = webSocketListener({ maxFrameBytes: 9000 });
  await using served = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    (r) => listener.handle(r),
  );
  const server = new EdgeServer(serverOptions(model, settings));
  const admitting = admitAll(listener, server);
  const running = server.start().then(() => null, (error: unknown) => error);
  const channel = await webSocketTransport({ url: `http://127.0.0.1:${served.addr.port}` }).connect();
  const device = await runUserDevice({ engine, channel, name: "a", capacity: 1, data: dataSide(model, 5) });
  assertInstanceOf(await running, ChannelClosedError);
  assertInstanceOf(device.error, ChannelClosedError);
  assert(device.modules !== null);
  device.modules[Symbol.dispose]();
  await listener[Symbol.asyncDispose]();
  await admitting;
  assertEquals(engine.stats.tensors, before, "tensors left behind");
});

/** A data device that does something wrong in its first frame. */
async function runWithData(
  frame: Partial<RawFrame>,
  after?: (device: MadeUpDevice, run: string) => Promise<void>,
): Promise<unknown> {
  await using link = openLink("in-process");
  const server = new EdgeServer(serverOptions(model, settings));
  const admitting = admitAll(link.listener, server);
  const running = server.start().then(() => null, (error: unknown) => error);
  const channel = await link.transport.connect();
  const device = new MadeUpDevice(channel);
  const hello = {
    name: "data",
    capacity: 0,
    data: true,
    fingerprint: "tiny",
    sharesLoss: false,
  };
  await device.send({ kind: "hello", meta: hello });
  const good = await joinDevice(link, server, { engine, name: "a", capacity: 1 });
  const welcome = decodeFrame((await channel.receive())!);
  const run = welcome.kind === "welcome" ? welcome.meta.run : "";
  await device.send({ kind: "embedding", run, meta: { mode: "train" }, ...frame });
  await after?.(device, run);
  const error = await running;
  const result = await good.result;
  assert(result.modules !== null);
  result.modules[Symbol.dispose]();
  await channel.close();
  await link[Symbol.asyncDispose]();
  await admitting;
  return error;
}

Deno.test("a data device that sends something else than E ends the run", async () => {
  const before = engine.stats.tensors;
  const right = zeros([2, 13, 48]);
  const wrong: Partial<RawFrame>[] = [
    { tensors: [zeros([2, 13, 40])] },
    { tensors: [zeros([26, 48])] },
    { tensors: [] },
    { tensors: [{ dtype: "u8", shape: [2, 13, 48], data: new Uint8Array(2 * 13 * 48) }] },
    { tensors: [right], step: 1 },
    { tensors: [right], meta: { mode: "trial" } },
    { tensors: [right], meta: {} },
    { kind: "hiddenGradient", tensors: [right] },
    // Generation: a prompt in two rows, what does not continue a row, or more than one token of it.
    { kind: "decode", meta: {}, tensors: [right] },
    { kind: "decode", meta: {}, tensors: [zeros([1, 13, 40])] },
    { kind: "decode", meta: {}, tensors: [] },
    { kind: "decode", meta: {}, step: 1, tensors: [zeros([1, 13, 48])] },
    { kind: "decode", meta: { parents: [0] }, tensors: [zeros([1, 1, 48])] },
    { kind: "decode", meta: { parents: [-1] }, tensors: [zeros([1, 1, 48])] },
    { kind: "decode", meta: { parents: ["0"] }, tensors: [zeros([1, 1, 48])] },
    { kind: "decode", meta: { parents: { length: 1 } }, tensors: [zeros([1, 1, 48])] },
    { kind: "decode", meta: { parents: [0, 0] }, tensors: [zeros([2, 2, 48])] },
    { kind: "decode", meta: { parents: [0] }, tensors: [zeros([2, 1, 48])] },
  ];
  for (const frame of wrong) {
    assertInstanceOf(await runWithData(frame), ProtocolError, JSON.stringify(frame.meta));
  }
  const prompt = { kind: "decode", tensors: [zeros([1, 5, 48])] } as const;
  for (const parents of [[1], [0.5], [0, 2], [-1]]) {
    const error = await runWithData({ ...prompt, meta: {} }, (device, run) =>
      device.send({
        kind: "decode",
        run,
        meta: { parents },
        tensors: [zeros([parents.length, 1, 48])],
      }));
    assertInstanceOf(error, ProtocolError, `${parents}`);
  }
  assertEquals(engine.stats.tensors, before, "tensors left behind");
});

Deno.test("a device that is told nonsense by a server stops with a ProtocolError", async () => {
  const before = engine.stats.tensors;
  const welcome = {
    run: "r",
    settings: checkRunSettings(settings),
    model: { layers: 3, heads: 4, hidden: 48 },
    range: { first: 0, count: 1 },
    statistics: [],
  };
  const mask = { dtype: "u8", shape: [3, 1], data: new Uint8Array(3) } as const;
  const meta = { mode: "train", lowest: 0, rows: [26] };
  type Script = readonly (Partial<RawFrame> & Pick<RawFrame, "kind">)[];
  const begin = { kind: "mask", meta, tensors: [mask] } as const;
  const scripts: readonly (readonly [Script, string])[] = [
    [[{ kind: "input", tensors: [zeros([1, 26, 12])] }], "a step must have begun"],
    [[{ ...begin, tensors: [{ ...mask, shape: [1, 3] }] }], "must be [3,1]: they are [1,3]"],
    [[{ ...begin, tensors: [{ ...mask, data: Uint8Array.of(0, 2, 0) }] }], "mask must be 0 or 1"],
    [[{ ...begin, tensors: [zeros([3, 1])] }], 'the tensors of "mask" must be u8'],
    [[{ ...begin, meta: { mode: "train", rows: [26] } }], '"mask.lowest" must be'],
    [[{ ...begin, meta: { ...meta, lowest: 4 } }], "lowest layer at most 3"],
    [[{ ...begin, meta: { lowest: 0, rows: [26] } }], '"mask.mode" must be'],
    [[{ ...begin, meta: { mode: "train", lowest: 0 } }], '"mask.rows" must be'],
    [
      [{ ...begin, meta: { ...meta, mode: "probe" }, tensors: [{ ...mask, data: Uint8Array.of(0, 1, 0) }] }],
      "in a probe 0",
    ],
    [[begin, begin], "step 0 must be done"],
    [[begin, { kind: "input", layer: 1, tensors: [zeros([1, 26, 12])] }], "must be of layer 0"],
    [[begin, { kind: "input", step: 1, tensors: [zeros([1, 26, 12])] }], "must be of step 0"],
    [[begin, { kind: "input", tensors: [zeros([2, 26, 12])] }], "must be [1,26,12]: they are [2,26,12]"],
    [[begin, { kind: "input", tensors: [zeros([1, 25, 12])] }], "must be [1,26,12]: they are [1,25,12]"],
    [[begin, { kind: "input", tensors: [zeros([1, 26, 48])] }], "must be [1,26,12]: they are [1,26,48]"],
    [[begin, { kind: "deltaGradient", tensors: [zeros([2, 1, 26, 12])] }], 'must be "input"'],
    [[begin, { kind: "delta", tensors: [zeros([2, 1, 26, 12])] }], '"delta"'],
    [
      [
        { ...begin, meta: { ...meta, mode: "evaluate" } },
        ...[0, 1, 2, 2].map((layer) => (
          { kind: "input", layer, tensors: [zeros([1, 26, 12])] } as const
        )),
      ],
      'Unexpected "input" in step 0: micro-batch 0 is done',
    ],
  ];
  for (const [script, message] of scripts) {
    await using link = openLink("in-process");
    const device = runUserDevice({ engine, channel: await link.transport.connect(), name: "d", capacity: 1 });
    const channel = (await link.listener.accept())!;
    const server = new MadeUpDevice(channel);
    await server.send({ kind: "welcome", meta: welcome });
    for (const frame of script) await server.send({ run: "r", ...frame }).catch(() => {});
    const result = await device;
    assertInstanceOf(result.error, ProtocolError, `${JSON.stringify(script)}: ${result.error}`);
    assertStringIncludes(result.error.message, message);
    assert(result.modules !== null, "it keeps its weights");
    result.modules[Symbol.dispose]();
    await channel.close();
  }
  assertEquals(engine.stats.tensors, before, "tensors left behind");
  for (
    const change of [{ range: { first: 4, count: 1 } }, { model: { layers: 3 } }, { settings: {} }, {
      statistics: ["x"],
    }]
  ) {
    await using link = openLink("in-process");
    const device = runUserDevice({ engine, channel: await link.transport.connect(), name: "d", capacity: 1 });
    const channel = (await link.listener.accept())!;
    await new MadeUpDevice(channel).send({ kind: "welcome", meta: { ...welcome, ...change } });
    await assertRejects(() => device, ProtocolError, "elcome");
    await channel.close();
  }
});
