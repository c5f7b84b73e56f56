import { assert, assertEquals, assertLess, assertMatch, assertStringIncludes } from "@std/assert";
import { fileURLToPath } from "node:url";
import { MEMORY_FLAGS } from "../../cli/process/permissions.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const decoder = new TextDecoder();
/** What tests alone import, and what is bundled into the pages. */
const NOT_FOR_COMMANDS: ReadonlySet<string> = new Set([
  "openai",
  "axe-core",
  "uplot",
  "preact/hooks",
  "@preact/signals",
  "preact",
  "preact/jsx-runtime",
]);
/** Names of packages that a module imports. */
const IMPORT = /(?:^import |^export .*\bfrom |^\} from |^import .* from |\bimport\()"([@a-z][^":]*)"/gm;

async function output(command: string, args: readonly string[], cwd: string, env = {}) {
  const signal = AbortSignal.timeout(60_000);
  const run = await new Deno.Command(command, { args: [...args], cwd, env, signal }).output();
  return { code: run.code, out: decoder.decode(run.stdout), error: decoder.decode(run.stderr) };
}

Deno.test("the import map of an installed command says what the workspace says", async () => {
  const read = async (path: string) => JSON.parse(await Deno.readTextFile(`${ROOT}/${path}`));
  const { imports: all, workspace } = await read("deno.json");
  const expected: Record<string, string> = {};
  for (const [name, address] of Object.entries(all as Record<string, string>)) {
    if (!name.startsWith("@std/") && !NOT_FOR_COMMANDS.has(name)) expected[name] = address;
  }
  for (const member of workspace as string[]) {
    const { name, exports } = await read(`${member}/deno.json`);
    const places = typeof exports === "string" ? { ".": exports } : exports as Record<string, string>;
    for (const [sub, place] of Object.entries(places)) {
      expected[name + sub.slice(1)] = `../${member.slice(2)}/${place.slice(2)}`;
    }
  }
  const { imports } = await read("cli/import_map.json");
  const own = Object.entries(imports as Record<string, string>).filter(([name]) => !name.startsWith("@std/"));
  assertEquals(Object.fromEntries(own.toSorted()), Object.fromEntries(Object.entries(expected).toSorted()));
});

Deno.test("all that the command imports is in its import map, with subpaths", async () => {
  const { imports } = JSON.parse(await Deno.readTextFile(`${ROOT}cli/import_map.json`));
  const missing: string[] = [];
  for (const room of ["kernels", "core", "transport", "plugins", "cli"]) {
    for (const path of sourcesIn(`${ROOT}${room}`)) {
      const source = await Deno.readTextFile(path);
      for (const [, name] of source.matchAll(IMPORT)) {
        if (!Object.hasOwn(imports, name!)) missing.push(`${path}: ${name}`);
      }
    }
  }
  assertEquals(missing, []);
});

/** Modules below a folder that are no tests. */
function* sourcesIn(folder: string): Generator<string> {
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    if (isDirectory) yield* sourcesIn(`${folder}/${name}`);
    else if (name.endsWith(".ts") && !name.endsWith("_test.ts")) yield `${folder}/${name}`;
  }
}

Deno.test("what people type and tasks run keeps memory flat, and V8 takes those flags [slow]", async () => {
  for (const path of ["README.md", "docs/quick_start.md", "docs/commands.md"]) {
    assertStringIncludes(await Deno.readTextFile(`${ROOT}${path}`), MEMORY_FLAGS, path);
  }
  const { tasks } = JSON.parse(await Deno.readTextFile(`${ROOT}deno.json`));
  for (const name of ["demo", "compare"]) assertStringIncludes(tasks[name].command, MEMORY_FLAGS, name);
  // Lives long enough for V8 to give new objects more room.
  const program = `
    const { getHeapSpaceStatistics } = await import("node:v8");
    const kept = [];
    for (let i = 0; i < 5e6; i++) kept[i % 50_000] = { i, list: [i] };
    console.log(getHeapSpaceStatistics().find(({ space_name }) => space_name === "new_space").space_size);
  `;
  const [limited, usual] = await Promise.all(
    [[MEMORY_FLAGS], []].map((flags) => output(Deno.execPath(), ["eval", ...flags, program], ROOT)),
  );
  assertEquals(limited!.code, 0, limited!.error);
  assertLess(Number(limited!.out), 6e6);
  assertLess(Number(limited!.out), Number(usual!.out) / 2);
});

Deno.test("deno install -g makes the command edgetuner, which runs from any folder [slow]", async () => {
  const root = await Deno.makeTempDir();
  try {
    const installed = await output(Deno.execPath(), [
      ...["install", "--global", "--allow-all", "--name", "edgetuner", "--root", root],
      ...["--import-map", "cli/import_map.json", MEMORY_FLAGS, "cli/main.ts"],
    ], ROOT);
    assertEquals(installed.code, 0, installed.error);
    const command = `${root}/bin/edgetuner${Deno.build.os === "windows" ? ".cmd" : ""}`;
    const [tune, serve, plan, doctor, bare] = await Promise.all([
      output(command, ["tune", "-h"], root),
      output(command, ["serve", "-h"], root),
      output(command, ["plan", "--models", "gpt2-medium"], root),
      output(command, ["doctor"], root),
      // As on a machine without a driver.
      output(command, ["doctor"], root, { VK_DRIVER_FILES: "/nonexistent" }),
    ]);
    for (const help of [tune, serve]) {
      assertEquals(help.code, 0, help.error);
      // What lies in the checkout means nothing to who installed it.
      assert(!help.out.includes(ROOT), help.out);
      assertMatch(help.out, /\[built\s+in: tiny_gpt2\]/);
      assertMatch(help.out, /Examples\n {2}edgetuner /);
    }
    assertEquals(plan.code, 0, plan.error);
    assertMatch(plan.out, /EdgeTuner +[\d.]+/);
    assertEquals(doctor.code, 0, doctor.error);
    for (
      const word of ["Adapter", "Driver", "Limits", "Deno", "Links", "Ready. Begin with: edgetuner demo"]
    ) {
      assertStringIncludes(doctor.out, word);
    }
    if (Deno.build.os === "linux" && /CPU/.test(doctor.out)) {
      assertEquals(bare.code, 1);
      assertStringIncludes(bare.out, "apt-get install");
    }
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});
