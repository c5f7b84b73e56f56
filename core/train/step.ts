/**
 * One fine-tuning step, wherever heads and data are.
 *
 * @module
 */

import type { Engine, Tensor } from "@edgetuner/kernels";
import { type MicroBatch, splitBatch, WHOLE_STEP } from "../contracts/micro_batches.ts";
import type { BaseLayers } from "../model/base.ts";
import type {
  DataPort,
  EmbeddedBatch,
  HeadMode,
  HeadPort,
  HeadStatistics,
  LayerHeads,
} from "../contracts/ports.ts";
import { Tape } from "../model/tape.ts";
import { requireFiniteLoss } from "../lora/finite.ts";

/** What a step works on. */
export interface StepContext {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** The base model's layers. */
  readonly base: BaseLayers;
  /** Where the head modules live. */
  readonly heads: HeadPort;
  /** Where embedding, labels and loss live. */
  readonly data: DataPort;
  /** Parts that the batch is split into, by sequences. @default {1} */
  readonly microBatches?: number;
  /**
   * Asked before each layer: if it returns true the step ends with an `AbortError`. The heads stay as they were
   * before the step, ready to be saved; no other step may follow.
   */
  readonly shouldStop?: (() => boolean) | undefined;
}

/** What came of a step. */
export interface StepOutcome {
  /** The loss, if the data device shares it. */
  readonly loss: number | null;
  /** In evaluation how many tokens the loss is the mean of, where that is known. */
  readonly counted?: number | undefined;
  /** Statistics of a training step; empty in evaluation. */
  readonly statistics: HeadStatistics;
  /** B, sequences of the step, all parts together. */
  readonly batch: number;
  /** Tokens of the step. */
  readonly tokens: number;
  /** Head mask of the step where it is another one than was decided: heads were away. @default {as decided} */
  readonly mask?: Uint8Array | undefined;
  /** Heads of every layer whose devices were away. @default {none} */
  readonly away?: readonly number[] | undefined;
}

/**
 * Runs the layers forward on an embedded batch, asks the data side for the loss, and in training
 * goes back and updates the kept heads. Disposes the batch's embedding.
 *
 * With micro-batches layers and loss run for each of them on its own, so that one computes while another
 * one waits for its heads or its loss; what they give is that of the whole batch.
 *
 * A training step may come in several parts (`EmbeddedBatch.part`): they are asked for and computed one
 * after the other, so that memory holds one of them, and the heads are updated after the last.
 *
 * @param context Base model and ports.
 * @param step Step number.
 * @param batch The embedded batch or its first part, from `DataPort.next`.
 * @param mask Head mask z, [L * H], 1 = pruned.
 * @throws {TrainingError} If the loss or the norm of the gradients is not finite. The heads stay as they were.
 * @throws {DOMException} An `AbortError` if `context.shouldStop` says so.
 */
export async function runStep(
  context: StepContext,
  step: number,
  batch: EmbeddedBatch,
  mask: Uint8Array,
): Promise<StepOutcome> {
  let [sequences, tokens] = [0, 0];
  for (let current = batch;;) {
    const { index, count } = current.accumulation ?? WHOLE_STEP;
    sequences += current.batch;
    tokens += current.batch * current.length;
    const outcome = await pass(context, current, { step, mask, mode: batch.mode });
    if (index + 1 === count) return { ...outcome, batch: sequences, tokens };
    const next = await context.data.next(step);
    const accumulation = next?.accumulation;
    if (next === null || accumulation?.index !== index + 1 || accumulation.count !== count) {
      next?.embedding.dispose();
      throw new TypeError(
        `Cannot go on with step ${step} as part ${index + 1} of ${count} must come next: current value is ${
          JSON.stringify(accumulation ?? null)
        }`,
      );
    }
    current = next;
  }
}

/**
 * G of a training step as it is with no head pruned, before the step itself: an extra forward and
 * backward pass on the same batch, with the same dropout, that changes no weights, moments or counts
 * of updates. The batch's embedding is left as it is.
 *
 * @param context Base model and ports.
 * @param step Step number.
 * @param batch The embedded batch, from `DataPort.next`.
 * @returns `gradientNorm`, [L * H].
 * @throws {RangeError} If the batch is only a part of the step's.
 */
export async function probeStep(
  context: StepContext,
  step: number,
  batch: EmbeddedBatch,
): Promise<Float32Array> {
  const { engine, base } = context;
  const { count } = batch.accumulation ?? WHOLE_STEP;
  if (count !== 1) {
    throw new RangeError(
      `Cannot probe step ${step} as its batch must be computed as a whole: current number of parts is ${count}`,
    );
  }
  const { rows, columns } = batch.embedding;
  const embedding = engine.tensor(rows, columns, "embedding of a probe");
  engine.copy(batch.embedding, embedding);
  const mask = new Uint8Array(base.shape.layers * base.shape.heads);
  const { statistics } = await pass(context, { ...batch, embedding }, { step, mask, mode: "probe" });
  return statistics.gradientNorm!;
}

