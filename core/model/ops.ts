/**
 * Operations of transformer layers on the tape, shared by the families of models.
 *
 * @module
 */

import type { NamedArrays } from "../files/named_arrays.ts";
import { ModelFileError } from "../contracts/errors.ts";
import {
  addColumnSums,
  addScaled,
  attention,
  attentionBackward,
  type AttentionShape,
  headNorm,
  headNormBackward,
  type HeadNormOptions,
  layerNorm,
  layerNormBackward,
  layerNormParameterGradients,
  matmul,
  rmsNorm,
  rmsNormBackward,
  rope,
  type Tensor,
} from "@edgetuner/kernels";
import type { MatrixParameter, Parameter, Tape, Variable } from "./tape.ts";
import type { Normalised } from "./base.ts";
import type { LayerHeads } from "../contracts/ports.ts";

/**
 * Finds a weight whatever prefix the file uses, and checks its shape.
 *
 * @throws {ModelFileError} If it is missing or has another shape than [rows, columns], or [columns] for one row.
 */
export function weightOf(weights: NamedArrays, name: string, rows: number, columns: number): Float32Array {
  const found = weights.get(`transformer.${name}`) ?? weights.get(name);
  return checkedWeight(found, name, rows, columns).data;
}

export function checkedWeight<A extends { readonly shape: readonly number[] }>(
  found: A | undefined,
  name: string,
  rows: number,
  columns: number,
): A {
  if (found === undefined) {
    throw new ModelFileError(`Cannot load the model: "${name}" is missing`);
  }
  const shape = rows === 1 ? [columns] : [rows, columns];
  if (found.shape.length !== shape.length || found.shape.some((n, i) => n !== shape[i])) {
    throw new ModelFileError(
      `Cannot load the model as "${name}" must be [${shape}]: it is [${found.shape}]`,
    );
  }
  return found;
}

/** Layer norm outside a tape, as final norm. */
export function layerNormalised(
  x: Tensor,
  [gamma, beta]: readonly [Parameter, Parameter],
  epsilon: number,
): Normalised {
  const { y, statistics } = layerNorm(x, gamma.value, beta.value, epsilon);
  return {
    y,
    backward(dy) {
      if (gamma.gradient !== null && beta.gradient !== null) {
        layerNormParameterGradients({ x, statistics, dy, dgamma: gamma.gradient, dbeta: beta.gradient });
      }
      return layerNormBackward({ x, gamma: gamma.value, statistics, dy });
    },
    [Symbol.dispose]() {
      y.dispose();
      statistics.dispose();
    },
  };
}

/**
 * A linear layer's weight and bias, if it has one. The weight is stored [in, out], as in GPT-2's files,
 * or [out, in], as in most others'.
 */
export type LinearWeights = readonly [weight: MatrixParameter, bias: Parameter | null, stored?: "outIn"];

/** Layer norm. */
export function normOp(
  tape: Tape,
  x: Variable,
  [gamma, beta]: readonly [Parameter, Parameter],
  epsilon: number,
): Variable {
  const { y, statistics } = layerNorm(x.value, gamma.value, beta.value, epsilon);
  tape.own(statistics);
  const out = tape.variable(y, { needsGradient: x.needsGradient || gamma.gradient !== null });
  if (out.needsGradient) {
    tape.record(() => {
      using dy = out.takeGradient();
      if (gamma.gradient !== null && beta.gradient !== null) {
        layerNormParameterGradients({
          x: x.value,
          statistics,
          dy,
          dgamma: gamma.gradient,
          dbeta: beta.gradient,
        });
      }
      if (x.needsGradient) {
        x.accumulate((dx) =>
          layerNormBackward({
            x: x.value,
            gamma: gamma.value,
            statistics,
            dy,
            dx,
            accumulate: dx !== undefined,
          })
        );
      }
    });
  }
  return out;
}

/** Gradients of a linear layer's weight and bias, if they are trained. */
function addLinearGradients(x: Tensor, dy: Tensor, [weight, bias, stored]: LinearWeights): void {
  if (weight.gradient !== null) {
    const [a, b] = stored === "outIn" ? [dy, x] : [x, dy];
    matmul(a, b, { transposeA: true, out: weight.gradient, accumulate: true });
  }
  if (bias !== null && bias.gradient !== null) addColumnSums(dy, bias.gradient);
}

/** Gradient of a linear layer's input, added to what is there. */
export function addInputGradient(x: Variable, dy: Tensor, [weight, , stored]: LinearWeights): void {
  if (!x.needsGradient) return;
  const transposeB = stored !== "outIn";
  x.accumulate((dx) => matmul(dy, weight.value, { transposeB, out: dx, accumulate: dx !== undefined }));
}

/** y = x W + b + residual; without a residual where that is added elsewhere. */
export function linearOp(
  tape: Tape,
  x: Variable,
  weights: LinearWeights,
  residual: Variable | null,
): Variable {
  const [weight, bias, stored] = weights;
  const transposeB = stored === "outIn";
  const y = matmul(x.value, weight.value, { transposeB, bias: bias?.value, residual: residual?.value });
  const out = tape.variable(y, {
    needsGradient: x.needsGradient || residual?.needsGradient === true || weight.gradient !== null,
  });
  if (out.needsGradient) {
    tape.record(() => {
      const dy = out.takeGradient();
      addLinearGradients(x.value, dy, weights);
      addInputGradient(x, dy, weights);
      if (residual?.needsGradient) residual.addGradient(dy);
      else dy.dispose();
    });
  }
  return out;
}

