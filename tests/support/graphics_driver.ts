/**
 * Import this before a test file's first engine is made.
 *
 * Asked for an adapter, Deno looks at Vulkan and OpenGL drivers alike. With Mesa's OpenGL driver
 * loaded, a test process that is done sometimes dies while it exits: its libraries clean up in the
 * main thread while the thread of a test file frees its memory. Only Vulkan is used here anyway.
 *
 * @module
 */

if (Deno.build.os === "linux" && Deno.env.get("DENO_WEBGPU_BACKEND") === undefined) {
  Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");
}
