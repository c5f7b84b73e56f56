/**
 * The examples on Dawn (`--webgpu dawn`), in processes of their own: a native module that fails may
 * take its process along.
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";
import { EXAMPLES } from "../support/places.ts";

const TUNER = `${EXAMPLES}server_tuner.ts`;
const FOLDER = await Deno.makeTempDir();
// npm:webgpu is in no lock file, as Deno would then fetch it for everyone: it is added to a copy.
const LOCK = `${FOLDER}/deno.lock`;
await Deno.copyFile(new URL("../../deno.lock", import.meta.url), LOCK);

/** Trains two small steps on one implementation. */
async function train(webgpu: "deno" | "dawn", env: Record<string, string> = {}) {
  const report = `${FOLDER}/${webgpu}.json`;
  const size = ["--steps", "2", "--batch", "2", "--length", "24"];
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `--lock=${LOCK}`, TUNER, "--webgpu", webgpu, ...size, "--report", report],
    env,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  const losses = async () => {
    const { steps, adapter } = JSON.parse(await Deno.readTextFile(report));
    return { losses: steps.map((s: { loss: number }) => s.loss) as number[], adapter: String(adapter) };
  };
  return { code, errors: new TextDecoder().decode(stderr), losses };
}

// Whether a test is ignored must be known when it is registered.
const dawn = await train("dawn");
const why = dawn.code === 0 ? null : [
  ["Dawn must find an adapter", "Dawn finds no adapter on this machine's drivers"],
  ["npm:webgpu must load", "npm:webgpu cannot be loaded here"],
].find(([message]) => dawn.errors.includes(message!))?.[1] ?? null;

Deno.test({
  name: `training on Dawn gives the losses of Deno's own WebGPU${
    why === null ? "" : ` - IGNORED AS ${why}`
  } [slow]`,
  ignore: why !== null,
  async fn() {
    assertEquals(dawn.code, 0, dawn.errors);
    const own = await (await train("deno")).losses();
    const { losses, adapter } = await dawn.losses();
    console.log(`Dawn on ${adapter}, Deno's own on ${own.adapter}`);
    assertEquals(losses.length, 2);
    assertClose(losses, own.losses, TOLERANCE.model, "losses");
  },
});

const loads = why === null || !why.includes("loaded");
Deno.test({
  name: `--webgpu dawn without a driver says what Dawn needs${loads ? "" : ` - IGNORED AS ${why}`} [slow]`,
  ignore: !loads || Deno.build.os !== "linux", // elsewhere the driver is part of the system
  async fn() {
    const none = `${FOLDER}/no_such_driver.json`;
    const { code, errors } = await train("dawn", { VK_ICD_FILENAMES: none, VK_DRIVER_FILES: none });
    assertEquals(code, 1);
    assertStringIncludes(errors, "Cannot use --webgpu dawn as Dawn must find an adapter: it found none");
    for (const hint of ["bookworm-backports mesa-vulkan-drivers", "vk_swiftshader_icd.json", "Deno's own"]) {
      assertStringIncludes(errors, hint);
    }
  },
});

globalThis.addEventListener("unload", () => Deno.removeSync(FOLDER, { recursive: true }));
