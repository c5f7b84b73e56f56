/**
 * Hostile frames sent to a living edge server and to living devices.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import {
  ChannelClosedError,
  HandshakeError,
  ProtocolError,
  runUserDevice,
  type Transport,
} from "@edgetuner/core";
import { hostileFrame } from "./hostile_frames.ts";
import { memoryChannels } from "./memory_channel.ts";

/** What came of hostile frames. */
export interface Siege {
  /** Frames sent. */
  readonly frames: number;
  /** Longest time from sending a frame until its connection was closed, in milliseconds. */
  readonly longestMs: number;
}

/**
 * Opens a connection for each frame, sends the frame, and waits until the server has closed it. A frame that the
 * server takes is followed by one that it cannot take.
 *
 * @param transport To the server.
 * @param frames How many.
 * @param random Draws the frames.
 */
export async function besiegeServer(
  transport: Transport,
  frames: number,
  random: (below: number) => number,
): Promise<Siege> {
  let longestMs = 0;
  for (let i = 0; i < frames; i++) {
    const channel = await transport.connect();
    const frame = hostileFrame(random);
    const started = performance.now();
    await channel.send(frame).catch(() => {});
    await channel.send(new Uint8Array(1)).catch(() => {});
    await channel.closed;
    longestMs = Math.max(longestMs, performance.now() - started);
    await channel.close();
  }
  return { frames, longestMs };
}

/**
 * Lets devices join that hear a hostile frame instead of a welcome: each must end with a typed error.
 *
 * @param engine The engine of the devices.
 * @param frames How many.
 * @param random Draws the frames.
 */
export async function besiegeDevices(
  engine: Engine,
  frames: number,
  random: (below: number) => number,
): Promise<Siege> {
  let longestMs = 0;
  for (let i = 0; i < frames; i++) {
    const [near, far] = memoryChannels();
    const started = performance.now();
    const device = runUserDevice({ engine, channel: near, name: "d", capacity: 1, timeoutMs: 20_000 });
    await far.receive();
    await far.send(hostileFrame(random));
    await far.send(new Uint8Array(1)).catch(() => {});
    const error = await device.then(({ modules, error }) => {
      modules?.[Symbol.dispose]();
      return error;
    }, (error: unknown) => error);
    longestMs = Math.max(longestMs, performance.now() - started);
    // The last of them for an "end" that happens to be right.
    const typed = [ProtocolError, HandshakeError, ChannelClosedError].some((Kind) => error instanceof Kind);
    if (!typed) throw error;
  }
  return { frames, longestMs };
}
