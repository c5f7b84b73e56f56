import { assertEquals, assertRejects } from "@std/assert";
import { familyConfig, familyFolder, type FamilyName } from "../../tests/support/families.ts";
import { DECODER_GGUF_NAMES, writeDecoderGguf } from "../../tests/support/write_gguf.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { CheckpointError } from "../contracts/errors.ts";
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
    ] as const
  ) await assertRejects(() => asGguf("llama", more), CheckpointError, rule);
});
