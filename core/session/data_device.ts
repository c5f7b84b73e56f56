/**
 * The data side of a device, as it takes part in the steps of a run: it hands batches out and answers the last hidden
 * states with the gradients of their losses.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { RunClock } from "../contracts/clock.ts";
import { ProtocolError } from "../contracts/errors.ts";
import { splitBatch } from "../contracts/micro_batches.ts";
import type { StepMode } from "../contracts/ports.ts";
import type { TokenSession } from "../generation/cached_session.ts";
import { requireFiniteLoss } from "../lora/finite.ts";
import type { EmbeddingAndHead } from "../model/base.ts";
import {
  embedTokens,
  type LossSettings,
  modelLoss,
  partOfBatch,
  sumLosses,
  type TokenBatch,
} from "../model/loss.ts";
import { embeddingTensors } from "../protocol/embedding_tensors.ts";
import type { Frame, FrameOf } from "../protocol/frame.ts";
import { describePass, type SplitShape } from "../protocol/pass.ts";
import type { Peer } from "../protocol/peer.ts";
import { AnswerWatch } from "../protocol/took.ts";
import { type AccumulatedBatch, accumulationSteps } from "../train/local_data.ts";
import { type DataPart, type DataStep, ownParts, OwnValidation, takeMicroBatch } from "./_data_parts.ts";
import { RemoteSession } from "./remote_session.ts";
import { type RunProgress, takeEnd } from "./run_end.ts";
import type { SaveHooks } from "../train/saving.ts";

/** What the data device brings along. Nothing of it but E, dh_L and, if shared, the loss leaves the device. */
export interface DataSide {
  /** Embedding, final norm and LM head. */
  readonly ends: EmbeddingAndHead;
  /** Settings of the loss in training; evaluation has no label smoothing. */
  readonly loss: LossSettings;
  /** Fingerprint of the checkpoint; the edge server's must be the same. */
  readonly fingerprint: string;
  /** Tell the edge server the loss of each step. @default {false} */
  readonly shareLoss?: boolean;
  /**
   * Where several people's data is validated together: tell the edge server the mean loss of the own validation data,
   * one number each time. Without it the figure of all is without this owner.
   *
   * @default {true}
   */
  readonly sharesValidation?: boolean;
  /**
   * The next batch. Of a training step it is the whole batch, also where it is split (`RunSettings.accumulate`).
   *
   * @param step Training steps done so far; in the first call those of the state that the run goes on from.
   * @returns `null` to end the run.
   */
  next(step: number): { readonly batch: TokenBatch; readonly mode: StepMode } | null;
  /**
   * The batch of a turn, where several people's data takes turns: `next` is not asked then.
   *
   * @returns `null` if there is none: the run goes on with other owners' data.
   */
  turn?(turn: DataTurn): TokenBatch | null;
  /** Training examples: turns may be shared out by them. */
  readonly examples?: number;
  /** The run goes on after fewer training steps: what came after them does not count. Where it is missing, it cannot. */
  rewind?(step: number): void;
  /**
   * Asked after each `next`: true if the head modules, as they are before what `next` returned, are the best
   * so far by the validation that has just ended. All devices are told, see `UserDeviceOptions.onBest`.
   */
  isBest?(step: number): boolean;
  /** Called with the loss of each step; once more where a step begins again, and then the last loss is the one that counts. */
  onLoss?(step: number, mode: StepMode, loss: number): void;
  /**
   * Generates through the split once `next` has returned `null`, with `sample` or `beamSearch`, or asks how likely
   * texts are, with `session.logLikelihood`; the run ends when it resolves. Only E of the tokens leaves the
   * device. Not in tensor-parallel runs.
   *
   * @param session Continuations of one prompt at a time; use ends with this call.
   * @param ended Aborted once the run is over for this device, for whoever waits for something else meanwhile.
   */
  generate?(session: TokenSession, ended: AbortSignal): Promise<void>;
  /**
   * Called in evaluation and generation with the heads of every layer whose devices are away: what follows is without
   * them, and in evaluation the loss of this step. Empty once they are back.
   */
  onAway?(heads: readonly number[]): void;
}

