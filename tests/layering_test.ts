import { assertEquals } from "@std/assert";
import { findViolations, ROOMS } from "../.ci/layering.ts";

/** A tree that keeps all rules; the comments and strings are there to be mistaken for imports. */
const CLEAN: Readonly<Record<string, string>> = {
  "deno.json": `{
    "exports": { ".": "./mod.ts", "./server": "./server.ts" },
    "workspace": ["./kernels", "./core", "./transport", "./plugins"],
    "exclude": ["runs/"]
  }`,
  "mod.ts": `/** import "hono"; */\nexport * from "@edgetuner/core";\n` +
    `export { type A, b as c } from "@edgetuner/plugins"; // and so on\n`,
  "server.ts": `export * from "@edgetuner/transport/server";\n`,
  "runs/ignored.ts": `import "hono";\n`,
  "kernels/mod.ts": `export * from "./matmul/matmul.ts";\n`,
  "kernels/_cache.ts": `export const cache = 1;\n`,
  "kernels/matmul/matmul.ts": `import wgsl from "./matmul.wgsl" with { type: "text" };\n` +
    `import { cache } from "../_cache.ts";\nexport const a = [wgsl, cache];\n`,
  "kernels/matmul/matmul.wgsl": "// a shader\n",
  "kernels/matmul/matmul_test.ts": `import "../../tests/support/tolerance.ts";\nimport "./matmul.ts";\n`,
  "core/mod.ts":
    `// import "@edgetuner/plugins";\nimport "@edgetuner/kernels";\nexport const a = 'import "hono";';\n`,
  "core/mod_test.ts": `import "@edgetuner/core";\nimport "@std/assert";\n`,
  "transport/mod.ts": `import type { A } from "@edgetuner/core/contracts";\nexport type B = A;\n`,
  "transport/server/mod.ts": `import { Hono } from "hono";\nimport "hono/ws";\nexport { Hono };\n`,
  "plugins/mod.ts": `import "@edgetuner/core";\nimport "cborg";\n`,
  "tests/support/tolerance.ts": `import "@edgetuner/kernels";\nimport "../../kernels/matmul/matmul.ts";\n`,
  "examples/demo.ts": `import "../mod.ts";\nimport "@edgetuner/core";\n`,
};

