import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { testCodec } from "../../tests/conformance/codec_suite.ts";
import { memoryChannels } from "../../tests/support/memory_channel.ts";
import { normal } from "../../tests/support/kernels.ts";
import { HandshakeError, PluginError, ProtocolError } from "../contracts/errors.ts";
import { builtInCodecs, checkCodec, f16Codec, f32Codec, findCodec, int8Codec } from "./codec.ts";
import type { CodecStream, WireCodec } from "../contracts/codec.ts";
import { Peer } from "./peer.ts";
import { oneCodec } from "./run_codecs.ts";

const halfScale = (_: number, largest: number) => largest < 1.5e-36 ? largest : largest / 254 * (1 + 1e-6);

testCodec({ create: () => f32Codec(), bound: () => 0 });
testCodec({
  create: () => f16Codec(),
  bound: (v) => Math.max(2 ** -25, Math.abs(v) * 2 ** -11),
  range: 65504,
});
testCodec({ create: () => int8Codec(), bound: halfScale });
testCodec({ create: () => int8Codec({ errorFeedback: true }), bound: halfScale });

function stream(): CodecStream {
  return { direction: "sent", kind: "input", layer: 0, microBatch: 0, tensor: 0, state: undefined };
}

/** What the other side reads. */
function passed(codec: WireCodec, values: Float32Array, shape: readonly number[]): Float32Array {
  return codec.decode(Uint8Array.from(codec.encode(values, shape, stream())), shape, stream());
}

Deno.test("f32 keeps every bit, NaN and infinities too", () => {
  const values = Float32Array.of(NaN, Infinity, -Infinity, -0, 1e-45, 3.4e38);
  assertEquals(new Uint32Array(passed(f32Codec(), values, [6]).buffer), new Uint32Array(values.buffer));
});

Deno.test("f16 rounds to the nearest, clamps what is too large, and refuses NaN", () => {
  const values = Float32Array.of(
    65504,
    65519,
    65520,
    1e9,
    -1e30,
    Infinity,
    -Infinity,
    2 ** -24,
    -0,
    1 + 2 ** -11,
  );
  const read = Float32Array.of(65504, 65504, 65504, 65504, -65504, 65504, -65504, 2 ** -24, -0, 1);
  assertEquals(passed(f16Codec(), values, [10]), read);
  assertThrows(() => f16Codec().encode(Float32Array.of(1, NaN), [2], stream()), RangeError, "number 1");
});

Deno.test("int8 is exact for integers up to 127 with a scale of 1, and rounds to the nearest", () => {
  const values = Float32Array.of(127, -127, 1, -1, 0, 0.4, 0.6, -0.6, 63);
  assertEquals(passed(int8Codec(), values, [9]), Float32Array.of(127, -127, 1, -1, 0, 0, 1, -1, 63));
  for (const bad of [NaN, Infinity, -Infinity]) {
    assertThrows(
      () => int8Codec().encode(Float32Array.of(1, 2, 3, bad), [2, 2], stream()),
      RangeError,
      "number 3",
    );
  }
});

Deno.test("a row of int8 does not lose precision to a large number in another row", () => {
  const values = Float32Array.of(1e6, 2e6, 1e-3, -5e-4);
  const read = passed(int8Codec(), values, [2, 2]);
  assert(Math.abs(read[2]! - 1e-3) < 1e-8 && Math.abs(read[3]! + 5e-4) < 5e-6, `${read}`);
});

Deno.test("with error feedback the sum over the steps stays within one rounding; without it drifts", () => {
  const sums = (codec: WireCodec) => {
    const [sender, receiver] = [stream(), stream()];
    // Numbers that rounding always makes smaller, next to one that sets the scale.
    const values = Float32Array.of(1, 0.3 / 127, 0.4 / 127, -0.45 / 127);
    const sum = new Float64Array(4);
    for (let step = 0; step < 100; step++) {
      const bytes = Uint8Array.from(codec.encode(values, [4], sender));
      codec.decode(bytes, [4], receiver).forEach((v, i) => sum[i]! += v);
    }
    return [...sum].map((s, i) => Math.abs(s - 100 * values[i]!) * 127);
  };
  assert(Math.max(...sums(int8Codec({ errorFeedback: true }))) < 1.01);
  assert(Math.max(...sums(int8Codec())) > 40);
});

Deno.test("error feedback starts again when the shape changes", () => {
  const codec = int8Codec({ errorFeedback: true });
  const used = stream();
  codec.encode(normal(12, 1), [3, 4], used);
  const other = normal(10, 2);
  assertEquals(codec.encode(other, [2, 5], used), codec.encode(other, [2, 5], stream()));
});

Deno.test("sizes: f16 halves the bytes, int8 takes one a number and four a row, groups take two each", () => {
  const shape = [3, 26, 48];
  assertEquals(
    builtInCodecs().map((c) => [c.name, c.byteLength(shape)]),
    [
      ["f32", 14976],
      ["f16", 7488],
      ["int8", 3744 + 4 * 78],
      ["int8-feedback", 3744 + 4 * 78],
      ["int8-group", 3744 + 2 * 78],
      ["int4", 1872 + 2 * 78],
    ],
  );
});

