import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import {
  type Channel,
  EdgeServer,
  type EdgeServerOptions,
  encodeFrame,
  type Frame,
  HandshakeError,
  openRunStates,
  type RunSettings,
  runStateWriter,
  runUserDevice,
  TrainingError,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { inProcessTransport } from "@edgetuner/transport";
import { batchOf, shallowModel, TinyGpt2 } from "../support/tiny_model.ts";
import { type Fault, faulty, type PassedFrame } from "./_lossy.ts";
import { BATCHES, ownerSide, runOwners, settingsOf, type TestOwner, turnsOf } from "./_owners.ts";
import { admitAll, dataSide, serverOptions } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine, shallowModel());

const attic: TestOwner = { name: "attic", train: BATCHES.attic, valid: [batchOf(2)] };
const barn: TestOwner = { name: "barn", train: BATCHES.barn, valid: [batchOf(1)] };

Deno.test("the run ends when every owner has given all its batches, with a validation", async () => {
  const few = (owner: TestOwner, count: number): TestOwner => ({
    ...owner,
    train: (position) => position < count ? owner.train(position) : null,
  });
  const shared = await runOwners(model, {
    settings: settingsOf(30),
    capacities: [1],
    owners: [few(attic, 2), few(barn, 5)],
  });
  assertEquals([shared.error, shared.devices.map((d) => d.error)], [null, [null, null, null]]);
  const turns = turnsOf(shared.records);
  assertEquals(turns.length, 7);
  assertEquals(turns.slice(-3), ["barn", "barn", "barn"]);
  assertEquals(shared.events.flatMap((e) => e.type === "validation" ? [e.step] : []), [0, 7]);
  assertEquals(shared.devices.map((d) => [d.steps, d.ending?.step]), [[7, 7], [7, 7], [7, 7]]);
});

Deno.test("an owner lost in validation is left out of it, and losses on fewer owners' data are never the best", async () => {
  for (const kind of ["turn", "embedding", "hidden", "loss"]) {
    const shared = await runOwners(model, {
      settings: settingsOf(4),
      capacities: [1],
      owners: [attic, barn],
      server: { sharing: { evalEvery: 2, keepBest: true } },
      faults: {
        barn: ({ frame }) =>
          frame.step === 2 && frame.kind === kind && isOfValidation(frame) ? "cut" : undefined,
      },
    });
    assertEquals(shared.error, null, kind);
    const told = shared.events.flatMap((e) => e.type === "validation" ? [e] : []);
    assertEquals(told.map(({ step, owners }) => [step, owners.map((o) => o.name).sort()]), [
      [0, ["attic", "barn"]],
      [2, ["attic"]],
      [4, ["attic"]],
    ], kind);
    assertEquals(told.map(({ isBest }) => isBest), [true, false, false], kind);
  }
});

/** True for a frame of an evaluation: of other frames it is not told, and training of step 2 comes after it. */
let inValidation = false;
function isOfValidation(frame: Frame): boolean {
  if (frame.kind === "turn") inValidation = frame.meta.mode === "evaluate";
  return inValidation;
}

Deno.test("with the policy wait an owner is waited for, and no turn is missed; with stop the run ends", async () => {
  const cut = ({ frame, link }: { readonly frame: Frame; readonly link: number }) =>
    link === 0 && frame.kind === "hiddenGradient" && frame.step >= 1 ? "cut" as const : undefined;
  const options = { settings: settingsOf(6), capacities: [1], owners: [attic, barn] };
  const whole = await runOwners(model, options);
  const waited = await runOwners(model, {
    ...options,
    faults: { barn: cut },
    comesBack: true,
    server: { onLoss: "wait" },
  });
  assertEquals(waited.error, null);
  assertEquals(turnsOf(waited.records), turnsOf(whole.records));
  assertEquals(waited.states, whole.states);
  const stopped = await runOwners(model, { ...options, faults: { barn: cut }, server: { onLoss: "stop" } });
  assertStringIncludes(stopped.error!.message, "barn");
});

