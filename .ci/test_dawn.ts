/**
 * Runs tests on Dawn, Chrome's implementation of WebGPU, which does other things than Deno's own where the standard
 * leaves a choice.
 *
 * Usage: `deno task test:dawn [PATH...]`; all kernel tests without a path. Dawn needs a driver that it accepts: where
 * `VK_ICD_FILENAMES` names none, SwiftShader of an installed Chromium is taken if there is one.
 *
 * @module
 */

const ROOT = `${import.meta.dirname}/../`;
/** Where packages of Chromium put SwiftShader. */
const SWIFTSHADER = [
  "/usr/lib/chromium/vk_swiftshader_icd.json",
  "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
  "/opt/google/chrome/vk_swiftshader_icd.json",
];

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

const driver = Deno.env.get("VK_ICD_FILENAMES") ?? SWIFTSHADER.find(isFile);
console.log(`driver     ${driver ?? "the system's"}`);
const folder = await Deno.makeTempDir();
try {
  // npm:webgpu is in no lock file, as Deno would then fetch it for everyone: it is added to a copy.
  await Deno.copyFile(`${ROOT}deno.lock`, `${folder}/deno.lock`);
  const paths = Deno.args.length > 0 ? Deno.args : ["kernels"];
  const test = new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--quiet", `--lock=${folder}/deno.lock`, ...paths],
    cwd: ROOT,
    env: {
      EDGETUNER_TEST_WEBGPU: "dawn",
      ...(driver === undefined ? {} : { VK_ICD_FILENAMES: driver, VK_DRIVER_FILES: driver }),
    },
  }).spawn();
  const { code } = await test.status;
  Deno.exitCode = code;
} finally {
  await Deno.remove(folder, { recursive: true });
}
