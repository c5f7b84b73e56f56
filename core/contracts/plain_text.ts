/**
 * Text that a peer or a file gave, made fit to be shown: in errors, logs, events and on a terminal.
 *
 * @module
 */

/** Most characters of a peer's words that are kept. */
export const MAX_PEER_TEXT = 200;

const ESCAPE = String.fromCharCode(0x1b);
const BELL = String.fromCharCode(0x07);
/** Whole escape sequences of terminals (CSI, OSC and the short ones), so that no rest of one stays behind. */
const ESCAPES = new RegExp(
  [
    `(?:${ESCAPE}\\[|\u009b)[0-?]*[ -/]*[@-~]?`,
    `${ESCAPE}\\][^${BELL}${ESCAPE}\u009c]*(?:${BELL}|${ESCAPE}\\\\|\u009c)?`,
    `${ESCAPE}[ -/]*[0-~]?`,
  ].join("|"),
  "g",
);
/** Line breaks and other white space that is not a plain space. */
const BREAKS = /[\t\n\v\f\r\u0085\u2028\u2029]+/g;
/** Control characters, and characters without a shape: marks that turn the direction of text round, for one. */
const INVISIBLE = /[\p{Cc}\p{Cf}]/gu;

/**
 * A text without control characters, terminal escapes and marks that change the direction of reading, cut
 * to a length. Line breaks become spaces.
 *
 * @param text What a peer said.
 * @param max Most characters (UTF-16 units) of the result. @default {200}
 */
export function plainText(text: string, max: number = MAX_PEER_TEXT): string {
  // The rest of a long text is not even looked at: what is taken out of the start rarely matters.
  const plain = text.slice(0, 8 * max).toWellFormed().replace(ESCAPES, "").replace(BREAKS, " ")
    .replace(INVISIBLE, "");
  if (plain.length <= max && text.length <= 8 * max) return plain;
  // The cut must not leave half a character.
  return `${plain.slice(0, max - 3).replace(/[\ud800-\udbff]$/, "")}...`;
}

/** Values that are shown of a list or an object. */
const SHOWN = 8;
/** Lists and objects within each other that are shown; a loop has no end. */
const SHOWN_DEPTH = 3;

/**
 * A value that a peer or a file gave, as errors show it: its JSON on one plain line, of large ones the beginning.
 * Takes what JSON has no word for, and loops.
 *
 * @param value Anything.
 * @param max Most characters of the result. @default {80}
 */
export function showValue(value: unknown, max = 80): string {
  return value === undefined ? "missing" : plainText(shown(value, 0, max), max);
}

/** Names as errors offer them: `"a", "b" or "c"`. */
export function alternatives(names: readonly string[]): string {
  return names.map((name) => JSON.stringify(name)).join(", ").replace(/, ("[^"]*")$/, " or $1");
}

function shown(value: unknown, depth: number, max: number): string {
  // Four characters may become one.
  if (typeof value === "string") return JSON.stringify(value.slice(0, 4 * max));
  if (ArrayBuffer.isView(value)) return `${value.byteLength} bytes`;
  if (typeof value !== "object" || value === null) return String(value);
  if (depth > SHOWN_DEPTH) return "...";
  if (Array.isArray(value)) {
    const texts = value.slice(0, SHOWN).map((item) => shown(item, depth + 1, max));
    return `[${value.length > SHOWN ? [...texts, "..."] : texts}]`;
  }
  const texts: string[] = [];
  for (const key in value) {
    if (!Object.hasOwn(value, key)) continue;
    if (texts.length === SHOWN) {
      texts.push("...");
      break;
    }
    const part = shown((value as Record<string, unknown>)[key], depth + 1, max);
    texts.push(`${JSON.stringify(key.slice(0, max))}:${part}`);
  }
  return `{${texts}}`;
}