Deno.test("an owner that breaks the protocol is named and may not come back; the others go on. Without any other the run ends", async () => {
  const nonsense = ({ frame, direction }: { readonly frame: Frame; readonly direction: string }) =>
    direction === "sent" && frame.kind === "embedding"
      ? encodeFrame({ ...frame, meta: { mode: "evaluate" as const }, step: frame.step + 7 })
      : undefined;
  const options = { settings: settingsOf(4), capacities: [1], comesBack: true };
  const shared = await runOwners(model, { ...options, owners: [attic, barn], faults: { barn: nonsense } });
  assertEquals(shared.error, null);
  assertEquals(turnsOf(shared.records), Array(4).fill("attic"));
  const away = shared.events.flatMap((e) => e.type === "away" ? [[e.device.name, e.reason]] : []);
  assertEquals(away.length, 1);
  assertStringIncludes(away[0]!.join(" "), "barn");
  assert(shared.devices[1]!.error !== null);
  const alone = await runOwners(model, { ...options, owners: [barn], faults: { barn: nonsense } });
  assertStringIncludes(alone.error!.message, "barn");
});

Deno.test("an owner whose loss is not finite is named and may not come back; of the last one it ends the run for all", async () => {
  const options = { settings: settingsOf(4), capacities: [1] };
  // As the device says of a loss that is not finite.
  const none = (owner: TestOwner): TestOwner => ({
    ...owner,
    train: () => {
      throw new TrainingError("the loss is not finite");
    },
  });
  const shared = await runOwners(model, { ...options, owners: [attic, none(barn)] });
  assertEquals(shared.error, null);
  assertEquals(turnsOf(shared.records), Array(4).fill("attic"));
  assert(shared.devices[1]!.error instanceof TrainingError);
  const both = await runOwners(model, { ...options, owners: [none(attic), none(barn)] });
  assert(both.error instanceof TrainingError);
});

Deno.test("the last owner is waited for as long as --loss-wait says, then the run ends and all keep what they have learnt", async () => {
  const shared = await runOwners(model, {
    settings: settingsOf(6),
    capacities: [1],
    owners: [attic, barn],
    server: { lossWaitMs: 300 },
    faults: {
      attic: ({ frame }) => frame.step >= 2 && frame.kind === "hidden" ? "cut" : undefined,
      barn: ({ frame }) => frame.step >= 3 && frame.kind === "hidden" ? "cut" : undefined,
    },
  });
  assert(shared.error !== null);
  assertEquals(shared.states.length, 1);
  assertEquals(turnsOf(shared.records).slice(2).every((name) => name === "barn"), true);
});

Deno.test("a late device without data finds no heads, and one whose data takes no turns has none to give: both are refused in words", async () => {
  const server = new EdgeServer(
    serverOptions(model, settingsOf(400), { devices: 1, onLoss: "prune", sharing: {} }),
  );
  const { transport, listener } = inProcessTransport();
  const admitting = admitAll(listener, server);
  const running = server.start();
  const join = async (
    name: string,
    capacity: number,
    data?: ReturnType<typeof ownerSide> | ReturnType<typeof dataSide>,
  ) =>
    await runUserDevice({
      engine,
      name,
      capacity,
      data,
      channel: await transport.connect(),
      timeoutMs: 20_000,
    });
  const first = join("attic", 1, ownerSide(model, attic));
  const started = Promise.withResolvers<void>();
  server.subscribe((e) => e.type === "step" && started.resolve());
  await started.promise;
  await assertRejects(() => join("barn", 1), HandshakeError, "--adopt after=N");
  await assertRejects(() => join("cellar", 0, dataSide(model, 4)), HandshakeError, "takes turns");
  assertEquals(server.status, "running");
  server.stop();
  await running;
  (await first).modules?.[Symbol.dispose]();
  await listener[Symbol.asyncDispose]();
  await admitting;
});

