/**
 * The head modules of a device, as they take part in the steps of a run: a method for each message.
 *
 * T tokens, D head size, n kept heads of a layer, c targets.
 *
 * @module
 */

import type { Engine, Tensor } from "@edgetuner/kernels";
import type { RunClock } from "../contracts/clock.ts";
import { ProtocolError } from "../contracts/errors.ts";
import { type AccumulationStep, WHOLE_STEP } from "../contracts/micro_batches.ts";
import { showValue } from "../contracts/plain_text.ts";
import type { HeadMode, HeadStatistics } from "../contracts/ports.ts";
import type { DeviceStatistic } from "../contracts/pruner.ts";
import type { HeadModules } from "../lora/head_modules.ts";
import type { Frame, FrameOf } from "../protocol/frame.ts";
import {
  describePass,
  type DeviceHeads,
  type Exchange,
  FlowCursor,
  inLane,
  keptOfDevice,
  type PassDescription,
  type SplitShape,
  splitShape,
} from "../protocol/pass.ts";
import { inputRows } from "../lora/input_mode.ts";
import type { Peer } from "../protocol/peer.ts";
import { AnswerWatch } from "../protocol/took.ts";
import { type RunProgress, takeEnd } from "./run_end.ts";
import type { SaveHooks } from "../train/saving.ts";
import type { Welcome } from "./welcome.ts";

/** What head modules take part with. */
export interface HeadDeviceOptions {
  /** The edge server. */
  readonly peer: Peer;
  /** The engine of the head modules. */
  readonly engine: Engine;
  /** The head modules. */
  readonly modules: HeadModules;
  /** What the edge server said at the start. */
  readonly welcome: Welcome;
  /** How far the device is; kept up to date. */
  readonly state: RunProgress;
  /** What to do where a step's state is to be saved. */
  readonly saves: SaveHooks;
  /** Called with head modules that are the best so far, after `step` training steps; see `UserDeviceOptions.onBest`. */
  onBest?(step: number, modules: HeadModules, away: readonly number[]): void | Promise<void>;
  /** Called after each training step with this device's part of the head mask, [L * H_m], 1 = pruned. */
  onStep?(step: number, mask: Uint8Array): void;
  /** The clock: in virtual time nothing takes time here. @default {the wall's} */
  readonly clock?: RunClock | undefined;
}

/** Where the device is within a step. */
interface HeadStepState {
  readonly step: number;
  readonly mode: HeadMode;
  readonly heads: DeviceHeads;
  /** Which part of the step it is. */
  readonly accumulation: AccumulationStep;
  /** True if the state after it is to be saved. */
  readonly isSaved: boolean;
  /** Rows of each micro-batch. */
  readonly rows: readonly number[];
  /** All that this device takes and sends. */
  readonly pass: PassDescription;
  /** Where it is in each micro-batch. */
  readonly cursors: readonly FlowCursor[];
  /** True while the factor of the gradients is waited for. */
  isClipped: boolean;
  /** True once its update is done. */
  isOver: boolean;
}

/** Answers what the edge server asks of a device's head modules. */
export class HeadDevice {
  #options: HeadDeviceOptions;
  readonly #run: SplitShape;
  readonly #watch: AnswerWatch;
  #current: HeadStepState | null = null;
  /** What the codec goes back to if the step begins again. */
  #streams: ReturnType<Peer["keepStreams"]> = new Map();
  /** Steps whose state is to be saved once it is sure that they are over. */
  #unsaved: number | null = null;
  /** Steps of the run when the device came back with a step that it must finish; `null` where it has none. */
  #late: number | null = null;

  /** See `HeadDeviceOptions`. */
  constructor(options: HeadDeviceOptions) {
    this.#options = options;
    this.#watch = new AnswerWatch(options.clock);
    const { model, settings, statistics } = options.welcome;
    this.#run = splitShape(model, settings, { statistics: statistics.length });
  }

  /** A training step that has begun here and whose update is missing; `null` if there is none. */
  get unfinished(): number | null {
    const current = this.#current;
    return current?.mode === "train" && !current.isOver ? current.step : null;
  }

