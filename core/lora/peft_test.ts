import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { randomStream } from "../model/random.ts";
import { saveSafetensors } from "../files/safetensors.ts";
import { StoredTensors } from "../files/stored_tensors.ts";
import { ModelFileError } from "../contracts/errors.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import type { Adapter } from "./adapter.ts";
import type { ModelFamily } from "../model/families.ts";
import { fromPeft, loadPeft, savePeft, toPeft } from "./peft.ts";
import { mergePeft } from "./peft_merge.ts";
import type { PeftAdapter, PeftModelShape } from "./peft_modules.ts";
import { exactRank, reduceRank } from "./peft_rank.ts";
import type { LoraTarget } from "./settings.ts";
import { FIXTURES } from "../../tests/support/places.ts";

const SHAPE: PeftModelShape = { layers: 2, heads: 4, hidden: 16 };

function numbers(count: number, seed: number): Float32Array {
  const random = randomStream(seed);
  return Float32Array.from({ length: count }, () => random.float() - 0.5);
}

function adapter(mode: "slice" | "full", targets: readonly LoraTarget[], shape = SHAPE): Adapter {
  const { layers, heads, hidden } = shape;
  const [rank, headSize] = [3, hidden / heads];
  const inputs = mode === "slice" ? headSize : hidden;
  const arrays = new Map<string, NamedArray>();
  let seed = 1;
  for (let l = 0; l < layers; l++) {
    for (let h = 0; h < heads; h++) {
      for (const target of targets) {
        const name = `layer${l}.head${h}.${target}`;
        arrays.set(`${name}.A`, { shape: [rank, inputs], data: numbers(rank * inputs, seed++) });
        arrays.set(`${name}.B`, { shape: [headSize, rank], data: numbers(headSize * rank, seed++) });
      }
    }
  }
  return {
    lora: { mode, targets, rank, alpha: 6, dropout: 0.1 },
    model: { layers, heads, hidden },
    fingerprint: "",
    arrays,
  };
}

/** What head modules add to the weight of a target, [out, in], by definition. */
function deltaOf({ lora, arrays }: Adapter, layer: number, target: LoraTarget, shape: PeftModelShape) {
  const { heads, hidden, kvHeads = heads } = shape;
  const size = hidden / heads;
  const outputs = target === "q" ? hidden : kvHeads * size;
  const delta = new Float64Array(outputs * hidden);
  for (let h = 0; h < heads; h++) {
    const a = arrays.get(`layer${layer}.head${h}.${target}.A`)!.data;
    const b = arrays.get(`layer${layer}.head${h}.${target}.B`)!.data;
    const inputs = a.length / lora.rank;
    const firstRow = (target === "q" ? h : Math.floor(h * kvHeads / heads)) * size;
    const firstColumn = lora.mode === "slice" ? h * size : 0;
    for (let o = 0; o < size; o++) {
      for (let i = 0; i < inputs; i++) {
        let sum = 0;
        for (let k = 0; k < lora.rank; k++) sum += b[o * lora.rank + k]! * a[k * inputs + i]!;
        delta[(firstRow + o) * hidden + firstColumn + i]! += lora.alpha / lora.rank * sum;
      }
    }
  }
  return delta;
}

/** Base weights of zeros, under the family's names. */
function zeros(family: ModelFamily, shape: PeftModelShape): Map<string, NamedArray> {
  const { layers, heads, hidden, kvHeads = heads } = shape;
  const weights = new Map<string, NamedArray>([["other.weight", { shape: [1], data: Float32Array.of(7) }]]);
  const add = (name: string, rows: number, columns: number) =>
    weights.set(name, { shape: [rows, columns], data: new Float32Array(rows * columns) });
  for (let l = 0; l < layers; l++) {
    if (family === "gpt2") add(`transformer.h.${l}.attn.c_attn.weight`, hidden, 3 * hidden);
    else {
      for (const target of ["q", "k", "v"]) {
        const prefix = family === "opt" ? "model.decoder.layers" : "model.layers";
        const rows = target === "q" ? hidden : kvHeads * hidden / heads;
        add(`${prefix}.${l}.self_attn.${target}_proj.weight`, rows, hidden);
      }
    }
  }
  return weights;
}

/** What a merge added to a target's weight, [out, in]. */
function mergedDelta(
  merged: ReadonlyMap<string, NamedArray>,
  family: ModelFamily,
  layer: number,
  target: LoraTarget,
  { hidden }: PeftModelShape,
): Float32Array {
  if (family !== "gpt2") {
    const prefix = family === "opt" ? "model.decoder.layers" : "model.layers";
    return merged.get(`${prefix}.${layer}.self_attn.${target}_proj.weight`)!.data;
  }
  const { data } = merged.get(`transformer.h.${layer}.attn.c_attn.weight`)!;
  const first = ["q", "k", "v"].indexOf(target) * hidden;
  return Float32Array.from({ length: hidden * hidden }, (_, at) => {
    const [o, i] = [Math.floor(at / hidden), at % hidden];
    return data[i * 3 * hidden + first + o]!;
  });
}

