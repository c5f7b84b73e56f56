/**
 * Generation through the split: the devices have the head modules, the edge server the layers with their
 * keys and values, the data device the prompts, the logits and the choice.
 */

import { Engine } from "@edgetuner/kernels";
import {
  type Adapter,
  adapterOf,
  adapterRange,
  beamSearch,
  CachedSession,
  type Channel,
  ChannelClosedError,
  checkRunSettings,
  type DecodingRecord,
  type DecodingSession,
  decodingTraffic,
  EdgeServer,
  type EdgeServerOptions,
  findCodec,
  type FrameKind,
  HandshakeError,
  joinAdapters,
  loadHeads,
  logLikelihoods,
  ModelFileError,
  Peer,
  ProtocolError,
  type RunSettings,
  runUserDevice,
  sample,
  type TokenSession,
  type UserDeviceResult,
} from "@edgetuner/core";
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { familyFolder, TinyFamily } from "../support/families.ts";
import { type TinyBase, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { learnt, partOf } from "./_learnt.ts";
import {
  admitAll,
  dataSide,
  joinDevice,
  openLink,
  type Passed,
  serverOptions,
  tapped,
  tensorBytesByKind,
  type TransportName,
} from "./_session.ts";

const engine = await Engine.create();
const gpt2 = new TinyGpt2(engine);
const PROMPT = [3, 14, 15, 9, 2];

let dataChannel: Channel | null = null;

/** Heads of M devices. */
const COUNTS: Record<number, readonly number[]> = { 1: [4], 3: [2, 1, 1] };

interface Outcome {
  /** How the run ended at the edge server; `null` if well. */
  readonly error: unknown;
  readonly server: EdgeServer;
  readonly records: readonly DecodingRecord[];
  readonly data: UserDeviceResult;
  readonly devices: readonly UserDeviceResult[];
}

/** A run for generation: devices with parts of the adapter, and a data device apart. */
async function generateWith(options: {
  readonly base?: TinyBase;
  readonly adapter: Adapter;
  readonly counts: readonly number[];
  readonly transport?: TransportName;
  readonly settings: RunSettings;
  readonly server?: Partial<EdgeServerOptions>;
  readonly wrap?: (channel: Channel, device: number) => Channel;
  readonly onFrame?: (passed: Passed) => void;
  readonly generate: (session: TokenSession) => Promise<void>;
}): Promise<Outcome> {
  const { base = gpt2, adapter, counts, transport = "in-process", settings, onFrame, wrap } = options;
  const server = new EdgeServer(
    serverOptions(base, { ...settings, task: "generate" }, { devices: counts.length, ...options.server }),
  );
  const records: DecodingRecord[] = [];
  server.subscribe((event) => event.type === "decoding" && records.push(event.record));
  await using link = openLink(transport);
  const admitting = admitAll(link.listener, server);
  const running = server.start().then(() => null, (error: unknown) => error);
  const around = (device: number) => (channel: Channel) => {
    const inner = wrap?.(channel, device) ?? channel;
    return onFrame === undefined ? inner : tapped(inner, device, onFrame);
  };
  const joined: Promise<UserDeviceResult>[] = [];
  let first = 0;
  for (const [device, count] of counts.entries()) {
    const part = partOf(adapter, first, count);
    first += count;
    // Capacities do not matter: the heads are where they learnt.
    const joining = {
      engine,
      name: `device ${device}`,
      capacity: 1 + device,
      task: "generate",
      adapter: part,
    } as const;
    joined.push((await joinDevice(link, server, joining, around(device))).result);
  }
  const data = { ...dataSide(base, 0), generate: options.generate };
  const last = { engine, name: "data", capacity: 0, task: "generate", data } as const;
  joined.push((await joinDevice(link, server, last, around(counts.length))).result);
  const error = await running;
  const results = await Promise.all(joined);
  for (const { modules } of results) modules?.[Symbol.dispose]();
  await link.listener[Symbol.asyncDispose]();
  await admitting;
  return { error, server, records, data: results.at(-1)!, devices: results.slice(0, -1) };
}

/** Texts of all kinds: the most likely tokens, drawn ones, and found by beam search. */
async function texts(session: DecodingSession): Promise<unknown> {
  const drawn = { temperature: 0.8, topK: 20, seed: 3, maxNewTokens: 40, endTokens: [] };
  return {
    greedy: await sample(session, PROMPT, { maxNewTokens: 8, endTokens: [] }),
    drawn: await sample(session, [4, 8], drawn),
    beams: await beamSearch(session, [4, 8], { beams: 4, maxNewTokens: 8, endTokens: [0] }),
    again: await sample(session, PROMPT, { maxNewTokens: 6, endTokens: [] }),
  };
}

/** The same on one machine. */
async function onOneMachine(base: TinyBase, adapter: Adapter): Promise<unknown> {
  using heads = loadHeads(engine, adapter);
  using session = new CachedSession({ engine, layers: base.layers, ends: base.ends, heads });
  return await texts(session);
}

for (const mode of ["slice", "full", "core"] as const) {
  let alone: Promise<unknown> | null = null;
  for (const transport of ["in-process", "websocket", "http"] as const) {
    // Frames are bytes to a transport: one mode for each over the network.
    if (transport !== "in-process" && mode !== (transport === "http" ? "full" : "core")) continue;
    for (const count of transport === "in-process" ? [1, 3] : [3]) {
      const name = `${mode}, ${count} devices, ${transport}`;
      Deno.test(`generation through the split (${name}) gives the tokens of one machine [slow]`, async () => {
        const settings = tinySettings(mode, 1);
        const adapter = await learnt(engine, gpt2, settings);
        await (alone ??= onOneMachine(gpt2, adapter));
        const before = engine.stats.tensors;
        let found: unknown;
        const { error, records, data } = await generateWith({
          adapter,
          counts: COUNTS[count]!,
          transport,
          settings,
          generate: async (session) => void (found = await texts(session)),
        });
        assertEquals([error, data.error], [null, null]);
        assertEquals(found, await alone);
        // The last token chosen needs no pass: 8 + 31 + 8 + 6.
        assertEquals(records.length, 53);
        assertEquals(engine.stats.tensors, before, "keys, values and head modules are freed");
      });
    }
  }
}

Deno.test("generation through the split: grouped keys and values, and other families [slow]", async () => {
  for (const family of ["llama_grouped", "opt", "qwen3", "gemma3"] as const) {
    using base = new TinyFamily(engine, await familyFolder(family));
    const settings = tinySettings("full", 1);
    const adapter = await learnt(engine, base, settings);
    let found: unknown;
    const generate = async (session: DecodingSession) => void (found = await texts(session));
    const { error, data } = await generateWith({ base, adapter, counts: [2, 1, 1], settings, generate });
    assertEquals([error, data.error], [null, null]);
    assertEquals(found, await onOneMachine(base, adapter), family);
  }
});

Deno.test("log-likelihoods through the split are those of one machine, in one pass each", async () => {
  const requests = [
    { context: PROMPT, continuation: [6, 5] },
    { context: PROMPT, continuation: [35, 8, 9, 7] },
    { context: [4], continuation: [1] },
    // Longer than the model: its start is cut off.
    { context: Array.from({ length: 50 }, (_, i) => i), continuation: [3, 2] },
  ];
  for (const transport of ["in-process", "websocket"] as const) {
    const settings = tinySettings("full", 1);
    const adapter = await learnt(engine, gpt2, settings);
    const before = engine.stats.tensors;
    const found: number[] = [];
    const { error, data, records } = await generateWith({
      adapter,
      counts: [2, 1, 1],
      transport,
      settings,
      generate: async (session) => {
        for (const request of requests) found.push(await session.logLikelihood(request));
      },
    });
    assertEquals([error, data.error], [null, null]);
    using heads = loadHeads(engine, adapter);
    const model = { engine, layers: gpt2.layers, ends: gpt2.ends, heads };
    const expected = await logLikelihoods(model, requests);
    // The edge server adds the Deltas of several devices, but no sum is in another order.
    assertEquals(found, expected);
    assertEquals(records.map(({ rows, tokens }) => [rows, tokens]), [[1, 6], [1, 8], [1, 1], [1, 32]]);
    heads[Symbol.dispose]();
    assertEquals(engine.stats.tensors, before, "keys, values and head modules are freed");
  }
});

Deno.test("what the heads have learnt matters, and who has them does not [slow]", async () => {
  const settings = tinySettings("slice", 1);
  const adapter = await learnt(engine, gpt2, settings);
  using base = new CachedSession({ engine, layers: gpt2.layers, ends: gpt2.ends, heads: null });
  const plain = await texts(base);
  assert(JSON.stringify(plain) !== JSON.stringify(await onOneMachine(gpt2, adapter)));
  assertEquals(adapterRange(partOf(adapter, 1, 2)), { first: 1, count: 2 });
  const apart = joinAdapters([partOf(adapter, 0, 1), partOf(adapter, 2, 2)]);
  assertThrows(() => adapterRange(apart), ModelFileError, "follow each other");
});

for (const codec of ["f32", "int8"] as const) {
  for (const mode of ["slice", "full", "core"] as const) {
    Deno.test(`a pass of generation takes the bytes of the formula (${mode}, ${codec})`, async () => {
      const settings = { ...tinySettings(mode, 1), codec };
      const counts = [2, 1, 1];
      const { error, server, records } = await generateWith({
        adapter: await learnt(engine, gpt2, settings),
        counts,
        settings,
        generate: async (session) => {
          await session.start(PROMPT);
          await session.append([1, 2, 3], [0, 0, 0]);
          await session.append([4, 5, 6], [0, 1, 2]);
          await session.append([7], [1]);
        },
      });
      assertEquals(error, null);
      assertEquals(records.map(({ rows, tokens, length }) => [rows, tokens, length]), [
        [1, 5, 5],
        [3, 1, 6],
        [3, 1, 7],
        [1, 1, 8],
      ]);
      const expected = new Map<FrameKind, number>();
      for (const { rows, tokens } of records) {
        const pass = decodingTraffic({
          layers: 3,
          heads: 4,
          hidden: 48,
          targets: 2,
          rank: 4,
          mode,
          headsPerDevice: counts,
          rows,
          length: tokens,
          codec: findCodec(codec),
        });
        for (const [kind, bytes] of pass) expected.set(kind, (expected.get(kind) ?? 0) + bytes);
      }
      assertEquals([...tensorBytesByKind(server.traffic())].sort(), [...expected].sort());
      // By hand, f32 and slices: 5 + 3 + 3 + 1 rows of E and h_L, of X and c = 2 Deltas in 3 layers.
      if (codec === "f32" && mode === "slice") {
        assertEquals(expected.get("decode"), 12 * 48 * 4);
        assertEquals(expected.get("input"), 3 * 12 * 48 * 4);
        assertEquals(expected.get("delta"), 2 * 3 * 12 * 48 * 4);
        assertEquals(expected.get("mask"), 4 * 12);
      }
      // Whole frames of all passes, and nothing else but the handshake and the end.
      const inPasses = new Set<FrameKind>(expected.keys());
      const bytes = server.traffic().filter((e) => inPasses.has(e.kind)).reduce(
        (sum, e) => sum + e.frameBytes,
        0,
      );
      assertEquals(records.reduce((sum, r) => sum + r.bytes, 0), bytes);
    });
  }
}

Deno.test("the heads' weights and the tokens never leave their devices", async () => {
  const settings = tinySettings("slice", 1);
  const frames: Passed[] = [];
  await generateWith({
    adapter: await learnt(engine, gpt2, settings),
    counts: [2, 1, 1],
    settings,
    onFrame: (passed) => frames.push(passed),
    generate: async (session) => void await sample(session, PROMPT, { maxNewTokens: 6, endTokens: [] }),
  });
  const sent = frames.filter((f) => f.direction === "sent");
  const kinds = (
    device: number,
  ) => [...new Set(sent.filter((f) => f.device === device).map((f) => f.frame.kind))];
  for (const device of [0, 1, 2]) assertEquals(kinds(device), ["hello", "delta"]);
  assertEquals(kinds(3), ["hello", "decode", "finished"]);
  // A weight would be as large as the head modules; a Delta is one row a token.
  for (const { frame } of sent) {
    for (const { shape } of frame.tensors) {
      if (frame.kind === "delta") assertEquals([shape[0], shape[3]], [2, 12]);
      if (frame.kind === "decode") assertEquals(shape.at(-1), 48);
    }
    if (frame.kind === "decode") assertEquals(Object.keys(frame.meta), frame.meta.parents ? ["parents"] : []);
  }
});

for (const change of [{}, { microBatches: 2 }, { overlap: false }]) {
  const how = JSON.stringify(change);
  Deno.test(`the data device may generate once training is over, with what the heads just learnt ${how} [slow]`, async () => {
    const settings = { ...tinySettings("slice", 3), ...change };
    const before = engine.stats.tensors;
    let through: unknown;
    const parts: Promise<Adapter>[] = [];
    const server = new EdgeServer(serverOptions(gpt2, settings, { devices: 2 }));
    await using link = openLink("in-process");
    const admitting = admitAll(link.listener, server);
    const running = server.start();
    const data = {
      ...dataSide(gpt2, 3),
      generate: async (s: DecodingSession) => void (through = await texts(s)),
    };
    const a = await joinDevice(link, server, { engine, name: "a", capacity: 3, data });
    const b = await joinDevice(link, server, { engine, name: "b", capacity: 1 });
    await running;
    for (const { result } of [a, b]) {
      const { modules, error } = await result;
      assertEquals(error, null);
      parts.push(adapterOf(modules!));
      await parts.at(-1);
      modules![Symbol.dispose]();
    }
    await link.listener[Symbol.asyncDispose]();
    await admitting;
    assertEquals(data.losses.length, 3);
    assertEquals(through, await onOneMachine(gpt2, joinAdapters(await Promise.all(parts))));
    assertEquals(engine.stats.tensors, before);
  });
}

Deno.test("a device lost in the middle of a text: a typed error, and nothing is left behind", async () => {
  const settings = tinySettings("slice", 1);
  const adapter = await learnt(engine, gpt2, settings);
  const before = engine.stats.tensors;
  let tokens = 0;
  let kept = 0;
  let channelOfTwo: Channel | null = null;
  const { error, data, server } = await generateWith({
    adapter,
    counts: [2, 1, 1],
    settings,
    wrap: (channel, device) => device === 1 ? channelOfTwo = channel : channel,
    generate: async (session) =>
      void await sample(session, PROMPT, {
        maxNewTokens: 20,
        endTokens: [],
        onToken: () => {
          if (++tokens !== 4) return;
          kept = engine.stats.tensors;
          void channelOfTwo!.close("battery empty");
        },
      }),
  });
  assert(kept > before + 3, "keys and values of three layers were there");
  assertInstanceOf(error, ChannelClosedError);
  assertStringIncludes((error as Error).message, `"device 1"`);
  assertEquals(server.status, "failed");
  assertInstanceOf(data.error, ChannelClosedError);
  assertEquals(tokens, 4);
  assertEquals(engine.stats.tensors, before, "keys and values are freed");
});

Deno.test("the data device lost in the middle of a text: the edge server frees keys and values", async () => {
  const settings = tinySettings("slice", 1);
  const adapter = await learnt(engine, gpt2, settings);
  const before = engine.stats.tensors;
  const { error, data, devices } = await generateWith({
    adapter,
    counts: [3, 1],
    settings,
    wrap: (channel, device) => device === 2 ? dataChannel = channel : channel,
    generate: async (session) => {
      await session.start(PROMPT);
      assert(engine.stats.tensors > before + 3, "keys and values of three layers are there");
      await dataChannel!.close("battery empty");
      await session.append([1], [0]);
    },
  });
  assertInstanceOf(error, ChannelClosedError);
  assertStringIncludes((error as Error).message, `"data"`);
  assertInstanceOf(data.error, ChannelClosedError);
  // The devices learn why the run has ended.
  for (const { reason } of devices) assertStringIncludes(reason, `"data"`);
  assertEquals(engine.stats.tensors, before);
});

Deno.test("a data device whose own generation fails ends the run with that error", async () => {
  const settings = tinySettings("slice", 1);
  const adapter = await learnt(engine, gpt2, settings);
  const before = engine.stats.tensors;
  const { error, data } = await generateWith({
    adapter,
    counts: [4],
    settings,
    generate: async (session) =>
      void await sample(session, Array(40).fill(1), { maxNewTokens: 3, endTokens: [] }),
  });
  assertInstanceOf(data.error, RangeError);
  assertInstanceOf(error, ChannelClosedError);
  assertEquals(engine.stats.tensors, before);
});

Deno.test("a data device that asks for more keys and values than allowed is told the limit", async () => {
  const settings = tinySettings("slice", 1);
  const adapter = await learnt(engine, gpt2, settings);
  const before = engine.stats.tensors;
  // 3 layers, 16 slots, K and V of 48 columns: 18 KiB a row.
  const limit = 2 * 3 * 16 * 96 * 4;
  let passes = 0;
  const { error, data, records } = await generateWith({
    adapter,
    counts: [4],
    settings,
    server: { maxCacheBytes: limit },
    generate: async (session) => {
      await session.start(PROMPT);
      await session.append([1, 2], [0, 0]);
      passes = 2;
      await session.append([1, 2, 3], [0, 0, 1]);
    },
  });
  assertEquals(passes, 2);
  assertEquals(records.map((r) => r.cacheBytes), [limit / 2, limit]);
  assertInstanceOf(error, ProtocolError);
  assertStringIncludes((error as Error).message, `at most ${limit} bytes`);
  assertInstanceOf(data.error, ChannelClosedError);
  assertEquals(engine.stats.tensors, before);
});

const hello = { engine, name: "x", capacity: 1 } as const;

Deno.test("a run for generation refuses devices that do not fit it, and waits for others", async () => {
  const settings = tinySettings("slice", 1);
  const adapter = await learnt(engine, gpt2, settings);
  const before = engine.stats.tensors;
  assertThrows(
    () => new EdgeServer(serverOptions(gpt2, settings, { maxCacheBytes: NaN })),
    RangeError,
    "maxCacheBytes must be 0 or more: current value is NaN",
  );
  const refused = async (
    task: "train" | "generate",
    options: Omit<Parameters<typeof runUserDevice>[0], "channel" | "engine" | "name">,
    message: string,
  ) => {
    const channel = await link.transport.connect();
    await assertRejects(
      () => runUserDevice({ ...hello, ...options, task, channel }),
      HandshakeError,
      message,
    );
  };
  await using link = openLink("in-process");
  const server = new EdgeServer(serverOptions(gpt2, { ...settings, task: "generate" }, { devices: 2 }));
  const admitting = admitAll(link.listener, server);
  const running = server.start().then(() => null, (error: unknown) => error);
  const generate = () => Promise.resolve();
  await refused("train", { capacity: 1 }, `what the run is for, "generate"`);
  await refused("train", { capacity: 0, data: dataSide(gpt2, 1) }, `what the run is for, "generate"`);
  const other = { ...adapter, lora: { ...adapter.lora, alpha: 3 } };
  await refused(
    "generate",
    { capacity: 1, adapter: other },
    "alpha 8: current value is slice q,v rank 4 alpha 3",
  );
  const wide = { ...adapter, model: { ...adapter.model, heads: 8 } };
  const moved = new Map(
    [...adapter.arrays].map(([name, a]) => [name.replace(/head(\d)/, (_, h) => `head${+h + 3}`), a]),
  );
  await refused("generate", { capacity: 1, adapter: { ...wide, arrays: moved } }, "some of 4 heads");
  assertEquals(server.devices.length, 0);
  const first = await joinDevice(link, server, {
    ...hello,
    name: "first",
    task: "generate",
    adapter: partOf(adapter, 1, 2),
  });
  await refused(
    "generate",
    { capacity: 1, adapter: partOf(adapter, 2, 2) },
    `each head must be on one device`,
  );
  await joinDevice(link, server, { ...hello, name: "y", task: "generate", adapter: partOf(adapter, 3, 1) });
  const data = { ...dataSide(gpt2, 0), generate };
  await joinDevice(link, server, { ...hello, capacity: 0, name: "data", task: "generate", data });
  const error = await running;
  assertInstanceOf(error, HandshakeError);
  assertStringIncludes((error as Error).message, "head 0 is on none");
  await assertRejects(() => first.result, ChannelClosedError, "head 0 is on none");
  const closed = await link.transport.connect();
  await assertRejects(
    () => runUserDevice({ ...hello, task: "generate", channel: closed }),
    TypeError,
    "is missing",
  );
  await link.listener[Symbol.asyncDispose]();
  await admitting;
  assertEquals(engine.stats.tensors, before);
});

Deno.test("a run for training refuses devices that want to generate", async () => {
  const settings = tinySettings("slice", 1);
  await using link = openLink("in-process");
  const server = new EdgeServer(serverOptions(gpt2, settings));
  const admitting = admitAll(link.listener, server);
  const channel = await link.transport.connect();
  const data = { ...dataSide(gpt2, 0), generate: () => Promise.resolve() };
  await assertRejects(
    () => runUserDevice({ ...hello, capacity: 0, task: "generate", data, channel }),
    HandshakeError,
    `what the run is for, "train"`,
  );
  assertEquals(server.status, "waiting");
  await link.listener[Symbol.asyncDispose]();
  await admitting;
});

Deno.test("a device leaves a run that is not what it joined for, or gives it other heads", async () => {
  const settings = tinySettings("slice", 1);
  const adapter = partOf(await learnt(engine, gpt2, settings), 1, 2);
  const before = engine.stats.tensors;
  const welcome = {
    run: "r",
    settings: checkRunSettings({ ...settings, task: "generate" }),
    model: { layers: 3, heads: 4, hidden: 48 },
    range: { first: 1, count: 2 },
    statistics: [],
  };
  // deno-lint-ignore no-explicit-any -- classes of errors with different names
  const cases: [Record<string, unknown>, new (...args: any[]) => Error, string][] = [
    [{ settings: checkRunSettings(settings) }, HandshakeError, `joined for, "generate": it is for "train"`],
    [{ range: { first: 1, count: 1 } }, HandshakeError, "the heads that it learnt"],
    [{ range: null }, HandshakeError, "the heads that it learnt"],
    [{ model: { layers: 4, heads: 4, hidden: 48 } }, ModelFileError, "model shape"],
    [{ settings: { ...welcome.settings, task: "both" } }, ProtocolError, `"train" or "generate"`],
  ];
  for (const [change, Expected, message] of cases) {
    await using link = openLink("in-process");
    const channel = await link.transport.connect();
    const device = runUserDevice({ ...hello, task: "generate", adapter, channel });
    device.catch(() => {}); // awaited below
    await using server = new Peer((await link.listener.accept())!, { timeoutMs: 5000 });
    assertEquals((await server.receive("hello")).meta.learnt, {
      range: { first: 1, count: 2 },
      lora: adapter.lora,
    });
    await server.send("welcome", { meta: { ...welcome, ...change } as never });
    await assertRejects(() => device, Expected, message);
  }
  assertEquals(engine.stats.tensors, before);
});
