/**
 * The page `docs/flags.md`: which flags each command has. `deno run -A tests/support/flags_page.ts` writes it; a test holds it
 * against the commands, so that no flag is lost unseen.
 *
 * @module
 */

import { COMMAND_NAMES, loadCommand } from "../../cli/main.ts";
import { wrapped } from "../../cli/output/terminal.ts";

/** Where the page is. */
export const FLAGS_PAGE = new URL("../../docs/flags.md", import.meta.url);

/** Columns of a block. */
const WIDTH = 100;
/** Columns of the name of a group. */
const LEFT = 19;

/** What `--help` of a command prints. */
async function helpOf(name: string): Promise<string> {
  const { run } = await loadCommand(name).load();
  const lines: string[] = [];
  const log = console.log;
  console.log = (line: string) => void lines.push(line);
  try {
    await run({ args: ["-h"], form: "command" });
  } catch (end) {
    if (lines.length === 0) throw end; // a help ends the program
  } finally {
    console.log = log;
  }
  return lines.join("\n");
}

/** The flags of a command by group, as the help has them. */
async function groupsOf(name: string): Promise<readonly (readonly [title: string, flags: string])[]> {
  const blocks = (await helpOf(name)).split("\n\n").filter((block) => /^[A-Z][\w ]*\n {2}--/.test(block));
  return blocks.map((block) => {
    const flags = [...block.matchAll(/^ {2}(--[a-z-]+)/gm)].map(([, flag]) => flag);
    return [block.split("\n")[0]!, flags.join(" ")] as const;
  }).filter(([title]) => title !== "General");
}

/** The page. */
export async function flagsPage(): Promise<string> {
  const parts = [
    "# Flags",
    "Which flags does each command have?",
    wrapped(
      "`edgetuner COMMAND -h` says what each of them does. All commands also have `--config`, `--print-config` and " +
        "`--help`.",
      110,
    ).join("\n"),
  ];
  for (const name of COMMAND_NAMES.filter((name) => !name.startsWith("evaluate "))) {
    const rows = (await groupsOf(name)).flatMap(([title, flags]) =>
      wrapped(flags, WIDTH - LEFT).map((line, i) => (i === 0 ? title : "").padEnd(LEFT) + line)
    );
    parts.push(`## edgetuner ${name}`, ["```text", ...rows, "```"].join("\n"));
  }
  return `${parts.join("\n\n")}\n`;
}

if (import.meta.main) await Deno.writeTextFile(FLAGS_PAGE, await flagsPage());
