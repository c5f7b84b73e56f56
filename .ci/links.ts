/**
 * Checks that what the documentation points to is there: links to files and headings, paths of the
 * repository in `code`, and that `docs/README.md` names every page.
 *
 * Links to other sites are not opened: a gate must not depend on them.
 *
 * @module
 */

const ROOT = new URL("../", import.meta.url);
/** First folders of paths that must exist where `code` names them. */
const FOLDERS =
  /^(kernels|core|transport|plugins|cli|page|examples|bench|docs|tests|\.ci|\.github)\/[\w.\-/[\]*{},]+$/;
/** Folders of paths in `code` that programs write, and do not exist yet. */
const CHECKED = /^(docs\/.*|README|CONTRIBUTING|SECURITY|\.github\/.*|examples\/.*|bench\/.*)\.md$/;

if (import.meta.main) {
  const findings = await findBrokenLinks();
  for (const finding of findings) console.error(finding);
  Deno.exit(findings.length > 0 ? 1 : 0);
}

/** What is missing, as `file:line: what`. */
export async function findBrokenLinks(): Promise<string[]> {
  const findings: string[] = [];
  const known = await trackedFiles();
  const anchors = new Map<string, Set<string>>();
  for (const file of known.filter((name) => CHECKED.test(name))) {
    const lines = withoutFences(await Deno.readTextFile(new URL(file, ROOT)));
    for (const [i, line] of lines.entries()) {
      for (const target of targetsOf(line)) {
        const problem = await problemOf(target, file, anchors);
        if (problem !== null) findings.push(`${file}:${i + 1}: ${problem}`);
      }
    }
  }
  const contents = known.includes("docs/README.md")
    ? await Deno.readTextFile(new URL("docs/README.md", ROOT))
    : "";
  for (const page of known.filter((name) => /^docs\/[^/]+\.md$/.test(name) && name !== "docs/README.md")) {
    if (!contents.includes(`(${page.slice("docs/".length)})`)) {
      findings.push(`docs/README.md: does not name ${page}`);
    }
  }
  return findings;
}

/** Headings as GitHub makes anchors of them. */
export function anchorOf(heading: string): string {
  return heading.trim().toLowerCase().replace(/[`*_]|\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/[^\p{L}\p{N}\s-]/gu, "").replace(/\s/g, "-");
}

/** Links and paths in a line. */
export function targetsOf(line: string): string[] {
  const targets = [...line.matchAll(/\]\(([^)\s]+)(?:\s+"[^"]*")?\)/g)].map(([, target]) => target!);
  targets.push(...[...line.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, target]) => target!));
  for (const [, code] of line.matchAll(/`([^`]+)`/g)) {
    for (const word of code!.split(/[\s,;()"]+/)) {
      const path = word.replace(/[.:]$/, "");
      if (FOLDERS.test(path) && !/[*{[]/.test(path)) targets.push(`/${path}`);
    }
  }
  return targets;
}

async function problemOf(
  target: string,
  file: string,
  anchors: Map<string, Set<string>>,
): Promise<string | null> {
  if (/^mailto:/.test(target)) return null;
  if (/^[a-z]+:/i.test(target)) return URL.canParse(target) ? null : `not a URL: ${target}`;
  const [path = "", anchor] = target.split("#");
  const url = path === ""
    ? new URL(file, ROOT)
    : path.startsWith("/")
    ? new URL(`.${path}`, ROOT)
    : new URL(path, new URL(file, ROOT));
  const info = await Deno.stat(url).catch(() => null);
  if (info === null) return `no such file: ${target}`;
  if (anchor === undefined) return null;
  if (!anchors.has(url.href)) {
    const lines = withoutFences(await Deno.readTextFile(url));
    anchors.set(
      url.href,
      new Set(lines.filter((line) => /^#+\s/.test(line)).map((line) => anchorOf(line.replace(/^#+/, "")))),
    );
  }
  return anchors.get(url.href)!.has(anchor) ? null : `no such heading: ${target}`;
}

/** The lines, of which those of code blocks are empty. */
function withoutFences(markdown: string): string[] {
  let fence = false;
  return markdown.split("\n").map((line) => {
    const edge = /^\s*(```|~~~)/.test(line);
    if (edge) fence = !fence;
    return fence || edge ? "" : line;
  });
}

async function trackedFiles(): Promise<string[]> {
  const { stdout } = await new Deno.Command("git", {
    args: ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd: ROOT,
  }).output();
  return new TextDecoder().decode(stdout).split("\0").filter((file) => file !== "").sort();
}
