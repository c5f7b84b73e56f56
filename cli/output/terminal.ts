/**
 * How wide the terminal is, and text that fits it.
 *
 * @module
 */

import { environmentVariable } from "@edgetuner/core";

/** Columns where nobody knows the width, such as in a file. */
const COLUMNS = 100;

/** Columns of the terminal that this process writes to: what COLUMNS says, or the terminal itself. */
export function terminalColumns(): number {
  const named = Number(environmentVariable("COLUMNS"));
  if (Number.isInteger(named) && named >= FEWEST) return named;
  try {
    const { columns } = Deno.consoleSize();
    return columns > 0 ? columns : COLUMNS;
  } catch {
    return COLUMNS;
  }
}

/** Columns that COLUMNS must name at least to count. */
const FEWEST = 20;

/** Lines of at most so many characters, broken between words; a longer word has a line of its own. */
export function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
