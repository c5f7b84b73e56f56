/**
 * The set-up step on a machine without a driver, where programs and tests would find none.
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { EXAMPLES } from "../support/places.ts";

/** No Vulkan driver is where the loader looks; Mesa's for OpenGL may be there. */
const NO_DRIVER = { VK_DRIVER_FILES: "/nonexistent", VK_ICD_FILENAMES: "/nonexistent" };

async function run(command: string, args: readonly string[], env: Record<string, string>) {
  const { code, stdout, stderr } = await new Deno.Command(command, {
    args: [...args],
    env: { ...NO_DRIVER, ...env },
    stdin: "null",
  }).output();
  const [out, errors] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  return { code, out: out!, errors: errors! };
}

Deno.test(
  "without a Vulkan driver neither set-up nor a program goes on, and both say what to install [slow]",
  {
    ignore: Deno.build.os !== "linux",
  },
  async () => {
    // Nothing to install with: no package manager is on the path.
    const tools = await Deno.makeTempDir();
    const found = (await new Deno.Command("sh", {
      args: ["-c", "for tool in sh sed id dirname; do command -v $tool; done"],
    }).output()).stdout;
    for (const path of new TextDecoder().decode(found).trim().split("\n")) {
      await Deno.symlink(path, `${tools}/${path.slice(path.lastIndexOf("/") + 1)}`);
    }
    await Deno.symlink(Deno.execPath(), `${tools}/deno`);
    const setUp = await run("sh", [`${EXAMPLES}setup.sh`], { PATH: tools, DENO_WEBGPU_BACKEND: "" });
    assertEquals([setUp.code, setUp.out], [1, ""]);
    const program = await run(Deno.execPath(), [
      ...["run", "-A", "--quiet", `${EXAMPLES}server_tuner.ts`, "--steps", "1"],
    ], { DENO_WEBGPU_BACKEND: "" });
    assertEquals(program.code, 1);
    for (const { errors } of [setUp, program]) {
      const [first] = errors.split("\n");
      assertStringIncludes(first!, "apt-get install mesa-vulkan-drivers libvulkan1");
    }
    assertEquals(program.errors.trimEnd().split("\n").length, 1, program.errors);
    await Deno.remove(tools, { recursive: true });
  },
);
