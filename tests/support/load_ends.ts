/**
 * Loads the ends of a model and prints what that took at most: for tests of memory, as a process of its own.
 *
 * Arguments: the model's folder, the format of its weights.
 *
 * @module
 */

import "./graphics_driver.ts";
import { type BaseWeights, gpt2Config, loadEnds, StoredTensors } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";

/** A figure of `/proc/self/status`, in bytes. */
function status(name: string): number {
  const text = Deno.readTextFileSync("/proc/self/status");
  return Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(text)![1]) * 1024;
}

if (import.meta.main) {
  const [folder, baseWeights] = Deno.args as [string, BaseWeights];
  const config = gpt2Config(JSON.parse(Deno.readTextFileSync(`${folder}/config.json`)));
  const weights = await StoredTensors.open(`${folder}/model.safetensors`);
  const engine = await Engine.create();
  await engine.idle();
  Deno.writeTextFileSync("/proc/self/clear_refs", "5"); // the peak starts again from here
  const before = status("VmRSS");
  const adapter = engine.stats.allocatedBytes;
  using _ends = loadEnds(engine, { config, weights }, { baseWeights });
  const peak = status("VmHWM") - before;
  console.log(JSON.stringify({ peak, adapter: engine.stats.allocatedBytes - adapter }));
  engine.dispose();
}
