import { assert, assertEquals, assertThrows } from "@std/assert";
import { encode } from "cborg";
import { HandshakeError, ProtocolError } from "../contracts/errors.ts";
import {
  burden,
  BURDEN_COUNT,
  envelope as raw,
  frameOf,
  head,
  hostileFrame,
  leastMs,
  map,
  randomNumbers,
  text,
} from "../../tests/support/hostile_frames.ts";
import {
  decodeFrame,
  encodeFrame,
  FRAME_KINDS,
  measureFrame,
  PROTOCOL_VERSION,
  type RawFrame,
  tensorBytes,
} from "./frame.ts";
import { MESSAGES } from "./messages.ts";
import { assertQuick } from "../../tests/support/quick.ts";

const FRAME: RawFrame = {
  kind: "embedding",
  run: "run 1",
  sequence: 7,
  step: 3,
  layer: 2,
  meta: { mode: "train", part: [1, 2] },
  tensors: [{ dtype: "f32", shape: [1, 2, 3], data: Float32Array.of(1, -2, 0.5, NaN, Infinity, -0) }],
};

const HELLO = { name: "d", capacity: 1, data: false, fingerprint: "", sharesLoss: false };

/** What `encodeFrame` writes, to be changed by a test. */
function envelope(change: Record<string, unknown> = {}): Uint8Array {
  const fields = {
    v: PROTOCOL_VERSION,
    kind: "finished",
    run: "",
    seq: 0,
    step: 0,
    layer: 0,
    meta: {},
    tensors: [],
  };
  return encode({ ...fields, ...change });
}

/** Decodes; anything but a frame or a ProtocolError fails the test. */
function decodes(bytes: Uint8Array, what: string): boolean {
  try {
    decodeFrame(bytes);
    return true;
  } catch (error) {
    assert(error instanceof ProtocolError || error instanceof HandshakeError, `${what}: ${error}`);
    assert(error.message.length < 500, `${what}: a message of ${error.message.length} characters`);
    return false;
  }
}

Deno.test("decodeFrame() gives back what encodeFrame() was given", () => {
  assertEquals<unknown>(decodeFrame(encodeFrame(FRAME)), FRAME);
  const empty: RawFrame = {
    ...FRAME,
    kind: "finished",
    run: "",
    meta: {},
    tensors: [],
    sequence: 0xffff_ffff,
  };
  assertEquals<unknown>(decodeFrame(encodeFrame(empty)), empty);
});

Deno.test("micro-batch and what a codec wrote come back; the first micro-batch takes no bytes", () => {
  const coded = { dtype: "mine", shape: [1, 2, 3], data: Uint8Array.of(9, 8, 7) };
  const frame = { ...FRAME, microBatch: 3, tensors: [coded] };
  assertEquals<unknown>(decodeFrame(encodeFrame(frame)), frame);
  assertEquals(tensorBytes([coded]), 3);
  assertEquals(encodeFrame({ ...FRAME, microBatch: 0 }), encodeFrame(FRAME));
});

Deno.test("encodeFrame() takes views of larger buffers and decodeFrame() gives data of its own", () => {
  const data = new Float32Array(10).map((_, i) => i).subarray(3, 6);
  const bytes = encodeFrame({ ...FRAME, tensors: [{ dtype: "f32", shape: [1, 1, 3], data }] });
  const frame = decodeFrame(bytes);
  bytes.fill(0);
  assertEquals(frame.tensors[0]!.data, Float32Array.of(3, 4, 5));
});

Deno.test("decodeFrame() reads frames from anywhere in a buffer", () => {
  const bytes = encodeFrame(FRAME);
  for (const offset of [1, 2, 3, 5]) {
    const moved = new Uint8Array(bytes.length + 8);
    moved.set(bytes, offset);
    assertEquals<unknown>(decodeFrame(moved.subarray(offset, offset + bytes.length)), FRAME);
  }
});

Deno.test("random frames of every kind come back as they were, with the memory that they take", () => {
  const random = randomNumbers(1);
  for (let i = 0; i < 10 * FRAME_KINDS.length; i++) {
    const { microBatch = 0, ...frame } = frameOf(FRAME_KINDS[i % FRAME_KINDS.length]!, random);
    const bytes = encodeFrame({ ...frame, microBatch });
    const expected = microBatch === 0 ? frame : { ...frame, microBatch };
    const { frame: decoded, cost } = measureFrame(bytes);
    assertEquals<unknown>(decoded, expected);
    assert(bytes.length >= tensorBytes(frame.tensors));
    assert(cost > bytes.length && cost < bytes.length + 12_000, `${frame.kind}: ${cost} of ${bytes.length}`);
  }
});