/** y = gelu(x W1 + b1) W2 + b2 + residual; without a residual where that is added elsewhere. */
export function feedForwardOp(
  tape: Tape,
  x: Variable,
  { up, down }: Readonly<Record<"up" | "down", readonly [MatrixParameter, Parameter]>>,
  residual: Variable | null,
): Variable {
  const { engine, rows } = x.value;
  const before = tape.own(engine.tensor(rows, up[0].value.columns, "before gelu"));
  const inner = tape.own(matmul(x.value, up[0].value, { bias: up[1].value, geluInput: before }));
  const y = matmul(inner, down[0].value, { bias: down[1].value, residual: residual?.value });
  const out = tape.variable(y, {
    needsGradient: x.needsGradient || residual?.needsGradient === true || up[0].gradient !== null,
  });
  if (out.needsGradient) {
    tape.record(() => {
      const dy = out.takeGradient();
      addLinearGradients(inner, dy, down);
      using dBefore = matmul(dy, down[0].value, { transposeB: true, geluGradOf: before });
      addLinearGradients(x.value, dBefore, up);
      addInputGradient(x, dBefore, up);
      if (residual?.needsGradient) residual.addGradient(dy);
      else dy.dispose();
    });
  }
  return out;
}

/** Causal multi-head attention. */
export function attentionOp(tape: Tape, qkv: Variable, shape: AttentionShape): Variable {
  const { output, logSums } = attention(qkv.value, shape);
  tape.own(logSums);
  const out = tape.variable(output, { needsGradient: qkv.needsGradient });
  if (out.needsGradient) {
    tape.record(() => {
      using dOutput = out.takeGradient();
      qkv.addGradient(attentionBackward({ qkv: qkv.value, output, logSums, dOutput, ...shape }));
    });
  }
  return out;
}

/**
 * Q, K and V with the heads' Deltas. The heads' work is started first and the base product is
 * computed while it is under way, in both directions.
 */
export async function loraLinearOp(
  tape: Tape,
  x: Variable,
  weights: LinearWeights,
  { layer, heads }: { readonly layer: number; readonly heads: LayerHeads | null } = { layer: 0, heads: null },
): Promise<Variable> {
  const [weight, bias, stored] = weights;
  const pending = heads?.forward(layer, x.value) ?? null;
  if (pending?.before !== undefined) await pending.before;
  const qkv = matmul(x.value, weight.value, { transposeB: stored === "outIn", bias: bias?.value });
  const out = tape.variable(qkv, {
    needsGradient: x.needsGradient || pending !== null || weight.gradient !== null,
  });
  if (pending !== null) {
    tape.engine.flush();
    await pending.addTo(qkv);
  }
  if (out.needsGradient) {
    tape.record(async () => {
      using dqkv = out.takeGradient();
      const pendingInput = pending === null
        ? null
        : heads!.backward(layer, dqkv, { needsInput: x.needsGradient });
      if (pendingInput?.before !== undefined) await pendingInput.before;
      addLinearGradients(x.value, dqkv, weights);
      addInputGradient(x, dqkv, weights);
      if (pendingInput !== null) {
        tape.engine.flush();
        await pendingInput.addTo(x.gradient!);
      }
    });
  }
  return out;
}

/** RMS norm with a frozen gain, plus a residual if there is one. */
export function rmsNormOp(
  tape: Tape,
  x: Variable,
  { value: gamma }: Parameter,
  { epsilon, residual = null }: { readonly epsilon: number; readonly residual?: Variable | null },
): Variable {
  const { y, statistics } = rmsNorm(x.value, gamma, epsilon);
  tape.own(statistics);
  if (residual !== null) addScaled(residual.value, y);
  const out = tape.variable(y, { needsGradient: x.needsGradient || residual?.needsGradient === true });
  if (out.needsGradient) {
    tape.record(() => {
      const dy = out.takeGradient();
      if (x.needsGradient) {
        x.accumulate((dx) =>
          rmsNormBackward({ x: x.value, gamma, statistics, dy, dx, accumulate: dx !== undefined })
        );
      }
      if (residual?.needsGradient) residual.addGradient(dy);
      else dy.dispose();
    });
  }
  return out;
}

/** RMS norm of each head's queries and keys, with frozen gains. */
export function headNormOp(tape: Tape, qkv: Variable, options: HeadNormOptions): Variable {
  const out = tape.variable(headNorm(qkv.value, options), { needsGradient: qkv.needsGradient });
  if (out.needsGradient) {
    tape.record(() => {
      const gradient = out.takeGradient();
      headNormBackward(qkv.value, gradient, options);
      qkv.addGradient(gradient);
    });
  }
  return out;
}

/** Rotary positions, in place: of `qkv` now, of its gradient on the way back. */
export function ropeOp(
  tape: Tape,
  qkv: Variable,
  options: {
    readonly table: Tensor;
    readonly heads: number;
    readonly length: number;
    readonly first: number;
  },
): void {
  rope(qkv.value, options);
  if (!qkv.needsGradient) return;
  tape.record(() => {
    const gradient = qkv.takeGradient();
    rope(gradient, { ...options, inverse: true });
    qkv.addGradient(gradient);
  });
}
