/**
 * Head modules behind a network: the edge server's side of the step protocol.
 *
 * T tokens, d hidden size, D head size, n kept heads of a layer, c targets.
 *
 * @module
 */

import type { Tensor } from "@edgetuner/kernels";
import { type RunClock, WALL_CLOCK } from "../contracts/clock.ts";
import type { LinkStatistics } from "../contracts/links.ts";
import { type MicroBatch, WHOLE_STEP } from "../contracts/micro_batches.ts";
import type { HeadPort, HeadStatistics, HeadStep, LayerHeads, PendingSum } from "../contracts/ports.ts";
import type { DeviceStatistic } from "../contracts/pruner.ts";
import { lowestLayer, putRange } from "../lora/head_mask.ts";
import { clipFactor, globalNorm } from "../lora/clipping.ts";
import type { EdgeHeads, EdgePlace } from "../lora/edge_heads.ts";
import type { InputMode } from "../lora/input_mode.ts";
import { INPUT_MODES } from "../lora/input_modes.ts";
import type { FrameOf } from "../protocol/frame.ts";
import type { AnswerMeta } from "../protocol/metas.ts";
import {
  describePass,
  type Exchange,
  FlowCursor,
  headsOfDevices,
  inLane,
  type SplitShape,
  splitShape,
} from "../protocol/pass.ts";
import type { Peer } from "../protocol/peer.ts";
import type { Expectation } from "../protocol/peer_options.ts";
import { StepRestart } from "../protocol/step_restart.ts";
import { answerClocks, answerTimes, type HeadMember, isLoss, squareOf, withAway } from "./head_members.ts";
import { LinkMeter } from "./_link_meter.ts";
import { Outliers } from "./outliers.ts";
import type { Place, StepUnderWay } from "./_step_under_way.ts";
import { type DeviceShare, joinBlocks, type LayerPlan, LayerPlans } from "./_layer_plans.ts";
import type { RemoteHeadsOptions } from "./remote_heads_options.ts";
import { Unanswered } from "./_unanswered.ts";
import type { AnswerTime } from "./run_events.ts";

/** Asks devices for their heads' Deltas and gives them the gradients. */
export class RemoteHeads implements HeadPort, Disposable {
  readonly #options: RemoteHeadsOptions;
  readonly #run: SplitShape;
  readonly #mode: InputMode;
  readonly #edge: EdgeHeads;
  readonly #deltaColumns: number;
  readonly #plans: LayerPlans;
  #step: StepUnderWay | null = null;
  /** If set, the next step tells the devices that their head modules are the best so far: heads that were away then. */
  best: readonly number[] | null = null;
  /** If true, devices are told to save their state after the step. */
  saves = false;
  /** What ended a wait: other micro-batches then ask no more. */
  #failure: { readonly error: unknown } | null = null;
  /** Counts the times that a step has begun again: what is still under way of before is of no use. */
  #attempt = 0;
  /** What the codec of each device goes back to if the step begins again. */
  readonly #streams = new Map<HeadMember, ReturnType<Peer["keepStreams"]>>();
  readonly #unanswered = new Unanswered();
  readonly #meter: LinkMeter | null;
  readonly #outliers: Outliers;
  readonly #clock: RunClock;
  /** Norms of the weights as devices last told them: those of heads that are away do not change. */
  #loraNorm: Float32Array | null = null;

  /** See `RemoteHeadsOptions`. */
  constructor(options: RemoteHeadsOptions) {
    const { model, lora, clipNorm = null, statistics } = options;
    this.#options = options;
    this.#plans = new LayerPlans(options.engine, model.heads, options.devices);
    this.#run = splitShape(model, { lora, clipNorm }, { statistics: statistics.length });
    this.#mode = INPUT_MODES[lora.mode];
    this.#deltaColumns = this.#mode.deltaColumns(this.#run);
    this.#edge = this.#mode.edge(options);
    this.#meter = options.measuresLinks === true ? new LinkMeter(options) : null;
    this.#clock = options.clock ?? WALL_CLOCK;
    this.#outliers = new Outliers(options.outlierFactor);
  }