  /**
   * Goes on over another connection with the step that is unfinished: what is missing of it comes first.
   *
   * @param peer The edge server.
   * @param start Training steps of the run so far.
   */
  goOnOver(peer: Peer, start: number): void {
    this.#options = { ...this.#options, peer };
    this.#streams = new Map();
    this.#late = start;
  }

  /**
   * Takes part until the run ends.
   *
   * @throws {ProtocolError} If a message is not the one that the step has next.
   */
  async run(): Promise<void> {
    const { peer, state } = this.#options;
    for (;;) {
      const frame = await peer.next("heads", "the next step");
      this.#watch.begin(frame);
      if (frame.kind === "end") return takeEnd(frame, state);
      if (frame.kind === "mask") await this.#mask(frame);
      else if (frame.kind === "clip") await this.#clip(frame);
      else if (frame.kind === "restart") this.#restart(frame);
      else await this.#question(frame);
    }
  }

  /** The state of a step that was to be saved when the run ended: nobody says any more that it begins again. */
  async saveLast(): Promise<void> {
    const step = this.#unsaved;
    this.#unsaved = null;
    if (step !== null) await this.#options.saves.trained(step, true);
  }

  /** The state that was to be saved is none of the run. */
  forgetUnsaved(): void {
    this.#unsaved = null;
  }

  /** The step begins again: what was done in it does not count. */
  #restart({ step, attempt = 0 }: FrameOf<"restart">): void {
    const { peer, modules, state } = this.#options;
    const wasUpdated = state.steps === step + 1;
    if (!wasUpdated && state.steps !== step) {
      throw new ProtocolError(
        `Cannot begin step ${step} again as it must be the last one: ${state.steps} are done`,
      );
    }
    peer.beginAttempt("heads", attempt, this.#streams);
    modules.discard();
    if (wasUpdated) modules.goBack();
    state.steps = step;
    this.#current = this.#unsaved = null;
  }

