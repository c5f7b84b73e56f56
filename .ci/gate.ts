/**
 * Runs parts of the gate, given as arguments, and prints `N passed, N failed` as its last line: every test
 * counts, and every other part as one. `--frozen` fails if deno.lock is out of date.
 *
 * `test` takes files and folders after it, and then runs these alone; with `--fast` it leaves out tests whose
 * names end with `[slow]` and the examples in the documentation.
 *
 * @module
 */
import { checkBrowserTypes, findHostUses } from "./browser.ts";
import { findBlocks, runAll } from "./commands.ts";
import { findViolations } from "./layering.ts";
import { findBrokenLinks } from "./links.ts";
import { findWorse } from "./measures.ts";
import { findStalePages } from "./page.ts";
import { buildReference } from "./reference.ts";
import { longest, TestOutput, type TestReport, together } from "./test_output.ts";
import { filesOf, lanesOf, ONE_THREAD } from "./tests.ts";
import { findUndocumented } from "./umbrella.ts";
import { findWords } from "./words.ts";

interface Count {
  passed: number;
  failed: number;
  /** Names of the tests that failed. */
  failures?: readonly string[];
}

interface Config {
  exports: string | Record<string, string>;
  workspace?: string[];
}

const ROOT = `${import.meta.dirname}/..`;
/** Folders and files that are published, where nothing may write to the console. */
const LIBRARIES = [
  ...["kernels", "core", "transport", "plugins", "page"].flatMap((member) => [member, `${member}.ts`]),
  ...["mod.ts", "server.ts", "control.ts", "nats.ts", "evaluation.ts", "contracts.ts"],
];
const NO_TESTS = "--ignore=**/*_test.ts,**/*_bench.ts,.jsr";
/** The rules of deno.json hold for all files and take no other rules for some. */
const NO_CONSOLE = ["lint", "--rules-tags=", "--rules-include=no-console", NO_TESTS];

/** Whether this run checked the types of the whole repository, so that the tests need not again. */
let typesChecked = false;
const FROZEN = Deno.args.filter((arg) => arg === "--frozen");
const FAST = Deno.args.includes("--fast");
const PARTS: Record<string, () => Promise<Count>> = {
  "fmt": () => all([["fmt", "--check"]]),
  "lint": () => all([["lint"], [...NO_CONSOLE, ...LIBRARIES.filter(exists)]]),
  "check": check,
  "check-browser": () => findings(browser()),
  "layering": layering,
  "measures": () => findings(findWorse(ROOT)),
  "page": () => findings(findStalePages()),
  "umbrella": () => findings(findUndocumented()),
  "doc-lint": docLint,
  "docs": docs,
  "words": () => findings(findWords()),
  "links": () => findings(findBrokenLinks()),
  "publish-dry-run": publishDryRun,
  "test": () => test(PATHS),
  "commands": commands,
};
/** Parts that run after all others, with the machine to themselves. */
const LAST = ["test", "commands"];
const ARGUMENTS = Deno.args.filter((arg) => arg !== "--frozen" && arg !== "--fast");
/** What is to be tested; everything if empty. */
const PATHS = ARGUMENTS[0] === "test" ? ARGUMENTS.slice(1).filter((arg) => !Object.hasOwn(PARTS, arg)) : [];

if (import.meta.main) Deno.exit(await main(ARGUMENTS.filter((arg) => !PATHS.includes(arg))));

async function main(names: string[]): Promise<number> {
  const unknown = names.filter((name) => !Object.hasOwn(PARTS, name));
  const missing = PATHS.filter((path) => !exists(path));
  if (missing.length > 0) {
    console.error(
      `Cannot test as paths must exist, seen from the repository: current value is ${
        JSON.stringify(missing[0])
      }`,
    );
    return 2;
  }
  if (names.length === 0 || unknown.length > 0) {
    console.error(
      `Cannot run the gate as its parts must be of ${Object.keys(PARTS).join(", ")}: ` +
        `current value is ${JSON.stringify(unknown.join(" "))}`,
    );
    return 2;
  }
  const total: Count = { passed: 0, failed: 0 };
  const failedParts: string[] = [];
  const failures: string[] = [];
  const add = (name: string, count: Count) => {
    total.passed += count.passed;
    total.failed += count.failed;
    if (count.failed > 0) failedParts.push(name);
    failures.push(...count.failures ?? []);
  };
  const [aside, inTurn] = split(names);
  for (const name of inTurn.filter((name) => !LAST.includes(name))) add(name, await runPart(name));
  const waiting = aside.values();
  await Promise.all(Array.from({ length: navigator.hardwareConcurrency }, async () => {
    for (const name of waiting) add(name, await runAside(name));
  }));
  for (const name of inTurn.filter((name) => LAST.includes(name))) add(name, await runPart(name));
  if (failedParts.length > 0 && names.length > 1) console.log(`\nFailed: ${failedParts.join(", ")}`);
  for (const failure of failures) console.log(`  ${failure}`);
  console.log(`${total.passed} passed, ${total.failed} failed`);
  return total.failed > 0 ? 1 : 0;
}

