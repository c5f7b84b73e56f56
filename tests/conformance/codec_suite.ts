/**
 * Conformance suite for wire codecs: what every implementation of `WireCodec` has to hold, however it
 * writes numbers. Call {@linkcode testCodec} at the top level of a test file.
 *
 * @module
 */

import {
  type CodecStream,
  elementsOf,
  findCodec,
  MESSAGES,
  oneCodec,
  Peer,
  ProtocolError,
  type WireCodec,
} from "@edgetuner/core";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { normal } from "../support/kernels.ts";
import { memoryChannels } from "../support/memory_channel.ts";

/** What {@linkcode testCodec} tests. */
export interface CodecSuiteOptions {
  /** Makes a new codec; the same one each time. */
  readonly create: () => WireCodec;
  /**
   * Largest error that a number may have in the first tensor of a stream.
   *
   * @param value The number.
   * @param largest The largest absolute value of its row.
   * @param ofAll The largest absolute value of the tensor.
   */
  readonly bound: (value: number, largest: number, ofAll: number) => number;
  /** Largest number that must come back within the bound. @default {1e30} */
  readonly range?: number;
}

/** Shapes of all ranks: single numbers, odd and prime sides, those of a step. */
const SHAPES: readonly (readonly number[])[] = [
  [],
  [1],
  [7],
  [1, 1],
  [13, 1],
  [1, 31],
  [3, 5],
  [2, 13, 48],
  [4, 26, 12],
  [2, 3, 17, 4],
  [1, 1, 1, 1],
];

/** Kinds of tensors: the value of entry i, given a standard normal one. */
const KINDS: Readonly<Record<string, (x: number, i: number, range: number) => number>> = {
  normal: (x) => x,
  zeros: () => 0,
  "some rows of zeros": (x, i) => Math.floor(i / 12) % 2 === 0 ? 0 : x,
  small: (x) => 1e-3 * x,
  "very small": (x) => 1e-30 * x,
  large: (x, _, range) => Math.max(-range, Math.min(range, range / 3 * x)),
  "one large": (x, i) => i % 7 === 0 ? 1000 * x : 1e-2 * x,
  "the largest": (x, _, range) => x < 0 ? -range : range,
  whole: (x) => Math.round(3 * x),
};

function stream(direction: CodecStream["direction"] = "sent", layer = 0): CodecStream {
  return { direction, kind: "input", layer, microBatch: 0, tensor: 0, state: undefined };
}

function tensor(shape: readonly number[], kind: string, seed: number, range: number): Float32Array {
  return normal(elementsOf(shape), seed).map((x, i) => KINDS[kind]!(x, i, range));
}

function assertWithin(
  read: Float32Array,
  values: Float32Array,
  shape: readonly number[],
  bound: CodecSuiteOptions["bound"],
  what: string,
): void {
  assertEquals(read.length, values.length, what);
  const columns = shape.at(-1) ?? 1;
  const largest = (of: Float32Array) => of.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const ofAll = largest(values);
  values.forEach((value, i) => {
    const row = values.subarray(i - i % columns, i - i % columns + columns);
    const allowed = bound(value, largest(row), ofAll);
    assert(Math.abs(read[i]! - value) <= allowed, `${what}: ${value} became ${read[i]}, allowed ${allowed}`);
  });
}

/** Copies bytes to the start of a buffer of their own, as they are when they come from the wire. */
const arrived = (bytes: Uint8Array) => Uint8Array.from(bytes);

/**
 * Registers the tests of one codec: sizes are what it says, errors stay within the bound at all shapes,
 * arguments stay as they are, streams do not touch each other, wrong bytes are refused or read.
 *
 * @example
 * ```ts ignore
 * import { testCodec } from "../tests/conformance/codec_suite.ts";
 *
 * testCodec({ create: () => myCodec(), bound: (value) => 1e-3 * Math.abs(value) });
 * ```
 */
