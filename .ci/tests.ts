/**
 * Which test files run together, and how. As many files run at a time as there are processors; one more of those
 * that use no GPU, and these may leave nothing behind. Files that measure time run alone.
 *
 * @module
 */

/** Test files that one `deno test` runs. */
export interface Lane {
  readonly files: readonly string[];
  readonly options: readonly string[];
  /** What its processes have in their environment besides. */
  readonly env: Readonly<Record<string, string>>;
}

/** Names that do not end with `[slow]`, for a kind of regular expressions that cannot look ahead. */
const FAST_NAMES = "--filter=/(?:[^\\]]|[^w]\\]|[^o]w\\]|[^l]ow\\]|[^s]low\\]|[^\\[]slow\\])$/";
/** Timers, sockets, files and promises that a test leaves behind fail it. */
const STRICT = ["--sanitize-ops", "--sanitize-resources"];
/** Reading from a GPU leaves a promise that settles later; see `kernels/engine/readback.ts`. */
const GPU = /\bengines?\b|\bTextModel\.open\b/i;
const ALONE = /^\/\/ Runs alone: \S/m;
/** Mesa's software driver computes in the thread that asks: beside another file, waking more takes longer. */
export const ONE_THREAD: Lane["env"] = { LP_NUM_THREADS: "0" };
/** One file more than processors: programs that tests start wait for each other much of the time. */
const ONE_MORE: Lane["env"] = { ...ONE_THREAD, DENO_JOBS: `${navigator.hardwareConcurrency + 1}` };

/**
 * Sorts test files into lanes.
 *
 * @param root Folder of the repository
 * @param paths Files and folders that are tested, seen from `root`; all if empty
 * @param options `fast` leaves out tests whose names end with `[slow]`, and files that have no others
 * @returns Lanes that have files
 */
export async function lanesOf(
  root: string,
  paths: readonly string[],
  options: { fast: boolean },
): Promise<Lane[]> {
  const [strict, gpu, alone]: string[][] = [[], [], []];
  for await (const file of testFiles(root, paths)) {
    const source = await Deno.readTextFile(`${root}/${file}`);
    if (options.fast && onlySlow(source)) continue;
    (ALONE.test(source) ? alone! : GPU.test(source) ? gpu! : strict!).push(file);
  }
  const names = options.fast ? [FAST_NAMES] : [];
  return [
    { files: strict!, options: ["--parallel", ...STRICT, ...names], env: ONE_MORE },
    { files: gpu!, options: ["--parallel", ...names], env: ONE_THREAD },
    { files: alone!, options: names, env: {} },
  ].filter(({ files }) => files.length > 0);
}

function onlySlow(source: string): boolean {
  const tests = [...source.matchAll(/\b(?:Deno\.test|test[A-Z]\w*)\(/g)].length;
  return tests > 0 && [...source.matchAll(/ \[slow\][`"]/g)].length >= tests;
}

async function* testFiles(root: string, paths: readonly string[]): AsyncGenerator<string> {
  const seen = new Set<string>();
  for (const path of paths.length > 0 ? paths : ["."]) {
    const { isFile } = await Deno.stat(`${root}/${path}`);
    const files = isFile ? [path] : await Array.fromAsync(filesOf(root, path, "_test.ts"));
    for (const file of files.toSorted()) {
      if (!seen.has(file)) yield file;
      seen.add(file);
    }
  }
}

/**
 * Files below a folder, without those of others.
 *
 * @param root Folder of the repository
 * @param folder Where to look, seen from `root`
 * @param end What their names end with
 */
export async function* filesOf(root: string, folder: string, end: string): AsyncGenerator<string> {
  for await (const { name, isDirectory } of Deno.readDir(`${root}/${folder}`)) {
    if (name === "node_modules" || name === "fixtures" || (name.startsWith(".") && name !== ".jsr")) continue;
    const path = folder === "." ? name : `${folder.replace(/\/$/, "")}/${name}`;
    if (isDirectory) yield* filesOf(root, path, end);
    else if (name.endsWith(end)) yield path;
  }
}