/**
 * Sorts parts into those that may run beside each other, each in a process, and the others. Formatting is
 * checked before `check-browser` puts a file into the folder; tests and commands have the machine to themselves.
 */
function split(names: readonly string[]): [aside: string[], inTurn: string[]] {
  const isAside = (name: string) => names.length > 1 && !["fmt", ...LAST].includes(name);
  return [names.filter(isAside), names.filter((name) => !isAside(name))];
}

async function runPart(name: string): Promise<Count> {
  if (ARGUMENTS.length > 1) console.log(`\n==> ${name}`);
  return await PARTS[name]!().catch((error: unknown): Count => {
    console.error(error);
    return { passed: 0, failed: 1 };
  });
}

/** Runs a part in a process of its own, and shows what it printed once it ends. */
async function runAside(name: string): Promise<Count> {
  const started = performance.now();
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-lock", "-A", import.meta.filename!, ...FROZEN, name],
    cwd: ROOT,
    stdin: "null",
  }).output();
  const texts = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  // Its last line is a count of its own.
  const said = texts[0]!.replace(/\d+ passed, \d+ failed\n$/, "") + texts[1]!;
  console.log(
    `\n==> ${name} (${Math.round((performance.now() - started) / 1000)} s)\n${success ? "" : said}`.trimEnd(),
  );
  if (name === "check") typesChecked = success;
  return one(success);
}

/** Runs Deno once for each list of arguments; all of them must succeed. */
async function all(commands: string[][]): Promise<Count> {
  let success = true;
  for (const args of commands) success = await deno(args) && success;
  return one(success);
}

async function deno(args: string[], cwd = ROOT): Promise<boolean> {
  const { success } = await new Deno.Command(Deno.execPath(), { args, cwd, stdin: "null" }).spawn().status;
  return success;
}

/** Everything at once, with the examples in the documentation, so that tests need no check of their own. */
async function check(): Promise<Count> {
  const pages = (await Array.fromAsync(filesOf(ROOT, ".", ".md"))).toSorted();
  const success = await deno(["check", ...FROZEN, "--doc", ".", ...pages]);
  typesChecked = success;
  return one(success);
}

function one(success: boolean): Count {
  return success ? { passed: 1, failed: 0 } : { passed: 0, failed: 1 };
}

async function layering(): Promise<Count> {
  const violations = await findViolations(ROOT);
  for (const violation of violations) console.error(violation);
  return one(violations.length === 0);
}

async function findings(found: Promise<string[]>): Promise<Count> {
  const lines = await found;
  for (const line of lines) console.error(line);
  return one(lines.length === 0);
}

/** What a page would not have, in the library. */
async function browser(): Promise<string[]> {
  const types = await checkBrowserTypes();
  return [...await findHostUses(), ...types === "" ? [] : [types]];
}

/**
 * All entry points at once, so that packages may show each other's types. Types of other authors' packages
 * are documented there, but `deno doc` takes them for private ones.
 */
async function docLint(): Promise<Count> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["doc", "--lint", ...await entryPoints()],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "null",
  }).output();
  if (success) return one(true);
  const [, ...findings] = `\n${new TextDecoder().decode(stderr)}`.split(/\n(?=error)/);
  const isCount = (text: string) => /^error: Found \d+ documentation lint error/.test(text);
  const ours: string[] = [];
  for (const finding of findings) {
    const [, name, path] =
      /^error\[private-type-ref\]: .* private type '(\w+)'\s+--> (.*):\d+:\d+/.exec(finding) ?? [];
    const source = path === undefined ? "" : await Deno.readTextFile(path);
    const foreign = new RegExp(`import [^;]*\\b${name}\\b[^;]*from "(?!\\.|jsr:|@edgetuner/|@std/)`);
    if (!isCount(finding) && !foreign.test(source)) ours.push(finding);
  }
  console.error(ours.join("\n"));
  // Without a count the command failed for another reason.
  return one(ours.length === 0 && findings.some(isCount));
}