async function pass(
  context: StepContext,
  batch: EmbeddedBatch,
  { step, mask, mode }: { readonly step: number; readonly mask: Uint8Array; readonly mode: HeadMode },
): Promise<Pick<StepOutcome, "loss" | "counted" | "statistics">> {
  const { engine, base, data } = context;
  const heads = context.shouldStop === undefined
    ? context.heads
    : stoppable(context.heads, context.shouldStop);
  const { length, accumulation = WHOLE_STEP } = batch;
  const parts = splitBatch(batch, context.microBatches ?? 1);
  using stack = new DisposableStack();
  const flows = parts.map((part) => {
    const tape = stack.use(new Tape(engine, { training: mode !== "evaluate" }));
    // Nothing trainable lies below layer 0, so E needs no gradient.
    return { part, tape, embedding: tape.variable(rowsOf(batch.embedding, part), { needsGradient: false }) };
  });
  if (parts.length > 1) batch.embedding.dispose();
  await heads.beginStep({ step, mode, mask, microBatches: parts, accumulation });
  const results = await together(
    engine,
    flows.map(({ part, tape, embedding }) => async () => {
      const shape = { batch: part.batch, length };
      const layerHeads = parts.length === 1 ? heads : headsOf(heads, part);
      const hidden = await base.forward(tape, embedding, shape, layerHeads);
      const result = await data.loss(step, hidden.value, {
        probe: mode === "probe",
        microBatch: part,
      });
      const { gradient } = result;
      if (gradient === null) return result;
      if (hidden.needsGradient) {
        hidden.addGradient(gradient);
        await tape.backward();
      } else {
        gradient.dispose(); // every head of every layer is pruned: there is nothing to learn
      }
      return result;
    }),
  );
  const { loss = null, counted } = results.find((result) => result.loss !== null) ?? {};
  // Of data sides of anyone's own, too: the heads are not updated with what comes of such a loss.
  if (loss !== null) requireFiniteLoss(step, loss, mode === "evaluate" ? "evaluate" : "train");
  if (mode === "evaluate") return { loss, counted, statistics: {} };
  const last = accumulation.index + 1 === accumulation.count;
  return { loss, statistics: last ? await heads.endStep() : {} };
}

/** Head modules that end a step where they are asked for a layer. */
function stoppable(heads: HeadPort, shouldStop: () => boolean): HeadPort {
  const layers = (own: LayerHeads): LayerHeads => {
    const check = () => {
      if (shouldStop()) throw new DOMException("the step was stopped", "AbortError");
    };
    return {
      forward(layer, x) {
        check();
        return own.forward(layer, x);
      },
      backward(layer, dqkv, options) {
        check();
        return own.backward(layer, dqkv, options);
      },
    };
  };
  return {
    ...layers(heads),
    beginStep: (step) => heads.beginStep(step),
    endStep: () => heads.endStep(),
    ...(heads.microBatch === undefined ? {} : { microBatch: (part) => layers(heads.microBatch!(part)) }),
  };
}

function headsOf(heads: HeadPort, part: MicroBatch): LayerHeads {
  if (heads.microBatch === undefined) {
    throw new TypeError("Cannot split the batch: the head modules do not take micro-batches");
  }
  return heads.microBatch(part);
}

/** A part's rows of a whole batch's tensor: a copy, or the tensor itself if the part is all of it. */
function rowsOf(whole: Tensor, { rows, firstRow }: MicroBatch): Tensor {
  if (rows === whole.rows) return whole;
  const part = whole.engine.tensor(rows, whole.columns, `${whole.label}, rows from ${firstRow}`);
  whole.engine.copyRows(whole, part, { fromRow: firstRow });
  return part;
}

/**
 * Runs tasks side by side and waits until all have ended, also if one fails: they share tensors.
 *
 * @throws The error that came first.
 */
async function together<T>(engine: Engine, tasks: readonly (() => Promise<T>)[]): Promise<T[]> {
  if (tasks.length === 1) return [await tasks[0]!()];
  const errors: unknown[] = [];
  const running: Promise<T | undefined>[] = [];
  for (const task of tasks) {
    if (errors.length > 0) break;
    const guarded = async () => await task();
    running.push(guarded().catch((error) => void errors.push(error)));
    // What a task has to send leaves before the next one takes the processor.
    await engine.yieldToEventLoop();
  }
  const results = await Promise.all(running);
  if (errors.length > 0) throw errors[0];
  return results as T[];
}
