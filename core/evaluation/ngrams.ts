/**
 * Counts of n-grams: runs of n tokens, written with spaces between them.
 *
 * @module
 */

/** Adds the n-grams of a text to counts. */
export function addNgrams(tokens: readonly string[], n: number, counts: Map<string, number>): void {
  for (let i = 0; i + n <= tokens.length; i++) {
    const ngram = n === 1 ? tokens[i]! : tokens.slice(i, i + n).join(" ");
    counts.set(ngram, (counts.get(ngram) ?? 0) + 1);
  }
}

/** Counts of all n-grams of a text for one n. */
export function countNgrams(tokens: readonly string[], n: number): Map<string, number> {
  const counts = new Map<string, number>();
  addNgrams(tokens, n, counts);
  return counts;
}

/** For each n-gram the largest count in any one text. */
export function largestCounts(texts: readonly (readonly string[])[], n: number): Map<string, number> {
  const largest = new Map<string, number>();
  for (const tokens of texts) {
    for (const [ngram, count] of countNgrams(tokens, n)) {
      if (count > (largest.get(ngram) ?? 0)) largest.set(ngram, count);
    }
  }
  return largest;
}
