/**
 * The LoRA head modules of one device: weights, forward, backward and update.
 *
 * T tokens, d hidden size, D head size, r rank, c targets, L layers, n kept heads.
 * `head_arena.ts` says where the weights lie.
 *
 * @module
 */

import { headSizeOf } from "../contracts/model_shape.ts";
import {
  adamw,
  adamwControl,
  dropout as dropoutOf,
  type Engine,
  fadeSegments,
  headGradient,
  headProduct,
  loraNorms,
  segmentChange,
  segmentNorms,
  type Tensor,
} from "@edgetuner/kernels";
import type { MicroBatch } from "../contracts/micro_batches.ts";
import type { HeadMode, HeadStatistics } from "../contracts/ports.ts";
import type { DeviceStatistic, StatisticName } from "../contracts/pruner.ts";
import { HeadLists } from "./_head_lists.ts";
import { KeptCopy, type Updated } from "./_kept_copy.ts";
import { HeadArena, type HeadModulesState, type HeadWeights } from "./head_arena.ts";
import type { HeadModulesOptions } from "./head_modules_options.ts";
import { disposeActivations, LayerMicroBatches } from "./_layer_micro_batches.ts";
import type { HeadSlots, InputMode } from "./input_mode.ts";
import { INPUT_MODES } from "./input_modes.ts";
import { adamwAt, headParameters, type ModeSize, modeSize } from "./settings.ts";

interface LayerState extends Updated {
  readonly gradients: Tensor;
  readonly microBatches: LayerMicroBatches;
}

/**
 * The head modules of one device.
 *
 * @category Adapters
 *
 * @example
 * ```ts
 * import { DEFAULT_LORA, DEFAULT_OPTIMIZER, HeadModules } from "@edgetuner/core";
 * import { Engine } from "@edgetuner/kernels";
 *
 * using engine = await Engine.create();
 * using modules = new HeadModules(engine, {
 *   lora: DEFAULT_LORA,
 *   optimizer: DEFAULT_OPTIMIZER,
 *   layers: 2,
 *   hidden: 32,
 *   heads: 4,
 *   range: { first: 0, count: 4 },
 *   seed: 1,
 *   steps: 10,
 * });
 * const weights = await modules.weights();
 * console.log(weights.length, weights[0]?.length); // layers, heads
 * ```
 */
export class HeadModules implements Disposable {
  /** The engine that they are on. */
  readonly engine: Engine;
  /** What they were made from. */
  readonly options: HeadModulesOptions;
  /** D, head size. */
  readonly headSize: number;
  /** Columns of A, see `InputMode.columns`. */
  readonly inputs: number;
  /** Rows of B, see `InputMode.outputs`. */
  readonly outputs: number;
  /** What the mode's shapes depend on. */
  readonly size: ModeSize;
  /** What a head module reads of X. */
  readonly input: InputMode;
  readonly #arena: HeadArena;
  readonly #layers: readonly LayerState[];
  readonly #headLists: HeadLists;
  readonly #kept: KeptCopy | null;

