/**
 * How wide the terminal is, and text that fits it.
 *
 * @module
 */

/** Columns where nobody knows the width, such as in a file. */
const COLUMNS = 100;

/** Columns of the terminal that this process writes to. */
export function terminalColumns(): number {
  try {
    const { columns } = Deno.consoleSize();
    return columns > 0 ? columns : COLUMNS;
  } catch {
    return COLUMNS;
  }
}

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
