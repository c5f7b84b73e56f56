import { assert, assertEquals, assertThrows } from "@std/assert";
import { testCodec } from "../../tests/conformance/codec_suite.ts";
import { normal } from "../../tests/support/kernels.ts";
import type { CodecStream, WireCodec } from "../contracts/codec.ts";
import { HandshakeError, ProtocolError } from "../contracts/errors.ts";
import { f16Codec } from "./codec.ts";
import { groupCodec, type GroupCodecOptions } from "./group_codec.ts";
import { FRAME_KINDS, MESSAGES } from "./messages.ts";
import { codecNames, codecsText, findRunCodecs } from "./run_codecs.ts";

for (const bits of [2, 4, 8] as const) {
  // A scale has eight bits of precision, and is never below the largest number divided by the largest integer.
  const scale = (ofAll: number) => ofAll / (2 ** (bits - 1) - 1) * (1 + 2 ** -7);
  testCodec({ create: () => groupCodec({ bits }), bound: (_, __, ofAll) => scale(ofAll) });
  testCodec({
    create: () => groupCodec({ bits, rounding: "nearest" }),
    bound: (_, __, ofAll) => scale(ofAll) * 0.5000001,
  });
  // The largest number of a turned group is at most sqrt(64) times as large, and so is an error once turned back.
  testCodec({ create: () => groupCodec({ bits, rotate: true }), bound: (_, __, ofAll) => 64 * scale(ofAll) });
}

function stream(): CodecStream {
  return { direction: "sent", kind: "input", layer: 0, microBatch: 0, tensor: 0, state: undefined };
}

/** What the other side reads. */
function passed(codec: WireCodec, values: Float32Array, shape: readonly number[]): Float32Array {
  return codec.decode(Uint8Array.from(codec.encode(values, shape, stream())), shape, stream());
}

/** Root of the mean square of the errors. */
function errorOf(options: GroupCodecOptions, values: Float32Array, shape: readonly number[]): number {
  const read = passed(groupCodec(options), values, shape);
  return Math.sqrt(read.reduce((sum, v, i) => sum + (v - values[i]!) ** 2, 0) / values.length);
}

Deno.test("random rounding has a mean error of zero, where the nearest integer is always the same", () => {
  // One place holds 0.3 of a scale in every group, the rest differs: 2000 groups of 64.
  const values = normal(2000 * 64, 1);
  for (let group = 0; group < 2000; group++) {
    values[64 * group] = 7;
    for (let i = 1; i < 64; i++) values[64 * group + i]! = Math.max(-6, Math.min(6, values[64 * group + i]!));
    values[64 * group + 1] = 0.3;
  }
  const mean = (rounding: "random" | "nearest") => {
    const read = passed(groupCodec({ bits: 4, rounding }), values, [2000, 64]);
    let sum = 0;
    for (let group = 0; group < 2000; group++) sum += read[64 * group + 1]!;
    return sum / 2000;
  };
  assertEquals(mean("nearest"), 0);
  // The standard deviation of the mean is sqrt(0.3 * 0.7 / 2000) = 0.0102.
  assert(Math.abs(mean("random") - 0.3) < 0.04, `${mean("random")}`);
});

Deno.test("turning a group helps where one number is much larger than the others", () => {
  const values = normal(32 * 64, 2);
  for (let group = 0; group < 32; group++) values[64 * group + 5]! *= 40;
  const shape = [32, 64];
  assert(errorOf({ bits: 4, rotate: true }, values, shape) < 0.5 * errorOf({ bits: 4 }, values, shape));
});

Deno.test("what is drawn follows from the numbers: equal rows stay equal, whoever has the head", () => {
  const codec = groupCodec({ bits: 4 });
  const row = normal(64, 3);
  const twice = passed(codec, Float32Array.of(...row, ...normal(64, 4), ...row), [3, 64]);
  assertEquals(twice.slice(0, 64), twice.slice(128));
  // Two heads of 5 tokens, rows of 12 numbers: together as apart.
  const heads = normal(2 * 5 * 12, 5);
  const apart = [heads.subarray(0, 60), heads.subarray(60)].flatMap((h) => [...passed(codec, h, [1, 5, 12])]);
  assertEquals([...passed(codec, heads, [2, 5, 12])], apart);
});

Deno.test("bytes: a group takes two more, short rows share one, long rows have some", () => {
  const bytes = (shape: readonly number[]) => groupCodec({ bits: 4 }).byteLength(shape);
  assertEquals(bytes([10, 64]), 320 + 2 * 10);
  assertEquals(bytes([2, 16, 8]), 128 + 2 * 4, "8 rows of 8 a group");
  assertEquals(bytes([2, 15, 8]), 120 + 2 * 4, "no group over two heads");
  assertEquals(bytes([3, 100]), 150 + 2 * 6);
  assertEquals(bytes([3]), 2 + 2);
  assertEquals(groupCodec({ bits: 4, groupSize: 32 }).byteLength([10, 64]), 320 + 2 * 20);
});

Deno.test("payloads that are never written are refused, and so are options", () => {
  const read = (codec: WireCodec, bytes: Uint8Array) => () => codec.decode(bytes, [2, 2], stream());
  const codec = groupCodec({ bits: 4 });
  assertThrows(read(codec, Uint8Array.of(0x80, 0x7f, 0, 0)), ProtocolError, "that of group 0 is Infinity");
  assertThrows(read(codec, Uint8Array.of(0x80, 0xbf, 0, 0)), ProtocolError, "that of group 0 is -1");
  assertThrows(read(codec, Uint8Array.of(0x80, 0x3f, 0xf0, 0)), ProtocolError, "number 1 is 15");
  const bad: [unknown, string][] = [
    [{ bits: 3 }, "bits must be 2, 4 or 8: current value is 3"],
    [{ bits: 4, groupSize: 48 }, "power of two from 8 to 65536: current value is 48"],
  ];
  for (const [options, message] of bad) {
    assertThrows(() => groupCodec(options as GroupCodecOptions), RangeError, message);
  }
  const large = Float32Array.of(3e38, 3e38, 3e38, 3e38);
  assertThrows(() => passed(groupCodec({ bits: 4, rotate: true }), large, [4]), RangeError, "smaller");
});

Deno.test("a run may have a codec for each tensor; every coded message has one", () => {
  const mine = { ...f16Codec(), name: "mine" };
  const codecs = findRunCodecs("int8,delta=int4,e=mine", [mine]);
  assertEquals(codecs.name, "int8,e=mine,delta=int4");
  assertEquals(
    (["embedding", "decode", "delta", "input", "hidden"] as const).map((kind) => codecs.of(kind).name),
    ["mine", "mine", "int4", "int8", "int8"],
  );
  for (const kind of FRAME_KINDS) {
    const { as, tensor } = MESSAGES[kind].tensors ?? {};
    assertEquals(as === "codec", tensor !== undefined, kind);
  }
  assertEquals(codecsText(codecNames("e=f16")), "e=f16");
  assertEquals(codecsText(codecNames("f32,x=f32")), "f32");
  const refused: [string, string][] = [
    ["q=int4", 'tensors must be e, h, dh, x, delta, ddelta, dx: current value is "q"'],
    ["x=int4,x=f16", "each tensor must have one codec: x has two"],
    ["f16,int8", 'they are "f16" and "int8"'],
    ["x=int5", 'current value is "int5"'],
  ];
  for (const [text, message] of refused) assertThrows(() => findRunCodecs(text), HandshakeError, message);
});