  /** A step begins, or another part of it. */
  async #mask(frame: FrameOf<"mask">): Promise<void> {
    const { saves, state, modules, peer } = this.#options;
    const before = this.#current;
    if (before !== null && (!isDone(before) || before.isClipped)) {
      throw new ProtocolError(
        `Cannot begin step ${frame.step} as step ${before.step} must be done: it is not`,
      );
    }
    const current = this.#current = this.#begin(frame, before);
    if (current.accumulation.index === 0) {
      this.#streams = peer.keepStreams("heads");
      // The step before is over for everyone now.
      await this.saveLast();
    }
    if (current.isSaved && current.accumulation.index === 0) await saves.announced();
    const { best = false, away = [] } = frame.meta;
    if (best) await this.#options.onBest?.(state.steps, modules, away);
    if (isDone(current)) await this.#finishPart(current);
  }

  /** Something of a layer: it must be what the step has next. */
  async #question(frame: Frame): Promise<void> {
    const current = this.#current;
    if (current === null) {
      throw new ProtocolError(`Cannot handle "${frame.kind}" as a step must have begun: none has`);
    }
    const { step, cursors } = current;
    const { microBatch = 0 } = frame;
    const cursor = cursors[microBatch];
    if (cursor === undefined) {
      throw new ProtocolError(
        `Cannot go on with step ${step} as micro-batches must be below ${cursors.length}: current value is ${microBatch}`,
      );
    }
    const exchange = cursor.next;
    if (exchange === null) {
      throw new ProtocolError(
        `Unexpected "${frame.kind}" in step ${step}: micro-batch ${microBatch} is done`,
      );
    }
    const { kind, layer, shapes } = exchange.messages[0]!;
    const expected = { step, layer, microBatch, shapes };
    const { peer } = this.#options;
    if (kind === "input") await this.#input(peer.check(frame, kind, expected), exchange, current);
    else await this.#deltaGradient(peer.check(frame, "deltaGradient", expected), exchange);
    cursor.advance();
    if (isDone(current) && current.mode !== "evaluate") await this.#finishPart(current);
  }

  /** X of a layer: its Deltas are answered. */
  async #input(frame: FrameOf<"input">, { answers }: Exchange, current: HeadStepState): Promise<void> {
    const { engine, modules, peer } = this.#options;
    const { step, layer, microBatch: index = 0, tensors } = frame;
    const { shape, data } = tensors[0]!;
    const x = this.#upload(data as Float32Array, shape, "input");
    const firstRow = current.rows.slice(0, index).reduce((sum, n) => sum + n, current.accumulation.firstRow);
    const deltas = modules.forward(layer, keptOfDevice(current.heads, layer), x, {
      step,
      mode: current.mode,
      ownsInput: true,
      microBatch: { index, firstRow },
      part: current.accumulation.index,
    });
    const values = await engine.read(deltas);
    for (const delta of deltas) delta.dispose();
    const answer = { dtype: "f32", shape: [...answers[0]!.shapes[0]!], data: join(values) };
    await peer.send("delta", { step, layer, microBatch: index, meta: this.#watch.end(), tensors: [answer] });
    if (current.rows.length > 1) await engine.yieldToEventLoop();
  }

  /** Gradients of the Deltas: that of X is answered, unless nothing is trained below. */
  async #deltaGradient(frame: FrameOf<"deltaGradient">, { answers }: Exchange): Promise<void> {
    const { engine, modules, peer, welcome } = this.#options;
    const { step, layer, microBatch = 0, tensors } = frame;
    const { shape: [targets, ...shape], data } = tensors[0]!;
    const size = data.length / targets!;
    const dDeltas = Array.from(
      { length: targets! },
      (_, k) =>
        this.#upload((data as Float32Array).subarray(k * size, (k + 1) * size), shape, "delta gradient"),
    );
    const { kind, shapes } = answers[0]!;
    const needsInput = kind !== null;
    // What the edge server waits for comes first: the gradients of the weights are added up afterwards.
    const deferWeightGradients = welcome.settings.overlap && needsInput;
    const dx = modules.backward(layer, dDeltas, { step, needsInput, microBatch, deferWeightGradients });
    if (dx !== null) {
      const [values] = await engine.read([dx]);
      dx.dispose();
      const answer = { dtype: "f32", shape: [...shapes[0]!], data: values! };
      await peer.send("inputGradient", {
        step,
        layer,
        microBatch,
        meta: this.#watch.end(),
        tensors: [answer],
      });
    }
    if (!deferWeightGradients) return;
    await engine.yieldToEventLoop();
    modules.accumulate(layer);
    engine.flush();
  }

  /** After a step's last part: the update, unless the factor of the gradients comes first. */
  async #finishPart(current: HeadStepState): Promise<void> {
    const { step, mode, accumulation, pass, heads } = current;
    if (mode === "evaluate" || accumulation.index + 1 < accumulation.count) return;
    if (pass.clip === null) return await this.#update(current, 1);
    const { modules, peer } = this.#options;
    current.isClipped = true;
    const data = Float32Array.of(await modules.squaredGradientNorm(heads.mask));
    await peer.send("squaredNorm", {
      step,
      meta: this.#watch.end(),
      tensors: [{ dtype: "f32", shape: [1], data }],
    });
  }

  /** The factor of all gradients. */
  async #clip(frame: FrameOf<"clip">): Promise<void> {
    const current = this.#current;
    if (current?.isClipped !== true) {
      throw new ProtocolError(`Cannot handle "clip" as the norm of a step must have been told: it has not`);
    }
    const { step } = current;
    const { tensors } = this.#options.peer.check(frame, "clip", { step, shapes: [[1]] });
    const factor = tensors[0]!.data[0]!;
    if (!(factor >= 0 && factor <= 1)) {
      throw new ProtocolError(
        `Cannot clip step ${step} as the factor must be from 0 to 1: current value is ${factor}`,
      );
    }
    current.isClipped = false;
    await this.#update(current, factor);
  }

  /** The update, and what is sent for it. */
  async #update(current: HeadStepState, factor: number): Promise<void> {
    const { step, mode, pass, heads, isSaved } = current;
    const { modules, welcome, state, peer } = this.#options;
    const { mask } = heads;
    const { settle, clip } = pass;
    const statistics: HeadStatistics = mode === "probe"
      ? { gradientNorm: await modules.gradientNorms() }
      : await modules.update(step, mask, welcome.statistics, factor);
    const message = (clip?.answers ?? settle).find(({ kind }) => kind === "statistics");
    if (message !== undefined) {
      const names: readonly DeviceStatistic[] = mode === "probe" ? ["gradientNorm"] : welcome.statistics;
      await peer.send("statistics", {
        step,
        meta: this.#watch.end(),
        tensors: message.shapes.map((shape, i) => ({
          dtype: "f32",
          shape: [...shape],
          data: statistics[names[i]!] ?? new Float32Array(mask.length),
        })),
      });
    }
    if (mode === "probe") return;
    current.isOver = true;
    state.steps = step + 1;
    this.#options.onStep?.(step, mask);
    if (isSaved) this.#unsaved = state.steps;
    else await this.#options.saves.trained(state.steps, false);
    if (this.#late !== null && this.#late > state.steps) {
      // The run has gone on meanwhile.
      state.steps = this.#late;
      modules.forgetCopy();
    }
    this.#late = null;
  }

  /** Reads the beginning of a step, or of another part of it. */
  #begin(frame: FrameOf<"mask">, before: HeadStepState | null): HeadStepState {
    const { layers } = this.#run;
    const { count } = this.#options.modules.options.range;
    this.#options.peer.check(frame, "mask", { shapes: [[layers, count]] });
    const { step, meta: { mode, lowest, rows, save } } = frame;
    const mask = frame.tensors[0]!.data as Uint8Array;
    if ((mode === "probe" && mask.includes(1)) || mask.some((z) => z > 1) || lowest > layers) {
      throw new ProtocolError(
        `Cannot begin step ${step} as its mask must be 0 or 1, in a probe 0, and its lowest layer at most ${layers}: they are not`,
      );
    }
    const accumulation = readPart(frame, before);
    if (accumulation.index > 0 && (mode !== "train" || mask.some((z, i) => z !== before!.heads.mask[i]))) {
      throw new ProtocolError(
        `Cannot go on with step ${step} as all its parts must be training with one mask: part ${accumulation.index} is not`,
      );
    }
    const heads = { count, mask };
    const microBatches = rows.map((rows) => ({ rows }));
    const pass = describePass({ run: this.#run, mode, microBatches, accumulation, devices: [heads], lowest });
    const cursors = pass.flows.map((flow) => new FlowCursor(inLane(flow, "heads")));
    return {
      step,
      mode,
      heads,
      accumulation,
      isSaved: mode === "train" && save === true,
      rows,
      pass,
      cursors,
      isClipped: false,
      isOver: false,
    };
  }

  /** The last dimension is columns, the others are rows. */
  #upload(data: Float32Array, shape: readonly number[], label: string): Tensor {
    const { rows, columns } = inputRows(shape);
    return this.#options.engine.upload(data, rows, columns, label);
  }
}

function isDone({ cursors }: HeadStepState): boolean {
  return cursors.every((cursor) => cursor.isDone);
}

/** Which part of a step a mask begins: the first, or the one after the last. */
function readPart({ meta, step }: FrameOf<"mask">, before: HeadStepState | null): AccumulationStep {
  const [index, count, firstRow] = meta.part ?? [0, 1, 0];
  const within = before !== null && before.accumulation.index + 1 < before.accumulation.count;
  const fits = within
    ? step === before.step && index === before.accumulation.index + 1 &&
      count === before.accumulation.count &&
      firstRow > before.accumulation.firstRow
    : index === 0 && firstRow === 0;
  if (!fits) {
    throw new ProtocolError(
      `Cannot begin step ${step} as ${
        within ? `part ${before.accumulation.index + 1} of step ${before.step}` : "the first part of a step"
      } must come next: current value is ${showValue(meta.part ?? null)}`,
    );
  }
  return meta.part === undefined ? WHOLE_STEP : { index, count, firstRow };
}

function join(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0]!;
  const joined = new Float32Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}