  /** Draws the initial weights. */
  constructor(engine: Engine, options: HeadModulesOptions) {
    const { lora, range, layers } = options;
    this.options = options;
    this.headSize = headSizeOf(options);
    this.input = INPUT_MODES[lora.mode];
    this.size = modeSize(lora, options);
    this.inputs = this.input.columns(this.size);
    this.outputs = this.input.outputs(this.size);
    this.engine = engine;
    this.#headLists = new HeadLists(engine);
    this.#kept = options.keepsCopy === true ? new KeptCopy(engine, layers) : null;
    this.#arena = new HeadArena({ lora, inputs: this.inputs, outputs: this.outputs, range });
    const { segment } = this.#arena;
    this.#layers = Array.from({ length: layers }, (_, layer) => {
      const initial = this.#arena.initial(layer, options.seed);
      return {
        parameters: engine.upload(initial, range.count, segment, `head modules of layer ${layer}`),
        gradients: engine.zeros(range.count, segment, `head gradients of layer ${layer}`),
        m: engine.zeros(range.count, segment, `head moments of layer ${layer}`),
        v: engine.zeros(range.count, segment, `head moments of layer ${layer}`),
        updates: new Uint32Array(range.count),
        microBatches: new LayerMicroBatches(),
      };
    });
  }

  /** Trainable numbers: L * H_m * c * (r * inputs + outputs * r). */
  get parameterCount(): number {
    const { lora, layers, range } = this.options;
    return layers * range.count * headParameters(lora, this.options);
  }

  /** [1, n] u32 on the GPU; the same list is uploaded once. */
  headList(list: readonly number[]): Tensor {
    return this.#headLists.of(list);
  }

  /**
   * Deltas of a layer's kept heads.
   *
   * @param layer Layer, from 0.
   * @param kept Kept heads, as indices within this device's range, ascending; at least one.
   * @param x What the edge server gives, of the shape of the input mode.
   * @param context Step and mode; whether `x` is to be disposed when it is no longer needed; the micro-batch that `x` is;
   * which part of the step it belongs to (0): gradients of the earlier ones are added to.
   * @returns For each target the Deltas, or what the edge server makes them of, [n * T, `deltaColumns`] head-major; the
   * caller's to dispose.
   */
  forward(
    layer: number,
    kept: readonly number[],
    x: Tensor,
    context: {
      readonly step: number;
      readonly mode: HeadMode;
      readonly ownsInput: boolean;
      readonly microBatch?: Pick<MicroBatch, "index" | "firstRow">;
      readonly part?: number;
    },
  ): Tensor[] {
    const { lora, range, seed } = this.options;
    const heads = this.headList(kept);
    const dropout = this.input.dropoutHeads(kept.map((h) => range.first + h));
    const dropped = dropout === null || lora.dropout === 0 ? null : this.headList(dropout);
    const training = context.mode !== "evaluate";
    const { index = 0, firstRow = 0 } = context.microBatch ?? {};
    const { part = 0 } = context;
    let input = x;
    let owned = context.ownsInput;
    if (training && dropped !== null) {
      input = dropoutOf(x, dropped, { rate: lora.dropout, seed, step: context.step, layer, firstRow });
      if (owned) x.dispose();
      owned = true;
    }
    const { parameters, microBatches } = this.#layers[layer]!;
    const read = this.#arena.matrices.map(({ a }, k) =>
      this.input.down(input, this.#slots({ arena: parameters, matrix: a, heads }, k))
    );
    // Without B what A gives is the answer, and needs no keeping.
    const [down, deltas] = this.outputs === 0 ? [[], read] : [
      read,
      this.#arena.matrices.map(({ b: matrix }, k) => {
        const alpha = lora.alpha / lora.rank;
        return headProduct({ x: read[k]!, arena: parameters, matrix, heads, transpose: true, alpha });
      }),
    ];
    microBatches.begin(index, { key: `${context.step} ${context.mode} ${part}`, continued: part > 0 });
    const length = deltas[0]!.rows / kept.length;
    const saved = { heads, dropped, x: input, xOwned: owned, down, length, firstRow };
    if (training) microBatches.save(index, saved);
    else disposeActivations(saved);
    return deltas;
  }

  /** Which part of the input a target reads. */
  #slots(slots: Pick<HeadSlots, "arena" | "matrix" | "heads">, target: number): HeadSlots {
    const parts = this.input.inputParts(this.size);
    return { ...slots, parts, part: parts === 1 ? 0 : target };
  }

  /**
   * Gradients of a layer's kept heads, from those of their Deltas. Gradients of the weights are added
   * up in the order of the micro-batches, whatever the order of the calls: the same bits every time.
   *
   * @param layer Layer, from 0, after its forward pass.
   * @param dDeltas One per target, as `forward` gave them; disposed once they are no longer needed.
   * @param context Step; whether the gradient of `x` is needed; the index of the micro-batch; whether the gradients of the weights wait for `accumulate`.
   * @returns Gradient of `x` through these heads, of the shape of `x`; the caller's to dispose.
   */
  backward(
    layer: number,
    dDeltas: readonly Tensor[],
    context: {
      readonly step: number;
      readonly needsInput: boolean;
      readonly microBatch?: number;
      readonly deferWeightGradients?: boolean;
    },
  ): Tensor | null {
    const { step, needsInput, microBatch = 0, deferWeightGradients = false } = context;
    const { parameters: arena, microBatches } = this.#layers[layer]!;
    const saved = microBatches.savedOf(microBatch);
    if (saved === undefined) {
      throw new TypeError(
        `Cannot go back through layer ${layer} as its forward pass must come first: it did not`,
      );
    }
    const { lora, seed } = this.options;
    const { heads, firstRow } = saved;
    const alpha = lora.alpha / lora.rank;
    const dDown = this.outputs === 0
      ? []
      : this.#arena.matrices.map(({ b }, k) =>
        headProduct({ x: dDeltas[k]!, arena, matrix: b, heads, alpha })
      );
    let dx: Tensor | null = null;
    if (needsInput) {
      for (const [k, { a }] of this.#arena.matrices.entries()) {
        const slots = this.#slots({ arena, matrix: a, heads }, k);
        dx = this.input.inputGradient(dDown[k] ?? dDeltas[k]!, slots, dx ?? undefined);
      }
    }
    if (dx !== null && saved.dropped !== null) {
      using unmasked = dx;
      dx = dropoutOf(unmasked, saved.dropped, { rate: lora.dropout, seed, step, layer, firstRow });
    }
    microBatches.defer(microBatch, { saved, dDeltas, dDown });
    if (!deferWeightGradients) this.accumulate(layer);
    return dx;
  }

  /** Adds up the gradients of a layer's weights over the micro-batches that went back, as far as they are in order. */
  accumulate(layer: number): void {
    const { lora } = this.options;
    const { gradients: arena, microBatches } = this.#layers[layer]!;
    const alpha = lora.alpha / lora.rank;
    for (const { saved: { heads, x, down, length }, dDeltas, dDown, accumulate } of microBatches.due()) {
      const options = { length, accumulate };
      this.#arena.matrices.forEach(({ a, b }, k) => {
        if (this.outputs > 0) {
          headGradient({ heads, arena, ...options, a: dDeltas[k]!, b: down[k]!, matrix: b, alpha });
        }
        const slots = this.#slots({ arena, matrix: a, heads }, k);
        this.input.gradientOfA(dDown[k] ?? dDeltas[k]!, x, slots, options);
      });
    }
  }

  /**
   * One AdamW update of the head modules that were not pruned. Pruned ones keep moments, their count of updates, and
   * their weights but for what fades of them, see `prunedFade`.
   *
   * @param step Step, for the learning rate.
   * @param mask [L * H_m], 1 = pruned.
   * @param needs Statistics to return.
   * @param clip Factor of the gradients, see `clipFactor`. @default {1}
   * @returns Statistics of this step's gradients, before the factor, and of the weights after the update, [L * H_m].
   */
  async update(
    step: number,
    mask: Uint8Array,
    needs: readonly StatisticName[],
    clip = 1,
  ): Promise<HeadStatistics> {
    const { optimizer, steps, range, layers, prunedFade: fade = 1 } = this.options;
    using factor = clip === 1
      ? null
      : this.engine.upload(Float32Array.of(clip, 0, 0, 0), 1, 4, "clip factor");
    const settings = adamwAt(optimizer, step, steps);
    // What the GPU measures, one row [1, H_m] per layer.
    const rows: Partial<Record<DeviceStatistic, Tensor[]>> = {};
    if (needs.includes("gradientNorm")) rows.gradientNorm = [];
    if (needs.includes("weightChange")) rows.weightChange = [];
    this.#kept?.begin({ isTaken: true });
    const measures = Object.keys(rows).length > 0;
    for (let l = 0; l < layers; l++) {
      const state = this.#layers[l]!;
      const active = new Uint32Array(range.count);
      const isKept = (i: number) => mask[l * range.count + i] === 0;
      const isFading = fade < 1 && !active.every((_, i) => isKept(i));
      if (isFading || active.some((_, i) => isKept(i))) this.#kept?.take(l, state);
      for (let i = 0; i < range.count; i++) if (isKept(i)) active[i] = ++state.updates[i]!;
      if (active.every((t) => t === 0) && !measures && !isFading) continue;
      const values = adamwControl(active, optimizer.beta1, optimizer.beta2);
      using control = this.engine.upload(values, range.count, 4, "adamw control");
      rows.gradientNorm?.push(this.#gradientNorms(state, control));
      using before = rows.weightChange === undefined ? null : this.#copyOf(state.parameters);
      adamw(state, { segment: this.#arena.segment, control, clip: factor ?? undefined }, settings);
      if (isFading) fadeSegments(state.parameters, { matrices: this.#arena.faded, control, factor: fade });
      if (before !== null) {
        rows.weightChange!.push(
          segmentChange(state.parameters, before, { segment: this.#arena.segment, control }),
        );
      }
    }
    this.engine.flush();
    const statistics: Partial<Record<DeviceStatistic, Float32Array>> = measures ? await this.#maps(rows) : {};
    if (needs.includes("loraNorm")) statistics.loraNorm = await this.#loraNorms();
    return statistics;
  }

  /** Drops all that was kept and added up of a step that is not over. */
  discard(): void {
    for (const { microBatches } of this.#layers) microBatches[Symbol.dispose]();
  }

  /** True if `goBack` has an update to undo. */
  get canGoBack(): boolean {
    return this.#kept?.isTaken === true;
  }

  /**
   * Weights, moments and counts of updates are again those of before the last update; once.
   *
   * @throws {TypeError} Without `keepsCopy`.
   */
  goBack(): void {
    if (this.#kept === null) throw new TypeError("Cannot go back as a copy must be kept: it is not");
    this.#kept.goBack(this.#layers);
  }

  /** There is no update to go back from any more: steps have passed without one. */
  forgetCopy(): void {
    this.#kept?.begin();
  }

  /**
   * Norms of the gradients of the last backward pass of every head, none of which was pruned, as
   * `update` returns them; nothing is updated.
   *
   * @returns `gradientNorm`, [L * H_m].
   */
  async gradientNorms(): Promise<Float32Array> {
    using control = this.#allActive();
    const gradientNorm = this.#layers.map((state) => this.#gradientNorms(state, control));
    return (await this.#maps({ gradientNorm })).gradientNorm!;
  }

  /**
   * What these head modules add to the squared global norm of a step's gradients.
   *
   * @param mask [L * H_m], 1 = pruned: does not count.
   * @returns The sum of the squares of all gradients of the kept heads' weights, rounded to f32.
   */
  async squaredGradientNorm(mask: Uint8Array): Promise<number> {
    const { count } = this.options.range;
    const rows = this.#layers.map((state, l) => {
      const active = mask.subarray(l * count, (l + 1) * count).map((z) => 1 - z);
      using control = this.engine.upload(adamwControl(active, 0, 0), count, 4, "kept heads");
      return segmentNorms(state.gradients, { segment: this.#arena.segment, control });
    });
    const norms = await this.engine.read(rows);
    for (const row of rows) row.dispose();
    return Math.fround(norms.reduce((sum, layer) => layer.reduce((sum, norm) => sum + norm * norm, sum), 0));
  }

  #allActive(): Tensor {
    const { count } = this.options.range;
    return this.engine.upload(new Float32Array(count * 4).fill(1), count, 4, "all heads active");
  }

  #gradientNorms(state: LayerState, control: Tensor): Tensor {
    return segmentNorms(state.gradients, { segment: this.#arena.segment, control, scale: 1 / 3 });
  }

  #copyOf(tensor: Tensor): Tensor {
    const copy = this.engine.tensor(tensor.rows, tensor.columns, `earlier ${tensor.label}`);
    this.engine.copy(tensor, copy);
    return copy;
  }

  /** Reads rows [1, H_m] of all layers back, joins them to maps [L * H_m] and disposes them. */
  async #maps(
    rows: Partial<Record<DeviceStatistic, readonly Tensor[]>>,
  ): Promise<Partial<Record<DeviceStatistic, Float32Array>>> {
    const { layers, range } = this.options;
    const entries = Object.entries(rows) as [DeviceStatistic, readonly Tensor[]][];
    const all = entries.flatMap(([, tensors]) => tensors);
    const values = await this.engine.read(all);
    for (const tensor of all) tensor.dispose();
    return Object.fromEntries(entries.map(([name], k) => {
      const map = new Float32Array(layers * range.count);
      for (let l = 0; l < layers; l++) map.set(values[k * layers + l]!, l * range.count);
      return [name, map];
    }));
  }

  /**
   * Reads the weights back.
   *
   * @returns For each layer, head of the range and target: A and B.
   */
  weights(): Promise<HeadWeights[][][]> {
    return this.#read("parameters");
  }

  /**
   * Replaces the weights; moments and counts of updates start again.
   *
   * @param weights As `weights` returns them.
   * @throws {TypeError} If an array has another length.
   */
  load(weights: readonly (readonly (readonly HeadWeights[])[])[]): void {
    this.#kept?.begin();
    this.#layers.forEach((state, l) => {
      this.engine.write(state.parameters, this.#arena.pack(weights[l], l));
      this.engine.clear(state.m);
      this.engine.clear(state.v);
      state.updates.fill(0);
    });
  }

  /**
   * Reads back all that the next steps depend on: `restore` makes head modules that go on with the same bits.
   *
   * @returns Weights, moments and counts of updates, as they are after the last update.
   */
  async state(): Promise<HeadModulesState> {
    const [weights, m, v] = await Promise.all([this.#read("parameters"), this.#read("m"), this.#read("v")]);
    const { count } = this.options.range;
    const updates = new Uint32Array(this.#layers.length * count);
    this.#layers.forEach((layer, l) => updates.set(layer.updates, l * count));
    return { weights, m, v, updates };
  }

  /**
   * Goes on from what `state` returned.
   *
   * @param state Of head modules with the same LoRA settings, layers and number of heads.
   * @throws {TypeError} If an array has another length.
   */
  restore(state: HeadModulesState): void {
    const { count } = this.options.range;
    if (state.updates.length !== this.#layers.length * count) {
      throw new TypeError(
        `Cannot restore head modules as there must be ${
          this.#layers.length * count
        } counts of updates: current length is ${state.updates.length}`,
      );
    }
    this.#kept?.begin();
    // All are checked before the first is written.
    const arenas = this.#layers.map((_, l) => ({
      parameters: this.#arena.pack(state.weights[l], l),
      m: this.#arena.pack(state.m[l], l),
      v: this.#arena.pack(state.v[l], l),
    }));
    this.#layers.forEach((layer, l) => {
      for (const which of ["parameters", "m", "v"] as const) {
        this.engine.write(layer[which], arenas[l]![which]);
      }
      layer.updates.set(state.updates.subarray(l * count, (l + 1) * count));
    });
  }

  /** Reads the last step's gradients back, in the form of `weights`; for tests. */
  gradients(): Promise<HeadWeights[][][]> {
    return this.#read("gradients");
  }

  /** Frees everything. */
  [Symbol.dispose](): void {
    this.#kept?.[Symbol.dispose]();
    for (const { parameters, gradients, m, v, microBatches } of this.#layers) {
      microBatches[Symbol.dispose]();
      for (const tensor of [parameters, gradients, m, v]) tensor.dispose();
    }
    this.#headLists[Symbol.dispose]();
  }

  async #read(which: "parameters" | "gradients" | "m" | "v"): Promise<HeadWeights[][][]> {
    const arenas = await this.engine.read(this.#layers.map((l) => l[which]));
    return arenas.map((arena) => this.#arena.unpack(arena));
  }

  /**
   * ||(alpha / r) B A||_F over the targets of each head module, [L * H_m]. Without B, ||(alpha / r) A||_F: what the
   * edge server has before and behind it is not known here.
   */
  async #loraNorms(): Promise<Float32Array> {
    const { lora } = this.options;
    const scale = lora.alpha / lora.rank;
    if (this.outputs === 0) {
      using control = this.#allActive();
      const form = { segment: this.#arena.segment, control, scale };
      const rows = this.#layers.map(({ parameters }) => segmentNorms(parameters, form));
      return (await this.#maps({ loraNorm: rows })).loraNorm!;
    }
    const { inputs, outputs } = this;
    const form = { targets: lora.targets.length, rank: lora.rank, inputs, outputs, scale };
    using norms = loraNorms(this.#layers.map(({ parameters }) => parameters), form);
    return await norms.read();
  }
}
