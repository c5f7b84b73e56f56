import { assertEquals, assertRejects } from "@std/assert";
import { ModelFileError } from "../contracts/errors.ts";
import { GgufFile } from "../files/gguf.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import type { ModelFamily } from "../model/families.ts";
import { randomStream } from "../model/random.ts";
import { loadGgufLora, saveGgufLora } from "./gguf_lora.ts";
import { FIXTURES } from "../../tests/support/places.ts";
import type { PeftAdapter, PeftModelShape } from "./peft_modules.ts";

const SHAPE: PeftModelShape = { layers: 2, heads: 4, hidden: 16, kvHeads: 2 };

/** An adapter of rank 3 with a value of its own in each place. */
function adapterOf(modules: Readonly<Record<string, number>>): PeftAdapter {
  const random = randomStream(3);
  const numbers = (...shape: [number, number]): NamedArray => ({
    shape,
    data: Float32Array.from({ length: shape[0] * shape[1] }, () => random.float() - 0.5),
  });
  const arrays = new Map(
    Object.entries(modules).flatMap(([name, outputs]) => [
      [`base_model.model.${name}.lora_A.weight`, numbers(3, SHAPE.hidden)] as const,
      [`base_model.model.${name}.lora_B.weight`, numbers(outputs, 3)] as const,
    ]),
  );
  const config = {
    peft_type: "LORA" as const,
    r: 3,
    lora_alpha: 7.5,
    lora_dropout: 0,
    target_modules: ["q_proj", "k_proj", "v_proj"],
    fan_in_fan_out: false,
    use_rslora: false,
  };
  return { config, arrays };
}

const CASES: readonly [ModelFamily, Readonly<Record<string, number>>, PeftModelShape][] = [
  ["gpt2", { "transformer.h.0.attn.c_attn": 48, "transformer.h.1.attn.c_attn": 48 }, {
    ...SHAPE,
    kvHeads: 4,
  }],
  ["llama", {
    "model.layers.0.self_attn.q_proj": 16,
    "model.layers.0.self_attn.k_proj": 8,
    "model.layers.1.self_attn.v_proj": 8,
  }, SHAPE],
  ["qwen2", { "model.layers.1.self_attn.q_proj": 16, "model.layers.1.self_attn.k_proj": 8 }, SHAPE],
];

for (const [family, modules, shape] of CASES) {
  Deno.test(`GGUF adapters of ${family} come back to the bit`, async () => {
    const path = await Deno.makeTempFile({ suffix: ".gguf" });
    const peft = adapterOf(modules);
    await saveGgufLora(path, peft, family, shape);
    const again = await loadGgufLora(path, family, shape);
    assertEquals([again.config.r, again.config.lora_alpha, again.config.use_rslora], [3, 7.5, false]);
    assertEquals([...again.arrays.keys()].sort(), [...peft.arrays.keys()].sort());
    for (const [name, array] of peft.arrays) assertEquals(again.arrays.get(name), array, name);
    await Deno.remove(path);
  });
}

Deno.test("a GGUF adapter has the fields, names and order of rows that llama.cpp reads", async () => {
  const path = await Deno.makeTempFile({ suffix: ".gguf" });
  const [, modules] = CASES[1]!;
  const peft = adapterOf(modules);
  // sqrt(r) in place of r: llama.cpp knows the plain scale alone.
  await saveGgufLora(path, { ...peft, config: { ...peft.config, use_rslora: true } }, "llama", SHAPE);
  const { metadata, tensors } = await GgufFile.open(path);
  assertEquals(metadata["general.architecture"], "llama");
  assertEquals(metadata["general.type"], "adapter");
  assertEquals(metadata["adapter.type"], "lora");
  assertEquals(metadata["adapter.lora.alpha"], Math.fround(7.5 / Math.sqrt(3) * 3));
  assertEquals([...tensors.values()].map(({ name, shape, type }) => `${name} ${shape} ${type}`), [
    "blk.0.attn_q.weight.lora_a 3,16 F32",
    "blk.0.attn_q.weight.lora_b 16,3 F32",
    "blk.0.attn_k.weight.lora_a 3,16 F32",
    "blk.0.attn_k.weight.lora_b 8,3 F32",
    "blk.1.attn_v.weight.lora_a 3,16 F32",
    "blk.1.attn_v.weight.lora_b 8,3 F32",
  ]);
  const file = await GgufFile.open(path);
  // Rows 0 1 2 3 of a head of four are (half, pair); llama.cpp has (pair, half): 0 2 1 3.
  for (const [part, module] of [["attn_q", "q_proj"], ["attn_k", "k_proj"]]) {
    const theirs = file.read(`blk.0.${part}.weight.lora_b`).data;
    const ours = peft.arrays.get(`base_model.model.model.layers.0.self_attn.${module}.lora_B.weight`)!.data;
    const expected = Array.from({ length: ours.length / 3 }, (_, row) => {
      const from = row - row % 4 + [0, 2, 1, 3][row % 4]!;
      return [...ours.subarray(3 * from, 3 * from + 3)];
    });
    assertEquals([...theirs], expected.flat());
  }
  await Deno.remove(path);
});

Deno.test("GGUF adapters of other models, and what is none, are refused", async () => {
  const path = await Deno.makeTempFile({ suffix: ".gguf" });
  const [, modules] = CASES[1]!;
  await saveGgufLora(path, adapterOf(modules), "llama", SHAPE);
  const refused = (family: ModelFamily, shape: PeftModelShape, rule: string) =>
    assertRejects(() => loadGgufLora(path, family, shape), ModelFileError, rule);
  await refused("qwen2", SHAPE, 'general.architecture must be "qwen2"');
  await refused("llama", { ...SHAPE, layers: 1 }, "must be A and B of Q, K and V of 1 layers");
  await refused("llama", { ...SHAPE, hidden: 32 }, "A and B of blk.0.attn_q.weight must be [3,32]");
  await refused("opt", SHAPE, "OPT has none");
  await assertRejects(
    () => loadGgufLora(`${FIXTURES}gguf/llama.gguf`, "llama", SHAPE),
    ModelFileError,
    'general.type must be "adapter"',
  );
  await Deno.remove(path);
});
