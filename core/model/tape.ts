/**
 * Forward and backward: operations record how to go back, the tape goes back through them.
 *
 * @module
 */

import {
  adamw,
  adamwControl,
  type AdamWSettings,
  addScaled,
  type Engine,
  type PackedMatrix,
  Tensor,
} from "@edgetuner/kernels";

/**
 * A tensor of the computation and, if anything trainable lies before it, its gradient.
 */
export class Variable {
  /** The value. */
  readonly value: Tensor;
  /** True if the backward pass must reach it. */
  readonly needsGradient: boolean;
  /** Gradient so far; `null` until something was added. */
  gradient: Tensor | null = null;

  /** Made by `Tape.variable` and operations. */
  constructor(value: Tensor, { needsGradient }: { readonly needsGradient: boolean }) {
    this.value = value;
    this.needsGradient = needsGradient;
  }

  /** Adds to the gradient and takes ownership of `gradient`. */
  addGradient(gradient: Tensor): void {
    if (this.gradient === null) {
      this.gradient = gradient;
    } else {
      addScaled(gradient, this.gradient);
      gradient.dispose();
    }
  }

  /**
   * Lets a kernel write or add to the gradient itself.
   *
   * @param compute Gets the gradient so far, to add to, or `undefined`, to make a new tensor; returns it.
   */
  accumulate(compute: (into: Tensor | undefined) => Tensor): void {
    this.gradient = compute(this.gradient ?? undefined);
  }

  /** Takes the gradient away, for an operation that passes it on; the caller then owns it. */
  takeGradient(): Tensor {
    const gradient = this.gradient;
    if (gradient === null) {
      throw new TypeError("Cannot go back as a gradient must have been added: there is none");
    }
    this.gradient = null;
    return gradient;
  }
}

/**
 * A weight of a model. Frozen weights have no gradient and no moments; they alone can be packed.
 */
export class Parameter<V extends Tensor | PackedMatrix = Tensor> implements Disposable {
  /** Name as in the checkpoint. */
  readonly name: string;
  /** The weight, [rows, columns]. */
  readonly value: V;
  /** Gradient, same shape; `null` if frozen. Zeroed by `zeroGradient`, added to by the backward pass. */
  readonly gradient: Tensor | null;
  readonly #m: Tensor | null;
  readonly #v: Tensor | null;
  #updates = 0;

  /**
   * Takes a weight; trainable ones get a gradient and moments.
   *
   * @param name Name as in the checkpoint.
   * @param value The weight; owned from now on.
   * @param options Whether it is trained. @default {{ trainable: false }}
   * @throws {TypeError} If it is packed and to be trained.
   */
  constructor(name: string, value: V, { trainable = false }: { readonly trainable?: boolean } = {}) {
    if (trainable && !(value instanceof Tensor)) {
      throw new TypeError(
        `Cannot train "${name}" as weights that are trained must be f32: current value is "${value.format}"`,
      );
    }
    this.name = name;
    this.value = value;
    const { engine, rows, columns } = value;
    this.gradient = trainable ? engine.zeros(rows, columns, `d ${name}`) : null;
    this.#m = trainable ? engine.zeros(rows, columns, `m of ${name}`) : null;
    this.#v = trainable ? engine.zeros(rows, columns, `v of ${name}`) : null;
  }

  /**
   * The weight as a plain tensor, where f32 is needed: to train it or to write it to a file.
   *
   * @throws {TypeError} If it is packed.
   */
  get plain(): Tensor {
    const { value } = this;
    if (value instanceof Tensor) return value;
    throw new TypeError(
      `Cannot use "${this.name}" as it must be f32 for that: current value is "${value.format}"`,
    );
  }

  /** Sets the gradient to zero before a step. */
  zeroGradient(): void {
    if (this.gradient !== null) this.gradient.engine.clear(this.gradient);
  }

  /** One AdamW update with the gradient added up so far. */
  update(settings: AdamWSettings, clip?: Tensor): void {
    if (this.gradient === null || this.#m === null || this.#v === null) return;
    const { engine, rows, pitch } = this.plain;
    this.#updates++;
    using control = engine.upload(
      adamwControl([this.#updates], settings.beta1, settings.beta2),
      1,
      4,
      "adamw control",
    );
    adamw(
      { parameters: this.plain, gradients: this.gradient, m: this.#m, v: this.#v },
      { segment: rows * pitch, control, clip },
      settings,
    );
  }

  /** Frees the weight, its gradient and its moments. */
  [Symbol.dispose](): void {
    this.value.dispose();
    this.gradient?.dispose();
    this.#m?.dispose();
    this.#v?.dispose();
  }
}

/** A matrix of a model, as plain f32 or, frozen, packed. */
export type MatrixParameter = Parameter<Tensor | PackedMatrix>;

/**
 * Records operations and owns the tensors between them: declare it with `using`, and everything
 * that a step made is freed at the end of the scope.
 */
export class Tape implements Disposable {
  /** The engine of all tensors on this tape. */
  readonly engine: Engine;
  /** False for evaluation: nothing is recorded. */
  readonly training: boolean;
  readonly #owned: Tensor[] = [];
  readonly #variables: Variable[] = [];
  readonly #backward: (() => void | Promise<void>)[] = [];

  /**
   * Starts an empty tape.
   *
   * @param engine The engine of all tensors on this tape.
   * @param options `training` is false for evaluation: nothing is recorded.
   */
  constructor(engine: Engine, { training }: { readonly training: boolean }) {
    this.engine = engine;
    this.training = training;
  }

  /** Hands a tensor to the tape, which frees it at the end. */
  own(tensor: Tensor): Tensor {
    this.#owned.push(tensor);
    return tensor;
  }

  /**
   * Puts a value on the tape, which owns it from now on.
   *
   * @param value The value.
   * @param options `needsGradient` is true if something trainable lies before it.
   */
  variable(value: Tensor, { needsGradient }: { readonly needsGradient: boolean }): Variable {
    const variable = new Variable(this.own(value), { needsGradient: needsGradient && this.training });
    this.#variables.push(variable);
    return variable;
  }

  /** Records how to go back through an operation. Called in reverse order by `backward`. */
  record(backward: () => void | Promise<void>): void {
    if (this.training) this.#backward.push(backward);
  }

  /** Goes back through everything recorded. The caller has set the gradient of the last variable. */
  async backward(): Promise<void> {
    for (let step = this.#backward.pop(); step !== undefined; step = this.#backward.pop()) {
      const waiting = step();
      if (waiting !== undefined) await waiting;
    }
  }

  /** Frees everything on the tape. */
  [Symbol.dispose](): void {
    for (const tensor of this.#owned) tensor.dispose();
    for (const variable of this.#variables) {
      variable.gradient?.dispose();
      variable.gradient = null;
    }
    this.#owned.length = 0;
    this.#variables.length = 0;
    this.#backward.length = 0;
  }
}
