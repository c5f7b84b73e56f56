/**
 * What transports carry on this machine: frames and bytes in a second, one way, and the time of a round trip.
 *
 * Run with: `deno run -A bench/links.ts`
 *
 * @module
 */

import type { Channel, Listener, Transport } from "@edgetuner/core";
import {
  httpListener,
  httpTransport,
  inProcessTransport,
  webSocketListener,
  webSocketTransport,
} from "@edgetuner/transport";
import { serve } from "@edgetuner/transport/server";
import { integer, readFlags, runProgram } from "../cli/flags/flags.ts";

const PROGRAM = {
  name: "bench_links.ts",
  about: "Measures what transports carry on this machine.",
  examples: ["deno run -A bench/links.ts --tries 3"],
};

const FLAGS = { tries: integer("N", 3, "tries of each; the best counts", { min: 1 }) };

/** Frames of each size, and how many one way. */
const CASES = [[100, 5000], [10_000, 2000], [60_000, 1000], [1_000_000, 200]] as const;
const ROUNDS = 200;

interface Place extends AsyncDisposable {
  readonly transport: Transport;
  readonly listener: Listener;
}

/** A transport over a real server, as an edge server has it. */
async function over(kind: "websocket" | "http"): Promise<Place> {
  const queueBytes = 2 ** 28;
  const listener = kind === "websocket" ? webSocketListener({ queueBytes }) : httpListener({ queueBytes });
  const server = await serve({ fetch: (request) => listener.handle(request) });
  const url = `http://127.0.0.1:${server.port}/`;
  const transport = kind === "websocket"
    ? webSocketTransport({ url, queueBytes })
    : httpTransport({ url, queueBytes });
  return {
    transport,
    listener,
    async [Symbol.asyncDispose]() {
      await listener[Symbol.asyncDispose]();
      await server.shutdown(100);
    },
  };
}

function inProcess(): Promise<Place> {
  const pair = inProcessTransport();
  return Promise.resolve({ ...pair, [Symbol.asyncDispose]: () => pair.listener[Symbol.asyncDispose]() });
}

async function seconds(work: () => Promise<void>): Promise<number> {
  const began = performance.now();
  await work();
  return (performance.now() - began) / 1000;
}

/** Frames in a second from one side to the other. */
async function oneWay(
  from: Channel,
  to: Channel,
  [bytes, frames]: readonly [number, number],
): Promise<number> {
  const frame = new Uint8Array(bytes);
  const s = await seconds(async () => {
    const send = async () => {
      for (let i = 0; i < frames; i++) await from.send(frame);
    };
    const take = async () => {
      for (let i = 0; i < frames; i++) await to.receive();
    };
    await Promise.all([send(), take()]);
  });
  return frames / s;
}

/** Milliseconds of a frame there and one back. */
async function roundTrip(device: Channel, edge: Channel, bytes: number): Promise<number> {
  const frame = new Uint8Array(bytes);
  const s = await seconds(async () => {
    for (let i = 0; i < ROUNDS; i++) {
      await device.send(frame);
      await edge.receive();
      await edge.send(frame);
      await device.receive();
    }
  });
  return s * 1000 / ROUNDS;
}

async function main(): Promise<void> {
  const { tries } = readFlags(PROGRAM, FLAGS);
  console.log("transport    bytes      up frames/s   MB/s   down frames/s   MB/s   round trip ms");
  for (
    const [name, open] of [
      ["in process", inProcess],
      ["websocket", () => over("websocket")],
      ["http", () => over("http")],
    ] as const
  ) {
    await using place = await open();
    await using device = await place.transport.connect();
    await using edge = (await place.listener.accept())!;
    for (const size of CASES) {
      const [bytes] = size;
      let [up, down, trip] = [0, 0, Infinity];
      for (let i = 0; i < tries; i++) {
        up = Math.max(up, await oneWay(device, edge, size));
        down = Math.max(down, await oneWay(edge, device, size));
        trip = Math.min(trip, await roundTrip(device, edge, bytes));
      }
      const speed = (frames: number) =>
        `${frames.toFixed(0).padStart(13)} ${(frames * bytes / 1e6).toFixed(1).padStart(6)}`;
      console.log(
        `${name.padEnd(11)} ${String(bytes).padStart(7)} ${speed(up)}  ${speed(down)} ${
          trip.toFixed(2).padStart(14)
        }`,
      );
    }
  }
}

await runProgram(main);
