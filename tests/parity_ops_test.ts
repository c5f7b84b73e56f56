/** Single operations against PyTorch; see fixtures/parity/README.md. */

import { assert } from "@std/assert";
import { readSafetensors } from "../core/files/safetensors.ts";
import {
  adamw,
  adamwControl,
  attention,
  attentionBackward,
  crossEntropy,
  layerNorm,
  layerNormBackward,
  layerNormParameterGradients,
  matmul,
} from "@edgetuner/kernels";
import manifest from "./fixtures/parity/manifest.json" with { type: "json" };
import { readAll, testForms } from "./support/kernels.ts";
import { assertClose, TOLERANCE } from "./support/tolerance.ts";

const tensors = readSafetensors(
  await Deno.readFile(new URL("./fixtures/parity/ops.safetensors", import.meta.url)),
);
const settings = manifest.fixtures.ops;

/** A tensor of the fixture, flat. */
function values(name: string): Float32Array {
  const tensor = tensors.get(name);
  assert(tensor !== undefined, `ops.safetensors must hold "${name}"`);
  return tensor.data;
}

testForms("gelu equals PyTorch's, forward and back", async (engine) => {
  const [rows, columns] = [5, 37];
  // The epilogues of a product with the identity are the function alone.
  const identity = Float32Array.from(
    { length: columns * columns },
    (_, i) => i % (columns + 1) === 0 ? 1 : 0,
  );
  using one = engine.upload(identity, columns, columns);
  using x = engine.upload(values("gelu.x"), rows, columns);
  using dy = engine.upload(values("gelu.dy"), rows, columns);
  using geluInput = engine.tensor(rows, columns);
  using y = matmul(x, one, { geluInput });
  using dx = matmul(dy, one, { geluGradOf: geluInput });
  const [yValues, dxValues] = await readAll(y, dx);
  assertClose(yValues!, values("gelu.y"), TOLERANCE.sum, "y");
  assertClose(dxValues!, values("gelu.dx"), TOLERANCE.sum, "dx");
});

testForms("layer norm equals PyTorch's, forward and back", async (engine) => {
  const [rows, columns] = [5, 37];
  using x = engine.upload(values("layerNorm.x"), rows, columns);
  using gamma = engine.upload(values("layerNorm.gain"), 1, columns);
  using beta = engine.upload(values("layerNorm.bias"), 1, columns);
  using dy = engine.upload(values("layerNorm.dy"), rows, columns);
  const { y, statistics } = layerNorm(x, gamma, beta, settings.layerNorm.epsilon);
  using _y = y;
  using _statistics = statistics;
  using dx = layerNormBackward({ x, gamma, statistics, dy });
  using dgamma = engine.zeros(1, columns);
  using dbeta = engine.zeros(1, columns);
  layerNormParameterGradients({ x, statistics, dy, dgamma, dbeta });
  const results = await readAll(y, dx, dgamma, dbeta);
  ["y", "dx", "dGain", "dBias"].forEach((name, i) => {
    assertClose(results[i]!, values(`layerNorm.${name}`), TOLERANCE.sum, name);
  });
});

testForms("cross-entropy equals PyTorch's, with and without label smoothing", async (engine) => {
  const [rows, vocabulary] = [5, 37];
  const { targets, mask, labelSmoothing, maskSumOffset, loss, plainLoss } = settings.crossEntropy;
  const maskSum = mask.reduce((a, b) => a + b, 0);
  using targetTensor = engine.upload(Uint32Array.from(targets), 1, rows);
  using weights = engine.upload(Float32Array.from(mask, (m) => m / (maskSum + maskSumOffset)), 1, rows);
  for (
    const [smoothing, expectedLoss, gradient] of [
      [labelSmoothing, loss, "dLogits"],
      [0, plainLoss, "plainDLogits"],
    ] as const
  ) {
    using logits = engine.upload(values("crossEntropy.logits"), rows, vocabulary);
    using losses = crossEntropy({
      chunks: [{ logits, first: 0 }],
      targets: targetTensor,
      weights,
      vocabulary,
      smoothing,
      gradient: true,
    });
    const [lossValues, gradientValues] = await readAll(losses, logits);
    assertClose([lossValues!.reduce((a, b) => a + b, 0)], [expectedLoss], TOLERANCE.sum, "loss");
    assertClose(gradientValues!, values(`crossEntropy.${gradient}`), TOLERANCE.sum, gradient);
  }
});

testForms("attention equals PyTorch's, forward and back", async (engine) => {
  const [batch, heads, length, headSize] = [2, 3, 7, 8];
  const d = heads * headSize;
  const rows = batch * length;
  /** [B, H, T, D] values as columns `first` .. of rows [B * T, columns]. */
  const interleave = (name: string, into: Float32Array, columns: number, first: number) => {
    values(`attention.${name}`).forEach((value, i) => {
      const [b, h, t, c] = [
        Math.floor(i / (heads * length * headSize)),
        Math.floor(i / (length * headSize)) % heads,
        Math.floor(i / headSize) % length,
        i % headSize,
      ] as const;
      into[(b * length + t) * columns + first + h * headSize + c] = value;
    });
    return into;
  };
  const sideBySide = (names: readonly [string, string, string]) => {
    const all = new Float32Array(rows * 3 * d);
    names.forEach((name, i) => interleave(name, all, 3 * d, i * d));
    return all;
  };
  using qkv = engine.upload(sideBySide(["q", "k", "v"]), rows, 3 * d);
  using dOutput = engine.upload(interleave("dOutput", new Float32Array(rows * d), d, 0), rows, d);
  const shape = { batch, length, heads };
  const { output, logSums } = attention(qkv, shape);
  using _output = output;
  using _logSums = logSums;
  using dqkv = attentionBackward({ qkv, output, logSums, dOutput, ...shape });
  const [outputValues, dqkvValues] = await readAll(output, dqkv);
  assertClose(outputValues!, interleave("output", new Float32Array(rows * d), d, 0), TOLERANCE.sum, "output");
  assertClose(dqkvValues!, sideBySide(["dq", "dk", "dv"]), TOLERANCE.sum, "dqkv");
});

testForms("AdamW equals PyTorch's", async (engine) => {
  const columns = 23;
  const { stepCountBefore, learningRate, beta1, beta2, epsilon, weightDecay } = settings.adamw;
  using parameters = engine.upload(values("adamw.parameter"), 1, columns);
  using gradients = engine.upload(values("adamw.gradient"), 1, columns);
  using m = engine.upload(values("adamw.m"), 1, columns);
  using v = engine.upload(values("adamw.v"), 1, columns);
  using control = engine.upload(adamwControl([stepCountBefore + 1], beta1, beta2), 1, 4);
  const adamwSettings = { rate: learningRate, beta1, beta2, epsilon, decay: weightDecay };
  adamw({ parameters, gradients, m, v }, { segment: parameters.pitch, control }, adamwSettings);
  const results = await readAll(parameters, m, v);
  ["parameterAfter", "mAfter", "vAfter"].forEach((name, i) => {
    assertClose(results[i]!, values(`adamw.${name}`), TOLERANCE.sum, name);
  });
});
