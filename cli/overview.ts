/**
 * What `edgetuner` does without a command: its help and its version.
 *
 * @module
 */

import { UsageError } from "./flags/flags.ts";
import { didYouMean } from "./flags/suggest.ts";
import { versions } from "./output/report.ts";
import { terminalColumns, wrapped } from "./output/terminal.ts";

/** Commands with what each does, in a line; empty for a second name of a command. */
type Commands = Readonly<Record<string, { readonly about: string }>>;

/**
 * The help of `edgetuner` itself: all commands in a table.
 *
 * @param width Columns of the terminal.
 */
export function overview(width: number, commands: Commands): string {
  const left = 20;
  const rows = Object.entries(commands).filter(([, { about }]) => about !== "").flatMap(([name, { about }]) =>
    wrapped(about, Math.max(20, width - left)).map((line, i) =>
      (i === 0 ? `  ${name}` : "").padEnd(left) + line
    )
  );
  return [
    ...wrapped(
      "EdgeTuner fine-tunes language models: an edge server holds the model, devices hold what is learnt.",
      width,
    ),
    "",
    "  edgetuner COMMAND [flags]",
    "",
    "Commands",
    ...rows,
    "",
    "  edgetuner COMMAND -h    flags and examples of a command",
    "  edgetuner --version     the version",
    "",
    ...wrapped("Begin with `edgetuner demo`: it takes a few minutes and needs no download.", width),
  ].join("\n");
}

/**
 * Does what is asked for in place of a command, such as `--help`.
 *
 * @returns The exit code.
 * @throws {UsageError} If there is no such command.
 */
export function withoutCommand(name: string, commands: Commands): number {
  if (["--help", "-h", "help", ""].includes(name)) {
    console.log(overview(terminalColumns(), commands));
    return name === "" ? 2 : 0;
  }
  if (["--version", "-V"].includes(name)) {
    console.log(versions().edgetuner);
    return 0;
  }
  throw new UsageError(
    `Cannot run edgetuner as the command must be one of its own: "${name}" is not${
      didYouMean(name, Object.keys(commands), "edgetuner ") || "; see edgetuner --help"
    }`,
  );
}
