/**
 * Bundles the pages into `page/generated/`, from where the package serves them: one JSON file a page, path -> type and
 * content. `deno task page` writes them, `deno task page --check` says whether they are stale or too large.
 *
 * `deno bundle` makes one script an entry and one for what is imported later; esbuild lowers them for browsers without
 * `using`, and shaders lose their comments.
 *
 * @module
 */

import { basename, dirname } from "node:path";

/** The version is part of the result. */
const ESBUILD = "npm:esbuild@0.28.2";
/** The oldest browser that the pages run in: it has WebGPU, and neither `using` nor `Symbol.dispose`. */
const TARGET = "safari26";
const POLYFILL =
  'for(const n of["dispose","asyncDispose"])Symbol[n]||Object.defineProperty(Symbol,n,{value:Symbol.for("Symbol."+n)});';
const ROOT = `${import.meta.dirname}/..`;

/** A page: an HTML file, a style sheet, and scripts. */
interface Page {
  /** Path that it is served at, with a slash at its end; files are below it. */
  readonly path: string;
  /** Its HTML. */
  readonly html: string;
  /** Style sheets, joined in this order to `style.css`. */
  readonly styles: readonly string[];
  /** Entries of scripts; `main.tsx` becomes `main.js`. */
  readonly scripts: readonly string[];
  /** Most bytes, packed with gzip, of what is loaded at once, and of all there is. */
  readonly limits: { readonly atOnce: number; readonly all: number };
}

/** All pages, by the names of their generated files. */
export const PAGES: Readonly<Record<string, Page>> = {
  device: {
    path: "/device/",
    html: "page/device/index.html",
    styles: ["page/shared/base.css", "page/device/device.css"],
    scripts: ["page/device/main.tsx", "page/device/worker.ts"],
    limits: { atOnce: 100_000, all: 130_000 },
  },
};

/** A file of a page. */
interface PageFile {
  readonly type: string;
  readonly body: string;
}

type Esbuild = {
  transform(code: string, options: Record<string, unknown>): Promise<{ readonly code: string }>;
  stop(): Promise<void>;
};

if (import.meta.main) Deno.exit(await main());

async function main(): Promise<number> {
  if (Deno.args.includes("--check")) {
    const findings = await findStalePages();
    for (const finding of findings) console.error(finding);
    return findings.length > 0 ? 1 : 0;
  }
  const sizes = await writePages();
  for (const line of sizes) console.log(line);
  return 0;
}

/**
 * Writes all pages.
 *
 * @returns A line for each, with its sizes
 * @throws {Error} If one does not bundle
 */
export async function writePages(): Promise<string[]> {
  const lines: string[] = [];
  for (const [name, page] of Object.entries(PAGES)) {
    const files = await buildPage(page);
    await Deno.mkdir(`${ROOT}/page/generated`, { recursive: true });
    await Deno.writeTextFile(generated(name), jsonOf(files));
    const { atOnce, all } = await sizesOf(page, files);
    lines.push(`${page.path}: ${atOnce} bytes with gzip at once, ${all} in all`);
  }
  return lines;
}

/**
 * Builds all pages anew and compares.
 *
 * @returns One sentence for each that is stale or too large
 * @throws {Error} If one does not bundle
 */
export async function findStalePages(): Promise<string[]> {
  const found: string[] = [];
  for (const [name, page] of Object.entries(PAGES)) {
    const files = await buildPage(page);
    const kept = await Deno.readTextFile(generated(name)).catch(() => "");
    if (kept !== jsonOf(files)) {
      found.push(`Cannot serve page/generated/${name}.json as it is stale: run deno task page`);
    }
    const sizes = await sizesOf(page, files);
    for (const part of ["atOnce", "all"] as const) {
      if (sizes[part] <= page.limits[part]) continue;
      const what = part === "all" ? "all its files" : "what it loads at once";
      found.push(
        `Cannot serve ${page.path} as ${what} must have at most ${
          page.limits[part]
        } bytes with gzip: current value is ${sizes[part]}`,
      );
    }
  }
  return found;
}

function generated(name: string): string {
  return `${ROOT}/page/generated/${name}.json`;
}

/** A line a file, so that version control sees which changed. */
function jsonOf(files: ReadonlyMap<string, PageFile>): string {
  const lines = [...files].map(([path, file]) => `${JSON.stringify(path)}: ${JSON.stringify(file)}`);
  return `{\n${lines.join(",\n")}\n}\n`;
}

