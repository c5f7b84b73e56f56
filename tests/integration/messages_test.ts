import {
  decodeFrame,
  encodeFrame,
  FRAME_KINDS,
  type Lane,
  MESSAGES,
  Peer,
  ProtocolError,
  type RawFrame,
} from "@edgetuner/core";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { documentedRows, messageRow, saidOf } from "../../.ci/messages.ts";
import { frameOf, randomNumbers } from "../support/hostile_frames.ts";
import { memoryChannels } from "../support/memory_channel.ts";

/** A peer of a run that has begun, and the raw end that plays the other side. */
function openPeer(remote?: "server" | "device") {
  const [near, far] = memoryChannels();
  const peer = new Peer(near, { timeoutMs: 5000, ...(remote && { remote }) });
  return { peer, far };
}

/** Bytes of a frame's tensors as they travel in f32. */
function bytesOf({ tensors }: RawFrame): number {
  return tensors.reduce((sum, { dtype, data }) => sum + data.length * (dtype === "u8" ? 1 : 4), 0);
}

for (const kind of FRAME_KINDS) {
  const { from, lane } = MESSAGES[kind];

  Deno.test(`the row of "${kind}" holds: encoded, decoded, in its lane, counted, from its sender only`, async () => {
    const random = randomNumbers(7);
    const frame: RawFrame = { ...frameOf(kind, random), run: "", sequence: 0 };
    const { microBatch, ...decoded } = { microBatch: 0, ...decodeFrame(encodeFrame(frame)) };
    assertEquals<unknown>({ ...decoded, microBatch }, frame);

    // These end waits or restart them instead of coming in a lane.
    if (kind !== "refuse" && kind !== "paused" && kind !== "leave") {
      const { peer, far } = openPeer();
      await far.send(encodeFrame(frame));
      assertEquals((await peer.next(lane, "it")).kind, kind);
      const lanes: Lane[] = (["control", "data", "heads"] as const).filter((other) => other !== lane);
      await far.close();
      for (const other of kind === "end" ? [] : lanes) await assertRejects(() => peer.next(other, "nothing"));
      const [entry] = peer.ledger.entries();
      assertEquals(entry, {
        kind,
        direction: "received",
        frames: 1,
        tensorBytes: bytesOf(frame),
        frameBytes: encodeFrame(frame).length,
      });
      await peer.close();
    }

    for (const remote of ["server", "device"] as const) {
      if (from.includes(remote)) continue;
      const { peer, far } = openPeer(remote);
      await far.send(encodeFrame(frame));
      await assertRejects(
        () => peer.next(lane, "it"),
        ProtocolError,
        `"${kind}" must not come from a ${remote}`,
      );
      await peer.close();
    }
    assert(saidOf(kind).endsWith("."), "a sentence");
  });
}

Deno.test("docs/protocol.md has the table of messages, row for row", async () => {
  const rows = FRAME_KINDS.map((kind) => messageRow(kind).replace(/ +/g, " "));
  assertEquals(await documentedRows(), rows, "run: deno run -A .ci/messages.ts --write");
});
