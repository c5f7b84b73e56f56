/**
 * Checks which folder may import which. The rules are at the top; `deno task layering` prints what breaks them.
 *
 * @module
 */

import { fileURLToPath, pathToFileURL } from "node:url";

/** Packages of this repository that each member may import. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  kernels: [],
  core: ["@edgetuner/kernels"],
  transport: ["@edgetuner/kernels", "@edgetuner/core"],
  plugins: ["@edgetuner/core"],
  page: ["@edgetuner/kernels", "@edgetuner/core", "@edgetuner/transport"],
  cli: [
    "@edgetuner/kernels",
    "@edgetuner/core",
    "@edgetuner/transport",
    "@edgetuner/plugins",
    "@edgetuner/page",
  ],
};
/**
 * The rooms of the house. A room may import itself and the rooms above it in this list, types included.
 * `docs/architecture.md` says what each is for.
 */
export const ROOMS: readonly string[] = [
  "kernels/",
  "core/contracts/",
  "core/files/",
  "core/model/",
  "core/data/",
  "core/loading/",
  "core/lora/",
  "core/train/",
  "core/pruning/",
  "core/generation/",
  "core/protocol/",
  "core/session/",
  "core/export/",
  "core/evaluation/",
  "core/baselines/",
  "core/",
  "transport/",
  "transport/simulation/",
  "transport/control/",
  "transport/server/",
  "transport/nats/",
  "page/",
  "plugins/",
  "cli/",
];
/** Rooms that may import fewer rooms than stand above them. */
const NARROW: Readonly<Record<string, readonly string[]>> = {
  // To a transport frames are bytes.
  "transport/": ["core/contracts/"],
  "transport/nats/": ["core/contracts/", "transport/"],
};
/** The room of each package and entry point. */
const ROOM_OF_PACKAGE: Readonly<Record<string, string>> = {
  "@edgetuner/kernels": "kernels/",
  "@edgetuner/core": "core/",
  "@edgetuner/core/contracts": "core/contracts/",
  "@edgetuner/core/device": "core/",
  "@edgetuner/core/device_more": "core/",
  "@edgetuner/core/evaluation": "core/evaluation/",
  "@edgetuner/transport": "transport/simulation/",
  "@edgetuner/transport/control": "transport/control/",
  "@edgetuner/transport/server": "transport/server/",
  "@edgetuner/transport/web_socket": "transport/",
  "@edgetuner/transport/nats": "transport/nats/",
  "@edgetuner/page": "page/",
  "@edgetuner/plugins": "plugins/",
  "@edgetuner/plugins/contracts": "plugins/",
  "@edgetuner/cli": "cli/",
};
/** The only folder that may import the web framework: everything else runs in browsers too. */
const HONO_FOLDER = "transport/server/";
/** The only folder with shaders and text imports: registries and bundlers treat those differently. */
const TEXT_FOLDER = "kernels/";
/** Tests and benchmarks of more than one member. */
const TESTS = /^(?:tests|bench)\//;
/** What tests of all members share. */
const TEST_SUPPORT = ["tests/support/", "tests/conformance/"];

interface Dependency {
  specifier: string;
  code?: Resolved;
  type?: Resolved;
  assertionType?: string;
}

interface Resolved {
  specifier?: string;
  span?: { start: { line: number } };
}

interface ModuleInfo {
  specifier: string;
  error?: string;
  dependencies?: Dependency[];
}

interface Config {
  exports?: string | Record<string, string>;
  workspace?: string[];
  exclude?: string[];
}

/** One import statement, with paths relative to the root of the repository. */
interface Import {
  file: string;
  line: number;
  specifier: string;
  /** Path of the imported file, absolute if outside the repository, `undefined` for packages. */
  target: string | undefined;
  isText: boolean;
}

/**
 * Finds everything in a tree that breaks the layering rules.
 *
 * @param root Folder with the root `deno.json`
 * @returns One sentence for each violation, in the order of the files
 * @throws {Error} If a file cannot be parsed
 */
