/**
 * A run for generation that stays until it is stopped: devices with heads stay, those that ask come and go.
 */

import { Engine } from "@edgetuner/kernels";
import {
  type Adapter,
  CachedSession,
  type Channel,
  ChannelClosedError,
  DeadlineError,
  GenerationServer,
  type GenerationServerOptions,
  HandshakeError,
  loadHeads,
  ProtocolError,
  runUserDevice,
  sample,
  type TokenSession,
  type UserDeviceOptions,
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
import { TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { takes, until } from "../support/until.ts";
import { learnt, partOf } from "./_learnt.ts";
import {
  admitAll,
  dataSide,
  eventOf,
  joinDevice,
  type Link,
  openLink,
  serverOptions,
  type TransportName,
} from "./_session.ts";

const engine = await Engine.create();
const gpt2 = new TinyGpt2(engine);
const settings = { ...tinySettings("slice", 1), task: "generate" as const };
const adapter = await learnt(engine, gpt2, settings);
const PROMPT = [3, 14, 15, 9, 2];
const GREEDY = { maxNewTokens: 12, endTokens: [] };

/** Tokens of one machine. */
async function here(prompt: readonly number[], of: Adapter = adapter): Promise<number[]> {
  using heads = loadHeads(engine, of);
  using session = new CachedSession({ engine, layers: gpt2.layers, ends: gpt2.ends, heads });
  return await sample(session, prompt, GREEDY);
}

/** A run that has begun. */
interface Staying extends AsyncDisposable {
  readonly server: GenerationServer;
  readonly link: Link;
  /** How the run ended: `null` if well. */
  readonly running: Promise<unknown>;
  readonly heads: readonly { readonly result: Promise<UserDeviceResult>; readonly channel: Channel }[];
  /** Joins as a data device; resolves with how that ended. */
  ask(
    generate: (session: TokenSession, ended: AbortSignal) => Promise<void>,
    options?: Partial<UserDeviceOptions>,
  ): Promise<UserDeviceResult>;
}

async function stay(
  options: Partial<GenerationServerOptions> & {
    readonly transport?: TransportName;
    readonly headTimeoutMs?: number;
    /** True if devices with heads come back when their links are cut. */
    readonly comesBack?: boolean;
  } = {},
): Promise<Staying> {
  const { transport = "in-process", headTimeoutMs = 20_000, comesBack = false, ...others } = options;
  const { pruner: _, ...shared } = serverOptions(gpt2, settings, { devices: 2 });
  const server = new GenerationServer({ ...shared, ...others });
  const link = openLink(transport);
  const admitting = admitAll(link.listener, server);
  const running = server.start().then(() => null, (error: unknown) => error);
  const heads: Staying["heads"][number][] = [];
  for (const [device, [first, count]] of ([[0, 3], [3, 1]] as const).entries()) {
    const own = {
      name: `heads ${device}`,
      capacity: 1,
      task: "generate",
      adapter: partOf(adapter, first, count),
      ...(comesBack && { id: `${device}`.repeat(16), reconnect: () => link.transport.connect() }),
    } as const;
    heads.push(await joinDevice(link, server, { engine, timeoutMs: headTimeoutMs, ...own }));
  }
  let asked = 0;
  return {
    ...{ server, link, running, heads },
    ask: async (generate, options = {}) => {
      const data = { ...dataSide(gpt2, 0), generate };
      const channel = await link.transport.connect();
      return await runUserDevice({
        ...{
          engine,
          channel,
          name: `data ${asked++}`,
          capacity: 0,
          task: "generate",
          data,
          timeoutMs: 20_000,
        },
        ...options,
      });
    },
    async [Symbol.asyncDispose]() {
      server.stop();
      await running;
      for (const { result } of heads) (await result).modules?.[Symbol.dispose]();
      await link[Symbol.asyncDispose]();
      await admitting;
    },
  };
}

for (const transport of ["in-process", "websocket", "http"] as const) {
  Deno.test(`a run for generation stays while data devices come and go, alone and at once, over ${transport} [slow]`, async () => {
    const before = engine.stats.tensors;
    const prompts = [PROMPT, [4, 8], [7]];
    {
      await using run = await stay({ transport });
      // One after the other.
      for (const prompt of prompts) {
        let found: number[] = [];
        const { error, reason } = await run.ask(async (session) =>
          void (found = await sample(session, prompt, GREEDY))
        );
        assertEquals([error, reason, found], [null, "", await here(prompt)]);
      }
      // All at once, each with its own keys and values, and each more than once.
      const all = await Promise.all(prompts.map(async (prompt) => {
        const found: number[][] = [];
        const { error } = await run.ask(async (session) => {
          for (let i = 0; i < 2; i++) found.push(await sample(session, prompt, GREEDY));
        });
        assertEquals(error, null);
        return found;
      }));
      for (const [i, prompt] of prompts.entries()) assertEquals(all[i], Array(2).fill(await here(prompt)));
      assertEquals(run.server.status, "running");
      await until(() => run.server.devices.length === 2, "data devices that have left are forgotten");
      run.server.stop("enough");
      assertEquals([await run.running, run.server.status], [null, "ended"]);
      for (const { result } of run.heads) {
        const { error, reason, ending } = await result;
        assertEquals([error, reason, ending], [null, "enough", { step: 0, best: false }]);
      }
    }
    assertEquals(engine.stats.tensors, before, "keys, values and head modules are freed");
  });
}

Deno.test("devices wait for longer than their limits while nothing is asked, and hear of the end at once", async () => {
  await using run = await stay({ timeoutMs: 200, headTimeoutMs: 200 });
  let found: number[] = [];
  const asking = run.ask(async (session, ended) => {
    await takes(700, ended);
    found = await sample(session, PROMPT, GREEDY);
    await new Promise<void>((resolve) => ended.addEventListener("abort", () => resolve()));
  }, { timeoutMs: 2000 });
  await until(() => found.length > 0, "the text after the silence");
  assertEquals(found, await here(PROMPT));
  run.server.stop("closed for today");
  const { error, reason } = await asking;
  assertEquals([error, reason], [null, "closed for today"]);
});

Deno.test("what a data device does wrong, or its end, is its own: the others go on", async () => {
  await using run = await stay({ maxCacheBytes: 50_000 });
  const good = Promise.withResolvers<void>();
  const found: number[][] = [];
  const steady = run.ask(async (session) => {
    found.push(await sample(session, PROMPT, GREEDY));
    await good.promise;
    found.push(await sample(session, PROMPT, GREEDY));
  });
  await until(() => found.length === 1, "the first text");
  // Keys and values of others count.
  const large = await run.ask(async (session) => void await session.start(Array(32).fill(1)));
  assertInstanceOf(large.error, ChannelClosedError);
  assertStringIncludes(String(large.error), "keys and values must take at most");
  // It goes in the middle of a text.
  const abort = new AbortController();
  const gone = await run.ask(async (session) => {
    await session.start([1]);
    abort.abort();
    await session.append([2], [0]);
  }, { signal: abort.signal });
  assert(gone.error !== null);
  const data = { ...dataSide(gpt2, 1), task: "generate" };
  const batch = await runUserDevice({
    ...{
      engine,
      channel: await run.link.transport.connect(),
      name: "trainer",
      capacity: 0,
      task: "generate",
      timeoutMs: 20_000,
    },
    data,
  });
  assertStringIncludes(String(batch.error), "a batch came");
  good.resolve();
  assertEquals((await steady).error, null);
  assertEquals(found, [await here(PROMPT), await here(PROMPT)]);
});

Deno.test("who may join a run that stays: data devices up to a number, with heads only those of the start", async () => {
  await using run = await stay({ maxDataDevices: 2 });
  const leave = Promise.withResolvers<void>();
  const two = [0, 1].map(() => run.ask(() => leave.promise));
  await until(() => run.server.devices.length === 4, "both have joined");
  const third = await assertRejects(() => run.ask(() => Promise.resolve()), HandshakeError);
  assertStringIncludes(third.message, "at most 2 data devices");
  const late = { name: "late", task: "generate", adapter: partOf(adapter, 0, 3) } as const;
  const join = async (options: Partial<UserDeviceOptions>) =>
    await runUserDevice({
      ...{ engine, channel: await run.link.transport.connect(), capacity: 1, ...late },
      ...options,
    });
  assertStringIncludes(
    (await assertRejects(() => join({}), HandshakeError)).message,
    "must not have started",
  );
  leave.resolve();
  for (const { error } of await Promise.all(two)) assertEquals(error, null);
  await until(() => run.server.devices.length === 2, "both have left");
  const other = await assertRejects(
    () => run.ask(() => Promise.resolve(), { data: dataSide(gpt2, 0, { fingerprint: "other" }) }),
    HandshakeError,
  );
  assertStringIncludes(other.message, "must be the server's");
  assertEquals((await run.ask(() => Promise.resolve())).error, null);
});

Deno.test("a run that stays ends with a typed error where a device with heads is lost, and pauses as others do", async () => {
  await using run = await stay();
  let found: number[] = [];
  run.server.pause();
  const asking = run.ask(async (session, ended) => {
    found = await sample(session, PROMPT, GREEDY);
    await new Promise<void>((resolve) => ended.addEventListener("abort", () => resolve()));
  });
  await eventOf(run.server, (event) => event.type === "status" && event.status === "paused");
  assertEquals(found, []);
  run.server.resume();
  await until(() => found.length > 0, "the text after the pause");
  await run.heads[0]!.channel.close("gone");
  const error = await run.running;
  assertInstanceOf(error, ChannelClosedError);
  assertStringIncludes(error.message, "heads 0");
  assertEquals(run.server.status, "failed");
  assertInstanceOf((await asking).error, ChannelClosedError);
});

/** The adapter with heads that do nothing, as if they were away. */
function without(from: number): Adapter {
  const arrays = [...adapter.arrays].map(([name, array]) => {
    const isAway = Number(/head(\d+)/.exec(name)![1]) >= from;
    return [name, isAway ? { ...array, data: array.data.map(() => 0) } : array] as const;
  });
  return { ...adapter, arrays: new Map(arrays) };
}

for (const comesBack of [false, true]) {
  Deno.test(`a text goes on without the heads of a device that is lost in it, and says so${comesBack ? "; it comes back" : ""}`, async () => {
    const tensors = engine.stats.tensors;
    {
      await using run = await stay({ onLoss: "prune", comesBack });
      const told: (readonly number[])[] = [];
      const records: (readonly number[] | undefined)[] = [];
      const presence: string[] = [];
      run.server.subscribe((event) => {
        if (event.type === "away" || event.type === "back") presence.push(event.type);
        if (event.type !== "decoding") return;
        records.push(event.record.away);
        if (records.length === 4) void run.heads[1]!.channel.close("gone");
      });
      const texts: number[][] = [];
      const data = { ...dataSide(gpt2, 0), onAway: (heads: readonly number[]) => void told.push(heads) };
      const { error } = await run.ask(async () => {}, {
        data: {
          ...data,
          generate: async (session) => {
            for (let text = 0; text < 2; text++) texts.push(await sample(session, PROMPT, GREEDY));
          },
        },
      });
      assertEquals(error, null);
      const whole = await here(PROMPT);
      assertEquals(texts[0]!.length, GREEDY.maxNewTokens);
      assertEquals(texts[0]!.slice(0, 4), whole.slice(0, 4));
      if (comesBack) {
        assertEquals(texts[1], whole);
        assertEquals(told.at(-1) ?? [], []);
        assertEquals(presence, ["away", "back"]);
      } else {
        assertEquals(texts[1], await here(PROMPT, without(3)));
        assertEquals(told, [[3]]);
        assertEquals(records.map((away) => away !== undefined), records.map((_, i) => i >= 4));
      }
      assertEquals(run.server.status, "running");
    }
    assertEquals(engine.stats.tensors, tensors);
  });
}

Deno.test("a data device that asks nothing for too long is closed, and options out of range are refused", async () => {
  await using run = await stay({ idleTimeoutMs: 50 });
  const idle = await run.ask((_session, ended) =>
    new Promise((resolve) => ended.addEventListener("abort", () => resolve()))
  );
  assert(
    idle.error instanceof ChannelClosedError || idle.error instanceof DeadlineError ||
      idle.error instanceof ProtocolError,
  );
  assertEquals(run.server.status, "running");
  const { pruner: _, ...shared } = serverOptions(gpt2, settings);
  for (
    const [options, message] of [
      [{ settings: tinySettings("slice", 1) }, 'the task must be "generate"'],
      [{ maxDataDevices: 1 }, "maxDataDevices must be"],
      [{ maxCacheBytes: -1 }, "maxCacheBytes must be"],
      [{ idleTimeoutMs: 0 }, "idleTimeoutMs must be above 0"],
    ] as const
  ) {
    assertThrows(() => new GenerationServer({ ...shared, ...options }), RangeError, message);
  }
});
