/**
 * The mode `core` against PyTorch, as `tests/fixtures/make_core.py` writes it.
 */

import { type AdapterClass, Engine } from "@edgetuner/kernels";
import {
  embedTokens,
  HeadModules,
  type HeadProjections,
  LocalData,
  LocalHeads,
  logitsOf,
  type LoraSettings,
  runStep,
  Tape,
} from "@edgetuner/core";
import { assertEquals } from "@std/assert";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import { BATCH, fixture, LOSS, type ManifestLora, TinyGpt2, values } from "../support/tiny_model.ts";

/** What the fixture says beside its tensors. */
type CoreFixture = Omit<ManifestLora, "lora"> & {
  readonly lora: Pick<LoraSettings, "mode" | "targets" | "rank" | "alpha"> & { readonly shared: boolean };
};

const FIXTURES: Readonly<Record<string, CoreFixture>> = JSON.parse(
  Deno.readTextFileSync(new URL("../fixtures/parity/core.json", import.meta.url)),
);

const engines: Record<AdapterClass, Engine> = {
  software: await Engine.create({ adapterClass: "software" }),
  hardware: await Engine.create({ adapterClass: "hardware" }),
};

const ALL_ROWS = Uint32Array.from(BATCH.tokens, (_, i) => i);

/** Virtual devices with the cores and projections of a fixture. */
function headsOf(engine: Engine, { lora, optimizer, file }: CoreFixture, counts: readonly number[]) {
  const tensors = fixture(file);
  const { shared, mode, targets, rank, alpha } = lora;
  const projections: HeadProjections = {
    at({ layer, head, target }) {
      const name = `frozen.layer${layer}.head${head}.${target}`;
      return { a: values(tensors, `${name}.A`), b: values(tensors, `${name}.B`) };
    },
  };
  const settings: LoraSettings = {
    ...{ mode, targets, rank, alpha, dropout: 0 },
    projections: { from: "base", seed: 0, shared },
  };
  let first = 0;
  const devices = counts.map((count) => {
    const range = { first, count };
    first += count;
    const modules = new HeadModules(engine, {
      lora: settings,
      optimizer: { ...optimizer, warmupSteps: 0, schedule: "constant" },
      ...{ layers: 3, hidden: 48, heads: 4, range, seed: 1, steps: 10 },
    });
    modules.load(
      Array.from(
        { length: 3 },
        (_, layer) =>
          Array.from({ length: count }, (_, i) =>
            targets.map((target) => ({
              a: values(tensors, `initial.layer${layer}.head${range.first + i}.${target}.R`),
              b: new Float32Array(0),
            }))),
      ),
    );
    return modules;
  });
  return { tensors, heads: new LocalHeads(devices, ["gradientNorm"], null, { projections }) };
}

/** Compares what all cores hold with the fixture's tensors of a prefix; returns how many there were. */
async function compareCores(
  { heads, tensors }: ReturnType<typeof headsOf>,
  which: "weights" | "gradients",
  prefix: string,
  tolerance: typeof TOLERANCE.model | typeof TOLERANCE.steps,
): Promise<number> {
  let compared = 0;
  for (const modules of heads.devices) {
    const { range: { first }, lora: { targets } } = modules.options;
    for (const [layer, perHead] of (await modules[which]()).entries()) {
      for (const [i, perTarget] of perHead.entries()) {
        for (const [k, { a }] of perTarget.entries()) {
          const name = `${prefix}.layer${layer}.head${first + i}.${targets[k]}.R`;
          const expected = tensors.get(name);
          if (expected === undefined) continue;
          assertClose(a, expected.data, tolerance, name);
          compared++;
        }
      }
    }
  }
  return compared;
}

for (const adapter of ["software", "hardware"] as const) {
  const engine = engines[adapter];
  for (const [name, facts] of Object.entries(FIXTURES)) {
    for (const counts of [[4], [2, 1, 1]]) {
      const title = `parity with PyTorch (${adapter} kernels): ${name}, ${counts} heads`;

      Deno.test(`${title}: logits, loss, gradients of R, importance [slow]`, async () => {
        const before = engine.stats.tensors;
        for (const variant of ["unpruned", "pruned"] as const) {
          using model = new TinyGpt2(engine);
          const made = headsOf(engine, facts, counts);
          using heads = made.heads;
          const pass = facts[variant];
          const mask = Uint8Array.from(pass.headMask);
          await heads.beginStep({ step: 0, mode: "evaluate", mask });
          using tape = new Tape(engine, { training: false });
          const e = tape.variable(embedTokens(model.ends, BATCH), { needsGradient: false });
          const h = await model.layers.forward(tape, e, BATCH, heads);
          using logits = logitsOf(model.ends, h.value, ALL_ROWS);
          assertClose(
            await logits.read(),
            values(made.tensors, `${variant}.logits`),
            TOLERANCE.model,
            "logits",
          );
          const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
          const context = { engine, base: model.layers, heads, data };
          const outcome = await runStep(context, 0, (await data.next(0))!, mask);
          assertClose([outcome.loss!], [pass.loss], TOLERANCE.model, "loss");
          const compared = await compareCores(made, "gradients", `${variant}.gradient`, TOLERANCE.model);
          assertEquals(compared, mask.filter((z) => z === 0).length * facts.lora.targets.length);
          assertClose(outcome.statistics.gradientNorm!, pass.importance, TOLERANCE.model, "importance");
        }
        assertEquals(engine.stats.tensors, before, "tensors left behind");
      });

      Deno.test(`${title}: ten AdamW steps, with and without pruning [slow]`, async () => {
        for (const run of ["unprunedSteps", "alternatingSteps"] as const) {
          using model = new TinyGpt2(engine);
          const made = headsOf(engine, facts, counts);
          using heads = made.heads;
          const data = new LocalData(model.ends, LOSS, () => ({ batch: BATCH, mode: "train" }));
          const context = { engine, base: model.layers, heads, data };
          const losses: number[] = [];
          for (const [step, mask] of facts[run].headMasks.entries()) {
            const batch = (await data.next(step))!;
            losses.push((await runStep(context, step, batch, Uint8Array.from(mask))).loss!);
          }
          assertClose(losses, facts[run].stepLosses, TOLERANCE.steps, "losses");
          const compared = await compareCores(made, "weights", `${run}.final`, TOLERANCE.steps);
          assertEquals(compared, 12 * facts.lora.targets.length);
        }
      });
    }
  }
}
