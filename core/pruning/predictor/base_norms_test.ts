import { assertThrows } from "@std/assert";
import { normal } from "../../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../../tests/support/tolerance.ts";
import { ModelFileError } from "../../contracts/errors.ts";
import type { NamedArray } from "../../files/named_arrays.ts";
import { llamaConfig } from "../../model/families/llama.ts";
import { baseNorms } from "./base_norms.ts";

const CONFIG = { n_layer: 2, n_head: 3, n_embd: 12, vocab_size: 1, n_positions: 1, layer_norm_epsilon: 1e-5 };

Deno.test("baseNorms() are the Frobenius norms of each head's columns of Q, K, V and rows of the projection", () => {
  const weights = new Map<string, NamedArray>();
  for (const l of [0, 1]) {
    weights.set(`transformer.h.${l}.attn.c_attn.weight`, { shape: [12, 36], data: normal(432, l + 1) });
    weights.set(`h.${l}.attn.c_proj.weight`, { shape: [12, 12], data: normal(144, l + 3) });
  }
  const expected: number[] = [];
  for (let l = 0; l < 2; l++) {
    const qkv = weights.get(`transformer.h.${l}.attn.c_attn.weight`)!.data;
    const projection = weights.get(`h.${l}.attn.c_proj.weight`)!.data;
    for (let h = 0; h < 3; h++) {
      let sum = 0;
      for (let i = 4 * h; i < 4 * h + 4; i++) {
        for (let j = 0; j < 12; j++) {
          for (const part of [0, 12, 24]) sum += qkv[j * 36 + part + i]! ** 2;
          sum += projection[i * 12 + j]! ** 2;
        }
      }
      expected.push(Math.sqrt(sum));
    }
  }
  assertClose(baseNorms({ config: CONFIG, weights }), expected, TOLERANCE.sum);
  assertThrows(
    () => baseNorms({ config: { ...CONFIG, n_layer: 3 }, weights }),
    ModelFileError,
    "it is missing",
  );
});

Deno.test("baseNorms() of a LLaMA count shared keys and values for each head that reads them", () => {
  const config = llamaConfig({
    model_type: "llama",
    hidden_act: "silu",
    num_hidden_layers: 1,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    hidden_size: 32,
    intermediate_size: 8,
    vocab_size: 8,
    max_position_embeddings: 8,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: true,
  });
  const named = (name: string) => `model.layers.0.self_attn.${name}.weight`;
  const rows = { q_proj: 32, k_proj: 16, v_proj: 16, o_proj: 32 };
  const weights = new Map<string, NamedArray>(
    Object.entries(rows).map((
      [name, n],
      i,
    ) => [named(name), { shape: [n, 32], data: normal(n * 32, i + 1) }]),
  );
  const sumOf = (name: string, holds: (row: number, column: number) => boolean) =>
    weights.get(named(name))!.data.reduce(
      (sum, x, i) => sum + (holds(Math.floor(i / 32), i % 32) ? x * x : 0),
      0,
    );
  const expected = [0, 1, 2, 3].map((h) => {
    const own = (place: number) => Math.floor(place / 8) === h;
    const shared = (place: number) => Math.floor(place / 8) === Math.floor(h / 2);
    return Math.sqrt(
      sumOf("q_proj", own) + sumOf("k_proj", shared) + sumOf("v_proj", shared) +
        sumOf("o_proj", (_, column) => own(column)),
    );
  });
  assertClose(baseNorms({ config, weights }), expected, TOLERANCE.sum);
});