  /** What the devices' links take, as far as it is known and measured. */
  get links(): LinkStatistics | null {
    return this.#meter?.statistics ?? null;
  }

  /**
   * Tells every device which of its heads are pruned.
   *
   * @throws {TypeError} If the step does not say its micro-batches: devices check the rows of each.
   */
  async beginStep(step: HeadStep): Promise<void> {
    const { devices, model, stepDeadlineMs, clock } = this.#options;
    const { microBatches, accumulation, mode } = step;
    if (microBatches === undefined) {
      throw new TypeError(
        `Cannot begin step ${step.step} as its micro-batches must be given: current value is undefined`,
      );
    }
    const { best } = this;
    this.best = null;
    const mask = withAway(step.mask, model.heads, devices);
    const lowest = lowestLayer(mask, model.heads);
    const heads = headsOfDevices(mask, model.heads, devices.map(({ range }) => range.count));
    const pass = describePass({ run: this.#run, mode, microBatches, accumulation, devices: heads, lowest });
    const isFirst = (accumulation?.index ?? 0) === 0;
    const clocks = isFirst || this.#step === null
      ? answerClocks(devices, { limitMs: stepDeadlineMs, clock })
      : this.#step.clocks;
    const cursors = pass.flows.map((flow) => new FlowCursor(inLane(flow, "heads")));
    this.#step = { ...step, mask, pass, cursors, clocks };
    this.#plans.forget();
    if (isFirst) {
      this.#meter?.begin(step);
      this.#outliers.begin();
      for (const device of devices) {
        this.#streams.set(device, device.peer.keepStreams("heads"));
      }
    }
    await this.#wait(this.#all((device, i) =>
      device.peer.send("mask", {
        step: step.step,
        // The lowest layer with a kept head, on whatever device, sends no gradient of X back.
        meta: {
          mode,
          lowest,
          rows: microBatches.map(({ rows }) => rows),
          ...(accumulation !== undefined && accumulation.count > 1
            ? { part: [accumulation.index, accumulation.count, accumulation.firstRow] }
            : {}),
          ...(best && { best: true, ...(best.length > 0 && { away: best }) }),
          ...(this.saves && mode === "train" ? { save: true } : {}),
        },
        tensors: [{ dtype: "u8", shape: [...pass.begin.messages[i]!.shapes[0]!], data: heads[i]!.mask }],
      })
    ));
  }

  /** How long each device took to answer in the step; those that were asked nothing are left out. */
  get answers(): readonly AnswerTime[] {
    return answerTimes(this.#step?.clocks ?? new Map(), this.links);
  }

  /** Head mask of the step, [L * H], with the heads that are away; `null` before the first. */
  get mask(): Uint8Array | null {
    return this.#step?.mask ?? null;
  }

  /**
   * A step begins again, with the devices that are there.
   *
   * @param step The step.
   * @param attempt Number of the attempt, which only grows.
   */
  async restart(step: number, attempt: number): Promise<void> {
    this.#attempt = attempt;
    this.#failure = null;
    this.#step = null;
    this.#unanswered.forget(step);
    for (const device of this.#there) {
      device.peer.beginAttempt("heads", attempt, this.#streams.get(device) ?? new Map());
    }
    // One that is lost now is away in this attempt.
    await Promise.allSettled(
      this.#there.map((device) => this.#asking(device, () => device.peer.send("restart", { step }))),
    );
    this.#failure = null;
  }

  /**
   * A device has come back over another connection.
   *
   * @param device It, with its new connection.
   * @param unfinished A step of which it has all but the last messages: they are sent once more.
   */
  goOnOver(device: HeadMember, unfinished: number | undefined): void {
    this.#streams.delete(device);
    // Whoever asks next notices where it is lost again.
    for (const { kind, ...rest } of this.#unanswered.of(device, unfinished)) {
      device.peer.send(kind, rest).catch(() => {});
    }
  }

  /** Devices whose connections have ended between two steps are away from now on. */
  missEnded(): void {
    for (const device of this.#there) {
      const { failure } = device.peer;
      if (failure !== null && isLoss(failure)) this.#lose(device, failure as Error);
    }
  }

  #lose(device: HeadMember, error: Error): void {
    const { onLost } = this.#options;
    if (onLost === undefined) return;
    device.isAway = true;
    onLost.call(this.#options, device, error);
  }

  get #there(): HeadMember[] {
    return this.#options.devices.filter((device) => device.isAway !== true);
  }

  /** Something with every device that is there. */
  #all<T>(task: (device: HeadMember, index: number) => Promise<T>): Promise<T[]> {
    return Promise.all(
      this.#options.devices.flatMap((device, i) =>
        device.isAway === true ? [] : [this.#asking(device, () => task(device, i))]
      ),
    );
  }

