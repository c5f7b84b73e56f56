/**
 * What cutting texts into tokens needs: a queue by rank, and finding tokens in a text.
 *
 * @module
 */

/** Gives its items back in order. */
export class Heap<T> {
  readonly #items: T[] = [];
  readonly #isBefore: (a: T, b: T) => boolean;

  /** @param isBefore Whether the first of two comes out before the second. */
  constructor(isBefore: (a: T, b: T) => boolean) {
    this.#isBefore = isBefore;
  }

  push(item: T): void {
    const items = this.#items;
    let at = items.push(item) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#isBefore(item, items[parent]!)) break;
      items[at] = items[parent]!;
      at = parent;
    }
    items[at] = item;
  }

  pop(): T | undefined {
    const items = this.#items;
    const first = items[0];
    const last = items.pop();
    if (last === undefined || items.length === 0) return first;
    let at = 0;
    for (let child = 1; child < items.length; child = 2 * at + 1) {
      if (child + 1 < items.length && this.#isBefore(items[child + 1]!, items[child]!)) child++;
      if (!this.#isBefore(items[child]!, last)) break;
      items[at] = items[child]!;
      at = child;
    }
    items[at] = last;
    return first;
  }
}

type Branch = Map<number, Branch> & { isEnd?: boolean };

/** Finds tokens in texts: the leftmost first, and of several there the longest. */
export class TokenSplitter {
  readonly #root: Branch = new Map();

  constructor(tokens: Iterable<string>) {
    for (const token of tokens) {
      let branch = this.#root;
      for (let i = 0; i < token.length; i++) {
        const unit = token.charCodeAt(i);
        let next = branch.get(unit);
        if (next === undefined) branch.set(unit, next = new Map() as Branch);
        branch = next;
      }
      branch.isEnd = true;
    }
  }

  /** The text in pieces: tokens, and what is between them. */
  split(text: string): string[] {
    const parts: string[] = [];
    let start = 0;
    for (let at = 0; at < text.length;) {
      const end = this.#endOf(text, at);
      if (end === at) at++;
      else {
        if (start < at) parts.push(text.slice(start, at));
        parts.push(text.slice(at, end));
        start = at = end;
      }
    }
    if (start < text.length) parts.push(text.slice(start));
    return parts;
  }

  #endOf(text: string, start: number): number {
    let end = start;
    let branch: Branch | undefined = this.#root;
    for (let at = start; branch !== undefined; at++) {
      if (branch.isEnd) end = at;
      branch = branch.get(text.charCodeAt(at));
    }
    return end;
  }
}
