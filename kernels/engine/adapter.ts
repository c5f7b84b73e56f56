/**
 * Finding an adapter, and saying what to install when there is none.
 *
 * @module
 */

import { NoAdapterError } from "../errors.ts";

/**
 * What kind of machine runs the shaders. Kernels come in a form for each:
 * `software` for adapters that run on the CPU, such as Mesa's llvmpipe, `hardware` for real GPUs.
 */
export type AdapterClass = "software" | "hardware";

const SOFTWARE_ADAPTER = /llvmpipe|lavapipe|swiftshader|software|warp|basic render/i;

/** Tells the class of an adapter from what it says about itself. */
export function adapterClass(adapter: GPUAdapter): AdapterClass {
  const info = adapter.info;
  const text = `${info.description} ${info.device} ${info.vendor} ${info.architecture}`;
  const fallback = (info as { isFallbackAdapter?: boolean }).isFallbackAdapter === true;
  return fallback || SOFTWARE_ADAPTER.test(text) ? "software" : "hardware";
}

const INSTALL_HINTS = `  Debian, Ubuntu  apt-get install mesa-vulkan-drivers libvulkan1
  Fedora          dnf install mesa-vulkan-drivers vulkan-loader
  Arch            pacman -S vulkan-swrast vulkan-icd-loader   (or the driver of your GPU: vulkan-radeon, vulkan-intel, nvidia-utils)
  macOS           nothing to install: Metal comes with macOS 11 and newer
  Windows         nothing to install: Direct3D 12 comes with Windows 10 and newer; update the graphics driver`;

/**
 * Requests an adapter from a `GPU` object.
 *
 * @param gpu Deno's `navigator.gpu`, a browser's, or that of another implementation.
 * @throws {NoAdapterError} If there is no WebGPU or no adapter.
 */
export async function requestAdapter(gpu: GPU | undefined): Promise<GPUAdapter> {
  if (gpu === undefined || gpu === null) {
    throw new NoAdapterError(
      "Cannot start the engine as WebGPU must be available: navigator.gpu is missing. Deno 2.9 or newer has it without flags.",
    );
  }
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) {
    throw new NoAdapterError(
      `Cannot start the engine as WebGPU must find an adapter: it found none. Install a Vulkan driver (Mesa's runs on any CPU):\n${INSTALL_HINTS}`,
    );
  }
  return adapter;
}
