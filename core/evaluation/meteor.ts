/**
 * METEOR: words of a prediction aligned with those of a reference, the same ones first, then of the same stem,
 * then synonyms.
 *
 * Denkowski and Lavie, "Meteor universal: language specific translation evaluation for any target language",
 * 2014 (METEOR 1.5, English, `-norm`), without its paraphrase table, which is 60 MB large: where that would
 * match, the official score is a little higher.
 *
 * @module
 */

import { stem } from "porter2";
import { checkCorpus, type Corpus, type ScoreWithSegments } from "./corpus.ts";
import type { MeteorData, Synonyms } from "./meteor_data.ts";
import { meteorWords } from "./meteor_words.ts";
import { ptbTexts } from "./ptb_tokens.ts";

/** Weight of recall in the mean. */
const ALPHA = 0.85;
/** Shape and weight of the penalty on many chunks. */
const BETA = 0.2;
const GAMMA = 0.6;
/** Weight of content words; function words have the rest. */
const DELTA = 0.75;
/** Matchers in their order: the same word, the same stem, synonyms. */
const MATCHER_WEIGHTS = [1, 0.6, 0.8] as const;
const EXACT = 0;
const STEM = 1;
const SYNONYM = 2;
const BEAM = 40;

/** What is known of a word, whatever text it is in. */
interface WordEntry {
  readonly word: string;
  readonly stem: string;
  readonly sets: ReadonlySet<number>;
  readonly isFunction: boolean;
}

/** A word of the prediction that may be aligned with a word of the reference. */
interface Candidate {
  readonly matcher: number;
  /** Index in the prediction. */
  readonly place: number;
}

/** What the score is computed from; sums over instances give the score of a corpus. */
class Statistics {
  /** Weighted and plain words of the prediction (0) and of the reference (1). */
  readonly weighted: [number, number] = [0, 0];
  readonly words: [number, number] = [0, 0];
  readonly matched: [number, number] = [0, 0];
  matches = 0;
  chunks = 0;

  /** Every word is matched, all in one chunk. */
  get isPerfect(): boolean {
    return this.matches === this.words[0] && this.matches === this.words[1] && this.chunks === 1;
  }

  add(other: Statistics): void {
    for (const side of [0, 1] as const) {
      this.weighted[side] += other.weighted[side];
      this.words[side] += other.words[side];
      this.matched[side] += other.matched[side];
    }
    this.matches += other.matches;
    if (!other.isPerfect) this.chunks += other.chunks;
  }

  get score(): number {
    const precision = this.matched[0] / this.weighted[0];
    const recall = this.matched[1] / this.weighted[1];
    const mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall);
    const fragmentation = this.isPerfect ? 0 : this.chunks / this.matches;
    const score = mean * (1 - GAMMA * fragmentation ** BETA);
    return Number.isNaN(score) ? 0 : score;
  }
}

/** Computes METEOR instance by instance, and of all instances so far. */
export class MeteorScorer {
  readonly #data: MeteorData;
  readonly #entries = new Map<string, WordEntry>();
  readonly #texts = new Map<string, readonly WordEntry[]>();
  readonly #sum = new Statistics();

  /**
   * @param data Word lists and synonyms.
   */
  constructor(data: MeteorData) {
    this.#data = data;
  }

  /** Score of all instances so far: of their summed statistics, not the mean of their scores. */
  get score(): number {
    return this.#sum.score;
  }

