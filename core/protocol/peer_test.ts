import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { memoryChannels } from "../../tests/support/memory_channel.ts";
import { decode, encode } from "cborg";
import { METAS } from "../../tests/support/hostile_frames.ts";
import {
  ChannelClosedError,
  DeadlineError,
  HandshakeError,
  ProtocolError,
  TrainingError,
} from "../contracts/errors.ts";
import { f32Codec, int8Codec } from "./codec.ts";
import type { WireCodec } from "../contracts/codec.ts";
import { firstNotFinite } from "./finite.ts";
import { encodeFrame, type RawFrame } from "./frame.ts";
import { PROTOCOL_VERSION } from "./messages.ts";
import { Peer } from "./peer.ts";
import { oneCodec } from "./run_codecs.ts";
import type { PeerOptions } from "./peer_options.ts";
import { settled } from "../../tests/support/until.ts";

/** A peer, and the raw end that plays the other side. */
function open(options: PeerOptions = {}) {
  const [near, far] = memoryChannels();
  const peer = new Peer(near, { timeoutMs: 5000, ...options });
  peer.run = "run";
  let sequence = 0;
  const say = (change: Partial<RawFrame> = {}) =>
    far.send(encodeFrame({
      kind: "mask",
      run: "run",
      sequence: sequence++,
      step: 0,
      layer: 0,
      meta: change.kind === undefined || change.kind === "mask"
        ? { mode: "train", lowest: 0, rows: [26] }
        : {},
      tensors: change.kind === undefined || change.kind === "mask" ? [MASK] : [],
      ...change,
    }));
  return { peer, near, far, say };
}

const MASK = { dtype: "u8", shape: [1, 1], data: new Uint8Array(1) } as const;
const TENSOR = { dtype: "f32", shape: [2, 3], data: new Float32Array(6) } as const;

/** The wait ends in a ProtocolError, the channel is closed with the reason, and nothing more can be done. */
async function assertRefused(
  { peer, far }: Pick<ReturnType<typeof open>, "peer" | "far">,
  wait: Promise<unknown>,
  message: string,
): Promise<void> {
  await assertRejects(() => wait, ProtocolError, message);
  const { reason } = await far.closed;
  assert(reason.length > 0 && reason.length <= 100, `reason ${reason}`);
  await assertRejects(() => peer.receive("mask"), ProtocolError, message);
  await assertRejects(() => peer.send("finished"), ProtocolError, message);
  await peer.close();
}

Deno.test("frames pass between two peers and both count them", async () => {
  const [near, far] = memoryChannels();
  await using a = new Peer(near);
  await using b = new Peer(far);
  await a.send("input", { step: 2, layer: 1, tensors: [TENSOR] });
  const frame = await b.receive("input", { step: 2, layer: 1, shapes: [[2, null]] });
  assertEquals([frame.sequence, frame.meta], [0, {}]);
  assertEquals(frame.tensors, [TENSOR]);
  const [sent, received] = [a.ledger.entries(), b.ledger.entries()];
  assertEquals(sent, [{ ...received[0]!, direction: "sent" }]);
  assertEquals([sent[0]!.frames, sent[0]!.tensorBytes], [1, 24]);
  assertEquals(a.ledger.totalBytes, sent[0]!.frameBytes);
});

Deno.test("frames wait in their lane until they are asked for", async () => {
  const { peer, say } = open();
  await say({ kind: "mask", step: 1 });
  await say({ kind: "hidden", step: 2, tensors: [TENSOR] });
  await say({ kind: "input", step: 3, tensors: [TENSOR] });
  assertEquals((await peer.next("data", "data")).step, 2);
  assertEquals((await peer.next("heads", "heads")).step, 1);
  assertEquals((await peer.next("heads", "heads")).step, 3);
  await peer.close();
});

Deno.test("a frame out of sequence closes the peer: repeated, left out", async () => {
  for (const sequence of [0, 2, 0xffff_ffff]) {
    const ends = open();
    await ends.say();
    await ends.peer.receive("mask");
    await ends.say({ sequence });
    await assertRefused(ends, ends.peer.receive("mask"), "frame 1 must come next");
  }
});

Deno.test("a frame of another run closes the peer", async () => {
  const ends = open();
  await ends.say({ run: "other" });
  await assertRefused(ends, ends.peer.receive("mask"), `run "run"`);
});

Deno.test("another kind, step, layer or shape closes the peer", async () => {
  const expected = { step: 1, layer: 2, shapes: [[2, 3]] };
  const right: Partial<RawFrame> = { kind: "input", step: 1, layer: 2, tensors: [TENSOR] };
  const wrong: [Partial<RawFrame>, string][] = [
    [{ kind: "activation" }, `must be "input"`],
    [{ step: 0 }, "step 1"],
    [{ layer: 0 }, "layer 2"],
    [{ tensors: [] }, "a list of 1"],
    [{ tensors: [TENSOR, TENSOR] }, "a list of 1"],
    [{ tensors: [{ ...TENSOR, shape: [3, 2] }] }, "[2,3]"],
    [{ tensors: [{ ...TENSOR, shape: [6] }] }, "[n, T, D] or [T, d]"],
    [{ tensors: [{ ...TENSOR, shape: [2, 3, 1] }] }, "[2,3]"],
  ];
  for (const [change, message] of wrong) {
    const ends = open();
    await ends.say({ ...right, ...change });
    await assertRefused(ends, ends.peer.receive("input", expected), message);
  }
  const { peer, say } = open();
  await say(right);
  assertEquals((await peer.receive("input", expected)).layer, 2);
  await peer.close();
});

