/**
 * Runs the tests against the real `@std` packages. The stand-ins in .jsr take their place through `links` in
 * deno.json, so this copies the tree without those links to a temporary folder and runs the tests there.
 *
 * @module
 */

interface Config {
  links?: string[];
  exclude?: string[];
  imports: Record<string, string>;
}

interface Lock {
  workspace?: { links?: unknown };
}

const ROOT = `${import.meta.dirname}/../`;

if (import.meta.main) {
  const dir = await Deno.makeTempDir({ prefix: "edgetuner_jsr_" });
  let code = 1;
  try {
    code = await run(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
  Deno.exit(code);
}

async function run(dir: string): Promise<number> {
  const { links = [], ...config } = JSON.parse(await Deno.readTextFile(`${ROOT}deno.json`)) as Config;
  const left = [".git", ...links, ...(config.exclude ?? [])];
  await copy(ROOT, `${dir}/`, new Set(left.map((path) => path.replace(/^\.\/|\/$/g, ""))));
  await Deno.writeTextFile(`${dir}/deno.json`, JSON.stringify(config, null, 2));
  // The versions of everything else stay as they are locked.
  const lock = JSON.parse(await Deno.readTextFile(`${ROOT}deno.lock`)) as Lock;
  delete lock.workspace?.links;
  await Deno.writeTextFile(`${dir}/deno.lock`, JSON.stringify(lock, null, 2));

  const real = Object.values(config.imports).filter((specifier) => specifier.startsWith("jsr:"));
  if (await deno(dir, ["cache", "--quiet", ...real]) !== 0) {
    console.error(
      `Cannot test against the real packages as they must be reachable: tried ${real.join(", ")}`,
    );
    return 1;
  }
  return await deno(dir, ["run", "-A", ".ci/gate.ts", "test"]);
}

async function deno(cwd: string, args: string[]): Promise<number> {
  const { code } = await new Deno.Command(Deno.execPath(), { args, cwd, stdin: "null" }).spawn().status;
  return code;
}

async function copy(from: string, to: string, left: Set<string>, folder = ""): Promise<void> {
  await Deno.mkdir(to + folder, { recursive: true });
  for await (const { name, isDirectory, isFile } of Deno.readDir(from + folder)) {
    const path = folder + name;
    if (left.has(path) || name === "node_modules") continue;
    if (isDirectory) await copy(from, to, left, `${path}/`);
    else if (isFile) await Deno.copyFile(from + path, to + path);
  }
}
