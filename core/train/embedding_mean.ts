/**
 * The mean embedding of a step, a statistic of pruners.
 *
 * @module
 */

import { addColumnSums } from "@edgetuner/kernels";
import type { EmbeddedBatch } from "../contracts/ports.ts";

/**
 * Mean over all tokens of a batch's embeddings E.
 *
 * @param batch E is [B * T, d].
 * @returns [d]
 */
export async function embeddingMean({ embedding }: Pick<EmbeddedBatch, "embedding">): Promise<Float32Array> {
  const { engine, rows, columns } = embedding;
  using sums = engine.zeros(1, columns, "sum of embeddings");
  addColumnSums(embedding, sums);
  const values = await sums.read();
  return values.map((v) => v / rows);
}