Deno.test("a run that waits in vain for owners says who has come", async () => {
  const server = new EdgeServer(
    serverOptions(model, settingsOf(4), { devices: 1, joinTimeoutMs: 300, sharing: { devices: 3 } }),
  );
  const { transport, listener } = inProcessTransport();
  const admitting = admitAll(listener, server);
  const data = ownerSide(model, attic);
  const channel = await transport.connect();
  const joining = runUserDevice({ engine, name: "attic", capacity: 1, data, channel, timeoutMs: 20_000 });
  const joined = assertRejects(() => joining);
  const error = await assertRejects(() => server.start());
  assertStringIncludes(
    (error as Error).message,
    `1 devices with heads and 3 with data must join within 300 ms: 1 joined, with data "attic"`,
  );
  await joined;
  await listener[Symbol.asyncDispose]();
  await admitting;
});

/** A run of two owners, one with heads, whose edge server dies at a frame of the device with heads, and starts again. */
async function killServer(settings: RunSettings, dies: (frame: Frame) => boolean) {
  const root = await Deno.makeTempDir();
  const names = ["attic", "barn", "heads"] as const;
  const write = new Map(
    await Promise.all(
      ["server", ...names].map(async (name) =>
        [name, await runStateWriter(`${root}/${name}`, null)] as const
      ),
    ),
  );
  let pair = inProcessTransport();
  const killed = Promise.withResolvers<void>();
  let isKilled = false;
  const links: Channel[] = [];
  const losses = new Map<string, number | null>();
  const open = (more: Partial<EdgeServerOptions>) => {
    const sharing = { devices: 2, weights: { barn: 2 }, evalEvery: 3 };
    const server = new EdgeServer(
      serverOptions(model, settings, { devices: 2, onLoss: "prune", sharing, ...more }),
    );
    server.subscribe((e) => {
      if (e.type === "step") {
        losses.set(`${e.record.step} ${e.record.mode} ${e.record.owners}`, e.record.loss);
      }
    });
    return { server, admitting: admitAll(pair.listener, server) };
  };
  const before = open({ onState: (state) => write.get("server")!(state) });
  const abort = new AbortController();
  const running = before.server.start(abort.signal);
  const results = names.map(async (name) => {
    const connect = async () => {
      const channel = await pair.transport.connect();
      if (isKilled) return channel;
      links.push(channel);
      return faulty(channel, ({ frame }) => {
        if (name === "heads" && dies(frame)) killed.resolve();
        return name === "heads" && dies(frame) ? "cut" : undefined;
      });
    };
    return await runUserDevice({
      ...{ engine, name, id: name.repeat(8), capacity: name === "attic" ? 0 : 1, timeoutMs: 20_000 },
      channel: await connect(),
      reconnect: connect,
      ...(name === "attic" && { data: ownerSide(model, attic) }),
      ...(name === "barn" && { data: ownerSide(model, barn) }),
      onState: (state) => write.get(name)!(state),
      savedStates: () => openRunStates(`${root}/${name}`).catch(() => null),
    });
  });
  if (await Promise.race([killed.promise.then(() => true), running.then(() => false)])) {
    isKilled = true;
    const { listener } = pair;
    pair = inProcessTransport();
    for (const link of links) await link.close("killed");
    abort.abort(new DOMException("killed", "AbortError"));
    await Promise.allSettled([running, listener[Symbol.asyncDispose](), before.admitting]);
    const resume = await openRunStates(`${root}/server`);
    const rewrite = await runStateWriter(`${root}/server`, resume);
    const after = open({ resume, onState: rewrite });
    await after.server.start();
    await pair.listener[Symbol.asyncDispose]();
    await after.admitting;
  } else {
    await pair.listener[Symbol.asyncDispose]();
    await before.admitting;
  }
  const devices = await Promise.all(results);
  await Deno.remove(root, { recursive: true });
  for (const { error } of devices) assertEquals(error, null);
  const states = await Promise.all(devices.map((d) => d.modules?.state() ?? null));
  for (const { modules } of devices) modules?.[Symbol.dispose]();
  return { states, losses: [...losses].sort(([a], [b]) => a < b ? -1 : 1) };
}

