import {
  generateGreedy,
  Gpt2EmbeddingAndHead,
  Gpt2Layers,
  initialWeights,
  type NamedArrays,
  randomStream,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { assertEquals, assertGreater, assertLess, assertThrows } from "@std/assert";
import { copyingStart } from "./copying_start.ts";

const CONFIG = {
  n_layer: 3,
  n_head: 8,
  n_embd: 128,
  n_positions: 64,
  layer_norm_epsilon: 1e-5,
  vocab_size: 400,
};

/** Prompts of 24 different random tokens and the first 23 of them again; right is the 24th. */
async function copied(weights: NamedArrays, count: number): Promise<number> {
  const random = randomStream(3, 0);
  const rows = Array.from({ length: count }, () => {
    const row = new Set<number>();
    while (row.size < 24) row.add(random.below(CONFIG.vocab_size));
    return [...row];
  });
  using engine = await Engine.create();
  using layers = new Gpt2Layers(engine, CONFIG, weights);
  using ends = new Gpt2EmbeddingAndHead(engine, CONFIG, weights);
  const next = await generateGreedy(
    { engine, layers, ends, heads: null },
    rows.map((row) => [...row, ...row.slice(0, -1)]),
    { maxNewTokens: 1, eos: CONFIG.vocab_size },
  );
  return next.filter(([token], i) => token === rows[i]!.at(-1)).length;
}

Deno.test("copyingStart() continues a row of random tokens that comes again, as plain weights do not [slow]", async () => {
  assertGreater(await copied(copyingStart(CONFIG, 1), 40), 20);
  assertLess(await copied(initialWeights(CONFIG, 1), 40), 3);
});

Deno.test("copyingStart() is a function of its seed, with the shapes of plain weights", () => {
  const [one, same, other] = [1, 1, 2].map((seed) => copyingStart(CONFIG, seed));
  assertEquals(one, same);
  assertEquals(
    Array.from(one!, ([name, { shape }]) => [name, shape]),
    Array.from(initialWeights(CONFIG, 1), ([name, { shape }]) => [name, shape]),
  );
  const token = "transformer.wte.weight";
  assertEquals(one!.get(token)!.data.every((value, i) => value === other!.get(token)!.data[i]), false);
});

Deno.test("copyingStart() refuses models that are too small", () => {
  for (const change of [{ n_layer: 1 }, { n_head: 4 }]) {
    assertThrows(() => copyingStart({ ...CONFIG, ...change }, 1), RangeError, "must have 2 layers");
  }
});
