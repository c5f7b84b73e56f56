/**
 * The micro-batches of one layer between forward and backward, and the order in which their gradients are added up.
 *
 * @module
 */

import type { Tensor } from "@edgetuner/kernels";

/** What the forward pass of a layer and micro-batch keeps for the backward pass. */
export interface SavedActivations {
  /** Kept heads, [1, n]. */
  readonly heads: Tensor;
  /** The heads whose columns the dropout mask is drawn for; `null` without dropout here. */
  readonly dropped: Tensor | null;
  /** What the head modules read. */
  readonly x: Tensor;
  /** True if `x` is to be disposed with the rest. */
  readonly xOwned: boolean;
  /** A X of each target; none in modes without B. */
  readonly down: readonly Tensor[];
  /** T, tokens. */
  readonly length: number;
  /** Row of the whole batch that the micro-batch begins at. */
  readonly firstRow: number;
}

/** What is kept until the gradients of a micro-batch's weights are added up. */
export interface PendingGradients {
  /** What the forward pass kept. */
  readonly saved: SavedActivations;
  /** Gradients of the Deltas of each target. */
  readonly dDeltas: readonly Tensor[];
  /** Gradients of A X of each target; none in modes without B, where they are those of the Deltas. */
  readonly dDown: readonly Tensor[];
}

/** Which part of which step a micro-batch is of. */
export interface StepPart {
  /** Names step, mode and part. */
  readonly key: string;
  /** True if there are gradients of earlier parts of the step to add to. */
  readonly continued: boolean;
}

/**
 * One layer's micro-batches. Gradients of the weights are added up in the order of the micro-batches, whatever the
 * order in which they come back: the same bits every time.
 */
export class LayerMicroBatches implements Disposable {
  readonly #saved = new Map<number, SavedActivations>();
  readonly #pending = new Map<number, PendingGradients>();
  readonly #seen = new Set<number>();
  #part: StepPart = { key: "", continued: false };
  /** The micro-batch that is added next. */
  #next = 0;

  /** A micro-batch goes forward. Others may be back already, but not of another step, and none goes twice. */
  begin(index: number, part: StepPart): void {
    this.#forget(index);
    if (this.#part.key !== part.key || this.#seen.has(index)) this.#restart(part);
    this.#seen.add(index);
  }

  /** Keeps what the backward pass of a micro-batch needs. */
  save(index: number, saved: SavedActivations): void {
    this.#saved.set(index, saved);
  }

  /** What the forward pass of a micro-batch kept. */
  savedOf(index: number): SavedActivations | undefined {
    return this.#saved.get(index);
  }

  /** A micro-batch went back: its gradients wait for their turn. */
  defer(index: number, pending: PendingGradients): void {
    this.#saved.delete(index);
    this.#pending.set(index, pending);
  }

  /** The gradients whose turn it is, and whether they are added to what is there; each is freed after its use. */
  *due(): Generator<PendingGradients & { readonly accumulate: boolean }> {
    for (
      let pending = this.#pending.get(this.#next);
      pending !== undefined;
      pending = this.#pending.get(this.#next)
    ) {
      yield { ...pending, accumulate: this.#part.continued || this.#next > 0 };
      disposePending(pending);
      this.#pending.delete(this.#next++);
    }
  }

  /** Frees everything. */
  [Symbol.dispose](): void {
    for (const index of [...this.#saved.keys()]) this.#forget(index);
    this.#restart({ key: "", continued: false });
  }

  #forget(index: number): void {
    const saved = this.#saved.get(index);
    if (saved === undefined) return;
    disposeActivations(saved);
    this.#saved.delete(index);
  }

  /** The next gradients start anew, or are added to those of earlier parts of the step. */
  #restart(part: StepPart): void {
    for (const pending of this.#pending.values()) disposePending(pending);
    this.#pending.clear();
    this.#seen.clear();
    this.#next = 0;
    this.#part = part;
  }
}

/** Frees what a forward pass kept. */
export function disposeActivations({ x, xOwned, down }: SavedActivations): void {
  if (xOwned) x.dispose();
  for (const tensor of down) tensor.dispose();
}

function disposePending({ saved, dDeltas, dDown }: PendingGradients): void {
  disposeActivations(saved);
  for (const tensor of [...dDeltas, ...dDown]) tensor.dispose();
}
