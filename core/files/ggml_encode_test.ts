import { assert, assertEquals, assertThrows } from "@std/assert";
import { ModelFileError } from "../contracts/errors.ts";
import { randomStream } from "../model/random.ts";
import { quantise } from "./ggml_encode.ts";
import { dequantise } from "./ggml_types.ts";

const random = randomStream(7);
const VALUES = Float32Array.from({ length: 64 }, (_, i) => i < 32 ? random.float() - 0.5 : 0);

Deno.test("quantise() writes what dequantise() reads, as near as the type is", () => {
  assertEquals(dequantise("F32", quantise("F32", VALUES)), VALUES);
  const half = dequantise("F16", quantise("F16", VALUES));
  half.forEach((x, i) => assert(Math.abs(x - VALUES[i]!) <= 2 ** -11 * Math.abs(VALUES[i]!), `${i}`));
  const largest = VALUES.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  const eighth = dequantise("Q8_0", quantise("Q8_0", VALUES));
  eighth.forEach((x, i) => assert(Math.abs(x - VALUES[i]!) <= 0.51 * largest / 127, `${i}`));
  assertEquals(quantise("Q8_0", VALUES).length, 2 * 34);
});

Deno.test("quantise() of Q8_0 rounds halves away from zero", () => {
  const values = new Float32Array(32);
  values.set([127, 2.5, -2.5, 0.5, -0.5]);
  const bytes = new Int8Array(quantise("Q8_0", values).buffer);
  assertEquals([...bytes.subarray(2, 8)], [127, 3, -3, 1, -1, 0]);
});

Deno.test("quantise() refuses parts of blocks, and values that F16 cannot hold", () => {
  assertThrows(
    () => quantise("Q8_0", VALUES.subarray(1)),
    ModelFileError,
    "whole blocks of 32: there are 63",
  );
  assertThrows(() => quantise("F16", Float32Array.of(70_000)), ModelFileError, "current value is 70000");
  assertThrows(() => quantise("F16", Float32Array.of(NaN)), ModelFileError, "current value is NaN");
});