Deno.test("every truncated frame is a ProtocolError", () => {
  const bytes = encodeFrame(FRAME);
  for (let length = 0; length < bytes.length; length++) {
    assertThrows(() => decodeFrame(bytes.slice(0, length)), ProtocolError);
  }
});

Deno.test("a frame with something behind it is a ProtocolError", () => {
  const bytes = encodeFrame(FRAME);
  assertThrows(() => decodeFrame(Uint8Array.of(...bytes, 0)), ProtocolError);
  assertThrows(() => decodeFrame(Uint8Array.of(...bytes, ...bytes)), ProtocolError);
});

Deno.test("flipped bits give a frame or a ProtocolError", () => {
  const bytes = encodeFrame(FRAME);
  let refused = 0;
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const flipped = bytes.slice();
    flipped[bit >> 3]! ^= 1 << (bit & 7);
    if (!decodes(flipped, `bit ${bit}`)) refused++;
  }
  assert(refused > bytes.length, `${refused} refused`);
});

Deno.test("random bytes are a ProtocolError, soon [slow]", () => {
  const random = randomNumbers(2);
  const started = performance.now();
  for (let i = 0; i < 5000; i++) {
    const bytes = Uint8Array.from({ length: random(200) }, () => random(256));
    assert(!decodes(bytes, `bytes ${bytes}`));
  }
  // Several bytes changed in a frame get further than noise.
  const frame = encodeFrame(FRAME);
  for (let i = 0; i < 5000; i++) {
    const bytes = frame.slice();
    for (let k = random(6); k >= 0; k--) bytes[random(bytes.length)] = random(256);
    decodes(bytes, `bytes ${bytes}`);
  }
  const took = performance.now() - started;
  assertQuick(took, 10_000);
});

Deno.test("sizes that are declared but not there are refused without reserving memory", () => {
  const hostile: Record<string, number[]> = {
    "array of 2^32 - 1": [0x9a, 0xff, 0xff, 0xff, 0xff],
    "array of 30 million": [0x9a, 0x01, 0xf0, 0, 0],
    "arrays of 30 million in each other": Array.from({ length: 20 }, () => [0x9a, 0x01, 0xf0, 0, 0]).flat(),
    "array of 2^53": [0x9b, 0, 0x20, 0, 0, 0, 0, 0, 0],
    "map of 2^31": [0xba, 0x7f, 0xff, 0xff, 0xff],
    "map of 2^24": [0xba, 0x00, 0xff, 0xff, 0xff],
    "text of 2 GiB": [0x7a, 0x7f, 0xff, 0xff, 0xff],
    "bytes of 2 GiB": [0x5a, 0x7f, 0xff, 0xff, 0xff],
    "bytes without end": [0x5f, 0x41, 0x00],
    "array without end": [0x9f, 0x00],
  };
  const before = Deno.memoryUsage().rss;
  const started = performance.now();
  for (const [what, bytes] of Object.entries(hostile)) assert(!decodes(Uint8Array.from(bytes), what), what);
  const took = performance.now() - started;
  const grown = Deno.memoryUsage().rss - before;
  assertQuick(took, 5000);
  assert(grown < 300e6, `memory grew by ${grown} bytes`);
});

Deno.test("deep nesting is refused", () => {
  assert(!decodes(new Uint8Array(1e6).fill(0x81), "arrays"));
  assert(!decodes(new Uint8Array(1e6).fill(0xa1), "maps"));
  assert(!decodes(Uint8Array.from({ length: 1e6 }, (_, i) => i % 2 === 0 ? 0xd8 : 200), "tags"));
  assert(!decodes(raw("meta", new Array<number>(1e5).fill(0x81)), "meta"));
});

