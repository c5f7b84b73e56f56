/**
 * 3x3 convolution over small maps.
 *
 * B = batch, Cin and Cout = channels in and out, L x H = size of a map. A tensor of maps has one row per
 * element of the batch: channel c, place (l, h) is column (c * L + l) * H + h, so that a row is already
 * the flat input of a matrix product.
 *
 * @module
 */

import forwardSource from "./conv3x3.wgsl" with { type: "text" };
import inputSource from "./conv3x3_input_gradient.wgsl" with { type: "text" };
import weightSource from "./conv3x3_weight_gradient.wgsl" with { type: "text" };
import { defineKernel } from "../engine/kernel.ts";
import { roundUp4, type Tensor } from "../engine/tensor.ts";
import { CONV3X3 } from "../prelude/mod.ts";

const PARAMETERS = [
  "batch",
  "inputs",
  "outputs",
  "height",
  "width",
  "x_pitch",
  "weight_pitch",
  "y_pitch",
  "accumulate",
] as const;

function kernelsWith(relu: boolean) {
  const constants = { RELU: Number(relu) };
  const suffix = relu ? "_relu" : "";
  return {
    forward: defineKernel({
      name: `conv3x3${suffix}`,
      file: "conv/conv3x3.wgsl",
      source: forwardSource,
      preludes: [CONV3X3],
      bindings: ["x", "weight", "bias", "y"],
      parameters: PARAMETERS,
      constants,
    }),
    input: defineKernel({
      name: `conv3x3_input_gradient${suffix}`,
      file: "conv/conv3x3_input_gradient.wgsl",
      source: inputSource,
      preludes: [CONV3X3],
      bindings: ["y", "dy", "weight", "dx"],
      parameters: PARAMETERS,
      constants,
    }),
    weight: defineKernel({
      name: `conv3x3_weight_gradient${suffix}`,
      file: "conv/conv3x3_weight_gradient.wgsl",
      source: weightSource,
      preludes: [CONV3X3],
      bindings: ["x", "y", "dy", "dweight", "dbias"],
      parameters: PARAMETERS,
      constants,
    }),
  };
}

const PLAIN = kernelsWith(false);
const RELU = kernelsWith(true);

/** Weights of a convolution, and what kind it is. */
export interface Conv3x3Options {
  /** [Cout, Cin * 9]: tap (a, b) of input channel c is column c * 9 + a * 3 + b and reads place (l + a - 1, h + b - 1). */
  readonly weight: Tensor;
  /** [1, Cout] */
  readonly bias: Tensor;
  /** L, rows of a map. */
  readonly height: number;
  /** H, columns of a map. */
  readonly width: number;
  /** True for y = max(0, convolution). @default {false} */
  readonly relu?: boolean;
}

function shapeOf(
  x: Tensor,
  { weight, bias, height, width }: Conv3x3Options,
): Record<typeof PARAMETERS[number], number> {
  const size = height * width;
  const inputs = x.columns / size;
  if (!Number.isInteger(inputs) || weight.columns !== inputs * 9) {
    throw new TypeError(
      `Cannot convolve as x "${x.label}" [${x.rows}, ${x.columns}] must hold weight columns / 9 maps of ${height} x ${width}: the weight has ${weight.columns} columns`,
    );
  }
  if (bias.rows !== 1 || bias.columns !== weight.rows) {
    throw new TypeError(
      `Cannot convolve as the bias must be [1, ${weight.rows}]: it is [${bias.rows}, ${bias.columns}]`,
    );
  }
  return {
    batch: x.rows,
    inputs,
    outputs: weight.rows,
    height,
    width,
    x_pitch: x.pitch,
    weight_pitch: weight.pitch,
    y_pitch: roundUp4(weight.rows * size),
    accumulate: 0,
  };
}

/**
 * 3x3 convolution with zero borders, and ReLU if asked for.
 *
 * @param x [B, Cin * L * H]
 * @returns y [B, Cout * L * H]; the caller's to dispose.
 * @throws {TypeError} If shapes do not fit.
 */
export function conv3x3(x: Tensor, options: Conv3x3Options): Tensor {
  const parameters = shapeOf(x, options);
  const { engine } = x;
  const y = engine.tensor(x.rows, parameters.outputs * options.height * options.width, "conv3x3");
  engine.dispatch((options.relu ? RELU : PLAIN).forward, {
    bindings: { x, weight: options.weight, bias: options.bias, y },
    parameters,
    workgroups: [Math.ceil(y.pitch / 64), x.rows],
  });
  return y;
}

/** Arguments of the gradients: those of the forward pass, and what came of it. */
export interface Conv3x3BackwardOptions extends Conv3x3Options {
  /** Result of the forward pass, [B, Cout * L * H]. */
  readonly y: Tensor;
  /** Gradient of the result, [B, Cout * L * H]. */
  readonly dy: Tensor;
}

/**
 * Gradient of the input.
 *
 * @param x Input of the forward pass, [B, Cin * L * H].
 * @param dx Tensor of the shape of `x` to add to. @default {a new one that is overwritten}
 * @returns dx; the caller's to dispose.
 */
export function conv3x3InputGradient(x: Tensor, options: Conv3x3BackwardOptions, dx?: Tensor): Tensor {
  const { engine } = x;
  const out = dx ?? engine.tensor(x.rows, x.columns, "conv3x3 dx");
  engine.dispatch((options.relu ? RELU : PLAIN).input, {
    bindings: { y: options.y, dy: options.dy, weight: options.weight, dx: out },
    parameters: { ...shapeOf(x, options), accumulate: Number(dx !== undefined) },
    workgroups: [Math.ceil(x.pitch / 64), x.rows],
  });
  return out;
}

/**
 * Gradients of weight and bias, added to what is there.
 *
 * @param x Input of the forward pass, [B, Cin * L * H].
 * @param gradients `dweight` [Cout, Cin * 9] and `dbias` [1, Cout], added to.
 */
export function conv3x3WeightGradients(
  x: Tensor,
  options: Conv3x3BackwardOptions,
  gradients: { readonly dweight: Tensor; readonly dbias: Tensor },
): void {
  const parameters = shapeOf(x, options);
  x.engine.dispatch((options.relu ? RELU : PLAIN).weight, {
    bindings: { x, y: options.y, dy: options.dy, dweight: gradients.dweight, dbias: gradients.dbias },
    parameters,
    workgroups: [Math.ceil((parameters.inputs * 9 + 1) / 64), parameters.outputs],
  });
}
