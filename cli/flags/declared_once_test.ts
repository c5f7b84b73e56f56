import { assert, assertEquals } from "@std/assert";

/** Names that mean different things to different commands, and why they may be declared apart. */
const TWO_MEANINGS: Readonly<Record<string, string>> = {
  samples: "train-pruner: the file of them; elsewhere how many",
  devices: "sweep: a list of numbers; elsewhere one",
  resume: "e2e finetune: a switch, as the folder is that of --out",
};

/** `name: text(...)`, and constants such as `TOKENIZER_FLAG = text(...)`. */
const DECLARATION =
  /(?:^|[{,])\s*"?([a-z][a-z-]*)"?:\s*(?:\{\s*\.\.\.)?(?:text|textOrAlone|number|integer|toggle)\(|const (\w+?)(?:_FLAG)? =\s*(?:\{\s*\.\.\.)?(?:text|textOrAlone|number|integer|toggle)\(/gm;

async function* sources(folder: URL): AsyncGenerator<URL> {
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    if (isDirectory) yield* sources(new URL(`${name}/`, folder));
    else if (name.endsWith(".ts") && !name.endsWith("_test.ts")) yield new URL(name, folder);
  }
}

/** Flags by name, with the files that declare them. */
function declarations(file: string, source: string, found: Map<string, string[]>): void {
  for (const [, name, constant] of source.matchAll(DECLARATION)) {
    const flag = name ?? constant!.toLowerCase().replaceAll("_", "-");
    found.set(flag, [...found.get(flag) ?? [], file]);
  }
}

Deno.test("each flag is declared once, whatever commands have it", async () => {
  const found = new Map<string, string[]>();
  const root = new URL("../", import.meta.url);
  for await (const file of sources(root)) {
    declarations(file.href.slice(root.href.length), await Deno.readTextFile(file), found);
  }
  // What is found is what there is: some of each way to declare.
  for (const name of ["batch", "steps", "tokenizer", "no-overlap", "state", "clip-norm"]) {
    assert(found.has(name), name);
  }
  const twice = [...found].filter(([name, files]) => files.length > 1 && !Object.hasOwn(TWO_MEANINGS, name));
  assertEquals(twice, []);
  for (const name of Object.keys(TWO_MEANINGS)) {
    assertEquals(found.get(name)?.length, 2, `${name} has ${found.get(name)}`);
  }
});

Deno.test("a second declaration of a flag is found in each form", () => {
  const found = new Map<string, string[]>();
  declarations("a.ts", 'const F = {\n  batch: integer("N", 8, "x"),\n  "no-x": toggle("x"),\n};', found);
  declarations("b.ts", 'const F = { batch: number("N", 4, "y"), "no-x": {\n ...toggle("y") } };', found);
  declarations("c.ts", 'export const BATCH_FLAG = text(\n  "N");', found);
  assertEquals([...found], [["batch", ["a.ts", "b.ts", "c.ts"]], ["no-x", ["a.ts", "b.ts"]]]);
});