Deno.test("a tensor of another element type closes the peer", async () => {
  const ends = open();
  await ends.say({ kind: "input", tensors: [{ dtype: "u8", shape: [2, 3], data: new Uint8Array(6) }] });
  await assertRefused(ends, ends.peer.receive("input", { shapes: [[2, 3]] }), "u8");
});

Deno.test("numbers that are not finite end a wait with the peer's name, whatever the codec, and the peer stays", async () => {
  const scales = (scale: number) => {
    const bytes = new Uint8Array(2 * 4 + 6).fill(127);
    new Float32Array(bytes.buffer, 0, 2).fill(scale);
    return bytes;
  };
  const wrong: [WireCodec, Uint8Array][] = [
    [f32Codec(), new Uint8Array(Float32Array.of(1, 2, 3, 4, NaN, 6).buffer)],
    [f32Codec(), new Uint8Array(Float32Array.of(-Infinity, 2, 3, 4, 5, 6).buffer)],
    [int8Codec(), scales(3e38)],
    [int8Codec({ errorFeedback: true }), scales(3e38)],
    [{ ...f32Codec(), name: "mine", decode: () => new Float32Array(6).fill(Infinity) }, new Uint8Array(24)],
  ];
  for (const [codec, bytes] of wrong) {
    const { peer, say } = open();
    peer.codecs = oneCodec(codec);
    const data = codec.name === "f32" ? new Float32Array(bytes.buffer as ArrayBuffer) : bytes;
    await say({ kind: "input", step: 4, layer: 2, tensors: [{ dtype: codec.name, shape: [2, 3], data }] });
    const error = await assertRejects(() => peer.receive("input", { step: 4, layer: 2 }), TrainingError);
    assert(
      error.message.includes(`"input" of near's peer must be finite: in step 4, layer 2`),
      error.message,
    );
    await say({ kind: "finished" });
    assertEquals((await peer.receive("finished")).kind, "finished");
    await peer.close();
  }
  const { peer, say } = open();
  await say({ kind: "squaredNorm", tensors: [{ dtype: "f32", shape: [1], data: Float32Array.of(NaN) }] });
  await assertRejects(() => peer.receive("squaredNorm"), TrainingError, `"squaredNorm"`);
  await peer.close();
});

Deno.test("firstNotFinite() finds what is not finite, wherever it is", () => {
  const values = Float32Array.from({ length: 1000 }, (_, i) => i % 2 ? 3.4e38 : -3.4e38);
  assertEquals(firstNotFinite(values), -1);
  assertEquals(firstNotFinite(new Float32Array(0)), -1);
  for (const value of [NaN, Infinity, -Infinity]) {
    for (const at of [0, 1, 500, 999]) assertEquals(firstNotFinite(values.with(at, value)), at);
  }
});

Deno.test("before the welcome only small frames of the handshake are taken, and few", async () => {
  const hello = { kind: "hello", run: "", meta: METAS.hello } as const;
  for (const remote of ["server", "device"] as const) {
    const refused: [Partial<RawFrame>, string][] = [
      [
        { kind: "finished" },
        remote === "server" ? "must not come from a server" : "the welcome must have been said",
      ],
      [
        { kind: "mask" },
        remote === "device" ? "must not come from a device" : "the welcome must have been said",
      ],
      [
        { ...hello, meta: { ...METAS.hello, states: { run: "r", steps: Array(5000).fill(4e9) } } },
        "16384 bytes",
      ],
    ];
    for (const [frame, message] of refused) {
      const { peer, say } = open({ remote });
      await say(frame);
      await assertRejects(() => peer.next("control", "hello"), ProtocolError, message);
      await peer.close();
    }
  }
  // The first is taken, the others wait: a device has nothing to say twice.
  const ends = open({ remote: "device" });
  ends.peer.run = "";
  const steps = Array.from({ length: 1000 }, (_, i) => i);
  const large = { ...hello, meta: { ...METAS.hello, states: { run: "r", steps } } };
  for (let i = 0; i < 5; i++) await ends.say(large).catch(() => {});
  const { reason } = await ends.far.closed;
  assert(reason.includes("65536 bytes may be ahead"), reason);
  await ends.peer.close();
});

Deno.test("a channel is told to take little until the welcome is sent", async () => {
  const [near, far] = memoryChannels();
  const limits: number[] = [];
  near.limitReceived = (bytes) => void limits.push(bytes);
  const peer = new Peer(near, { remote: "device" });
  assertEquals(limits, [16_384]);
  await peer.send("welcome", { meta: METAS.welcome });
  assertEquals(limits, [16_384, Infinity]);
  await Promise.all([peer.close(), far.close()]);
});