Deno.test("an edge server of several owners that is killed goes on from its state with the same turns: as if nothing had happened, bit for bit [slow]", async () => {
  const settings = settingsOf(8, { saveEvery: 2 });
  const tensors = engine.stats.tensors;
  const whole = await killServer(settings, () => false);
  for (const [kind, step] of [["delta", 5], ["mask", 4], ["inputGradient", 7]] as const) {
    const { states, losses } = await killServer(settings, (f) => f.kind === kind && f.step === step);
    assertEquals(losses, whole.losses, `${kind} ${step}`);
    assertEquals(states, whole.states, `${kind} ${step}`);
  }
  assertEquals(engine.stats.tensors, tensors);
});

Deno.test("an owner that keeps the others waiting longer than --step-deadline counts as lost, and the others go on", async () => {
  for (const kind of ["embedding", "hiddenGradient", "loss"]) {
    const hold: Fault = ({ frame }) => frame.step >= 1 && frame.kind === kind ? "hold" : undefined;
    const shared = await runOwners(model, {
      settings: settingsOf(5),
      capacities: [1],
      owners: [attic, barn],
      faults: { barn: hold },
      server: { stepDeadlineMs: 400 },
    });
    assertEquals(shared.error, null, kind);
    assertEquals(turnsOf(shared.records).slice(1).includes("barn"), false, kind);
    const away = shared.events.flatMap((e) => e.type === "away" ? [[e.device.name, e.reason]] : []);
    assertStringIncludes(away.join(" "), "must take at most 0.4 s", kind);
    assertEquals(away.length, 1);
  }
});

Deno.test("the next owner sends its batch while the step before is computed, unless nothing is to overlap", async () => {
  for (const overlap of [true, false]) {
    const order: string[] = [];
    const note = ({ frame }: { readonly frame: Frame }) =>
      frame.kind === "embedding" ? void order.push(`E${frame.step}`) : undefined;
    const shared = await runOwners(model, {
      settings: settingsOf(6, { overlap }),
      capacities: [1],
      owners: [{ ...attic, valid: [] }, { ...barn, valid: [] }],
      faults: { attic: note, barn: note },
      onEvent: (e) => e.type === "step" && order.push(`s${e.record.step}`),
    });
    assertEquals(shared.error, null);
    const early = [1, 2, 3, 4, 5].filter((step) => order.indexOf(`E${step}`) < order.indexOf(`s${step - 1}`));
    assertEquals(early, overlap ? [1, 2, 3, 4, 5] : []);
  }
});

Deno.test("an owner of a mixed step that is lost at any message and comes back: as if nothing had happened, bit for bit [slow]", async () => {
  const one = (owner: TestOwner): TestOwner => ({ ...owner, valid: [], train: () => batchOf(1) });
  const options = {
    settings: settingsOf(3, { accumulate: 4, codec: "int8" }),
    capacities: [1],
    owners: [one(attic), one(barn)],
    server: { onLoss: "wait" as const, sharing: { mix: true } },
    comesBack: true,
  };
  const tensors = engine.stats.tensors;
  const frames: PassedFrame[] = [];
  const whole = await runOwners(model, {
    ...options,
    faults: { barn: (passed) => void frames.push(passed) },
  });
  assertEquals(whole.error, null);
  const turn = frames.filter(({ frame }) => frame.step === 1 && !["welcome", "paused"].includes(frame.kind));
  assertEquals(turn.length, 8);
  for (const { index, frame: { kind } } of turn) {
    const cut: Fault = (passed) => passed.link === 0 && passed.index === index ? "cut" : undefined;
    const lossy = await runOwners(model, { ...options, faults: { barn: cut } });
    assertEquals(lossy.error, null, kind);
    assertEquals(lossy.records.map((r) => r.loss), whole.records.map((r) => r.loss), kind);
    assertEquals(lossy.states, whole.states, kind);
  }
  // Without waiting the other one gives all parts meanwhile.
  const cut: Fault = (passed) => passed.index === turn[4]!.index ? "cut" : undefined;
  const { records, error } = await runOwners(model, {
    ...options,
    comesBack: false,
    server: { sharing: { mix: true } },
    faults: { barn: cut },
  });
  assertEquals(error, null);
  assertEquals(records.map((r) => [r.owners!.length, r.batch]), [[2, 4], [1, 4], [1, 4]]);
  assertEquals(engine.stats.tensors, tensors);
});