/** What breaks a rule, and what is said about it. */
const BROKEN: readonly [file: string, source: string, ...said: string[]][] = [
  [
    "kernels/engine/engine.ts",
    `import type { a } from "../matmul/matmul.ts";\nexport type A = typeof a;\n`,
  ],
  [
    "kernels/matmul/tiles.ts",
    `import type { A } from "../engine/engine.ts";\nexport type B = A;\n`,
    "Cannot import in a circle: current places are kernels/engine/, kernels/matmul/",
  ],
  [
    "core/lora/a.ts",
    `import type { B } from "./b.ts";\nimport type { C } from "../session/c.ts";\nexport type A = B | C;\n`,
    `Cannot import "../session/c.ts" as core/lora/ stands above core/session/: current place is core/lora/a.ts:2`,
    "Cannot import in a circle: current places are core/lora/a.ts, core/lora/b.ts",
  ],
  ["core/lora/b.ts", `import type { A } from "./a.ts";\nexport type B = A[];\n`],
  ["core/session/c.ts", "export type C = 1;\n"],
  [
    "transport/wire.ts",
    `import type { A } from "@edgetuner/core/contracts";\nimport type { B } from "@edgetuner/core";\nexport type C = A | B;\n`,
    `Cannot import "@edgetuner/core" as transport/ may import core/contracts/ alone: current place is transport/wire.ts:2`,
  ],
  [
    "core/a.ts",
    `import "@edgetuner/kernels";\nimport "@edgetuner/transport";\nimport "jsr:@edgetuner/plugins@0.1.0";\n`,
    `Cannot import "@edgetuner/transport" as core/ may import only @edgetuner/kernels of this repository: ` +
    `current place is core/a.ts:2`,
    `Cannot import "jsr:@edgetuner/plugins@0.1.0" as core/ may import only @edgetuner/kernels of this ` +
    `repository: current place is core/a.ts:3`,
  ],
  [
    "core/b.ts",
    `export const kernels = await import("@edgetuner/edgetuner");\nexport * from "../kernels/mod.ts";\n`,
    `Cannot import "@edgetuner/edgetuner" as core/ may import only @edgetuner/kernels of this repository: ` +
    `current place is core/b.ts:1`,
    `Cannot import "../kernels/mod.ts" as relative imports must not cross members: ` +
    `current place is core/b.ts:2`,
  ],
  [
    "core/c.wgsl",
    "",
    "Cannot keep a shader here as all .wgsl files must be under kernels/: current file is core/c.wgsl",
  ],
  [
    "core/d.ts",
    `import text from "./c.wgsl" with { type: "text" };\nimport "../tests/support/tolerance.ts";\nexport { text };\n`,
    `Cannot import "./c.wgsl" as text imports must be under kernels/: current place is core/d.ts:1`,
    `Cannot import "../tests/support/tolerance.ts" as relative imports must not cross members: ` +
    `current place is core/d.ts:2`,
  ],
  [
    "core/d_test.ts",
    `import "../examples/demo.ts";\nimport "@edgetuner/plugins";\n`,
    `Cannot import "../examples/demo.ts" as relative imports must not cross members (tests: except to ` +
    `tests/support/ and tests/conformance/): current place is core/d_test.ts:1`,
    `Cannot import "@edgetuner/plugins" as core/ may import only @edgetuner/kernels of this repository: ` +
    `current place is core/d_test.ts:2`,
  ],
  [
    "examples/places.ts",
    `export const folder = new URL(".", import.meta.url)\n.pathname;\nexport const asked = new URL(folder).pathname;\n` +
    "export const module = (path: string) => new URL(`fil" + "e://${path}`);\n",
    `Cannot use an address as a path as names may hold " ", "#" and "%", use fileURLToPath and pathToFileURL: ` +
    `current place is examples/places.ts:1`,
    `Cannot use an address as a path as names may hold " ", "#" and "%", use fileURLToPath and pathToFileURL: ` +
    `current place is examples/places.ts:4`,
  ],
  [
    "examples/save.ts",
    `await Deno.readTextFile("a");\nawait Deno.writeTextFile("a", "");\nDeno.renameSync("a", "b");\n`,
    `Cannot write a file in place as a kill would leave half of it, use writeWhole or PendingFolder: ` +
    `current place is examples/save.ts:2`,
    `Cannot write a file in place as a kill would leave half of it, use writeWhole or PendingFolder: ` +
    `current place is examples/save.ts:3`,
  ],
  [
    "examples/server.ts",
    `import { Hono } from "npm:hono@^4.0.0/tiny";\nimport "../core/mod.ts";\nexport { Hono };\n`,
    `Cannot import "npm:hono@^4.0.0/tiny" as only transport/server/ may import hono: ` +
    `current place is examples/server.ts:1`,
    `Cannot import "../core/mod.ts" as relative imports must not cross members: ` +
    `current place is examples/server.ts:2`,
  ],
  [
    "kernels/a.ts",
    `import type { A } from "@edgetuner/core";\nimport "./matmul/_tile.ts";\nexport type B = A;\n`,
    `Cannot import "@edgetuner/core" as kernels/ may import nothing of this repository: ` +
    `current place is kernels/a.ts:1`,
    `Cannot import "./matmul/_tile.ts" as only kernels/matmul/ may import its _files: ` +
    `current place is kernels/a.ts:2`,
  ],
  ["kernels/matmul/_tile.ts", ""],
  [
    "mod.ts",
    `export * from "@edgetuner/core";\nexport * from "@edgetuner/transport/server";\nexport const a = 1;\n`,
    "Cannot hold code as a root entry point must only re-export: current file is mod.ts",
    `Cannot import "@edgetuner/transport/server" as mod.ts must run in browsers, use server.ts: ` +
    `current place is mod.ts:2`,
  ],
  [
    "plugins/a.ts",
    `import "@edgetuner/kernels";\n`,
    `Cannot import "@edgetuner/kernels" as plugins/ may import only @edgetuner/core of this repository: ` +
    `current place is plugins/a.ts:1`,
  ],
  [
    "transport/a.ts",
    `import "hono";\nimport "@edgetuner/plugins";\nimport "../../outside.ts";\n`,
    `Cannot import "hono" as only transport/server/ may import hono: current place is transport/a.ts:1`,
    `Cannot import "@edgetuner/plugins" as transport/ may import only @edgetuner/kernels and ` +
    `@edgetuner/core of this repository: ` +
    `current place is transport/a.ts:2`,
    `Cannot import "../../outside.ts" as relative imports must not cross members: ` +
    `current place is transport/a.ts:3`,
  ],
];

async function violationsOf(files: Readonly<Record<string, string>>): Promise<string[]> {
  const dir = await Deno.makeTempDir({ prefix: "layering test " });
  try {
    for (const [path, source] of Object.entries(files)) {
      const file = `${dir}/tree/${path}`;
      await Deno.mkdir(file.slice(0, file.lastIndexOf("/")), { recursive: true });
      await Deno.writeTextFile(file, source);
    }
    return await findViolations(`${dir}/tree`);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test("findViolations() is content with a tree that keeps the rules", async () => {
  assertEquals(await violationsOf(CLEAN), []);
});

Deno.test("findViolations() names everything that breaks a rule", async () => {
  const broken = Object.fromEntries(BROKEN.map(([file, source]) => [file, source]));
  const expected = BROKEN.flatMap(([, , ...said]) => said);
  assertEquals((await violationsOf({ ...CLEAN, ...broken })).sort(), expected.sort());
});

Deno.test("findViolations() wants rules for every member", async () => {
  const config = CLEAN["deno.json"]!.replace(`"./kernels"`, `"./kernels", "./extras/"`);
  assertEquals(await violationsOf({ ...CLEAN, "deno.json": config }), [
    "Cannot have a member without rules as .ci/layering.ts must list all: current member is extras/",
  ]);
});

Deno.test("this repository keeps its layering rules", async () => {
  assertEquals(await findViolations(`${import.meta.dirname}/..`), []);
});

Deno.test("the page on the architecture has the rooms of the check, in their order", async () => {
  const page = await Deno.readTextFile(new URL("../docs/architecture.md", import.meta.url));
  const rooms = [...page.matchAll(/^\| `([\w/]+\/)`/gm)].map(([, room]) => room);
  // Entry points lie in `core/` itself.
  assertEquals(rooms, ROOMS.filter((room) => room !== "core/"));
});
