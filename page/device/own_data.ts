/**
 * The texts of a device with data: they become batches here, and never leave it.
 *
 * @module
 */

import type { DataSide, RunState, SavedData } from "@edgetuner/core/device_more";
import {
  ExampleEncoder,
  parseExamples,
  parsePairs,
  requireSameRun,
  type SequenceSet,
  type Tokenizer,
  TrainingPlan,
} from "@edgetuner/core/device_more";
import type { ChosenData } from "./messages.ts";
import type { OwnModel } from "./model_data.ts";
import { CannotTakePart } from "./usable.ts";

/** A data side, with what its states note. */
export interface OwnData {
  readonly side: DataSide;
  readonly plan: TrainingPlan;
  /** What a state after so many steps notes of the data. */
  saved(step: number): SavedData;
  /** Checks that a state is of the same data. */
  resume(state: RunState): void;
}

/**
 * Makes the data side of a file.
 *
 * @param chosen The texts.
 * @param model What the device has of the model.
 * @param onLoss Called with each loss.
 * @throws {CannotTakePart} If the texts are none, or longer than the model takes.
 */
export async function openOwnData(
  chosen: ChosenData,
  { ends, tokenizer, fingerprint }: OwnModel,
  onLoss: (step: number, mode: "train" | "evaluate", loss: number) => void,
): Promise<OwnData> {
  const { positions } = ends.shape;
  if (chosen.length > positions) {
    throw new CannotTakePart(
      `The model takes at most ${positions} tokens at a time.`,
      `Choose at most ${positions} tokens of a sequence.`,
    );
  }
  const set = sequencesOf(chosen, tokenizer);
  const { batch, seed } = chosen;
  const plan = await TrainingPlan.create({ set, batch, seed, smoothing: 0 });
  const side: DataSide = {
    ends,
    fingerprint,
    loss: { labelSmoothing: 0 },
    shareLoss: chosen.sharesLoss,
    next: (step) => plan.next(step),
    rewind: (step) => plan.rewind(step),
    onLoss(step, mode, loss) {
      plan.onLoss(step, mode, loss);
      onLoss(step, mode, loss);
    },
  };
  return {
    side,
    plan,
    saved: (step) => ({ fingerprint: plan.fingerprint, position: step, best: plan.bestBefore(step) }),
    resume(state) {
      requireSameRun(state, { dataFingerprint: plan.fingerprint });
      plan.resume(state.data!.best);
    },
  };
}

/** Sequences of a text: JSON lines, pairs as `prompt||completion`, or plain text that is cut in pieces. */
function sequencesOf({ name, text, length }: ChosenData, tokenizer: Tokenizer): SequenceSet {
  const start = text.trimStart();
  const encoder = new ExampleEncoder(tokenizer, { length });
  try {
    if (start.startsWith("{")) { for (const example of parseExamples(text, { name })) encoder.add(example); }
    else if (start.slice(0, 65_536).includes("||")) {
      for (const pair of parsePairs(text, { name })) encoder.add(pair);
    } else encoder.pack(text);
    return encoder.finish();
  } catch (error) {
    throw new CannotTakePart(
      (error as Error).message,
      "A file is plain text, or has a line an example: prompt||completion, or JSON with prompt and completion, or text.",
    );
  }
}
