/**
 * A device that can be reached again takes part within two steps, however it was lost. Links that drop are in
 * `rejoin_test.ts`, tabs that are started again in `browser/`.
 */

import { assert, assertEquals } from "@std/assert";
import {
  type Channel,
  EdgeServer,
  type EdgeServerEvent,
  type RunState,
  type RunStateSource,
  runUserDevice,
  type UserDeviceOptions,
  type UserDeviceResult,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { inProcessTransport } from "@edgetuner/transport";
import { until } from "../support/until.ts";
import { TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { admitAll, dataSide, eventOf, serverOptions } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const STEPS = 40;
const ID = "1".repeat(16);

/** A device that is lost while it is asked something in a step, and when it can be reached again. */
interface Lost {
  /** What became of the run. */
  readonly events: EdgeServerEvent[];
  /** Training steps done. */
  readonly steps: () => number;
  readonly transport: ReturnType<typeof inProcessTransport>["transport"];
}

/** A run with two devices; the second one is the test's. */
async function run(
  server: EdgeServer,
  second: (lost: Lost) => Promise<UserDeviceResult>,
): Promise<{ readonly back: number; readonly second: UserDeviceResult; readonly events: EdgeServerEvent[] }> {
  const { transport, listener } = inProcessTransport();
  const admitting = admitAll(listener, server);
  const running = server.start();
  const events: EdgeServerEvent[] = [];
  let steps = 0;
  server.subscribe((event) => {
    events.push(event);
    if (event.type === "step") steps++;
  });
  const joined = eventOf(server, (e) => e.type === "joined");
  const common = { engine, capacity: 1, timeoutMs: 20_000 };
  const first = runUserDevice({
    ...common,
    ...{ name: "first", channel: await transport.connect(), data: dataSide(model, STEPS) },
  });
  await joined;
  const result = await second({ events, steps: () => steps, transport });
  await running;
  for (const { modules, error } of [await first, result]) {
    assertEquals(error, null);
    modules?.[Symbol.dispose]();
  }
  await listener[Symbol.asyncDispose]();
  await admitting;
  const back = events.flatMap((e) => e.type === "back" ? [e.step] : []);
  assertEquals(back.length, 1);
  return { back: back[0]!, second: result, events };
}

const serverOf = (more: Parameters<typeof serverOptions>[2] = {}) =>
  new EdgeServer(
    serverOptions(model, { ...tinySettings("slice", STEPS), saveEvery: 1 }, {
      ...{ devices: 2, onLoss: "prune", ...more },
    }),
  );

Deno.test("a device that slept for longer than its own limits is back within two steps of waking", async () => {
  const asleep = Promise.withResolvers<void>();
  let [sleeps, wokeAt] = [false, -1];
  const { back, second } = await run(
    serverOf({ stepDeadlineMs: 400 }),
    async ({ events, steps, transport }) => {
      /** Nothing is sent or taken while it sleeps. */
      const sleeping = (channel: Channel): Channel => ({
        peer: channel.peer,
        closed: channel.closed,
        async send(bytes, options) {
          if (sleeps) await asleep.promise;
          await channel.send(bytes, options);
        },
        async receive(options) {
          const bytes = await channel.receive(options);
          if (sleeps) await asleep.promise;
          return bytes;
        },
        close: (reason, options) => channel.close(reason, options),
        [Symbol.asyncDispose]: () => channel.close(),
      });
      // What waits at the device is over its limit when it wakes: the clock has jumped.
      const device = runUserDevice({
        ...{ engine, capacity: 1, timeoutMs: 300, joinTimeoutMs: 20_000, name: "second", id: ID },
        channel: sleeping(await transport.connect()),
        reconnect: () => transport.connect(),
        onStep: (step) => void (sleeps ||= step === 1 && wokeAt < 0),
      });
      await until(() => events.some((e) => e.type === "away"), "it is missed");
      const missedAt = steps();
      await until(() => steps() >= missedAt + 2, "the others go on");
      [sleeps, wokeAt] = [false, steps()];
      asleep.resolve();
      return await device;
    },
  );
  assert(back <= wokeAt + 2, `woke after step ${wokeAt}, back in step ${back}`);
  assertEquals(second.steps, STEPS);
});

Deno.test("a device that was killed is back within two steps of being started again, with its newest state", async () => {
  const states: RunState[] = [];
  let startedAt = -1;
  const dead = Promise.withResolvers<never>();
  dead.promise.catch(() => {});
  const { back, second } = await run(serverOf(), async ({ events, steps, transport }) => {
    const channel = await transport.connect();
    const common = { engine, capacity: 1, timeoutMs: 20_000, name: "second" } satisfies Partial<
      UserDeviceOptions
    >;
    let isDead = false;
    // It does nothing any more, and nobody hears of it again; its system closes its connection.
    const killed = runUserDevice({
      ...{ ...common, id: ID, channel },
      onState: (state) => void (isDead || states.push(state)),
      onStep: (step) => {
        if (step === 2) {
          isDead = true;
          void channel.close();
        }
      },
    });
    await until(() => events.some((e) => e.type === "away"), "it is missed");
    (await killed).modules?.[Symbol.dispose]();
    const resume: RunStateSource = {
      run: states[0]!.run,
      steps: states.map(({ step }) => step),
      load: (step) => Promise.resolve(states.find((s) => s.step === step)!),
    };
    const missedAt = steps();
    await until(() => steps() >= missedAt + 2, "the others go on");
    startedAt = steps();
    return await runUserDevice({ ...common, resume, channel: await transport.connect() });
  });
  assert(back <= startedAt + 2, `started after step ${startedAt}, back in step ${back}`);
  assertEquals(second.welcome.missed, back - second.welcome.trained!);
});
