/**
 * A project of somebody else's: outside the workspace, it imports the published name, type-checks,
 * writes a pruner and runs three steps in one process.
 */

import { assertEquals } from "@std/assert";
import { ROOT } from "../support/places.ts";

const PROGRAM = `
import {
  DEFAULT_OPTIMIZER, EdgeServer, Engine, inProcessTransport, runUserDevice, type RunSettings,
} from "jsr:@edgetuner/edgetuner@^0.2.0";
import type { Pruner } from "jsr:@edgetuner/edgetuner@^0.2.0/contracts";
import { Gpt2EmbeddingAndHead, Gpt2Layers, initialWeights } from "jsr:@edgetuner/edgetuner@^0.2.0/core";
import { createControlApp } from "jsr:@edgetuner/edgetuner@^0.2.0/server";

/** Prunes every other head, the other ones in the next step. */
function alternatingPruner(): Pruner<null> {
  return {
    name: "alternating",
    needs: [],
    init: () => null,
    decide: ({ step }, state, { layers, heads }) => [
      { mask: Uint8Array.from({ length: layers * heads }, (_, i) => (i + step) % 2) },
      state,
    ],
  };
}

const config = { n_layer: 2, n_head: 4, n_embd: 32, vocab_size: 40, n_positions: 16, layer_norm_epsilon: 1e-5 };
const weights = initialWeights(config, 1);
using engine = await Engine.create();
using base = new Gpt2Layers(engine, config, weights);
using ends = new Gpt2EmbeddingAndHead(engine, config, weights);
const settings: RunSettings = {
  lora: { mode: "slice", targets: ["q", "v"], rank: 4, alpha: 8, dropout: 0 },
  optimizer: { ...DEFAULT_OPTIMIZER, learningRate: 1e-2, warmupSteps: 0 },
  steps: 3,
  seed: 1,
};
const server = new EdgeServer({
  engine, base, fingerprint: "same", settings, pruner: alternatingPruner(), devices: 2,
});
const kept: number[][] = [];
server.subscribe((event) => {
  if (event.type === "step") kept.push([...event.record.kept]);
});
const { transport, listener } = inProcessTransport();
const accepting = (async () => {
  for (let c = await listener.accept(); c !== null; c = await listener.accept()) void server.join(c);
})();
const tokens = Uint32Array.from({ length: 24 }, (_, i) => i % 40);
const batch = { tokens, targets: tokens.map((t) => (t + 1) % 40), mask: new Float32Array(24).fill(1), batch: 2, length: 12 };
const losses: number[] = [];
const devices = [0, 1].map(async (i) =>
  runUserDevice({
    engine,
    channel: await transport.connect(),
    name: "device " + i,
    capacity: 1,
    data: i > 0 ? undefined : {
      ends,
      loss: { labelSmoothing: 0 },
      fingerprint: "same",
      next: (step) => step < 3 ? { batch, mode: "train" } : null,
      onLoss: (_step, _mode, loss) => void losses.push(loss),
    },
  })
);
await server.start();
for (const result of await Promise.all(devices)) {
  if (result.error !== null) throw result.error;
  result.modules?.[Symbol.dispose]();
}
await listener[Symbol.asyncDispose]();
await accepting;
const app = createControlApp({ runs: new Map([[server.run, server]]), joinToken: "a-join-token", adminToken: "an-admin-token" });
const health = await app.request("/health");
console.log(JSON.stringify({ kept, losses: losses.length, finite: losses.every(Number.isFinite), health: health.status }));
`;

Deno.test("a project outside the workspace imports the package, type-checks and runs three steps with its own pruner [slow]", async () => {
  const folder = await Deno.makeTempDir();
  const links = ["", "kernels", "core", "transport", "plugins", ".jsr/assert", ".jsr/cli"].map((p) =>
    `${ROOT}${p}`
  );
  await Deno.writeTextFile(`${folder}/deno.json`, JSON.stringify({ links }));
  await Deno.writeTextFile(`${folder}/main.ts`, PROGRAM);
  const deno = (...args: string[]) => new Deno.Command(Deno.execPath(), { args, cwd: folder }).output();
  const decoder = new TextDecoder();
  const installed = await deno("install");
  assertEquals(installed.code, 0, decoder.decode(installed.stderr));
  const { code, stdout, stderr } = await deno("run", "-A", "--check", "main.ts");
  assertEquals(code, 0, decoder.decode(stderr).slice(0, 3000));
  const result = JSON.parse(decoder.decode(stdout).trim().split("\n").at(-1)!);
  assertEquals(result, { kept: [[2, 2], [2, 2], [2, 2]], losses: 3, finite: true, health: 200 });
  await Deno.remove(folder, { recursive: true });
});

for (
  const [entry, isPure] of [
    ["kernels/mod.ts", false],
    ["core/mod.ts", false],
    ["transport/mod.ts", false],
    ["plugins/mod.ts", false],
    ["plugins/contracts.ts", true],
  ] as const
) {
  Deno.test(`${entry} is bundled for browsers without modules of node that must be there [slow]`, async () => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["bundle", "--quiet", "--platform", "browser", entry],
      cwd: ROOT,
    }).output();
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    const bundle = new TextDecoder().decode(stdout);
    assertEquals(/\bexport\s*\{/.test(bundle), true);
    // A page with one such import does not load at all; `import()` fails only where it is used.
    assertEquals(bundle.match(/^\s*(import|export)\b[^(]*from\s*"node:[^"]*"/gm), null);
    if (isPure) assertEquals(bundle.match(/\bDeno\.\w+/g), null);
  });
}
