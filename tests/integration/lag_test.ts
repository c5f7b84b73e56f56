/**
 * The thread that serves sockets is never held up by the GPU.
 */
// Runs alone: it measures how late timers are.

import { assertEquals, assertLess } from "@std/assert";
import { DEFAULT_LORA, DEFAULT_OPTIMIZER } from "@edgetuner/core";
import { webSocketListener } from "@edgetuner/transport";
import { createControlApp } from "@edgetuner/transport/server";
import { Child } from "../../cli/process/child.ts";
import { WorkerRun } from "../../cli/process/worker_run.ts";
import { ASSETS } from "../support/places.ts";

const STEPS = 12;

Deno.test("timers of the serving thread are late by less than 50 ms (p99) while a run trains [slow]", async () => {
  const run = await WorkerRun.start({
    model: `${ASSETS}tiny_gpt2`,
    settings: {
      lora: DEFAULT_LORA,
      optimizer: { ...DEFAULT_OPTIMIZER, warmupSteps: 0 },
      steps: STEPS,
      seed: 1,
    },
    devices: 1,
    pruner: { name: "none", options: {} },
    webgpu: "deno",
    timeoutMs: 60_000,
    joinTimeoutMs: 60_000,
  });
  const sockets = webSocketListener();
  const joinToken = crypto.randomUUID();
  const app = createControlApp({
    runs: new Map([[run.run, run]]),
    joinToken,
    adminToken: crypto.randomUUID(),
    webSocket: sockets,
  });
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, app.fetch);
  const accepting = (async () => {
    for (let c = await sockets.accept(); c !== null; c = await sockets.accept()) run.join(c);
  })();
  let trained = 0;
  let training = false;
  run.subscribe((event) => {
    if (event.type === "status") training = event.status === "running";
    if (event.type === "step" && event.record.mode === "train") trained++;
  });
  const device = new Child("device", "user_device.ts", [
    ...["--server", `ws://127.0.0.1:${server.addr.port}/join/ws`, "--token", joinToken],
    ...["--data", `${ASSETS}restaurant/train.txt`, "--batch", "8"],
  ], () => {});
  const lags: number[] = [];
  let probing = true;
  const probe = (async () => {
    while (probing) {
      const before = performance.now();
      // deno-lint-ignore house/fixed-sleep -- how late it comes is what is measured
      await new Promise((resolve) => setTimeout(resolve, 5));
      if (training) lags.push(performance.now() - before - 5);
    }
  })();
  await run.done;
  probing = false;
  await probe;
  assertEquals(await device.endWithin(20_000), 0, device.errors);
  await run.drained();
  await sockets[Symbol.asyncDispose]();
  await accepting;
  await server.shutdown();
  assertEquals(trained, STEPS);
  lags.sort((a, b) => a - b);
  const p99 = lags[Math.floor(lags.length * 0.99)]!;
  assertLess(
    p99,
    50,
    `lag p99 ${p99.toFixed(1)} ms, max ${lags.at(-1)!.toFixed(1)} ms of ${lags.length} probes`,
  );
  console.log(
    `lag p50 ${lags[lags.length >> 1]!.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms, max ${
      lags.at(-1)!.toFixed(1)
    } ms`,
  );
});
