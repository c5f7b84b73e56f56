/**
 * After `warmUp` a run meets no kernel for the first time, on any of its machines.
 */

import { assertEquals, assertGreater } from "@std/assert";
import { type BaseWeights, type DecodingSession, EdgeServer, type Pruner, warmUp } from "@edgetuner/core";
import {
  type AdapterClass,
  Engine,
  greedyPruneOnGpu,
  MATMUL_TILES,
  matmulTiles,
  setMatmulTiles,
} from "@edgetuner/kernels";
import { greedyPruner } from "@edgetuner/plugins";
import { familyFolder, type FamilyName, TinyFamily } from "../support/families.ts";
import { tinyModel, tinySettings } from "../support/tiny_model.ts";
import { admitAll, dataSide, joinDevice, openLink, serverOptions } from "./_session.ts";

const CASES: readonly (readonly [FamilyName | "gpt2", AdapterClass, BaseWeights])[] = [
  ["gpt2", "software", "f32"],
  ["gpt2", "hardware", "int8"],
  ["opt", "software", "f32"],
  ["qwen3", "software", "int8"],
  ["qwen3", "hardware", "f32"],
  ["gemma3", "software", "f32"],
  ["gemma3", "hardware", "f32"],
];

for (const [family, adapterClass, baseWeights] of CASES) {
  Deno.test(`warmUp() runs every kernel that edge server and devices use in a run (${family}, ${adapterClass}, ${baseWeights}) [slow]`, async () => {
    const engines = await Promise.all([1, 2, 3].map(() => Engine.create({ adapterClass })));
    const [edge, withData, withHeads] = engines as [Engine, Engine, Engine];
    using _edge = edge;
    using _withData = withData;
    using _withHeads = withHeads;
    const files = family === "gpt2" ? tinyModel() : await familyFolder(family);
    const before = engines.map((e) => e.stats.tensors);
    const [onEdge, onDevice] = [edge, withData].map((engine) =>
      new TinyFamily(engine, files, baseWeights)
    ) as [
      TinyFamily,
      TinyFamily,
    ];
    await warmUp(edge, { layers: onEdge.layers, pruning: true });
    await warmUp(edge, { layers: onEdge.layers, task: "generate" });
    await warmUp(withData, { ends: onDevice.ends });
    await warmUp(withHeads, { heads: true });
    const pipelines = engines.map((e) => e.stats.pipelines);
    for (const count of pipelines) assertGreater(count, 3);

    for (const mode of ["slice", "full", "core"] as const) {
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
    for (const model of [onEdge, onDevice]) model[Symbol.dispose]();
    assertEquals(engines.map((e) => e.stats.tensors), before, "tensors are left");
  });
}

Deno.test("warmUp() runs products with both tiles that their size chooses from, and leaves the choice [slow]", async () => {
  using engine = await Engine.create({ adapterClass: "hardware" });
  using model = new TinyFamily(engine, tinyModel());
  const [first, second] = [MATMUL_TILES[0]!, MATMUL_TILES[3]!];
  const tiles = { few: first, many: second };
  setMatmulTiles(engine, tiles);
  await warmUp(engine, { layers: model.layers, ends: model.ends });
  assertEquals(matmulTiles(engine), tiles);
  const { pipelines } = engine.stats;
  setMatmulTiles(engine, { few: second, many: first });
  await warmUp(engine, { layers: model.layers, ends: model.ends });
  assertEquals(engine.stats.pipelines, pipelines);
});
