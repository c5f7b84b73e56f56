import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { GpuError, NoAdapterError, ShaderError } from "../errors.ts";
import { adapterClass, requestAdapter } from "./adapter.ts";
import { Engine } from "./engine.ts";

/** A `GPU` that has no adapter. */
const noAdapter = { requestAdapter: () => Promise.resolve(null) } as unknown as GPU;

Deno.test("Engine.create() without an adapter names the packages of every platform", async () => {
  const error = await assertRejects(() => Engine.create({ gpu: noAdapter }), NoAdapterError);
  assertEquals(error.name, "NoAdapterError");
  for (
    const hint of [
      "Debian",
      "apt-get install mesa-vulkan-drivers libvulkan1",
      "Fedora",
      "dnf install mesa-vulkan-drivers",
      "Arch",
      "pacman -S vulkan-swrast",
      "macOS",
      "Metal",
      "Windows",
      "Direct3D 12",
    ]
  ) {
    assertStringIncludes(error.message, hint);
  }
});

Deno.test("requestAdapter() without WebGPU says so", async () => {
  await assertRejects(() => requestAdapter(undefined), NoAdapterError, "navigator.gpu is missing");
});

Deno.test("adapterClass() knows software adapters by what they say", () => {
  const named = (info: Partial<GPUAdapterInfo> & { isFallbackAdapter?: boolean }) =>
    adapterClass({
      info: { description: "", device: "", vendor: "", architecture: "", ...info },
    } as unknown as GPUAdapter);
  assertEquals(named({ description: "llvmpipe (LLVM 15.0.6, 256 bits)" }), "software");
  assertEquals(named({ architecture: "swiftshader" }), "software");
  assertEquals(named({ description: "Microsoft Basic Render Driver" }), "software");
  assertEquals(named({ vendor: "unknown", isFallbackAdapter: true }), "software");
  assertEquals(named({ description: "NVIDIA H200" }), "hardware");
  assertEquals(named({ vendor: "apple", architecture: "metal-3" }), "hardware");
});

Deno.test("ShaderError is a GpuError", () => {
  const error = new ShaderError("x");
  assert(error instanceof GpuError && error instanceof Error);
  assertEquals([error.name, new GpuError("x").name], ["ShaderError", "GpuError"]);
});