Deno.test("payloads that no encoder writes close the peer", async () => {
  const half = (bits: number) => new Uint8Array(Uint16Array.of(0, bits, 0, 0).buffer);
  const scaled = (scale: number) => {
    const bytes = new Uint8Array(2 * 4 + 4);
    new Float32Array(bytes.buffer, 0, 2)[1] = scale;
    return bytes;
  };
  const payloads: [WireCodec, Uint8Array, string][] = [
    [f16Codec(), half(0x7c00), "number 1"],
    [f16Codec(), half(0xfc00), "number 1"],
    [f16Codec(), half(0x7e01), "number 1"],
    [int8Codec(), scaled(NaN), "NaN"],
    [int8Codec(), scaled(Infinity), "Infinity"],
    [int8Codec(), scaled(-1), "-1"],
  ];
  for (const [codec, bytes, message] of payloads) {
    const [near, far] = memoryChannels();
    const [sender, peer] = [new Peer(near), new Peer(far)];
    sender.codecs = oneCodec({ ...codec, encode: () => bytes });
    peer.codecs = oneCodec(codec);
    await sender.send("input", { tensors: [{ dtype: "f32", shape: [2, 2], data: new Float32Array(4) }] });
    await assertRejects(() => peer.receive("input", { shapes: [[2, 2]] }), ProtocolError, message);
    assert((await far.closed).reason.length > 0);
    await assertRejects(() => peer.send("finished"), ProtocolError);
    await Promise.all([peer.close(), sender.close()]);
  }
});

Deno.test("a tensor that another codec wrote closes the peer", async () => {
  const [near, far] = memoryChannels();
  const [sender, peer] = [new Peer(near), new Peer(far)];
  sender.codecs = oneCodec(f16Codec());
  peer.codecs = oneCodec(int8Codec());
  await sender.send("input", { tensors: [{ dtype: "f32", shape: [1, 4], data: new Float32Array(4) }] });
  await assertRejects(
    () => peer.receive("input", { shapes: [[1, 4]] }),
    ProtocolError,
    "must be int8: one is f16",
  );
  await Promise.all([peer.close(), sender.close()]);
});

Deno.test("a codec that does not do as it says is a PluginError; what cannot be encoded is not sent", async () => {
  const [near, far] = memoryChannels();
  await using peer = new Peer(near);
  await using other = new Peer(far);
  const tensors = [{ dtype: "f32", shape: [1, 2], data: Float32Array.of(1, NaN) }];
  peer.codecs = oneCodec({ ...f16Codec(), byteLength: () => 3, encode: () => new Uint8Array(4) });
  await assertRejects(
    () => peer.send("input", { tensors }),
    PluginError,
    "must write 3 bytes for [1,2]: it wrote 4",
  );
  peer.codecs = oneCodec(f16Codec());
  await assertRejects(() => peer.send("input", { tensors }), RangeError, "finite");
  await peer.send("finished"); // the order of frames has no gap
  assertEquals((await other.receive("finished")).sequence, 0);
});

Deno.test("findCodec() knows the built-in codecs and those it is given, and says which", () => {
  for (const { name } of builtInCodecs()) assertEquals(findCodec(name).name, name);
  const mine = { ...f16Codec(), name: "mine" };
  assertEquals(findCodec("mine", [mine]), mine);
  const error = assertThrows(() => findCodec("int5", [mine]), HandshakeError);
  assertEquals(
    error.message,
    'Cannot take part in the run as its codec must be one of f32, f16, int8, int8-feedback, int8-group, int4, mine: current value is "int5"',
  );
  for (const name of ["", "u8", "f32", "x".repeat(33)]) {
    assertThrows(() => findCodec("f32", [{ ...mine, name }]), TypeError, "names must");
  }
  assertThrows(() => findCodec("f32", [mine, { ...mine }]), TypeError, `"mine"`);
});

Deno.test("what is no codec is refused before a run, with what it lacks", () => {
  const { encode: _, ...noEncode } = f16Codec();
  const refused: [unknown, string][] = [
    [null, "'name' must be a string: current value is null"],
    [undefined, "'name' must be a string: current value is undefined"],
    [{}, "'name' must be a string"],
    [{ name: 3 }, "'name' must be a string: current value is 3"],
    [{ name: "x" }, `codec "x" as 'byteLength' must be a function: it is undefined`],
    [{ ...noEncode, name: "x" }, "'encode' must be a function"],
    [{ ...f16Codec(), decode: 1 }, "'decode' must be a function: it is number"],
  ];
  for (const [codec, message] of refused) {
    assertThrows(() => checkCodec(codec), TypeError, message);
    assertThrows(() => findCodec("f32", [codec as WireCodec]), TypeError, message);
  }
});