export async function findViolations(root: string): Promise<string[]> {
  root = await Deno.realPath(root);
  const config = JSON.parse(await Deno.readTextFile(`${root}/deno.json`)) as Config;
  const violations: string[] = [];
  for (const folder of config.workspace ?? []) {
    const member = folder.replace(/^\.\//, "").replace(/\/$/, "");
    if (!Object.hasOwn(ALLOWED, member)) {
      violations.push(
        `Cannot have a member without rules as .ci/layering.ts must list all: current member is ${member}/`,
      );
    }
  }

  const files = await Array.fromAsync(walk(root, ignoredPaths(config)));
  files.sort();
  for (const file of files) {
    if (file.endsWith(".wgsl") && !file.startsWith(TEXT_FOLDER)) {
      violations.push(
        `Cannot keep a shader here as all .wgsl files must be under ${TEXT_FOLDER}: current file is ${file}`,
      );
    }
  }
  const entries = typeof config.exports === "string" ? [config.exports] : Object.values(config.exports ?? {});
  for (const entry of entries.map((path) => path.replace(/^\.\//, ""))) {
    if (files.includes(entry) && !onlyReexports(await Deno.readTextFile(`${root}/${entry}`))) {
      violations.push(`Cannot hold code as a root entry point must only re-export: current file is ${entry}`);
    }
  }
  for (const file of files.filter((file) => /\.[mc]?[jt]sx?$/.test(file))) {
    const source = await Deno.readTextFile(`${root}/${file}`);
    violations.push(...addressesAsPaths(file, source), ...halfFiles(file, source));
  }
  const imports = await readImports(root, files.filter((file) => /\.[mc]?[jt]sx?$/.test(file)));
  for (const item of imports) {
    const found = [...checkImport(item)];
    violations.push(...(found.length > 0 ? found : checkRoom(item)));
  }
  const ofMembers = (file: string) => memberOf(file) === "" ? undefined : file;
  for (const circle of [...circlesOf(imports, ofMembers), ...circlesOf(imports, kernelFolder)]) {
    violations.push(`Cannot import in a circle: current places are ${circle.join(", ")}`);
  }
  return violations;
}

/**
 * Finds files that import each other in a circle, types included.
 *
 * @param root Folder with the root `deno.json`
 * @returns The files of each circle, in order of their names
 * @throws {Error} If a file cannot be parsed
 */
export async function findCircles(root: string): Promise<string[][]> {
  return circlesOf(await allImports(root), (file) => file);
}

/**
 * Finds imports of a room from a room above it.
 *
 * @param root Folder with the root `deno.json`
 * @returns One sentence for each
 * @throws {Error} If a file cannot be parsed
 */
export async function findUpwardImports(root: string): Promise<string[]> {
  return (await allImports(root)).flatMap((item) => [...checkRoom(item)]);
}

async function allImports(root: string): Promise<Import[]> {
  root = await Deno.realPath(root);
  const config = JSON.parse(await Deno.readTextFile(`${root}/deno.json`)) as Config;
  const files = await Array.fromAsync(walk(root, ignoredPaths(config)));
  return await readImports(root, files.sort().filter((file) => /\.[mc]?[jt]sx?$/.test(file)));
}

function* checkImport({ file, line, specifier, target, isText }: Import): Generator<string> {
  const at = `current place is ${file}:${line}`;
  const member = memberOf(file);
  const isTest = file.endsWith("_test.ts");
  const ours = /^(?:jsr:\/?)?(@edgetuner\/[^/@]+)/.exec(specifier)?.[1];

  if (ours && member) {
    const allowed = ALLOWED[member]!;
    if (!allowed.includes(ours) && !(isTest && ours === `@edgetuner/${member}`)) {
      const rule = allowed.length ? `only ${allowed.join(" and ")}` : "nothing";
      yield `Cannot import "${specifier}" as ${member}/ may import ${rule} of this repository: ${at}`;
    }
  }
  if (file === "mod.ts" && /^(?:jsr:\/?)?@edgetuner\/transport(?:@[^/]*)?\/server/.test(specifier)) {
    yield `Cannot import "${specifier}" as mod.ts must run in browsers, use server.ts: ${at}`;
  }
  if (/^(?:(?:npm:|jsr:)\/?)?(?:hono(?=[@/]|$)|@hono\/)/.test(specifier) && !file.startsWith(HONO_FOLDER)) {
    yield `Cannot import "${specifier}" as only ${HONO_FOLDER} may import hono: ${at}`;
  }
  if (isText && !file.startsWith(TEXT_FOLDER)) {
    yield `Cannot import "${specifier}" as text imports must be under ${TEXT_FOLDER}: ${at}`;
  }
  if (target === undefined) return;
  // Tests of the whole look inside the members; examples show what users can write.
  const mayCross = TESTS.test(file) && !target.startsWith("/") ||
    isTest && TEST_SUPPORT.some((folder) => target.startsWith(folder));
  if (memberOf(target) !== member && !mayCross) {
    const rule = isTest ? `members (tests: except to ${TEST_SUPPORT.join(" and ")})` : "members";
    yield `Cannot import "${specifier}" as relative imports must not cross ${rule}: ${at}`;
  }
  const [folder, name] = split(target);
  if (name.startsWith("_") && !file.startsWith(folder)) {
    yield `Cannot import "${specifier}" as only ${folder || "the root"} may import its _files: ${at}`;
  }
}

/**
 * Paths that are taken from addresses or put into them as they are: wrong where a folder's name has a space, "ü",
 * "#" or "%", and on Windows.
 */
function* addressesAsPaths(file: string, source: string): Generator<string> {
  const wrong =
    /import\.meta\.url\s*,?\s*\)\s*\.pathname|import\.meta\.url\.(?:slice|replace)|[`"']file:\/\/\/?\$\{/g;
  for (const { index } of source.matchAll(wrong)) {
    const line = source.slice(0, index).split("\n").length;
    yield `Cannot use an address as a path as names may hold " ", "#" and "%", use fileURLToPath and pathToFileURL: ` +
      `current place is ${file}:${line}`;
  }
}

/** Where files that get their names once they are whole are written, and folders of such files are moved. */
const FILE_WRITERS = ["core/files/atomic.ts", "core/files/folders.ts"];

/** Files that a kill or a full disk would leave cut short under their final name. */
function* halfFiles(file: string, source: string): Generator<string> {
  const isProduct = /^(core|transport|plugins|page|kernels|cli|bench|examples)\//.test(file) &&
    !file.endsWith("_test.ts");
  if (!isProduct || FILE_WRITERS.includes(file)) return;
  for (
    const { index } of source.matchAll(/Deno\.(?:writeFile|writeTextFile|copyFile|rename|create)(?:Sync)?\(/g)
  ) {
    const line = source.slice(0, index).split("\n").length;
    // A file of the system's, in which nothing is kept.
    if (source.slice(index).split("\n")[0]!.includes('"/proc/')) continue;
    yield `Cannot write a file in place as a kill would leave half of it, use writeWhole or PendingFolder: ` +
      `current place is ${file}:${line}`;
  }
}

/** Entry points name what all rooms of their member export. */
function* checkRoom({ file, line, specifier, target }: Import): Generator<string> {
  const own = roomOf(file);
  if (own === undefined || file.endsWith("_test.ts") || file.endsWith("_bench.ts")) return;
  if (/^(?:core|transport|plugins)\/mod\.ts$/.test(file)) return;
  const bare = specifier.replace(/^jsr:\/?/, "").replace(/^(@[^/]+\/[^/@]+)@[^/]*/, "$1");
  const other = ROOM_OF_PACKAGE[bare] ?? (target === undefined ? undefined : roomOf(target));
  if (other === undefined || other === own) return;
  const narrow = NARROW[own];
  const rule = narrow !== undefined && !narrow.includes(other)
    ? `${own} may import ${narrow.join(" and ")} alone`
    : ROOMS.indexOf(other) > ROOMS.indexOf(own)
    ? `${own} stands above ${other}`
    : null;
  if (rule !== null) yield `Cannot import "${specifier}" as ${rule}: current place is ${file}:${line}`;
}

/** The innermost room that a file lies in. */
function roomOf(file: string): string | undefined {
  return ROOMS.filter((room) => file.startsWith(room)).sort((a, b) => b.length - a.length)[0];
}

/** The folder of an operation: all that belongs to one kernel. */
function kernelFolder(file: string): string | undefined {
  return file.startsWith("kernels/") && file.split("/").length > 2 ? split(file)[0] : undefined;
}

/** Sets of places that import each other, by Tarjan's algorithm; tests may look anywhere. */
function circlesOf(
  imports: readonly Import[],
  placeOf: (file: string) => string | undefined,
): string[][] {
  const next = new Map<string, Set<string>>();
  for (const { file, target } of imports) {
    const [from, to] = [placeOf(file), target === undefined ? undefined : placeOf(target)];
    if (from === undefined || file.endsWith("_test.ts")) continue;
    if (!next.has(from)) next.set(from, new Set());
    if (to !== undefined && to !== from) next.get(from)!.add(to);
  }
  const index = new Map<string, number>();
  const lowest = new Map<string, number>();
  const stack: string[] = [];
  const circles: string[][] = [];
  const visit = (file: string) => {
    index.set(file, index.size);
    lowest.set(file, index.get(file)!);
    stack.push(file);
    for (const other of next.get(file) ?? []) {
      if (!next.has(other)) continue;
      if (!index.has(other)) visit(other);
      else if (!stack.includes(other)) continue;
      lowest.set(file, Math.min(lowest.get(file)!, lowest.get(other)!));
    }
    if (lowest.get(file) !== index.get(file)) return;
    const circle = stack.splice(stack.indexOf(file));
    if (circle.length > 1) circles.push(circle.sort());
  };
  for (const file of next.keys()) if (!index.has(file)) visit(file);
  return circles;
}

/** Lets the compiler find the imports, so that comments and strings are not taken for them. */
async function readImports(root: string, files: string[]): Promise<Import[]> {
  const dir = await Deno.makeTempDir();
  try {
    const entry = `${dir}/entry.ts`;
    await Deno.writeTextFile(entry, files.map((file) => `import "${url(root, file)}";\n`).join(""));
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["info", "--json", "--no-config", "--no-lock", "--no-npm", "--no-remote", entry],
      env: { NO_COLOR: "1" },
    }).output();
    if (!success) throw new Error(`Cannot read the imports: ${new TextDecoder().decode(stderr)}`);
    const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as { modules: ModuleInfo[] };
    const byUrl = new Map(modules.map((module) => [module.specifier, module]));
    return files.flatMap((file) => {
      const module = byUrl.get(url(root, file));
      if (!module || module.error) {
        throw new Error(
          `Cannot read the imports as ${file} must be valid: ${module?.error ?? "no such module"}`,
        );
      }
      return (module.dependencies ?? []).map((dependency) => toImport(root, file, dependency));
    });
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

function toImport(root: string, file: string, dependency: Dependency): Import {
  const { specifier, assertionType } = dependency;
  const resolved = dependency.code ?? dependency.type;
  const address = resolved?.specifier ?? specifier;
  const path = address.startsWith("file:") ? fileURLToPath(address) : undefined;
  return {
    file,
    line: (resolved?.span?.start.line ?? 0) + 1,
    specifier,
    target: path?.startsWith(`${root}/`) ? path.slice(root.length + 1) : path,
    isText: assertionType === "text" || assertionType === "bytes",
  };
}

function url(root: string, file: string): string {
  return pathToFileURL(`${root}/${file}`).href;
}

/** Folder of the package that a path belongs to: empty for the root package; outside, the path itself. */
function memberOf(path: string): string {
  if (path.startsWith("/")) return path;
  const folder = path.split("/", 1)[0]!;
  return Object.hasOwn(ALLOWED, folder) ? folder : "";
}

function split(path: string): [folder: string, name: string] {
  const end = path.lastIndexOf("/") + 1;
  return [path.slice(0, end), path.slice(end)];
}

function onlyReexports(source: string): boolean {
  const code = source.replace(/\/\*.*?\*\/|\/\/[^\n]*/gs, "");
  return /^(?:\s*export\s+(?:type\s+)?(?:\*(?:\s+as\s+\w+)?|\{[^{}]*\})\s*from\s*"[^"]+"\s*;?)*\s*$/.test(
    code,
  );
}

/** What git and the other tools leave out as well. */
function ignoredPaths(config: Config): Set<string> {
  return new Set([".git", ...(config.exclude ?? []).map((path) => path.replace(/\/$/, ""))]);
}

async function* walk(root: string, ignored: Set<string>, folder = ""): AsyncGenerator<string> {
  for await (const { name, isDirectory, isFile } of Deno.readDir(`${root}/${folder}`)) {
    const path = folder + name;
    if (ignored.has(path) || name === "node_modules") continue;
    if (isDirectory) yield* walk(root, ignored, `${path}/`);
    else if (isFile) yield path;
  }
}
