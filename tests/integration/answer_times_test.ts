import { assert, assertEquals } from "@std/assert";
import { type Channel, EdgeServer, f32Codec, type StepRecord, type WireCodec } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { TinyGpt2, tinySettings } from "../support/tiny_model.ts";
import { admitAll, dataSide, joinDevice, openLink, serverOptions } from "./_session.ts";

const STEPS = 2;
const SPIN_MS = 15;

/** Keeps the processor busy, as computing does. */
function spin(): void {
  const until = performance.now() + SPIN_MS;
  while (performance.now() < until);
}

/** A channel that takes its time before a frame is there. */
function slowWire(channel: Channel): Channel {
  return {
    peer: channel.peer,
    closed: channel.closed,
    send: (bytes, options) => channel.send(bytes, options),
    async receive(options) {
      const bytes = await channel.receive(options);
      if (bytes !== null) spin();
      return bytes;
    },
    close: (reason) => channel.close(reason),
    [Symbol.asyncDispose]: () => channel.close(),
  };
}

Deno.test("what devices compute is told apart from their wires, and both are in the records of steps", async () => {
  using engine = await Engine.create();
  using model = new TinyGpt2(engine);
  const plain: WireCodec = { ...f32Codec(), name: "plain" };
  // What a device does with a frame that it has: its computing.
  const slow: WireCodec = {
    ...plain,
    decode(...args) {
      spin();
      return plain.decode(...args);
    },
  };
  const settings = { ...tinySettings("slice", STEPS), codec: "plain", clipNorm: 1 };
  const server = new EdgeServer(serverOptions(model, settings, { devices: 1, codecs: [plain] }));
  const records: StepRecord[] = [];
  server.subscribe((event) => event.type === "step" && records.push(event.record));
  await using link = openLink("in-process");
  const admitting = admitAll(link.listener, server);
  const running = server.start();
  const device = { engine, codecs: [slow] };
  const heads = await joinDevice(link, server, { ...device, name: "barn", capacity: 1 }, slowWire);
  const data = dataSide(model, STEPS);
  const owner = await joinDevice(link, server, { ...device, name: "attic", capacity: 0, data }, slowWire);
  await running;
  (await heads.result).modules![Symbol.dispose]();
  await owner.result;
  await link.listener[Symbol.asyncDispose]();
  await admitting;

  assertEquals(records.length, STEPS);
  const layers = 3;
  // X of each layer, and gradients of all but the lowest, which is not answered.
  const questions = 2 * layers - 1;
  for (const { answers = [], dataAnswers = [], times } of records) {
    assertEquals([answers.length, dataAnswers.map(({ name }) => name)], [1, ["attic"]]);
    for (
      const [{ ms, computeMs = NaN }, count] of [[answers[0]!, questions], [dataAnswers[0]!, 1]] as const
    ) {
      const text = `${ms} ms, ${computeMs} ms of them computing, for ${count} questions`;
      assert(computeMs >= count * SPIN_MS, text);
      assert(ms - computeMs >= count * SPIN_MS, text);
      assert(ms <= times.total, text);
    }
  }
});
