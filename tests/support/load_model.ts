/**
 * Loads a model and prints what that took at most: for tests of memory, as a process of its own.
 *
 * Arguments: the model (a folder or a GGUF file), the format of its weights.
 *
 * @module
 */

import "./graphics_driver.ts";
import { type BaseWeights, loadEnds, loadLayers, loadModel } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";

/** A figure of `/proc/self/status`, in bytes. */
function status(name: string): number {
  const text = Deno.readTextFileSync("/proc/self/status");
  return Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(text)![1]) * 1024;
}

/** Starts to look for a peak: what the process has now, and how much more it had at most when asked. */
function peakFrom(): () => number {
  Deno.writeTextFileSync("/proc/self/clear_refs", "5");
  const before = status("VmRSS");
  return () => status("VmHWM") - before;
}

if (import.meta.main) {
  const [path, baseWeights] = Deno.args as [string, BaseWeights];
  const engine = await Engine.create();
  await engine.idle();
  const started = performance.now();
  const ofReading = peakFrom();
  const model = await loadModel(path);
  const reading = ofReading();
  const readingMs = performance.now() - started;
  const adapter = engine.stats.allocatedBytes;
  const ofAll = peakFrom();
  {
    using _layers = loadLayers(engine, model, { baseWeights });
    using _ends = loadEnds(engine, model, { baseWeights });
    await engine.idle();
    const loading = ofAll();
    console.log(JSON.stringify({
      fingerprint: model.fingerprint,
      reading,
      loading,
      adapter: engine.stats.allocatedBytes - adapter,
      readingMs: Math.round(readingMs),
      loadingMs: Math.round(performance.now() - started - readingMs),
    }));
  }
  engine.dispose();
}
