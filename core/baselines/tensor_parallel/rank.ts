/**
 * A rank's part of a step in tensor parallelism: its share of every layer, forward and back.
 *
 * A layer has two **blocks**: 2 l is norm 1, attention and projection, 2 l + 1 is norm 2 and the
 * feed-forward network. A block's input h and the gradient of its output are the same on every rank;
 * what a rank computes of the output, and of the gradient of h, are parts that are summed over the
 * ranks. The edge server's part includes residual and biases, so the sum is the next h, or its gradient.
 *
 * T tokens, d hidden size, D head size, n heads of the share, f feed-forward columns of the share.
 *
 * @module
 */

import { type Engine, gatherHeadColumns, scatterAddHeadColumns, type Tensor } from "@edgetuner/kernels";
import type { EdgeHeads, EdgePlace } from "../../lora/edge_heads.ts";
import type { HeadModules } from "../../lora/head_modules.ts";
import { LORA_TARGETS } from "../../lora/settings.ts";
import { attentionOp, feedForwardOp, linearOp, loraLinearOp, normOp } from "../../model/ops.ts";
import type { Gpt2Layer } from "../../model/families/gpt2.ts";
import type { HeadPort, HeadStatistics, HeadStep, PendingSum, StepMode } from "../../contracts/ports.ts";
import { Parameter, Tape, type Variable } from "../../model/tape.ts";
import type { StepSize } from "./shares.ts";

/** The head modules of a rank beside its own columns of Q, K and V, [T, 3 n D]; nothing is pruned. */
class ShardHeads implements HeadPort {
  readonly #modules: HeadModules;
  readonly #step: HeadStep;
  readonly #edge: EdgeHeads;

  constructor(modules: HeadModules, step: HeadStep) {
    const { engine, input, options } = modules;
    this.#modules = modules;
    this.#step = step;
    this.#edge = input.edge({ engine, lora: options.lora, model: options, seed: options.seed });
  }

  beginStep(): Promise<void> {
    return Promise.resolve();
  }

