/**
 * After `warmUp` a run meets no kernel for the first time, on any of its machines.
 */

import { assertEquals, assertGreater } from "@std/assert";
import { type DecodingSession, EdgeServer, type Pruner, warmUp } from "@edgetuner/core";
import { type AdapterClass, Engine, greedyPruneOnGpu } from "@edgetuner/kernels";
import { greedyPruner } from "@edgetuner/plugins";
import { TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { admitAll, dataSide, joinDevice, openLink, serverOptions } from "./_session.ts";

function opened(adapterClass: AdapterClass): Promise<Engine[]> {
  return Promise.all([1, 2, 3].map(() => Engine.create({ adapterClass })));
}

for (
  const [adapterClass, baseWeights] of [["software", "f32"], ["hardware", "f32"], ["software", "int8"], [
    "hardware",
    "int8",
  ]] as const
) {
  Deno.test(`warmUp() runs every kernel that edge server and devices use in a run (${adapterClass}, ${baseWeights}) [slow]`, async () => {
    const [edge, withData, withHeads] = await opened(adapterClass) as [Engine, Engine, Engine];
    using _edge = edge;
    using _withData = withData;
    using _withHeads = withHeads;
    const engines = [edge, withData, withHeads];
    const before = engines.map((e) => e.stats.tensors);
    await warmUp(edge, ["base", "pruning", "decoding"], baseWeights);
    await warmUp(withData, ["data"], baseWeights);
    await warmUp(withHeads, ["heads"]);
    assertEquals(engines.map((e) => e.stats.tensors), before, "tensors are left");
    const pipelines = engines.map((e) => e.stats.pipelines);
    for (const count of pipelines) assertGreater(count, 3);

    for (const mode of ["slice", "full"] as const) {
      using onEdge = new TinyGpt2(edge, undefined, false, baseWeights);
      using onDevice = new TinyGpt2(withData, undefined, false, baseWeights);
      await using link = openLink("in-process");
      const pruner = greedyPruner({ tau: 0.9, compute: (args) => greedyPruneOnGpu(edge, args) }) as Pruner;
      const server = new EdgeServer(serverOptions(onEdge, tinySettings(mode, 3), { pruner, devices: 1 }));
      const admitting = admitAll(link.listener, server);
      const data = {
        ...dataSide(onDevice, 3, { modes: ["evaluate", "train", "train", "train"] }),
        async generate(session: DecodingSession) {
          await session.start([1, 2, 3]);
          await session.append([4], [0]);
          await session.append([5, 6], [0, 0]);
        },
      };
      const devices = [
        await joinDevice(link, server, { engine: withData, name: "data", capacity: 0, data }),
        await joinDevice(link, server, { engine: withHeads, name: "heads", capacity: 1 }),
      ];
      await server.start();
      for (const device of devices) {
        const { error, modules } = await device.result;
        assertEquals(error, null);
        modules?.[Symbol.dispose]();
      }
      assertEquals(data.losses.length, 4);
      await link.listener[Symbol.asyncDispose]();
      await admitting;
    }
    assertEquals(
      engines.map((e) => e.stats.pipelines),
      pipelines,
      "kernels met for the first time in the run",
    );
  });
}
