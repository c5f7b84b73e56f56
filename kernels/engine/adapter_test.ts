import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { GpuError, NoAdapterError, ShaderError } from "../errors.ts";
import { adapterClass, canReadTextures, installHint, requestAdapter } from "./adapter.ts";
import { Engine } from "./engine.ts";

/** A `GPU` that has no adapter. */
const noAdapter = { requestAdapter: () => Promise.resolve(null) } as unknown as GPU;

Deno.test("Engine.create() without an adapter says in one line what to install", async () => {
  const error = await assertRejects(() => Engine.create({ gpu: noAdapter }), NoAdapterError);
  assertEquals(error.name, "NoAdapterError");
  assertEquals(error.message.includes("\n"), false);
  assertStringIncludes(error.message, installHint());
  for (const hint of ["apt-get install mesa-vulkan-drivers libvulkan1", "dnf install", "pacman -S"]) {
    assertStringIncludes(installHint("linux"), hint);
  }
  assertStringIncludes(installHint("darwin"), "Metal");
  assertStringIncludes(installHint("windows"), "Direct3D 12");
  for (const hint of ["apt-get", "Metal", "Direct3D 12"]) assertStringIncludes(installHint("other"), hint);
});

Deno.test("on Linux an adapter is a Vulkan one unless the user asks for others", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  const run = async (env: Record<string, string>) => {
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        "eval",
        `import { requestAdapter } from ${JSON.stringify(import.meta.resolve("./adapter.ts"))};
        await requestAdapter(navigator.gpu);`,
      ],
      // No driver is where the loader looks; a user's own choice of drivers is put aside.
      env: { VK_DRIVER_FILES: "/nonexistent", VK_ICD_FILENAMES: "/nonexistent", ...env },
    }).output();
    return { code, errors: new TextDecoder().decode(stderr) };
  };
  // Mesa's OpenGL driver, where there is one, is not taken.
  const { code, errors } = await run({ DENO_WEBGPU_BACKEND: "" });
  assertEquals(code, 1);
  assertStringIncludes(errors, installHint());
  assertEquals(await run({ DENO_WEBGPU_BACKEND: "vulkan" }), { code, errors });
});

Deno.test("requestAdapter() without WebGPU says so", async () => {
  await assertRejects(() => requestAdapter(undefined), NoAdapterError, "navigator.gpu is missing");
});

Deno.test("requestAdapter() asks for compatibility mode where there is no other, and for one kind if that is chosen", async () => {
  const asked: unknown[] = [];
  const found = { found: true };
  const gpu = {
    requestAdapter: ({ featureLevel }: { featureLevel: string }) => {
      asked.push(featureLevel);
      return Promise.resolve(featureLevel === "compatibility" ? found : null);
    },
  } as unknown as GPU;
  assertEquals(await requestAdapter(gpu) as unknown, found);
  assertEquals(asked, ["core", "compatibility"]);
  await assertRejects(() => requestAdapter(gpu, "core"), NoAdapterError);
  assertEquals(asked, ["core", "compatibility", "core"]);
});

Deno.test("canReadTextures() goes by what the language has, where that is said", () => {
  assertEquals(canReadTextures({} as GPU), true);
  assertEquals(canReadTextures({ wgslLanguageFeatures: new Set() } as unknown as GPU), false);
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
