import { assert, assertEquals, assertThrows } from "@std/assert";
import { familyConfig, familyFolder } from "../../tests/support/families.ts";
import { tinyModel } from "../../tests/support/tiny_model.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { FAMILIES, familyName, familyOf, modelConfig, type ModelFamily } from "./families.ts";
import { type ModelFiles, modelShape } from "./load.ts";

/** A model of each family: a new family needs one here. */
const MODELS: Readonly<Record<ModelFamily, () => ModelFiles | Promise<ModelFiles>>> = {
  gpt2: tinyModel,
  llama: () => familyFolder("llama_grouped"),
  opt: () => familyFolder("opt"),
  qwen2: () => familyFolder("qwen2"),
  qwen3: () => familyFolder("qwen3"),
  mistral: () => familyFolder("mistral"),
  gemma3_text: () => familyFolder("gemma3"),
  smollm3: () => familyFolder("smollm3"),
};
const NAMES = Object.keys(FAMILIES) as ModelFamily[];

for (const name of NAMES) {
  Deno.test(`family ${name}: its record says what its files hold`, async () => {
    const { config, weights } = await MODELS[name]();
    const family = familyOf(config);
    assertEquals([family.name, familyName(config), family === FAMILIES[name]], [name, name, true]);
    const shape = modelShape(config);
    const { hidden, heads, kvHeads, headSize } = shape;
    const stored = (bare: string) => {
      const key = family.prefixes.map((prefix) => `${prefix}${bare}.weight`).find((k) => weights.has(k));
      assert(key !== undefined, `${bare} is in the file`);
      const [a, b] = weights.get(key)!.shape;
      return family.storesInOut ? { inputs: a, outputs: b } : { inputs: b, outputs: a };
    };
    for (let layer = 0; layer < shape.layers; layer++) {
      const seen: string[] = [];
      for (const { name: module, outputs, parts } of family.projections(shape, layer)) {
        assertEquals(stored(module), { inputs: hidden, outputs });
        for (const [i, { target, first }] of parts.entries()) {
          const next = parts[i + 1]?.first ?? outputs;
          assertEquals(next - first, (target === "q" ? heads : kvHeads) * headSize, `${module} ${target}`);
          seen.push(target);
        }
        assert(family.peftTargets(["q", "k", "v"]).some((end) => module.endsWith(`.${end}`)));
      }
      assertEquals(seen, ["q", "k", "v"]);
      assertEquals(stored(family.outputProjection(layer)), { inputs: heads * headSize, outputs: hidden });
    }
  });
}

Deno.test("a family is found by model_type or architectures; others are refused with the list", () => {
  for (const name of ["llama", "opt"] as const) {
    const { model_type: _, ...json } = familyConfig(name);
    const [architecture] = FAMILIES[name].architectures;
    assertEquals(familyName(modelConfig({ ...json, architectures: [architecture] })), name);
  }
  for (const model_type of ["bert", "toString", 3]) {
    const known = NAMES.map((name) => `"${name}"`);
    const list = `${known.slice(0, -1).join(", ")} or ${known.at(-1)}`;
    assertThrows(
      () => modelConfig({ model_type }),
      ModelFileError,
      `model_type must be ${list}: current value is`,
    );
  }
});
