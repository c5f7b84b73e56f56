// deno-lint-ignore-file no-control-regex -- escape sequences of terminals begin with one
/**
 * Runs a command in a terminal of a fixed width and draws what stands there in the end as an SVG:
 *
 * ```text
 * deno run -A .ci/picture.ts docs/pictures/demo.svg deno task demo
 * ```
 *
 * Needs `script` (util-linux). Knows what our programs write: carriage return, erase line, colours.
 *
 * @module
 */

const COLUMNS = 100;
/** Most lines: the last ones are drawn. */
const LINES = 50;
const SIZE = { font: 13, width: 7.83, line: 17, margin: 14, bar: 26 };
/** Colours of the escape sequences 30 to 37 and 90. */
const COLOURS: Readonly<Record<number, string>> = {
  31: "#ff7b72",
  32: "#7ee787",
  33: "#e3b341",
  34: "#79c0ff",
  35: "#d2a8ff",
  36: "#76e3ea",
  90: "#8b949e",
};

interface Cell {
  character: string;
  style: string;
}

if (import.meta.main) {
  const [file, ...command] = Deno.args;
  if (file === undefined || command.length === 0) {
    console.error("Give the SVG to write, and the command");
    Deno.exit(2);
  }
  await Deno.writeTextFile(file, draw(`$ ${command.join(" ")}`, screenOf(await capture(command))));
}

/** What a command writes to a terminal. */
async function capture(command: readonly string[]): Promise<string> {
  const line = `stty cols ${COLUMNS} rows 50; ${command.join(" ")}`;
  const { stdout } = await new Deno.Command("script", {
    args: ["--quiet", "--return", "--command", line, "/dev/null"],
    env: { TERM: "xterm-256color" },
    stdin: "null",
    stderr: "inherit",
  }).output();
  return new TextDecoder().decode(stdout);
}

/** The lines of the terminal after all of a text has been written. */
export function screenOf(text: string): Cell[][] {
  const lines: Cell[][] = [[]];
  let column = 0, style = "";
  for (const [token] of text.matchAll(/\x1b\[[\d;?]*[A-Za-z]|\x1b.|[^\x1b]/gsu)) {
    const line = lines.at(-1)!;
    if (token === "\n") lines.push([]), column = 0;
    else if (token === "\r") column = 0;
    else if (/^\x1b\[[02]?K$/.test(token)) line.length = token === "\x1b[2K" ? 0 : column;
    else if (/^\x1b\[[\d;]*m$/.test(token)) style = styleOf(token, style);
    else if (!token.startsWith("\x1b") && token >= " ") {
      if (column >= COLUMNS) lines.push([]), column = 0;
      lines.at(-1)![column++] = { character: token, style };
    }
  }
  return lines;
}

function styleOf(token: string, style: string): string {
  for (const code of token.slice(2, -1).split(";").map(Number)) {
    if (code === 0) style = "";
    else if (code === 1) style += "font-weight:bold;";
    else if (code === 2) style += "opacity:.7;";
    else if (COLOURS[code] !== undefined) style += `fill:${COLOURS[code]};`;
    else if (code === 22 || code === 39) style = "";
  }
  return style;
}

/** The SVG: a window with a command and what it wrote. */
function draw(command: string, screen: readonly Cell[][]): string {
  const kept = screen.map((line) => Array.from(line, (cell) => cell ?? { character: " ", style: "" }))
    .map(spans);
  while (kept.at(-1) === "") kept.pop();
  const lines = [`<tspan class="c">${escape(command)}</tspan>`, ...kept.slice(-LINES)];
  const width = Math.ceil(COLUMNS * SIZE.width + 2 * SIZE.margin);
  const height = SIZE.bar + lines.length * SIZE.line + SIZE.margin;
  const texts = lines.map((line, i) =>
    line === ""
      ? ""
      : `<text x="${SIZE.margin}" y="${(SIZE.bar + (i + 0.8) * SIZE.line).toFixed(1)}">${line}</text>`
  ).filter((text) => text !== "");
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">
<style>text{font:${SIZE.font}px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#e6edf3;white-space:pre}.c{fill:#7ee787}</style>
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
<circle cx="18" cy="14" r="5" fill="#ff5f57"/><circle cx="36" cy="14" r="5" fill="#febc2e"/><circle cx="54" cy="14" r="5" fill="#28c840"/>
${texts.join("\n")}
</svg>
`;
}

function spans(line: readonly Cell[]): string {
  let html = "", style = "", run = "";
  const flush = () => {
    if (run !== "") html += style === "" ? escape(run) : `<tspan style="${style}">${escape(run)}</tspan>`;
    run = "";
  };
  for (const cell of line) {
    if (cell.style !== style) flush(), style = cell.style;
    run += cell.character;
  }
  flush();
  return html.trimEnd();
}

function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
