/** The checks of the documentation find what they are there to find. */

import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { blocksOf } from "../.ci/commands.ts";
import { anchorOf, targetsOf } from "../.ci/links.ts";
import { styleOf } from "../.ci/words.ts";

Deno.test("style: phrases, long sentences and code that does not run are found, each with its line", () => {
  const long = Array.from({ length: 31 }, () => "word").join(" ");
  const found = styleOf(
    "a.md",
    `# One\n\nA codec of one's\nown.\n\n- ${long}.\n\n\`\`\`ts ignore\nx\n\`\`\`\n`,
  );
  assertEquals(found.map((line) => line.slice(0, 7)), ["a.md:8:", "a.md:3:", "a.md:6:"]);
  assertStringIncludes(found[2]!, "31 words");
});

Deno.test("style: code, tables and short sentences pass", () => {
  const row = `| ${Array.from({ length: 20 }, () => "word").join(" ")} | ${"word ".repeat(20)} |`;
  assertEquals(styleOf("a.md", `Run \`please\`.\n\n${row}\n\n\`\`\`sh\nplease do not simply\n\`\`\`\n`), []);
});

Deno.test("style: README has at most 150 lines, and a page of docs/ begins with its question", () => {
  assertEquals(styleOf("README.md", "a.\n\n".repeat(75)), []);
  assertEquals(styleOf("README.md", "a.\n\n".repeat(76)).length, 1);
  assertEquals(styleOf("docs/a.md", "# A\n\nWhat is it?\n\nIt is.\n"), []);
  assertEquals(styleOf("docs/a.md", "# A\n\nIt is.\n").length, 1);
});

Deno.test("commands: every block of the documentation says how it runs, in words that the runner knows", async () => {
  const root = new URL("../", import.meta.url);
  const pages = (await Array.fromAsync(Deno.readDir(new URL("docs/", root)), ({ name }) => `docs/${name}`))
    .filter((name) => name.endsWith(".md"));
  let blocks = 0;
  for (const page of ["README.md", "CONTRIBUTING.md", ...pages]) {
    blocks += blocksOf(page, await Deno.readTextFile(new URL(page, root))).length;
  }
  assert(blocks > 50, `${blocks}`);
});

Deno.test("links: targets and paths of the repository, but no patterns", () => {
  assertEquals(
    targetsOf("[a](b.md#c) `core/mod.ts`, `runs/x`, `core/*_test.ts` `deno run -A examples/x.ts`"),
    [
      "b.md#c",
      "/core/mod.ts",
      "/examples/x.ts",
    ],
  );
  assertEquals(anchorOf(" 6. How much `to` prune?"), "6-how-much-to-prune");
});

Deno.test("commands: comments before a block say how it runs", () => {
  const [first, second] = blocksOf(
    "a.md",
    "<!-- run: set MODEL=m -->\n<!-- run: with 2: --count 1 -->\n<!-- run: together -->\n\n```sh\na \\\n  b # c\n\n# d\ne\n```\n" +
      "<!-- run: not, needs the network -->\n```sh\nf\n```\n",
  );
  assertEquals(first?.commands, ["a b", "e"]);
  assertEquals(first?.line, 5);
  assertEquals(first?.together, true);
  assertEquals(first?.values.get("MODEL"), "m");
  assertEquals(first?.flagsOf.get(2), " --count 1");
  assertEquals(second?.skipped, "needs the network");
  assertThrows(
    () => blocksOf("a.md", "<!-- run: not, too hard -->\n```sh\nf\n```\n"),
    SyntaxError,
    "reasons",
  );
});
