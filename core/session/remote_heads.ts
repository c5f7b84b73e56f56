/**
 * Head modules behind a network: the edge server's side of the step protocol.
 *
 * T tokens, d hidden size, D head size, n kept heads of a layer, c targets.
 *
 * @module
 */

import { type Engine, gatherHeadColumns, scatterAddHeadColumns, type Tensor } from "@edgetuner/kernels";
import { ProtocolError } from "../contracts/errors.ts";
import type { MicroBatch } from "../contracts/micro_batches.ts";
import type { ModelShape } from "../contracts/model_shape.ts";
import type { HeadPort, HeadStatistics, HeadStep, LayerHeads, PendingSum } from "../contracts/ports.ts";
import type { DeviceStatistic } from "../contracts/pruner.ts";
import type { HeadRange } from "../lora/allocation.ts";
import { keptHeads, lowestLayer, putRange } from "../lora/head_mask.ts";
import { clipFactor, globalNorm } from "../lora/clipping.ts";
import { INPUT_MODES } from "../lora/input_modes.ts";
import type { LoraSettings, LoraTarget } from "../lora/settings.ts";
import { type TargetColumns, targetColumns } from "../lora/target_columns.ts";
import {
  describePass,
  type Exchange,
  FlowCursor,
  headsOfDevices,
  inLane,
  type PassDescription,
  type SplitShape,
  splitShape,
} from "../protocol/pass.ts";
import type { Peer } from "../protocol/peer.ts";
import type { WaitTimer } from "./wait_timer.ts";

/** A device that owns heads, as the edge server sees it. */
export interface HeadMember {
  /** Its connection. */
  readonly peer: Peer;
  /** Its heads. */
  readonly range: HeadRange;
}

/** Options of `RemoteHeads`. */
export interface RemoteHeadsOptions {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** Shape of the model. */
  readonly model: ModelShape;
  /** LoRA settings. */
  readonly lora: LoraSettings;
  /** The devices, together owning every head once, in order of their heads. */
  readonly devices: readonly HeadMember[];
  /** Statistics that devices send after each training step. */
  readonly statistics: readonly DeviceStatistic[];
  /** False to compute nothing while waiting for devices, for comparison. @default {true} */
  readonly overlap?: boolean;
  /** Largest global norm of a step's gradients, see `RunSettings`. @default {null} */
  readonly clipNorm?: number | null;
  /** Counts the time spent waiting for devices, after all that could be done meanwhile was submitted. */
  readonly waits: WaitTimer;
}

/** The kept heads of one device in a layer. */
interface DeviceShare {
  readonly device: HeadMember;
  /** Number of kept heads, n_m. */
  readonly kept: number;
  /** Kept heads of the devices before it. */
  readonly before: number;
}

interface LayerPlan {
  readonly shares: readonly DeviceShare[];
  /** All kept heads of the layer, ascending. */
  readonly list: readonly number[];
  /** [1, n]: the same. */
  readonly heads: Tensor;
  /** [1, n]: other lists, for keys and values that heads share. */
  readonly others: Map<string, Tensor>;
  /** n */
  readonly kept: number;
}

/** A step that is under way. */
interface StepUnderWay extends HeadStep {
  /** All that is sent and received for the heads. */
  readonly pass: PassDescription;
  /** Where each micro-batch is. */
  readonly cursors: readonly FlowCursor[];
}

/** Where something is asked. */
interface Place {
  readonly layer: number;
  readonly microBatch: number;
}

/** Asks devices for their heads' Deltas and gives them the gradients. */
export class RemoteHeads implements HeadPort, Disposable {
  readonly #options: RemoteHeadsOptions;
  readonly #run: SplitShape;
  readonly #headSize: number;
  readonly #plans = new Map<number, LayerPlan | null>();
  #step: StepUnderWay | null = null;
  /** If true, the next step tells the devices that their head modules are the best so far. */
  best = false;
  /** If true, devices are told to save their state after the step. */
  saves = false;
  /** What ended a wait: other micro-batches then ask no more. */
  #failure: { readonly error: unknown } | null = null;

  /** See `RemoteHeadsOptions`. */
  constructor(options: RemoteHeadsOptions) {
    const { model, lora, clipNorm = null, statistics } = options;
    this.#options = options;
    this.#run = splitShape(model, { lora, clipNorm }, { statistics: statistics.length });
    this.#headSize = this.#run.headSize;
  }