  /** All heads of the share, as indices in it. */
  get #all(): number[] {
    return Array.from({ length: this.#modules.options.range.count }, (_, i) => i);
  }

  /** Where a target's columns of the share lie in Q, K and V. */
  #columns(target: typeof LORA_TARGETS[number]) {
    const { headSize, options } = this.#modules;
    const first = LORA_TARGETS.indexOf(target) * options.range.count * headSize;
    return { first, headSize, heads: this.#modules.headList(this.#all) };
  }

  /** Which heads' part of X is meant. */
  #place(layer: number): EdgePlace {
    const { step, mode } = this.#step;
    const list = this.#all.map((i) => this.#modules.options.range.first + i);
    return {
      layer,
      kept: { list, upload: (heads) => this.#modules.headList(heads) },
      step,
      mode,
      firstRow: 0,
    };
  }

  forward(layer: number, x: Tensor): PendingSum {
    const { lora } = this.#modules.options;
    const { step, mode } = this.#step;
    const { input, owned } = this.#edge.gather(x, this.#place(layer));
    const deltas = this.#modules.forward(layer, this.#all, input, { step, mode, ownsInput: owned });
    return {
      addTo: (qkv) => {
        deltas.forEach((delta, k) => {
          scatterAddHeadColumns(delta, qkv, this.#columns(lora.targets[k]!));
          delta.dispose();
        });
        return Promise.resolve();
      },
    };
  }

  backward(
    layer: number,
    dqkv: Tensor,
    { needsInput }: { readonly needsInput: boolean },
  ): PendingSum | null {
    const { lora } = this.#modules.options;
    const dDeltas = lora.targets.map((target) => gatherHeadColumns(dqkv, this.#columns(target)));
    const dx = this.#modules.backward(layer, dDeltas, { step: this.#step.step, needsInput });
    for (const tensor of dDeltas) tensor.dispose();
    if (dx === null) return null;
    return {
      addTo: (target) => {
        this.#edge.addGradient(dx, target, this.#place(layer));
        dx.dispose();
        return Promise.resolve();
      },
    };
  }

  endStep(): Promise<HeadStatistics> {
    const { step, mask } = this.#step;
    return this.#modules.update(step, mask, []);
  }
}

/** A rank's share of the layers, on its GPU. */
export class ModelShard implements Disposable {
  readonly #engine: Engine;
  readonly #epsilon: number;
  readonly #layers: Gpt2Layer[] = [];

  /**
   * A share without layers yet.
   *
   * @param engine Where.
   * @param epsilon Added to the norms' variances.
   */
  constructor(engine: Engine, epsilon: number) {
    this.#engine = engine;
    this.#epsilon = epsilon;
  }

  /**
   * Puts the next layer's weights on the GPU.
   *
   * @param values As `cutShard` returns them.
   * @param shapes As `shardShapes` returns them.
   * @param biases Biases of projection and down, [d] each, on the edge server; elsewhere they count as zero.
   */
  addLayer(
    values: readonly Float32Array[],
    shapes: readonly (readonly [number, number])[],
    biases?: readonly [Float32Array, Float32Array],
  ): void {
    const l = this.#layers.length;
    const upload = (name: string, data: Float32Array, [rows, columns]: readonly [number, number]) =>
      new Parameter(`${name} of layer ${l}`, this.#engine.upload(data, rows, columns, `${name} ${l}`));
    const names = [
      "norm 1",
      "norm 1",
      "QKV",
      "QKV bias",
      "projection",
      "norm 2",
      "norm 2",
      "up",
      "up bias",
      "down",
    ];
    const [gamma1, beta1, qkv, qkvBias, projection, gamma2, beta2, up, upBias, down] = names.map((name, i) =>
      upload(name, values[i]!, shapes[i]!)
    ) as [Parameter, ...Parameter[]];
    const [projectionBias, downBias] = ["projection bias", "down bias"].map((name, i) =>
      upload(name, biases?.[i] ?? new Float32Array(gamma1.value.columns), [1, gamma1.value.columns])
    );
    this.#layers.push({
      norm1: [gamma1, beta1!],
      qkv: [qkv!, qkvBias!],
      projection: [projection!, projectionBias!],
      norm2: [gamma2!, beta2!],
      up: [up!, upBias!],
      down: [down!, downBias!],
    });
  }

  /**
   * Begins a step.
   *
   * @param modules The head modules of the share.
   * @param options Step, mode and size; whether this rank adds residual and biases.
   */
  begin(
    modules: HeadModules,
    options: StepSize & { readonly step: number; readonly mode: StepMode; readonly root: boolean },
  ): ShardStep {
    return new ShardStep(
      this.#engine,
      { layers: this.#layers, epsilon: this.#epsilon },
      modules,
      options,
    );
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    for (const layer of this.#layers) {
      for (const parameter of Object.values(layer).flat() as Parameter[]) parameter[Symbol.dispose]();
    }
    this.#layers.length = 0;
  }
}

/** What a block keeps for the way back. */
interface PassedBlock {
  readonly tape: Tape;
  readonly input: Variable;
  readonly output: Variable;
}

/** A rank's part of one step: blocks forward in order, then back in order. */
export class ShardStep implements Disposable {
  readonly #engine: Engine;
  readonly #layers: readonly Gpt2Layer[];
  readonly #epsilon: number;
  readonly #options: StepSize & { readonly mode: StepMode; readonly root: boolean };
  readonly #heads: ShardHeads;
  readonly #count: number;
  readonly #passed: PassedBlock[] = [];

  /** Made by `ModelShard.begin`. */
  constructor(
    engine: Engine,
    { layers, epsilon }: { readonly layers: readonly Gpt2Layer[]; readonly epsilon: number },
    modules: HeadModules,
    options: StepSize & { readonly step: number; readonly mode: StepMode; readonly root: boolean },
  ) {
    const { range } = modules.options;
    this.#engine = engine;
    this.#layers = layers;
    this.#epsilon = epsilon;
    this.#options = options;
    this.#count = range.count;
    this.#heads = new ShardHeads(modules, {
      step: options.step,
      mode: options.mode,
      mask: new Uint8Array(layers.length * range.count),
    });
  }

  /**
   * This rank's part of a block's output.
   *
   * @param block Block, from 0; one after the other.
   * @param h The block's input, [T, d]; owned from now on.
   * @returns [T, d]; belongs to the step, and in evaluation stays until the next block only.
   */
  async forward(block: number, h: Tensor): Promise<Tensor> {
    const { batch, length, mode, root } = this.#options;
    if (mode === "evaluate") this.#forget();
    const tape = new Tape(this.#engine, { training: mode === "train" });
    // Nothing trainable lies below layer 0, so E needs no gradient.
    const input = tape.variable(h, { needsGradient: block > 0 });
    const passed: { -readonly [K in keyof PassedBlock]: PassedBlock[K] } = { tape, input, output: input };
    this.#passed.push(passed);
    const layer = this.#layers[block >> 1]!;
    const residual = root ? input : null;
    if (block % 2 === 0) {
      const x = normOp(tape, input, layer.norm1, this.#epsilon);
      const qkv = await loraLinearOp(tape, x, layer.qkv, { layer: block >> 1, heads: this.#heads });
      const mixed = attentionOp(tape, qkv, { batch, length, heads: this.#count });
      passed.output = linearOp(tape, mixed, layer.projection, residual);
    } else {
      const x = normOp(tape, input, layer.norm2, this.#epsilon);
      passed.output = feedForwardOp(tape, x, layer, residual);
    }
    return passed.output.value;
  }

  /**
   * This rank's part of the gradient of a block's input; frees the block.
   *
   * @param gradient Gradient of the block's output, [T, d]; owned from now on.
   * @returns [T, d], the caller's to dispose; `null` for block 0, below which nothing is trained.
   */
  async backward(gradient: Tensor): Promise<Tensor | null> {
    const passed = this.#passed.pop();
    if (passed === undefined) {
      gradient.dispose();
      throw new TypeError("Cannot go back through a block as one must have gone forward: none is left");
    }
    using tape = passed.tape;
    passed.output.addGradient(gradient);
    await tape.backward();
    return passed.input.needsGradient ? passed.input.takeGradient() : null;
  }

  /** Updates the head modules of the share. */
  async update(): Promise<void> {
    await this.#heads.endStep();
  }

  /** Frees what is kept for the way back. */
  [Symbol.dispose](): void {
    this.#forget();
  }

  #forget(): void {
    for (const { tape } of this.#passed.splice(0)) tape[Symbol.dispose]();
  }
}
