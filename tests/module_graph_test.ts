/** What is loaded by those who import a part of the library only. */

import { assert, assertEquals } from "@std/assert";
import { checkBrowserTypes, findHostUses } from "../.ci/browser.ts";
import { ROOT } from "./support/places.ts";

interface Module {
  readonly specifier: string;
  readonly dependencies?: readonly { readonly code?: { readonly specifier?: string } }[];
}

/** Files and packages that run when `entry` is imported: types are not loaded. */
async function loadedBy(entry: string): Promise<string[]> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", entry],
    cwd: ROOT,
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  const { modules, roots } = JSON.parse(new TextDecoder().decode(stdout)) as {
    modules: Module[];
    roots: string[];
  };
  const byName = new Map(modules.map((module) => [module.specifier, module]));
  const loaded = new Set(roots);
  for (const name of loaded) {
    for (const { code } of byName.get(name)?.dependencies ?? []) {
      if (code?.specifier !== undefined) loaded.add(code.specifier);
    }
  }
  const base = byName.has(roots[0]!) ? roots[0]!.slice(0, -entry.length) : "";
  assert(base !== "", `${entry} is not in the graph`);
  return [...loaded].map((name) => name.startsWith(base) ? name.slice(base.length) : name).sort();
}

for (const entry of ["plugins/contracts.ts", "examples/custom_pruner.ts", "examples/custom_codec.ts"]) {
  Deno.test(`${entry} loads contracts alone: no tokenizer, file format, CBOR or shader`, async () => {
    const loaded = await loadedBy(entry);
    const others = loaded.filter((name) => !/^core\/contracts\/[a-z_]+\.ts$/.test(name) && name !== entry);
    assertEquals(others.filter((name) => name !== "plugins/contracts.ts"), []);
  });
}

Deno.test("the whole of plugins loads what the contracts do not, so that the test above can fail", async () => {
  const loaded = await loadedBy("plugins/mod.ts");
  assert(loaded.some((name) => name.endsWith("kernels/mod.ts")));
});

Deno.test("the check for browsers finds types that no page has, and uses of Deno [slow]", async () => {
  const root = await Deno.makeTempDir();
  try {
    for (const member of ["kernels", "core", "transport", "plugins", "page"]) {
      await Deno.mkdir(`${root}/${member}`);
      await Deno.writeTextFile(
        `${root}/${member}/deno.json`,
        JSON.stringify({ name: `@a/${member}`, exports: "./mod.ts" }),
      );
      await Deno.writeTextFile(`${root}/${member}/mod.ts`, "export {};\n");
    }
    await Deno.writeTextFile(
      `${root}/deno.json`,
      JSON.stringify({ imports: {}, compilerOptions: { strict: true } }),
    );
    const check = () => checkBrowserTypes(root, ["kernels/mod.ts"]);
    await Deno.writeTextFile(
      `${root}/kernels/mod.ts`,
      "export const area: number = document.body.clientWidth;\n",
    );
    assertEquals([await check(), await findHostUses(root)], ["", []]);
    await Deno.writeTextFile(`${root}/kernels/mod.ts`, "export const late: Deno.Addr = document.body;\n");
    assert((await check()).includes("TS2322"));
    assertEquals((await findHostUses(root)).map((line) => line.split(" ").at(-1)), ["kernels/mod.ts:1"]);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});
