import { Engine } from "@edgetuner/kernels";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { familyFolder, TinyFamily } from "../../tests/support/families.ts";
import { type TinyBase, TinyGpt2, tinyHeads, tinySettings } from "../../tests/support/tiny_model.ts";
import { normal } from "../../tests/support/kernels.ts";
import type { EncodedRequest } from "../data/choice_tasks.ts";
import { initialWeights } from "../loading/model_folder.ts";
import type { GenerationModel } from "./greedy.ts";
import { gpt2Config } from "../model/families/gpt2.ts";
import { LocalHeads } from "../lora/local_heads.ts";
import { CachedSession } from "./cached_session.ts";
import { logLikelihoods } from "./likelihood.ts";

const engine = await Engine.create();
/** Both forms of the kernels. */
const ENGINES = [
  engine,
  await Engine.create({ adapterClass: engine.adapterClass === "software" ? "hardware" : "software" }),
];

/** Requests of many lengths; position limit 32. */
function requestsFor(vocabulary: number, count = 23): EncodedRequest[] {
  const draw = (count: number, seed: number) =>
    Array.from({ length: count }, (_, i) => (seed * 31 + i * i * 7 + 3 * i) % vocabulary);
  return Array.from({ length: count }, (_, i) => ({
    context: draw(1 + (i * 5) % 19, i),
    continuation: draw(1 + (i * 3) % 8, i + 100),
  }));
}

function learntHeads(engine: Engine): LocalHeads {
  const modules = tinyHeads(engine, tinySettings("full", 1));
  const { layers, range: { count }, lora: { targets, rank } } = modules.options;
  modules.load(
    Array.from({ length: layers }, (_, l) =>
      Array.from({ length: count }, (_, h) =>
        targets.map((_, k) => ({
          a: normal(rank * 48, l * 10 + h + k, 0.2),
          b: normal(12 * rank, l * 100 + h * 10 + k, 0.3),
        })))),
  );
  return new LocalHeads([modules]);
}

const MODELS: Record<string, (engine: Engine) => Promise<TinyBase & Disposable>> = {
  gpt2: (engine) => Promise.resolve(new TinyGpt2(engine)),
  "gpt2 in int4": (engine) => Promise.resolve(new TinyGpt2(engine, undefined, false, "int4")),
  llama_grouped: async (engine) => new TinyFamily(engine, await familyFolder("llama_grouped")),
  opt: async (engine) => new TinyFamily(engine, await familyFolder("opt")),
};

for (
  const [name, open, engine] of Object.entries(MODELS).flatMap(([n, o]) =>
    ENGINES.map((e) => [n, o, e] as const)
  )
) {
  Deno.test(`log-likelihoods of ${name} (${engine.adapterClass} kernels) do not depend on the batch, to the last bit [slow]`, async () => {
    const before = engine.stats.tensors;
    {
      using base = await open(engine);
      using heads = name.startsWith("gpt2") ? learntHeads(engine) : null;
      const model: GenerationModel = { engine, layers: base.layers, ends: base.ends, heads };
      const requests = requestsFor(base.ends.shape.vocabulary, 11);
      const alone = await logLikelihoods(model, requests, { batch: 1 });
      assert(alone.every((value) => value < 0) && new Set(alone).size === requests.length);
      for (const batch of [2, 4, 100]) assertEquals(await logLikelihoods(model, requests, { batch }), alone);
      // In another order, and with others left out.
      const some = [9, 3, 6];
      assertEquals(await logLikelihoods(model, some.map((i) => requests[i]!)), some.map((i) => alone[i]!));
      // Without any padding at all.
      using session = new CachedSession(model);
      for (const [i, request] of requests.entries()) {
        assertEquals(await session.logLikelihood(request), alone[i], `request ${i}`);
      }
    }
    assertEquals(engine.stats.tensors, before, "tensors left behind");
  });
}

Deno.test("long requests are cut to their last tokens, of which all but one are given to the model", async () => {
  using base = new TinyGpt2(engine);
  const model: GenerationModel = { engine, layers: base.layers, ends: base.ends, heads: null };
  const context = Array.from({ length: 60 }, (_, i) => (i * 13 + 5) % 67);
  const continuation = [1, 2, 3, 4];
  using session = new CachedSession(model);
  for (const maxLength of [32, 9, 4]) {
    // maxLength + 1 tokens in all; a session's limit is the model's.
    const cut = { context: context.slice(-(maxLength + 1 - 4)), continuation };
    const [whole, last] = await logLikelihoods(model, [{ context, continuation }, cut], { maxLength });
    assertEquals(whole, last);
    if (maxLength === 32) assertEquals(await session.logLikelihood({ context, continuation }), last);
    const [longer] = await logLikelihoods(model, [{ context, continuation }], { maxLength: 20 });
    assert(longer !== last, "what is cut off matters");
  }
});

