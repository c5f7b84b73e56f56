/**
 * Hostile frames, seeded: right ones with bytes changed, and valid CBOR that is made to take time or memory. They
 * are decoded, and some are sent to a living edge server and to living devices, with an honest run beside them.
 *
 * Run with: `deno run -A bench/frames.ts --frames 1000000 --live 5000`
 *
 * It ends with code 1 if decoding a frame fails in another way than with a typed error, takes more than 100 ms (the
 * least of four tries, as other processes take time too), if memory grows by more than 100 MB after the first tenth,
 * or if the honest run does not end with the bits of one that is alone.
 *
 * @module
 */

import { decodeFrame, HandshakeError, ProtocolError } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { honestRun } from "../tests/integration/siege.ts";
import { hostileFrame, leastMs, randomNumbers } from "../tests/support/hostile_frames.ts";
import { besiegeDevices } from "../tests/support/hostile_peers.ts";
import { TinyGpt2 } from "../tests/support/tiny_model.ts";
import { integer, readFlags, runProgram } from "../cli/flags/flags.ts";

/** Longest time that decoding a frame may take, in milliseconds. */
const MAX_MS = 100;
/** Most bytes that memory may grow by after the first tenth. */
const MAX_GROWTH = 100e6;

const PROGRAM = {
  name: "bench_frames.ts",
  about: "Decodes hostile frames, and sends some to a living edge server and to devices.",
  examples: ["deno run -A bench/frames.ts --frames 1000000 --live 5000"],
};

const FLAGS = {
  frames: integer("N", 1_000_000, "frames to decode", { min: 1 }),
  live: integer("N", 5000, "frames sent to a living edge server, and as many to devices; 0 for none", {
    min: 0,
  }),
  seed: integer("N", 1, "seed of the frames", { min: 0 }),
};

/** Decodes the frames; returns what is wrong. */
function decodeAll(frames: number, seed: number): string[] {
  const random = randomNumbers(seed);
  const started = performance.now();
  let longest = 0, decodeMs = 0, taken = 0, base = 0;
  const wrong: string[] = [];
  for (let i = 0; i < frames; i++) {
    const bytes = hostileFrame(random);
    const ms = leastMs(() => {
      try {
        decodeFrame(bytes);
        taken++;
      } catch (error) {
        if (error instanceof ProtocolError || error instanceof HandshakeError) return;
        wrong.push(`frame ${i}: ${error}`);
      }
    });
    decodeMs += ms;
    longest = Math.max(longest, ms);
    if (ms > MAX_MS) wrong.push(`frame ${i} took ${ms.toFixed(1)} ms`);
    if ((i + 1) % Math.ceil(frames / 10) !== 0) continue;
    const { rss } = Deno.memoryUsage();
    base ||= rss;
    console.log(
      `${String(i + 1).padStart(9)} frames  ${taken} taken  longest ${longest.toFixed(1)} ms  mean ${
        (decodeMs / (i + 1)).toFixed(4)
      } ms  RSS ${Math.round(rss / 1e6)} MB`,
    );
  }
  const growth = Deno.memoryUsage().rss - base;
  if (growth > MAX_GROWTH) wrong.push(`memory grew by ${Math.round(growth / 1e6)} MB`);
  console.log(`Decoded in ${((performance.now() - started) / 1000).toFixed(0)} s with making the frames`);
  return wrong;
}

/** Sends frames to a living edge server and living devices; returns what is wrong. */
async function sendAll(live: number, seed: number): Promise<string[]> {
  using engine = await Engine.create();
  const model = new TinyGpt2(engine);
  const alone = await honestRun(model, 0);
  const beside = await honestRun(model, 2 * Math.ceil(live / 2));
  console.log(
    `Edge server: ${live} hostile peers, each gone after at most ${beside.longestMs.toFixed(0)} ms`,
  );
  const devices = await besiegeDevices(engine, live, randomNumbers(seed));
  console.log(
    `Devices: ${live} hostile frames in place of a welcome, each refused after at most ${
      devices.longestMs.toFixed(0)
    } ms`,
  );
  const equal = alone.losses.every((loss, i) => loss === beside.losses[i]) &&
    alone.weights.every((weight, i) => weight === beside.weights[i]);
  console.log(`Honest run beside them: ${equal ? "the same bits as alone" : "other bits than alone"}`);
  return equal ? [] : ["the honest run differs"];
}

async function main(): Promise<number> {
  const { frames, live, seed } = readFlags(PROGRAM, FLAGS);
  const wrong = [...decodeAll(frames, seed), ...live > 0 ? await sendAll(live, seed) : []];
  for (const line of wrong.slice(0, 20)) console.error(line);
  console.log(wrong.length === 0 ? "Nothing crashed, hung or grew" : `${wrong.length} faults`);
  return wrong.length === 0 ? 0 : 1;
}

await runProgram(main);