  /**
   * Scores an instance and counts it in.
   *
   * @param prediction Treebank tokens without punctuation, with spaces between them.
   * @param references The same of each reference.
   * @returns The score against the reference that gives the best one.
   */
  add(prediction: string, references: readonly string[]): number {
    const words = this.#words(prediction);
    let best: Statistics | undefined;
    for (const reference of references) {
      const statistics = compare(words, this.#words(reference));
      if (best === undefined || statistics.score > best.score) best = statistics;
    }
    this.#sum.add(best!);
    return best!.score;
  }

  #words(text: string): readonly WordEntry[] {
    let words = this.#texts.get(text);
    if (words === undefined) {
      words = meteorWords(text, this.#data.prefixes).map((word) => this.#entry(word));
      this.#texts.set(text, words);
    }
    return words;
  }

  #entry(word: string): WordEntry {
    let entry = this.#entries.get(word);
    if (entry === undefined) {
      entry = {
        word,
        stem: stem(word),
        sets: synonymSets(word, this.#data.synonyms),
        isFunction: this.#data.functionWords.has(word),
      };
      this.#entries.set(word, entry);
    }
    return entry;
  }
}

/**
 * Computes METEOR of a corpus.
 *
 * @param corpus The texts.
 * @param data Word lists and synonyms, from `loadMeteorData`.
 * @returns Scores in [0, 1].
 * @throws {RangeError} If the corpus cannot be scored.
 */
export function meteor(corpus: Corpus, data: MeteorData): ScoreWithSegments {
  checkCorpus("compute METEOR", corpus);
  const { references, predictions } = ptbTexts(corpus);
  const scorer = new MeteorScorer(data);
  const segments = predictions.map((prediction, i) => scorer.add(prediction, references[i]!));
  return { score: scorer.score, segments };
}

/** Suffixes of inflected forms and what stands there in the base form, in WordNet's order: nouns, verbs, adjectives. */
const SUFFIXES: readonly (readonly [suffix: string, ending: string])[] = [
  ["s", ""],
  ["ses", "s"],
  ["xes", "x"],
  ["zes", "z"],
  ["ches", "ch"],
  ["shes", "sh"],
  ["men", "man"],
  ["ies", "y"],
  ["s", ""],
  ["ies", "y"],
  ["es", "e"],
  ["es", ""],
  ["ed", "e"],
  ["ed", ""],
  ["ing", "e"],
  ["ing", ""],
  ["er", ""],
  ["est", ""],
  ["er", "e"],
  ["est", "e"],
];

/** The sets that a word or its base form is in. */
function synonymSets(word: string, { sets, bases }: Synonyms): ReadonlySet<number> {
  const forms = bases.get(word) ?? regularBase(word, sets);
  return new Set([word, ...forms].flatMap((form) => [...sets.get(form) ?? []]));
}

/** The first base form that WordNet knows. */
function regularBase(word: string, sets: Synonyms["sets"]): string[] {
  if (word.endsWith("ss") || word.length <= 2) return [word];
  for (const [suffix, ending] of SUFFIXES) {
    if (!word.endsWith(suffix)) continue;
    const base = word.slice(0, word.length - suffix.length) + ending;
    // The reference adds "ful" without having taken it off; no such form is known, so none is found.
    if (sets.has(base)) return word.endsWith("ful") ? [`${base}ful`] : [base];
  }
  return [];
}

function compare(prediction: readonly WordEntry[], reference: readonly WordEntry[]): Statistics {
  const statistics = new Statistics();
  const weight = (entry: WordEntry): number => entry.isFunction ? 1 - DELTA : DELTA;
  [prediction, reference].forEach((words, side) => {
    statistics.words[side as 0 | 1] = words.length;
    for (const entry of words) statistics.weighted[side as 0 | 1] += weight(entry);
  });
  let previous = -1;
  align(prediction, reference).forEach((match, place) => {
    if (match !== null) {
      const factor = MATCHER_WEIGHTS[match.matcher]!;
      statistics.matches += 1;
      statistics.matched[0] += factor * weight(prediction[match.place]!);
      statistics.matched[1] += factor * weight(reference[place]!);
      if (previous === -1 || match.place !== previous + 1) statistics.chunks += 1;
    }
    previous = match?.place ?? -1;
  });
  return statistics;
}

/**
 * All candidates of each word of the reference, in the order of the matchers, then of the prediction. Equal words of the
 * reference share a list, so memory does not grow with the product of both lengths.
 */
function findCandidates(
  prediction: readonly WordEntry[],
  reference: readonly WordEntry[],
): readonly (readonly Candidate[])[] {
  const isSame = prediction.length === reference.length && prediction.every((e, i) => e === reference[i]);
  const places = new Map<WordEntry, number[]>();
  prediction.forEach((entry, place) => {
    const known = places.get(entry);
    if (known === undefined) places.set(entry, [place]);
    else known.push(place);
  });
  const all = (entries: readonly WordEntry[], matcher: number): Candidate[] =>
    entries.flatMap((entry) => places.get(entry)!).sort((a, b) => a - b).map((place) => ({ matcher, place }));
  const found = new Map<WordEntry, readonly Candidate[]>();
  for (const target of new Set(reference)) {
    const others = isSame ? [] : [...places.keys()].filter((entry) => entry !== target);
    found.set(target, [
      ...all(places.has(target) ? [target] : [], EXACT),
      ...all(others.filter((entry) => entry.stem === target.stem), STEM),
      ...all(others.filter((entry) => !entry.sets.isDisjointFrom(target.sets)), SYNONYM),
    ]);
  }
  return reference.map((target) => found.get(target)!);
}

/** Candidates that a path has taken where there was a choice, from the last one back. */
interface Taken {
  readonly current: number;
  readonly match: Candidate;
  readonly before: Taken | null;
}

/** What paths are ranked by. */
interface Rank {
  /** Matches of the same word: the others count nothing in the search. */
  exact: number;
  chunks: number;
  distance: number;
}

/** A partial alignment: the reference up to some word. */
interface Path extends Rank {
  /** The candidates taken where there was a choice. */
  readonly taken: Taken | null;
  /** A bit for each word of the prediction: 1 if it is taken. */
  readonly used: Uint32Array;
  /** Place after the last match in the prediction if the word before was matched, otherwise -1. */
  next: number;
}

const isUsed = (used: Uint32Array, place: number): boolean => (used[place >>> 5]! >>> (place & 31) & 1) === 1;

/** A copy in which a place is taken. */
function withPlace(used: Uint32Array, place: number): Uint32Array {
  const copy = used.slice();
  copy[place >>> 5]! |= 1 << (place & 31);
  return copy;
}

/** The best paths so far, best first, of equals the one that came first. */
class Beam {
  readonly paths: Path[] = [];

