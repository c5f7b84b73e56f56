/**
 * What head modules were before their last update, for a step that begins again.
 *
 * @module
 */

import type { Engine, Tensor } from "@edgetuner/kernels";

/** What an update changes of a layer. */
export interface Updated {
  /** Weights. */
  readonly parameters: Tensor;
  /** First moments. */
  readonly m: Tensor;
  /** Second moments. */
  readonly v: Tensor;
  /** Updates of each head module so far. */
  readonly updates: Uint32Array;
}

const TENSORS = ["parameters", "m", "v"] as const;

/** One copy of each layer; the next update's takes its place. */
export class KeptCopy implements Disposable {
  readonly #engine: Engine;
  readonly #copies: (Updated | null)[];
  /** Layers that the last update has changed. */
  readonly #changed = new Set<number>();
  /** True if there is an update to go back from. */
  isTaken = false;

  /** Nothing is kept yet; the tensors are made when they are first needed. */
  constructor(engine: Engine, layers: number) {
    this.#engine = engine;
    this.#copies = Array(layers).fill(null);
  }

  /** An update begins; or there is nothing to go back to any more. */
  begin({ isTaken = false } = {}): void {
    this.#changed.clear();
    this.isTaken = isTaken;
  }

  /** A layer is about to change. */
  take(layer: number, now: Updated): void {
    const engine = this.#engine;
    const copy = this.#copies[layer] ??= {
      parameters: engine.tensor(now.parameters.rows, now.parameters.columns, "kept weights"),
      m: engine.tensor(now.m.rows, now.m.columns, "kept moments"),
      v: engine.tensor(now.v.rows, now.v.columns, "kept moments"),
      updates: new Uint32Array(now.updates.length),
    };
    for (const name of TENSORS) engine.copy(now[name], copy[name]);
    copy.updates.set(now.updates);
    this.#changed.add(layer);
  }

  /** The layers are again as they were when the last update began. */
  goBack(layers: readonly Updated[]): void {
    for (const layer of this.#changed) {
      const [now, copy] = [layers[layer]!, this.#copies[layer]!];
      for (const name of TENSORS) this.#engine.copy(copy[name], now[name]);
      now.updates.set(copy.updates);
    }
    this.begin();
  }

  /** Frees the copies. */
  [Symbol.dispose](): void {
    for (const copy of this.#copies) for (const name of TENSORS) copy?.[name].dispose();
    this.#copies.fill(null);
  }
}
