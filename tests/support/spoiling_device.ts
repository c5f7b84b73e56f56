/**
 * A device of a library user whose Deltas have a NaN from the second training step on.
 *
 *     deno run -A tests/support/spoiling_device.ts URL TOKEN
 *
 * @module
 */

import { type Channel, decodeFrame, encodeFrame, runUserDevice } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { webSocketTransport } from "@edgetuner/transport";

const [url, token] = Deno.args as [string, string];
const channel = await webSocketTransport({ url, token }).connect();

/** The frame with a NaN in it, if it has Deltas of a later step. */
function spoilt(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const frame = decodeFrame(bytes);
  if (frame.kind !== "delta" || frame.step < 1) return bytes;
  const tensors = frame.tensors.map((tensor) => {
    const data = Float32Array.from(tensor.data);
    data[0] = NaN;
    return { ...tensor, data };
  });
  return encodeFrame({ ...frame, tensors });
}

const spoiling: Channel = {
  peer: channel.peer,
  closed: channel.closed,
  send: (bytes, options) => channel.send(spoilt(bytes), options),
  receive: (options) => channel.receive(options),
  close: (reason, options) => channel.close(reason, options),
  [Symbol.asyncDispose]: () => channel[Symbol.asyncDispose](),
};
using engine = await Engine.create();
const { error, modules } = await runUserDevice({ engine, channel: spoiling, name: "spoiling", capacity: 1 });
modules?.[Symbol.dispose]();
console.log(error instanceof Error ? error.message : "no error");
