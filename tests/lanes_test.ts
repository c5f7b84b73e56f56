/** The gate sorts tests into lanes, refuses fixed waits, and adds up coverage; the page on tests names every folder. */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { summary } from "../.ci/coverage.ts";
import plugin from "../.ci/lint_plugin.ts";
import { filesOf, lanesOf } from "../.ci/tests.ts";
import { ROOT } from "./support/places.ts";

Deno.test("lanes: by engine and by what runs alone, so many files at a time; fast ones leave out slow files", async () => {
  const root = await Deno.makeTempDir();
  try {
    const files = {
      "a/plain_test.ts": 'Deno.test("a", () => {});',
      "a/gpu_test.ts": 'const engine = 1; Deno.test("b", () => {});',
      "b/clock_test.ts": '// Runs alone: it measures.\nDeno.test("c", () => {});',
      "b/slow_test.ts": 'Deno.test("d [slow]", () => {});',
      "b/other.ts": "",
    };
    await Deno.mkdir(`${root}/a`);
    await Deno.mkdir(`${root}/b`);
    for (const [name, text] of Object.entries(files)) await Deno.writeTextFile(`${root}/${name}`, text);
    const all = await lanesOf(root, [], { fast: false });
    assertEquals(all.map((lane) => lane.files), [
      ["a/plain_test.ts", "b/slow_test.ts"],
      ["a/gpu_test.ts"],
      ["b/clock_test.ts"],
    ]);
    assertEquals(all.map(({ options }) => options), [
      ["--parallel", "--sanitize-ops", "--sanitize-resources"],
      ["--parallel"],
      [],
    ]);
    // Two files share two processors; what runs alone has all of them.
    assertEquals(all.map(({ env }) => env.LP_NUM_THREADS), ["0", "0", undefined]);
    const more = `${navigator.hardwareConcurrency + 1}`;
    assertEquals(all.map(({ env }) => env.DENO_JOBS), [more, undefined, undefined]);
    const fast = await lanesOf(root, ["b", "b/clock_test.ts"], { fast: true });
    assertEquals(fast.map((lane) => lane.files), [["b/clock_test.ts"]]);
    const [filter] = fast[0]!.options;
    const names = new RegExp(filter!.replace("--filter=/", "").replace(/\/$/, ""));
    assertEquals(["a", "a [slow]", "a slow]", "[slow] a"].map((name) => names.test(name)), [
      true,
      false,
      true,
      true,
    ]);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});

Deno.test("lint: a wait by a timer alone is refused in tests, and nothing else", () => {
  const found = (source: string, file = "a_test.ts") =>
    Deno.lint.runPlugin(plugin, file, source).filter(({ id }) => id === "house/fixed-sleep").length;
  const waits = [
    "await new Promise((resolve) => setTimeout(resolve, 50));",
    "await new Promise<void>((r) => { setTimeout(r, 50); });",
    "await new Promise((resolve) => setTimeout(() => resolve(1), 50));",
    "await delay(50);",
  ];
  assertEquals(waits.map((source) => found(source)), [1, 1, 1, 1]);
  assertEquals(waits.map((source) => found(source, "a.ts")), [0, 0, 0, 0]);
  assertEquals(found("setTimeout(() => controller.abort(), 50);"), 0);
  assertEquals(found("await new Promise((resolve) => socket.onopen = resolve);"), 0);
});

Deno.test("lint: a text with a loop that computes for ever is refused in tests", () => {
  const found = (source: string, file = "a_test.ts") =>
    Deno.lint.runPlugin(plugin, file, source).filter(({ id }) => id === "house/endless-worker").length;
  const [loop, other] = ["for (;;)", "while (true)"];
  assertEquals([`"${loop};"`, `"${other} ;"`, `f(\`\${1} { ${loop}; }\`);`].map((text) => found(text)), [
    1,
    1,
    1,
  ]);
  assertEquals([`"${loop} next();"`, `${loop};`].map((text) => found(text)), [0, 0]);
  assertEquals(found(`"${loop};"`, "a.ts"), 0);
});

Deno.test("coverage: only published code counts", () => {
  const record = (file: string) =>
    `SF:${file}\nFNDA:0,left\nFNDA:3,used\nFNF:2\nFNH:1\nBRF:4\nBRH:3\nLF:10\nLH:8\nend_of_record\n`;
  const { totals, uncalled } = summary(
    record("/home/core/a.ts") + record("/home/core/a_test.ts") + record("/home/tests/support/b.ts"),
  );
  assertEquals(uncalled, ["core/a.ts: left"]);
  assertEquals(totals, {
    branches: { found: 4, hit: 3 },
    functions: { found: 2, hit: 1 },
    lines: { found: 10, hit: 8 },
  });
});

Deno.test("the page on tests names every folder that has some", async () => {
  const page = await Deno.readTextFile(`${ROOT}docs/tests.md`);
  const folders = new Set<string>();
  for await (const file of filesOf(ROOT, ".", "_test.ts")) {
    folders.add(/^(?:tests\/\w+|[.\w]+)\/(?=.*$)/.exec(file.replace(/^tests\/(?!.*\/).*/, "tests/"))![0]);
  }
  for (const folder of folders) assertStringIncludes(page, `| \`${folder}\``);
});

Deno.test("lint: a test does not change the folder or the environment of all tests", () => {
  const found = (file: string, source: string) =>
    Deno.lint.runPlugin(plugin, file, source).filter(({ id }) => id === "house/process-wide").length;
  assertEquals(found("a_test.ts", 'Deno.chdir("x"); Deno.env.set("A", "1"); Deno.env.delete("A");'), 3);
  assertEquals(found("a_test.ts", 'Deno.cwd(); Deno.env.get("A");'), 0);
  assertEquals(found("program.ts", 'Deno.env.set("A", "1");'), 0);
});
