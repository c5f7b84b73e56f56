/**
 * Measures of the house, one a line. `deno run -A .ci/measures.ts [FOLDER]` measures another checkout; `--details`
 * names the places.
 *
 * The gate holds four of them: lines of a function and of a file, parameters, and booleans among parameters. What
 * breaks a rule today stands in `.ci/measures.json` by file and may not become more; `--shrink` takes out of it what
 * has been mended. The aim is that nothing stands there but the exceptions, each with its reason.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { findCircles, findUpwardImports } from "./layering.ts";

const PLUGIN = `${import.meta.dirname}/lint_plugin.ts`;
const RULES = ["house/function-lines", "house/parameters", "house/boolean-parameter"] as const;

interface Diagnostic {
  readonly code: string;
  readonly filename: string;
  readonly message: string;
  readonly range: { readonly start: { readonly line: number } };
}

/** Most lines of a file. */
const FILE_LINES = 500;
/** Where it stands what may break a rule. */
const ALLOWED = `${import.meta.dirname}/measures.json`;

/** How often each rule may be broken in a file; of `file-lines` how many lines it may have. */
type Allowance = Readonly<Record<string, Readonly<Record<string, number>>>>;

/** What may break a rule. */
export interface Allowed {
  /** Files for which a rule of length makes no sense, and why. */
  readonly exceptions: Readonly<Record<string, string>>;
  /** What is still to be mended, by file and rule. */
  readonly notWorseThan: Allowance;
}

/** A place that breaks a rule of `lint_plugin.ts`. */
export interface Breach {
  /** Name of the rule. */
  readonly rule: string;
  /** Path in the repository. */
  readonly file: string;
  /** Line, from 1. */
  readonly line: number;
  /** What is wrong. */
  readonly message: string;
}

/**
 * What breaks the rules of `lint_plugin.ts`, tests aside.
 *
 * @param root Folder of the checkout.
 */
export async function findBreaches(root: string): Promise<Breach[]> {
  const config = await Deno.makeTempFile({ suffix: ".json" });
  try {
    await Deno.writeTextFile(
      config,
      JSON.stringify({ lint: { plugins: [PLUGIN], rules: { tags: [], include: RULES } } }),
    );
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["lint", "--json", "--config", config, ...(await sources(root)).map((file) => `${root}/${file}`)],
    }).output();
    const { diagnostics } = JSON.parse(new TextDecoder().decode(stdout)) as {
      diagnostics: Diagnostic[];
    };
    return diagnostics.map(({ code, filename, message, range }) => ({
      rule: code.replace("house/", ""),
      file: fileURLToPath(filename).slice(root.length + 1),
      line: range.start.line,
      message,
    }));
  } finally {
    await Deno.remove(config);
  }
}

/** Files of code that git knows, without tests and fixtures. */
async function sources(root: string): Promise<string[]> {
  const { stdout } = await new Deno.Command("git", {
    args: ["-C", root, "ls-files", "-co", "--exclude-standard"],
  }).output();
  return new TextDecoder().decode(stdout).split("\n").filter((file) =>
    /\.tsx?$/.test(file) && !/_(test|bench)\.tsx?$/.test(file) &&
    !/^(tests|bench|\.jsr)\/|\/bench\//.test(file)
  );
}

/** Files with more lines than a file has. */
async function findLongFiles(root: string): Promise<Breach[]> {
  const found: Breach[] = [];
  for (const file of await sources(root)) {
    const lines = (await Deno.readTextFile(`${root}/${file}`)).trimEnd().split("\n").length;
    if (lines <= FILE_LINES) continue;
    const message = `a file has at most ${FILE_LINES} lines: this has ${lines}`;
    found.push({ rule: "file-lines", file, line: lines, message });
  }
  return found;
}

/** Breaches by file and rule: how many, and of a file that is too long how many lines. */
export function countsOf(breaches: readonly Breach[]): Record<string, Record<string, number>> {
  const counts: Record<string, Record<string, number>> = {};
  for (const { file, rule, line } of breaches) {
    const own = counts[file] ??= {};
    own[rule] = rule === "file-lines" ? line : (own[rule] ?? 0) + 1;
  }
  return counts;
}

/**
 * What is worse than is allowed, a line each.
 *
 * @param breaches All there are.
 * @param allowed What may be.
 */
export function worseThan(breaches: readonly Breach[], { exceptions, notWorseThan }: Allowed): string[] {
  const counts = countsOf(breaches);
  return breaches.filter(({ file, rule }) =>
    !(rule === "file-lines" && Object.hasOwn(exceptions, file)) &&
    counts[file]![rule]! > (notWorseThan[file]?.[rule] ?? 0)
  ).map(({ file, line, message, rule }) =>
    rule === "file-lines" ? `${file}: ${message}` : `${file}:${line}: ${message}`
  );
}

