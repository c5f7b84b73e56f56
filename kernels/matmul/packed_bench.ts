/**
 * Products with packed weights beside the plain product, and beside unpacking a panel for it.
 */

import { embeddingGather } from "../embedding/embedding.ts";
import { Engine } from "../engine/engine.ts";
import { matmul } from "./matmul.ts";
import { PackedMatrix } from "../packed/packed_matrix.ts";

const engine = await Engine.create();

/** Numbers from -0.5 to 0.5. */
function numbers(count: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, i) => (i * 7919 % 10_007) / 10_007 - 0.5);
}

// GPT-2's [in, out] forward; others' [out, in] forward and back.
const CASES = [
  { transposeB: false, groupsAlong: "rows" },
  { transposeB: true, groupsAlong: "columns" },
  { transposeB: false, groupsAlong: "columns" },
] as const;

for (const [m, k, n] of [[512, 768, 3072], [128, 2048, 2048]] as const) {
  const a = engine.upload(numbers(m * k), m, k);
  const out = engine.tensor(m, n);
  for (const { transposeB, groupsAlong } of CASES) {
    const [rows, columns] = transposeB ? [n, k] : [k, n];
    const weights = numbers(rows * columns);
    const plain = engine.upload(weights, rows, columns);
    const panel = engine.tensor(rows, columns);
    const ids = Uint32Array.from({ length: rows }, (_, i) => i);
    const group = `${m} x ${k} x ${n} ${transposeB ? "NT" : "NN"}, groups along ${groupsAlong}`;
    Deno.bench({
      name: "f32",
      group,
      baseline: true,
      async fn() {
        matmul(a, plain, { transposeB, out });
        await engine.idle();
      },
    });
    for (const format of ["f16", "int8", "int4"] as const) {
      const packed = new PackedMatrix(engine, { format, rows, columns, groupsAlong });
      packed.write(0, weights);
      Deno.bench(format, { group }, async () => {
        matmul(a, packed, { transposeB, out });
        await engine.idle();
      });
      Deno.bench(`${format}, panel`, { group }, async () => {
        engine.clear(panel);
        embeddingGather(packed, ids, panel);
        matmul(a, panel, { transposeB, out });
        await engine.idle();
      });
    }
  }
}
