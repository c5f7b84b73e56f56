import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { memoryChannels } from "../../tests/support/memory_channel.ts";
import { ChannelClosedError, DeadlineError, HandshakeError, ProtocolError } from "../errors.ts";
import { encodeFrame, type Frame } from "./frame.ts";
import { Peer, type PeerOptions } from "./peer.ts";

/** A peer, and the raw end that plays the other side. */
function open(options: PeerOptions = {}) {
  const [near, far] = memoryChannels();
  const peer = new Peer(near, { timeoutMs: 5000, ...options });
  peer.run = "run";
  let sequence = 0;
  const say = (change: Partial<Frame> = {}) =>
    far.send(encodeFrame({
      kind: "mask",
      run: "run",
      sequence: sequence++,
      step: 0,
      layer: 0,
      meta: {},
      tensors: [],
      ...change,
    }));
  return { peer, near, far, say };
}

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
  await assertRejects(() => peer.send("mask"), ProtocolError, message);
  await peer.close();
}

Deno.test("frames pass between two peers and both count them", async () => {
  const [near, far] = memoryChannels();
  await using a = new Peer(near);
  await using b = new Peer(far);
  await a.send("input", { step: 2, layer: 1, meta: { x: 1 }, tensors: [TENSOR] });
  const frame = await b.receive("input", { step: 2, layer: 1, shapes: [[2, null]] });
  assertEquals([frame.sequence, frame.meta], [0, { x: 1 }]);
  assertEquals(frame.tensors, [TENSOR]);
  const [sent, received] = [a.ledger.entries(), b.ledger.entries()];
  assertEquals(sent, [{ ...received[0]!, direction: "sent" }]);
  assertEquals([sent[0]!.frames, sent[0]!.tensorBytes], [1, 24]);
  assertEquals(a.ledger.totalBytes, sent[0]!.frameBytes);
});

Deno.test("frames wait in their lane until they are asked for", async () => {
  const { peer, say } = open();
  await say({ kind: "mask", step: 1 });
  await say({ kind: "hidden", step: 2 });
  await say({ kind: "input", step: 3 });
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
  const right: Partial<Frame> = { kind: "input", step: 1, layer: 2, tensors: [TENSOR] };
  const wrong: [Partial<Frame>, string][] = [
    [{ kind: "delta" }, `must be "input"`],
    [{ step: 0 }, "step 1"],
    [{ layer: 0 }, "layer 2"],
    [{ tensors: [] }, "[2,3]"],
    [{ tensors: [TENSOR, TENSOR] }, "[2,3]"],
    [{ tensors: [{ ...TENSOR, shape: [3, 2] }] }, "[2,3]"],
    [{ tensors: [{ ...TENSOR, shape: [6] }] }, "[2,3]"],
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
  const ends = open({ maxQueuedBytes: 9000 });
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
  await assertRefused(ends, ends.peer.receive("input"), "9000 bytes may be ahead: 3 frames and 12");
});

Deno.test("a single frame may be larger than the bound of a lane", async () => {
  const { peer, say } = open({ maxQueuedBytes: 100 });
  await say({ kind: "input", tensors: [{ dtype: "f32", shape: [1, 1000], data: new Float32Array(1000) }] });
  await new Promise((resolve) => setTimeout(resolve, 10));
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
  await assertRejects(() => peer.send("mask"), DeadlineError, "30 ms");
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
  await assertRejects(() => peer.send("mask"), ChannelClosedError);
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
