import { assert, assertEquals, assertThrows } from "@std/assert";
import { normal } from "../../tests/support/kernels.ts";
import { ProtocolError } from "../contracts/errors.ts";
import { f32Codec } from "./codec.ts";
import { distinctRows, placeBytes, repeatRows, writePlaces } from "./distinct_rows.ts";
import { embeddingTensors } from "./embedding_tensors.ts";
import { groupCodec } from "./group_codec.ts";

/** Rows of d numbers, drawn from so many different ones. */
function rowsOf(count: number, columns: number, different: number): Float32Array {
  const pool = normal(different * columns, 1);
  const values = new Float32Array(count * columns);
  for (let i = 0; i < count; i++) {
    const from = (i * 7919) % different * columns;
    values.set(pool.subarray(from, from + columns), i * columns);
  }
  return values;
}

Deno.test("equal rows are found bit for bit, and come back as they were", () => {
  for (const [count, columns, different] of [[1, 1, 1], [40, 5, 11], [7, 3, 7], [1000, 2, 300]] as const) {
    const values = rowsOf(count, columns, different);
    const found = distinctRows(values, columns);
    assertEquals(found.count, different);
    assertEquals(repeatRows(found.rows, columns, writePlaces(found)), values);
  }
  // A zero with a sign is another number.
  assertEquals(distinctRows(Float32Array.of(0, 1, -0, 1, 0, 1), 2).count, 2);
});

Deno.test("the number of a row takes as many bytes as it needs", () => {
  assertEquals([1, 256, 257, 65_536, 65_537, 2 ** 24 + 1].map(placeBytes), [1, 1, 2, 2, 3, 4]);
  const far = { rows: new Float32Array(0), count: 70_000, places: Uint32Array.of(69_999, 256, 0) };
  assertEquals([...writePlaces(far)], [0x6f, 0x11, 1, 0, 1, 0, 0, 0, 0]);
});

Deno.test("a row that is not there is refused", () => {
  const rows = normal(3 * 4, 1);
  assertThrows(() => repeatRows(rows, 4, Uint8Array.of(0, 2, 3)), ProtocolError, "one of 3: row 2 is 3");
});

Deno.test("E travels in whichever form is smaller, by the codec", () => {
  const shape = { batch: 2, length: 20, hidden: 8 };
  const bytesOf = (different: number, codec = f32Codec()) =>
    embeddingTensors(rowsOf(40, 8, different), shape, codec).map(({ dtype, shape }) => [dtype, shape]);
  assertEquals(bytesOf(11), [["f32", [11, 8]], ["u8", [2, 20, 1]]]);
  assertEquals(bytesOf(40), [["f32", [2, 20, 8]]]);
  // 39 rows of 32 bytes and 40 places take more than 40 rows.
  assertEquals(bytesOf(39), [["f32", [2, 20, 8]]]);
  assertEquals(bytesOf(38), [["f32", [38, 8]], ["u8", [2, 20, 1]]]);
  // Few bits: the places count for more.
  const few = groupCodec({ bits: 2 });
  const sizes = [...Array(40).keys()].map((i) => {
    const tensors = embeddingTensors(rowsOf(40, 8, i + 1), shape, few);
    return few.byteLength(tensors[0]!.shape) + (tensors.length > 1 ? 40 : 0);
  });
  assert(Math.max(...sizes) <= few.byteLength([2, 20, 8]), `${sizes}`);
});
