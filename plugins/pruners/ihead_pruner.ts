/**
 * iHeadPruner: importance from a trained predictor (Eq. 25), then the greedy rules (Eq. 29, Eq. 30, layer-wise
 * rule).
 *
 * L = layers, H = heads per layer, d = hidden size, K = history length.
 *
 * @module
 */

import {
  DEFAULT_PREDICTOR_SIZES,
  deviceWeights,
  initialPredictor,
  predictImportance,
  type Predictor,
  type PredictorTrainer,
  requirePredictorShape,
  type StepView,
  type TrackedStep,
  trackStep,
} from "@edgetuner/core";
import type { Pruner, PrunerContext, PrunerDecision, PrunerInput } from "@edgetuner/core/contracts";
import {
  decideGreedily,
  type GreedyPrunerOptions,
  type GreedySettings,
  greedySettings,
  observe,
  restAfter,
} from "./_greedy_rules.ts";

/** How a predictor is trained during the run. */
export interface OnlineTraining {
  /** Trains, such as `predictorTrainer(engine)`; the same request must give the same predictor. */
  readonly train: PredictorTrainer;
  /**
   * Steps, none of them pruned, that are observed before the predictor is trained for the first time; at
   * least 2 K + 4. Later on the last so many are trained on again.
   *
   * @default {100}
   */
  readonly steps?: number;
  /** Steps from one training to the next; `Infinity` = the first one is the only one. @default {100} */
  readonly refresh?: number;
}

/** Options of {@linkcode iHeadPruner}: those of the greedy rules, and where the predictor comes from. */
export interface IHeadPrunerOptions extends GreedyPrunerOptions {
  /** A predictor that was trained before, such as `loadPredictor` reads it. It, or `online`, is required. */
  readonly predictor?: Predictor;
  /** Trains a predictor during the run. */
  readonly online?: OnlineTraining;
  /** lambda: smoothing along the steps. With `predictor` it must be that of its training. @default {the predictor's, or 0.8} */
  readonly lambda?: number;
  /** K: steps that the predictor sees. With `predictor` it must be that of its training. @default {the predictor's, or 10} */
  readonly history?: number;
}

/** State of {@linkcode iHeadPruner}: plain data. */
export interface IHeadPrunerState {
  /** Steps that were observed, oldest first: the last K, or as many as online training needs. */
  readonly run: readonly TrackedStep[];
  /** What was known of the last step before it; its gradients come with the next call. */
  readonly pending: StepView | null;
  /** Steps in a row that each head has been pruned, [L * H]. */
  readonly rest: Uint32Array;
  /** The predictor of online training; `null` until there is one, and where it was given. */
  readonly trained: Predictor | null;
  /** Steps observed since it was trained. */
  readonly sinceTraining: number;
}

type Online = Required<OnlineTraining>;

function onlineOf(online: OnlineTraining | undefined, history: number): Online | null {
  if (online === undefined) return null;
  const { train, steps = 100, refresh = 100 } = online;
  if (typeof train !== "function") {
    throw new TypeError(
      `Cannot create the iHeadPruner as "online.train" must be a function: current type is ${typeof train}`,
    );
  }
  if (!Number.isSafeInteger(steps) || steps < 2 * history + 4) {
    throw new RangeError(
      `Cannot create the iHeadPruner as "online.steps" must be an integer of at least ${
        2 * history + 4
      } (twice the history and 4): current value is ${steps}`,
    );
  }
  if (refresh !== Infinity && (!Number.isSafeInteger(refresh) || refresh < 1)) {
    throw new RangeError(
      `Cannot create the iHeadPruner as "online.refresh" must be a positive integer or Infinity: current value is ${refresh}`,
    );
  }
  return { train, steps, refresh };
}

function settingsOf(options: IHeadPrunerOptions): GreedySettings {
  const { predictor, online, ...rules } = options;
  if ((predictor === undefined) === (online === undefined)) {
    throw new TypeError(
      `Cannot create the iHeadPruner as either "predictor" or "online" must be given: ${
        predictor === undefined ? "neither is" : "both are"
      }`,
    );
  }
  if (predictor === undefined) return greedySettings("iHead", rules);
  const { lambda, history } = predictor.config;
  for (const [name, trained] of [["lambda", lambda], ["history", history]] as const) {
    const asked = rules[name] ?? trained;
    if (asked !== trained) {
      throw new RangeError(
        `Cannot create the iHeadPruner as "${name}" must be that of the predictor's training, ${trained}: current value is ${asked}`,
      );
    }
  }
  return greedySettings("iHead", { ...rules, lambda, history });
}

