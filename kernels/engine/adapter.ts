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

/** How much of WebGPU an adapter has: all of it, or what OpenGL ES 3.1 can do too. */
export type FeatureLevel = "core" | "compatibility";

const SOFTWARE_ADAPTER = /llvmpipe|lavapipe|swiftshader|software|warp|basic render/i;

/** Tells the class of an adapter from what it says about itself. */
export function adapterClass(adapter: GPUAdapter): AdapterClass {
  const info = adapter.info;
  const text = `${info.description} ${info.device} ${info.vendor} ${info.architecture}`;
  const fallback = (info as { isFallbackAdapter?: boolean }).isFallbackAdapter === true;
  return fallback || SOFTWARE_ADAPTER.test(text) ? "software" : "hardware";
}

/** Whether shaders may read storage textures, as the form for software adapters does; Safari has none of these. */
export function canReadTextures(gpu: GPU | undefined): boolean {
  const { wgslLanguageFeatures: features } = (gpu ?? {}) as { wgslLanguageFeatures?: ReadonlySet<string> };
  return features === undefined || features.has("readonly_and_readwrite_storage_textures");
}

/** What to install, by the operating system as Deno names it. */
const INSTALL_HINTS: Readonly<Record<string, string>> = {
  linux: "install a Vulkan driver (Mesa's runs on any CPU): " +
    "apt-get install mesa-vulkan-drivers libvulkan1 (Debian, Ubuntu), " +
    "dnf install mesa-vulkan-drivers vulkan-loader (Fedora), " +
    "pacman -S vulkan-swrast vulkan-icd-loader (Arch), or your GPU's own driver",
  darwin: "Metal comes with macOS 11 and newer, there is nothing to install; virtual machines may have none",
  windows: "Direct3D 12 comes with Windows 10 and newer; update the graphics driver",
};

/** The runtime's own interface, where the runtime is Deno. */
const runtime = (): typeof Deno | undefined => (globalThis as { Deno?: typeof Deno }).Deno;

const BACKEND = "DENO_WEBGPU_BACKEND";

/**
 * Has Deno look for Vulkan drivers alone, unless the user has chosen. By itself it takes OpenGL drivers too, and
 * with Mesa's loaded a process sometimes dies while it exits. Deno reads the variable when an adapter is first
 * asked for, in each thread.
 */
function askForVulkan(): void {
  const deno = runtime();
  if (deno?.build?.os !== "linux") return;
  // Without the permission, asking for the variable would stop and ask the user.
  if (deno.permissions?.querySync?.({ name: "env", variable: BACKEND }).state !== "granted") return;
  if (!deno.env.get(BACKEND)) deno.env.set(BACKEND, "vulkan");
}

/** What to install on a system, or on each if it is not known; one line. */
export function installHint(os: string | undefined = runtime()?.build?.os): string {
  const hint = os === undefined ? undefined : INSTALL_HINTS[os];
  return hint ?? Object.entries(INSTALL_HINTS).map(([name, text]) => `${name}: ${text}`).join("; ");
}

/**
 * Requests an adapter from a `GPU` object. Of Deno's own on Linux only Vulkan drivers are asked for, unless
 * `DENO_WEBGPU_BACKEND` says otherwise; that takes the permission `--allow-env=DENO_WEBGPU_BACKEND`.
 *
 * @param gpu Deno's `navigator.gpu`, a browser's, or that of another implementation.
 * @param featureLevel What kind to ask for. @default {"core", and "compatibility" where there is none}
 * @throws {NoAdapterError} If there is no WebGPU or no adapter; the message says in one line what to install.
 */
export async function requestAdapter(
  gpu: GPU | undefined,
  featureLevel?: FeatureLevel,
): Promise<GPUAdapter> {
  if (gpu === undefined || gpu === null) {
    throw new NoAdapterError(
      "Cannot start the engine as WebGPU must be available: navigator.gpu is missing. Deno 2.9 or newer has it without flags.",
    );
  }
  if (gpu === (globalThis.navigator as { gpu?: GPU } | undefined)?.gpu) askForVulkan();
  const ask = (featureLevel: FeatureLevel) =>
    // Types of Deno do not name the level yet.
    gpu.requestAdapter({ powerPreference: "high-performance", featureLevel } as GPURequestAdapterOptions);
  const adapter = await ask(featureLevel ?? "core") ??
    (featureLevel === undefined ? await ask("compatibility") : null);
  if (adapter === null) {
    throw new NoAdapterError(
      `Cannot start the engine as WebGPU must find an adapter: it found none; ${installHint()}`,
    );
  }
  return adapter;
}
