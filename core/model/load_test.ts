import { Engine } from "@edgetuner/kernels";
import { assertEquals, assertMatch, assertNotEquals, assertThrows } from "@std/assert";
import { FAMILIES, FAMILY_NAMES, familyConfig, familyFolder } from "../../tests/support/families.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { fingerprintOf } from "../loading/fingerprint.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { initialWeights } from "../loading/model_folder.ts";
import { gpt2Config } from "./families/gpt2.ts";
import type { NamedArrays } from "../files/named_arrays.ts";
import type { Gemma3Config } from "./families/gemma3.ts";
import { type LlamaConfig, llamaConfig } from "./families/llama.ts";
import type { Smollm3Config } from "./families/smollm3.ts";
import { ropeFrequencies } from "./families/rope.ts";
import { modelConfig } from "./families.ts";
import { loadEmbeddingAndHead, loadLayers, modelShape } from "./load.ts";

const engine = await Engine.create();
const LLAMA = familyConfig("llama");
const OPT = familyConfig("opt");
const GPT2 = { model_type: "gpt2", n_layer: 1, n_head: 2, n_embd: 8, vocab_size: 5, n_positions: 6 };

/** TinyLlama 1.1B and LLaMA 3.2 1B as their files have them, in the form of before transformers 5. */
const TINY_LLAMA = {
  architectures: ["LlamaForCausalLM"],
  attention_bias: false,
  hidden_act: "silu",
  hidden_size: 2048,
  intermediate_size: 5632,
  max_position_embeddings: 2048,
  model_type: "llama",
  num_attention_heads: 32,
  num_hidden_layers: 22,
  num_key_value_heads: 4,
  pretraining_tp: 1,
  rms_norm_eps: 1e-5,
  rope_scaling: null,
  rope_theta: 10000.0,
  tie_word_embeddings: false,
  torch_dtype: "float32",
  vocab_size: 32000,
};
const LLAMA_32 = {
  ...TINY_LLAMA,
  head_dim: 64,
  max_position_embeddings: 131072,
  num_hidden_layers: 16,
  num_key_value_heads: 8,
  rope_scaling: {
    factor: 32.0,
    high_freq_factor: 4.0,
    low_freq_factor: 1.0,
    original_max_position_embeddings: 8192,
    rope_type: "llama3",
  },
  rope_theta: 500000.0,
  tie_word_embeddings: true,
  vocab_size: 128256,
};

Deno.test("modelConfig() reads what public checkpoints have", () => {
  const tiny = modelConfig(TINY_LLAMA) as LlamaConfig;
  assertEquals(modelShape(tiny), { layers: 22, heads: 32, kvHeads: 4, hidden: 2048, headSize: 64 });
  assertEquals([tiny.rope_theta, tiny.rope_scaling], [10000, { rope_type: "default" }]);
  const newer = modelConfig(LLAMA_32) as LlamaConfig;
  assertEquals(newer.rope_theta, 500000);
  assertEquals(newer.rope_scaling, LLAMA_32.rope_scaling as LlamaConfig["rope_scaling"]);
  const { rope_theta, rope_scaling, ...rest } = LLAMA_32;
  assertEquals(modelConfig({ ...rest, rope_parameters: { rope_theta, ...rope_scaling } }), newer);
  const old = { type: "linear", factor: 4 };
  assertEquals((modelConfig({ ...TINY_LLAMA, rope_scaling: old }) as LlamaConfig).rope_scaling, {
    rope_type: "linear",
    factor: 4,
  });
  // OPT 125M leaves most to defaults.
  const small = {
    activation_function: "relu",
    do_layer_norm_before: true,
    ffn_dim: 3072,
    hidden_size: 768,
    max_position_embeddings: 2048,
    model_type: "opt",
    num_attention_heads: 12,
    num_hidden_layers: 12,
    vocab_size: 50272,
    word_embed_proj_dim: 768,
  };
  assertEquals(modelShape(modelConfig(small)), {
    layers: 12,
    heads: 12,
    kvHeads: 12,
    hidden: 768,
    headSize: 64,
  });
});

