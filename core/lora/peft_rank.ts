/**
 * Adapters of a smaller rank.
 *
 * @module
 */

import { CheckpointError } from "../contracts/errors.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import { type PeftAdapter, scaleOf } from "./peft_modules.ts";

/**
 * Approximates an adapter by one of smaller rank: the best one in the Frobenius norm, module by
 * module, by singular values.
 *
 * @param peft The adapter.
 * @param rank The new rank.
 * @returns The smaller adapter, and ||change||_F / ||B A||_F over all modules together.
 * @throws {RangeError} If the rank is not from 1 to the present one.
 * @category Adapters
 */
export async function reduceRank(
  peft: PeftAdapter,
  rank: number,
): Promise<{ readonly peft: PeftAdapter; readonly error: number }> {
  const { r } = peft.config;
  if (!Number.isInteger(rank) || rank < 1 || rank > r) {
    throw new RangeError(
      `Cannot reduce the rank as it must be an integer from 1 to ${r}: current value is ${rank}`,
    );
  }
  const { Matrix, QrDecomposition, SingularValueDecomposition } = await import("ml-matrix");
  const matrixOf = ({ shape: [rows, columns], data }: NamedArray) =>
    Matrix.from1DArray(rows!, columns!, data);
  // A tall matrix as orthonormal columns times a small square one; a wide one as it is.
  const split = (m: InstanceType<typeof Matrix>) => {
    if (m.rows <= m.columns) return { q: Matrix.eye(m.rows), r: m };
    const qr = new QrDecomposition(m);
    return { q: qr.orthogonalMatrix, r: qr.upperTriangularMatrix };
  };
  const arrays = new Map<string, NamedArray>();
  let kept = 0, lost = 0;
  for (const [nameA, arrayA] of peft.arrays) {
    if (!nameA.endsWith(".lora_A.weight")) continue;
    const nameB = nameA.replace(/\.lora_A\.weight$/, ".lora_B.weight");
    const arrayB = peft.arrays.get(nameB);
    if (arrayB === undefined) {
      throw new CheckpointError(
        `Cannot reduce the rank as there must be B for each A: "${nameB}" is missing`,
      );
    }
    const b = split(matrixOf(arrayB));
    const a = split(matrixOf(arrayA).transpose());
    const svd = new SingularValueDecomposition(b.r.mmul(a.r.transpose()), { autoTranspose: true });
    const values = svd.diagonal;
    values.forEach((s, i) => i < rank ? kept += s * s : lost += s * s);
    const left = b.q.mmul(svd.leftSingularVectors);
    const right = a.q.mmul(svd.rightSingularVectors);
    // The root of each singular value goes to either side.
    const pick = (m: InstanceType<typeof Matrix>, row: number, i: number) =>
      i < values.length ? m.get(row, i) * Math.sqrt(values[i]!) : 0;
    const [inputs, outputs] = [arrayA.shape[1]!, arrayB.shape[0]!];
    arrays.set(nameA, {
      shape: [rank, inputs],
      data: Float32Array.from(
        { length: rank * inputs },
        (_, at) => pick(right, at % inputs, Math.floor(at / inputs)),
      ),
    });
    arrays.set(nameB, {
      shape: [outputs, rank],
      data: Float32Array.from(
        { length: outputs * rank },
        (_, at) => pick(left, Math.floor(at / rank), at % rank),
      ),
    });
  }
  const config = { ...peft.config, r: rank, lora_alpha: scaleOf(peft.config) * rank, use_rslora: false };
  return { peft: { config, arrays }, error: kept + lost === 0 ? 0 : Math.sqrt(lost / (kept + lost)) };
}
