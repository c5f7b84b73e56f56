import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import {
  checkPruner,
  type CodecStream,
  int8Codec,
  PluginError,
  type Pruner,
  type PrunerContext,
  type PrunerInput,
  type WireCodec,
} from "@edgetuner/core";
import { greedyPruner } from "@edgetuner/plugins";
import { UsageError } from "../flags/flags.ts";
import { isolatedCodec, isolatedPruner } from "./plugin_host.ts";
import { assertQuick } from "../../tests/support/quick.ts";

/** The limit of these tests, and what a call may take longer than that on a busy machine. */
const LIMIT_MS = 300;
const LATE_MS = 3000;
/**
 * Holds its thread up for ever, asleep: no limit of Deno's ends a worker in a loop, and one that computes would take a
 * core from all tests after it.
 */
const STUCK = "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);";

const context: PrunerContext = {
  layers: 2,
  heads: 4,
  headsPerDevice: [4],
  capacities: [1],
  seed: 1,
};
const input: PrunerInput = {
  step: 0,
  lastMask: null,
  gradientNorm: Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8),
  loraNorm: null,
  baseNorm: null,
  embeddingMean: null,
};

function moduleOf(source: string): string {
  return `data:application/javascript,${encodeURIComponent(source)}`;
}

function prunerOf(parts: string, before = ""): Promise<Pruner & Disposable> {
  const source = `${before}; export default () => ({ name: "bad", needs: [], init: () => 0,
    decide: (_, state, { layers, heads }) => [{ mask: new Uint8Array(layers * heads) }, state], ${parts} });`;
  return isolatedPruner({ module: moduleOf(source), others: "none", limitMs: LIMIT_MS });
}

Deno.test("a pruner in a worker decides as it does here, and gets its options [slow]", async () => {
  const module = moduleOf(
    `import { greedyPruner } from "${
      import.meta.resolve("@edgetuner/plugins")
    }"; export default greedyPruner;`,
  );
  using away = await isolatedPruner({ module, options: { tau: 0.4 }, others: "none" });
  const here = greedyPruner({ tau: 0.4 }) as Pruner;
  assertEquals([away.name, away.needs], [here.name, [...here.needs]]);
  checkPruner(away);
  let [one, two] = [away.init(context), here.init(context)];
  for (let step = 0; step < 3; step++) {
    const now = { ...input, step };
    const [a, stateA] = await away.decide(now, one, context);
    const [b, stateB] = await here.decide(now, two, context);
    assertEquals([a, stateA], [b, stateB]);
    [one, two] = [stateA, stateB];
  }
});

for (
  const [what, parts, rule] of [
    ["never returns", `decide() { ${STUCK} }`, `must decide within ${LIMIT_MS} ms`],
    ["never answers", "decide: () => new Promise(() => {})", `must decide within ${LIMIT_MS} ms`],
    ["ends the process", "decide() { Deno.exit(0); }", "it wanted to end the process"],
    ["closes its worker", "decide() { self.close(); return new Promise(() => {}); }", "it closed its worker"],
    [
      "throws later",
      `decide() { setTimeout(() => { throw new Error("boom"); }); return new Promise(() => {}); }`,
      "boom",
    ],
    ["returns functions", "decide: () => [{ mask: new Uint8Array(8) }, () => 0]", "must return plain data"],
  ] as const
) {
  Deno.test(`a pruner that ${what} is an error in time [slow]`, async () => {
    using pruner = await prunerOf(parts);
    const started = performance.now();
    const error = await assertRejects(async () => await pruner.decide(input, pruner.init(context), context));
    assertStringIncludes((error as Error).message, rule);
    assertQuick(performance.now() - started, LIMIT_MS + LATE_MS);
  });
}

Deno.test("a pruner that never returns from init, a factory and a module that never end are errors in time [slow]", async () => {
  using pruner = await prunerOf(`init() { ${STUCK} }`);
  assertThrows(() => pruner.init(context), PluginError, `must init within ${LIMIT_MS} ms`);
  assertThrows(() => pruner.init(context), PluginError); // at once from then on
  const end = "export default () => 0;";
  for (
    const source of [
      `${STUCK} ${end}`,
      `await new Promise(() => {}); ${end}`,
      `export default () => { ${STUCK} }`,
    ]
  ) {
    await assertRejects(
      () => isolatedPruner({ module: moduleOf(source), others: "none", loadLimitMs: LIMIT_MS }),
      PluginError,
      `must load within ${LIMIT_MS} ms`,
    );
  }
  await assertRejects(() => prunerOf("", `throw new Error("boom")`), UsageError, "does not (boom)");
});

function streamOf(direction: "sent" | "received", layer: number): CodecStream {
  return { direction, kind: "input", layer, microBatch: 0, tensor: 0, state: undefined };
}

Deno.test("a codec in a worker writes and reads as it does here, with a state for each stream [slow]", async () => {
  const module = moduleOf(
    `import { int8Codec } from "${import.meta.resolve("@edgetuner/core")}";
     export default () => ({ ...int8Codec({ errorFeedback: true }), name: "away" });`,
  );
  const [away, host] = await isolatedCodec({ module, others: "none" });
  const here: WireCodec = int8Codec({ errorFeedback: true });
  const streams = [0, 1].map((layer) => [streamOf("sent", layer), streamOf("sent", layer)] as const);
  for (let turn = 0; turn < 4; turn++) {
    for (const [layer, [one, two]] of streams.entries()) {
      const values = Float32Array.from({ length: 60 }, (_, i) => Math.sin(i * (turn + 1)) / (layer + 1));
      const before = values.slice();
      const bytes = away.encode(values, [3, 20], one);
      assertEquals(bytes, here.encode(values, [3, 20], two));
      assertEquals(values, before);
      const shape = [3, 20];
      const read = away.decode(bytes, shape, streamOf("received", layer));
      assertEquals(read, here.decode(bytes, shape, streamOf("received", layer)));
    }
  }
  assertThrows(() => away.encode(Float32Array.of(NaN), [1, 1], streamOf("sent", 0)), RangeError, "finite");
  host[Symbol.dispose]();
  assertThrows(() => away.encode(new Float32Array(1), [1, 1], streamOf("sent", 0)), PluginError);
});

Deno.test("a codec that never returns is an error in time, wherever it does so [slow]", async () => {
  for (const method of ["byteLength", "encode", "decode"] as const) {
    const module = moduleOf(
      `export default () => ({ name: "bad", byteLength: () => 4, encode: () => new Uint8Array(4),
        decode: () => new Float32Array(1), ${method}() { ${STUCK} } });`,
    );
    const [codec] = await isolatedCodec({ module, others: "none", limitMs: LIMIT_MS });
    assertThrows(
      () => {
        codec.encode(new Float32Array(1), [1], streamOf("sent", 0));
        codec.decode(new Uint8Array(4), [1], streamOf("received", 0));
      },
      PluginError,
      `codec "bad" must ${method} within ${LIMIT_MS} ms`,
    );
  }
});
