/**
 * Frozen bases held as f16, int8 and int4, in all families.
 */

import { Engine, matmul, PackedMatrix } from "@edgetuner/kernels";
import {
  BASE_WEIGHTS,
  baseWeightBytes,
  type BaseWeights,
  CachedSession,
  embedTokens,
  fingerprintOf,
  generateGreedy,
  Gpt2EmbeddingAndHead,
  Gpt2Layers,
  llamaConfig,
  loadEmbeddingAndHead,
  loadLayers,
  loadModelFolder,
  LocalData,
  LocalHeads,
  logitsOf,
  ModelFileError,
  type ModelFiles,
  type NamedArray,
  type NamedArrays,
  Parameter,
  type RunSettings,
  runStep,
  Tape,
  type TokenBatch,
} from "@edgetuner/core";
import { assert, assertEquals, assertGreater, assertLess, assertThrows } from "@std/assert";
import { packedReference } from "../../kernels/packed/packed_reference.ts";
import { FAMILY_NAMES, familyFolder, familyHeads, type FamilyName, TinyFamily } from "../support/families.ts";
import { normal } from "../support/kernels.ts";
import { randomLlama, unpacked } from "../support/packed_weights.ts";
import { BATCH, flatten, LOSS, sideBySide, tinyModel, tinySettings } from "../support/tiny_model.ts";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import { runSession, scriptedPruner } from "./_session.ts";

const engines = {
  software: await Engine.create({ adapterClass: "software" }),
  hardware: await Engine.create({ adapterClass: "hardware" }),
};
const engine = engines.software;

const FAMILIES = ["gpt2", "llama", "llama_grouped", "opt", "gemma3"] as const;
const PACKED = BASE_WEIGHTS.filter((format) => format !== "f32");

function checkpoint(name: "gpt2" | FamilyName): Promise<ModelFiles> {
  return name === "gpt2" ? Promise.resolve(tinyModel()) : familyFolder(name);
}

/** Logits of every place of a batch. */
async function logitsAt({ engine, layers, ends }: TinyFamily, batch: TokenBatch): Promise<Float32Array> {
  using tape = new Tape(engine, { training: false });
  const embedding = tape.variable(embedTokens(ends, batch), { needsGradient: false });
  const hidden = await layers.forward(tape, embedding, batch, null);
  using logits = logitsOf(ends, hidden.value, batch.tokens.map((_, i) => i));
  return await logits.read();
}

/** Root of the mean square of the differences, over that of the expected values. */
function relativeError(actual: Float32Array, expected: Float32Array): number {
  let [difference, size] = [0, 0];
  expected.forEach((x, i) => {
    difference += (actual[i]! - x) ** 2;
    size += x ** 2;
  });
  return Math.sqrt(difference / size);
}

/** A run of at most three steps with dropout and a mask, with all heads in this process. */
async function train(model: TinyFamily, settings: RunSettings, counts: readonly number[]) {
  const { layers, heads: H } = model.layers.shape;
  const devices = familyHeads(model, settings, counts);
  using heads = new LocalHeads(devices, ["gradientNorm"]);
  const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
  const losses: number[] = [];
  const norms: number[] = [];
  for (const [step, mask] of masksOf(layers * H).slice(0, settings.steps).entries()) {
    const context = { engine: model.engine, base: model.layers, heads, data };
    const { loss, statistics } = await runStep(context, step, (await data.next(step))!, mask);
    losses.push(loss!);
    norms.push(...statistics.gradientNorm!);
  }
  const weights = flatten(sideBySide(await Promise.all(devices.map((d) => d.weights()))));
  return { losses, norms, weights };
}

function masksOf(heads: number): Uint8Array[] {
  return [0, 3, 0].map((every) =>
    Uint8Array.from({ length: heads }, (_, i) => Number(every > 0 && i % every === 1))
  );
}

/** Every format for each way that matrices are stored; what other families do beside that, with one format. */
const FORMATS_OF: Readonly<Record<typeof FAMILIES[number], typeof PACKED>> = {
  gpt2: PACKED,
  llama: ["f16"],
  llama_grouped: PACKED,
  opt: ["int4"],
  gemma3: ["int8"],
};

