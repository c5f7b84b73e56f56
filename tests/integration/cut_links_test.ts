/**
 * Runs over links that are cut again and again: they end as undisturbed ones do, and no device is ever away.
 */

import { EdgeServer, type EdgeServerEvent } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { greedyPruner } from "@edgetuner/plugins";
import { httpListener, httpTransport, webSocketListener, webSocketTransport } from "@edgetuner/transport";
import { serve } from "@edgetuner/transport/server";
import { assertEquals, assertGreater } from "@std/assert";
import { FaultyRelay } from "../support/faulty_relay.ts";
import { randomNumbers } from "../support/hostile_frames.ts";
import { flatten, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { admitAll, dataSide, joinDevice, serverOptions } from "./_session.ts";

const STEPS = 12;

/** What came of a run. */
interface Learnt {
  readonly losses: readonly number[];
  readonly weights: readonly number[];
  readonly events: readonly EdgeServerEvent["type"][];
  readonly cuts: number;
}

/** A run over links that are cut at seeded moments, or not at all. */
async function runOver(
  engine: Engine,
  kind: "websocket" | "http",
  { isCut }: { readonly isCut: boolean },
): Promise<Learnt> {
  const model = new TinyGpt2(engine);
  const limits = { retryTimeoutMs: 8000 };
  const listener = kind === "websocket" ? webSocketListener(limits) : httpListener();
  const server = await serve({ fetch: (request) => listener.handle(request) });
  const relay = new FaultyRelay(server.port);
  const url = `http://127.0.0.1:${relay.port}/`;
  const transport = kind === "websocket"
    ? webSocketTransport({ url, ...limits })
    : httpTransport({ url, ...limits });
  const link = {
    transport,
    listener,
    async [Symbol.asyncDispose]() {
      await listener[Symbol.asyncDispose]();
      await relay[Symbol.asyncDispose]();
      await server.shutdown(100);
    },
  };
  const edge = new EdgeServer(
    serverOptions(model, tinySettings("slice", STEPS), { devices: 2, pruner: greedyPruner() }),
  );
  const events: EdgeServerEvent["type"][] = [];
  const random = randomNumbers(7);
  edge.subscribe((event) => {
    events.push(event.type);
    // Somewhere in the next step.
    if (event.type === "step" && isCut) relay.resetAfter(random(6000));
  });
  const admitting = admitAll(listener, edge);
  const running = edge.start();
  const first = await joinDevice(link, edge, { engine, name: "a", capacity: 2 });
  const data = dataSide(model, STEPS, { shareLoss: true });
  const second = await joinDevice(link, edge, { engine, name: "b", capacity: 1, data });
  await running;
  const weights: number[] = [];
  for (const { modules, error } of await Promise.all([first.result, second.result])) {
    assertEquals(error, null);
    weights.push(...flatten(await modules!.weights()));
    modules![Symbol.dispose]();
  }
  const { cuts } = relay;
  await link[Symbol.asyncDispose]();
  await admitting;
  return { losses: data.losses, weights, events, cuts };
}

for (const kind of ["websocket", "http"] as const) {
  Deno.test(`a run over ${kind} whose connections are cut again and again ends as an undisturbed one, bit for bit, and nobody is away`, async () => {
    using engine = await Engine.create();
    const alone = await runOver(engine, kind, { isCut: false });
    const cut = await runOver(engine, kind, { isCut: true });
    assertGreater(cut.cuts, STEPS / 2);
    assertEquals(cut.losses, alone.losses);
    assertEquals(cut.weights, alone.weights);
    assertEquals(cut.events.filter((type) => type === "away" || type === "back"), []);
  });
}