Deno.test("no tag, no indefinite length and no key twice, wherever it is", () => {
  const wrong: [string, number[]][] = [
    ["tag", [0xc1, 0x00]],
    ["tag", [0xd8, 0x40, 0x41, 0x00]],
    ["tag", [...head(6, 27), 0x82, ...text("eval"), ...text("globalThis.calledByAFrame = true")]],
    ["definite", [0x9f, 0xff]],
    ["definite", [0xbf, 0xff]],
    ["definite", [0x7f, 0x61, 0x61, 0xff]],
    ["definite", [0x5f, 0xff]],
    ["texts as keys", [0xa1, 0x00, 0x00]],
    ["repeat map key", [...head(5, 2), ...text("reason"), 0x60, ...text("reason"), 0x60]],
    ["simple value", [0xf7]],
    ["simple value", [0xf8, 0xff]],
    ["below 2^53", [...head(0, 2 ** 53)]],
    ["a map of", map([["reason", text("x")], ["__proto__", [0xa0]]])],
  ];
  for (const [message, value] of wrong) {
    for (const bytes of [raw("meta", value, "refuse"), raw("meta", map([["reason", value]]), "refuse")]) {
      const error = assertThrows(() => decodeFrame(bytes), ProtocolError) as Error;
      const isText = error.message.includes("must be a text") || error.message.includes("must be a map");
      assert(isText || error.message.includes(message), `${message}: ${error.message}`);
    }
  }
  assertEquals((globalThis as unknown as Record<string, unknown>).calledByAFrame, undefined);
  assertEquals(({} as Record<string, unknown>).reason, undefined);
});

Deno.test("small frames that would take much memory or time are refused at once [slow]", () => {
  const random = randomNumbers(3);
  const frames = Array.from({ length: 4 * BURDEN_COUNT }, (_, i) => {
    const bytes = burden(i % BURDEN_COUNT, random, 1e5);
    return i < 2 * BURDEN_COUNT ? bytes : raw("meta", [...bytes]);
  });
  const before = Deno.memoryUsage().rss;
  let longest = 0;
  for (const [i, bytes] of frames.entries()) {
    longest = Math.max(longest, leastMs(() => assert(!decodes(bytes, `frame ${i}`), `frame ${i}`)));
  }
  assert(longest < 100, `${longest} ms`);
  assert(Deno.memoryUsage().rss - before < 100e6, `${Deno.memoryUsage().rss - before} bytes`);
});

Deno.test("20,000 hostile frames: each is refused or right, none takes long, memory stays [slow]", () => {
  const random = randomNumbers(4);
  let before = 0;
  let longest = 0;
  let taken = 0;
  for (let i = 0; i < 20_000; i++) {
    // The first half also makes the burdens, and lets the heap grow to its size.
    if (i === 10_000) before = Deno.memoryUsage().rss;
    const bytes = hostileFrame(random);
    let isFrame = false;
    longest = Math.max(longest, leastMs(() => isFrame = decodes(bytes, `frame ${i}`)));
    if (isFrame) taken++;
  }
  assert(longest < 100, `${longest} ms`);
  assert(taken < 4000, `${taken} taken`);
  assert(Deno.memoryUsage().rss - before < 200e6, `${Deno.memoryUsage().rss - before} bytes`);
});

Deno.test("words of peers are plain and short, and names must be", () => {
  const reason = (value: string) =>
    decodeFrame(encodeFrame({ ...FRAME, kind: "end", meta: { reason: value }, tensors: [] }));
  const meta = (value: string) => (reason(value).meta as { reason: string }).reason;
  assertEquals(meta("a\u001b[31mred\u001b[0m\nb\u202e\u0085c"), "ared b c");
  assertEquals(meta("x".repeat(500)).length, 200);
  assert(decodes(envelope({ kind: "hello", meta: HELLO }), "hello"));
  for (const name of ["", "n".repeat(65), "a\nb", "\u001b[2J", "\u009b1m", "\u202eevil", "\u007f"]) {
    assert(!decodes(envelope({ kind: "hello", meta: { ...HELLO, name } }), name), JSON.stringify(name));
  }
});

