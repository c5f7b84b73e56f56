/**
 * Runs the shell commands of the documentation: every block marked `sh` in README.md, CONTRIBUTING.md and
 * `docs/`, in a copy of the repository, so that nothing is left behind.
 *
 * A comment before a block says how it runs; without one it runs as it stands:
 *
 * - `run: with FLAGS`: each program gets these flags too, so that it ends soon; `with 2: FLAGS` the second command.
 * - `run: set NAME=VALUE ...`: placeholders of the block and their values.
 * - `run: together`: the commands are processes of one run, and start at the same time.
 * - `run: not, REASON`: the block does not run, for one of `REASONS`.
 *
 * Arguments choose pages; `--list` says what would run.
 *
 * @module
 */

import { fileURLToPath } from "node:url";

/** A block of shell commands, and how to run it. */
export interface Block {
  /** The file. */
  readonly file: string;
  /** The line of its fence, from 1. */
  readonly line: number;
  /** The commands: lines, of which continued ones are joined. */
  readonly commands: readonly string[];
  /** Flags that each program gets too. */
  readonly flags: string;
  /** Flags that only the command of this number gets, from 1. */
  readonly flagsOf: ReadonlyMap<number, string>;
  /** Placeholders. */
  readonly values: ReadonlyMap<string, string>;
  /** Whether the commands start at the same time. */
  readonly together: boolean;
  /** Why it does not run, or `null`. */
  readonly skipped: string | null;
}

/** The reasons that count for leaving a block out: how each begins. */
export const REASONS = [
  "needs the network",
  "takes minutes",
  "installs software",
  "is in the gate",
  "needs other machines",
  "needs other programs",
  "needs a model that is not in the repository",
];
const ROOT = fileURLToPath(new URL("../", import.meta.url));
/** Longest time for one block, in milliseconds. */
const LIMIT_MS = 180_000;
/** Programs that take flags. */
const PROGRAM = /^(edgetuner\s+[\w-]+|deno run -A (--\S+ )*\S+\.ts|deno task (demo|compare|e2e))/;

if (import.meta.main) Deno.exit(await main(Deno.args));

async function main(args: string[]): Promise<number> {
  const pages = args.filter((arg) => !arg.startsWith("--"));
  const blocks = (await findBlocks()).filter(({ file }) => pages.length === 0 || pages.includes(file));
  if (args.includes("--list")) {
    for (const { file, line, commands, skipped } of blocks) {
      console.log(`${file}:${line}: ${skipped === null ? "" : `(${skipped}) `}${commands.join(" && ")}`);
    }
    return 0;
  }
  const wanted = blocks.filter(({ skipped }) => skipped === null);
  const failed = await runAll(wanted);
  console.log(
    `${wanted.length - failed.length} passed, ${failed.length} failed, ${
      blocks.length - wanted.length
    } left out with a reason`,
  );
  return failed.length > 0 ? 1 : 0;
}

/**
 * Runs blocks: those of a page one after the other in a copy of the repository of its own, as many pages at once as
 * there are processors.
 *
 * @returns What failed, as `FILE:LINE`.
 */
export async function runAll(blocks: readonly Block[]): Promise<string[]> {
  const place = await copyOfRepository();
  const failed: string[] = [];
  try {
    await prepare(`${place}/all`);
    const pages = Map.groupBy(blocks, ({ file }) => file).entries();
    await Promise.all(Array.from({ length: navigator.hardwareConcurrency }, async () => {
      for (const [page, ofPage] of pages) {
        const folder = await copyOf(place, page);
        for (const block of ofPage) if (!await runs(block, folder)) failed.push(`${page}:${block.line}`);
      }
    }));
  } finally {
    await Deno.remove(place, { recursive: true });
  }
  return failed;
}

async function runs(block: Block, folder: string): Promise<boolean> {
  const start = performance.now();
  const error = await runBlock(block, folder);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`${error === null ? "ok" : "FAILED"} ${block.file}:${block.line} (${seconds} s)`);
  if (error !== null) console.error(error);
  return error === null;
}

/** All blocks of the documentation, page by page. */
export async function findBlocks(): Promise<Block[]> {
  const { stdout } = await new Deno.Command("git", {
    args: [
      "ls-files",
      "--cached",
      "--others",
      "--exclude-standard",
      "README.md",
      "CONTRIBUTING.md",
      "docs/*.md",
    ],
    cwd: ROOT,
  }).output();
  const files = new TextDecoder().decode(stdout).split("\n").filter((file) => file !== "");
  const blocks: Block[] = [];
  for (const file of files) blocks.push(...blocksOf(file, await Deno.readTextFile(ROOT + file)));
  return blocks;
}

/**
 * The blocks of one page.
 *
 * @throws {SyntaxError} If a comment before a block is not one that this program knows.
 */