/** A turn of one of several owners. */
export interface DataTurn {
  /** What for. */
  readonly mode: StepMode;
  /** Number of the batch: of those that the run has trained on from this device, or of its validation data. */
  readonly position: number;
  /** Training steps of the run so far. */
  readonly step: number;
}

/** What a data side takes part with. */
export interface DataDeviceOptions {
  /** The engine of the data side. */
  readonly engine: Engine;
  /** The data side. */
  readonly data: DataSide;
  /** Shapes of the run. */
  readonly run: SplitShape;
  /** How far the device is; kept up to date. */
  readonly state: RunProgress;
  /** Training steps done before. */
  readonly start: number;
  /** Parts of a training step, see `RunSettings`. */
  readonly accumulate: number;
  /** Micro-batches, see `RunSettings`. */
  readonly microBatches: number;
  /** True if several owners of data take turns. @default {false} */
  readonly takesTurns?: boolean | undefined;
  /** What to do where a step's state is to be saved. @default {nothing} */
  readonly saves?: SaveHooks | undefined;
  /** The clock: in virtual time nothing takes time here. @default {the wall's} */
  readonly clock?: RunClock | undefined;
}

/** What goes back to the beginning: a step, or a turn. */
type Again = FrameOf<"repeat"> | FrameOf<"turn">;

/** A step begins again: whoever is in the middle of something hears it so. */
class Repeat extends Error {
  /** What the edge server says. */
  readonly frame: Again;

  constructor(frame: Again) {
    super("the step begins again");
    this.frame = frame;
  }
}

/** Takes part for a data side. */
export class DataDevice {
  readonly #options: DataDeviceOptions;
  readonly #watch: AnswerWatch;
  /** The edge server. */
  #peer: Peer | null = null;
  /** Training steps done. */
  #steps: number;
  /** The step that is under way. */
  #current: DataStep | null = null;
  #isGenerating = false;
  readonly #validation = new OwnValidation();
  /** The heads that were away when it heard of it last. */
  #away = "";
  /** The last step that is done here. At the edge server it may not be over, and begin again. */
  #last: DataStep | null = null;

  /** See `DataDeviceOptions`. */
  constructor(options: DataDeviceOptions) {
    this.#options = options;
    this.#watch = new AnswerWatch(options.clock);
    this.#steps = options.start;
  }

  /** Training steps done. */
  get step(): number {
    return this.#steps;
  }

  /** True once it has begun to generate, which cannot begin again. */
  get isGenerating(): boolean {
    return this.#isGenerating;
  }

  /**
   * Hands batches out until the run ends; once more over another connection, where it goes on with the step that was under
   * way.
   *
   * @param peer The edge server.
   * @throws {ProtocolError} If a message is not one that the step has next.
   * @throws {TrainingError} If a loss is not finite.
   */
  async run(peer: Peer): Promise<void> {
    const { saves, state, takesTurns = false } = this.#options;
    this.#peer = peer;
    if (takesTurns) return await this.#takeTurns(peer);
    for (;;) {
      const current = this.#current ??= this.#next();
      if (current.parts === null) return await this.#finish(this.#steps, current);
      const end = await this.#step(current);
      if (end !== null) return takeEnd(end, state);
      this.#last = current;
      this.#current = null;
      if (current.mode !== "train") continue;
      this.#steps++;
      await saves?.trained(this.#steps, current.isSaved);
    }
  }

  #next(): DataStep {
    const { data, accumulate } = this.#options;
    const step = this.#steps;
    const { mode, batch } = data.next(step) ?? { batch: null, mode: "train" as const };
    const best = data.isBest?.(step) ?? false;
    const parts = batch === null ? null : accumulationSteps(batch, mode === "train" ? accumulate : 1);
    return { ...{ mode, parts, step, best }, isMixed: false, isSaved: false, streams: new Map() };
  }

