/**
 * Checks the words of the project: spelling (cspell, British English, with the words of `words.txt`),
 * phrases that a reader may not understand at once, and the length of sentences.
 *
 * Arguments are files and folders; without any it checks everything that `SPELLED` names.
 *
 * @module
 */

/** A finding, as `file:line: what is wrong`. */
export type Finding = string;

/** What the spelling check reads. */
const SPELLED = ["docs/**", "*.md", ".github/**/*.md", "**/*.ts"];
/** Prose that must also keep to the style: short sentences, plain words. */
const PROSE = /^(docs\/.*|README|CONTRIBUTING|SECURITY|\.github\/.*)\.md$/;
/** The longest sentence, in words. */
const MOST_WORDS = 30;
/** The longest README, in lines. */
const MOST_README_LINES = 150;
/** Version of cspell; `words.lock` has the checksums of all that it needs. */
const CSPELL = "npm:cspell@10.4.1";

/** Phrases that must not appear in prose, and what to write in their place. */
const PHRASES: readonly (readonly [RegExp, string])[] = [
  [/\bof one's own\b/i, "custom, or your own"],
  [/\bthe heads of the lowest loss\b/i, "the heads with the best validation loss"],
  [/\b(with|gives?|has|have) the bits of\b/i, "bit-identical to"],
  [/\bof a run without a break\b/i, "of an uninterrupted run"],
  [/\btexts are those of\b/i, "the output is the same, token for token, as"],
  [/\b(starts?|begins?) again from zero\b/i, "is reset"],
  [/\bdoes tell\b/i, "is informative"],
  [/\btaking the adapter away\b/i, "export the adapter"],
  [/\bwhat it is worth\b/i, "speed-up"],
  [/\btak(e|es|en) up again\b/i, "resume"],
  [/\bgo(es)? on with\b/i, "resume, or continue"],
  [/\bgone on with\b/i, "continued"],
  [/\bbrings? together\b/i, "collect, or merge"],
  [/\bis? not as (it|they) must be\b/i, "is not valid"],
  [/\bhardly any\b/i, "few"],
  [/\bnothing but\b/i, "only"],
  [/\bmust \w+( \w+)?: it (is|does) not\b/i, "a plain sentence"],
  [/\b(in order to|so as to)\b/i, "to"],
  [/\b(utili[sz]e|leverage)s?\b/i, "use"],
  [/\b(e\.g\.|i\.e\.)/i, "for example; that is"],
  [/\b(simply|obviously|basically|please)\b/i, "nothing: leave the word out"],
  [/\b(shall|whilst|thereof|therein|aforementioned|hereby|henceforth)\b/i, "a plain word"],
  [/\b(do|does|did|is|are|was|were|can|could|would|should|will|wo|ca|has|have)n['’]t\b/i, "the long form"],
];

if (import.meta.main) {
  const findings = await findWords(Deno.args);
  for (const finding of findings) console.error(finding);
  Deno.exit(findings.length > 0 ? 1 : 0);
}

/**
 * What is wrong with the words of these files and folders, or with all of the project's.
 *
 * @throws {Error} If the spelling check cannot run.
 */
export async function findWords(paths: readonly string[] = []): Promise<Finding[]> {
  const root = new URL("../", import.meta.url);
  const findings = await misspelt(root, paths.length > 0 ? paths : SPELLED);
  for (const file of await trackedFiles(root)) {
    const asked = paths.length === 0 || paths.some((path) => file === path || file.startsWith(`${path}/`));
    if (asked && PROSE.test(file)) {
      findings.push(...styleOf(file, await Deno.readTextFile(new URL(file, root))));
    }
  }
  return findings;
}

/** What is wrong with the style of a Markdown text: phrases, long sentences, examples that do not run. */
export function styleOf(file: string, markdown: string): Finding[] {
  const findings: Finding[] = [];
  const lines = markdown.split("\n");
  const at = (line: number, text: string) => findings.push(`${file}:${line}: ${text}`);
  lines.forEach((line, i) => {
    if (/^```ts.*\bignore\b/.test(line)) at(i + 1, "TypeScript in the documentation must run: no `ignore`");
  });
  if (file === "README.md" && lines.length > MOST_README_LINES + 1) {
    at(MOST_README_LINES + 1, `README.md has at most ${MOST_README_LINES} lines; the rest belongs in docs/`);
  }
  const opening = lines.filter((line) => line.trim() !== "").slice(0, 2);
  if (/^docs\/(?!README)/.test(file) && !opening.some((line) => line.endsWith("?"))) {
    at(1, "a page of docs/ begins with the question that it answers");
  }
  for (const { line, text } of paragraphs(lines)) {
    for (const [phrase, better] of PHRASES) {
      const found = phrase.exec(text)?.[0];
      if (found !== undefined) at(line, `"${found}": write ${better}`);
    }
    for (const sentence of text.split(/(?<=[.!?:;])\s+/)) {
      const count = sentence.split(/\s+/).filter((word) => /[\p{L}\d]/u.test(word)).length;
      if (count > MOST_WORDS) {
        at(line, `a sentence of ${count} words, at most ${MOST_WORDS}: "${sentence.slice(0, 60)}..."`);
      }
    }
  }
  return findings;
}

/** Paragraphs, list items and table cells as one line each, without code. */
function paragraphs(lines: readonly string[]): { line: number; text: string }[] {
  const found: { line: number; text: string }[] = [];
  let fence = false, open = false;
  lines.forEach((raw, i) => {
    if (/^\s*(```|~~~)/.test(raw)) fence = !fence;
    const text = raw.replace(/^\s*(#+|[-*>]|\d+\.)\s+/, "").trim();
    if (fence || text === "" || /^(```|~~~|<!--|\|[-\s|:]*$)/.test(text)) {
      open = false;
    } else if (raw.trim().startsWith("|")) {
      for (const cell of text.split("|")) {
        if (cell.trim() !== "") found.push({ line: i + 1, text: cell.trim() });
      }
      open = false;
    } else if (open && !/^\s*([-*]|\d+\.)\s+/.test(raw) && !raw.startsWith("#")) {
      found.at(-1)!.text += ` ${text}`;
    } else {
      found.push({ line: i + 1, text });
      open = !raw.startsWith("#");
    }
  });
  return found.map(({ line, text }) => ({ line, text: text.replace(/`[^`]*`/g, "code") }));
}

/** Unknown words, each with its place. */
async function misspelt(root: URL, patterns: readonly string[]): Promise<Finding[]> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...[
        "run",
        "-A",
        "--quiet",
        "--no-config",
        "--frozen",
        "--lock=.ci/words.lock",
        CSPELL,
        "--no-progress",
        "--no-summary",
      ],
      ...["--gitignore", "--config=.ci/cspell.json", "--relative", "--dot", ...patterns],
    ],
    cwd: root,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const lines = new TextDecoder().decode(stdout).split("\n").filter((line) => line.trim() !== "");
  if (code !== 0 && lines.length === 0) {
    throw new Error(`The spelling check did not run. ${new TextDecoder().decode(stderr)}`);
  }
  return lines.map((line) => `${line}; a word of the project belongs in .ci/words.txt`);
}

/** Files that git knows, or would. */
async function trackedFiles(root: URL): Promise<string[]> {
  const { stdout } = await new Deno.Command("git", {
    args: ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd: root,
  }).output();
  return new TextDecoder().decode(stdout).split("\0").filter((file) => file !== "");
}
