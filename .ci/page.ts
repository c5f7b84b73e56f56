/**
 * Bundles the pages into `page/generated/`, from where the package serves them: one JSON file a page, path -> type and
 * content. `deno task page` writes them, `deno task page --check` says whether they are stale or too large.
 *
 * `deno bundle` makes one script of each entry; esbuild lowers them for browsers without `using`, and shaders lose their
 * comments.
 *
 * @module
 */

import { basename } from "node:path";

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
  /** Most bytes with gzip of HTML, style and some scripts, which are loaded for something together. */
  readonly limits: readonly {
    readonly what: string;
    readonly scripts: readonly string[];
    readonly bytes: number;
  }[];
}

/** All pages, by the names of their generated files. */
export const PAGES: Readonly<Record<string, Page>> = {
  dashboard: {
    path: "/",
    html: "page/dashboard/index.html",
    styles: ["page/shared/base.css", "page/dashboard/dashboard.css"],
    scripts: ["page/dashboard/main.tsx"],
    limits: [{ what: "runs", scripts: ["main.js"], bytes: 80_000 }],
  },
  device: {
    path: "/device/",
    html: "page/device/index.html",
    styles: ["page/shared/base.css", "page/device/device.css"],
    scripts: [
      "page/device/main.tsx",
      "page/device/worker.ts",
      "page/device/data_worker.ts",
      "page/device/download_worker.ts",
    ],
    limits: [
      { what: "heads", scripts: ["main.js", "worker.js"], bytes: 100_000 },
      { what: "data", scripts: ["main.js", "data_worker.js"], bytes: 130_000 },
    ],
  },
};

/** Functions whose calls do no more than give a value: kernels that nothing in a script uses are left out. */
const PURE = ["defineKernel", "defineRowKernel", "forActivations", "kernelsWith", "preludeFile"];

/**
 * What pages never make: layers, what edge servers do with head modules, packed weights, generation, files,
 * conversations, GGUF.
 */
const ABSENT = {
  classes: [
    ...["Gpt2Layers", "DecoderLayers", "OptLayers", "DirectEdge", "ProjectingEdge"],
    ...["PackedMatrix", "RemoteSession", "StoredTensors"],
  ],
  functions: [
    ...["packedMatmul", "packedGather", "renderChat", "encodeTurn", "encodeParts"],
    ...["decoderFields", "decoderHeader"],
  ],
} as const;

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
    for (const { what, limit, bytes } of await sizesOf(page, files)) {
      lines.push(`${page.path} for ${what}: ${bytes} bytes with gzip, at most ${limit}`);
    }
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
    for (const { what, limit, bytes } of await sizesOf(page, files)) {
      if (bytes <= limit) continue;
      found.push(
        `Cannot serve ${page.path} as what it loads for ${what} must have at most ${limit} bytes with gzip: current value is ${bytes}`,
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
    for (const entry of page.scripts) {
      const source = pure(withoutAbsent(withoutComments(await bundle(entry))));
      const { code } = await esbuild.transform(source, {
        format: "esm",
        target: TARGET,
        minify: true,
        legalComments: "none",
        treeShaking: true,
        banner: POLYFILL,
      });
      files.set(`${page.path}${scriptName(entry)}`, { type: "text/javascript; charset=utf-8", body: code });
    }
    return files;
  } finally {
    await esbuild.stop();
  }
}

/** Bundles an entry with all that it imports. */
async function bundle(entry: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--no-lock", "--platform", "browser", entry],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  if (!success) throw new Error(`Cannot bundle ${entry}: ${decoder.decode(stderr)}`);
  return decoder.decode(stdout);
}

function scriptName(entry: string): string {
  return basename(entry).replace(/\.tsx?$/, ".js");
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

/** A bundle without what pages never make, and all that it needs; where one is asked for, that is an error. */
function withoutAbsent(bundle: string): string {
  const error = `throw new TypeError("Cannot do that in a page");`;
  const names = ABSENT.classes.join("|");
  return `class Absent { constructor() { ${error} } }\nfunction absent() { ${error} }\n` +
    bundle.replace(new RegExp(`\\b(new|instanceof) (?:${names})\\b`, "g"), "$1 Absent")
      // How a family reads and writes GGUF files: pages get weights one by one, with a configuration that is read.
      .replace(/^ {2}gguf: \{\n[^]*?^ {2}\}/gm, "  gguf: null")
      // How a family reads a `config.json`, and writes a GGUF file.
      .replace(/\b(config|header): (?:\w+Config|headerOf\d*)\b/g, "$1: absent")
      .replace(new RegExp(`(?<!function )\\b(?:${ABSENT.functions.join("|")})\\(`, "g"), "absent(");
}

/** A bundle that says which calls may be left out where nothing uses what they give. */
function pure(bundle: string): string {
  return bundle.replace(new RegExp(`(?<!function )\\b(?:${PURE.join("|")})\\(`, "g"), "/* @__PURE__ */ $&");
}

/** A shader without comments, empty lines, and spaces that mean nothing. */
export function bareShader(source: string): string {
  const code = source.replace(/\/\*[^]*?\*\/|\/\/.*$/gm, "");
  const lines = code.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  return lines.join("\n").replace(/\s*([{}();,:=])\s*/g, "$1") + "\n";
}

/** Bytes with gzip of what is loaded together, in the order of the page's limits. */
async function sizesOf(
  { path, limits }: Page,
  files: ReadonlyMap<string, PageFile>,
): Promise<{ readonly what: string; readonly limit: number; readonly bytes: number }[]> {
  const sizes = new Map<string, number>();
  for (const [name, { body }] of files) sizes.set(name, await gzipSize(body));
  return limits.map(({ what, scripts, bytes: limit }) => {
    const names = [path, `${path}style.css`, ...scripts.map((script) => `${path}${script}`)];
    return { what, limit, bytes: names.reduce((sum, name) => sum + sizes.get(name)!, 0) };
  });
}

async function gzipSize(text: string): Promise<number> {
  const stream = new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"));
  return (await new Response(stream).bytes()).length;
}