  /** Waits for its turns, and for what else the edge server asks between them. */
  async #takeTurns(peer: Peer): Promise<void> {
    const { data, saves, state } = this.#options;
    let [last, attempts]: [DataStep | null, number] = [null, 0];
    for (let again: Again | null = null;;) {
      const frame: Frame = again ?? await peer.next("data", "its turn");
      again = null;
      if (frame.kind === "end") {
        if (saves !== undefined) state.steps = frame.meta.step ?? state.steps;
        return takeEnd(frame, state);
      }
      if (frame.kind === "examples") await peer.send("examples", { meta: { count: data.examples ?? 1 } });
      else if (frame.kind === "save") await saves?.trained(frame.step, true);
      else if (frame.kind === "turn") {
        const { attempt = 0 } = frame;
        // The last turn did not count: a codec with a state is as it was before it.
        if (attempt > attempts) peer.beginAttempt("data", attempt, last?.streams ?? new Map());
        attempts = attempt;
        if (frame.meta.mode === "generate") await this.#generate(frame.step);
        last = this.#turn(frame);
        try {
          const end = await this.#once(last);
          if (end !== null) return takeEnd(end, state);
          if (last.mode === "train" && last.parts !== null) await saves?.trained(last.step + 1, false);
        } catch (error) {
          if (!(error instanceof Repeat)) throw error;
          again = error.frame;
        }
      } else {
        throw new ProtocolError(`Unexpected "${frame.kind}": a turn, or the end of the run, must come next`);
      }
    }
  }

  /** What this device gives in a turn. */
  #turn({ step, meta: { mode, position, parts: count } }: FrameOf<"turn">): DataStep {
    const { data, accumulate } = this.#options;
    const base = { step, best: false, isSaved: false, streams: this.#peer!.keepStreams("data") };
    if (mode === "generate") return { ...base, mode: "evaluate", parts: null, isMixed: false };
    const at = mode === "evaluate" ? { position } : {};
    const drawn = Array.from(
      { length: count ?? 1 },
      (_, i) => data.turn!({ mode, step, position: position + i }),
    );
    const batches = drawn.filter((batch) => batch !== null);
    const isMixed = count !== undefined && mode === "train";
    if (batches.length < drawn.length) return { ...base, ...at, mode, parts: null, isMixed };
    const parts = isMixed
      ? ownParts(batches)
      : accumulationSteps(batches[0]!, mode === "train" ? accumulate : 1);
    return { ...base, ...at, mode, parts, isMixed };
  }

  /** Generates, if that is what the data side does once nothing is left to train. */
  async #generate(step: number): Promise<void> {
    const { data } = this.#options;
    const peer = this.#peer!;
    if (data.generate === undefined) return;
    const session = new RemoteSession(peer, data.ends, step, {
      receive: () => this.#receive(`"hidden"`),
      repeats: (error) => this.#repeats(error, null),
      onAway: (heads) => data.onAway?.(heads),
    });
    this.#isGenerating = true;
    const ended = new AbortController();
    const end = () => ended.abort(new DOMException("the run is over", "AbortError"));
    peer.closed.then(end, end);
    await data.generate(session, ended.signal);
  }

  /** There is no further batch: generates, if that is what the run is for, and waits for the end. */
  async #finish(step: number, { best }: { readonly best: boolean }): Promise<void> {
    const { state } = this.#options;
    const peer = this.#peer!;
    await this.#generate(step);
    for (;;) {
      try {
        // If the run has ended meanwhile, its end waits to be read.
        if (!peer.hasEnded) await peer.send("finished", { step, meta: best ? { best } : {} });
        // The edge server ends the run for everyone; wait for its word.
        const frame = await this.#receive("the end of the run");
        if (frame.kind === "end") return takeEnd(frame, state);
        throw new ProtocolError(`Cannot end the run as "end" must come: it is "${frame.kind}"`);
      } catch (error) {
        const end = await this.#repeats(error, null);
        if (end !== null) return takeEnd(end, state);
      }
    }
  }

  /** The next frame; that a step begins again is thrown. */
  async #receive(what: string): Promise<Frame> {
    const { saves, takesTurns = false } = this.#options;
    for (;;) {
      const frame = await this.#peer!.next("data", what);
      if (frame.kind === (takesTurns ? "turn" : "repeat")) throw new Repeat(frame as Again);
      if (!takesTurns || frame.kind !== "save") return frame;
      // Of a step before: this device was asked for its batch while that was computed.
      await saves?.trained(frame.step, true);
    }
  }

  /**
   * A step begins again: the current one, or the one before it, which is done once more here.
   *
   * @param error What was thrown; all but `Repeat` goes on.
   * @param current The step that is under way.
   * @returns The end of the run, if that came instead of an answer.
   */
  async #repeats(error: unknown, current: DataStep | null): Promise<FrameOf<"end"> | null> {
    if (!(error instanceof Repeat)) throw error;
    const { step, attempt = 0, meta: { mode } } = error.frame;
    const which = [current, this.#last].find((s) => s?.step === step && s.mode === mode) ?? null;
    if (which === null) {
      throw new ProtocolError(
        `Cannot begin step ${step} again as it must be the current step or the one before it: it is neither`,
      );
    }
    this.#peer!.beginAttempt("data", attempt, which.streams);
    return which === current ? null : await this.#step(which);
  }

  /** One step, again and again if it must; returns the end of the run, if that came instead of an answer. */
  async #step(current: DataStep): Promise<FrameOf<"end"> | null> {
    for (;;) {
      try {
        return await this.#once(current);
      } catch (error) {
        const end = await this.#repeats(error, current);
        if (end !== null) return end;
      }
    }
  }

  async #once(current: DataStep): Promise<FrameOf<"end"> | null> {
    const { data } = this.#options;
    const peer = this.#peer!;
    const { step, mode, parts, isMixed } = current;
    current.streams = peer.keepStreams("data");
    if (parts === null) {
      await peer.send("finished", { step, meta: this.#validationOf(current) });
      return null;
    }
    const losses: Float32Array[] = [];
    let share = 1;
    for (const part of parts) {
      await this.#embedding(current, part);
      const answer = await this.#answers(current, part);
      if ("kind" in answer) return answer;
      losses.push(...answer.losses);
      share = answer.counted / part.maskSum;
    }
    const loss = sumLosses(losses);
    if (current.position !== undefined) this.#validation.add(current, loss, parts[0]!.maskSum);
    if (data.shareLoss) {
      const meta = mode === "evaluate" ? { loss, counted: parts[0]!.maskSum } : { loss };
      await peer.send("loss", { step, meta: { ...meta, ...this.#watch.end() } });
    }
    // Of a step with parts of others, the mean over its own tokens.
    data.onLoss?.(step, mode, isMixed ? loss * share : loss);
    return null;
  }

  /** The loss of the own validation data, which ends here, if the owner tells it. */
  #validationOf(current: DataStep): { readonly loss?: number; readonly counted?: number } {
    const { shareLoss = false, sharesValidation = true } = this.#options.data;
    // Who tells the loss of each batch has told it.
    const isTold = current.position !== undefined && !shareLoss && sharesValidation;
    return isTold ? this.#validation.end(current) : {};
  }

  /** Sends E of a batch or a part of it. */
  async #embedding(
    { step, mode, best, isMixed }: DataStep,
    { batch, accumulation, maskSum }: AccumulatedBatch,
  ): Promise<void> {
    const { engine, data, run } = this.#options;
    const peer = this.#peer!;
    const { index, count } = accumulation;
    const embedding = embedTokens(data.ends, batch);
    const [values] = await engine.read([embedding]);
    embedding.dispose();
    const shape = { batch: batch.batch, length: batch.length, hidden: run.hidden, accumulation };
    const tensors = embeddingTensors(values!, shape, peer.codecs.of("embedding"));
    await peer.send("embedding", {
      step,
      meta: {
        mode,
        ...(count > 1 ? { part: [index, count] } : {}),
        ...(best && index === 0 ? { best } : {}),
        ...(isMixed && index === 0 ? { counted: maskSum } : {}),
      },
      tensors,
    });
  }

  /** Answers every h_L of a part; returns losses and the tokens that they are means of, or the end of the run. */
  async #answers(
    current: DataStep,
    part: AccumulatedBatch,
  ): Promise<
    { readonly losses: readonly Float32Array[]; readonly counted: number } | FrameOf<"end">
  > {
    const { engine, saves, microBatches, run } = this.#options;
    const pieces = splitBatch(part.batch, microBatches);
    const { flows } = describePass({
      run,
      mode: current.mode,
      microBatches: pieces,
      accumulation: part.accumulation,
      devices: [],
      lowest: run.layers,
    });
    const exchanges = flows.map((flow) => flow[0]!);
    const open: DataPart = { ...part, pieces, exchanges, left: new Set(pieces.keys()), probe: null };
    const losses: (readonly Float32Array[])[] = [];
    let counted = part.maskSum;
    while (open.left.size > 0) {
      const next = await this.#receive(`"hidden"`);
      if (next.kind === "end") return next;
      if (next.kind !== "hidden") {
        throw new ProtocolError(`Unexpected "${next.kind}" in step ${current.step}: "hidden" must come next`);
      }
      this.#watch.begin(next);
      const probing = next.meta.probe === true;
      const { microBatch = 0 } = next;
      takeMicroBatch(open, current, { microBatch, probing });
      if (next.meta.save === true) {
        if (!current.isSaved) await saves?.announced();
        current.isSaved = true;
      }
      if (current.mode === "evaluate") this.#hearOfAway(next.meta.away ?? []);
      // The loss of the whole step is the mean of all owners' tokens.
      if (current.isMixed) counted = next.meta.counted ?? counted;
      const answer = await this.#hidden(next, current, { ...open, maskSum: counted });
      if (!probing) losses[microBatch] = answer;
      if (pieces.length > 1) await engine.yieldToEventLoop();
    }
    return { losses: losses.flat(), counted };
  }

  /** What is evaluated is without the heads of devices that are away. */
  #hearOfAway(away: readonly number[]): void {
    if (away.join() !== this.#away) this.#options.data.onAway?.(away);
    this.#away = away.join();
  }

  /** Computes the losses of h_L, and answers its gradient in training. */
  async #hidden(
    next: Frame,
    { step, mode }: DataStep,
    { batch, maskSum, pieces, exchanges }: DataPart,
  ): Promise<readonly Float32Array[]> {
    const { engine, data } = this.#options;
    const peer = this.#peer!;
    const { microBatch = 0 } = next;
    const { messages, answers } = exchanges[microBatch]!;
    const frame = peer.check(next, "hidden", { step, microBatch, shapes: messages[0]!.shapes });
    const { shape, data: values } = frame.tensors[0]!;
    const [rows, hidden] = shape as [number, number];
    using h = engine.upload(values as Float32Array, rows, hidden, "h_L");
    const settings = { ...(mode === "train" ? data.loss : { labelSmoothing: 0 }), maskSum };
    const piece = pieces.length === 1 ? batch : partOfBatch(batch, pieces[microBatch]!);
    const { losses, gradient } = modelLoss(data.ends, h, piece, { ...settings, gradient: mode === "train" });
    const results = await engine.read(gradient === null ? losses : [gradient, ...losses]);
    for (const tensor of losses) tensor.dispose();
    gradient?.dispose();
    // Before dh_L is sent: no device learns from it.
    requireFiniteLoss(step, sumLosses(results.slice(gradient === null ? 0 : 1)), mode);
    const answer = answers.find(({ kind }) => kind === "hiddenGradient");
    if (answer !== undefined) {
      const tensor = { dtype: "f32", shape: [...answer.shapes[0]!], data: results.shift()! };
      await peer.send("hiddenGradient", { step, microBatch, meta: this.#watch.end(), tensors: [tensor] });
    }
    return results;
  }
}