  /** Something with one device: if it fails, the device is lost. */
  async #asking<T>(device: HeadMember, task: () => Promise<T>): Promise<T> {
    const attempt = this.#attempt;
    const clock = this.#step?.clocks.get(device);
    clock?.ask();
    try {
      return await task();
    } catch (error) {
      const { onLost } = this.#options;
      if (onLost !== undefined && attempt === this.#attempt && isLoss(error) && device.isAway !== true) {
        this.#failure ??= { error };
        this.#lose(device, error as Error);
        for (const { peer } of this.#there) peer.interrupt("heads");
      }
      throw error;
    } finally {
      clock?.answered();
    }
  }

  /** The head modules for one micro-batch. */
  microBatch({ index: microBatch, firstRow }: MicroBatch): LayerHeads {
    return {
      forward: (layer, x) => this.#forward({ layer, microBatch, firstRow }, x),
      backward: (layer, dqkv, options) => this.#backward({ layer, microBatch, firstRow }, dqkv, options),
    };
  }

  /** Sends X of the kept heads and waits for their Deltas. */
  forward(layer: number, x: Tensor): PendingSum | null {
    return this.#forward({ layer, microBatch: 0, firstRow: 0 }, x);
  }

  /** Sends the gradients of the Deltas and waits for those of X. */
  backward(layer: number, dqkv: Tensor, options: { readonly needsInput: boolean }): PendingSum | null {
    return this.#backward({ layer, microBatch: 0, firstRow: 0 }, dqkv, options);
  }

