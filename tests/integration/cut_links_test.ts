/**
 * Runs over links that are cut again and again: they end as undisturbed ones do, and no device is ever away.
 */

import { EdgeServer, type EdgeServerEvent } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { greedyPruner } from "@edgetuner/plugins";
import { httpListener, httpTransport, webSocketListener, webSocketTransport } from "@edgetuner/transport";
import { natsListener, natsTransport } from "@edgetuner/transport/nats";
import { serve } from "@edgetuner/transport/server";
import { assert, assertEquals, assertGreater } from "@std/assert";
import { pattern } from "../conformance/transport_suite.ts";
import { FaultyRelay } from "../support/faulty_relay.ts";
import { randomNumbers } from "../support/hostile_frames.ts";
import { natsCluster } from "../support/nats_server.ts";
import { flatten, TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { admitAll, dataSide, joinDevice, type Link, openLink, serverOptions } from "./_session.ts";

const STEPS = 12;

/** What came of a run. */
interface Learnt {
  readonly losses: readonly number[];
  readonly weights: readonly number[];
  /** Devices that were away, and came back. */
  readonly absences: readonly string[];
}

/** Runs the tiny model over a link; `onStep` is called while the next step is under way. */
async function runOver(
  engine: Engine,
  link: Link,
  onStep: (step: number) => void = () => {},
): Promise<Learnt> {
  const model = new TinyGpt2(engine);
  const settings = tinySettings("slice", STEPS);
  const edge = new EdgeServer(serverOptions(model, settings, { devices: 2, pruner: greedyPruner() }));
  const events: EdgeServerEvent[] = [];
  let steps = 0;
  edge.subscribe((event) => {
    events.push(event);
    if (event.type === "step") onStep(++steps);
  });
  const admitting = admitAll(link.listener, edge);
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
  await link[Symbol.asyncDispose]();
  await admitting;
  const absences = events.map(({ type }) => type).filter((type) => type === "away" || type === "back");
  return { losses: data.losses, weights, absences };
}

/** A link over a relay that does harm. */
async function relayed(kind: "websocket" | "http"): Promise<Link & { readonly relay: FaultyRelay }> {
  const limits = { retryTimeoutMs: 8000, goneTimeoutMs: 8000 };
  const listener = kind === "websocket" ? webSocketListener(limits) : httpListener();
  const server = await serve({ fetch: (request) => listener.handle(request) });
  const relay = new FaultyRelay(server.port);
  const options = { url: `http://127.0.0.1:${relay.port}/`, ...limits };
  return {
    transport: kind === "websocket" ? webSocketTransport(options) : httpTransport(options),
    listener,
    relay,
    async [Symbol.asyncDispose]() {
      await listener[Symbol.asyncDispose]();
      await relay[Symbol.asyncDispose]();
      await server.shutdown(100);
    },
  };
}

for (const kind of ["websocket", "http"] as const) {
  Deno.test(`a run over ${kind} whose connections are cut again and again ends as an undisturbed one, bit for bit, and nobody is away`, async () => {
    using engine = await Engine.create();
    const alone = await runOver(engine, openLink("in-process"));
    const link = await relayed(kind);
    const random = randomNumbers(7);
    // Somewhere in the next step.
    const cut = await runOver(engine, link, () => link.relay.resetAfter(random(6000)));
    assertGreater(link.relay.cuts, STEPS / 2);
    assertEquals(cut, { ...alone, absences: [] });
  });
}

Deno.test({
  name:
    "a run through a cluster of brokers whose node is killed in mid-step ends as an undisturbed one, bit for bit, beside another run",
  // The client of the broker leaves timers of attempts to connect behind.
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    using engine = await Engine.create();
    const alone = await runOver(engine, openLink("in-process"));
    await using cluster = await natsCluster(3);
    const [killed, second, third] = cluster.servers;
    // Another edge server and its device meet at other nodes.
    await using others = await natsListener({ url: second!.url("another") });
    await using device = await natsTransport({ url: third!.url("another") }).connect();
    await using edge = (await others.accept())!;
    const url = killed!.url("a-run");
    const listener = await natsListener({ url });
    const link: Link = {
      transport: natsTransport({ url }),
      listener,
      [Symbol.asyncDispose]: () => listener[Symbol.asyncDispose](),
    };
    let killing: Promise<void> | undefined;
    const learnt = await runOver(engine, link, (step) => {
      if (step === 4) killing = Promise.resolve(killed![Symbol.asyncDispose]());
    });
    assert(killing !== undefined);
    await killing;
    assertEquals(learnt, { ...alone, absences: [] });
    await device.send(pattern(1000));
    assertEquals(await edge.receive(), pattern(1000));
  },
});