const CASES: readonly {
  family: ModelFamily;
  shape: PeftModelShape;
  mode: "slice" | "full";
  targets: LoraTarget[];
}[] = [
  { family: "gpt2", shape: SHAPE, mode: "slice", targets: ["q", "v"] },
  { family: "gpt2", shape: SHAPE, mode: "full", targets: ["q", "k", "v"] },
  { family: "opt", shape: SHAPE, mode: "slice", targets: ["q", "k"] },
  { family: "llama", shape: { ...SHAPE, kvHeads: 2 }, mode: "full", targets: ["q", "v"] },
  { family: "llama", shape: { ...SHAPE, kvHeads: 1 }, mode: "slice", targets: ["k"] },
];

for (const { family, shape, mode, targets } of CASES) {
  const name = `${family}, ${mode}, ${targets}, ${shape.kvHeads ?? shape.heads} key and value heads`;
  Deno.test(`toPeft() adds the same to the weights as the head modules, there and back: ${name}`, () => {
    const heads = adapter(mode, targets, shape);
    const peft = toPeft(heads, family, shape.kvHeads);
    const back = fromPeft(peft, family, shape);
    const merged = mergePeft(zeros(family, shape), peft, family, shape);
    assertEquals(merged.get("other.weight")!.data, Float32Array.of(7));
    for (let layer = 0; layer < shape.layers; layer++) {
      for (const target of targets) {
        const expected = deltaOf(heads, layer, target, shape);
        assert(expected.some((x) => Math.abs(x) > 0.01));
        assertClose(mergedDelta(merged, family, layer, target, shape), expected, TOLERANCE.sum, "merged");
        assertClose(
          Float32Array.from(deltaOf(back, layer, target, shape)),
          expected,
          TOLERANCE.sum,
          "imported",
        );
      }
    }
  });
}

Deno.test("PEFT's own adapter of the same head modules means the same", async () => {
  const fixtures = `${FIXTURES}parity/`;
  const { loadSafetensors } = await import("../files/safetensors.ts");
  const shape = { layers: 3, heads: 4, hidden: 48 };
  const tensors = await loadSafetensors(`${fixtures}/gpt2_lora_slice.safetensors`);
  const arrays = new Map(
    [...tensors].filter(([name]) => name.startsWith("initial.")).map(([name, array]) => [
      name.slice("initial.".length),
      array,
    ]),
  );
  const heads: Adapter = {
    lora: { mode: "slice", targets: ["q", "v"], rank: 4, alpha: 8, dropout: 0 },
    model: shape,
    fingerprint: "",
    arrays,
  };
  const theirs = await loadPeft(`${fixtures}/peft_adapter_slice`);
  const ours = toPeft(heads, "gpt2");
  assertEquals([ours.config.r, ours.config.lora_alpha], [theirs.config.r, theirs.config.lora_alpha]);
  assertEquals([...ours.arrays.keys()].sort(), [...theirs.arrays.keys()].sort());
  const [a, b] = [theirs, ours].map((peft) => mergePeft(zeros("gpt2", shape), peft, "gpt2", shape));
  for (const [name, { data }] of a!) {
    if (name === "other.weight") continue;
    assert(data.some((x) => Math.abs(x) > 1e-3), name);
    assertClose(b!.get(name)!.data, data, TOLERANCE.sum, name);
  }
});

Deno.test("mergePeft() refuses weights of the base that are not finite, and sums that are not", async () => {
  const peft = toPeft(adapter("slice", ["q"]), "gpt2");
  const adapted = "transformer.h.1.attn.c_attn.weight";
  const folder = await Deno.makeTempDir();
  for (const [name, value] of [[adapted, NaN], ["other.weight", -Infinity]] as const) {
    const weights = zeros("gpt2", SHAPE);
    weights.get(name)!.data[0] = value;
    await saveSafetensors(`${folder}/base.safetensors`, weights);
    for (const base of [weights, await StoredTensors.open(`${folder}/base.safetensors`)]) {
      const merged = mergePeft(base, peft, "gpt2", SHAPE);
      const rule = `Cannot merge the adapter as every weight must be finite: value 0 of "${name}"`;
      assertThrows(() => merged.get(name), ModelFileError, rule);
      const saving = saveSafetensors(`${folder}/merged.safetensors`, merged);
      await assertRejects(() => saving, ModelFileError, base === weights ? rule : "base.safetensors is");
    }
  }
  const weights = zeros("gpt2", SHAPE);
  weights.get(adapted)!.data.fill(3.4028234e38);
  const large = { config: { ...peft.config, lora_alpha: 3e38 }, arrays: peft.arrays };
  assertThrows(
    () => mergePeft(weights, large, "gpt2", SHAPE).get(adapted),
    ModelFileError,
    "every weight must be finite",
  );
  await Deno.remove(folder, { recursive: true });
});

