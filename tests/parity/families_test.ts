import { type AdapterClass, Engine } from "@edgetuner/kernels";
import { embedTokens, LocalData, LocalHeads, logitsOf, runStep, Tape } from "@edgetuner/core";
import { assert, assertEquals } from "@std/assert";
import {
  FAMILIES,
  FAMILY_NAMES,
  type FamilyFixture,
  familyFolder,
  familyHeads,
  familyTensors,
  TinyFamily,
} from "../support/families.ts";
import { BATCH, LOSS, values } from "../support/tiny_model.ts";
import { assertClose, TOLERANCE, type Tolerance } from "../support/tolerance.ts";

// Made before any test, so that what an engine has pending belongs to none of them.
const engines: Record<AdapterClass, Engine> = {
  software: await Engine.create({ adapterClass: "software" }),
  hardware: await Engine.create({ adapterClass: "hardware" }),
};
const folders = new Map(
  await Promise.all(FAMILY_NAMES.map(async (name) => [name, await familyFolder(name)] as const)),
);

type Tensors = ReturnType<typeof familyTensors>;

const ALL_ROWS = Uint32Array.from(BATCH.tokens, (_, i) => i);
/** One device; and two that share a group of query heads where there are groups. */
const PARTITIONS = [[4], [1, 3]];

/** Head modules with the weights that a fixture starts with. */
function headsOf(
  model: TinyFamily,
  fixture: FamilyFixture,
  tensors: Tensors,
  counts: readonly number[],
): LocalHeads {
  const { lora, optimizer } = fixture;
  const devices = familyHeads(model, {
    lora: { ...lora, dropout: 0 },
    optimizer: { ...optimizer, warmupSteps: 0, schedule: "constant" },
    steps: 10,
    seed: 1,
  }, counts);
  for (const modules of devices) {
    const { layers, range } = modules.options;
    modules.load(
      Array.from(
        { length: layers },
        (_, l) =>
          Array.from({ length: range.count }, (_, i) =>
            lora.targets.map((target) => {
              const name = `initial.layer${l}.head${range.first + i}.${target}`;
              return { a: values(tensors, `${name}.A`), b: values(tensors, `${name}.B`) };
            })),
      ),
    );
  }
  return new LocalHeads(devices);
}

