import { assertEquals, assertRejects } from "@std/assert";
import { familyConfig, familyFolder, type FamilyName } from "../../tests/support/families.ts";
import { DECODER_GGUF_NAMES, writeDecoderGguf } from "../../tests/support/write_gguf.ts";
import { CheckpointError } from "../contracts/errors.ts";
import { loadGgufModel } from "./gguf_model.ts";
import type { ModelFolder } from "./model_folder.ts";

/** What files of a family say beside its sizes. */
const FIELDS: Readonly<Record<string, Readonly<Record<string, number>>>> = {};
/** Settings of the fixtures that files of a family do not say. */
const LEFT_OUT: Readonly<Record<string, readonly string[]>> = { qwen2: ["sliding_window", "layer_types"] };

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
    const left = Object.fromEntries((LEFT_OUT[name] ?? []).map((key) => [key, undefined]));
    const model = await asGguf(name);
    assertEquals({ ...model.config, ...left }, { ...original.config, ...left });
    assertEquals([...model.weights.keys()].sort(), [...original.weights.keys()].sort());
    for (const [key, { shape, data }] of original.weights) {
      const found = model.weights.get(key)!;
      assertEquals([found.shape, found.data], [shape, data], key);
    }
    if (LEFT_OUT[name] === undefined) assertEquals(model.fingerprint, original.fingerprint);
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
