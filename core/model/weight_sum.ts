/**
 * Adding up what weights take on the GPU.
 *
 * @module
 */

import { type GroupsAlong, weightBytes } from "@edgetuner/kernels";
import type { BaseWeights } from "./weights.ts";

/** Adds up bytes of weights as they are loaded. */
export class WeightSum {
  bytes = 0;

  constructor(readonly format: BaseWeights, readonly groupsAlong: GroupsAlong) {}

  /** A matrix in the format. */
  matrix(rows: number, columns: number, groupsAlong = this.groupsAlong): this {
    this.bytes += weightBytes({ format: this.format, rows, columns, groupsAlong });
    return this;
  }

  /** Norms, biases and tables, in f32. */
  plain(rows: number, columns: number, count = 1): this {
    this.bytes += count * weightBytes({ format: "f32", rows, columns, groupsAlong: "columns" });
    return this;
  }
}