  #forward(at: Place, x: Tensor): PendingSum | null {
    const plan = this.#plan(at.layer);
    if (plan === null) return null;
    const { engine, lora } = this.#options;
    const place = this.#placeOf(at, plan);
    const length = x.rows;
    const { input, owned } = this.#edge.gather(x, place);
    const reading = engine.read([input]);
    if (owned) input.dispose();
    const replies = this.#ask(
      this.#next("input", at),
      plan,
      async ({ kept, before }) => {
        const share = { heads: kept, before, of: plan.kept, tokens: length };
        return this.#mode.shareOf((await reading)[0]!, share, this.#run);
      },
    );
    return {
      ...this.#before(replies, reading),
      addTo: async (qkv) => {
        const answers = await this.#wait(replies, reading);
        for (const target of lora.targets.keys()) {
          const blocks = joinBlocks(plan, answers, target, length * this.#deltaColumns);
          using deltas = engine.upload(blocks, plan.kept * length, this.#deltaColumns, "blocks from devices");
          this.#edge.addDeltas(deltas, target, qkv, place);
        }
      },
    };
  }

  #backward(
    at: Place,
    dqkv: Tensor,
    { needsInput }: { readonly needsInput: boolean },
  ): PendingSum | null {
    const plan = this.#plan(at.layer);
    if (plan === null) return null;
    const { engine, lora } = this.#options;
    const place = this.#placeOf(at, plan);
    const length = dqkv.rows;
    const blocks = lora.targets.map((_, target) => this.#edge.deltaGradients(dqkv, target, place));
    const reading = engine.read(blocks);
    for (const block of blocks) block.dispose();
    const replies = this.#ask(this.#next("deltaGradient", at), plan, async (share) => {
      const values = await reading;
      const size = share.kept * length * this.#deltaColumns;
      const joined = new Float32Array(values.length * size);
      values.forEach((all, k) => joined.set(this.#blockOf(all, share, length), k * size));
      return joined;
    });
    const before = this.#before(replies, reading);
    if (!needsInput) {
      return { ...before, addTo: async () => void await this.#wait(replies, reading) };
    }
    return {
      ...before,
      addTo: async (target) => {
        const answers = await this.#wait(replies, reading);
        const columns = this.#mode.columns(this.#run);
        for (const values of this.#mode.join(answers, this.#run)) {
          using dx = engine.upload(values, values.length / columns, columns, "input gradient");
          this.#edge.addGradient(dx, target, place);
        }
      },
    };
  }

  #placeOf({ layer, firstRow }: Place, plan: LayerPlan): EdgePlace {
    const { step, mode, accumulation = WHOLE_STEP } = this.#step!;
    const row = accumulation.firstRow + firstRow;
    const kept = { list: plan.list, upload: (list: readonly number[]) => this.#plans.listed(plan, list) };
    return { layer, kept, step, mode, firstRow: row };
  }

  /** Has the gradients clipped, if they are to be, and collects the statistics of the step. */
  async endStep(): Promise<HeadStatistics> {
    const statistics = await this.#endStep();
    this.#meter?.end(this.#step!);
    return statistics;
  }

  async #endStep(): Promise<HeadStatistics> {
    const { model, clipNorm } = this.#options;
    const { step, mode, pass: { settle, clip } } = this.#step!;
    const norm = clip === null ? {} : { globalNorm: await this.#clip(step, clipNorm!) };
    const messages = (clip?.answers ?? settle).filter(({ kind }) => kind === "statistics");
    if (messages.length === 0) return norm;
    const names: readonly DeviceStatistic[] = mode === "probe" ? ["gradientNorm"] : this.#options.statistics;
    const whole: Partial<Record<DeviceStatistic, Float32Array>> = {};
    if (names.includes("loraNorm") && this.#loraNorm !== null) whole.loraNorm = this.#loraNorm.slice();
    await this.#wait(this.#all(async (device, i) => {
      const frame = await this.#hear(device, "statistics", { step, shapes: messages[i]!.shapes });
      names.forEach((name, k) => {
        const map = whole[name] ??= new Float32Array(model.layers * model.heads);
        putRange(frame.tensors[k]!.data as Float32Array, map, model.heads, device.range);
      });
    }));
    this.#loraNorm = whole.loraNorm ?? this.#loraNorm;
    return { ...whole, ...norm };
  }

  /** Asks every device for its part of the gradients' squared norm, tells all of them the factor; returns the norm. */
  async #clip(step: number, limit: number): Promise<number> {
    const squares = await this.#wait(this.#all(async (device) => {
      const square = squareOf(await this.#hear(device, "squaredNorm", { step, shapes: [[1]] }), device.peer);
      this.#outliers.squaredNorm(device, square);
      return square;
    }));
    const data = Float32Array.of(clipFactor(squares, limit));
    const factor = { step, tensors: [{ dtype: "f32" as const, shape: [1], data }] };
    await this.#wait(this.#all((device) => {
      this.#unanswered.tell(device, { kind: "clip", ...factor });
      return device.peer.send("clip", factor);
    }));
    return globalNorm(squares);
  }

  /** Frees head lists and projections. */
  [Symbol.dispose](): void {
    this.#plans.forget();
    this.#edge[Symbol.dispose]();
  }

  #plan(layer: number): LayerPlan | null {
    if (this.#step === null) {
      throw new TypeError("Cannot use head modules as a step must have begun: none has");
    }
    return this.#plans.of(layer, this.#step.mask);
  }

  /** One device's part of head-major blocks [n, T, `deltaColumns`]. */
  #blockOf(values: Float32Array, { kept, before }: DeviceShare, length: number): Float32Array {
    const perHead = length * this.#deltaColumns;
    return values.subarray(before * perHead, (before + kept) * perHead);
  }

  /** What is sent and answered next, which must be this. */
  #next(kind: "input" | "deltaGradient", { layer, microBatch }: Place): Exchange {
    const cursor = this.#step!.cursors[microBatch];
    const exchange = cursor?.next ?? null;
    const next = exchange?.messages[0];
    if (exchange === null || next?.kind !== kind || next.layer !== layer) {
      throw new TypeError(
        `Cannot ask devices for "${kind}" of layer ${layer}, micro-batch ${microBatch}, as ${
          next === undefined ? "nothing more" : `"${next.kind}" of layer ${next.layer}`
        } must come next`,
      );
    }
    cursor!.advance();
    return exchange;
  }

  /** Sends to and hears from all devices of a layer at once. */
  #ask(
    { messages, answers }: Exchange,
    { shares }: LayerPlan,
    values: (share: DeviceShare) => Promise<Float32Array>,
  ): Promise<Float32Array[]> {
    const { step } = this.#step!;
    const attempt = this.#attempt;
    const replies = Promise.all(shares.map(async (share, i) => {
      if (this.#failure !== null) throw this.#failure.error;
      const { kind, layer, microBatch, shapes } = messages[i]!;
      const at = { step, layer, microBatch };
      const tensors = [{ dtype: "f32", shape: [...shapes[0]!], data: await values(share) }];
      // Another device was lost meanwhile.
      if (attempt !== this.#attempt) throw new StepRestart();
      return await this.#asking(share.device, async () => {
        const { peer } = share.device;
        const asked = this.#clock.now();
        const answer = answers[i]!;
        const asking = tensors[0]!.data;
        this.#outliers.ask(share.device, kind!, asking);
        const untold = answer.kind === null ? { kind: "deltaGradient" as const, ...at, tensors } : null;
        const answered = this.#unanswered.tell(share.device, untold);
        await peer.send(kind === "input" ? kind : "deltaGradient", { ...at, tensors });
        // In virtual time a question leaves when the edge server has done its work.
        const left = this.#clock === WALL_CLOCK ? asked : this.#clock.now();
        // The lowest layer answers nothing: nothing trainable lies below it.
        if (answer.kind === null) return new Float32Array(0);
        // Sending may take long: what comes now may be of another attempt, which this must not take.
        if (attempt !== this.#attempt) throw new StepRestart();
        // A device answers in the order in which it was asked.
        const expected = { ...at, shapes: answer.shapes };
        const frame = await peer.receive(answer.kind === "delta" ? answer.kind : "inputGradient", expected);
        answered();
        const ms = this.#clock.now() - left;
        this.#meter?.answered(share, [messages[i]!, answer], ms);
        this.#step?.clocks.get(share.device)?.hear(frame.meta.took, ms);
        const values = frame.tensors[0]!.data as Float32Array;
        this.#outliers.answered(share.device, { kind: answer.kind, layer, asked: asking, answer: values });
        return values;
      });
    }));
    replies.catch(() => {}); // whoever waits gets the error; until then it is not unhandled
    return replies;
  }

  /** What a device has to say at the end of a step. */
  async #hear<K extends "statistics" | "squaredNorm">(
    device: HeadMember,
    kind: K,
    expected: Expectation,
  ): Promise<FrameOf<K>> {
    const asked = this.#clock.now();
    const frame = await device.peer.receive(kind, expected);
    this.#unanswered.hear(device);
    const { took } = frame.meta as AnswerMeta;
    this.#step?.clocks.get(device)?.hear(took, this.#clock.now() - asked);
    return frame;
  }

  /** What holds up all else if nothing is to overlap. */
  #before(replies: Promise<unknown>, reading: Promise<unknown>): { before?: Promise<unknown> } {
    if (this.#options.overlap ?? true) return {};
    const before = this.#wait(replies, reading);
    before.catch(() => {}); // whoever waits gets the error
    return { before };
  }

  /** Waits for devices, and counts it from when what they are asked was read from the own GPU. */
  async #wait<T>(promise: Promise<T>, reading?: Promise<unknown>): Promise<T> {
    const attempt = this.#attempt;
    await reading?.catch(() => {}); // the other promise fails with it
    try {
      return await this.#options.waits.track(promise);
    } catch (error) {
      if (attempt === this.#attempt) this.#failure ??= { error };
      throw error;
    }
  }
}
