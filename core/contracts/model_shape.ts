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
  /** D, head size. @default {hidden / heads} */
  readonly headSize?: number | undefined;
}

/** D, head size of a model: d / H unless it says another one. */
export function headSizeOf({ heads, hidden, headSize }: Omit<ModelShape, "layers">): number {
  return headSize ?? hidden / heads;
}

/** What devices need of a model's shape. The head size is there only where it is not d / H. */
export function shapeForDevices({ layers, heads, hidden, headSize }: ModelShape): ModelShape {
  return {
    layers,
    heads,
    hidden,
    ...(headSize === undefined || headSize === hidden / heads ? {} : { headSize }),
  };
}