for (const name of FAMILIES) {
  const model = await checkpoint(name);
  for (const format of FORMATS_OF[name]) {
    for (const [form, engine] of Object.entries(engines)) {
      Deno.test(`${name} in ${format}: losses and LoRA gradients of an f32 base of the same values (${form} form) [slow]`, async () => {
        const before = engine.stats.tensors;
        {
          using packed = new TinyFamily(engine, model, format);
          using plain = new TinyFamily(engine, unpacked(model, format));
          using original = new TinyFamily(engine, model);
          // What head modules read does not depend on how the base is stored: a mode for each form.
          const mode = form === "software" ? "slice" : "full";
          const settings = tinySettings(mode, 3);
          const actual = await train(packed, settings, [4]);
          const expected = await train(plain, settings, [4]);
          // Unpacked to the same f32 and added up in the same order: the same bits.
          assertEquals(actual, expected);
          assert(actual.norms.some((norm) => norm > 0), "there are gradients");
          const others = await train(original, tinySettings(mode, 1), [4]);
          assert(others.losses[0] !== actual.losses[0], "packing changes something");
        }
        assertEquals(engine.stats.tensors, before, "tensors are left");
      });
    }

    Deno.test(`${name} in ${format}: a split run as one machine, generation with a cache as without [slow]`, async () => {
      using packed = new TinyFamily(engine, model, format);
      const { layers: L, heads: H } = packed.layers.shape;
      const masks = masksOf(L * H);
      const settings = tinySettings("full", masks.length);
      const run = await runSession(packed, {
        settings,
        steps: masks.length,
        capacities: [3, 1],
        pruner: scriptedPruner(masks),
        shareLoss: true,
      });
      const local = await train(packed, settings, [3, 1]);
      assertEquals(run.losses, local.losses);
      assertEquals(run.weights, local.weights);

      using plain = new TinyFamily(engine, unpacked(model, format));
      const prompts = [[1, 2, 3], [60], [5, 66, 37, 39]];
      const generate = ({ layers, ends }: TinyFamily) =>
        generateGreedy({ engine, layers, ends, heads: null }, prompts, { maxNewTokens: 6, eos: 1000 });
      assertEquals(await generate(packed), await generate(plain));
      const cached = async ({ layers, ends }: TinyFamily) => {
        using session = new CachedSession({ engine, layers, ends, heads: null });
        return await session.start(prompts[2]!);
      };
      assertEquals(await cached(packed), await cached(plain));
    });
  }
}

for (const name of ["qwen2", "qwen3", "mistral", "smollm3"] as const) {
  const mode = name === "qwen2" || name === "mistral" ? "full" : "slice";
  Deno.test(`${name} packed: losses, gradients and logits of an f32 base of the same values [slow]`, async () => {
    const model = await checkpoint(name);
    for (const format of PACKED) {
      using packed = new TinyFamily(engine, model, format);
      using plain = new TinyFamily(engine, unpacked(model, format));
      const settings = tinySettings(mode, 3);
      assertEquals(await train(packed, settings, [4]), await train(plain, settings, [4]), format);
      const logits = await logitsAt(packed, BATCH);
      assertEquals(logits, await logitsAt(plain, BATCH), format);
      using original = new TinyFamily(engine, model);
      const error = relativeError(logits, await logitsAt(original, BATCH));
      assert(
        error > 0 && error < { f16: 2e-3, int8: 0.05, int4: 0.7 }[format as "f16"],
        `${format}: ${error}`,
      );
    }
  });
}

// Half as much again as what was measured: RMS of the logits' differences from f32, over the logits' own.
const MOST_ERROR: Readonly<Record<typeof FAMILIES[number], Readonly<Record<string, number>>>> = {
  gpt2: { f16: 9e-4, int8: 0.023, int4: 0.33 },
  llama: { f16: 1.3e-3, int8: 0.032, int4: 0.48 },
  llama_grouped: { f16: 1.5e-3, int8: 0.031, int4: 0.5 },
  opt: { f16: 9e-4, int8: 0.02, int4: 0.31 },
  gemma3: { f16: 8.1e-4, int8: 0.022, int4: 0.31 },
};

