import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  EdgeServer,
  type EdgeServerOptions,
  HandshakeError,
  newDeviceKey,
  type RunState,
  runUserDevice,
  type UserDeviceOptions,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { inProcessTransport } from "@edgetuner/transport";
import { TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { until } from "../support/until.ts";
import { dataSide, eventOf, serverOptions } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);
const common = { engine, capacity: 1, timeoutMs: 20_000 };

/** A run that goes on until it is stopped, and a way to it that lets in one device alone. */
function openRun(devices: number, more: Partial<EdgeServerOptions> = {}) {
  const settings = { ...tinySettings("slice", 400), saveEvery: 1 };
  const server = new EdgeServer(
    serverOptions(model, settings, { devices, onLoss: "prune", lossWaitMs: 20_000, ...more }),
  );
  const { transport, listener } = inProcessTransport();
  const join = async (
    options: Partial<UserDeviceOptions> & { readonly name: string },
    letIn?: { readonly id: string; readonly key: string },
  ) => {
    const accepting = listener.accept();
    const channel = await transport.connect();
    void server.join((await accepting)!, { device: letIn });
    return await runUserDevice({ ...common, ...options, channel });
  };
  return { server, join, [Symbol.asyncDispose]: () => listener[Symbol.asyncDispose]() };
}

Deno.test("a device that the host removes is told so and keeps what it learnt; the run goes on, and it may not come back, nor once the edge server was started again", async () => {
  const states: RunState[] = [];
  await using run = openRun(2, { onState: (state) => void states.push(state) });
  const { server, join } = run;
  const [id, key] = ["1".repeat(32), await newDeviceKey()];
  const running = server.start();
  const stepped = eventOf(server, (e) => e.type === "step" && e.record.step === 1);
  const data = join({ name: "laptop", data: dataSide(model, 400) });
  const phone = join({ name: "phone", id, key });
  await stepped;
  const away = eventOf(server, (e) => e.type === "away");
  assertEquals([server.remove("nobody"), server.remove(id.slice(0, 8), "the host has removed it")], [
    false,
    true,
  ]);
  const { modules, reason, steps } = await phone;
  assertEquals(reason, "the host has removed it");
  assert(steps > 0);
  modules![Symbol.dispose]();
  await away;
  // The others go on without it.
  const { latest } = server;
  await until(() => server.latest!.step > latest!.step + 2, "steps without it");
  assertEquals(server.latest!.away?.length, 2);
  // Neither with its id, nor with another id and the same key.
  for (const again of [id, "2".repeat(32)]) {
    await assertRejects(
      () => join({ name: "phone", id: again, key }),
      HandshakeError,
      "the host has removed it",
    );
  }
  server.stop();
  await running;
  (await data).modules![Symbol.dispose]();
  const state = states.at(-1)!;
  const resume = { run: state.run, steps: [state.step], load: () => Promise.resolve(state) };
  await using next = openRun(2, { resume });
  await assertRejects(() => next.join({ name: "phone", id, key }), HandshakeError, "the host has removed it");
});

Deno.test("a device that is removed before the start makes room for another one", async () => {
  await using run = openRun(1);
  const { server, join } = run;
  const joined = eventOf(server, (e) => e.type === "joined");
  const running = server.start();
  const nameless = join({ name: "old phone" });
  await joined;
  assert(server.remove("old phone"));
  // It is not welcome any more: it hears why.
  await assertRejects(() => nameless, Error, "removed this device");
  await until(() => server.devices.length === 0, "room");
  const stepped = eventOf(server, (e) => e.type === "step");
  const other = join({ name: "other", data: dataSide(model, 400) });
  await stepped;
  server.stop();
  await running;
  (await other).modules![Symbol.dispose]();
});

Deno.test("a channel that was opened for one device lets no other in", async () => {
  await using run = openRun(1);
  const { server, join } = run;
  const [key, other] = await Promise.all([newDeviceKey(), newDeviceKey()]);
  const id = "1".repeat(32);
  const letIn = { id, key: key.publicKey };
  const running = server.start();
  for (const hello of [{}, { id }, { id, key: other }, { id: "2".repeat(32), key }]) {
    await assertRejects(() => join({ name: "x", ...hello }, letIn), HandshakeError, "is another device's");
  }
  // Its public key alone is no proof.
  const liar = { publicKey: key.publicKey, secretKey: other.secretKey };
  await assertRejects(
    () => join({ name: "x", id, key: liar }, letIn),
    HandshakeError,
    "its signature is not of that key",
  );
  const stepped = eventOf(server, (e) => e.type === "step");
  const device = join({ name: "phone", id, key, data: dataSide(model, 400) }, letIn);
  await stepped;
  assertMatch(server.status, /running/);
  server.stop();
  await running;
  (await device).modules![Symbol.dispose]();
});
