import { assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import type { Gpt2Config } from "../model/families/gpt2.ts";
import type { NamedArray, NamedArrays } from "../files/named_arrays.ts";
import { fingerprintOf, parameterCount } from "./fingerprint.ts";
import { loadModelFolder } from "./model_folder.ts";
import { readSafetensors, writeSafetensors } from "../files/safetensors.ts";

const CONFIG = { n_layer: 1, inner: { a: 1, b: [1, 2] } };
const A = { shape: [2, 1], data: Float32Array.of(1, -2) };
const B = { shape: [1], data: Float32Array.of(0.5) };
const MODEL: NamedArrays = new Map([["transformer.a", A], ["transformer.b", B]]);

Deno.test("fingerprintOf stays the same for ever", async () => {
  assertEquals(
    await fingerprintOf(CONFIG, MODEL),
    "6d27265436c6e2cfbeae2ded333116eac3d365484c988e90a4a3a6a0b40105d8",
  );
});

Deno.test("fingerprintOf does not depend on how the model is stored", async () => {
  const expected = await fingerprintOf(CONFIG, MODEL);
  assertMatch(expected, /^[0-9a-f]{64}$/);
  const same = async (config: unknown, tensors: NamedArrays) =>
    assertEquals(await fingerprintOf(config, tensors), expected);
  await same({ inner: { b: [1, 2], a: 1 }, left: undefined, n_layer: 1 }, MODEL);
  await same(CONFIG, new Map([...MODEL].toReversed()));
  await same(CONFIG, new Map([["a", A], ["transformer.b", B]]));
  await same(CONFIG, readSafetensors(writeSafetensors(MODEL, { note: "x" })));
  await same(CONFIG, new Map([...MODEL, ["lm_head.weight", A], ["transformer.h.0.attn.bias", A]]));
  const inTheMiddle = { shape: [2, 1], data: Float32Array.of(9, 1, -2, 9).subarray(1, 3) };
  await same(CONFIG, new Map([["a", inTheMiddle], ["b", B]]));
  const shared: NamedArray = { shape: [2, 1], data: new Float32Array(new SharedArrayBuffer(8)) };
  shared.data.set(A.data);
  await same(CONFIG, new Map<string, NamedArray>([["a", shared], ["b", B]]));
});

Deno.test("fingerprintOf does not depend on how a number was printed, if it is the same float32", async () => {
  for (
    const [one, other] of [[1e-5, 9.999999747378752e-6], [0.1, Math.fround(0.1)], [1e30, Math.fround(1e30)]]
  ) {
    const of = (epsilon: number) => fingerprintOf({ epsilon, more: [{ epsilon }] }, MODEL);
    assertEquals(await of(one!), await of(other!));
    assertNotEquals(await of(one!), await of(1.000001 * one!));
  }
});

Deno.test("fingerprintOf depends on configuration, names, shapes and values", async () => {
  const expected = await fingerprintOf(CONFIG, MODEL);
  const differs = async (config: unknown, tensors: NamedArrays) =>
    assertNotEquals(await fingerprintOf(config, tensors), expected);
  await differs({ ...CONFIG, n_layer: 2 }, MODEL);
  await differs({ ...CONFIG, inner: { a: 1, b: [2, 1] } }, MODEL);
  await differs({ ...CONFIG, more: null }, MODEL);
  await differs(CONFIG, new Map([["a", A], ["c", B]]));
  await differs(CONFIG, new Map([["a", A]]));
  await differs(CONFIG, new Map([["a", { shape: [1, 2], data: A.data }], ["b", B]]));
  await differs(CONFIG, new Map([["a", { shape: [2, 1], data: Float32Array.of(1, -2.0000002) }], ["b", B]]));
  await differs(CONFIG, new Map([...MODEL, ["h.0.attn.c_attn.bias", B]]));
});

Deno.test("parameterCount() counts numbers of weights, not masks or a copy of the tied LM head", async () => {
  const model = await loadModelFolder(new URL("../../tests/fixtures/parity/gpt2_base", import.meta.url));
  const { n_layer: layers, n_embd: d, vocab_size: vocabulary, n_positions: positions } = model
    .config as Gpt2Config;
  const expected = (vocabulary + positions) * d + layers * (12 * d * d + 13 * d) + 2 * d;
  assertEquals(parameterCount(model), expected);
  const inMemory = new Map(model.weights);
  inMemory.set("lm_head.weight", { shape: [vocabulary, d], data: new Float32Array(vocabulary * d) });
  inMemory.set("h.0.attn.bias", { shape: [4], data: new Float32Array(4) });
  assertEquals(parameterCount({ config: model.config, weights: inMemory }), expected);
  const untied = { ...model.config, tie_word_embeddings: false };
  assertEquals(parameterCount({ config: untied, weights: inMemory }), expected + vocabulary * d);
});