for (const name of FAMILIES) {
  Deno.test(`${name}: logits of packed bases are near those of f32, nearer with more bits [slow]`, async () => {
    const model = await checkpoint(name);
    using plain = new TinyFamily(engine, model);
    const expected = await logitsAt(plain, BATCH);
    const errors: number[] = [];
    for (const format of PACKED) {
      using packed = new TinyFamily(engine, model, format);
      const error = relativeError(await logitsAt(packed, BATCH), expected);
      assertLess(error, MOST_ERROR[name][format]!, format);
      errors.push(error);
    }
    assertGreater(errors[0]!, 0);
    assertLess(errors[0]!, errors[1]!);
    assertLess(errors[1]!, errors[2]!);
  });
}

Deno.test("tiny_gpt2: logits of packed bases are near those of f32", async () => {
  const model = await loadModelFolder(new URL("../../cli/assets/tiny_gpt2", import.meta.url));
  const length = 64;
  const tokens = Uint32Array.from({ length: 2 * length }, (_, i) => (i * i * 31 + i * 7) % 997);
  const batch = { tokens, targets: tokens, mask: new Float32Array(2 * length), batch: 2, length };
  using plain = new TinyFamily(engine, model);
  const expected = await logitsAt(plain, batch);
  for (const [format, most] of [["f16", 3.6e-4], ["int8", 0.0142], ["int4", 0.18]] as const) {
    using packed = new TinyFamily(engine, model, format);
    const error = relativeError(await logitsAt(packed, batch), expected);
    assertLess(error, most, format);
  }
});

/** LLaMA-2 7B as its file has it. */
const LLAMA_2 = {
  model_type: "llama",
  hidden_act: "silu",
  hidden_size: 4096,
  intermediate_size: 11_008,
  max_position_embeddings: 4096,
  num_attention_heads: 32,
  num_hidden_layers: 32,
  num_key_value_heads: 32,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: false,
  vocab_size: 32_000,
};

/** The same, a thirty-second as wide. */
const SCALED_LLAMA = llamaConfig({
  ...LLAMA_2,
  hidden_size: 128,
  intermediate_size: 344,
  num_attention_heads: 4,
  num_key_value_heads: 4,
  num_hidden_layers: 2,
  vocab_size: 1000,
});

/** Bytes that layers and ends take on the adapter, as the engine counts them. */
function counted(model: ModelFiles, baseWeights: BaseWeights) {
  const { liveBytes: start } = engine.stats;
  using _layers = loadLayers(engine, model, { baseWeights });
  const { liveBytes: layers } = engine.stats;
  using _ends = loadEmbeddingAndHead(engine, model, { baseWeights });
  const { liveBytes: end } = engine.stats;
  return { layers: layers - start, ends: end - layers, total: end - start };
}

Deno.test("baseWeightBytes() is what the engine counts, and LLaMA-2 7B in int8 fits 8 GB", async () => {
  const odd = llamaConfig({
    ...SCALED_LLAMA,
    hidden_size: 72,
    num_attention_heads: 3,
    num_key_value_heads: 1,
    intermediate_size: 37,
    vocab_size: 131,
    tie_word_embeddings: true,
  });
  const models = [
    randomLlama(SCALED_LLAMA),
    randomLlama(odd),
    tinyModel(),
    ...await Promise.all(FAMILY_NAMES.map(familyFolder)),
  ];
  for (const model of models) {
    for (const format of BASE_WEIGHTS) {
      assertEquals(baseWeightBytes(model.config, format), counted(model, format), format);
    }
  }
  const bytes = Object.fromEntries(
    BASE_WEIGHTS.map((format) => [format, baseWeightBytes(llamaConfig(LLAMA_2), format).total]),
  );
  // 6.74 G weights; int8 has a scale of 4 bytes for 64 of them, int4 for 32.
  const matrices = 32 * (4 * 4096 ** 2 + 3 * 4096 * 11_008) + 2 * 32_000 * 4096;
  const norms = 4 * 65 * 4096;
  assertEquals(bytes, {
    f32: 4 * matrices + norms,
    f16: 2 * matrices + norms,
    int8: matrices * (1 + 4 / 64) + norms,
    int4: matrices * (1 / 2 + 4 / 32) + norms,
  });
  const gigabytes = Object.values(bytes).map((count) => (count / 1e9).toFixed(2));
  assertEquals(gigabytes, ["26.95", "13.48", "7.16", "4.21"]);
  assertLess(bytes.int8!, 8e9);
});

