/**
 * Texts as Python has them: by characters and not by UTF-16 units, with Python's white space.
 *
 * @module
 */

/** Python's white space, as the inside of a character class. */
export const SPACE_CLASS =
  "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

const EDGE_SPACES = {
  start: new RegExp(`^[${SPACE_CLASS}]+`, "u"),
  end: new RegExp(`[${SPACE_CLASS}]+$`, "u"),
};
const SPACES = new RegExp(`[${SPACE_CLASS}]+`, "u");
/** Ends of lines. */
const BREAK_CLASS = "\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029";
const LINES = new RegExp(`\\r\\n|[${BREAK_CLASS}]`, "u");

/** Number of characters. */
export function lengthOf(text: string): number {
  let length = 0;
  for (const _ of text) length++;
  return length;
}

/** A text without the characters of a set, or white space, at its start, its end or both. */
export function strip(text: string, side: "start" | "end" | "both", set: string | null = null): string {
  if (set === null) {
    // The pattern for the end would try every place of a long run of spaces.
    const end = side === "start" ? text.length : endOfText(text);
    const rest = text.slice(0, end);
    return side === "end" ? rest : rest.replace(EDGE_SPACES.start, "");
  }
  const characters = new Set(set);
  const all = [...text];
  let start = 0;
  let end = all.length;
  if (side !== "end") { while (start < end && characters.has(all[start]!)) start++; }
  if (side !== "start") { while (end > start && characters.has(all[end - 1]!)) end--; }
  return all.slice(start, end).join("");
}

/** Where the white space at the end of a text begins. */
function endOfText(text: string): number {
  let end = text.length;
  while (end > 0 && EDGE_SPACES.end.test(text[end - 1]!)) end--;
  return end;
}

/** Words between white space, at most so many cuts; from the right if asked for. */
export function splitWords(text: string, most: number, from: "left" | "right"): string[] {
  const fromRight = from === "right";
  const words: string[] = [];
  let rest = strip(text, "both");
  while (rest !== "" && (most < 0 || words.length < most)) {
    const match = fromRight ? lastSpaces(rest) : SPACES.exec(rest);
    if (match === null) break;
    const { index, 0: found } = match;
    words.push(fromRight ? rest.slice(index + found.length) : rest.slice(0, index));
    rest = fromRight ? rest.slice(0, index) : rest.slice(index + found.length);
  }
  if (rest !== "") words.push(rest);
  // What is left of a text that was cut often enough keeps the white space on its other side.
  if (words.length > 0 && most >= 0) {
    const last = words.length - 1;
    if (last === most && last >= 0) {
      const side = fromRight ? strip(text, "end") : strip(text, "start");
      words[last] = fromRight ? leadOf(text) + words[last]! : words[last]! + side.slice(endOfText(side));
    }
  }
  return fromRight ? words.reverse() : words;
}

function leadOf(text: string): string {
  return EDGE_SPACES.start.exec(text)?.[0] ?? "";
}

function lastSpaces(text: string): { readonly index: number; readonly 0: string } | null {
  let end = text.length;
  while (end > 0 && !EDGE_SPACES.end.test(text[end - 1]!)) end--;
  if (end === 0) return null;
  const index = endOfText(text.slice(0, end));
  return { index, 0: text.slice(index, end) };
}

/** Parts between a separator, at most so many cuts; from the right if asked for. */
export function splitBy(text: string, separator: string, most: number, from: "left" | "right"): string[] {
  const parts = text.split(separator);
  if (most < 0 || parts.length <= most + 1) return parts;
  return from === "right"
    ? [parts.slice(0, parts.length - most).join(separator), ...parts.slice(parts.length - most)]
    : [...parts.slice(0, most), parts.slice(most).join(separator)];
}

/** Lines, with their breaks or without. */
export function splitLines(text: string, breaks: "keep" | "drop" = "drop"): string[] {
  const lines: string[] = [];
  let rest = text;
  for (let match = LINES.exec(rest); match !== null; match = LINES.exec(rest)) {
    const end = match.index + match[0].length;
    lines.push(rest.slice(0, breaks === "keep" ? end : match.index));
    rest = rest.slice(end);
  }
  if (rest !== "") lines.push(rest);
  return lines;
}

/** The first character as a capital or title letter; others small. `null` if that is not known. */
export function capitalized(text: string): string | null {
  if (text === "") return "";
  const [first = ""] = text;
  const rest = text.slice(first.length).toLowerCase();
  const upper = first.toUpperCase();
  if (/[\u01c4-\u01cc\u01f1-\u01f3\u1f80-\u1fff]/u.test(first)) return null;
  // Letters of two capitals have one of them as a title letter.
  return (lengthOf(upper) === 1 ? upper : [...upper][0]! + [...upper].slice(1).join("").toLowerCase()) + rest;
}

/** Compares by characters, as Python does. */
export function compareText(a: string, b: string): number {
  if (a === b) return 0;
  const [left, right] = [a[Symbol.iterator](), b[Symbol.iterator]()];
  while (true) {
    const [x, y] = [left.next(), right.next()];
    if (x.done || y.done) return Number(!x.done) - Number(!y.done);
    const difference = x.value.codePointAt(0)! - y.value.codePointAt(0)!;
    if (difference !== 0) return difference;
  }
}
