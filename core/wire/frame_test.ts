import { assert, assertEquals, assertThrows } from "@std/assert";
import { Encoder, Tag } from "cbor-x";
import { ProtocolError } from "../errors.ts";
import { decodeFrame, encodeFrame, type Frame, FRAME_KINDS, PROTOCOL_VERSION, tensorBytes } from "./frame.ts";

const cbor = new Encoder({ useRecords: false, tagUint8Array: false });

/** Numbers that are the same in every run. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
}

const FRAME: Frame = {
  kind: "delta",
  run: "run 1",
  sequence: 7,
  step: 3,
  layer: 2,
  meta: { mode: "train", list: [1, 2.5, null], text: "äöü", nested: { on: true } },
  tensors: [
    { dtype: "f32", shape: [2, 3], data: Float32Array.of(1, -2, 0.5, NaN, Infinity, -0) },
    { dtype: "u8", shape: [4], data: Uint8Array.of(0, 1, 255, 3) },
    { dtype: "f32", shape: [], data: Float32Array.of(7) },
  ],
};

/** What `encodeFrame` writes, to be changed by a test. */
function envelope(change: Record<string, unknown> = {}): Uint8Array {
  const fields = {
    v: PROTOCOL_VERSION,
    kind: "mask",
    run: "",
    seq: 0,
    step: 0,
    layer: 0,
    meta: {},
    tensors: [],
  };
  return cbor.encode({ ...fields, ...change });
}

/** Decodes; anything but a frame or a ProtocolError fails the test. */
function decodes(bytes: Uint8Array, what: string): boolean {
  try {
    decodeFrame(bytes);
    return true;
  } catch (error) {
    assert(error instanceof ProtocolError, `${what}: ${error}`);
    assert(error.message.length < 500, `${what}: a message of ${error.message.length} characters`);
    return false;
  }
}

Deno.test("decodeFrame() gives back what encodeFrame() was given", () => {
  assertEquals(decodeFrame(encodeFrame(FRAME)), FRAME);
  for (const kind of FRAME_KINDS) assertEquals(decodeFrame(encodeFrame({ ...FRAME, kind })).kind, kind);
  const empty = { ...FRAME, run: "", meta: {}, tensors: [], sequence: 0xffff_ffff };
  assertEquals(decodeFrame(encodeFrame(empty)), empty);
});

Deno.test("micro-batch and what a codec wrote come back; the first micro-batch takes no bytes", () => {
  const coded = { dtype: "mine", shape: [2, 3], data: Uint8Array.of(9, 8, 7) };
  const frame = { ...FRAME, microBatch: 3, tensors: [coded] };
  assertEquals(decodeFrame(encodeFrame(frame)), frame);
  assertEquals(tensorBytes([coded]), 3);
  assertEquals(encodeFrame({ ...FRAME, microBatch: 0 }), encodeFrame(FRAME));
});

Deno.test("encodeFrame() takes views of larger buffers and decodeFrame() gives data of its own", () => {
  const data = new Float32Array(10).map((_, i) => i).subarray(3, 6);
  const bytes = encodeFrame({ ...FRAME, tensors: [{ dtype: "f32", shape: [3], data }] });
  const frame = decodeFrame(bytes);
  bytes.fill(0);
  assertEquals(frame.tensors[0]!.data, Float32Array.of(3, 4, 5));
});

Deno.test("decodeFrame() reads frames from anywhere in a buffer", () => {
  const bytes = encodeFrame(FRAME);
  for (const offset of [1, 2, 3, 5]) {
    const moved = new Uint8Array(bytes.length + 8);
    moved.set(bytes, offset);
    assertEquals(decodeFrame(moved.subarray(offset, offset + bytes.length)), FRAME);
  }
});

Deno.test("random frames come back as they were", () => {
  const random = randomNumbers(1);
  for (let i = 0; i < 200; i++) {
    const tensors = Array.from({ length: random(4) }, () => {
      const shape = Array.from({ length: random(5) }, () => 1 + random(5));
      const count = shape.reduce((a, b) => a * b, 1);
      return random(2) === 0
        ? {
          dtype: "f32" as const,
          shape,
          data: Float32Array.from({ length: count }, () => random(1e6) / 997 - 300),
        }
        : { dtype: "u8" as const, shape, data: Uint8Array.from({ length: count }, () => random(256)) };
    });
    const frame: Frame = {
      kind: FRAME_KINDS[random(FRAME_KINDS.length)]!,
      run: "r".repeat(random(65)),
      sequence: random(2 ** 32),
      step: random(2 ** 32),
      layer: random(100),
      meta: { a: random(1e9), b: [random(10)], c: "x".repeat(random(100)) },
      tensors,
    };
    const bytes = encodeFrame(frame);
    assertEquals(decodeFrame(bytes), frame);
    assert(bytes.length >= tensorBytes(tensors));
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

Deno.test("random bytes are a ProtocolError, soon", () => {
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
  assert(took < 10_000, `took ${took} ms`);
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
  assert(took < 5000, `took ${took} ms`);
  assert(grown < 300e6, `memory grew by ${grown} bytes`);
});

Deno.test("deep nesting is refused", () => {
  assert(!decodes(new Uint8Array(1e6).fill(0x81), "arrays"));
  assert(!decodes(new Uint8Array(1e6).fill(0xa1), "maps"));
  assert(!decodes(Uint8Array.from({ length: 1e6 }, (_, i) => i % 2 === 0 ? 0xd8 : 200), "tags"));
  const inMeta = cbor.encode({ meta: 0 }).slice(0, -1);
  assert(!decodes(Uint8Array.of(...inMeta, ...new Uint8Array(1e5).fill(0x81)), "meta"));
});

Deno.test("tags do not run or make anything", () => {
  const scope = globalThis as unknown as Record<string, unknown>;
  scope.calledByAFrame = false;
  const code = "globalThis.calledByAFrame = true";
  for (const name of ["eval", "Function", "constructor", "__proto__"]) {
    decodes(cbor.encode(new Tag([name, code], 27)), name);
    decodes(envelope({ meta: { x: new Tag([name, code], 27) } }), name);
  }
  decodes(envelope({ meta: { ["__proto__"]: { polluted: true } } }), "prototype");
  assertEquals(({} as Record<string, unknown>).polluted, undefined);
  assertEquals(scope.calledByAFrame, false);
  delete scope.calledByAFrame;
});

Deno.test("frames of another version are refused", () => {
  for (const v of [0, PROTOCOL_VERSION + 1, "1", null, 1n << 60n]) {
    assertThrows(() => decodeFrame(envelope({ v })), ProtocolError, "version");
  }
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
  for (const value of [null, 1, "frame", [1, 2], true, undefined, new Date(0)]) {
    assertThrows(() => decodeFrame(cbor.encode(value)), ProtocolError);
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
      () => decodeFrame(envelope({ tensors: [tensor] })),
      ProtocolError,
      undefined,
      JSON.stringify(tensor),
    );
  }
  assert(performance.now() - started < 1000);
});
