/**
 * Trains a byte-level BPE tokenizer in the manner of GPT-2.
 *
 * @module
 */

/** GPT-2's way to cut text into words: contractions, words, numbers and signs with a space before, spaces. */
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** A word of the training text: its symbols so far and how often it occurs. */
interface Word {
  symbols: number[];
  readonly count: number;
}

/** A trained byte-level BPE model. */
export interface BpeModel {
  /** The entries; the place is the id: 256 bytes, then one for each merge. */
  readonly tokens: readonly string[];
  /** Pairs of tokens in the order in which they are merged. */
  readonly merges: readonly (readonly [left: string, right: string])[];
}

/**
 * GPT-2's alphabet: a visible character for each byte. Bytes that are printable in Latin-1 stand for
 * themselves, the others follow from U+0100 on.
 *
 * @returns The character of each byte, shape [256].
 */
export function byteCharacters(): string[] {
  const characters: string[] = [];
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    characters.push(String.fromCodePoint(printable ? byte : next++));
  }
  return characters;
}

/**
 * Learns merges: again and again the most frequent pair of neighbours inside words becomes one token. Of
 * equally frequent pairs the one with the lower left id is taken, then the one with the lower right id, so
 * that the same text always gives the same model.
 *
 * @param documents The training text.
 * @param size How many tokens the model has, the 256 bytes included.
 * @returns The model; it is smaller than `size` if the text has nothing more to merge.
 * @throws {RangeError} If `size` is below 256.
 */
export function trainBpe(documents: Iterable<string>, size: number): BpeModel {
  if (!Number.isInteger(size) || size < 256) {
    throw new RangeError(
      `Cannot train BPE as 'size' must be an integer of at least 256: current value is ${size}`,
    );
  }
  const byByte = byteCharacters();
  const tokens = byByte.toSorted();
  const idOfByte = byByte.map((character) => tokens.indexOf(character));
  const words = countWords(documents, idOfByte);

  // How often each pair occurs, and in which words it may be found (a word is never taken off this list).
  const counts = new Map<number, number>();
  const places = new Map<number, Set<number>>();
  const change = (word: number, left: number, right: number, by: number) => {
    const key = left * size + right;
    counts.set(key, (counts.get(key) ?? 0) + by);
    if (by < 0) return;
    const found = places.get(key);
    if (found === undefined) places.set(key, new Set([word]));
    else found.add(word);
  };
  const changeAll = (index: number, sign: number) => {
    const { symbols, count } = words[index]!;
    for (let i = 1; i < symbols.length; i++) change(index, symbols[i - 1]!, symbols[i]!, sign * count);
  };
  words.forEach((_, index) => changeAll(index, 1));

  const merges: (readonly [string, string])[] = [];
  while (tokens.length < size) {
    let best = -1;
    let bestCount = 0;
    for (const [key, count] of counts) {
      if (count > bestCount || (count === bestCount && count > 0 && key < best)) {
        best = key;
        bestCount = count;
      }
    }
    if (best < 0) break;
    const left = Math.floor(best / size), right = best % size;
    for (const index of places.get(best)!) {
      changeAll(index, -1);
      merge(words[index]!.symbols, left, right, tokens.length);
      changeAll(index, 1);
    }
    merges.push([tokens[left]!, tokens[right]!]);
    tokens.push(tokens[left]! + tokens[right]!);
  }
  return { tokens, merges };
}

function countWords(documents: Iterable<string>, idOfByte: readonly number[]): Word[] {
  const counts = new Map<string, number>();
  for (const document of documents) {
    for (const [word] of document.matchAll(WORDS)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  const encoder = new TextEncoder();
  return [...counts].map(([word, count]) => ({
    symbols: Array.from(encoder.encode(word), (byte) => idOfByte[byte]!),
    count,
  }));
}

/** Replaces each `left`, `right` by `merged`, from the left, in place. */
function merge(symbols: number[], left: number, right: number, merged: number): void {
  let to = 0;
  for (let from = 0; from < symbols.length; from++, to++) {
    if (symbols[from] === left && symbols[from + 1] === right) {
      symbols[to] = merged;
      from++;
    } else {
      symbols[to] = symbols[from]!;
    }
  }
  symbols.length = to;
}

/**
 * Writes a model in the form of Hugging Face's `tokenizer.json`, as GPT-2's own file has it, with one
 * special token after the others.
 *
 * @param model The model.
 * @param special The special token, `<|endoftext|>` for GPT-2.
 * @returns The text of the file.
 */
export function tokenizerJson({ tokens, merges }: BpeModel, special: string): string {
  const vocab = Object.fromEntries([...tokens, special].map((token, id) => [token, id]));
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const file = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [{
      id: tokens.length,
      content: special,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    }],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges: merges.map(([left, right]) => `${left} ${right}`),
    },
  };
  return JSON.stringify(file, null, 1) + "\n";
}