export function testCodec({ create, bound, range = 1e30 }: CodecSuiteOptions): void {
  const { name } = create();
  const test = (criterion: string, fn: () => void | Promise<void>) =>
    Deno.test(`codec ${name}: ${criterion}`, fn);

  test("has a name that the other codecs leave free, or is one of the built-in ones", () => {
    const known = findCodecOrNull(name);
    const found = known ?? findCodec(name, [create()]);
    assertEquals(found.name, name);
    assertEquals(create().name, name);
  });

  test("writes as many bytes as it says and reads them back within its bound, at all shapes", () => {
    for (const shape of SHAPES) {
      for (const kind of Object.keys(KINDS)) {
        const codec = create();
        const values = tensor(shape, kind, 1, range);
        const what = `[${shape}] ${kind}`;
        const bytes = codec.encode(values, shape, stream());
        assert(bytes instanceof Uint8Array, what);
        assertEquals(bytes.length, codec.byteLength(shape), what);
        assertWithin(codec.decode(arrived(bytes), shape, stream("received")), values, shape, bound, what);
      }
    }
  });

  test("takes views into larger buffers, and leaves values and bytes as they are", () => {
    const codec = create();
    const buffer = normal(100, 3);
    const copy = buffer.slice();
    const values = buffer.subarray(7, 7 + 45);
    const bytes = arrived(codec.encode(values, [9, 5], stream()));
    assertEquals(buffer, copy, "values changed");
    assertEquals(arrived(codec.encode(copy.slice(7, 52), [9, 5], stream())), bytes, "other bytes for a view");
    const before = bytes.slice();
    codec.decode(bytes, [9, 5], stream("received"));
    assertEquals(bytes, before, "bytes changed");
  });

  test("is deterministic, and streams do not touch each other", () => {
    const run = (codecs: readonly WireCodec[]) => {
      const streams = codecs.map((_, i) => stream("sent", i));
      const all: Uint8Array[][] = codecs.map(() => []);
      for (let step = 0; step < 5; step++) {
        codecs.forEach((codec, i) => {
          const shape = step === 3 ? [2, 8] : [4, 6];
          all[i]!.push(
            arrived(codec.encode(tensor(shape, "normal", 10 * i + step, range), shape, streams[i]!)),
          );
        });
      }
      return all;
    };
    const shared = create();
    assertEquals(run([shared, shared, shared]), run([create(), create(), create()]));
  });

  test("keeps plain data in a stream, that can be carried and stops growing", () => {
    const codec = create();
    const [sender, receiver] = [stream(), stream("received")];
    let size = -1;
    for (let step = 0; step < 20; step++) {
      const values = tensor([4, 6], "normal", step, range);
      const carried = { ...sender, state: structuredClone(sender.state) };
      const bytes = arrived(codec.encode(values, [4, 6], sender));
      assertEquals(arrived(create().encode(values, [4, 6], carried)), bytes, `step ${step}`);
      codec.decode(bytes, [4, 6], receiver);
      const now = JSON.stringify([sender.state, receiver.state]).length;
      if (step === 5) size = now;
      if (step > 5) assert(now <= size * 1.5 + 64, `the state grew from ${size} to ${now} characters`);
    }
  });

  test("what comes from the wire is read or refused with an error, whatever it is", () => {
    const codec = create();
    for (const shape of SHAPES) {
      const length = codec.byteLength(shape);
      const fillings = [0x00, 0xff, 0x7f, 0x80, 0x7c].map((b) => new Uint8Array(length).fill(b));
      const noise = normal(length, 5).map((x) => 1000 * x);
      for (const bytes of [...fillings, Uint8Array.from(noise)]) {
        try {
          const read = codec.decode(bytes, shape, stream("received"));
          assert(read instanceof Float32Array && read.length === elementsOf(shape));
        } catch (error) {
          assert(error instanceof ProtocolError, `${error}`);
        }
      }
    }
  });

  test("passes between two peers, and the ledger counts what byteLength() says", async () => {
    const [near, far] = memoryChannels();
    await using a = new Peer(near);
    await using b = new Peer(far);
    a.codecs = b.codecs = oneCodec(create());
    const kinds = ["input", "delta", "hidden", "deltaGradient", "decode"] as const;
    let bytes = 0;
    for (const [i, kind] of kinds.entries()) {
      const rank = MESSAGES[kind].tensors!.shapes[0]!.length;
      const shape = [2, 3, 5 + i, 12].slice(4 - rank);
      const data = tensor(shape, "normal", i, range);
      await a.send(kind, { layer: 2, tensors: [{ dtype: "f32", shape, data }] });
      const { tensors } = await b.receive(kind, { layer: 2, shapes: [shape] });
      assertEquals([tensors[0]!.dtype, tensors[0]!.shape], ["f32", shape]);
      assertWithin(tensors[0]!.data as Float32Array, data, shape, bound, kind);
      bytes += create().byteLength(shape);
    }
    const counted = a.ledger.entries().reduce((sum, e) => sum + e.tensorBytes, 0);
    assertEquals(counted, bytes);
    assertEquals(b.ledger.entries().reduce((sum, e) => sum + e.tensorBytes, 0), bytes);
    // Statistics and masks are not the codec's.
    const statistics = { dtype: "f32", shape: [2, 2], data: Float32Array.of(1e30, 1e-30, 0, 0.1) };
    await a.send("statistics", { tensors: [statistics] });
    assertEquals((await b.receive("statistics", { shapes: [[2, 2]] })).tensors, [statistics]);
  });

  test("a payload that is too short or too long closes the peer", async () => {
    for (const change of [-1, 1]) {
      const [near, far] = memoryChannels();
      const codec = create();
      const peer = new Peer(far);
      peer.codecs = oneCodec(codec);
      const sender = new Peer(near);
      // Codecs agree on the name and disagree on the size.
      sender.codecs = oneCodec({
        ...codec,
        byteLength: (shape) => codec.byteLength(shape) + change,
        encode: (_, shape) => new Uint8Array(codec.byteLength(shape) + change),
      });
      await sender.send("input", { tensors: [{ dtype: "f32", shape: [3, 4], data: new Float32Array(12) }] });
      const error = await assertRejects(() => peer.receive("input", { shapes: [[3, 4]] }), ProtocolError);
      assert(error.message.includes("bytes"), error.message);
      await far.closed;
      await Promise.all([peer.close(), sender.close()]);
    }
  });
}

function findCodecOrNull(name: string): WireCodec | null {
  try {
    return findCodec(name);
  } catch {
    return null;
  }
}
