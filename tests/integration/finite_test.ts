/**
 * Weights and logits that are not finite are named where they are met, in every form of a model or an adapter.
 */

import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import {
  BASE_WEIGHTS,
  beamSearch,
  type DecodingSession,
  firstNotFinite,
  fromPeft,
  generateGreedy,
  GenerationError,
  loadAdapter,
  loadEmbeddingAndHead,
  loadGgufModel,
  loadLayers,
  loadModelFolder,
  loadPeft,
  logLikelihoods,
  mergePeft,
  ModelFileError,
  type NamedArray,
  sample,
  saveSafetensors,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { PEFT_MODELS } from "../support/peft_cases.ts";
import { ROOT } from "../support/places.ts";
import { writeGpt2Gguf } from "../support/write_gguf.ts";

const engine = await Engine.create();

Deno.test("firstNotFinite() finds every kind of value that is not finite at any place, and nothing else", () => {
  const values = new Float32Array(10_007).map((_, i) =>
    [0, -0, 1e-45, -1e-38, 3.4028234e38, -3.4028234e38, i][i % 7]!
  );
  assertEquals(firstNotFinite(values), -1);
  for (const bad of [NaN, Infinity, -Infinity]) {
    for (const at of [0, 1, 2, 3, 4095, 4096, 9999, 10_006]) {
      const spoilt = values.slice();
      spoilt[at] = bad;
      assertEquals(firstNotFinite(spoilt), at);
      assertEquals(firstNotFinite(spoilt.subarray(at)), 0);
      spoilt[10_006] = bad;
      assertEquals(firstNotFinite(spoilt), at);
    }
  }
});

/** Weights with one value replaced. */
function spoil(weights: ReadonlyMap<string, NamedArray>, name: string, at: number, value: number) {
  const { shape, data } = weights.get(name)!;
  const copy = data.slice();
  copy[at] = value;
  return new Map([...weights]).set(name, { shape, data: copy });
}

for (const [family, folder] of Object.entries(PEFT_MODELS)) {
  Deno.test(`${family}: a weight that is not finite is named on loading, packed or not, and nothing is left behind`, async () => {
    const { config, weights } = await loadModelFolder(`${ROOT}${folder}`);
    const plain = new Map(weights);
    const before = engine.stats.liveBytes;
    for (const baseWeights of BASE_WEIGHTS) {
      for (const [k, name] of [...plain.keys()].entries()) {
        if (baseWeights !== "f32" && k % 5 !== 0) continue;
        const last = plain.get(name)!.data.length - 1;
        const spoilt = { config, weights: spoil(plain, name, last, k % 2 === 0 ? NaN : -Infinity) };
        const load = () => {
          using _layers = loadLayers(engine, spoilt, { baseWeights });
          using _ends = loadEmbeddingAndHead(engine, spoilt, { baseWeights });
        };
        const error = assertThrows(load, ModelFileError);
        assertStringIncludes(error.message, `value ${last} of "${name}"`);
      }
    }
    assertEquals(engine.stats.liveBytes, before);
  });
}

Deno.test("the file of such a weight is named too: a model's folder, a GGUF file, an adapter, an adapter of PEFT", async () => {
  const dir = await Deno.makeTempDir();
  const { config, weights } = await loadModelFolder(`${ROOT}${PEFT_MODELS.gpt2}`);
  const name = [...weights.keys()].find((key) => key.endsWith("h.1.mlp.c_fc.weight"))!;
  const spoilt = spoil(new Map(weights), name, 7, NaN);
  await saveSafetensors(`${dir}/model.safetensors`, spoilt, { format: "pt" });
  await Deno.copyFile(`${ROOT}${PEFT_MODELS.gpt2}/config.json`, `${dir}/config.json`);
  const stored = await loadModelFolder(dir);
  assertThrows(
    () => loadLayers(engine, stored),
    ModelFileError,
    `value 7 of "${name}" in ${dir}/model.safetensors is NaN`,
  );
  await writeGpt2Gguf(`${dir}/model.gguf`, config as never, spoilt);
  const gguf = await loadGgufModel(`${dir}/model.gguf`);
  assertThrows(() => loadLayers(engine, gguf), ModelFileError, `of ${dir}/model.gguf is NaN`);

  const arrays = (bad: number) =>
    new Map([["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight", {
      shape: [2, 32],
      data: new Float32Array(64).with(5, bad),
    }]]);
  const peft = { r: 2, lora_alpha: 4, peft_type: "LORA", target_modules: ["c_attn"], fan_in_fan_out: true };
  await Deno.writeTextFile(`${dir}/adapter_config.json`, JSON.stringify(peft));
  await saveSafetensors(`${dir}/adapter_model.safetensors`, arrays(Infinity), { format: "pt" });
  await assertRejects(
    () => loadPeft(dir),
    ModelFileError,
    `in ${dir}/adapter_model.safetensors is Infinity`,
  );
  const made = { config: { ...peft, lora_dropout: 0, use_rslora: false }, arrays: arrays(NaN) } as never;
  const shape = { layers: 2, heads: 4, hidden: 32 };
  assertThrows(() => fromPeft(made, "gpt2", shape), ModelFileError, "value 5 of");
  assertThrows(() => mergePeft(weights, made, "gpt2", shape), ModelFileError, "value 5 of");

  const own = {
    format: "edgetuner-heads",
    formatVersion: 1,
    lora: { mode: "full", targets: ["q"], rank: 2, alpha: 4, dropout: 0 },
    model: { layers: 1, heads: 1, hidden: 4 },
  };
  await Deno.writeTextFile(`${dir}/adapter_config.json`, JSON.stringify(own));
  await saveSafetensors(`${dir}/adapter_model.safetensors`, arrays(NaN));
  await assertRejects(() => loadAdapter(dir), ModelFileError, "value 5 of");
  await Deno.remove(dir, { recursive: true });
});

/** A model whose third answer has one bad logit. */
function failing(bad: number): DecodingSession {
  let calls = 0;
  const answer = (rows: number) =>
    Promise.resolve(
      new Float32Array(4 * rows).map((_, i) => i === 2 && calls === 3 ? bad : i % 4 === 3 ? 20 : -20),
    );
  return {
    vocabulary: 4,
    contextLength: 20,
    start: () => (calls++, answer(1)),
    append: (tokens) => (calls++, answer(tokens.length)),
  };
}

Deno.test("logits that are not finite are an error of every way to generate, never an empty text", async () => {
  const options = { maxNewTokens: 8, endTokens: [0] };
  for (const bad of [NaN, Infinity, -Infinity]) {
    for (const temperature of [0, 1]) {
      await assertRejects(
        () => sample(failing(bad), [1, 2], { ...options, temperature }),
        GenerationError,
        `after 4 tokens one is ${bad}`,
      );
    }
    await assertRejects(
      () => beamSearch(failing(bad), [1, 2], { ...options, beams: 2 }),
      GenerationError,
      `after 4 tokens one is ${bad}`,
    );
  }
  // Finite weights, but products that are not.
  const { config, weights } = await loadModelFolder(`${ROOT}${PEFT_MODELS.gpt2}`);
  const key = [...weights.keys()].find((name) => name.endsWith("ln_f.weight"))!;
  const { shape, data } = weights.get(key)!;
  const large = { config, weights: new Map([...weights]).set(key, { shape, data: data.map(() => 3e38) }) };
  using layers = loadLayers(engine, large);
  using ends = loadEmbeddingAndHead(engine, large);
  const model = { engine, layers, ends, heads: null };
  await assertRejects(
    () => generateGreedy(model, [[1, 2, 3]], { maxNewTokens: 4, eos: 0 }),
    GenerationError,
    "after 3 tokens",
  );
  await assertRejects(
    () => logLikelihoods(model, [{ context: [1], continuation: [2, 3] }]),
    GenerationError,
    "must be finite",
  );
});
