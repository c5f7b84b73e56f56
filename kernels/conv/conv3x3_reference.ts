/**
 * 3x3 convolution in double precision: slow, readable, what the kernels are compared with.
 *
 * @module
 */

/** Shape of a convolution: B, Cin, Cout, L and H. */
export interface Conv3x3Shape {
  /** B, maps that are convolved apart from each other. */
  readonly batch: number;
  /** Cin, channels in. */
  readonly inputs: number;
  /** Cout, channels out. */
  readonly outputs: number;
  /** L, rows of a map. */
  readonly height: number;
  /** H, columns of a map. */
  readonly width: number;
  /** True for y = max(0, convolution). */
  readonly relu: boolean;
}

/** Calls `visit` with the places of x, weight and y of every product of the convolution. */
function forEachTap(shape: Conv3x3Shape, visit: (x: number, weight: number, y: number) => void): void {
  const { batch, inputs, outputs, height, width } = shape;
  const place = (image: number, i: number, j: number) => (image * height + i) * width + j;
  for (let n = 0; n < batch; n++) {
    for (let o = 0; o < outputs; o++) {
      for (let i = 0; i < height; i++) {
        for (let j = 0; j < width; j++) {
          for (let c = 0; c < inputs; c++) {
            for (let tap = 0; tap < 9; tap++) {
              const i2 = i + Math.floor(tap / 3) - 1, j2 = j + tap % 3 - 1;
              if (i2 < 0 || i2 >= height || j2 < 0 || j2 >= width) continue;
              visit(
                place(n * inputs + c, i2, j2),
                (o * inputs + c) * 9 + tap,
                place(n * outputs + o, i, j),
              );
            }
          }
        }
      }
    }
  }
}

/** y [B, Cout * L * H] of x [B, Cin * L * H], weight [Cout, Cin * 9] and bias [Cout]. */
export function conv3x3Reference(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  bias: ArrayLike<number>,
  shape: Conv3x3Shape,
): Float64Array {
  const { batch, outputs, height, width } = shape;
  const size = height * width;
  const y = Float64Array.from(
    { length: batch * outputs * size },
    (_, i) => bias[Math.floor(i / size) % outputs]!,
  );
  forEachTap(shape, (xi, wi, yi) => y[yi]! += x[xi]! * weight[wi]!);
  return shape.relu ? y.map((v) => Math.max(0, v)) : y;
}

/** Gradients of x, weight and bias from `dy`, the gradient of y. */
export function conv3x3BackwardReference(
  { x, weight, bias, dy }: Readonly<Record<"x" | "weight" | "bias" | "dy", ArrayLike<number>>>,
  shape: Conv3x3Shape,
): { readonly dx: Float64Array; readonly dweight: Float64Array; readonly dbias: Float64Array } {
  const { outputs, height, width } = shape;
  const y = conv3x3Reference(x, weight, bias, shape);
  const dsum = y.map((v, i) => shape.relu && v <= 0 ? 0 : dy[i]!);
  const dx = new Float64Array(x.length);
  const dweight = new Float64Array(weight.length);
  const dbias = new Float64Array(outputs);
  forEachTap(shape, (xi, wi, yi) => {
    dx[xi]! += weight[wi]! * dsum[yi]!;
    dweight[wi]! += x[xi]! * dsum[yi]!;
  });
  dsum.forEach((d, i) => dbias[Math.floor(i / (height * width)) % outputs]! += d);
  return { dx, dweight, dbias };
}
