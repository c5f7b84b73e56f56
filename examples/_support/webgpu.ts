/**
 * Which WebGPU implementation runs the kernels.
 *
 * @module
 */

import { UsageError } from "./flags.ts";

/** `deno`: the runtime's own (wgpu). `dawn`: Chrome's, as an npm package, loaded only when asked for. */
export type WebGpuChoice = "deno" | "dawn";

/** Choices for a flag. */
export const WEBGPU_CHOICES = ["deno", "dawn"] as const;

/**
 * The `GPU` object of a choice; `undefined` for the runtime's own.
 *
 * @throws {UsageError} If the package cannot be loaded.
 */
export async function loadGpu(choice: string): Promise<GPU | undefined> {
  if (choice !== "dawn") return undefined;
  try {
    // Not a literal: who does not ask for Dawn need not have it.
    const specifier = "npm:webgpu@0.6.2";
    const { create } = await import(specifier);
    const gpu = create([]) as GPU;
    // Dawn frees its instance with this object, whatever devices are still in use.
    (globalThis as { edgetunerDawn?: GPU }).edgetunerDawn = gpu;
    return gpu;
  } catch (cause) {
    throw new UsageError(`Cannot use --webgpu dawn as npm:webgpu must load: ${(cause as Error).message}`);
  }
}
