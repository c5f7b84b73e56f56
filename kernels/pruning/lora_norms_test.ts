import { assertThrows } from "@std/assert";
import { normal, readOne, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { roundUp4 } from "../engine/tensor.ts";
import { loraNorms } from "./lora_norms.ts";

/** ||B A||_F^2, element by element in double precision. */
function productSquares(a: Float32Array, b: Float32Array, rank: number): number {
  const [inputs, outputs] = [a.length / rank, b.length / rank];
  let sum = 0;
  for (let o = 0; o < outputs; o++) {
    for (let c = 0; c < inputs; c++) {
      let element = 0;
      for (let i = 0; i < rank; i++) element += b[o * rank + i]! * a[i * inputs + c]!;
      sum += element ** 2;
    }
  }
  return sum;
}

for (
  const [layers, heads, targets, rank, inputs, outputs] of [
    [1, 1, 1, 1, 4, 4],
    [2, 5, 3, 6, 21, 12],
    [3, 9, 2, 8, 64, 16],
    [1, 3, 4, 13, 8, 8],
  ] as const
) {
  const shape = `L ${layers}, n ${heads}, c ${targets}, r ${rank}, ${inputs} to ${outputs}`;
  testForms(`loraNorms() equals the norms of the products: ${shape}`, async (engine) => {
    const rank4 = roundUp4(rank);
    const pitch = roundUp4(inputs);
    const size = rank4 * pitch + outputs * rank4;
    const expected: number[] = [];
    const arenas = Array.from({ length: layers }, (_, l) => {
      const values = new Float32Array(heads * targets * size);
      for (let h = 0; h < heads; h++) {
        let squares = 0;
        for (let t = 0; t < targets; t++) {
          const start = (h * targets + t) * size;
          // The last head has not been trained: its B is zero.
          const a = normal(rank * inputs, 100 * l + 10 * h + t);
          const b = normal(outputs * rank, 1000 + 100 * l + 10 * h + t).map((x) =>
            h === heads - 1 && heads > 1 ? 0 : x
          );
          for (let i = 0; i < rank; i++) {
            values.set(a.subarray(i * inputs, (i + 1) * inputs), start + i * pitch);
          }
          for (let o = 0; o < outputs; o++) {
            values.set(b.subarray(o * rank, (o + 1) * rank), start + rank4 * pitch + o * rank4);
          }
          squares += productSquares(a, b, rank);
        }
        expected.push(0.5 * Math.sqrt(squares));
      }
      return engine.upload(values, heads, targets * size);
    });
    using norms = loraNorms(arenas, { targets, rank, inputs, outputs, scale: 0.5 });
    assertClose(await readOne(norms), expected, TOLERANCE.sum, shape);
    assertThrows(
      () => loraNorms(arenas, { targets: targets + 1, rank, inputs, outputs, scale: 1 }),
      TypeError,
      "elements each",
    );
    for (const arena of arenas) arena.dispose();
  });
}
