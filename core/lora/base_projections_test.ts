import { assert, assertAlmostEquals, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { randomStream } from "../model/random.ts";
import type { ModelFiles } from "../model/load.ts";
import { llamaConfig } from "../model/families/llama.ts";
import type { Adapter } from "./adapter.ts";
import { baseProjections } from "./base_projections.ts";
import { toPeft } from "./peft.ts";
import { type HeadProjections, seededProjections } from "./projections.ts";
import { DEFAULT_LORA, DEFAULT_PROJECTIONS, type LoraSettings } from "./settings.ts";

const MODEL = { layers: 1, heads: 4, hidden: 32 };
const HEAD_SIZE = 8;
const lora: LoraSettings = {
  ...DEFAULT_LORA,
  ...{ mode: "core", targets: ["q", "k"], rank: 4, alpha: 8 },
  projections: { from: "base", seed: 0, shared: false },
};

const random = randomStream(5, 0);
const numbers = (count: number) => Float32Array.from({ length: count }, () => random.float() - 0.5);

/** A model of one layer, with two heads for each of two keys and values. */
const config = llamaConfig({
  ...{ model_type: "llama", vocab_size: 8, hidden_size: 32, intermediate_size: 16, num_hidden_layers: 1 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 8, rms_norm_eps: 1e-5 },
});
const q = numbers(32 * 32);
const k = numbers(16 * 32);
const files: ModelFiles = {
  config,
  weights: new Map([
    ["model.layers.0.self_attn.q_proj.weight", { shape: [32, 32], data: q }],
    ["model.layers.0.self_attn.k_proj.weight", { shape: [16, 32], data: k }],
    ["model.layers.0.self_attn.v_proj.weight", { shape: [16, 32], data: numbers(16 * 32) }],
  ]),
};

/** B A, [D, d]. */
function product({ a, b }: ReturnType<HeadProjections["at"]>, rank: number): Float64Array {
  const [rows, columns] = [b.length / rank, a.length / rank];
  return Float64Array.from({ length: rows * columns }, (_, at) => {
    const [row, column] = [Math.floor(at / columns), at % columns];
    let sum = 0;
    for (let i = 0; i < rank; i++) sum += b[row * rank + i]! * a[i * columns + column]!;
    return sum;
  });
}

Deno.test("seededProjections(): A has variance 1 / d, B orthonormal columns, each place its own", () => {
  const model = { layers: 2, heads: 2, hidden: 64 };
  const form = { targets: lora.targets, rank: 8 };
  const made = seededProjections(form, model);
  const { a, b } = made.at({ layer: 1, head: 0, target: "q" });
  assertEquals(made.at({ layer: 1, head: 0, target: "q" }), { a, b });
  const variance = a.reduce((sum, x) => sum + x * x, 0) / 8;
  assert(variance > 0.7 && variance < 1.3, `${variance}`);
  for (let i = 0; i < 8; i++) {
    for (let j = 0; j < 8; j++) {
      let sum = 0;
      for (let row = 0; row < 32; row++) sum += b[row * 8 + i]! * b[row * 8 + j]!;
      assertAlmostEquals(sum, i === j ? 1 : 0, 1e-6);
    }
  }
  for (const other of [{ layer: 0 }, { head: 1 }, { target: "v" as const }]) {
    const place = { layer: 1, head: 0, target: "q" as const, ...other };
    assertNotEquals(made.at(place).a, a);
    assertNotEquals(made.at(place).b, b);
  }
  const shared = seededProjections({ ...form, projections: { ...DEFAULT_PROJECTIONS, shared: true } }, model);
  const [one, two] = (["q", "v"] as const).map((target) => shared.at({ layer: 0, head: 1, target }));
  assertEquals(one!.a, two!.a);
  assertNotEquals(one!.b, two!.b);
});

Deno.test("baseProjections(): B A is the best approximation of a head's weights, and all of them at full rank", async () => {
  const whole = (await baseProjections(files, { ...lora, rank: HEAD_SIZE }))!;
  const half = (await baseProjections(files, lora))!;
  for (let head = 0; head < 4; head++) {
    const own = q.subarray(head * HEAD_SIZE * 32, (head + 1) * HEAD_SIZE * 32);
    const all = product(whole.at({ layer: 0, head, target: "q" }), HEAD_SIZE);
    own.forEach((x, i) => assertAlmostEquals(all[i]!, x, 1e-5));
    // What is left is orthogonal to what is there, and smaller.
    const some = product(half.at({ layer: 0, head, target: "q" }), 4);
    const along = (x: ArrayLike<number>, y: ArrayLike<number>) =>
      Array.from(x).reduce((sum, v, i) => sum + v * y[i]!, 0);
    assertAlmostEquals(along(some, some), along(own, some), 1e-4);
    assert(along(some, some) > along(own, own) / 2);
  }
  // Heads 2 and 3 read the same keys, and take different vectors of them.
  const [first, second] = [2, 3].map((head) => half.at({ layer: 0, head, target: "k" }));
  const together = product(first!, 4).map((x, i) => x + product(second!, 4)[i]!);
  k.subarray(8 * 32).forEach((x, i) => assertAlmostEquals(together[i]!, x, 1e-5));
});

Deno.test("baseProjections(): targets share one A; other settings need none", async () => {
  const projections = { from: "base", seed: 0, shared: true } as const;
  const made = (await baseProjections(files, { ...lora, projections }))!;
  assertEquals(made.at({ layer: 0, head: 1, target: "q" }).a, made.at({ layer: 0, head: 1, target: "k" }).a);
  assertEquals(await baseProjections(files, { ...lora, projections: DEFAULT_PROJECTIONS }), undefined);
  assertEquals(await baseProjections(files, DEFAULT_LORA), undefined);
});

Deno.test("toPeft() of cores has the frozen A and B R, and needs projections that come from the base model", async () => {
  const arrays = new Map(
    [0, 1, 2, 3].flatMap((head) =>
      lora.targets.map((target) =>
        [`layer0.head${head}.${target}.R`, { shape: [4, 4], data: numbers(16) }] as const
      )
    ),
  );
  const adapter: Adapter = { lora, model: MODEL, fingerprint: "", arrays };
  assertThrows(() => toPeft(adapter, "llama", 2), TypeError, "must be given, see baseProjections");
  const projections = (await baseProjections(files, lora))!;
  const peft = toPeft(adapter, "llama", 2, projections);
  const name = "base_model.model.model.layers.0.self_attn.q_proj.lora";
  const { a, b } = projections.at({ layer: 0, head: 3, target: "q" });
  assertEquals(peft.arrays.get(`${name}_A.weight`)!.data.slice(12 * 32), a);
  const r = arrays.get("layer0.head3.q.R")!.data;
  const ownRows = peft.arrays.get(`${name}_B.weight`)!.data.subarray(24 * 16);
  for (let row = 0; row < HEAD_SIZE; row++) {
    for (let i = 0; i < 4; i++) {
      const expected = [0, 1, 2, 3].reduce((sum, j) => sum + b[4 * row + j]! * r[4 * j + i]!, 0);
      assertAlmostEquals(ownRows[row * 16 + 12 + i]!, expected, 1e-6);
    }
  }
  assertEquals(peft.config.lora_alpha / peft.config.r, 2);
});
