/**
 * Builds the reference of all public names as pages, into `.docs/`: a contents page with the names of `mod.ts` by
 * category, and a folder for each entry point. `deno doc --html` itself sorts by kind alone.
 *
 * @module
 */

import { type DocumentedSymbol, readSymbols } from "./umbrella.ts";

const ROOT = `${import.meta.dirname}/..`;

/** A name of the contents page. */
interface Entry {
  readonly name: string;
  readonly category: string;
  readonly what: string;
}

/**
 * Builds the reference.
 *
 * @param output Folder that it is written to; what is there is removed
 * @param entries Entry points by name, as in `exports` of deno.json; those of the package if not given
 * @returns The categories, with the number of their names
 * @throws {Error} If a page cannot be made, or a name has no page
 */
export async function buildReference(
  output: string,
  entries?: Readonly<Record<string, string>>,
): Promise<Map<string, number>> {
  const { exports } = JSON.parse(await Deno.readTextFile(`${ROOT}/deno.json`));
  const paths = Object.entries(entries ?? exports as Record<string, string>);
  await Deno.remove(output, { recursive: true }).catch(() => {});
  await Deno.mkdir(output, { recursive: true });
  // One at a time: each needs all of one core, and hundreds of megabytes.
  for (const [name, path] of paths) await writePages(`${output}/${folderOf(name)}`, name, path);
  const [main] = paths.find(([name]) => name === ".") ?? [];
  const symbols = main === undefined ? [] : (await readSymbols(paths[0]![1])).map(describe);
  for (const { name } of symbols) await Deno.stat(`${output}/${folderOf(".")}/~/${name}.html`);
  const categories = Map.groupBy(symbols, ({ category }) => category);
  await Deno.writeTextFile(`${output}/index.html`, contents(categories, paths.map(([name]) => name)));
  return new Map([...categories].map(([category, { length }]) => [category, length]));
}

async function writePages(output: string, name: string, path: string): Promise<void> {
  const title = name === "." ? "EdgeTuner" : `EdgeTuner ${name.slice(2)}`;
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["doc", "--html", `--name=${title}`, `--output=${output}`, path],
    cwd: ROOT,
    stdin: "null",
    stdout: "null",
  }).output();
  if (!success) throw new Error(`Cannot write the pages of ${path}: ${new TextDecoder().decode(stderr)}`);
}

function folderOf(entry: string): string {
  return entry === "." ? "main" : entry.slice(2);
}

/** The first sentence of what is said of a name, and its category. */
function describe({ name, declarations }: DocumentedSymbol): Entry {
  const docs = declarations.flatMap(({ jsDoc }) => jsDoc ?? []);
  const text = docs.find(({ doc }) => doc)?.doc ?? "";
  const category = docs.flatMap(({ tags }) => tags ?? []).find(({ kind }) => kind === "category")?.doc
    ?.trim();
  const what = /^.*?\.(?=\s|$)/s.exec(text)?.[0] ?? text;
  return {
    name,
    category: category ?? "Other",
    what: what.replace(/\{@linkcode (\w+)\}/g, "$1").replaceAll("`", "").replaceAll("\n", " "),
  };
}

function contents(categories: ReadonlyMap<string, readonly Entry[]>, entries: readonly string[]): string {
  const sections = [...categories].sort(([a], [b]) => a.localeCompare(b)).map(([category, names]) =>
    `<h2>${escaped(category)}</h2>\n<dl>\n${
      names.map(({ name, what }) =>
        `<dt><a href="main/~/${name}.html"><code>${name}</code></a></dt><dd>${escaped(what)}</dd>`
      ).join("\n")
    }\n</dl>`
  );
  const others = entries.filter((name) => name !== ".").map(folderOf).map((name) =>
    `<li><a href="${name}/all_symbols.html"><code>@edgetuner/edgetuner/${name}</code></a></li>`
  );
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>EdgeTuner reference</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
  dt { margin-top: 0.5rem; }
  dd { margin-left: 1.5rem; }
</style>
<h1>EdgeTuner reference</h1>
<p>The names of <a href="main/index.html"><code>@edgetuner/edgetuner</code></a> by category.</p>
${sections.join("\n")}
<h2>Other entry points</h2>
<ul>
${others.join("\n")}
</ul>
</html>
`;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

if (import.meta.main) {
  const categories = await buildReference(`${ROOT}/.docs`);
  for (const [category, count] of categories) console.log(`${String(count).padStart(4)}  ${category}`);
  console.log("The reference is in .docs/index.html");
}