/** Compares what all head modules hold with the fixture's tensors of a prefix; pruned heads have no gradient there. */
async function compareModules(
  heads: LocalHeads,
  which: "weights" | "gradients",
  tensors: Tensors,
  prefix: string,
  tolerance: Tolerance,
): Promise<number> {
  let compared = 0;
  for (const modules of heads.devices) {
    const { range: { first }, lora: { targets } } = modules.options;
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

/** Logits of all places, with or without head modules. */
async function logitsOfBatch(
  { engine, layers, ends }: TinyFamily,
  heads: LocalHeads | null,
  mask: Uint8Array,
): Promise<Float32Array> {
  await heads?.beginStep({ step: 0, mode: "evaluate", mask });
  using tape = new Tape(engine, { training: false });
  const h = await layers.forward(
    tape,
    tape.variable(embedTokens(ends, BATCH), { needsGradient: false }),
    BATCH,
    heads,
  );
  using logits = logitsOf(ends, h.value, ALL_ROWS);
  return await logits.read();
}

/** dE, which no step computes: E is declared to need a gradient. */
async function embeddingGradient(
  { engine, layers, ends }: TinyFamily,
  heads: LocalHeads,
  mask: Uint8Array,
): Promise<Float32Array> {
  const data = new LocalData(ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
  const batch = (await data.next(0))!;
  await heads.beginStep({ step: 0, mode: "train", mask });
  using tape = new Tape(engine, { training: true });
  const embedding = tape.variable(batch.embedding, { needsGradient: true });
  const hidden = await layers.forward(tape, embedding, BATCH, heads);
  hidden.addGradient((await data.loss(0, hidden.value)).gradient!);
  await tape.backward();
  using gradient = embedding.takeGradient();
  return await gradient.read();
}

for (const adapter of ["software", "hardware"] as const) {
  const engine = engines[adapter];
  for (const [name, fixture] of Object.entries(FAMILIES.fixtures)) {
    const tensors = familyTensors(fixture.file);
    const test = (what: string, body: (model: TinyFamily) => Promise<void>) =>
      Deno.test(`${name} as PyTorch and PEFT have it (${adapter} kernels): ${what} [slow]`, async () => {
        const before = engine.stats.tensors;
        {
          using model = new TinyFamily(engine, folders.get(fixture.model)!);
          await body(model);
        }
        assertEquals(engine.stats.tensors, before, "tensors left behind");
      });

    test("the base model", async (model) => {
      assertEquals(model.layers.shape, {
        layers: 2,
        heads: 4,
        kvHeads: fixture.kvHeads,
        hidden: fixture.hidden,
        headSize: fixture.headSize,
      });
      const logits = await logitsOfBatch(model, null, new Uint8Array(8));
      assertClose(logits, values(tensors, "base.logits"), TOLERANCE.model, "logits");
      using heads = headsOf(model, fixture, tensors, [4]);
      const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "evaluate" }));
      const pruned = new Uint8Array(8).fill(1);
      const context = { engine, base: model.layers, heads, data };
      const { loss } = await runStep(context, 0, (await data.next(0))!, pruned);
      assertClose([loss!], [fixture.baseLoss], TOLERANCE.model, "loss with all heads pruned");
    });

    for (const variant of ["unpruned", "pruned"] as const) {
      const { headMask, loss } = fixture[variant];
      const mask = Uint8Array.from(headMask);
      for (const counts of PARTITIONS) {
        test(`${variant}, ${counts} heads: logits, loss and gradients`, async (model) => {
          using heads = headsOf(model, fixture, tensors, counts);
          const logits = await logitsOfBatch(model, heads, mask);
          assertClose(logits, values(tensors, `${variant}.logits`), TOLERANCE.model, "logits");
          const dE = await embeddingGradient(model, heads, mask);
          assertClose(dE, values(tensors, `${variant}.dE`), TOLERANCE.model, "dE");
          const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
          const context = { engine, base: model.layers, heads, data };
          const outcome = await runStep(context, 0, (await data.next(0))!, mask);
          assertClose([outcome.loss!], [loss], TOLERANCE.model, "loss");
          const prefix = `${variant}.gradient`;
          const compared = await compareModules(heads, "gradients", tensors, prefix, TOLERANCE.model);
          assertEquals(compared, mask.filter((z) => z === 0).length * 3 * 2, "gradients compared");
        });
      }
    }

    test("ten AdamW steps with changing head masks", async (model) => {
      using heads = headsOf(model, fixture, tensors, [1, 3]);
      const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
      const losses: number[] = [];
      for (const [step, mask] of fixture.steps.headMasks.entries()) {
        const context = { engine, base: model.layers, heads, data };
        const { loss } = await runStep(context, step, (await data.next(step))!, Uint8Array.from(mask));
        losses.push(loss!);
      }
      assertClose(losses, fixture.steps.stepLosses, TOLERANCE.steps, "losses");
      const compared = await compareModules(heads, "weights", tensors, "steps.final", TOLERANCE.steps);
      assertEquals(compared, 8 * 3 * 2, "weights compared");
    });
  }
}

Deno.test("LoRA moves the logits of every family", () => {
  for (const { file } of Object.values(FAMILIES.fixtures)) {
    const tensors = familyTensors(file);
    const [base, withLora] = ["base", "unpruned"].map((name) => values(tensors, `${name}.logits`)) as [
      Float32Array,
      Float32Array,
    ];
    const furthest = Math.max(...withLora.map((x, i) => Math.abs(x - base[i]!)));
    assert(furthest > 0.01, `${file}: by ${furthest} only`);
  }
});
