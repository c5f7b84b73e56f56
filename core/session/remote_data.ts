/**
 * The data side behind a network: the edge server's side of the protocol with the data device.
 *
 * @module
 */

import type { Engine, Tensor } from "@edgetuner/kernels";
import { type RunClock, WALL_CLOCK } from "../contracts/clock.ts";
import { ProtocolError } from "../contracts/errors.ts";
import {
  type AccumulationStep,
  type MicroBatch,
  splitBatch,
  WHOLE_STEP,
} from "../contracts/micro_batches.ts";
import { showValue } from "../contracts/plain_text.ts";
import type { EmbeddedBatch, LossPass, LossResult, StepMode } from "../contracts/ports.ts";
import { placeBytes, repeatRows } from "../protocol/distinct_rows.ts";
import type { Frame, FrameOf } from "../protocol/frame.ts";
import { describePass, type Exchange, type SplitShape } from "../protocol/pass.ts";
import type { MetaOf } from "../protocol/messages.ts";
import type { AnswerMeta } from "../protocol/metas.ts";
import type { Peer } from "../protocol/peer.ts";
import type { DataSource, DecodingRequest } from "./data_source.ts";
import { StepRestart } from "../protocol/step_restart.ts";
import { AnswerClock, spentTimes } from "./head_members.ts";
import type { DataAnswerTime } from "./run_events.ts";
import type { WaitTimer } from "./wait_timer.ts";

/** Longest step accepted from a data device, in tokens. */
const MAX_TOKENS = 1 << 20;

/** Options of `RemoteData`. */
export interface RemoteDataOptions {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** The data device. */
  readonly peer: Peer;
  /** Shapes of the run; among them whether the data device said that it shares its loss. */
  readonly run: SplitShape;
  /** Counts the time spent waiting for the data device. */
  readonly waits: WaitTimer;
  /** Most parts of a training step, see `RunSettings`. @default {1} */
  readonly accumulate?: number;
  /** Micro-batches, see `RunSettings`. @default {1} */
  readonly microBatches?: number;
  /** Heads of every layer whose devices are away. @default {none} */
  away?(): readonly number[];
  /** Name of the device in records of steps. @default {that of the peer} */
  readonly name?: string | undefined;
  /** The clock of answers. @default {the wall's} */
  readonly clock?: RunClock | undefined;
}

/** A batch or a part of it that is under way. */
interface PartUnderWay {
  readonly mode: StepMode;
  readonly accumulation: AccumulationStep;
  /** Its micro-batches. */
  readonly pieces: readonly MicroBatch[];
  /** Micro-batches whose h_L has not been sent. */
  readonly left: Set<number>;
}

/** E of an owner's batch, or of the first of its parts of a step. */
export interface OwnedBatch extends EmbeddedBatch {
  /** In a step that is mixed of several owners' parts: tokens that the loss of these parts counts; else 0. */
  readonly counted: number;
}

/** Before the first batch. */
const NOTHING: PartUnderWay = { mode: "train", accumulation: WHOLE_STEP, pieces: [], left: new Set() };

/** Asks the data device for embeddings and for the gradient of the last hidden state. */
export class RemoteData implements DataSource {
  readonly #options: RemoteDataOptions;
  readonly #engine: Engine;
  #peer: Peer;
  readonly #hidden: number;
  readonly #waits: WaitTimer;
  #current: PartUnderWay = NOTHING;
  /** Rows of the step's parts so far. */
  #rows = 0;
  /** True if the last batch came with the word that the head modules before it are the best so far. */
  best = false;
  /** Rows of E that came for each part of the step so far, where equal ones came only once. */
  embeddingRows: number[] = [];
  /** The mean loss of its validation data, if it told that with its last word. */
  told: LossResult | null = null;
  /** If true, the data device is told to save its state after the step. */
  saves = false;
  /** Times that a step began again. */
  #repeats = 0;
  /** What the codec goes back to if the step begins again. */
  #streams: ReturnType<Peer["keepStreams"]> = new Map();
  /** Among several owners: true while a turn of this one may still begin again, and how many have. */
  #hasTurn = false;
  #attempt = 0;
  /** In a step that is mixed of several owners' parts: tokens that the loss of the whole step is the mean of. */
  counted: number | null = null;
  /** How long the device keeps the others waiting in a step, where that has a limit; `null` for none. */
  clock: AnswerClock | null = null;

  /** How long the device took to answer the last hidden states of the step. */
  #answers: AnswerClock;