/** What else public checkpoints have, and what is made of it. */
const PUBLIC: Readonly<Record<string, readonly [Record<string, unknown>, Record<string, unknown>]>> = {
  "Qwen2.5 0.5B": [{
    ...{ model_type: "qwen2", hidden_size: 896, num_attention_heads: 14, num_key_value_heads: 2 },
    ...{ num_hidden_layers: 24, intermediate_size: 4864, max_position_embeddings: 32768, vocab_size: 151936 },
    ...{ sliding_window: 32768, use_sliding_window: false, max_window_layers: 21, rope_theta: 1000000.0 },
    ...{ hidden_act: "silu", rms_norm_eps: 1e-6, tie_word_embeddings: true, use_mrope: false },
  }, { headSize: 64, layer_types: undefined, rope_theta: 1e6 }],
  "Qwen3 0.6B": [{
    ...{ model_type: "qwen3", hidden_size: 1024, num_attention_heads: 16, num_key_value_heads: 8 },
    ...{ num_hidden_layers: 28, intermediate_size: 3072, max_position_embeddings: 40960, vocab_size: 151936 },
    ...{ sliding_window: null, use_sliding_window: false, max_window_layers: 28, rope_theta: 1000000 },
    ...{
      hidden_act: "silu",
      rms_norm_eps: 1e-6,
      tie_word_embeddings: true,
      head_dim: 128,
      rope_scaling: null,
    },
  }, { headSize: 128, head_dim: 128, layer_types: undefined }],
  "Mistral 7B": [{
    ...{ model_type: "mistral", hidden_size: 4096, num_attention_heads: 32, num_key_value_heads: 8 },
    ...{ num_hidden_layers: 32, intermediate_size: 14336, max_position_embeddings: 32768, vocab_size: 32000 },
    ...{ hidden_act: "silu", rms_norm_eps: 1e-5, tie_word_embeddings: false, sliding_window: 4096 },
  }, { headSize: 128, head_dim: undefined, sliding_window: 4096 }],
  "Gemma 3 270M": [{
    ...{ model_type: "gemma3_text", hidden_size: 640, num_attention_heads: 4, num_key_value_heads: 1 },
    ...{ num_hidden_layers: 18, intermediate_size: 2048, max_position_embeddings: 32768, vocab_size: 262144 },
    ...{ hidden_activation: "gelu_pytorch_tanh", rms_norm_eps: 1e-6, head_dim: 256, sliding_window: 512 },
    ...{
      rope_theta: 1000000.0,
      rope_local_base_freq: 10000.0,
      rope_scaling: null,
      query_pre_attn_scalar: 256,
    },
    ...{ attn_logit_softcapping: null, final_logit_softcapping: null, use_bidirectional_attention: false },
  }, { headSize: 256, sliding_window: 512, tie_word_embeddings: true, special: [5, 11, 17] }],
  "SmolLM3 3B": [{
    ...{ model_type: "smollm3", hidden_size: 2048, num_attention_heads: 16, num_key_value_heads: 4 },
    ...{
      num_hidden_layers: 36,
      intermediate_size: 11008,
      max_position_embeddings: 65536,
      vocab_size: 128256,
    },
    ...{ hidden_act: "silu", rms_norm_eps: 1e-6, no_rope_layer_interval: 4, rope_theta: 5000000.0 },
    ...{ sliding_window: null, use_sliding_window: false, pretraining_tp: 2, rope_scaling: null },
  }, {
    headSize: 128,
    tie_word_embeddings: true,
    rope_theta: 5e6,
    special: [3, 7, 11, 15, 19, 23, 27, 31, 35],
  }],
};

