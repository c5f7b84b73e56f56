/**
 * What the data device has: texts and labels, embedding and head of the model, and which batch comes when.
 *
 * @module
 */

import {
  beginningWith,
  type BestLoss,
  chatTemplateOf,
  type DataSide,
  loadEmbeddingAndHead,
  requireSameRun,
  type RunState,
  sample,
  type SavedData,
  type Tokenizer,
  TrainingPlan,
} from "@edgetuner/core";
import type { Engine } from "@edgetuner/kernels";
import { type FlagValues, UsageError } from "../flags/flags.ts";
import { baseWeightsOf, type WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import type { JoinLog } from "../output/join_log.ts";
import {
  cutText,
  encodePrompts,
  endTokens,
  type Prompt,
  promptRoom,
  requirePrompts,
  textOf,
} from "./prompts.ts";
import {
  type AllCounts,
  beginOf,
  loadTrainingSet,
  readExamples,
  type TrainingDataOptions,
} from "./training_data.ts";
import { paddingSaved, type PLAN_FLAGS, planOptions } from "./training_plan.ts";
import { openTold } from "./opened_model.ts";

/** Most tokens of a sample. */
const SAMPLE_TOKENS = 64;

/** The flags of a data device. */
export type DeviceDataFlags =
  & FlagValues<typeof PLAN_FLAGS>
  & FlagValues<typeof WEIGHTS_FLAG>
  & Omit<TrainingDataOptions, "encoder">
  & Parameters<typeof planOptions>[0]
  & {
    readonly tokenizer: string;
    readonly data: string;
    readonly epochs: number;
    readonly samples: number;
    readonly "share-loss": boolean;
    readonly "no-share-validation": boolean;
  };

/** A prompt of the validation data, and what the model says after the last step. */
interface Sample {
  readonly prompt: string;
  readonly generated: string;
}

/** The data of a device in a run. */
export class DeviceData implements Disposable {
  /** What the run asks. */
  readonly side: DataSide;
  /** Which batch comes when: validation, all steps, validation. */
  readonly plan: TrainingPlan;
  /** What became of the lines of the files. */
  readonly counts: AllCounts;
  /** What the model says after the last step. */
  readonly samples: readonly Sample[];
  /** Fingerprint of the base model. */
  readonly fingerprint: string;

  readonly #begun: string;

  private constructor({ side, plan, counts, samples, begun }: {
    readonly side: DataSide;
    readonly plan: TrainingPlan;
    readonly counts: AllCounts;
    readonly samples: readonly Sample[];
    readonly begun: string;
  }) {
    this.#begun = begun;
    this.side = side;
    this.plan = plan;
    this.counts = counts;
    this.samples = samples;
    this.fingerprint = side.fingerprint;
  }

  /**
   * Loads the model's ends and the texts.
   *
   * @param resumed What the run goes on from, if it does.
   * @throws {UsageError} If sequences are longer than the model takes.
   */
  static async open(
    engine: Engine,
    flags: DeviceDataFlags,
    log: JoinLog,
    resumed: RunState | null,
  ): Promise<DeviceData> {
    const { begun, now } = beginOf(resumed?.data?.begun);
    const { model, tokenizer } = await openTold(flags.model, flags);
    const ends = loadEmbeddingAndHead(engine, model, { baseWeights: baseWeightsOf(flags) });
    const { positions } = ends.shape;
    if (flags.length > positions) {
      throw new UsageError(
        `Cannot use --length ${flags.length} as the model takes at most ${positions} tokens`,
      );
    }
    const load = (file: string) =>
      loadTrainingSet(file, { ...flags, encoder: tokenizer, now }, (line) => log.notice(line));
    const set = await load(flags.data);
    const valid = flags.valid === "" ? null : await load(flags.valid);
    const counts: AllCounts = { train: set.counts, valid: valid?.counts ?? null };
    log.emit({ type: "data", ...counts });
    const { epochs } = flags;
    const plan = await TrainingPlan.create({ set, valid, epochs, ...planOptions(flags) });
    const samples: Sample[] = [];
    const side: DataSide = {
      ends,
      loss: { labelSmoothing: flags.smoothing },
      fingerprint: model.fingerprint,
      shareLoss: flags["share-loss"],
      sharesValidation: !flags["no-share-validation"],
      next: (step) => plan.next(step),
      turn: (turn) => plan.turn(turn),
      examples: set.sequences.length,
      rewind: (step) => plan.rewind(step),
      ...(flags["keep-best"] ? { isBest: () => plan.isBest() } : {}),
      onLoss: (step, mode, loss) => tellLoss(plan, log, { step, mode, loss }),
      onAway: (heads) => log.away(heads),
      generate: await sampler({ ...flags, now }, { tokenizer, positions, samples, log }),
    };
    return new DeviceData({ side, plan, counts, samples, begun });
  }

  /** The best validation so far. */
  get best(): BestLoss | null {
    return this.plan.best;
  }

  /** What padding to like lengths has saved; `null` if nothing. */
  get padding(): ReturnType<typeof paddingSaved> {
    return paddingSaved(this.plan.padding);
  }

  /** Checks that a state is of the same data, and goes on from it. */
  resume(state: RunState): void {
    requireSameRun(state, { dataFingerprint: this.plan.fingerprint });
    this.plan.resume(state.data!.best);
  }

  /** What a state after so many steps notes of the data. */
  saved(step: number): SavedData {
    return {
      fingerprint: this.plan.fingerprint,
      position: this.plan.given ?? step,
      best: this.plan.bestBefore(step),
      begun: this.#begun,
    };
  }

  [Symbol.dispose](): void {
    this.side.ends[Symbol.dispose]();
  }
}

/** Takes in a loss, and the validation that it may end. */
function tellLoss(
  plan: TrainingPlan,
  log: JoinLog,
  { step, mode, loss }: { readonly step: number; readonly mode: "train" | "evaluate"; readonly loss: number },
): void {
  const { losses } = log;
  if (mode === "train") losses.train.push(loss);
  else (step === 0 ? losses.before : losses.after).push(loss);
  log.emit({ type: "loss", step, mode, loss });
  const validation = plan.onLoss(step, mode, loss);
  if (validation === null) return;
  losses.validations.push({ step, loss: validation });
  log.emit({ type: "validation", step, loss: validation });
}

/** Continues the first prompts of the validation data once the last step is done. */
async function sampler(
  flags: DeviceDataFlags & { readonly now: Date },
  { tokenizer, positions, samples, log }: {
    readonly tokenizer: Tokenizer;
    readonly positions: number;
    readonly samples: Sample[];
    readonly log: JoinLog;
  },
): Promise<NonNullable<DataSide["generate"]>> {
  const room = promptRoom(positions, SAMPLE_TOKENS);
  const prompts = flags.samples === 0 ? [] : await openPrompts(flags, tokenizer, room, log);
  const stops = endTokens(tokenizer, await chatTemplateOf(flags.model, flags.tokenizer, { now: flags.now }));
  return async (session) => {
    // Models with very few positions have no room for more than half of them.
    const maxNewTokens = Math.min(SAMPLE_TOKENS, positions - room);
    for (const { tokens: given, text: prompt, lead = "" } of prompts) {
      const begin = beginningWith(lead, tokenizer, given);
      const tokens = await sample(session, given, { ...begin, maxNewTokens, endTokens: stops });
      samples.push({ prompt, generated: textOf(tokenizer, tokens, stops) });
    }
  };
}

/** The first prompts of the validation data. */
async function openPrompts(
  flags: DeviceDataFlags & { readonly now: Date },
  tokenizer: Tokenizer,
  room: number,
  log: JoinLog,
): Promise<readonly Prompt[]> {
  // What is left out was told when the data was loaded.
  const read = await readExamples(flags.valid, flags, () => {});
  requirePrompts(flags.valid, read.examples);
  const choice = { count: flags.samples, first: 0, distinct: false };
  const { prompts, counts } = encodePrompts(read, tokenizer, choice, room);
  const cut = cutText(flags.valid, counts, room);
  if (cut !== null) log.notice(cut);
  return prompts;
}
