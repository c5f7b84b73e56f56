import { assertThrows } from "@std/assert";
import { normal } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { CheckpointError } from "../errors.ts";
import type { NamedArray } from "../model/gpt2.ts";
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
  assertClose(baseNorms(CONFIG, weights), expected, TOLERANCE.sum);
  assertThrows(() => baseNorms({ ...CONFIG, n_layer: 3 }, weights), CheckpointError, "it is missing");
});