export function blocksOf(file: string, markdown: string): Block[] {
  const blocks: Block[] = [];
  for (const match of markdown.matchAll(/((?:<!-- run: [^\n]* -->\s*\n)*)^```sh\n([\s\S]*?)^```/gm)) {
    const line = markdown.slice(0, match.index + match[1]!.length).split("\n").length;
    const flagsOf = new Map<number, string>();
    let flags = "", together = false, skipped: string | null = null;
    const values = new Map<string, string>();
    for (const [, directive] of match[1]!.matchAll(/<!-- run: (.*?) -->/g)) {
      const [word = "", rest = ""] = directive!.split(/[\s,]+(.*)/s);
      const one = /^(\d+): (.*)$/.exec(rest);
      if (word === "with" && one !== null) flagsOf.set(Number(one[1]), ` ${one[2]}`);
      else if (word === "with") flags += ` ${rest}`;
      else if (word === "together") together = true;
      else if (word === "set") {
        for (const pair of rest.split(" ")) {
          values.set(pair.split("=")[0]!, pair.slice(pair.indexOf("=") + 1));
        }
      } else if (word === "not" && REASONS.some((reason) => rest.startsWith(reason))) skipped = rest;
      else {
        throw new SyntaxError(
          `Cannot run the block at ${file}:${line} as its comment must begin with "with", "set", "together" ` +
            `or "not" and one of the reasons ${REASONS.join("; ")}: current value is ${
              JSON.stringify(directive)
            }`,
        );
      }
    }
    const commands = match[2]!.replace(/\\\n\s*/g, "").split("\n").map((text) =>
      text.replace(/(^|\s+)#.*$/, "")
    )
      .filter((text) => text.trim() !== "");
    blocks.push({ file, line, commands, flags, flagsOf, values, together, skipped });
  }
  return blocks;
}

/** What the processes of one run share. */
interface Processes {
  readonly token?: string;
  readonly signal?: AbortSignal;
}

/** Runs a block; says what went wrong, or `null`. */
async function runBlock(block: Block, place: string): Promise<string | null> {
  const port = freePort();
  const commands = block.commands.map((command, i) => {
    let text = command;
    for (const [name, value] of block.values) {
      text = text.replace(new RegExp(`(?<![\\w-])${name}(?![\\w-])`, "g"), value);
    }
    if (block.together) text = text.replaceAll("8787", `${port}`);
    return `${text}${PROGRAM.test(text) ? block.flags : ""}${block.flagsOf.get(i + 1) ?? ""}`;
  });
  if (!block.together) return await shell(commands.join("\n"), place);
  // A run of several processes: the first is the server. All have the token from the environment.
  const failure = new AbortController();
  const results = await Promise.all(commands.map(async (command, i) => {
    const server = i === 0 && !/--port\b/.test(command) ? ` --port ${port}` : "";
    const error = await shell(command + server, place, { token: "docs-token", signal: failure.signal });
    // The others would wait for it.
    if (error !== null) failure.abort();
    return error;
  }));
  const errors = results.filter((error) => error !== null);
  return errors.length === 0 ? null : errors.join("\n");
}

async function shell(
  script: string,
  place: string,
  { token, signal }: Processes = {},
): Promise<string | null> {
  const { code, stdout, stderr } = await new Deno.Command("bash", {
    args: ["-e", "-o", "pipefail", "-c", script],
    cwd: place,
    env: {
      NO_COLOR: "1",
      PATH: `${place}/.bin:${Deno.env.get("PATH") ?? ""}`,
      ...(token === undefined
        ? {}
        : { EDGETUNER_JOIN_TOKEN: token, EDGETUNER_ADMIN_TOKEN: `${token}-admin` }),
    },
    stdin: "null",
    signal: AbortSignal.any([AbortSignal.timeout(LIMIT_MS), ...(signal === undefined ? [] : [signal])]),
  }).output();
  if (code === 0) return null;
  const decoder = new TextDecoder();
  const output = `${decoder.decode(stdout)}\n${decoder.decode(stderr)}`.trim().split("\n").slice(-25).join(
    "\n",
  );
  return `${script}\nended with exit code ${code}:\n${output}`;
}

/** A folder with a copy of all files that git knows, in `all`. */
async function copyOfRepository(): Promise<string> {
  const place = await Deno.makeTempDir({ prefix: "edgetuner-docs-" });
  await Deno.mkdir(`${place}/all/.bin`, { recursive: true });
  await bash(
    'git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -T - -cf - | tar -xf - -C "$0"',
    `${place}/all`,
  );
  await Deno.writeTextFile(
    `${place}/all/.bin/edgetuner`,
    `#!/bin/sh\nexec deno run -A "$(dirname "$0")/../cli/main.ts" "$@"\n`,
    { mode: 0o755 },
  );
  return place;
}

/** The copy of a page, which shares the files of `all` but those of runs: locks are among them. */
async function copyOf(place: string, page: string): Promise<string> {
  const folder = `${place}/${page.replaceAll("/", "_")}`;
  await bash('cp -rl "$0" "$1" && rm -r "$1/runs" && cp -r "$0/runs" "$1/runs"', `${place}/all`, folder);
  return folder;
}

async function bash(script: string, ...args: string[]): Promise<void> {
  const { code } = await new Deno.Command("bash", { args: ["-c", script, ...args], cwd: ROOT }).output();
  if (code !== 0) throw new Error(`The repository could not be copied: exit code ${code}`);
}

/** What pages take from a run before: a short demo run with its adapter in `runs/demo`. */
async function prepare(place: string): Promise<void> {
  const error = await shell(
    "deno run -A examples/demo.ts --steps 2 --prompts 1 --valid-batches 1 --batch 1",
    place,
  );
  if (error !== null) throw new Error(error);
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}
