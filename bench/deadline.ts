/**
 * Pruners at equal seconds or equal bytes a step: the pruner `deadline`, which weighs importance against what links
 * take, beside others whose best heads are taken while the same budget lasts, in virtual time. As a Markdown table.
 *
 * The others are told what no real run knows: what `plan` says that a mask takes.
 *
 * @module
 */

import { loadPredictor, type Pruner } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import {
  budgetPruner,
  deadlinePruner,
  gradientPruner,
  greedyPruner,
  iHeadPruner,
  noPruner,
} from "@edgetuner/plugins";
import { plan, TYPICAL_COMPUTE } from "@edgetuner/transport";
import { integer, runProgram, text } from "../cli/flags/flags.ts";
import { DEMO_PREDICTOR } from "../cli/flags/pruners.ts";
import { linkOf } from "../cli/flags/simulation_flags.ts";
import { TUNING_FLAGS, tuningSettings } from "../cli/flags/tuning_flags.ts";
import { loadGpu } from "../cli/flags/webgpu.ts";
import { baseWeightsOf } from "../cli/flags/weights_flag.ts";
import { writeReport } from "../cli/output/report.ts";
import { assetPath } from "../cli/process/places.ts";
import { OWN_CALL } from "../cli/process/invocation.ts";
import { type ComparisonOptions, type RunResult, SystemComparison } from "../cli/shared/compared_systems.ts";
import { RANDOM_SCORES } from "../cli/shared/comparison/systems.ts";
import { readFitted } from "../cli/shared/fitting.ts";
import { RUN_FLAGS } from "./_run_flags.ts";

const FLAGS = {
  ...TUNING_FLAGS,
  mode: { ...TUNING_FLAGS.mode, default: "slice" },
  steps: { ...TUNING_FLAGS.steps, default: 100 },
  links: text("LIST", "wifi-5,lte", "links to compare on"),
  shares: text("LIST", "0.7,0.5", "budgets, as shares of what the unpruned run takes"),
  unit: text("UNIT", "seconds", "what the budget is of", ["seconds", "bytes"]),
  warm: integer("N", 4, "unpruned steps of the others at the start", { min: 1 }),
  ...RUN_FLAGS,
};

const PROGRAM = {
  name: "bench_deadline.ts",
  about: "Pruners at equal seconds or bytes a step, on simulated links.",
  examples: ["deno run -A bench/deadline.ts --links lte --shares 0.5"],
};

/** Capacities of the devices. */
const CAPACITIES = [8, 5, 3];

async function main(): Promise<void> {
  const { flags } = await readFitted(PROGRAM, FLAGS, OWN_CALL);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const predictor = await loadPredictor(DEMO_PREDICTOR);
  const settings = tuningSettings(flags);
  const results: Record<string, unknown>[] = [];
  console.log(
    `${flags.steps} steps, mode ${flags.mode}, budgets of ${flags.unit}, --pruned-fade ${
      flags["pruned-fade"]
    }`,
  );
  console.log("| link | budget | pruner | s/step | of the budget | MB/step | heads | layers | loss |");
  console.log("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
  for (const name of flags.links.split(",")) {
    const link = await linkOf(name);
    const options: ComparisonOptions = {
      ...{ ...flags, link, settings, baseWeights: baseWeightsOf(flags), compute: TYPICAL_COMPUTE },
      ...{
        capacities: CAPACITIES,
        memory: null,
        prompts: 1,
        validBatches: flags["valid-batches"],
        smoothing: 0.1,
      },
      test: assetPath("restaurant/test.txt"),
    };
    using work = await SystemComparison.open(engine, options);
    const run = async (what: string, pruner: Pruner, budget: number | null): Promise<RunResult> => {
      const extras = { onStep: () => {}, texts: false };
      const result = await work.run({ kind: "split", pruner }, settings, extras);
      if (result.refused !== null) throw new Error(result.refused);
      const steady = result.steps.slice(flags.warm + 1);
      const mean = (of: (step: typeof steady[number]) => number) =>
        steady.reduce((sum, step) => sum + of(step), 0) / steady.length;
      const [ms, bytes] = [mean((s) => s.times.total), mean((s) => s.bytes)];
      const { layers, heads } = work.shape;
      const row = {
        ...{ link: name, budget, pruner: what, seconds: ms / 1000, bytes, loss: result.validLoss.after },
        heads: mean((s) => s.kept.reduce((a, b) => a + b, 0)) / (layers * heads),
        layers: mean((s) => s.kept.filter((n) => n > 0).length),
      };
      results.push(row);
      const used = budget === null
        ? ""
        : `${(100 * (flags.unit === "seconds" ? ms / 1000 : bytes) / budget).toFixed(0)} %`;
      console.log(
        `| ${name} | ${budget === null ? "" : budget.toPrecision(3)} | ${what} | ${
          row.seconds.toFixed(3)
        } | ${used} | ${(bytes / 1e6).toFixed(2)} | ${(100 * row.heads).toFixed(0)} % | ${
          row.layers.toFixed(1)
        } | ${row.loss.toFixed(3)} |`,
      );
      return result;
    };
    const all = await run("none", noPruner() as Pruner, null);
    const whole = flags.unit === "seconds" ? all.secondsPerStep : all.bytesPerStep;
    for (const share of flags.shares.split(",").map(Number)) {
      const budget = share * whole;
      const own = flags.unit === "seconds" ? { secondsPerStep: budget } : { bytesPerStep: budget };
      await run("deadline", deadlinePruner(own) as Pruner, budget);
      const cost = priceOf(work, options, flags.unit);
      for (
        const [what, pruner] of [
          ["iHeadPruner", iHeadPruner({ predictor, warmupSteps: flags.warm })],
          ["greedy", greedyPruner({ warmupSteps: flags.warm })],
          ["gradient", gradientPruner()],
          ["random", RANDOM_SCORES],
        ] as const
      ) {
        await run(
          what,
          budgetPruner({ pruner: pruner as Pruner, keep: share, cost, warmupSteps: flags.warm }),
          budget,
        );
      }
    }
  }
  await writeReport(flags.report, { results });
}

/** What a step with a mask takes, by the forecast; masks come again. */
function priceOf(work: SystemComparison, { link, batch, length, settings }: ComparisonOptions, unit: string) {
  const known = new Map<string, number>();
  return (mask: Uint8Array): number => {
    const key = mask.join("");
    let price = known.get(key);
    if (price === undefined) {
      const { msPerStep, frameBytes } = plan({
        model: { ...work.shape, vocabulary: work.model.config.vocab_size },
        ...{ batch, length, mask: mask.slice(), link, lora: settings.lora, statistics: 1, sharesLoss: true },
        devices: CAPACITIES.map((capacity) => ({ capacity })),
      });
      known.set(key, price = unit === "seconds" ? msPerStep : frameBytes);
    }
    return price;
  };
}

await runProgram(main);