async function buildPage(page: Page): Promise<Map<string, PageFile>> {
  const esbuild = await import(ESBUILD) as Esbuild;
  try {
    const read = (file: string) => Deno.readTextFile(`${ROOT}/${file}`);
    const css = (await Promise.all(page.styles.map(read))).join("\n");
    const style = (await esbuild.transform(css, { loader: "css", target: TARGET, minify: true })).code;
    const files = new Map<string, PageFile>([
      [page.path, { type: "text/html; charset=utf-8", body: await read(page.html) }],
      [`${page.path}style.css`, { type: "text/css; charset=utf-8", body: style }],
    ]);
    for (const [name, source] of await bundle(page.scripts)) {
      const { code } = await esbuild.transform(withoutComments(source), {
        format: "esm",
        target: TARGET,
        minify: true,
        legalComments: "none",
        banner: POLYFILL,
      });
      files.set(`${page.path}${name}`, { type: "text/javascript; charset=utf-8", body: code });
    }
    return files;
  } finally {
    await esbuild.stop();
  }
}

/** Bundles entries; the parts that they share, or import later, get short names in the order of their appearance. */
async function bundle(entries: readonly string[]): Promise<Map<string, string>> {
  const folder = await Deno.makeTempDir();
  try {
    const args = ["bundle", "--quiet", "--no-lock", "--platform", "browser", "--code-splitting"];
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [...args, "--outdir", folder, ...entries],
      cwd: ROOT,
      env: { NO_COLOR: "1" },
      stdin: "null",
    }).output();
    if (!success) throw new Error(`Cannot bundle: ${new TextDecoder().decode(stderr)}`);
    const written = new Map<string, string>();
    for await (const path of filesIn(folder)) written.set(basename(path), await Deno.readTextFile(path));
    return renamed(entries, written);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function renamed(entries: readonly string[], written: ReadonlyMap<string, string>): Map<string, string> {
  const names = new Map<string, string>();
  const waiting = entries.map((entry) => basename(entry).replace(/\.tsx?$/, ".js"));
  for (const name of waiting) names.set(name, name);
  let parts = 0;
  for (const name of waiting) {
    for (const [, found] of written.get(name)!.matchAll(/"\.\/([\w-]+\.js)"/g)) {
      if (names.has(found!) || !written.has(found!)) continue;
      names.set(found!, `part${++parts}.js`);
      waiting.push(found!);
    }
  }
  const result = new Map<string, string>();
  for (const [from, to] of names) {
    result.set(
      to,
      written.get(from)!.replace(
        /"\.\/([\w-]+\.js)"/g,
        (all, name) => names.has(name) ? `"./${names.get(name)}"` : all,
      ),
    );
  }
  return result;
}

async function* filesIn(folder: string): AsyncGenerator<string> {
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory) yield* filesIn(path);
    else if (name.endsWith(".js")) yield path;
  }
}

/** A bundle whose shaders have no comments, which are more than half of their text. */
function withoutComments(bundle: string): string {
  return bundle.replace(/^(\/\/ .*\.wgsl\n)var (\w+) = (.*);$/gm, (_all, comment, name, literal) => {
    if (!literal.startsWith('"')) {
      throw new Error(`Cannot read the shader ${name} as it must be in double quotes`);
    }
    return `${comment}var ${name} = ${JSON.stringify(bareShader(JSON.parse(literal)))};`;
  });
}

/** A shader without comments, indentation and empty lines. */
export function bareShader(source: string): string {
  const code = source.replace(/\/\*[^]*?\*\/|\/\/.*$/gm, "");
  return code.split("\n").map((line) => line.trim()).filter((line) => line !== "").join("\n") + "\n";
}

/** Bytes with gzip: of what the page and its workers load at once, and of all files. */
async function sizesOf(
  { path, scripts }: Page,
  files: ReadonlyMap<string, PageFile>,
): Promise<{ readonly atOnce: number; readonly all: number }> {
  const atOnce = new Set([path, `${path}style.css`]);
  const waiting = scripts.map((entry) => `${path}${basename(entry).replace(/\.tsx?$/, ".js")}`);
  for (const file of waiting) {
    atOnce.add(file);
    for (const [, name] of files.get(file)!.body.matchAll(/(?:from|import)\s*"\.\/([\w-]+\.js)"/g)) {
      const other = `${dirname(file)}/${name}`;
      if (!atOnce.has(other)) waiting.push(other);
    }
  }
  let [now, all] = [0, 0];
  for (const [name, { body }] of files) {
    const bytes = await gzipSize(body);
    all += bytes;
    if (atOnce.has(name)) now += bytes;
  }
  return { atOnce: now, all };
}

async function gzipSize(text: string): Promise<number> {
  const stream = new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"));
  return (await new Response(stream).bytes()).length;
}
