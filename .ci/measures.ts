/**
 * Measures of the house, one a line. `deno run -A .ci/measures.ts [FOLDER]` measures another checkout.
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
      line: range.start.line + 1,
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

async function measures(root: string): Promise<[string, number, string[]][]> {
  const files = await sources(root);
  const texts = new Map<string, string>();
  for (const file of files) texts.set(file, await Deno.readTextFile(`${root}/${file}`));
  const lines = (file: string) => texts.get(file)!.trimEnd().split("\n").length;
  const breaches = await findBreaches(root);
  const of = (rule: string) =>
    breaches.filter((b) => b.rule === rule).map((b) => `${b.file}:${b.line} ${b.message}`);
  const long = files.filter((file) => lines(file) > 500 && file !== "mod.ts").map((f) => `${f} ${lines(f)}`);
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
  for (const [name, value, places] of await measures(await Deno.realPath(folder))) {
    console.log(`${String(value).padStart(6)}  ${name}`);
    if (details) { for (const place of places) console.log(`        ${place}`); }
  }
}
