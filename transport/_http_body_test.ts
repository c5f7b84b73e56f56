import { DeadlineError } from "@edgetuner/core/contracts";
import { assertEquals, assertRejects } from "@std/assert";
import { testStrictly, within } from "../tests/conformance/transport_suite.ts";
import { type BodyLimits, readBody } from "./_http_body.ts";
import { takes } from "../tests/support/until.ts";

/** A message whose body brings some bytes every so many milliseconds, and never ends. */
function slow(bytes: number, everyMs: number) {
  let timer: ReturnType<typeof setInterval> | undefined;
  let cancelled = false;
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start(controller) {
      timer = setInterval(() => controller.enqueue(new Uint8Array(bytes)), everyMs);
    },
    cancel() {
      cancelled = true;
      clearInterval(timer);
      return new Promise(() => {}); // as of a peer that is gone
    },
  });
  return { message: new Response(body), cancelled: () => cancelled };
}

const LIMITS: BodyLimits = { maxBytes: 2 ** 20, timeoutMs: 150 };

testStrictly("readBody(): a body that brings a byte now and then ends at its time", async () => {
  const { message, cancelled } = slow(1, 5);
  await assertRejects(
    () => within(readBody(message, LIMITS), "the end"),
    DeadlineError,
    "it must bring 4 bytes a millisecond after the first 150 ms",
  );
  assertEquals(cancelled(), true);
});

testStrictly("readBody(): a body that brings nothing ends at its time", async () => {
  const { message, cancelled } = slow(1, 2 ** 30);
  await assertRejects(
    () => within(readBody(message, LIMITS), "the end"),
    DeadlineError,
    "some of it must come every 150 ms: nothing came after 0 bytes",
  );
  assertEquals(cancelled(), true);
});

testStrictly("readBody(): a slow body that brings enough is read whole", async () => {
  let sent = 0;
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      await takes(30);
      controller.enqueue(new Uint8Array(1000).fill(++sent));
      if (sent === 10) controller.close();
    },
  });
  const read = await within(readBody(new Response(body), LIMITS), "the body");
  assertEquals([read?.length, read?.at(-1)], [10_000, 10]);
});

testStrictly("readBody(): a signal ends it, and so does too much", async () => {
  const stop = new AbortController();
  const { message, cancelled } = slow(1, 2 ** 30);
  const reading = readBody(message, { ...LIMITS, timeoutMs: 10_000, signal: stop.signal });
  stop.abort(new Error("enough"));
  await assertRejects(() => within(reading, "the end"), Error, "enough");
  assertEquals(cancelled(), true);
  const late = slow(1, 2 ** 30);
  await assertRejects(() => readBody(late.message, { ...LIMITS, signal: stop.signal }), Error, "enough");
  assertEquals(late.cancelled(), true, "a signal that came before ends the body too");
  const much = slow(1000, 1);
  assertEquals(await within(readBody(much.message, { ...LIMITS, maxBytes: 1500 }), "the end"), undefined);
  assertEquals(much.cancelled(), true);
  const long = new Response("x".repeat(11), { headers: { "content-length": "11" } });
  assertEquals(await readBody(long, { ...LIMITS, maxBytes: 10 }), undefined);
});