  /** Talks to the data device of a run. */
  constructor(options: RemoteDataOptions) {
    this.#options = options;
    this.#engine = options.engine;
    this.#peer = options.peer;
    this.#hidden = options.run.hidden;
    this.#waits = options.waits;
    this.#answers = this.#answerClock();
  }

  #answerClock(): AnswerClock {
    return new AnswerClock(Infinity, () => {}, this.#options.clock);
  }

  /** How long the device took to answer the last hidden states of the step; empty if it was asked nothing. */
  get dataAnswers(): readonly DataAnswerTime[] {
    const times = spentTimes(this.#answers);
    return times.ms === 0 ? [] : [{ name: this.#options.name ?? this.#peer.name, ...times }];
  }

  /** E of the next batch or of the step's next part; `null` when the data device has ended the run. */
  async next(step: number): Promise<EmbeddedBatch | null> {
    const frame = await this.#receive();
    return this.#isEnd(frame) ? null : this.#batch(frame, step);
  }

  /** The data device has come back over another connection; it sends E of its step once more. */
  goOnOver(peer: Peer): void {
    this.#peer = peer;
    this.#current = NOTHING;
    this.#streams = new Map();
    this.#hasTurn = false;
    this.#attempt = 0;
  }

  /** True while this device, one of several, is asked for something. */
  get hasTurn(): boolean {
    return this.#hasTurn;
  }

  /** What this device was asked for counts, and does not begin again. */
  settle(): void {
    this.#hasTurn = false;
  }

  /**
   * Asks one of several owners for its batch, or for its parts of a step. A turn that did not count begins again.
   *
   * @param step Training steps before it.
   * @param meta What for.
   * @param waits Counts the wait; `null` where nobody waits yet. @default {that of the options}
   * @returns `null` if it has none.
   */
  async turn(
    step: number,
    meta: MetaOf<"turn">,
    waits: WaitTimer | null = this.#waits,
  ): Promise<OwnedBatch | null> {
    const peer = this.#peer;
    if (this.#hasTurn) peer.beginAttempt("data", ++this.#attempt, this.#streams);
    this.#repeats++;
    this.#hasTurn = true;
    this.#current = NOTHING;
    this.counted = null;
    this.#streams = peer.keepStreams("data");
    await peer.send("turn", { step, meta });
    if (meta.mode === "generate") return null;
    const frame = await this.#receive(undefined, waits);
    if (this.#isEnd(frame)) return null;
    const batch = this.#batch(frame, step);
    const { counted = null } = (frame as FrameOf<"embedding">).meta;
    const isMixed = meta.parts !== undefined;
    if (
      batch.mode === meta.mode && (!isMixed || (counted !== null && batch.accumulation?.count === meta.parts))
    ) {
      return { ...batch, counted: counted ?? 0 };
    }
    batch.embedding.dispose();
    return this.refuse(
      `its turn in step ${step} must be ${
        meta.parts ?? "all"
      } of a batch for "${meta.mode}": it is "${batch.mode}"`,
    );
  }

  /** Waits for an answer; its time counts, unless nobody waits for it yet. */
  async waitFor<T>(answer: Promise<T>, waits: WaitTimer | null = this.#waits): Promise<T> {
    if (waits === null) return await answer;
    const { clock } = this;
    clock?.ask();
    try {
      return await waits.track(answer);
    } finally {
      clock?.answered();
    }
  }

  /** How many training examples the device has. */
  async examples(): Promise<number> {
    await this.#peer.send("examples");
    const { meta: { count } } = await this.#peer.receive("examples");
    return count ?? this.refuse("it must say how many examples it has: it does not");
  }

  /** See `DataSource`. */
  get hasBatch(): boolean {
    return this.#current !== NOTHING;
  }

  /** What is waited for of the data device is waited for no longer: the step will begin again. */
  interrupt(): void {
    this.#peer.interrupt("data");
  }

  /**
   * E of the step's batch, or of its first part, once more.
   *
   * @param step The step that begins again.
   * @param at What it is for, and the number of the attempt.
   */
  async repeat(
    step: number,
    { mode, attempt }: { readonly mode: StepMode; readonly attempt: number },
  ): Promise<EmbeddedBatch> {
    const { best } = this;
    this.#repeats++;
    this.#peer.beginAttempt("data", attempt, this.#streams);
    this.#current = NOTHING;
    await this.#peer.send("repeat", { step, meta: { mode } });
    const batch = this.#batch(await this.#receive(), step);
    this.best = best;
    if (batch.mode === mode) return batch;
    batch.embedding.dispose();
    return this.refuse(`step ${step} that begins again must be the same: it is not "${mode}"`);
  }

  /** As `next`, where new tokens may come instead of a batch, and another limit may hold for the wait. */
  async request(step: number, timeoutMs?: number): Promise<EmbeddedBatch | DecodingRequest | null> {
    const frame = await this.#receive(timeoutMs);
    if (this.#isEnd(frame)) return null;
    return frame.kind === "decode" && this.#isLast() ? this.#tokens(frame, step) : this.#batch(frame, step);
  }

  /** See `DecodingSource`. */
  async answer(step: number, hidden: Tensor, away: readonly number[]): Promise<void> {
    const [values] = await this.#engine.read([hidden]);
    const tensor = { dtype: "f32", shape: [hidden.rows, hidden.columns], data: values! };
    const meta = away.length === 0 ? {} : { away: [...away] };
    await this.#peer.send("hidden", { step, meta, tensors: [tensor] });
  }

  /** Closes the data device for what it asked. */
  refuse(rule: string): never {
    const error = new ProtocolError(`Cannot answer ${this.#peer.name} as ${rule}`);
    this.#peer.failWith(error);
    throw error;
  }

  async #receive(timeoutMs?: number, waits: WaitTimer | null = this.#waits): Promise<Frame> {
    const frame = await this.waitFor(this.#peer.next("data", `"embedding"`, timeoutMs), waits);
    this.best = (frame.kind === "embedding" || frame.kind === "finished") && frame.meta.best === true;
    const { loss = null, counted = 0 } = frame.kind === "finished" ? frame.meta : {};
    this.told = loss === null ? null : { gradient: null, loss, counted };
    return frame;
  }

  #isEnd({ kind }: Frame): boolean {
    return kind === "finished" && this.#isLast();
  }

  #tokens(next: Frame, step: number): DecodingRequest {
    const { meta, tensors } = this.#peer.check(next, "decode", {
      step,
      shapes: [[null, null, this.#hidden]],
    });
    const [rows, length] = tensors[0]!.shape as [number, number];
    const { parents = null } = meta;
    const fits = parents === null ? rows === 1 : length === 1 && parents.length === rows;
    if (!fits || rows * length > MAX_TOKENS) {
      this.refuse(
        `new tokens must be a prompt in one row, or one for each row that is continued, and at most ${MAX_TOKENS}: current value is ${rows} x ${length} that continue ${
          showValue(parents)
        }`,
      );
    }
    const embedding = this.#upload(tensors[0]!.data as Float32Array, rows * length);
    return { embedding, rows, length, parents };
  }

  #upload(values: Float32Array, rows: number): Tensor {
    return this.#engine.upload(values, rows, this.#hidden, "embedding from data device");
  }

  #batch(next: Frame, step: number): EmbeddedBatch {
    const peer = this.#peer;
    if (this.#isLast()) {
      this.#streams = peer.keepStreams("data");
      this.#answers = this.#answerClock();
    }
    const { tensors: [, places] } = next;
    const shapes = places === undefined
      ? [[null, null, this.#hidden]]
      : [[null, this.#hidden], [null, null, placeBytes(next.tensors[0]!.shape[0]!)]];
    const frame = peer.check(next, "embedding", { step, shapes });
    const { mode } = frame.meta;
    const [batch, length] = frame.tensors.at(-1)!.shape as [number, number];
    if (batch * length > MAX_TOKENS) {
      const error = new ProtocolError(
        `Cannot run the step as its tokens must be at most ${MAX_TOKENS}: current value is ${batch} x ${length}`,
      );
      peer.failWith(error);
      throw error;
    }
    const accumulation = this.#partOf(frame, mode);
    const pieces = splitBatch({ batch, length }, this.#options.microBatches ?? 1);
    this.#current = { mode, accumulation, pieces, left: new Set(pieces.keys()) };
    this.#rows = accumulation.firstRow + batch * length;
    return { embedding: this.#rowsOf(frame, accumulation), batch, length, mode, accumulation };
  }

  /** E of a batch or a part of it, [B * T, d], of which equal rows may have come once. */
  #rowsOf({ tensors: [rows, places] }: FrameOf<"embedding">, { index }: AccumulationStep): Tensor {
    const values = rows!.data as Float32Array;
    this.embeddingRows = [...this.embeddingRows.slice(0, index), values.length / this.#hidden];
    if (places === undefined) return this.#upload(values, values.length / this.#hidden);
    try {
      const all = repeatRows(values, this.#hidden, places.data as Uint8Array);
      return this.#upload(all, all.length / this.#hidden);
    } catch (error) {
      if (error instanceof ProtocolError) this.#peer.failWith(error);
      throw error;
    }
  }

  #isLast(): boolean {
    const { index, count } = this.#current.accumulation;
    return index + 1 === count;
  }

  /** Which part of the step a frame is: the one after the last, or the first one of a new step. */
  #partOf({ meta, step }: FrameOf<"embedding">, mode: StepMode): AccumulationStep {
    const first = this.#isLast();
    const before = this.#current.accumulation;
    const { accumulate = 1 } = this.#options;
    const [index, count] = meta.part ?? [0, 1];
    const fits = index === (first ? 0 : before.index + 1) &&
      (first ? count <= (mode === "train" ? accumulate : 1) : count === before.count && mode === "train");
    if (!fits) {
      const error = new ProtocolError(
        `Cannot run step ${step} as ${
          first
            ? `its first part of at most ${accumulate}, in training,`
            : `part ${before.index + 1} of ${before.count}`
        } must come next: current value is ${showValue(meta.part ?? null)}, "${mode}"`,
      );
      this.#peer.failWith(error);
      throw error;
    }
    return { index, count, firstRow: first ? 0 : this.#rows };
  }

  /** What is sent and answered for a micro-batch. */
  #exchange(microBatch: number, { probe = false }: LossPass): Exchange {
    const { run } = this.#options;
    const { mode, pieces, accumulation } = this.#current;
    const pass = { run, mode: probe ? "probe" : mode, microBatches: pieces, accumulation } as const;
    const { flows } = describePass({ ...pass, devices: [], lowest: run.layers });
    return flows[microBatch]![0]!;
  }

  get #now(): number {
    return (this.#options.clock ?? WALL_CLOCK).now();
  }

  /** Waits for an answer to what was asked then, and counts what the device says of how long it took. */
  async #answered<T extends { readonly meta: AnswerMeta }>(answer: Promise<T>, asked: number): Promise<T> {
    const clock = this.#answers;
    clock.ask(asked);
    try {
      const frame = await this.waitFor(answer);
      clock.hear(frame.meta.took, this.#now - asked);
      return frame;
    } finally {
      clock.answered();
    }
  }

  /** Sends h_L, all of it or of one micro-batch; in training and for a probe waits for dh_L. */
  async loss(step: number, hidden: Tensor, pass: LossPass = {}): Promise<LossResult> {
    const { probe = false } = pass;
    const { mode, left, accumulation } = this.#current;
    const microBatch = pass.microBatch?.index ?? 0;
    const { messages, answers } = this.#exchange(microBatch, pass);
    const at = { step, microBatch };
    const repeats = this.#repeats;
    const requireSame = () => {
      // Another part of the step may have ended it meanwhile.
      if (repeats !== this.#repeats) throw new StepRestart();
    };
    const [values] = await this.#engine.read([hidden]);
    requireSame();
    if (!probe) left.delete(microBatch);
    const last = left.size === 0 && accumulation.index + 1 === accumulation.count;
    const away = mode === "evaluate" && !probe ? this.#options.away?.() ?? [] : [];
    const asked = this.#now;
    await this.#peer.send("hidden", {
      ...at,
      meta: {
        ...(away.length > 0 && { away: [...away] }),
        ...(probe ? { probe } : this.saves && mode === "train" ? { save: true } : {}),
        ...(this.counted !== null && { counted: Math.max(1, this.counted) }),
      },
      tensors: [{ dtype: "f32", shape: [...messages[0]!.shapes[0]!], data: values! }],
    });
    requireSame();
    let gradient: Tensor | null = null;
    const answer = answers.find(({ kind }) => kind === "hiddenGradient");
    if (answer !== undefined) {
      // The data device answers in the order in which it was asked.
      const expected = { ...at, shapes: answer.shapes };
      const frame = await this.#answered(this.#peer.receive("hiddenGradient", expected), asked);
      const data = frame.tensors[0]!.data as Float32Array;
      gradient = this.#engine.upload(data, hidden.rows, hidden.columns, "dh_L");
    }
    if (!this.#options.run.sharesLoss || probe || !last) return { gradient, loss: null };
    try {
      // The loss of the whole step comes after its last gradient.
      const { meta } = await this.#answered(
        this.#peer.receive("loss", { step, shapes: [] }),
        answer === undefined ? asked : this.#now,
      );
      return { gradient, loss: meta.loss, counted: meta.counted };
    } catch (error) {
      gradient?.dispose();
      throw error;
    }
  }
}
