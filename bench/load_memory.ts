/**
 * What loading a model takes of a process.
 *
 * @module
 */

import { type BaseWeights, loadEmbeddingAndHead, loadLayers, loadModel } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";

/** What was seen; bytes are what the process had at most beside what it had before. */
export interface LoadFigures {
  /** Fingerprint of the model. */
  readonly fingerprint: string;
  /** While the model was read and its fingerprint computed. */
  readonly reading: number;
  /** While layers and ends were put on the adapter; on a software adapter with what these hold. */
  readonly loading: number;
  /** What layers and ends hold on the adapter. */
  readonly adapter: number;
  /** Of the whole process. */
  readonly peak: number;
  /** Milliseconds of reading and fingerprint. */
  readonly readingMs: number;
  /** Milliseconds of loading. */
  readonly loadingMs: number;
}

/** A figure of `/proc/self/status`, in bytes. */
function status(name: string): number {
  const text = Deno.readTextFileSync("/proc/self/status");
  return Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(text)![1]) * 1024;
}

/** Starts to look for a peak: how much more than now the process had at most, when asked. */
function peakFrom(): () => number {
  Deno.writeTextFileSync("/proc/self/clear_refs", "5");
  const before = status("VmRSS");
  return () => status("VmHWM") - before;
}

/**
 * Loads a model and says what that took. Linux only, and in a process that has done nothing else.
 *
 * @param path A folder or a GGUF file.
 * @param baseWeights How its matrices are held.
 */
export async function measureLoading(path: string, baseWeights: BaseWeights): Promise<LoadFigures> {
  using engine = await Engine.create();
  await engine.idle();
  const started = performance.now();
  const peakOfReading = peakFrom();
  const model = await loadModel(path);
  const reading = peakOfReading();
  const readingMs = performance.now() - started;
  const most = status("VmHWM");
  const adapter = engine.stats.allocatedBytes;
  const peakOfLoading = peakFrom();
  using _layers = loadLayers(engine, model, { baseWeights });
  using _ends = loadEmbeddingAndHead(engine, model, { baseWeights });
  await engine.idle();
  return {
    fingerprint: model.fingerprint,
    reading,
    loading: peakOfLoading(),
    adapter: engine.stats.allocatedBytes - adapter,
    peak: Math.max(most, status("VmHWM")),
    readingMs,
    loadingMs: performance.now() - started - readingMs,
  };
}