  /**
   * Tells every device which of its heads are pruned.
   *
   * @throws {TypeError} If the step does not say its micro-batches: devices check the rows of each.
   */
  async beginStep(step: HeadStep): Promise<void> {
    const { devices, model } = this.#options;
    const { microBatches, accumulation, mode, mask } = step;
    if (microBatches === undefined) {
      throw new TypeError(
        `Cannot begin step ${step.step} as its micro-batches must be given: current value is undefined`,
      );
    }
    const { best } = this;
    this.best = false;
    const lowest = lowestLayer(mask, model.heads);
    const heads = headsOfDevices(mask, model.heads, devices.map(({ range }) => range.count));
    const pass = describePass({ run: this.#run, mode, microBatches, accumulation, devices: heads, lowest });
    this.#step = { ...step, pass, cursors: pass.flows.map((flow) => new FlowCursor(inLane(flow, "heads"))) };
    this.#forgetPlans();
    await Promise.all(pass.begin.messages.map(({ shapes }, i) =>
      devices[i]!.peer.send("mask", {
        step: step.step,
        // The lowest layer with a kept head, on whatever device, sends no gradient of X back.
        meta: {
          mode,
          lowest,
          rows: microBatches.map(({ rows }) => rows),
          ...(accumulation !== undefined && accumulation.count > 1
            ? { part: [accumulation.index, accumulation.count, accumulation.firstRow] }
            : {}),
          ...(best ? { best } : {}),
          ...(this.saves && mode === "train" ? { save: true } : {}),
        },
        tensors: [{ dtype: "u8", shape: [...shapes[0]!], data: heads[i]!.mask }],
      })
    ));
  }

  /** The head modules for one micro-batch. */
  microBatch({ index }: MicroBatch): LayerHeads {
    return {
      forward: (layer, x) => this.#forward({ layer, microBatch: index }, x),
      backward: (layer, dqkv, options) => this.#backward({ layer, microBatch: index }, dqkv, options),
    };
  }

  /** Sends X of the kept heads and waits for their Deltas. */
  forward(layer: number, x: Tensor): PendingSum | null {
    return this.#forward({ layer, microBatch: 0 }, x);
  }

  /** Sends the gradients of the Deltas and waits for those of X. */
  backward(layer: number, dqkv: Tensor, options: { readonly needsInput: boolean }): PendingSum | null {
    return this.#backward({ layer, microBatch: 0 }, dqkv, options);
  }

  #forward(at: Place, x: Tensor): PendingSum | null {
    const plan = this.#plan(at.layer);
    if (plan === null) return null;
    const { engine, lora, model } = this.#options;
    const mode = INPUT_MODES[lora.mode];
    const length = x.rows;
    const { input, owned } = mode.gather(x, { first: 0, headSize: mode.columns(model), heads: plan.heads });
    const reading = engine.read([input]);
    if (owned) input.dispose();
    const replies = this.#ask(
      this.#next("input", at),
      plan,
      async ({ kept, before }) =>
        mode.shareOf((await reading)[0]!, { heads: kept, before, tokens: length }, model),
    );
    return {
      ...this.#before(replies, reading),
      addTo: async (qkv) => {
        const answers = await this.#wait(replies, reading);
        lora.targets.forEach((target, k) => {
          using deltas = this.#uploadBlocks(plan, answers, k, length);
          const { first, passes } = this.#columns(target, plan, qkv);
          for (const pass of passes) {
            const heads = this.#listed(plan, pass);
            scatterAddHeadColumns(deltas, qkv, { first, headSize: this.#headSize, heads });
          }
        });
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
    const { engine, lora, model } = this.#options;
    const mode = INPUT_MODES[lora.mode];
    const length = dqkv.rows;
    const targets = lora.targets.length;
    const blocks = lora.targets.map((target) => {
      const { first, heads } = this.#columns(target, plan, dqkv);
      const list = this.#listed(plan, heads);
      return gatherHeadColumns(dqkv, { first, headSize: this.#headSize, heads: list });
    });
    const reading = engine.read(blocks);
    for (const block of blocks) block.dispose();
    const replies = this.#ask(this.#next("deltaGradient", at), plan, async (share) => {
      const values = await reading;
      const size = share.kept * length * this.#headSize;
      const joined = new Float32Array(targets * size);
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
        const columns = mode.columns(model);
        for (const values of mode.join(answers)) {
          using dx = engine.upload(values, values.length / columns, columns, "input gradient");
          mode.addGradient(dx, target, { first: 0, headSize: columns, heads: plan.heads });
        }
      },
    };
  }

  /** Has the gradients clipped, if they are to be, and collects the statistics of the step. */
  async endStep(): Promise<HeadStatistics> {
    const { devices, model, clipNorm } = this.#options;
    const { step, mode, pass: { settle, clip } } = this.#step!;
    const norm = clip === null ? {} : { globalNorm: await this.#clip(step, clipNorm!) };
    const messages = (clip?.answers ?? settle).filter(({ kind }) => kind === "statistics");
    if (messages.length === 0) return norm;
    const names = mode === "probe" ? ["gradientNorm"] as const : this.#options.statistics;
    const whole: Partial<Record<DeviceStatistic, Float32Array>> = {};
    await this.#wait(Promise.all(messages.map(async ({ shapes }, i) => {
      const { peer, range } = devices[i]!;
      const frame = await peer.receive("statistics", { step, shapes });
      names.forEach((name, k) => {
        const map = whole[name] ??= new Float32Array(model.layers * model.heads);
        putRange(frame.tensors[k]!.data as Float32Array, map, model.heads, range);
      });
    })));
    return { ...whole, ...norm };
  }

  /** Asks every device for its part of the gradients' squared norm, tells all of them the factor; returns the norm. */
  async #clip(step: number, limit: number): Promise<number> {
    const { devices } = this.#options;
    const squares = await this.#wait(Promise.all(devices.map(async ({ peer }) => {
      const { tensors } = await peer.receive("squaredNorm", { step, shapes: [[1]] });
      const square = tensors[0]!.data[0]!;
      if (square >= 0) return square;
      const error = new ProtocolError(
        `Cannot clip step ${step} as the squared norm of ${peer.name} must not be negative: current value is ${square}`,
      );
      peer.failWith(error);
      throw error;
    })));
    const data = Float32Array.of(clipFactor(squares, limit));
    await Promise.all(
      devices.map(({ peer }) => peer.send("clip", { step, tensors: [{ dtype: "f32", shape: [1], data }] })),
    );
    return globalNorm(squares);
  }

  /** Frees head lists. */
  [Symbol.dispose](): void {
    this.#forgetPlans();
  }

  #forgetPlans(): void {
    for (const plan of this.#plans.values()) {
      for (const tensor of plan === null ? [] : [plan.heads, ...plan.others.values()]) tensor.dispose();
    }
    this.#plans.clear();
  }

  #plan(layer: number): LayerPlan | null {
    const known = this.#plans.get(layer);
    if (known !== undefined) return known;
    const { devices, model } = this.#options;
    if (this.#step === null) {
      throw new TypeError("Cannot use head modules as a step must have begun: none has");
    }
    const { mask } = this.#step;
    const all: number[] = [];
    const shares: DeviceShare[] = [];
    for (const device of devices) {
      const { first, count } = device.range;
      const kept = keptHeads(mask, model.heads, layer, { first, count });
      if (kept.length === 0) continue;
      shares.push({ device, kept: kept.length, before: all.length });
      all.push(...kept.map((h) => first + h));
    }
    const plan = all.length === 0
      ? null
      : { shares, kept: all.length, list: all, heads: this.#upload(all), others: new Map() };
    this.#plans.set(layer, plan);
    return plan;
  }

  /** Where a target's columns lie in Q, K and V. */
  #columns(target: LoraTarget, plan: LayerPlan, { columns }: Tensor): TargetColumns {
    const { heads } = this.#options.model;
    return targetColumns(target, plan.list, { heads, headSize: this.#headSize, columns });
  }

  /** [1, n]: a list of a layer's heads or of those that they read; uploaded once in a step. */
  #listed(plan: LayerPlan, list: readonly number[]): Tensor {
    if (list === plan.list) return plan.heads;
    const key = list.join();
    let tensor = plan.others.get(key);
    if (tensor === undefined) plan.others.set(key, tensor = this.#upload(list));
    return tensor;
  }

  #upload(heads: readonly number[]): Tensor {
    return this.#options.engine.upload(Uint32Array.from(heads), 1, heads.length, "kept heads");
  }

  /** One device's part of head-major blocks [n, T, D]. */
  #blockOf(values: Float32Array, { kept, before }: DeviceShare, length: number): Float32Array {
    const perHead = length * this.#headSize;
    return values.subarray(before * perHead, (before + kept) * perHead);
  }

  /** Joins the devices' answers, or one target of them, to head-major blocks [n * T, D] on the GPU. */
  #uploadBlocks(plan: LayerPlan, answers: readonly Float32Array[], target: number, length: number): Tensor {
    const perHead = length * this.#headSize;
    const joined = new Float32Array(plan.kept * perHead);
    plan.shares.forEach(({ kept, before }, i) => {
      const size = kept * perHead;
      joined.set(answers[i]!.subarray(target * size, (target + 1) * size), before * perHead);
    });
    return this.#options.engine.upload(joined, plan.kept * length, this.#headSize, "blocks from devices");
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
    const replies = Promise.all(shares.map(async (share, i) => {
      if (this.#failure !== null) throw this.#failure.error;
      const { peer } = share.device;
      const { kind, layer, microBatch, shapes } = messages[i]!;
      const at = { step, layer, microBatch };
      const tensors = [{ dtype: "f32", shape: [...shapes[0]!], data: await values(share) }];
      await peer.send(kind === "input" ? kind : "deltaGradient", { ...at, tensors });
      const answer = answers[i]!;
      // The lowest layer answers nothing: nothing trainable lies below it.
      if (answer.kind === null) return new Float32Array(0);
      // A device answers in the order in which it was asked.
      const expected = { ...at, shapes: answer.shapes };
      const frame = await peer.receive(answer.kind === "delta" ? answer.kind : "inputGradient", expected);
      return frame.tensors[0]!.data as Float32Array;
    }));
    replies.catch(() => {}); // whoever waits gets the error; until then it is not unhandled
    return replies;
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
    await reading?.catch(() => {}); // the other promise fails with it
    try {
      return await this.#options.waits.track(promise);
    } catch (error) {
      this.#failure ??= { error };
      throw error;
    }
  }
}
