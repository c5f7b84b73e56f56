/**
 * Validation on several people's data: one figure for all, by tokens, and one for each.
 *
 * @module
 */

import type { LossResult } from "../contracts/ports.ts";
import type { SavedTurns } from "../train/data_turns.ts";
import { TokenMean } from "../train/token_mean.ts";

/** What one owner's validation data gave. */
export interface OwnerLoss {
  /** Name of the owner. */
  readonly name: string;
  /** Loss of all its validation data, in nats. */
  readonly loss: number;
  /** Tokens that it is the mean of. */
  readonly counted: number;
}

/** An owner whose data is not in a validation. */
export interface AbsentOwner {
  /** Name of the owner. */
  readonly name: string;
  /** Why: it does not tell its loss, or it was not there to the end. */
  readonly reason: "refused" | "away";
}

/** A validation on all data. */
export interface SharedValidationEvent {
  /** Training steps before it. */
  readonly step: number;
  /** The loss, by tokens, of all who tell theirs. */
  readonly loss: number;
  /** Tokens that it is the mean of. */
  readonly counted: number;
  /** True if no loss of a validation on the same owners' data was lower. */
  readonly isBest: boolean;
  /** Each owner's. */
  readonly owners: readonly OwnerLoss[];
  /** Owners whose data it is not of. */
  readonly without: readonly AbsentOwner[];
}

/** The best validation, in a state. */
export interface SharedBest {
  /** Its loss. */
  readonly loss: number;
  /** Training steps before it. */
  readonly step: number;
  /** Keys of the owners whose data it is of. */
  readonly keys: readonly string[];
}

/** What the turns of several people's data go on from. */
export interface SavedSharing {
  /** The turns. */
  readonly turns: readonly SavedTurns[];
  /** The best validation so far; `null` if there was none. */
  readonly best: SharedBest | null;
}

/** One owner in the validation that is under way. */
interface Part {
  batches: number;
  readonly mean: TokenMean;
  counted: number;
  isDone: boolean;
}

/** Validations of a run. */
export class SharedValidation {
  #best: SharedBest | null;
  #step = -1;
  #parts = new Map<string, Part>();
  #isTold = true;

  /**
   * Begins before the first.
   *
   * @param best The best of the state that the run goes on from. @default {null, none}
   */
  constructor(best: SharedBest | null = null) {
    this.#best = best;
  }

  /** The best so far; `null` before the first. */
  get best(): SharedBest | null {
    return this.#best;
  }

  /** A validation is due; nothing happens if it is the one that is under way or done. */
  begin(step: number): void {
    if (step === this.#step) return;
    this.#step = step;
    this.#parts = new Map();
    this.#isTold = false;
  }

  /** Batches of an owner that have been evaluated: the number of the next one. */
  batches(key: string): number {
    return this.#parts.get(key)?.batches ?? 0;
  }

  /** True once an owner's validation data is done, or the whole validation. */
  isDone(key: string): boolean {
    return this.#isTold || this.#parts.get(key)?.isDone === true;
  }

  /** A batch of an owner is evaluated; `null` if it does not tell its loss. */
  add(key: string, result: LossResult | null): void {
    const part = this.#part(key);
    part.batches++;
    const { loss = null, counted = 0 } = result ?? {};
    if (loss === null) return;
    part.mean.add(loss, counted);
    part.counted += counted;
  }

  /** An owner has no further validation data; what it tells of all of it, where it told nothing of its batches. */
  finish(key: string, told: LossResult | null = null): void {
    const part = this.#part(key);
    part.isDone = true;
    const { loss = null, counted = 0 } = told ?? {};
    // What nobody was asked for counts for nothing.
    if (loss === null || part.counted > 0 || part.batches === 0) return;
    part.mean.add(loss, counted);
    part.counted = counted;
  }

  /**
   * The validation is over.
   *
   * @param names Names of the owners.
   * @returns What it gave, once; `null` if nobody told a loss.
   */
  end(names: ReadonlyMap<string, string>): SharedValidationEvent | null {
    if (this.#isTold) return null;
    this.#isTold = true;
    const all = new TokenMean();
    const owners: OwnerLoss[] = [];
    const keys: string[] = [];
    let counted = 0;
    for (const [key, part] of this.#parts) {
      // Who is lost in the middle has not told what its data gives.
      if (!part.isDone || part.counted === 0) continue;
      keys.push(key);
      owners.push({ name: names.get(key) ?? key, loss: part.mean.value, counted: part.counted });
      all.add(part.mean.value, part.counted);
      counted += part.counted;
    }
    if (owners.length === 0) return null;
    const loss = all.value;
    const isBest = this.#isBest(loss, keys);
    if (isBest) this.#best = { loss, step: this.#step, keys };
    return { step: this.#step, loss, counted, isBest, owners, without: this.#without(names, keys) };
  }

  /** Owners with validation data, or who are not there to say so, whose loss is not in it. */
  #without(names: ReadonlyMap<string, string>, keys: readonly string[]): AbsentOwner[] {
    return [...names].flatMap(([key, name]) => {
      const { isDone = false, batches = 0 } = this.#parts.get(key) ?? {};
      if (keys.includes(key) || (isDone && batches === 0)) return [];
      return [{ name, reason: isDone ? "refused" as const : "away" as const }];
    });
  }

  /** Losses of fewer owners' data do not compare; those of more begin anew. */
  #isBest(loss: number, keys: readonly string[]): boolean {
    const best = this.#best;
    if (best === null) return true;
    if (!best.keys.every((key) => keys.includes(key))) return false;
    return keys.length > best.keys.length || loss < best.loss;
  }

  #part(key: string): Part {
    let part = this.#parts.get(key);
    if (part === undefined) {
      part = { batches: 0, mean: new TokenMean(), counted: 0, isDone: false };
      this.#parts.set(key, part);
    }
    return part;
  }
}
