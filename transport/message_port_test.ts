import type { Channel } from "@edgetuner/core/contracts";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { isPending, pattern, testStrictly, within } from "../tests/conformance/transport_suite.ts";
import { inProcessTransport } from "./in_process.ts";
import { messagePortChannel, relay } from "./message_port.ts";

function makePair(): [Channel, Channel] {
  const { port1, port2 } = new MessageChannel();
  return [messagePortChannel(port1, "worker"), messagePortChannel(port2, "main thread")];
}

async function receive(channel: Channel): Promise<Uint8Array | null> {
  return await within(channel.receive(), "receive");
}

testStrictly("messagePortChannel() carries frames both ways and leaves the sender its own", async () => {
  const [near, far] = makePair();
  assertEquals([near.peer, far.peer], ["worker", "main thread"]);
  // A view of a larger buffer, which must neither travel as a whole nor be lost to the sender.
  const whole = pattern(1000);
  for (let i = 0; i < 5; i++) await near.send(whole.subarray(i, i + 10));
  await far.send(pattern(0));
  for (let i = 0; i < 5; i++) assertEquals(await receive(far), whole.slice(i, i + 10));
  assertEquals(await receive(near), pattern(0));
  assertEquals(whole, pattern(1000));
  await within(Promise.all([near.close("done"), far.closed]), "close");
});

testStrictly("messagePortChannel() delivers what was accepted before closing, then ends", async () => {
  const [near, far] = makePair();
  await near.send(pattern(3));
  await near.send(pattern(100_000));
  await within(near.close("done"), "close");
  assertEquals(await receive(far), pattern(3));
  assertEquals((await receive(far))?.byteLength, 100_000);
  assertEquals(await receive(far), null);
  assertEquals(await within(far.closed, "closed"), { clean: true, reason: "done" });
  await assertRejects(() => far.send(pattern(1)), Error, "done");
});

testStrictly("messagePortChannel() holds the sender back until the receiver takes frames", async () => {
  const [near, far] = makePair();
  let accepted = 0;
  let held = near.send(pattern(2 ** 20));
  while (!await isPending(held, 20)) {
    accepted++;
    assert(accepted < 64, "no back-pressure");
    held = near.send(pattern(2 ** 20));
  }
  for (let i = 0; i <= accepted; i++) assertEquals((await receive(far))?.byteLength, 2 ** 20);
  await within(held, "the held send");
  await within(Promise.all([near.close(), far.closed]), "close");
});

testStrictly("relay() hands frames on and passes the end on with its reason", async () => {
  const { transport, listener } = inProcessTransport();
  const device = await transport.connect();
  const edge = await listener.accept();
  assert(edge);
  const [near, far] = makePair();
  const relayed = relay(edge, near);
  await device.send(pattern(7));
  assertEquals(await receive(far), pattern(7));
  await far.send(pattern(8));
  assertEquals(await receive(device), pattern(8));
  await within(far.close("enough"), "close");
  await within(relayed, "relay");
  assertEquals(await within(device.closed, "closed"), { clean: true, reason: "enough" });
});

testStrictly("relay() ends where the other side takes none of the last frames", async () => {
  const { transport, listener } = inProcessTransport();
  const device = await transport.connect();
  const edge = await listener.accept();
  assert(edge);
  const [near, far] = makePair();
  const relayed = relay(edge, near, { lastFrameMs: 50 });
  let held = far.send(pattern(2 ** 20));
  for (let i = 0; !await isPending(held, 20); i++) {
    assert(i < 256, "no back-pressure");
    held = far.send(pattern(2 ** 20));
  }
  held.catch(() => {});
  await within(far.close("refused"), "close");
  await within(relayed, "relay");
  assertEquals((await within(device.closed, "closed")).reason, "refused");
});
