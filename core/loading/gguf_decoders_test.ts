import { assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { familyConfig, familyFolder, type FamilyName } from "../../tests/support/families.ts";
import { DECODER_GGUF_NAMES, writeDecoderGguf } from "../../tests/support/write_gguf.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { ModelFileError } from "../contracts/errors.ts";
import type { LlamaConfig } from "../model/families/llama.ts";
import { ropeFrequencies } from "../model/families/rope.ts";
import { modelConfig } from "../model/families.ts";
import { fingerprintOf } from "./fingerprint.ts";
import { loadGgufModel } from "./gguf_model.ts";
import type { ModelFolder } from "./model_folder.ts";

/** What files of a family say beside its sizes. */
const FIELDS: Readonly<Record<string, Readonly<Record<string, string | number>>>> = {
  qwen3: { "attention.key_length": 16, "attention.value_length": 16 },
  mistral: { "attention.key_length": 8, "attention.value_length": 8 },
  gemma3: {
    "attention.key_length": 16,
    "attention.value_length": 16,
    "attention.sliding_window": 5,
    "rope.freq_base": 1000,
    "rope.freq_base_swa": 100,
    "rope.scaling.type": "linear",
    "rope.scaling.factor": 8,
  },
  smollm3: { "rope.freq_base": 2_000_000 },
};
/** Settings of the fixtures that files of a family do not say: what is there instead follows from the sizes. */
const INSTEAD: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  qwen2: { sliding_window: undefined, layer_types: undefined },
  // Its architecture in llama.cpp is LLaMA's.
  mistral: {
    model_type: "llama",
    sliding_window: undefined,
    layer_types: undefined,
    attention_bias: false,
    mlp_bias: false,
  },
  gemma3: { layer_types: ["sliding_attention", "sliding_attention"], query_pre_attn_scalar: 16 },
  smollm3: { no_rope_layers: [1, 1] },
};
/** Gemma's gains lose a bit on their way to 1 + w and back. */
const LOSES = { ...TOLERANCE.sum, absolute: 1e-7 };

/** Reads a decoder of the fixtures as GGUF. */
async function asGguf(
  name: FamilyName,
  more: Readonly<Record<string, string | number>> = {},
): Promise<ModelFolder> {
  const folder = await familyFolder(name);
  const file = await Deno.makeTempFile({ suffix: ".gguf" });
  try {
    const model = { weights: folder.weights, config: familyConfig(name) };
    await writeDecoderGguf(file, name, model, { ...FIELDS[name], ...more });
    const { config, weights, fingerprint } = await loadGgufModel(file);
    return { config, weights: new Map(weights), fingerprint };
  } finally {
    await Deno.remove(file);
  }
}

for (const name of Object.keys(DECODER_GGUF_NAMES) as FamilyName[]) {
  Deno.test(`${name} in a GGUF file is the model that it was made from`, async () => {
    const original = await familyFolder(name);
    const model = await asGguf(name);
    const none = { sliding_window: undefined, layer_types: undefined };
    assertEquals<unknown>({ ...none, ...model.config }, { ...none, ...original.config, ...INSTEAD[name] });
    assertEquals([...model.weights.keys()].sort(), [...original.weights.keys()].sort());
    for (const [key, { shape, data }] of original.weights) {
      const found = model.weights.get(key)!;
      assertEquals(found.shape, shape, key);
      assertClose(found.data, data, name === "gemma3" ? LOSES : TOLERANCE.exact, key);
    }
    if (INSTEAD[name] === undefined) assertEquals(model.fingerprint, original.fingerprint);
  });
}

Deno.test("a Mistral without a window is one model with its GGUF file, which says that it is a LLaMA", async () => {
  const { weights } = await familyFolder("mistral");
  const config = modelConfig({ ...familyConfig("mistral"), sliding_window: null });
  assertEquals("model_type" in config && config.model_type, "llama");
  const { fingerprint } = await asGguf("mistral");
  assertEquals(await fingerprintOf(config, weights), fingerprint);
});

Deno.test("a LLaMA 3.1 in a GGUF file has its factors in a tensor", async () => {
  const original = await familyFolder("llama_grouped");
  const { rope_theta, rope_scaling } = original.config as LlamaConfig;
  const stretched = ropeFrequencies({ rope_theta, rope_scaling }, 8);
  const plain = ropeFrequencies({ rope_theta, rope_scaling: { rope_type: "default" } }, 8);
  const read = async (factors: Float32Array) => {
    const tensors = new Map(original.weights).set("rope_freqs.weight", {
      shape: [factors.length],
      data: factors,
    });
    const file = await Deno.makeTempFile({ suffix: ".gguf" });
    try {
      const model = { weights: tensors, config: familyConfig("llama_grouped") };
      await writeDecoderGguf(file, "llama", model, { "rope.freq_base": rope_theta });
      const { config, fingerprint, weights } = await loadGgufModel(file);
      return { config: config as LlamaConfig, fingerprint, names: [...weights.keys()] };
    } finally {
      await Deno.remove(file);
    }
  };
  const factors = Float32Array.from(plain, (frequency, i) => frequency / stretched[i]!);
  assertNotEquals(Math.max(...factors), Math.min(...factors));
  const same = await read(factors);
  assertEquals([same.config, same.fingerprint], [original.config as LlamaConfig, original.fingerprint]);
  assertEquals(same.names.toSorted(), [...original.weights.keys()].toSorted());
  const others = Float32Array.of(1, 3, 2, 5);
  const { config } = await read(others);
  assertEquals(config.rope_scaling, { rope_type: "factors", factors: [1, 3, 2, 5] });
  assertEquals(ropeFrequencies(config, 8), plain.map((frequency, i) => frequency / others[i]!));
  for (const bad of [Float32Array.of(1, 2), Float32Array.of(1, 2, 0, 4), Float32Array.of(1, 2, NaN, 4)]) {
    await assertRejects(() => read(bad), ModelFileError, "must be 4 positive numbers");
  }
});

Deno.test("a GGUF file stretches positions by a factor with or without a type, or is refused", async () => {
  const linear = { rope_type: "linear", factor: 4 };
  const all = [
    { "rope.scaling.factor": 4 },
    { "rope.scale_linear": 4 },
    { "rope.scaling.type": "linear", "rope.scaling.factor": 4 },
  ];
  for (const more of all) {
    assertEquals<unknown>((await asGguf("llama", more)).config, {
      ...(await familyFolder("llama")).config,
      rope_scaling: linear,
    });
  }
  const none = { "rope.scaling.type": "none" };
  assertEquals((await asGguf("llama", none)).fingerprint, (await familyFolder("llama")).fingerprint);
  for (
    const [more, rule] of [
      [{ "rope.scale_linear": 4, "rope.scaling.factor": 2 }, "rope.scale_linear must be"],
      [{ "rope.scaling.type": "yarn", "rope.scaling.factor": 2 }, "rope.scaling.type must be"],
      [{ "rope.scaling.type": "linear" }, "factor must be a positive number"],
      [{ "attention.sliding_window": 5 }, "sliding_window must be at least"],
    ] as const
  ) await assertRejects(() => asGguf("llama", more), ModelFileError, rule);
});
