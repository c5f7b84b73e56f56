/**
 * Owners of data that join late, with heads or without, and who is waited for when the edge server is started again.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  DeadlineError,
  EdgeServer,
  type RunState,
  type RunStateSource,
  runUserDevice,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { inProcessTransport } from "@edgetuner/transport";
import { until } from "../support/until.ts";
import { TinyGpt2 } from "../support/tiny_model.ts";
import { BATCHES, ownerSide, runOwners, settingsOf, type TestOwner, turnsOf } from "./_owners.ts";
import { admitAll, serverOptions } from "./_session.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

const owner = (name: keyof typeof BATCHES, more: Partial<TestOwner> = {}): TestOwner => ({
  ...{ name, train: BATCHES[name], ...more },
});

Deno.test("an owner that joins late takes over heads that are free, and has turns from then on", async () => {
  const tensors = engine.stats.tensors;
  const shared = await runOwners(model, {
    ...{ settings: settingsOf(12), capacities: [1, 1], server: { adoptAfter: 0 } },
    owners: [owner("attic"), owner("barn", { joinsAt: 5, capacity: 1 })],
    faults: { h1: ({ frame }) => frame.step === 2 && frame.kind === "delta" ? "cut" : undefined },
  });
  assertEquals(shared.error, null);
  const late = shared.devices.at(-1)!;
  assertEquals([late.error, late.welcome.range], [null, { first: 2, count: 2 }]);
  // The heads began anew: they lack all that was trained before.
  assertEquals(late.welcome.missed, late.welcome.start);
  const records = shared.records.filter((r) => r.mode === "train");
  assert(records.some((r) => r.away?.join() === "2,3"));
  assertEquals(records.at(-1)!.away, undefined);
  assert(turnsOf(shared.records).slice(0, 5).every((name) => name === "attic"));
  assert(turnsOf(shared.records).slice(5).filter((name) => name === "barn").length >= 2);
  assertEquals(engine.stats.tensors, tensors);
});

Deno.test("an owner that joins late where no heads are free helps with its data alone", async () => {
  const shared = await runOwners(model, {
    ...{ settings: settingsOf(8), capacities: [1] },
    owners: [owner("attic"), owner("barn", { joinsAt: 3, capacity: 1 })],
  });
  assertEquals([shared.error, shared.devices.map((d) => d.error)], [null, Array(3).fill(null)]);
  assertEquals(shared.devices.at(-1)!.welcome.range, null);
  assert(turnsOf(shared.records).includes("barn"));
});

Deno.test("a run that goes on waits for the owners that took part, those too that had joined late", async () => {
  const kept = new Map<string, RunState[]>();
  const keep = (party: string) => (state: RunState) =>
    void kept.set(party, [...kept.get(party) ?? [], state]);
  const settings = settingsOf(8, { saveEvery: 1 });
  await runOwners(model, {
    ...{ settings, capacities: [1] },
    owners: [owner("attic"), owner("barn", { joinsAt: 3, capacity: 1 })],
    server: { onState: keep("server") },
    device: (name) => ({ onState: keep(name) }),
  });
  // As if the edge server was lost after step 6.
  const sourceOf = (party: string): RunStateSource => {
    const states = kept.get(party)!.filter(({ step }) => step <= 6);
    return {
      run: states[0]!.run,
      steps: states.map(({ step }) => step),
      load: (step) => Promise.resolve(states.find((s) => s.step === step)!),
    };
  };
  const start = async (names: readonly ("attic" | "barn" | "h0")[], joinTimeoutMs: number) => {
    const server = new EdgeServer(
      serverOptions(model, settings, {
        ...{
          devices: 1,
          sharing: { devices: 1 },
          resume: sourceOf("server"),
          onLoss: "prune",
          joinTimeoutMs,
        },
      }),
    );
    const { transport, listener } = inProcessTransport();
    const admitting = admitAll(listener, server);
    const running = server.start();
    running.catch(() => {});
    const devices = names.map(async (name) =>
      await runUserDevice({
        ...{ engine, name, id: name.repeat(8), channel: await transport.connect(), timeoutMs: 20_000 },
        // What it asked for is no matter: it had no heads.
        capacity: name === "attic" ? 0 : 1,
        ...(name !== "h0" && { data: ownerSide(model, owner(name)) }),
        resume: sourceOf(name),
      }).then(({ modules, error, welcome }) => {
        modules?.[Symbol.dispose]();
        return error ?? welcome.start;
      }, (error) => error)
    );
    await until(() => server.devices.length === names.length, "all have joined");
    const ended = running.finally(async () => {
      await listener[Symbol.asyncDispose]();
      await admitting;
    });
    return { ended, devices };
  };
  const without = await start(["attic", "h0"], 400);
  await assertRejects(() => without.ended, DeadlineError, `"barn"`);
  await Promise.all(without.devices);
  const whole = await start(["attic", "h0", "barn"], 20_000);
  await whole.ended;
  assertEquals(await Promise.all(whole.devices), [6, 6, 6]);
});
