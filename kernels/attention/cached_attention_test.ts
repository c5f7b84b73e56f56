import { assertEquals, assertThrows } from "@std/assert";
import { engineOf, normal, readOne, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { attentionReference } from "./attention_reference.ts";
import { cachedAttention, extendCache, type KeyValueCache } from "./cached_attention.ts";

/** A sequence in the making: the tokens' rows of qkv. */
type Sequence = readonly Float32Array[];

const SHAPES = [
  { heads: 1, kvHeads: 1, headSize: 4, prompt: 1 },
  { heads: 3, kvHeads: 3, headSize: 12, prompt: 5 },
  { heads: 6, kvHeads: 2, headSize: 8, prompt: 17 },
  { heads: 4, kvHeads: 1, headSize: 64, prompt: 7 },
  { heads: 2, kvHeads: 1, headSize: 8, prompt: 5, window: 4, scale: 0.5 },
];

/** Tokens that each call adds and the rows that its rows continue: same rows, more, fewer, other order, two tokens at once. */
const CALLS: readonly { readonly parents: readonly number[] | null; readonly added: number }[] = [
  { parents: [0, 0, 0], added: 1 },
  { parents: null, added: 1 },
  { parents: [2, 0, 0, 1], added: 1 },
  { parents: null, added: 2 },
  { parents: [3, 1], added: 1 },
  ...Array.from({ length: 9 }, () => ({ parents: null, added: 1 })),
  { parents: [1], added: 3 },
];

testForms("cachedAttention() equals the reference over whole sequences [slow]", async (engine) => {
  for (const { headSize, prompt, ...of } of SHAPES) {
    const { heads, kvHeads } = of;
    const columns = (heads + 2 * kvHeads) * headSize;
    let seed = 1;
    const tokens = (count: number): Float32Array[] =>
      Array.from({ length: count }, () => normal(columns, seed++));
    let sequences: Sequence[] = [[]];
    let cache: KeyValueCache | null = null;
    for (const { parents, added } of [{ parents: null, added: prompt }, ...CALLS]) {
      const news = (parents ?? [...sequences.keys()]).map((parent) => ({ parent, tokens: tokens(added) }));
      sequences = news.map(({ parent, tokens }) => [...sequences[parent]!, ...tokens]);
      const rows = sequences.length;
      const flat = Float32Array.from(news.flatMap(({ tokens }) => tokens.flatMap((t) => [...t])));
      using qkv = engine.upload(flat, rows * added, columns);
      cache = extendCache({ cache, qkv, columns: 2 * kvHeads * headSize, parents, rows, slotStep: 8 });
      using output = cachedAttention(qkv, cache, of);
      const expected = sequences.flatMap((sequence) => {
        const shape = { batch: 1, length: sequence.length, ...of };
        const all = attentionReference(sequence.flatMap((t) => [...t]), shape).output;
        return [...all.subarray((sequence.length - added) * heads * headSize)];
      });
      const what = `H ${heads}, G ${kvHeads}, ${rows} rows of ${cache.length} tokens`;
      assertClose(await readOne(output), expected, TOLERANCE.sum, what);
    }
    cache!.values.dispose();
  }
});

testForms("extendCache() stays in place while it can, and frees what it replaces", (engine) => {
  const before = engine.stats.tensors;
  using one = engine.zeros(1, 12);
  using two = engine.zeros(2, 12);
  const options = { columns: 8, slotStep: 4 };
  const begun = extendCache({ ...options, cache: null, qkv: one, parents: null, rows: 1 });
  const same = extendCache({ ...options, cache: begun, qkv: one, parents: null, rows: 1 });
  assertEquals(same.values === begun.values, true, "one more token");
  const more = extendCache({ ...options, cache: same, qkv: two, parents: [0, 0], rows: 2 });
  assertEquals([same.values.disposed, more.values.rows, more.length], [true, 2 * 4, 3]);
  const full = extendCache({ ...options, cache: more, qkv: two, parents: null, rows: 2 });
  const grown = extendCache({ ...options, cache: full, qkv: two, parents: null, rows: 2 });
  assertEquals([full.values.disposed, grown.values.rows, grown.length], [true, 2 * 8, 5]);
  grown.values.dispose();
  assertEquals(engine.stats.tensors, before + 2);
});

Deno.test("extendCache() and cachedAttention() throw on shapes that do not fit", async () => {
  const engine = await engineOf("software");
  using qkv = engine.zeros(2, 12);
  const options = { cache: null, qkv, columns: 8, parents: null, rows: 2, slotStep: 4 };
  assertThrows(() => extendCache({ ...options, columns: 12 }), TypeError, "after Q, 12 columns");
  assertThrows(() => extendCache({ ...options, rows: 4 }), TypeError, "each of 4 sequences");
  const cache = extendCache(options);
  using _values = cache.values;
  for (const parents of [[0], [0, 2], [0, -1]]) {
    assertThrows(
      () => extendCache({ ...options, cache, parents }),
      TypeError,
      `current value is [${parents}]`,
    );
  }
  using one = engine.zeros(1, 12);
  assertThrows(() => extendCache({ ...options, cache, qkv: one, rows: 1 }), TypeError, "none is named");
  assertThrows(() => cachedAttention(qkv, cache, { heads: 2, kvHeads: 1 }), TypeError, "it has 12 columns");
});