Deno.test("a peer of version 2 gets a refusal that it can read, which names both versions", async () => {
  for (const remote of ["server", "device"] as const) {
    const { peer, far } = open({ remote });
    const old = {
      v: 2,
      kind: "hello",
      run: "",
      seq: 0,
      step: 0,
      layer: 0,
      meta: { protocol: 2 },
      tensors: [],
    };
    await far.send(encode(old) as Uint8Array<ArrayBuffer>);
    const error = await assertRejects(() => peer.next("control", "hello"), HandshakeError);
    assert(error.message.includes(`must be ${PROTOCOL_VERSION}: current value is 2`), error.message);
    await peer.send("refuse", { meta: { reason: error.message } });
    const answer = decode((await far.receive())!) as Record<string, unknown>;
    assertEquals([answer.v, answer.kind, answer.meta], [2, "refuse", { reason: error.message }]);
    await peer.close();
  }
});

Deno.test("bytes that are no frame close the peer", async () => {
  for (const bytes of [new Uint8Array(0), Uint8Array.of(1, 2, 3), new Uint8Array(1000).fill(0x81)]) {
    const ends = open();
    const wait = ends.peer.receive("mask");
    await ends.far.send(bytes);
    await assertRefused(ends, wait, "Cannot read frame");
  }
});

Deno.test("a peer that runs far ahead is closed", async () => {
  const ends = open();
  for (let i = 0; i < 66; i++) await ends.say().catch(() => {});
  await ends.far.closed;
  for (let i = 0; i < 64; i++) await ends.peer.receive("mask");
  await assertRefused(ends, ends.peer.receive("mask"), "at most 64 frames");
});

Deno.test("a peer that is many bytes ahead in a lane is closed; asking for frames makes room", async () => {
  const large = { dtype: "f32", shape: [1, 1000], data: new Float32Array(1000) } as const;
  const ends = open({ maxQueuedBytes: 12_000 });
  const say = (kind: "input" | "hidden") => ends.say({ kind, tensors: [large] });
  for (let round = 0; round < 5; round++) {
    await say("input");
    await say("input");
    await say("hidden"); // another lane, with a bound of its own
    for (const kind of ["input", "input", "hidden"] as const) await ends.peer.receive(kind);
  }
  for (let i = 0; i < 3; i++) await say("input");
  await ends.far.closed;
  for (let i = 0; i < 2; i++) await ends.peer.receive("input");
  await assertRefused(ends, ends.peer.receive("input"), "12000 bytes may be ahead: 3 frames and 1");
});

Deno.test("a single frame may be larger than the bound of a lane", async () => {
  const { peer, say } = open({ maxQueuedBytes: 100 });
  await say({ kind: "input", tensors: [{ dtype: "f32", shape: [1, 1000], data: new Float32Array(1000) }] });
  await settled();
  assertEquals((await peer.receive("input")).tensors[0]!.shape, [1, 1000]);
  await peer.close();
});

Deno.test("a wait has a limit, and later waits do not get what it was for", async () => {
  const { peer, say } = open({ timeoutMs: 30 });
  await assertRejects(() => peer.receive("mask"), DeadlineError, "30 ms");
  await say({ step: 5 });
  assertEquals((await peer.receive("mask")).step, 5);
  await peer.close();
});

Deno.test("sending has a limit", async () => {
  const { peer, near } = open({ timeoutMs: 30 });
  near.stuck = true;
  await assertRejects(() => peer.send("finished"), DeadlineError, "30 ms");
  await peer.close();
});

Deno.test("a signal ends waits", async () => {
  const abort = new AbortController();
  const { peer } = open({ signal: abort.signal });
  const wait = peer.receive("mask");
  abort.abort(new Error("no more"));
  await assertRejects(() => wait, Error, "no more");
  await assertRejects(() => peer.receive("mask"), Error, "no more");
  await peer.close();
});

Deno.test("a closed channel ends waits with the reason; what came before is still there", async () => {
  const { peer, far, say } = open();
  await say({ step: 9 });
  await far.close("device is tired");
  assertEquals((await peer.receive("mask")).step, 9);
  await assertRejects(() => peer.receive("mask"), ChannelClosedError, "device is tired");
  await assertRejects(() => peer.send("finished"), ChannelClosedError);
  await peer.close();
});

Deno.test("the end of a run reaches every lane", async () => {
  const { peer, say } = open();
  const data = peer.next("data", "data");
  await say({ kind: "end", meta: { reason: "enough" } });
  assertEquals((await data).meta, { reason: "enough" });
  await assertRejects(() => peer.receive("mask"), ChannelClosedError, "enough");
  assertEquals((await peer.next("control", "end")).kind, "end");
  await peer.close();
});

Deno.test("a refusal ends waits with its reason", async () => {
  const { peer, say } = open();
  const wait = peer.receive("welcome");
  await say({ kind: "refuse", meta: { reason: "no place" } });
  assertInstanceOf(await wait.catch((e) => e), HandshakeError);
  await assertRejects(() => peer.receive("welcome"), HandshakeError, "no place");
  await peer.close();
});
