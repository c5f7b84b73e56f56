/**
 * The shape of a base model, as parties of a run tell each other.
 *
 * @module
 */

/** Shape of the model, as devices need it. */
export interface ModelShape {
  /** L, layers. */
  readonly layers: number;
  /** H, heads per layer. */
  readonly heads: number;
  /** d, hidden size. */
  readonly hidden: number;
}
