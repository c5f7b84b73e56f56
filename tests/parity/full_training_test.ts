import { type AdapterClass, Engine } from "@edgetuner/kernels";
import { evaluateLoss, fullGradients, fullTrainingStep, sumLosses, TrainingError } from "@edgetuner/core";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import { BATCH, fixture, LOSS, MANIFEST, TinyGpt2, tinyModel, values } from "../support/tiny_model.ts";

const engines: Record<AdapterClass, Engine> = {
  software: await Engine.create({ adapterClass: "software" }),
  hardware: await Engine.create({ adapterClass: "hardware" }),
};
const fixtures = MANIFEST.fixtures.gpt2_full_training;
const tensors = fixture(fixtures.file);

for (const adapter of ["software", "hardware"] as const) {
  const engine = engines[adapter];
  const test = (name: string, body: (model: TinyGpt2) => Promise<void>) =>
    Deno.test(`training all parameters as PyTorch (${adapter} kernels): ${name} [slow]`, async () => {
      const before = engine.stats.tensors;
      {
        using model = new TinyGpt2(engine, tinyModel(), true);
        await body(model);
      }
      assertEquals(engine.stats.tensors, before, "tensors left behind");
    });

  test("loss and gradients", async (model) => {
    const losses = await fullGradients(model, BATCH, LOSS);
    const loss = sumLosses(await engine.read(losses));
    for (const tensor of losses) tensor.dispose();
    assertClose([loss], [fixtures.loss], TOLERANCE.model, "loss");
    const parameters = [...model.layers.parameters(), ...model.ends.parameters()];
    assertEquals(parameters.length, 3 * 12 + 4);
    for (const parameter of parameters) {
      const actual = await parameter.gradient!.read();
      assertClose(actual, values(tensors, `gradient.${parameter.name}`), TOLERANCE.model, parameter.name);
    }
  });

  test("gradients do not add up over calls", async (model) => {
    for (const t of await fullGradients(model, BATCH, LOSS)) t.dispose();
    const once = await model.ends.tokens.gradient!.read();
    for (const t of await fullGradients(model, BATCH, LOSS)) t.dispose();
    assertClose(await model.ends.tokens.gradient!.read(), once, TOLERANCE.model);
  });

  test("a loss or a norm that is not finite ends the training", async (model) => {
    const adamw = { rate: 1e30, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 0 };
    for (const clipNorm of [undefined, 1]) {
      await assertRejects(
        async () => {
          for (let i = 0; i < 3; i++) await fullTrainingStep(model, BATCH, { adamw, loss: LOSS, clipNorm });
        },
        TrainingError,
        "must be finite: one of them is NaN",
      );
    }
    await assertRejects(() => evaluateLoss(model, BATCH, LOSS), TrainingError, "one of them is NaN");
  });

  for (const run of ["steps", "clippedSteps"] as const) {
    test(`ten AdamW steps, ${run}`, async (model) => {
      const expected = fixtures[run];
      const { learningRate: rate, beta1, beta2, epsilon, weightDecay: decay } = fixtures.optimizer;
      const losses: number[] = [];
      const norms: (number | null)[] = [];
      for (let step = 0; step < 10; step++) {
        const result = await fullTrainingStep(model, BATCH, {
          adamw: { rate, beta1, beta2, epsilon, decay },
          loss: LOSS,
          clipNorm: expected.clipNorm ?? undefined,
        });
        losses.push(result.loss);
        norms.push(result.gradientNorm);
      }
      assertClose(losses, expected.stepLosses, TOLERANCE.steps, "losses");
      if (expected.clipNorm === null) assert(norms.every((n) => n === null));
      else assertClose(norms as number[], expected.gradientNorms, TOLERANCE.steps, "norms");
      assertClose(
        [await evaluateLoss(model, BATCH, LOSS)],
        [expected.finalLoss],
        TOLERANCE.steps,
        "final loss",
      );
    });
  }
}
