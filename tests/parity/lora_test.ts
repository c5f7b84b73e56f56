import { type AdapterClass, Engine } from "@edgetuner/kernels";
import {
  embedTokens,
  HeadModules,
  LocalData,
  LocalHeads,
  logitsOf,
  type LoraTarget,
  runStep,
  Tape,
} from "@edgetuner/core";
import { assert, assertEquals } from "@std/assert";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import {
  BATCH,
  fixture,
  LOSS,
  MANIFEST,
  type ManifestLora,
  TinyGpt2,
  type TinyModel,
  tinyModel,
  values,
} from "../support/tiny_model.ts";

// Made before any test, so that what an engine has pending belongs to none of them.
const engines: Record<AdapterClass, Engine> = {
  software: await Engine.create({ adapterClass: "software" }),
  hardware: await Engine.create({ adapterClass: "hardware" }),
};

type Tensors = ReturnType<typeof fixture>;

const ALL_ROWS = Uint32Array.from(BATCH.tokens, (_, i) => i);
const PARTITIONS: readonly (readonly number[])[] = [[4], [2, 1, 1]];

/** Head modules of virtual devices with the weights that a fixture starts with. */
function headsOf(
  engine: Engine,
  model: TinyModel,
  tensors: Tensors,
  { lora, optimizer }: Pick<ManifestLora, "lora"> & Partial<Pick<ManifestLora, "optimizer">>,
  counts: readonly number[],
): LocalHeads {
  const { n_layer: layers, n_embd: hidden, n_head: heads } = model.config;
  let first = 0;
  const devices = counts.map((count) => {
    const range = { first, count };
    first += count;
    const modules = new HeadModules(engine, {
      lora: { ...lora, dropout: 0 },
      optimizer: {
        learningRate: 0.01,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weightDecay: 0.01,
        ...optimizer,
        warmupSteps: 0,
        schedule: "constant",
      },
      layers,
      hidden,
      heads,
      range,
      seed: 1,
      steps: 10,
    });
    modules.load(
      Array.from(
        { length: layers },
        (_, l) =>
          Array.from({ length: count }, (_, i) =>
            lora.targets.map((target) => {
              const name = `initial.layer${l}.head${range.first + i}.${target}`;
              return { a: values(tensors, `${name}.A`), b: values(tensors, `${name}.B`) };
            })),
      ),
    );
    return modules;
  });
  return new LocalHeads(devices, ["gradientNorm"]);
}

/** Compares what all head modules hold with the fixture's tensors of a prefix; pruned heads have none. */
async function compareModules(
  heads: LocalHeads,
  which: "weights" | "gradients",
  tensors: Tensors,
  prefix: string,
  targets: readonly LoraTarget[],
  tolerance: typeof TOLERANCE.model | typeof TOLERANCE.steps,
): Promise<number> {
  let compared = 0;
  for (const modules of heads.devices) {
    const { first } = modules.options.range;
    (await modules[which]()).forEach((perHead, l) =>
      perHead.forEach((perTarget, i) =>
        perTarget.forEach(({ a, b }, k) => {
          for (const [matrix, actual] of [["A", a], ["B", b]] as const) {
            const name = `${prefix}.layer${l}.head${first + i}.${targets[k]}.${matrix}`;
            const expected = tensors.get(name);
            if (expected === undefined) continue;
            assertClose(actual, expected.data, tolerance, name);
            compared++;
          }
        })
      )
    );
  }
  return compared;
}

/** Logits of every place and h_L of the evaluation pass. */
async function evaluate(
  { engine, layers, ends }: TinyGpt2,
  heads: LocalHeads | null,
  mask: Uint8Array,
): Promise<
  { readonly logits: Float32Array; readonly hidden: Float32Array; readonly embedding: Float32Array }
> {
  await heads?.beginStep({ step: 0, mode: "evaluate", mask });
  using tape = new Tape(engine, { training: false });
  const embedding = tape.variable(embedTokens(ends, BATCH), { needsGradient: false });
  const h = await layers.forward(tape, embedding, BATCH, heads);
  using logits = logitsOf(ends, h.value, ALL_ROWS);
  return {
    logits: await logits.read(),
    hidden: await h.value.read(),
    embedding: await embedding.value.read(),
  };
}

/**
 * dE and dh_L of a training pass. A step never computes dE, as nothing trainable lies below the
 * first layer; here E is declared to need a gradient, and the base path gives it.
 */
