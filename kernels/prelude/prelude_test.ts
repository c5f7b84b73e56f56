import { assert, assertEquals } from "@std/assert";

const ROOT = new URL("../", import.meta.url);

/** Files of kernels/, by their paths in it. */
async function filesOf(extension: string): Promise<Map<string, string>> {
  const files = new Map<string, string>();
  for await (const folder of Deno.readDir(ROOT)) {
    if (!folder.isDirectory) continue;
    for await (const { name } of Deno.readDir(new URL(`${folder.name}/`, ROOT))) {
      if (!name.endsWith(extension)) continue;
      const path = `${folder.name}/${name}`;
      files.set(path, await Deno.readTextFile(new URL(path, ROOT)));
    }
  }
  return files;
}

const shaders = await filesOf(".wgsl");

Deno.test("a function of several statements stands once in all shaders", () => {
  const places = new Map<string, string[]>();
  for (const [path, text] of shaders) {
    // Entry points are alike by nature: they hand on to functions of their own.
    const code = text.replace(/\/\/[^\n]*/g, "").replace(/@compute[^\n]*\nfn/g, "entry");
    for (const [, name, body] of code.matchAll(/^fn (\w+)\([^{]*\{\n([\s\S]*?)\n\}/gm)) {
      const statements = body!.split(";").map((s) => s.replace(/\s+/g, " ").trim()).filter((s) => s !== "");
      if (statements.length < 3) continue;
      const key = statements.join("; ");
      places.set(key, [...places.get(key) ?? [], `${path}: ${name}`]);
    }
  }
  assert(places.size > 30, `only ${places.size} functions were found`);
  assertEquals([...places.values()].filter((list) => list.length > 1), []);
});

Deno.test("kernels name the WGSL file that they import, and every file is used", async () => {
  const used = new Set<string>();
  for (const [path, text] of await filesOf(".ts")) {
    // Tests and what they share may hold a source of their own.
    if (path.endsWith("_test.ts") || path.split("/")[1]!.startsWith("_")) continue;
    const folder = path.split("/")[0]!;
    const imports = new Map(
      [...text.matchAll(/import (\w+) from "\.\/(\w+\.wgsl)"/g)].map(([, name, file]) => [name!, file!]),
    );
    for (const [, file, name = "source"] of text.matchAll(/\bfile: "([^"]+)",\s*source(?:: (\w+))?,/g)) {
      assertEquals(file, `${folder}/${imports.get(name)}`, path);
      used.add(file!);
    }
    if (folder === "prelude") {
      for (const [, name, source] of text.matchAll(/preludeFile\("(\w+)", (\w+)\)/g)) {
        assertEquals(imports.get(source!), `${name}.wgsl`, path);
        used.add(`prelude/${name}.wgsl`);
      }
    }
  }
  assertEquals([...used].sort(), [...shaders.keys()].sort());
});