for (const [name, [json, expected]] of Object.entries(PUBLIC)) {
  Deno.test(`modelConfig() reads what ${name} has`, () => {
    const config = modelConfig(json);
    const { layers, heads, kvHeads, hidden, headSize } = modelShape(config);
    const { num_hidden_layers, num_attention_heads, num_key_value_heads, hidden_size } = json;
    assertEquals<unknown[]>([layers, heads, kvHeads, hidden], [
      ...[num_hidden_layers, num_attention_heads, num_key_value_heads, hidden_size],
    ]);
    // Layers without a window among those that have one, and without rotary positions.
    const { layer_types = [], no_rope_layers = [] } = config as Partial<Gemma3Config & Smollm3Config>;
    const special = [
      ...layer_types.flatMap((kind, l) => kind === "full_attention" ? [l] : []),
      ...no_rope_layers.flatMap((rotary, l) => rotary === 0 ? [l] : []),
    ];
    const found: Record<string, unknown> = { ...config, headSize, special };
    for (const [key, value] of Object.entries(expected)) assertEquals(found[key], value, key);
  });
}

Deno.test("modelConfig() takes the family from model_type, else from architectures, else GPT-2", () => {
  const { model_type: _, ...untyped } = TINY_LLAMA;
  assertEquals(modelConfig(untyped), modelConfig(TINY_LLAMA));
  const gpt2 = { n_layer: 1, n_head: 1, n_embd: 4, vocab_size: 5, n_positions: 6 };
  assertEquals(modelConfig(gpt2), { ...gpt2, layer_norm_epsilon: 1e-5 });
  for (const type of ["bloom", "toString", 7]) {
    assertThrows(
      () => modelConfig({ ...TINY_LLAMA, model_type: type }),
      ModelFileError,
      'model_type must be "gpt2", "llama", "opt"',
    );
  }
  assertThrows(
    () => modelConfig({ architectures: ["MixtralForCausalLM"] }),
    ModelFileError,
    "MixtralForCausalLM",
  );
});

const REFUSED: readonly [Record<string, unknown>, Record<string, unknown>, RegExp][] = [
  [LLAMA, { hidden_act: "gelu" }, /hidden_act must be "silu".*"gelu"/],
  [LLAMA, { hidden_size: 36 }, /hidden_size \/ num_attention_heads must be a multiple of 4/],
  [LLAMA, { head_dim: 12 }, /head size must be a multiple of 8.*12/],
  [LLAMA, { is_causal: false }, /is_causal must be true .*false/],
  [
    LLAMA,
    { rope_parameters: { rope_theta: 7 }, rope_scaling: { rope_type: "linear", factor: 2 } },
    /one of rope_parameters and rope_scaling.*linear/,
  ],
  [
    LLAMA,
    { rope_parameters: LLAMA_32.rope_scaling, original_max_position_embeddings: 16 },
    /original_max_position_embeddings must be 8192 .*16/,
  ],
  [LLAMA, { num_key_value_heads: 3 }, /num_key_value_heads must divide.*3 and 4/],
  [LLAMA, { sliding_window: 16 }, /sliding_window must be at least.*16/],
  [LLAMA, { layer_types: ["full_attention", "sliding_attention"] }, /layer_types must be/],
  [LLAMA, { num_local_experts: 8 }, /num_local_experts must be 1.*mixtures/],
  [LLAMA, { partial_rotary_factor: 0.5 }, /partial_rotary_factor must be 1/],
  [LLAMA, { rope_interleaved: true }, /rope_interleaved must be false/],
  [LLAMA, { quantization_config: { bits: 4 } }, /quantization_config must be missing.*bits/],
  [LLAMA, { compression_config: { format: "pack" } }, /compression_config must be missing.*pack/],
  [
    LLAMA,
    { rope_parameters: { full_attention: { rope_type: "default", rope_theta: 5e5 } } },
    /rope_parameters\.full_attention must be missing .*same angles/,
  ],
  [LLAMA, { rms_norm_eps: "1e-5" }, /rms_norm_eps must be a positive number/],
  [LLAMA, { attention_bias: 1 }, /attention_bias must be true or false/],
  [
    LLAMA,
    { rope_parameters: { rope_type: "longrope", factor: 4 } },
    /rope_parameters\.rope_type must be.*"longrope"/,
  ],
  [LLAMA, { rope_parameters: { rope_type: "linear" } }, /rope_parameters\.factor must be a positive number/],
  [
    LLAMA,
    { rope_parameters: { rope_type: "default", partial_rotary_factor: 0.25 } },
    /rope_parameters\.partial_rotary_factor must be 1/,
  ],
  [
    LLAMA,
    { rope_parameters: { ...LLAMA_32.rope_scaling, low_freq_factor: 4 } },
    /low_freq_factor must be below high_freq_factor/,
  ],
  [LLAMA, { vocab_size: undefined }, /vocab_size must be a positive integer/],
  [
    GPT2,
    { activation_function: "gelu" },
    /activation_function must be "gelu_new" or "gelu_pytorch_tanh".*"gelu"/,
  ],
  [GPT2, { scale_attn_weights: false }, /scale_attn_weights must be true.*false/],
  [GPT2, { scale_attn_by_inverse_layer_idx: true }, /scale_attn_by_inverse_layer_idx must be false.*true/],
  [GPT2, { add_cross_attention: true }, /add_cross_attention must be false.*true/],
  [GPT2, { tie_word_embeddings: 0 }, /tie_word_embeddings must be true or false.*0/],
  [GPT2, { is_causal: false }, /is_causal must be true .*false/],
  [GPT2, { quantization_config: { bits: 8 } }, /quantization_config must be missing.*bits/],
  [GPT2, { n_inner: 0 }, /n_inner must be a positive integer: current value is 0/],
  [GPT2, { layer_norm_epsilon: 0 }, /layer_norm_epsilon must be a positive number: current value is 0/],
  [GPT2, { layer_norm_epsilon: "1e-5" }, /layer_norm_epsilon must be a positive number.*"1e-5"/],
  [GPT2, { n_head: 3 }, /n_embd \/ n_head must be a multiple of 4: current value is 8 \/ 3/],
  [OPT, { quantization_config: { bits: 8 } }, /quantization_config must be missing.*bits/],
  // opt-350m
  [OPT, { do_layer_norm_before: false }, /do_layer_norm_before must be true.*opt-350m/],
  [OPT, { word_embed_proj_dim: 16 }, /word_embed_proj_dim must be 32.*opt-350m/],
  [OPT, { _remove_final_layer_norm: true }, /_remove_final_layer_norm must be false/],
  [OPT, { layer_norm_elementwise_affine: false }, /layer_norm_elementwise_affine must be true/],
  [OPT, { activation_function: "gelu" }, /activation_function must be "relu"/],
];

