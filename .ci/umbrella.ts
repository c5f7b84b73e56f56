/**
 * Checks the library's face: `mod.ts` has about 80 names, each with a description and a category, and the main ones
 * with an example that runs.
 *
 * @module
 */

const ROOT = `${import.meta.dirname}/..`;
/** More names than this nobody reads. */
const MOST_NAMES = 85;
/** The names that programs begin with: each shows how. */
export const MAIN_NAMES: readonly string[] = [
  "openModel",
  "loadTrainingData",
  "EdgeServer",
  "runUserDevice",
  "LocalTraining",
  "Trainer",
  "Engine",
  "HeadModules",
  "saveAdapter",
  "toPeft",
  "beamSearch",
  "sample",
  "simulate",
  "f32Codec",
  "f16Codec",
  "int8Codec",
  ...["budget", "collecting", "dlora", "gradient", "greedy", "iHead", "magnitude", "no", "oracle", "random"]
    .map((name) => `${name}Pruner`),
];

interface Documentation {
  readonly nodes: Record<string, { readonly symbols: readonly DocumentedSymbol[] }>;
}

/** A public name with what is said of it. */
export interface DocumentedSymbol {
  /** The name. */
  readonly name: string;
  /** Where it is declared. */
  readonly declarations: readonly {
    readonly jsDoc?: {
      readonly doc?: string;
      readonly tags?: readonly { readonly kind: string; readonly doc?: string }[];
    };
  }[];
}

/**
 * Reads the names of a module.
 *
 * @param entry The module, seen from the repository
 * @throws {Error} If the module cannot be read
 */
export async function readSymbols(entry: string): Promise<DocumentedSymbol[]> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["doc", "--json", entry],
    cwd: ROOT,
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  if (!success) throw new Error(`Cannot read the names of ${entry}: ${decoder.decode(stderr)}`);
  const { nodes } = JSON.parse(decoder.decode(stdout)) as Documentation;
  return Object.values(nodes).flatMap(({ symbols }) => symbols);
}

/**
 * Finds what is wrong with the names of a module.
 *
 * @param entry The module, seen from the repository
 * @param main Names that must have an example
 * @returns One sentence for each; empty if nothing is wrong
 * @throws {Error} If the module cannot be read
 */
export async function findUndocumented(
  entry = "mod.ts",
  main: readonly string[] = MAIN_NAMES,
): Promise<string[]> {
  const symbols = await readSymbols(entry);
  const names = symbols.map(({ name }) => name);
  const found = main.filter((name) => !names.includes(name)).map((name) =>
    `Cannot find ${name} as ${entry} must name it`
  );
  if (names.length > MOST_NAMES) {
    found.push(
      `Cannot keep ${entry} readable as it must have at most ${MOST_NAMES} names: current value is ${names.length}`,
    );
  }
  for (const { name, declarations } of symbols) {
    const docs = declarations.flatMap(({ jsDoc }) => jsDoc ?? []);
    if (!docs.some(({ doc }) => doc)) {
      found.push(`Cannot export ${name} as names of ${entry} must have a description`);
    }
    const tags = docs.flatMap(({ tags }) => tags ?? []);
    if (!tags.some(({ kind }) => kind === "category")) {
      found.push(`Cannot export ${name} as names of ${entry} must have a @category`);
    }
    const examples = tags.filter(({ kind }) => kind === "example");
    // `deno test --doc` leaves out blocks that say "ignore".
    const runs = examples.some(({ doc }) => /```ts\n/.test(doc ?? ""));
    if (main.includes(name) && !runs) {
      found.push(`Cannot export ${name} as main names of ${entry} must have an @example that runs`);
    }
  }
  return found;
}

if (import.meta.main) {
  const found = await findUndocumented();
  for (const line of found) console.error(line);
  if (found.length > 0) Deno.exitCode = 1;
}