for (const adapterClass of ["software", "hardware"] as const) {
  Deno.test(`packed tables that are cut for bindings and textures train as whole ones (${adapterClass}) [slow]`, async () => {
    // Table and LM head have 384 kB in int8, 192 kB in int4, a row of logits 751 texels.
    using small = await Engine.create({ adapterClass, maxBindingBytes: 140_000, maxTextureSide: 128 });
    const model = randomLlama({ ...SCALED_LLAMA, vocab_size: 3001 });
    for (const format of ["int8", "int4"] as const) {
      using whole = new TinyFamily(engines[adapterClass], model, format);
      using cut = new TinyFamily(small, model, format);
      assertLess((cut.ends.lmHead.value as PackedMatrix).rowsPerWindow, 3001);
      const settings = tinySettings("full", 3);
      const actual = await train(cut, settings, [4]);
      const expected = await train(whole, settings, [4]);
      assertClose(actual.losses, expected.losses, TOLERANCE.model, "losses");
      assertClose(actual.norms, expected.norms, TOLERANCE.steps, "norms");
      assertClose(actual.weights, expected.weights, TOLERANCE.steps, "weights");
    }
  });
}

Deno.test("a projection of LLaMA-2's true shape in int8, forward and back [slow]", async () => {
  const [rows, columns, m] = [11_008, 4096, 3];
  // Drawn in pieces of a prime length, so that no two rows are equal.
  const piece = normal(999_983, 1, 0.02);
  const w = new Float32Array(rows * columns);
  for (let at = 0; at < w.length; at += piece.length) w.set(piece.subarray(0, w.length - at), at);
  const shape = { format: "int8", rows, columns, groupsAlong: "columns" } as const;
  const before = engine.stats.liveBytes;
  {
    using packed = new PackedMatrix(engine, shape);
    packed.write(0, w);
    assertEquals(packed.bytes, rows * columns * (1 + 4 / 64));
    const x = normal(m * columns, 2);
    using xTensor = engine.upload(x, m, columns);
    using y = matmul(xTensor, packed, { transposeB: true });
    const dy = normal(m * rows, 3);
    using dyTensor = engine.upload(dy, m, rows);
    using dx = matmul(dyTensor, packed);
    const [yValues, dxValues] = await engine.read([y, dx]);
    for (const row of [0, 1, 4097, 11_007]) {
      const real = packedReference(w.subarray(row * columns, (row + 1) * columns), { ...shape, rows: 1 });
      const expected = Array.from(
        { length: m },
        (_, i) => real.reduce((sum, v, k) => sum + v * x[i * columns + k]!, 0),
      );
      // Sums of 4096 products with deviation 0.02: about 1.3.
      assertClose(expected.map((_, i) => yValues![i * rows + row]!), expected, TOLERANCE.sum, `row ${row}`);
    }
    for (const first of [0, 4032]) {
      // Columns of one group, in every row.
      const part = new Float32Array(rows * 64);
      for (let r = 0; r < rows; r++) {
        part.set(w.subarray(r * columns + first, r * columns + first + 64), r * 64);
      }
      const real = packedReference(part, { ...shape, columns: 64 });
      const expected = Array.from({ length: m * 64 }, (_, i) => {
        let sum = 0;
        for (let r = 0; r < rows; r++) sum += dy[Math.floor(i / 64) * rows + r]! * real[r * 64 + i % 64]!;
        return sum;
      });
      const actual = expected.map((_, i) => dxValues![Math.floor(i / 64) * columns + first + i % 64]!);
      assertClose(actual, expected, TOLERANCE.sum, `columns from ${first}`);
    }
  }
  assertEquals(engine.stats.liveBytes, before);
});

