/**
 * Log-likelihoods against PyTorch's logits: the softmax of those in double precision is what they must be.
 */

import { type AdapterClass, Engine } from "@edgetuner/kernels";
import {
  CachedSession,
  type EncodedRequest,
  type GenerationModel,
  HeadModules,
  LocalHeads,
  logLikelihoods,
  type LoraSettings,
  shapeForDevices,
} from "@edgetuner/core";
import { assert, assertEquals } from "@std/assert";
import { FAMILIES, FAMILY_NAMES, familyFolder, familyTensors, TinyFamily } from "../support/families.ts";
import {
  BATCH,
  fixture,
  MANIFEST,
  type TinyBase,
  TinyGpt2,
  tinySettings,
  values,
} from "../support/tiny_model.ts";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";

// Made before any test, so that what an engine has pending belongs to none of them.
const engines: Record<AdapterClass, Engine> = {
  software: await Engine.create({ adapterClass: "software" }),
  hardware: await Engine.create({ adapterClass: "hardware" }),
};
const folders = new Map(
  await Promise.all(FAMILY_NAMES.map(async (name) => [name, await familyFolder(name)] as const)),
);

type Tensors = ReturnType<typeof fixture>;

interface Case {
  readonly lora: Omit<LoraSettings, "dropout">;
  readonly tensors: Tensors;
  readonly open: (engine: Engine) => TinyBase & Disposable;
}

const CASES: Record<string, Case> = {};
for (const name of ["gpt2_lora_slice", "gpt2_lora_full"] as const) {
  const { lora, file } = MANIFEST.fixtures[name];
  CASES[name] = { lora, tensors: fixture(file), open: (engine) => new TinyGpt2(engine) };
}
for (const [name, { lora, file, model }] of Object.entries(FAMILIES.fixtures)) {
  const open = (engine: Engine) => new TinyFamily(engine, folders.get(model)!);
  CASES[name] = { lora, tensors: familyTensors(file), open };
}

/** Head modules with the weights of a fixture. */
function headsOf({ engine, layers }: TinyBase, { lora, tensors }: Case): LocalHeads {
  const { shape } = layers;
  const modules = new HeadModules(engine, {
    ...tinySettings(lora.mode, 1),
    lora: { ...lora, dropout: 0 },
    ...shapeForDevices(shape),
    range: { first: 0, count: shape.heads },
  });
  modules.load(
    Array.from(
      { length: shape.layers },
      (_, l) =>
        Array.from({ length: shape.heads }, (_, h) =>
          lora.targets.map((target) => {
            const name = `initial.layer${l}.head${h}.${target}`;
            return { a: values(tensors, `${name}.A`), b: values(tensors, `${name}.B`) };
          })),
    ),
  );
  return new LocalHeads([modules]);
}

/** Both sequences of the fixtures cut at every place, with continuations of one to all tokens. */
const REQUESTS: (EncodedRequest & { readonly row: number })[] = [0, 1].flatMap((row) => {
  const tokens = [...BATCH.tokens.subarray(row * 13, (row + 1) * 13)];
  return Array.from({ length: 12 }, (_, i) => {
    const end = i % 3 === 0 ? 13 : Math.min(13, i + 2 + i % 3);
    return { row, context: tokens.slice(0, i + 1), continuation: tokens.slice(i + 1, end) };
  });
});

/** The slow way: softmax of logits [2 * 13, V] in double precision. */
function expectedFrom(logits: Float32Array): number[] {
  const vocabulary = logits.length / 26;
  return REQUESTS.map(({ row, context, continuation }) => {
    let sum = 0;
    continuation.forEach((token, i) => {
      const place = row * 13 + context.length + i - 1;
      const all = Array.from(logits.subarray(place * vocabulary, (place + 1) * vocabulary));
      const most = Math.max(...all);
      sum += all[token]! - most - Math.log(all.reduce((total, x) => total + Math.exp(x - most), 0));
    });
    return sum;
  });
}

for (const adapter of ["software", "hardware"] as const) {
  const engine = engines[adapter];
  for (const [name, fixture] of Object.entries(CASES)) {
    // GPUs' kernels under all families are held by families_test.ts; here by those that differ most.
    if (
      adapter === "hardware" && !/^(gpt2_lora_full|llama_grouped_slice|opt_full|gemma3_slice)$/.test(name)
    ) continue;
    Deno.test(`log-likelihoods of ${name} are those of PyTorch's logits (${adapter} kernels) [slow]`, async () => {
      const before = engine.stats.tensors;
      {
        using base = fixture.open(engine);
        using heads = headsOf(base, fixture);
        const { layers, ends } = base;
        const found: number[][] = [];
        for (const [tensor, model] of [["base", null], ["unpruned", heads]] as const) {
          const expected = expectedFrom(values(fixture.tensors, `${tensor}.logits`));
          const whole: GenerationModel = { engine, layers, ends, heads: model };
          const likelihoods = await logLikelihoods(whole, REQUESTS, { batch: 7 });
          assertClose(likelihoods, expected, TOLERANCE.model, tensor);
          using session = new CachedSession(whole);
          const oneByOne: number[] = [];
          for (const request of REQUESTS) oneByOne.push(await session.logLikelihood(request));
          assertClose(oneByOne, expected, TOLERANCE.model, `${tensor}, one by one`);
          found.push(expected);
        }
        assert(
          found[0]!.some((x, i) => Math.abs(x - found[1]![i]!) > 0.01),
          "the head modules change what is likely",
        );
      }
      assertEquals(engine.stats.tensors, before, "tensors left behind");
    });
  }
}