Deno.test("reduceRank() is the best approximation and says its error", async () => {
  const peft = toPeft(adapter("full", ["q", "v"]), "gpt2");
  const merged = (p: PeftAdapter) =>
    mergedDelta(mergePeft(zeros("gpt2", SHAPE), p, "gpt2", SHAPE), "gpt2", 0, "q", SHAPE);
  const whole = await reduceRank(peft, 24);
  assertEquals(whole.error < 1e-7, true); // 16 columns: nothing beyond rank 16 is lost
  assertClose(merged(whole.peft), merged(peft), TOLERANCE.sum, "nothing lost");
  let last = 0;
  for (const rank of [12, 6, 2]) {
    const { peft: small, error } = await reduceRank(peft, rank);
    assertEquals(small.config.r, rank);
    assert(error > last && error < 1, `${error}`);
    last = error;
    let lost = 0, all = 0;
    const before = mergePeft(zeros("gpt2", SHAPE), peft, "gpt2", SHAPE);
    const after = mergePeft(zeros("gpt2", SHAPE), small, "gpt2", SHAPE);
    for (const [name, { data }] of before) {
      if (name === "other.weight") continue;
      after.get(name)!.data.forEach((x, i) => {
        lost += (x - data[i]!) ** 2;
        all += data[i]! ** 2;
      });
    }
    assertAlmostEquals(Math.sqrt(lost / all), error, 1e-5);
  }
  await assertRejects(() => reduceRank(peft, 0), RangeError, "current value is 0");
  await assertRejects(() => reduceRank(peft, 25), RangeError, "current value is 25");
});

/** The largest difference that two adapters make to the weights, in proportion to the larger change. */
function largestDifference(one: PeftAdapter, other: PeftAdapter, family: ModelFamily, shape = SHAPE): number {
  const [a, b] = [one, other].map((peft) => mergePeft(zeros(family, shape), peft, family, shape));
  let [difference, largest] = [0, 0];
  for (const [name, { data }] of a!) {
    if (name === "other.weight") continue;
    data.forEach((x, i) => {
      largest = Math.max(largest, Math.abs(x));
      difference = Math.max(difference, Math.abs(x - b!.get(name)!.data[i]!));
    });
  }
  return difference / largest;
}

Deno.test("exactRank() is the smallest rank that is the same", async () => {
  // 24 rows of A for Q and V of four heads, but no more than 16 columns.
  const peft = toPeft(adapter("full", ["q", "v"]), "gpt2");
  const whole = await exactRank(peft);
  assertEquals([peft.config.r, whole.peft.config.r], [24, 16]);
  assert(whole.error <= 2 ** -23, `${whole.error}`);
  assert(largestDifference(whole.peft, peft, "gpt2") < 1e-6);
  // Already the smallest: not a bit is touched.
  const one = toPeft(adapter("full", ["q"]), "llama");
  assertEquals((await exactRank(one)).peft, one);
});

Deno.test("exactRank(): heads that share their A, and such that learnt nothing, take no rank, to the bit", async () => {
  const heads = adapter("full", ["q", "k", "v"]);
  const shared = new Map(
    [...heads.arrays].map(([name, array]) => {
      const layer = name.split(".")[0]!;
      return [name, name.endsWith(".A") ? heads.arrays.get(`${layer}.head0.q.A`)! : array];
    }),
  );
  for (const family of ["gpt2", "llama"] as const) {
    const peft = toPeft({ ...heads, arrays: shared }, family);
    const { peft: small, error } = await exactRank(peft);
    assertEquals([small.config.r, error], [3, 0]);
    assertEquals(small.config.lora_alpha / 3, peft.config.lora_alpha / peft.config.r);
    assertEquals(largestDifference(small, peft, family), 0);
    // And once more round: what comes back has the rank that went out.
    const again = fromPeft(small, family, SHAPE);
    assertEquals(again.lora.rank, 3);
    assertEquals((await exactRank(toPeft(again, family))).peft.config.r, 3);
  }
  const lazy = new Map(
    [...heads.arrays].map(([name, { shape, data }]) => [
      name,
      { shape, data: /head[123].*B$/.test(name) ? new Float32Array(data.length) : data },
    ]),
  );
  const { peft: small } = await exactRank(toPeft({ ...heads, arrays: lazy }, "llama"));
  assertEquals(small.config.r, 3);
  const none = new Map(
    [...heads.arrays].map((
      [name, { shape, data }],
    ) => [name, { shape, data: new Float32Array(data.length) }]),
  );
  const nothing = await exactRank(toPeft({ ...heads, arrays: none }, "llama"));
  assertEquals([nothing.peft.config.r, nothing.error, nothing.peft.arrays.size], [1, 0, 12]);
});