Deno.test("what packed bases cannot do is refused, and nothing is left on the adapter", async () => {
  const { config, weights } = tinyModel();
  const before = engine.stats.tensors;
  assertThrows(
    () => new Gpt2Layers(engine, config, weights, { trainable: true, baseWeights: "int8" }),
    TypeError,
    'Cannot train all parameters as baseWeights must be "f32": current value is "int8"',
  );
  assertThrows(
    () => new Gpt2EmbeddingAndHead(engine, config, weights, { trainable: true, baseWeights: "f16" }),
    TypeError,
    'must be "f32"',
  );
  {
    using ends = loadEmbeddingAndHead(engine, { config, weights }, { baseWeights: "int8" });
    assertThrows(() => ends.lmHead.plain, TypeError, 'must be f32 for that: current value is "int8"');
    assertThrows(
      () => new Parameter("w", ends.lmHead.value, { trainable: true }),
      TypeError,
      'Cannot train "w"',
    );
  }
  assertThrows(
    () => loadLayers(engine, { config, weights }, { baseWeights: "int2" as BaseWeights }),
    RangeError,
    'Cannot load the model as baseWeights must be "f32", "f16", "int8" or "int4": current value is "int2"',
  );
  for (const [name, broken] of [["gpt2", "h.2.mlp.c_fc.weight"], ["opt", "layers.1.fc1.weight"]] as const) {
    const model = await checkpoint(name);
    const all = new Map(model.weights);
    const key = [...all.keys()].find((key) => key.endsWith(broken))!;
    const data = all.get(key)!.data.slice();
    data[5] = 1e6;
    all.set(key, { ...all.get(key)!, data });
    assertThrows(
      () => loadLayers(engine, { config: model.config, weights: all }, { baseWeights: "f16" }),
      ModelFileError,
      "others are f32, int8, int4",
    );
    all.delete(key);
    assertThrows(
      () => loadLayers(engine, { config: model.config, weights: all }, { baseWeights: "int4" }),
      ModelFileError,
      "is missing",
    );
  }
  assertEquals(engine.stats.tensors, before);
});

/** A checkpoint that hands out all its matrices in one array, which each new one overwrites. */
class OneAtATime extends Map<string, NamedArray> {
  readonly #room: Float32Array<ArrayBuffer>;

  constructor(all: NamedArrays) {
    super(all);
    this.#room = new Float32Array(Math.max(...[...all.values()].map(({ data }) => data.length)));
  }

  override get(name: string): NamedArray | undefined {
    const found = super.get(name);
    if (found === undefined || found.shape.length === 1) return found;
    this.#room.fill(NaN);
    this.#room.set(found.data);
    return { shape: found.shape, data: this.#room.subarray(0, found.data.length) };
  }
}

for (const name of FAMILIES) {
  Deno.test(`${name}: bases of any format need one matrix of the checkpoint at a time`, async () => {
    const { config, weights } = await checkpoint(name);
    for (const format of BASE_WEIGHTS) {
      using whole = new TinyFamily(engine, { config, weights }, format);
      using streamed = new TinyFamily(engine, { config, weights: new OneAtATime(weights) }, format);
      assertEquals(await logitsAt(streamed, BATCH), await logitsAt(whole, BATCH), format);
    }
  });
}

Deno.test("loading a packed base leaves the checkpoint and its fingerprint as they are", async () => {
  const { config, weights } = tinyModel();
  const before = await fingerprintOf(config, weights);
  using _model = new TinyFamily(engine, { config, weights }, "int4");
  assertEquals(await fingerprintOf(config, weights), before);
});