async function boundaryGradients(
  { engine, layers, ends }: TinyGpt2,
  heads: LocalHeads,
  mask: Uint8Array,
): Promise<{ readonly dEmbedding: Float32Array; readonly dHidden: Float32Array }> {
  const data = new LocalData(ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
  const batch = (await data.next(0))!;
  await heads.beginStep({ step: 0, mode: "train", mask });
  using tape = new Tape(engine, { training: true });
  const embedding = tape.variable(batch.embedding, { needsGradient: true });
  const hidden = await layers.forward(tape, embedding, BATCH, heads);
  const { gradient } = await data.loss(0, hidden.value);
  const dHidden = await gradient!.read();
  hidden.addGradient(gradient!);
  await tape.backward();
  using dEmbedding = embedding.takeGradient();
  return { dEmbedding: await dEmbedding.read(), dHidden };
}

for (const adapter of ["software", "hardware"] as const) {
  const engine = engines[adapter];
  const test = (name: string, body: () => Promise<void>) =>
    Deno.test(`parity with PyTorch (${adapter} kernels): ${name} [slow]`, async () => {
      const before = engine.stats.tensors;
      await body();
      assertEquals(engine.stats.tensors, before, "tensors left behind");
    });

  for (const name of ["gpt2_lora_slice", "gpt2_lora_full"] as const) {
    const fixtures = MANIFEST.fixtures[name];
    const { targets } = fixtures.lora;
    const tensors = fixture(fixtures.file);

    for (const variant of ["unpruned", "pruned"] as const) {
      const pass = fixtures[variant];
      const mask = Uint8Array.from(pass.headMask);

      for (const counts of PARTITIONS) {
        test(`${name}, ${variant}, ${counts} heads: loss, gradients, importance`, async () => {
          using model = new TinyGpt2(engine);
          using heads = headsOf(engine, model.model, tensors, fixtures, counts);
          const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
          const batch = await data.next(0);
          const outcome = await runStep({ engine, base: model.layers, heads, data }, 0, batch!, mask);
          assertClose([outcome.loss!], [pass.loss], TOLERANCE.model, "loss");
          const compared = await compareModules(
            heads,
            "gradients",
            tensors,
            `${variant}.gradient`,
            targets,
            TOLERANCE.model,
          );
          assertEquals(
            compared,
            mask.filter((z) => z === 0).length * targets.length * 2,
            "gradients compared",
          );
          assertClose(outcome.statistics.gradientNorm!, pass.importance, TOLERANCE.model, "importance");
        });
      }

      test(`${name}, ${variant}: E, h_L, logits, dh_L and dE`, async () => {
        using model = new TinyGpt2(engine);
        using heads = headsOf(engine, model.model, tensors, fixtures, [2, 1, 1]);
        const { logits, hidden, embedding } = await evaluate(model, heads, mask);
        assertClose(embedding, values(tensors, `${variant}.E`), TOLERANCE.model, "E");
        assertClose(hidden, values(tensors, `${variant}.hL`), TOLERANCE.model, "h_L");
        assertClose(logits, values(tensors, `${variant}.logits`), TOLERANCE.model, "logits");
        const { dEmbedding, dHidden } = await boundaryGradients(model, heads, mask);
        assertClose(dHidden, values(tensors, `${variant}.dhL`), TOLERANCE.model, "dh_L");
        assertClose(dEmbedding, values(tensors, `${variant}.dE`), TOLERANCE.model, "dE");
      });
    }

    test(`${name}: the base model without LoRA, and that LoRA and pruning change it`, async () => {
      using model = new TinyGpt2(engine);
      using heads = headsOf(engine, model.model, tensors, fixtures, [4]);
      const base = await evaluate(model, null, new Uint8Array(12));
      assertClose(base.logits, values(tensors, "base.logits"), TOLERANCE.model, "base logits");
      const allPruned = await evaluate(model, heads, new Uint8Array(12).fill(1));
      assertEquals(allPruned.logits, base.logits, "logits with all heads pruned");
      for (const variant of ["unpruned", "pruned"] as const) {
        const withLora = await evaluate(model, heads, Uint8Array.from(fixtures[variant].headMask));
        const furthest = Math.max(...withLora.logits.map((x, i) => Math.abs(x - base.logits[i]!)));
        assert(furthest > 0.01, `LoRA, ${variant}, moves logits by ${furthest} only`);
      }
    });

    for (const run of ["unprunedSteps", "alternatingSteps"] as const) {
      for (const counts of PARTITIONS) {
        test(`${name}, ${run}, ${counts} heads: ten AdamW steps`, async () => {
          const expected = fixtures[run];
          using model = new TinyGpt2(engine);
          using heads = headsOf(engine, model.model, tensors, fixtures, counts);
          let mode: "train" | "evaluate" = "train";
          const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode }));
          const context = { engine, base: model.layers, heads, data };
          const losses: number[] = [];
          for (const [step, mask] of expected.headMasks.entries()) {
            const batch = await data.next(step);
            losses.push((await runStep(context, step, batch!, Uint8Array.from(mask))).loss!);
          }
          assertClose(losses, expected.stepLosses, TOLERANCE.steps, "losses");
          const compared = await compareModules(
            heads,
            "weights",
            tensors,
            `${run}.final`,
            targets,
            TOLERANCE.steps,
          );
          assertEquals(compared, 12 * targets.length * 2, "weights compared");
          mode = "evaluate";
          const batch = await data.next(10);
          const final = await runStep(context, 10, batch!, new Uint8Array(12));
          assertClose([final.loss!], [expected.finalLoss], TOLERANCE.steps, "final loss");
          assertEquals(final.statistics, {});
        });
      }
    }
  }

  test("one head per layer, full mode, as PEFT has it: logits, loss, gradients", async () => {
    const fixtures = MANIFEST.fixtures.peft_full_one_group;
    const tensors = fixture(fixtures.file);
    using model = new TinyGpt2(engine, tinyModel("gpt2_one_head"));
    using heads = headsOf(engine, model.model, tensors, fixtures, [1]);
    const mask = new Uint8Array(2);
    const { logits, hidden } = await evaluate(model, heads, mask);
    assertClose(logits, values(tensors, "logits"), TOLERANCE.model, "logits");
    assertClose(hidden, values(tensors, "hL"), TOLERANCE.model, "h_L");
    const { dEmbedding, dHidden } = await boundaryGradients(model, heads, mask);
    assertClose(dHidden, values(tensors, "dhL"), TOLERANCE.model, "dh_L");
    assertClose(dEmbedding, values(tensors, "dE"), TOLERANCE.model, "dE");
    const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
    const batch = await data.next(0);
    const outcome = await runStep({ engine, base: model.layers, heads, data }, 0, batch!, mask);
    assertClose([outcome.loss!], [fixtures.loss], TOLERANCE.model, "loss");
    const compared = await compareModules(
      heads,
      "gradients",
      tensors,
      "gradient",
      fixtures.lora.targets,
      TOLERANCE.model,
    );
    assertEquals(compared, 2 * 3 * 2, "gradients compared");
  });
}