Deno.test("fromPeft() gives heads their own rows back; an adapter before training keeps its rank", () => {
  const heads = adapter("full", ["q", "k", "v"]);
  for (const family of ["gpt2", "llama"] as const) {
    const again = fromPeft(toPeft(heads, family), family, SHAPE);
    assertEquals([again.lora.rank, again.lora.alpha], [3, 6]);
    for (const [name, { data }] of heads.arrays) assertEquals(again.arrays.get(name)!.data, data, name);
  }
  const none = new Map(
    [...heads.arrays].map(([name, { shape, data }]) => [
      name,
      { shape, data: name.endsWith("B") ? new Float32Array(data.length) : data },
    ]),
  );
  assertEquals(fromPeft(toPeft({ ...heads, arrays: none }, "llama"), "llama", SHAPE).lora.rank, 12);
});

Deno.test("PEFT folders survive saving and loading; what is not a plain LoRA is refused", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const peft = toPeft(adapter("slice", ["q", "v"]), "gpt2");
    await savePeft(folder, peft);
    const loaded = await loadPeft(folder);
    assertEquals(loaded.config, peft.config);
    for (const [name, { data, shape }] of peft.arrays) {
      assertEquals(loaded.arrays.get(name)!.shape, shape);
      assertEquals(loaded.arrays.get(name)!.data, data);
    }
    for (
      const [field, value] of [
        ["use_dora", true],
        ["bias", "all"],
        ["rank_pattern", { c_attn: 3 }],
        ["peft_type", "IA3"],
        ["r", 0],
        ["lora_alpha", "8"],
        ["modules_to_save", ["lm_head"]],
        ["lora_bias", true],
        ["use_qalora", true],
        ["layer_replication", [[0, 1]]],
        ["alpha_pattern", { "c_(attn)+": 3 }],
        ["alora_invocation_tokens", [1, 2]],
        ["trainable_token_indices", [1]],
        ["target_parameters", ["x"]],
        ["corda_config", { cache_file: "x" }],
        ["loftq_config", { loftq_bits: 4 }],
        ["use_bdlora", { parts: 2 }],
        ["something_of_tomorrow", true],
        ["task_type", "SEQ_CLS"],
        ["target_modules", ["c_proj"]],
        ["exclude_modules", ["c_attn"]],
        ["layers_to_transform", [1]],
        ["layers_to_transform", 0],
        ...["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "mica", "PiSSA"].map((value) =>
          ["init_lora_weights", value] as const
        ),
      ] as const
    ) {
      await Deno.writeTextFile(
        `${folder}/adapter_config.json`,
        JSON.stringify({ ...peft.config, [field]: value }),
      );
      await assertRejects(() => loadPeft(folder), ModelFileError, field);
    }
    for (
      const [field, value] of [
        ["init_lora_weights", "gaussian"],
        ["init_lora_weights", "eva"],
        ["layers_to_transform", [0, 1]],
        ["exclude_modules", ["c_proj"]],
        ["something_of_tomorrow", null],
        ["rank_pattern", {}],
        ["alpha_pattern", { c_attn: 3 }],
        ["target_modules", ".*attn.*"],
      ] as const
    ) {
      await Deno.writeTextFile(
        `${folder}/adapter_config.json`,
        JSON.stringify({ ...peft.config, [field]: value }),
      );
      assertEquals((await loadPeft(folder)).arrays.size, peft.arrays.size, field);
    }
    await assertRejects(() => loadPeft(`${folder}/nowhere`), ModelFileError, "adapter_config.json");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("fromPeft(), toPeft() and mergePeft() refuse what does not fit", () => {
  const heads = adapter("slice", ["q", "v"]);
  const peft = toPeft(heads, "gpt2");
  assertThrows(() => fromPeft(peft, "llama", SHAPE), ModelFileError, "llama layers alone");
  assertThrows(() => fromPeft(peft, "gpt2", { ...SHAPE, hidden: 8 }), ModelFileError, "must be [24,8]");
  const missing = { ...heads, arrays: new Map([...heads.arrays].slice(1)) };
  assertThrows(() => toPeft(missing, "gpt2"), ModelFileError, '"layer0.head0.q.A" is missing');
  assertThrows(() => mergePeft(new Map(), peft, "gpt2", SHAPE), ModelFileError, "must hold");
});
