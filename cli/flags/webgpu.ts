/**
 * Which WebGPU implementation runs the kernels.
 *
 * @module
 */

import { Engine, NoAdapterError } from "@edgetuner/kernels";
import { UsageError } from "./flags.ts";

/** `deno`: the runtime's own (wgpu). `dawn`: Chrome's, as an npm package, loaded only when asked for. */
export type WebGpuChoice = "deno" | "dawn";

/** Choices for a flag. */
export const WEBGPU_CHOICES = ["deno", "dawn"] as const;

/**
 * Dawn refuses Vulkan drivers that cannot index arrays of sampled images at run time: Mesa's software
 * driver could not in version 22.3 (Debian 12) and can in 25.0.
 */
const DAWN_NEEDS = `  a GPU            its own driver: Vulkan 1.1, Metal or Direct3D 12
  no GPU           Mesa's software driver, 25.0 is new enough and 22.3 is not; on Debian 12 from backports:
                   apt-get install -t bookworm-backports mesa-vulkan-drivers
  or SwiftShader   set VK_ICD_FILENAMES to the vk_swiftshader_icd.json of a Chromium
                   (Debian: /usr/lib/chromium, package chromium-common)
Without --webgpu dawn Deno's own implementation is used, which takes older drivers too.`;

/** Questions in a row before a wait counts as a long one; short readbacks are done by then. */
const QUICK_POLLS = 20;

/**
 * Makes Dawn ask less often whether the GPU is done. It asks by `setImmediate`, in every turn of the
 * event loop: that keeps a core busy, and slows software drivers, which compute on the cores and lock
 * for each question, up to tenfold. Here a long wait asks once in a millisecond.
 */
function paceDawn(): void {
  const scope = globalThis as unknown as {
    setImmediate: (callback: (...args: unknown[]) => void, ...args: unknown[]) => unknown;
  };
  const immediate = scope.setImmediate;
  let polls = 0;
  let polling = false;
  scope.setImmediate = (callback, ...args) => {
    // Whoever asks again right within a question goes on with the same wait.
    polls = polling ? polls + 1 : 0;
    const poll = () => {
      polling = true;
      try {
        callback(...args);
      } finally {
        polling = false;
      }
    };
    return polls < QUICK_POLLS ? immediate(poll) : setTimeout(poll, 1);
  };
}

/**
 * The `GPU` object of a choice; `undefined` for the runtime's own.
 *
 * @throws {UsageError} If the package cannot be loaded.
 * @throws {NoAdapterError} If Dawn finds no adapter; the message says what it needs.
 */
export async function loadGpu(choice: string): Promise<GPU | undefined> {
  if (choice !== "dawn") return undefined;
  const scope = globalThis as { edgetunerDawn?: GPU };
  if (scope.edgetunerDawn !== undefined) return scope.edgetunerDawn;
  let gpu: GPU;
  try {
    // Not a literal: who does not ask for Dawn need not have it.
    const specifier = "npm:webgpu@0.6.2";
    const { create } = await import(specifier);
    paceDawn();
    gpu = create([]) as GPU;
  } catch (cause) {
    throw new UsageError(`Cannot use --webgpu dawn as npm:webgpu must load: ${(cause as Error).message}`);
  }
  if (await gpu.requestAdapter() === null) {
    throw new NoAdapterError(
      `Cannot use --webgpu dawn as Dawn must find an adapter: it found none. It needs one of\n${DAWN_NEEDS}`,
    );
  }
  // Dawn frees its instance with this object, whatever devices are still in use.
  scope.edgetunerDawn = gpu;
  return gpu;
}

/**
 * Opens the adapter as the flags say.
 *
 * @param flags `webgpu` is the choice, `gpu-mb` the most megabytes to hold, 0 for no limit.
 * @throws {UsageError} If the package of the choice cannot be loaded.
 * @throws {NoAdapterError} If there is no adapter.
 */
export async function openEngine(
  flags: { readonly webgpu: string; readonly "gpu-mb"?: number },
): Promise<Engine> {
  const most = flags["gpu-mb"] ?? 0;
  return await Engine.create({
    gpu: await loadGpu(flags.webgpu),
    ...(most === 0 ? {} : { maxMemoryBytes: most * 1e6 }),
  });
}