/** Trains on what was observed, from the last predictor or from a new one. */
function trainOnline(
  { train }: Online,
  observed: Pick<Parameters<Online["train"]>[0], "run" | "baseNorm"> & { readonly last: Predictor | null },
  { layers, heads, seed }: PrunerContext,
  { history, lambda }: GreedySettings,
): Promise<Predictor> {
  const { run, baseNorm, last } = observed;
  const hidden = run.find((step) => step.embedding !== null)?.embedding?.length ?? 1;
  const config = { layers, heads, hidden, history, lambda, ...DEFAULT_PREDICTOR_SIZES };
  return train({ start: last ?? initialPredictor(config, seed), run, baseNorm, seed });
}

/**
 * A pruner that predicts how important each head will be in the step to come, and prunes greedily by it.
 *
 * In each step
 * 1. what the last step has shown is taken in as `greedyPruner` does: smoothed where seen, held and drifting by
 *    `recovery` where pruned, so that a head can come back;
 * 2. f_pred gives S_base from the last K maps, the embeddings of the last K steps (this one's included), and
 *    the norms of base and LoRA weights;
 * 3. Eq. 29, Eq. 30, the layer-wise rule and `maxRest` give the mask, as in `greedyPruner`.
 *
 * Every head is kept in the first `warmupSteps` steps and as long as there are no statistics. The scores are
 * S_comp. With `online`, every head is kept until `online.steps` steps were observed; then the predictor is
 * trained within that step, and again every `online.refresh` steps, on the heads that were seen.
 *
 * @category Pruners
 *
 * @example
 * ```ts
 * import { loadPredictor, predictorTrainer } from "@edgetuner/core";
 * import { Engine } from "@edgetuner/kernels";
 * import { iHeadPruner } from "@edgetuner/plugins";
 *
 * using engine = await Engine.create();
 * const predictor = await loadPredictor("cli/assets/demo_predictor");
 * const offline = iHeadPruner({ predictor, tau: 0.8 });
 * const online = iHeadPruner({ online: { train: predictorTrainer(engine), steps: 60 } });
 * console.log(offline.name, online.name);
 * ```
 *
 * @returns A pruner named `"ihead"` or `"ihead, online"`.
 * @throws {RangeError} If an option is out of range. `init` throws one if the predictor was trained for a model of
 * another shape; of another hidden size, the first `decide` does.
 * @throws {TypeError} If an option has the wrong type, or not exactly one of `predictor` and `online` is given.
 */
export function iHeadPruner(options: IHeadPrunerOptions): Pruner<IHeadPrunerState> {
  const settings = settingsOf(options);
  const { alpha, rho, beta, history, warmupSteps } = settings;
  const online = onlineOf(options.online, history);

  return {
    name: online === null ? "ihead" : "ihead, online",
    prunedFade: 0.9,
    needs: ["gradientNorm", "loraNorm", "baseNorm", "embeddingMean"],
    init({ layers, heads, headsPerDevice, capacities }: PrunerContext): IHeadPrunerState {
      deviceWeights({ headsPerDevice, capacities, alpha, rho, beta }); // fails early
      if (options.predictor !== undefined) requirePredictorShape(options.predictor, { layers, heads });
      const rest = new Uint32Array(layers * heads);
      return { run: [], pending: null, rest, trained: null, sinceTraining: 0 };
    },
    async decide(
      input: PrunerInput,
      before: IHeadPrunerState,
      context: PrunerContext,
    ): Promise<[PrunerDecision, IHeadPrunerState]> {
      const { layers, heads } = context;
      if (options.predictor !== undefined) {
        requirePredictorShape(options.predictor, { layers, heads, hidden: input.embeddingMean?.length });
      }
      const last = before.run.at(-1) ?? null;
      const shown = observe(input, last?.importance ?? null, context, settings);
      const now: StepView = {
        embedding: input.embeddingMean?.slice() ?? null,
        loraNorm: input.loraNorm?.slice() ?? null,
      };
      const step = shown === null
        ? []
        : [trackStep(last, { ...shown, ...before.pending ?? { embedding: null, loraNorm: null } })];
      const run = [...before.run, ...step].slice(-(online?.steps ?? history));
      let { trained, sinceTraining } = before;
      sinceTraining += step.length;
      if (online !== null && step.length > 0 && run.length === online.steps) {
        if (trained === null || sinceTraining >= online.refresh) {
          trained = await trainOnline(
            online,
            { run, baseNorm: input.baseNorm, last: trained },
            context,
            settings,
          );
          sinceTraining = 0;
        }
      }
      const state = { run, pending: now, rest: restAfter(before.rest, input), trained, sinceTraining };
      const predictor = options.predictor ?? trained;
      if (input.step < warmupSteps || run.length === 0 || predictor === null) {
        return [{ mask: new Uint8Array(layers * heads) }, state];
      }
      const sBase = predictImportance(predictor, run, now, input.baseNorm);
      return [await decideGreedily(sBase, state.rest, context, settings), state];
    },
  };
}
