/**
 * Checks that the library runs in browsers: its types hold with those of a page and of WebGPU, and only the few
 * files that read and write files use what Deno or Node.js alone have.
 *
 * @module
 */

const ROOT = `${import.meta.dirname}/..`;
const MEMBERS = ["kernels", "core", "transport", "plugins", "page"];
const ENTRIES = [
  "kernels/mod.ts",
  "core/mod.ts",
  "core/contracts/mod.ts",
  "core/evaluation/mod.ts",
  "transport/mod.ts",
  "transport/control/mod.ts",
  "plugins/mod.ts",
  "plugins/contracts.ts",
  "page/mod.ts",
  "page/dashboard/main.tsx",
  "page/device/main.tsx",
  "page/device/worker.ts",
  "page/device/data_worker.ts",
  "page/device/download_worker.ts",
];
/** The version is part of the check: a newer one may name more. */
const WEBGPU_TYPES = "npm:@webgpu/types@0.1.74";
/** A page's types. Those of `Deno` are there for the places below, and `findHostUses` holds all others. */
const LIB = ["dom", "dom.iterable", "dom.asynciterable", "esnext", "deno.ns"];
/** What may use `Deno` and modules of Node.js. A page can import it, and gets an error where it calls that. */
const HOST_PLACES = [
  "core/contracts/time_limit.ts",
  "core/evaluation/",
  "core/files/",
  "core/loading/",
  "transport/_trust.ts",
  "transport/server/",
  "transport/upgrade.ts",
  "transport/web_socket.ts",
];

/**
 * Checks the types of kernels, core, transport (its server aside), plugins and pages as a browser project would.
 *
 * @returns What is wrong, as the compiler says it; empty if nothing is
 * @throws {Deno.errors.NotFound} If `deno.json` is not where it should be
 */
export async function checkBrowserTypes(
  root: string = ROOT,
  entries: readonly string[] = ENTRIES,
): Promise<string> {
  const { imports, links, compilerOptions, nodeModulesDir } = JSON.parse(
    await Deno.readTextFile(`${root}/deno.json`),
  );
  const config = await Deno.makeTempFile({ dir: root, prefix: ".browser-", suffix: ".json" });
  try {
    const workspace = MEMBERS.map((member) => `./${member}`);
    const options = { ...compilerOptions, lib: LIB, types: [WEBGPU_TYPES] };
    await Deno.writeTextFile(
      config,
      JSON.stringify({ workspace, imports, links, nodeModulesDir, compilerOptions: options }),
    );
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      // The lock is that of the project, which does not need the types of a page.
      args: ["check", "--quiet", "--no-lock", "-c", config, ...entries],
      cwd: root,
      env: { NO_COLOR: "1" },
      stdin: "null",
    }).output();
    if (success) return "";
    return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  } finally {
    await Deno.remove(config);
  }
}

/**
 * Finds what browsers do not have outside the places that may use it.
 *
 * @returns One sentence for each use
 * @throws {Deno.errors.NotFound} If a member is missing
 */
export async function findHostUses(root: string = ROOT): Promise<string[]> {
  const found: string[] = [];
  for (const member of MEMBERS) {
    for await (const file of sources(root, member)) {
      if (HOST_PLACES.some((place) => file.startsWith(place))) continue;
      (await Deno.readTextFile(`${root}/${file}`)).split("\n").forEach((line, i) => {
        const code = line.replace(/^\s*(?:\/?\*|\/\/).*|\s\/\/ .*$/, "");
        if (!/\bDeno\.|["']node:/.test(code)) return;
        found.push(
          `Cannot use Deno or Node.js as .ci/browser.ts must list the place: current place is ${file}:${
            i + 1
          }`,
        );
      });
    }
  }
  return found;
}

async function* sources(root: string, folder: string): AsyncGenerator<string> {
  for await (const { name, isDirectory } of Deno.readDir(`${root}/${folder}`)) {
    const path = `${folder}/${name}`;
    if (isDirectory) yield* sources(root, path);
    else if (/\.tsx?$/.test(name) && !/_(?:test|bench)\.ts$/.test(name)) yield path;
  }
}