Deno.test("every kind refuses fields that it does not have, and those of another type", () => {
  const random = randomNumbers(5);
  for (const kind of FRAME_KINDS) {
    const frame = frameOf(kind, random);
    const changed = (meta: Record<string, unknown>) => encodeFrame({ ...frame, meta });
    assert(decodes(changed({ ...frame.meta }), kind));
    assert(!decodes(changed({ ...frame.meta, another: 1 }), `${kind} with a field more`));
    for (const [field, { optional }] of Object.entries(MESSAGES[kind].meta)) {
      const { [field]: value, ...others } = frame.meta as Record<string, unknown>;
      const other = typeof value === "string" ? 7 : typeof value === "object" ? "text" : [value];
      assert(!decodes(changed({ ...others, [field]: other }), kind), `${kind}.${field}`);
      assertEquals(decodes(changed(others), kind), optional, `${kind} without ${field}`);
    }
    const { tensors } = MESSAGES[kind];
    const tensor = { dtype: "f32", shape: [1, 2, 1, 1], data: new Float32Array(2) };
    if (tensors === null) {
      assert(!decodes(encodeFrame({ ...frame, tensors: [tensor] }), kind), `${kind} with a tensor`);
    } else {
      assert(!decodes(encodeFrame({ ...frame, tensors: [] }), kind), `${kind} without a tensor`);
      const wrong = { ...frame.tensors[0]!, shape: [], data: frame.tensors[0]!.data.slice(0, 1) };
      assert(!decodes(encodeFrame({ ...frame, tensors: [wrong] }), kind), `${kind} of no dimension`);
    }
  }
});

Deno.test("frames of another version are refused", () => {
  for (const v of [0, PROTOCOL_VERSION + 1, "1", null, 1n << 60n]) {
    const Expected: new () => Error = v === 1n << 60n ? ProtocolError : HandshakeError;
    assertThrows(() => decodeFrame(envelope({ v })), Expected);
  }
});

Deno.test("a peer of version 2 is told both versions", () => {
  const old = { v: 2, kind: "hello", run: "", seq: 0, step: 0, layer: 0, meta: { protocol: 2 }, tensors: [] };
  assertThrows(
    () => decodeFrame(encode(old)),
    HandshakeError,
    `version must be ${PROTOCOL_VERSION}: current value is 2`,
  );
});

Deno.test("fields that are missing or wrong are refused", () => {
  const wrong: [string, unknown[]][] = [
    ["kind", [undefined, "", "Mask", 3, null, "toString"]],
    ["run", [undefined, 1, "r".repeat(65), null]],
    ["seq", [undefined, -1, 1.5, 2 ** 32, NaN, "0", null]],
    ["step", [undefined, -1, 1.5, 2 ** 40, null]],
    ["layer", [undefined, -1, 0.1, [], null]],
    ["micro", [-1, 0.1, 2 ** 32, "0", null]],
    ["meta", [undefined, null, [], "x", 1]],
    ["tensors", [undefined, null, {}, "x", Array(17).fill(0), [null], [1], ["x"], [[]]]],
    ["another", [1, null]],
  ];
  for (const [field, values] of wrong) {
    for (const value of values) {
      assertThrows(
        () => decodeFrame(envelope({ [field]: value })),
        ProtocolError,
        undefined,
        `${field} ${value}`,
      );
    }
  }
  for (const value of [null, 1, "frame", [1, 2], true, undefined]) {
    assertThrows(() => decodeFrame(encode(value)), ProtocolError);
  }
});

Deno.test("tensors whose data does not fit are refused", () => {
  const data = new Uint8Array(8);
  const wrong: Record<string, unknown>[] = [
    { dtype: "", shape: [1], data },
    { dtype: "x".repeat(33), shape: [1], data },
    { dtype: 32, shape: [1], data },
    { dtype: "f16", shape: [4], data: [1, 2, 3, 4] },
    { dtype: "f32", shape: [3], data },
    { dtype: "f32", shape: [1], data },
    { dtype: "u8", shape: [2], data },
    { dtype: "f32", shape: [2], data: [1, 2] },
    { dtype: "f32", shape: [2], data: "12345678" },
    { dtype: "f32", shape: [2] },
    { dtype: "f32", shape: [-2, -1], data },
    { dtype: "f32", shape: [0], data: new Uint8Array(0) },
    { dtype: "f32", shape: [1.5], data },
    { dtype: "f32", shape: [NaN], data },
    { dtype: "f32", shape: "2", data },
    { dtype: "f32", shape: [1, 1, 1, 1, 2], data },
    { dtype: "f32", shape: [0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff], data },
    { dtype: "f32", shape: [2 ** 31, 2 ** 31], data },
  ];
  const started = performance.now();
  for (const tensor of wrong) {
    assertThrows(
      () => decodeFrame(envelope({ kind: "partial", tensors: [tensor] })),
      ProtocolError,
      undefined,
      JSON.stringify(tensor),
    );
  }
  assertQuick(performance.now() - started, 1000);
});