/**
 * The allowance without what has been mended; nothing is added.
 *
 * @param breaches All there are.
 * @param allowed What may be.
 */
export function shrunk(breaches: readonly Breach[], { notWorseThan }: Allowed): Allowance {
  const counts = countsOf(breaches);
  const files = Object.entries(notWorseThan).map(([file, rules]) => {
    const left = Object.entries(rules).map(([rule, most]): [string, number] => [
      rule,
      Math.min(most, counts[file]?.[rule] ?? 0),
    ]);
    return [file, Object.fromEntries(left.filter(([, count]) => count > 0))] as const;
  });
  return Object.fromEntries(files.filter(([, rules]) => Object.keys(rules).length > 0));
}

async function readAllowed(): Promise<Allowed> {
  return JSON.parse(await Deno.readTextFile(ALLOWED)) as Allowed;
}

/** Everything that breaks a rule of the gate, in this checkout or another one. */
async function findAll(root: string): Promise<Breach[]> {
  return [...await findBreaches(root), ...await findLongFiles(root)];
}

/**
 * What breaks the rules of the house and is neither an exception nor known, a line each.
 *
 * @param root Folder of the checkout.
 */
export async function findWorse(root: string): Promise<string[]> {
  return worseThan(await findAll(await Deno.realPath(root)), await readAllowed());
}

/** Takes what has been mended out of the list. */
async function shrink(root: string): Promise<void> {
  const allowed = await readAllowed();
  const notWorseThan = shrunk(await findAll(root), allowed);
  await Deno.writeTextFile(ALLOWED, `${JSON.stringify({ ...allowed, notWorseThan }, null, 2)}\n`);
}

async function measures(root: string): Promise<[string, number, string[]][]> {
  const files = await sources(root);
  const texts = new Map<string, string>();
  for (const file of files) texts.set(file, await Deno.readTextFile(`${root}/${file}`));
  const lines = (file: string) => texts.get(file)!.trimEnd().split("\n").length;
  const breaches = await findBreaches(root);
  const of = (rule: string) =>
    breaches.filter((b) => b.rule === rule).map((b) => `${b.file}:${b.line} ${b.message}`);
  const long = files.filter((file) => lines(file) > FILE_LINES && file !== "mod.ts").map((f) =>
    `${f} ${lines(f)}`
  );
  const modes = files.flatMap((file) => {
    const code = texts.get(file)!.replace(/\/\*.*?\*\/|\/\/[^\n]*/gs, "");
    return [...code.matchAll(/[!=]==? "(?:slice|full)"|"(?:slice|full)" [!=]==?|case "(?:slice|full)"/g)]
      .map(() => file);
  });
  const readme = (await Deno.readTextFile(`${root}/README.md`)).trimEnd().split("\n");
  const names = (texts.get("mod.ts") ?? "").replace(/\/\*.*?\*\/|\/\/[^\n]*/gs, "")
    .match(/\b\w+(?=\s*[,}])/g) ?? [];
  const inExamples = files.filter((f) => f.startsWith("examples/") && lines(f) > 60);
  const support = files.filter((f) => f.startsWith("examples/_support/"));
  const sum = (list: string[]) => list.reduce((total, file) => total + lines(file), 0);
  const circles = await findCircles(root);
  const upward = await findUpwardImports(root);
  return [
    ["functions over 80 lines", of("function-lines").length, of("function-lines")],
    ["functions with over 4 parameters", of("parameters").length, of("parameters")],
    ["booleans among positional parameters", of("boolean-parameter").length, of("boolean-parameter")],
    ["files over 500 lines", long.length, long],
    ["circles of imports", circles.length, circles.map((circle) => circle.join(", "))],
    ["imports of a lower room", upward.length, upward],
    ["places that decide the LoRA input mode", modes.length, modes],
    ["examples over 60 lines", inExamples.length, inExamples],
    ["lines in examples/_support", sum(support), []],
    ["lines of README.md", readme.length, []],
    ["names in mod.ts", names.length, []],
  ];
}

if (import.meta.main) {
  const details = Deno.args.includes("--details");
  const folder = Deno.args.find((arg) => !arg.startsWith("--")) ?? `${import.meta.dirname}/..`;
  if (Deno.args.includes("--shrink")) await shrink(await Deno.realPath(folder));
  for (const [name, value, places] of await measures(await Deno.realPath(folder))) {
    console.log(`${String(value).padStart(6)}  ${name}`);
    if (details) { for (const place of places) console.log(`        ${place}`); }
  }
}