Deno.test("a large vocabulary: targets in several pieces of logits give what each gives alone [slow]", async () => {
  const before = engine.stats.tensors;
  {
    const config = gpt2Config({
      vocab_size: 50257,
      n_positions: 64,
      n_embd: 8,
      n_layer: 1,
      n_head: 2,
      layer_norm_epsilon: 1e-5,
      activation_function: "gelu_new",
    });
    using base = new TinyGpt2(engine, { config, weights: initialWeights(config, 3) });
    const model: GenerationModel = { engine, layers: base.layers, ends: base.ends, heads: null };
    // 9 * 60 targets; 64 MiB of logits hold 333 rows.
    const requests = Array.from({ length: 9 }, (_, i) => ({
      context: [i],
      continuation: Array.from({ length: 60 }, (_, k) => (i * 5003 + k * k * 97) % 50257),
    }));
    const together = await logLikelihoods(model, requests, { batch: 9 });
    assertEquals(together, await logLikelihoods(model, requests, { batch: 2 }));
    // Weights this small make all tokens about equally likely.
    for (const value of together) assert(Math.abs(value / 60 + Math.log(50257)) < 0.1, String(value));
  }
  assertEquals(engine.stats.tensors, before, "tensors left behind");
});

Deno.test("likelihoods add up over the tokens, and those of all tokens to one", async () => {
  using base = new TinyGpt2(engine);
  const model: GenerationModel = { engine, layers: base.layers, ends: base.ends, heads: null };
  const context = [3, 14, 15];
  const parts = await logLikelihoods(model, [
    { context, continuation: [9, 2, 6] },
    { context, continuation: [9] },
    { context: [...context, 9], continuation: [2] },
    { context: [...context, 9, 2], continuation: [6] },
  ]);
  // The same sums over the same rows.
  assertEquals(parts[0], parts[1]! + parts[2]! + parts[3]!);
  const all = await logLikelihoods(
    model,
    Array.from({ length: 67 }, (_, token) => ({ context, continuation: [token] })),
    { batch: 10 },
  );
  const sum = all.reduce((total, value) => total + Math.exp(value), 0);
  assert(Math.abs(sum - 1) < 1e-5, `probabilities add up to ${sum}`);
});

Deno.test("likelihoods tell their progress, can be ended, and refuse what cannot be computed", async () => {
  const before = engine.stats.tensors;
  {
    using base = new TinyGpt2(engine);
    const model: GenerationModel = { engine, layers: base.layers, ends: base.ends, heads: null };
    const requests = requestsFor(67);
    const done: number[] = [];
    await logLikelihoods(model, requests, { batch: 10, onProgress: (n) => done.push(n) });
    assertEquals(done, [10, 20, 23]);
    assertEquals(await logLikelihoods(model, []), []);
    const abort = new AbortController();
    const ending = logLikelihoods(model, requests, {
      batch: 1,
      signal: abort.signal,
      onProgress: () => abort.abort(new Error("enough")),
    });
    await assertRejects(() => ending, Error, "enough");
    const ok = { context: [1], continuation: [2] };
    for (
      const [request, message] of [
        [{ context: [], continuation: [1] }, "the context must have at least one token: current value is 0"],
        [{ context: [1], continuation: [] }, "must have 1 to 32 tokens: current value is 0"],
        [{ context: [1], continuation: Array(33).fill(1) }, "must have 1 to 32 tokens: current value is 33"],
        [{ context: [1, 67], continuation: [1] }, "(below 67): current value is 67"],
        [{ context: [1], continuation: [0.5] }, "(below 67): current value is 0.5"],
        [{ context: [1], continuation: [67] }, "(below 67): current value is 67"],
      ] as const
    ) {
      await assertRejects(() => logLikelihoods(model, [ok, request]), RangeError, message);
      using session = new CachedSession(model);
      await assertRejects(() => session.logLikelihood(request), RangeError, message);
      assertEquals(await session.logLikelihood(ok), (await logLikelihoods(model, [ok]))[0]);
      await assertRejects(() => session.append([1], [0]), TypeError, "prompt must come first");
    }
    // The last token is only a target, and must be one all the same.
    await assertRejects(
      () => logLikelihoods(model, [{ context: [1], continuation: [67] }]),
      RangeError,
      "67",
    );
    for (const options of [{ batch: 0 }, { batch: 1.5 }, { maxLength: 0 }, { maxLength: 33 }]) {
      const [[name, value]] = Object.entries(options) as [[string, number]];
      await assertRejects(
        () => logLikelihoods(model, [ok], options),
        RangeError,
        `'${name}' must be an integer of at least 1`,
      );
      await assertRejects(
        () => logLikelihoods(model, [ok], options),
        RangeError,
        `current value is ${value}`,
      );
    }
  }
  assertEquals(engine.stats.tensors, before, "tensors left behind");
});