  /** True if such a path would be among the best. */
  takes(rank: Rank): boolean {
    return this.paths.length < BEAM || byRank(rank, this.paths[BEAM - 1]!) < 0;
  }

  add(path: Path): void {
    const { paths } = this;
    if (!this.takes(path)) return;
    let at = paths.length;
    while (at > 0 && byRank(path, paths[at - 1]!) < 0) at--;
    paths.splice(at, 0, path);
    if (paths.length > BEAM) paths.pop();
  }
}

/**
 * Aligns two texts: each word with at most one of the other text.
 *
 * @returns The candidate taken for each word of the reference.
 */
function align(
  prediction: readonly WordEntry[],
  reference: readonly WordEntry[],
): readonly (Candidate | null)[] {
  const candidates = findCandidates(prediction, reference);
  const claims = new Array<number>(prediction.length).fill(0);
  for (const [list, count] of countsOf(candidates)) for (const { place } of list) claims[place]! += count;
  const fixed = candidates.map((list) => list.length === 1 && claims[list[0]!.place] === 1 ? list[0]! : null);
  let used: Uint32Array = new Uint32Array((prediction.length + 31) >>> 5);
  for (const match of fixed) if (match !== null) used = withPlace(used, match.place);

  let paths: Path[] = [{ taken: null, used, exact: 0, chunks: 0, distance: 0, next: -1 }];
  for (let current = 0; current < reference.length; current++) {
    const extended = new Beam();
    const match = fixed[current]!;
    for (const path of paths) {
      if (match !== null) {
        path.distance += Math.abs(current - match.place);
        extended.add(Object.assign(path, ranked(path, match), { next: match.place + 1 }));
      } else extend(path, { current, candidates: candidates[current]!, extended });
    }
    paths = extended.paths;
  }
  for (const path of paths) closeChunk(path);
  const best = paths.sort(byRank)[0]!;
  for (let t = best.taken; t !== null; t = t.before) fixed[t.current] = t.match;
  return fixed;
}

/** All ways in which a path may go on at a word, the one without a match last. */
function extend(
  path: Path,
  { current, candidates, extended }: {
    readonly current: number;
    readonly candidates: readonly Candidate[];
    readonly extended: Beam;
  },
): void {
  for (const match of candidates) {
    if (isUsed(path.used, match.place)) continue;
    const rank = ranked(path, match);
    // Most paths are not among the best: nothing is copied for those.
    if (extended.takes(rank)) {
      const taken = { current, match, before: path.taken };
      extended.add({ ...rank, taken, used: withPlace(path.used, match.place), next: match.place + 1 });
    }
    // Not on the copy: the reference charges those that come after, which decides rare ties.
    path.distance += Math.abs(current - match.place);
  }
  closeChunk(path);
  extended.add(path);
}

/** The rank of a path with one more match. */
function ranked(path: Path, match: Candidate): Rank {
  return {
    exact: path.exact + (match.matcher === EXACT ? 1 : 0),
    chunks: path.chunks + (path.next !== -1 && match.place !== path.next ? 1 : 0),
    distance: path.distance,
  };
}

/** How often each list occurs. */
function countsOf<T>(lists: readonly T[]): Map<T, number> {
  const counts = new Map<T, number>();
  for (const list of lists) counts.set(list, (counts.get(list) ?? 0) + 1);
  return counts;
}

function byRank(a: Rank, b: Rank): number {
  return b.exact - a.exact || a.chunks - b.chunks || a.distance - b.distance;
}

function closeChunk(path: Path): void {
  if (path.next !== -1) path.chunks += 1;
  path.next = -1;
}
