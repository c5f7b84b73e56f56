/**
 * E as it travels: all rows, or each once with its places, whichever takes fewer bytes.
 *
 * @module
 */

import type { WireCodec } from "../contracts/codec.ts";
import { distinctRows, writePlaces } from "./distinct_rows.ts";
import type { WireTensor } from "./frame.ts";
import { describeEmbedding } from "./pass.ts";

/**
 * The tensors of E.
 *
 * @param values E, [B * T, d].
 * @param shape B, T and d.
 * @param codec What writes it.
 */
export function embeddingTensors(
  values: Float32Array,
  shape: Parameters<typeof describeEmbedding>[0],
  codec: Pick<WireCodec, "byteLength">,
): WireTensor[] {
  const { batch, length, hidden } = shape;
  const all = [batch, length, hidden];
  const found = distinctRows(values, hidden);
  const { shapes: [rows, places] } = describeEmbedding({ ...shape, rows: found.count });
  const bytes = places === undefined ? Infinity : codec.byteLength(rows!) + places.reduce((a, b) => a * b, 1);
  if (bytes >= codec.byteLength(all)) return [{ dtype: "f32", shape: all, data: values }];
  return [
    { dtype: "f32", shape: rows!, data: found.rows },
    { dtype: "u8", shape: places!, data: writePlaces(found) },
  ];
}