for (const [config, change, message] of REFUSED) {
  Deno.test(`modelConfig() refuses ${config.model_type} with ${Object.keys(change)}: ${message.source}`, () => {
    modelConfig(config);
    const error = assertThrows(() => modelConfig({ ...config, ...change }), ModelFileError);
    assertMatch(error.message, message);
  });
}

Deno.test("modelConfig() takes settings that change nothing", () => {
  const plain = modelConfig(LLAMA);
  for (
    const change of [
      { head_dim: null, sliding_window: null, num_key_value_heads: null },
      { sliding_window: 32 },
      { sliding_window: 4, use_sliding_window: false },
      { layer_types: ["full_attention", "full_attention"] },
    ]
  ) assertEquals(modelConfig({ ...LLAMA, ...change }), plain);
  for (
    const change of [
      { n_inner: null, layer_norm_epsilon: null, quantization_config: null, activation_function: null },
      { n_inner: 32, tie_word_embeddings: true, scale_attn_weights: true, add_cross_attention: false },
      // Rounds otherwise, no more.
      { reorder_and_upcast_attn: true, scale_attn_by_inverse_layer_idx: false },
    ]
  ) assertEquals(modelConfig({ ...GPT2, ...change }), modelConfig(GPT2));
});

for (const [name, { hiddenSize, heads, ropeParameters, frequencies }] of Object.entries(FAMILIES.rope)) {
  Deno.test(`ropeFrequencies() are those of transformers: ${name}`, () => {
    const config = llamaConfig({
      ...LLAMA,
      hidden_size: hiddenSize,
      num_attention_heads: heads,
      num_key_value_heads: heads,
      head_dim: hiddenSize / heads,
      rope_parameters: ropeParameters,
    });
    // Each to f32's precision, over five orders of magnitude.
    const each = { ...TOLERANCE.sum, relative: 1e-6, ofLargest: false };
    assertClose(ropeFrequencies(config, hiddenSize / heads), frequencies, each, name);
  });
}