/** The reference, to see that it can be built. */
async function docs(): Promise<Count> {
  const folder = await Deno.makeTempDir();
  try {
    await buildReference(folder);
    return one(true);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** From each package's own folder: from the root only the root package would be published. `check` has the types. */
async function publishDryRun(): Promise<Count> {
  let success = true;
  for (const folder of await packages()) {
    success = await deno(["publish", "--dry-run", "--allow-dirty", "--no-check"], `${ROOT}/${folder}`) &&
      success;
  }
  return one(success);
}

/** Unit tests lane by lane, then the examples in the documentation. */
async function test(paths: readonly string[]): Promise<Count> {
  // Programs that tests start would look for a newer Deno.
  const env: Record<string, string> = { DENO_NO_UPDATE_CHECK: "1" };
  // Compiling the shaders takes longer than running them, so all test processes share one cache.
  if (!Deno.env.get("MESA_SHADER_CACHE_DIR")) env.MESA_SHADER_CACHE_DIR = await shaderCache();
  // Vulkan drivers warn without it.
  let runtimeDir: string | undefined;
  if (!Deno.env.get("XDG_RUNTIME_DIR")) env.XDG_RUNTIME_DIR = runtimeDir = await Deno.makeTempDir();
  try {
    const lanes = await lanesOf(ROOT, paths, { fast: FAST });
    if (!FAST && paths.length === 0) {
      lanes.push({ options: ["--doc", "--parallel", NO_TESTS], files: [], env: ONE_THREAD });
    }
    const types = FAST || typesChecked ? ["--no-check"] : [];
    const reports: TestReport[] = [];
    for (const { options, files, env: own } of lanes) {
      reports.push(await runTests([...types, ...options, ...files], { ...env, ...own }));
    }
    const { passed, failed, failures } = together(reports);
    if (paths.length === 0) console.log(`\nLongest:\n${longest(together(reports), 20).join("\n")}`);
    // A filter that leaves nothing is wrong too.
    return { passed, failed: passed + failed === 0 ? 1 : failed, failures };
  } finally {
    if (runtimeDir !== undefined) await Deno.remove(runtimeDir, { recursive: true });
  }
}

async function shaderCache(): Promise<string> {
  const home = Deno.env.get("HOME");
  const caches = [
    Deno.env.get("XDG_CACHE_HOME") || (home && `${home}/.cache`),
    Deno.env.get("TMPDIR"),
    "/tmp",
  ];
  for (const cache of caches) {
    if (!cache) continue;
    const folder = `${cache}/edgetuner/shaders`;
    try {
      await Deno.mkdir(folder, { recursive: true });
      return folder;
    } catch { /* not writable: the next one may be */ }
  }
  return await Deno.makeTempDir();
}

/** Shows what the tests print while they run, and reads what they came to. */
async function runTests(args: string[], env: Record<string, string>): Promise<TestReport> {
  if (Deno.stdout.isTerminal() && !Deno.noColor) env = { ...env, FORCE_COLOR: "1" };
  const child = new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", ...FROZEN, ...args],
    cwd: ROOT,
    env,
    stdin: "null",
    stdout: "piped",
  }).spawn();
  const decoder = new TextDecoder();
  const output = new TestOutput();
  for await (const chunk of child.stdout) {
    for (let written = 0; written < chunk.length;) {
      written += await Deno.stdout.write(chunk.subarray(written));
    }
    output.add(decoder.decode(chunk, { stream: true }));
  }
  return output.end((await child.status).success);
}

/** The commands of the documentation, a count for each block. */
async function commands(): Promise<Count> {
  const blocks = (await findBlocks()).filter(({ skipped }) => skipped === null);
  const failures = await runAll(blocks);
  return { passed: blocks.length - failures.length, failed: failures.length, failures };
}

/** Every module that users may import. */
async function entryPoints(): Promise<string[]> {
  const entries: string[] = [];
  for (const folder of await packages()) {
    const { exports } = await readConfig(folder);
    const paths = typeof exports === "string" ? [exports] : Object.values(exports);
    entries.push(...paths.map((path) => `${folder}/${path}`.replaceAll("/./", "/")));
  }
  return entries;
}

/** Folders of everything that is published. */
async function packages(): Promise<string[]> {
  return [".", ...(await readConfig(".")).workspace ?? []];
}

async function readConfig(folder: string): Promise<Config> {
  return JSON.parse(await Deno.readTextFile(`${ROOT}/${folder}/deno.json`)) as Config;
}

function exists(path: string): boolean {
  try {
    Deno.statSync(`${ROOT}/${path}`);
    return true;
  } catch {
    return false;
  }
}
