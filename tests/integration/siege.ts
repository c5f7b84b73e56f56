/**
 * An honest run whose edge server hears hostile peers too.
 *
 * @module
 */

import { EdgeServer } from "@edgetuner/core";
import { greedyPruner } from "@edgetuner/plugins";
import { randomNumbers } from "../support/hostile_frames.ts";
import { besiegeServer } from "../support/hostile_peers.ts";
import { flatten, type TinyBase, tinySettings } from "../support/tiny_model.ts";
import { admitAll, dataSide, joinDevice, openLink, serverOptions } from "./_session.ts";

const STEPS = 5;
/** Limit of whatever waits until hostile peers are gone, in milliseconds: each takes some 50. */
const SIEGE_LIMIT_MS = 600_000;

/** What came of an honest run. */
export interface HonestRun {
  readonly losses: readonly number[];
  readonly weights: Float32Array;
  /** Longest time that a hostile connection stayed open, in milliseconds. */
  readonly longestMs: number;
}

/**
 * Runs an edge server with two honest devices over WebSocket; half of the hostile frames come before the run
 * starts, half while it runs.
 *
 * @throws If an honest device has an error, or a hostile one is let in.
 */
export async function honestRun(model: TinyBase, frames: number): Promise<HonestRun> {
  const { engine } = model;
  await using link = openLink("websocket");
  const settings = tinySettings("slice", STEPS);
  const server = new EdgeServer({
    ...serverOptions(model, settings, { devices: 2, pruner: greedyPruner() }),
    // The second device joins once half of the hostile peers are gone, however busy the machine is.
    joinTimeoutMs: SIEGE_LIMIT_MS,
  });
  const admitting = admitAll(link.listener, server);
  const running = server.start();
  const random = randomNumbers(6);
  const first = await joinDevice(link, server, {
    engine,
    name: "a",
    capacity: 2,
    timeoutMs: SIEGE_LIMIT_MS,
  });
  const before = await besiegeServer(link.transport, frames / 2, random);
  const data = dataSide(model, STEPS, { shareLoss: true });
  const siege = besiegeServer(link.transport, frames / 2, random);
  const second = await joinDevice(link, server, { engine, name: "b", capacity: 1, data });
  const after = await siege;
  await running;
  const results = await Promise.all([first.result, second.result]);
  await link.listener[Symbol.asyncDispose]();
  await admitting;
  const names = server.devices.map((d) => d.name).join();
  if (names !== "a,b") throw new Error(`devices are ${names}`);
  const weights: number[] = [];
  for (const { modules, error } of results) {
    if (error !== null) throw error;
    weights.push(...flatten(await modules!.weights()));
    modules![Symbol.dispose]();
  }
  const longestMs = Math.max(before.longestMs, after.longestMs);
  return { losses: data.losses, weights: Float32Array.from(weights), longestMs };
}