for (const name of FAMILY_NAMES) {
  Deno.test(`${name}: names with and without prefixes, fingerprint, missing weights`, async () => {
    const folder = await familyFolder(name);
    const bare: NamedArrays = new Map(
      [...folder.weights].map(([n, array]) => [n.replace(/^model\.(decoder\.)?/, ""), array]),
    );
    const before = engine.stats.tensors;
    {
      using layers = loadLayers(engine, { ...folder, weights: bare });
      using ends = loadEmbeddingAndHead(engine, { ...folder, weights: bare });
      const names = [...layers.parameters(), ...ends.parameters()].map((p) => p.name);
      assertEquals(names.length, new Set(names).size, "each parameter once");
      assertEquals(engine.stats.tensors - before, names.length);
    }
    assertEquals(engine.stats.tensors, before);

    assertEquals(await fingerprintOf(folder.config, bare), folder.fingerprint);
    const buffer = { shape: [4], data: new Float32Array(4) };
    const withBuffer = new Map([...folder.weights, ["model.layers.0.self_attn.rotary_emb.inv_freq", buffer]]);
    assertEquals(await fingerprintOf(folder.config, withBuffer), folder.fingerprint);
    // The LM head counts where it is not tied.
    const head = { shape: [67, 32], data: new Float32Array(67 * 32).fill(1) };
    const otherHead = await fingerprintOf(
      folder.config,
      new Map([...folder.weights, ["lm_head.weight", head]]),
    );
    (familyConfig(name).tie_word_embeddings === false ? assertNotEquals : assertEquals)(
      otherHead,
      folder.fingerprint,
    );

    const k = name === "opt" ? "model.decoder.layers.1.self_attn.k_proj" : "model.layers.1.self_attn.k_proj";
    const without = new Map(folder.weights);
    without.delete(`${k}.weight`);
    const load = (weights: NamedArrays) => () => loadLayers(engine, { ...folder, weights })[Symbol.dispose]();
    assertThrows(load(without), ModelFileError, '"layers.1.self_attn.k_proj.weight" is missing');
    const narrow = new Map([...folder.weights, [`${k}.weight`, {
      shape: [4, 32],
      data: new Float32Array(128),
    }]]);
    load(withBuffer)();
    const norm = k.replace("k_proj", "r_norm.weight"); // as another family might have
    const more = new Map([...folder.weights, [norm, buffer]]);
    assertThrows(load(more), ModelFileError, `they hold "${norm}"`);
    const deeper = new Map([...folder.weights, [`${k.replace("layers.1", "layers.2")}.weight`, buffer]]);
    assertThrows(load(deeper), ModelFileError, "layers.2.");
    assertThrows(load(narrow), ModelFileError, "it is [4,32]");
    assertEquals(engine.stats.tensors, before, "nothing is left of a model that does not fit");
  });
}

Deno.test("a GPT-2 whose layers hold more than the configuration says is refused; causal masks pass", () => {
  const config = gpt2Config(GPT2);
  const weights = initialWeights(config, 1);
  const one = { shape: [1], data: Float32Array.of(1) };
  const before = engine.stats.tensors;
  const load = (name: string) => () =>
    loadLayers(engine, { config, weights: new Map([...weights, [name, one]]) })[Symbol.dispose]();
  for (const mask of ["transformer.h.0.attn.bias", "h.0.attn.masked_bias"]) load(mask)();
  for (
    const name of [
      "transformer.h.1.ln_1.weight",
      "h.0.crossattention.c_attn.weight",
      "transformer.h.0.attn.c_attn.scales",
    ]
  ) assertThrows(load(name), ModelFileError, `they hold "${name}"`);
  assertEquals(engine.stats.tensors, before, "nothing is left of a model that does not fit");
});
