/**
 * What an edge server knows of each owner, where several people's data trains one model.
 *
 * @module
 */

import type { BestLoss, SharedValidationEvent, StepRecord } from "@edgetuner/core";

/** One owner, for the report. */
export interface OwnerSummary {
  /** Name of its device. */
  readonly name: string;
  /** Training steps of its data, or that parts of were. */
  steps: number;
  /** Validations on its data. */
  readonly validations: BestLoss[];
}

/** Follows the owners of a run. */
export class OwnersLog {
  readonly #owners = new Map<string, OwnerSummary>();

  /** All that have had a turn. */
  get all(): readonly OwnerSummary[] {
    return [...this.#owners.values()];
  }

  /** Takes in a step. */
  add({ mode, owners = [] }: StepRecord): void {
    if (mode !== "train") return;
    for (const name of owners) this.#of(name).steps++;
  }

  /** Takes in a validation. */
  tell({ step, owners }: SharedValidationEvent): void {
    for (const { name, loss } of owners) this.#of(name).validations.push({ step, loss });
  }

  /** Each owner's steps and losses, a line each; none where there is one data device. */
  get lines(): string[] {
    return this.all.map(({ name, steps, validations }) => {
      const [first, last] = [validations[0], validations.at(-1)];
      const losses = first === undefined || last === undefined
        ? ""
        : `, validation loss ${first.loss.toFixed(3)} before and ${last.loss.toFixed(3)} after`;
      return `Data of ${name}: ${steps} steps${losses}`;
    });
  }

  #of(name: string): OwnerSummary {
    let owner = this.#owners.get(name);
    if (owner === undefined) this.#owners.set(name, owner = { name, steps: 0, validations: [] });
    return owner;
  }
}

/** A validation in words. */
export function validationText({ step, loss, owners, without }: SharedValidationEvent): string {
  const each = owners.map((o) => `${o.name} ${o.loss.toFixed(3)}`).join(", ");
  const missing = without.map(({ name, reason }) =>
    `${name}, which ${reason === "away" ? "is away" : "does not tell its loss"}`
  );
  const of = missing.length === 0 ? "over all" : `over all but ${missing.join(", and ")}`;
  return `Validation before step ${step}: loss ${loss.toFixed(3)} ${of} (${each})`;
}
