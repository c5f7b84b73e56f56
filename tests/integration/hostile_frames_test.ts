/**
 * Hostile frames at a living edge server and at living devices, with an honest run beside them.
 */

import { Engine } from "@edgetuner/kernels";
import { assertEquals } from "@std/assert";
import { randomNumbers } from "../support/hostile_frames.ts";
import { besiegeDevices } from "../support/hostile_peers.ts";
import { TinyGpt2 } from "../support/tiny_model.ts";
import { honestRun } from "./siege.ts";
import { assertQuick } from "../support/quick.ts";

const engine = await Engine.create();
const model = new TinyGpt2(engine);

Deno.test("an honest run beside 300 hostile peers ends with the bits of one that is alone [slow]", async () => {
  const { tensors } = engine.stats;
  const alone = await honestRun(model, 0);
  assertEquals(alone.losses.length, 5);
  const { losses, weights, longestMs } = await honestRun(model, 300);
  assertEquals({ losses, weights }, { losses: alone.losses, weights: alone.weights });
  assertQuick(longestMs, 5000);
  assertEquals(engine.stats.tensors, tensors, "tensors left behind");
});

Deno.test("200 devices that hear a hostile frame in place of a welcome end with a typed error", async () => {
  const { longestMs } = await besiegeDevices(engine, 200, randomNumbers(7));
  assertQuick(longestMs, 2000);
});
