import type { RandomStream } from "@edgetuner/core";

/** Draws one entry. */
export function pick<T>(items: readonly T[], random: RandomStream): T {
  return items[random.below(items.length)]!;
}

/** Draws one entry by weight. */
export function pickWeighted<T>(items: readonly (readonly [T, number])[], random: RandomStream): T {
  let rest = random.float() * items.reduce((sum, [, weight]) => sum + weight, 0);
  for (const [item, weight] of items) {
    rest -= weight;
    if (rest < 0) return item;
  }
  return items[items.length - 1]![0];
}

/**
 * Fills a template: `(a|b|)` is one of the alternatives (they may nest), `{slot}` is a value. Then spaces
 * are collapsed, "a" becomes "an" before a vowel, and sentences start with a capital letter.
 */
export function fill(
  template: string,
  slots: Readonly<Record<string, string>>,
  random: RandomStream,
): string {
  let text = template;
  const innermost = /\(([^()]*)\)/;
  for (let found = innermost.exec(text); found !== null; found = innermost.exec(text)) {
    const choice = pick(found[1]!.split("|"), random);
    text = text.slice(0, found.index) + choice + text.slice(found.index + found[0].length);
  }
  text = text.replace(/\{(\w+)\}/g, (_, slot: string) => {
    const value = slots[slot];
    if (value === undefined) {
      throw new RangeError(`Cannot fill a template as it names no known slot: current value is "${slot}"`);
    }
    return value;
  });
  return text
    .replace(/ +/g, " ")
    .replace(/ ([,.?!])/g, "$1")
    .replace(/\b([Aa]) (?=[AEIOaeio])/g, "$1n ")
    .trim()
    .replace(/(^|[.?!] )([a-z])/g, (_, before: string, letter: string) => before + letter.toUpperCase());
}
