import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { FIXTURES, meteorData, read, readJsonLines } from "./_fixtures_test.ts";
import { bleu, nist } from "./bleu.ts";
import { cider } from "./cider.ts";
import type { Corpus } from "./corpus.ts";
import { meteor } from "./meteor.ts";
import { mtevalTokens } from "./mteval_tokens.ts";
import { ptbTexts, ptbTokens } from "./ptb_tokens.ts";
import { rougeL } from "./rouge_l.ts";
import { type CorpusScores, scoreCorpus, type Scores } from "./scores.ts";

interface ReferenceScores {
  BLEU: number;
  NIST: number | null;
  METEOR_noparaphrase: number;
  ROUGE_L: number;
  CIDEr: number;
}

interface Case {
  refs: string[][];
  preds: string[];
  scores: ReferenceScores;
  bleu_counters: { hits: number[]; cand_lens: number[]; ref_len: number };
  segments: (ReferenceScores & { sentBLEU: number })[];
}

const METEOR = await meteorData();

/** Values in a fixed order; what the reference fails at is 0 here, after NaN has been asserted for us. */
function values(scores: Scores, expected: ReferenceScores): number[] {
  if (expected.NIST === null) assertEquals(scores.NIST, NaN);
  return [
    scores.BLEU,
    expected.NIST === null ? 0 : scores.NIST,
    scores.METEOR!,
    scores.ROUGE_L,
    scores.CIDEr,
  ];
}

function expectedValues(expected: ReferenceScores): number[] {
  return [expected.BLEU, expected.NIST ?? 0, expected.METEOR_noparaphrase, expected.ROUGE_L, expected.CIDEr];
}

function assertScores(scores: CorpusScores, expected: Case): void {
  const { segments } = expected;
  assertClose(
    values(scores, expected.scores),
    expectedValues(expected.scores),
    TOLERANCE.score,
    "BLEU, NIST, METEOR, ROUGE-L, CIDEr",
  );
  assertClose(
    scores.segments.flatMap((segment, i) => values(segment, segments[i]!)),
    segments.flatMap(expectedValues),
    TOLERANCE.score,
    "scores of the instances",
  );
}

for (
  const { name } of [...Deno.readDirSync(`${FIXTURES}/metrics`)].sort((a, b) => a.name < b.name ? -1 : 1)
) {
  Deno.test(`scoreCorpus gives the reference's scores: ${name.replace(".json", "")} [slow]`, async () => {
    const expected = JSON.parse(read(`metrics/${name}`)) as Case;
    const corpus = { references: expected.refs, predictions: expected.preds };
    assertScores(await scoreCorpus(corpus, { meteor: METEOR }), expected);
    const { hits, totals, referenceLength } = bleu(corpus);
    const { hits: expectedHits, cand_lens, ref_len } = expected.bleu_counters;
    assertEquals({ hits, totals, referenceLength }, {
      hits: expectedHits,
      totals: cand_lens,
      referenceLength: ref_len,
    });
    const smooth = expected.preds.map((prediction, i) =>
      bleu({ references: [expected.refs[i]!], predictions: [prediction] }, { smooth: true }).score
    );
    assertClose(smooth, expected.segments.map(({ sentBLEU }) => sentBLEU), TOLERANCE.score, "smoothed BLEU");
  });
}

interface Tokens {
  text: string;
  ptb: string;
  coco: string;
  mteval: string[];
}

Deno.test("texts have the reference's tokens", () => {
  for (const { text, ptb, coco, mteval } of readJsonLines<Tokens>("tokens/tokens.jsonl")) {
    assertEquals(mtevalTokens(text), mteval);
    assertEquals(ptbTexts({ references: [[text]], predictions: [""] }).references, [[coco]]);
    // Which way a dropped quote turns and whether an abbreviation has a second full stop is not told apart.
    const plain = (tokens: string[]): string[] => tokens.map((t) => /^(?:``?|''?)$/.test(t) ? "'" : t);
    const marks = plain(ptbTokens(text)[0]!).filter((token) => token !== ".");
    assertEquals(marks, plain(ptb.split(" ")).filter((token) => token !== "." && token !== ""));
  }
});

Deno.test("marks, years in short and addresses have the reference's tokens", () => {
  const rows = readJsonLines<{ text: string; ptb: string }>("tokens/marks.jsonl");
  const found = ptbTokens(`${rows.map(({ text }) => text).join("\n")}\n`);
  const told = (tokens: readonly string[]) =>
    tokens.filter((token) => token !== "." && token !== "").map((t) => /^(?:``?|''?)$/.test(t) ? "'" : t)
      .join(" ");
  // Quotes round a single n are the one thing that is known to differ.
  const known = /’n't/;
  rows.forEach(({ text, ptb }, i) => {
    if (!known.test(text)) assertEquals(told(found[i]!), told(ptb.split(" ")), text);
  });
});

Deno.test("the scanner looks at the next line after a single letter, and keeps lines apart", () => {
  assertEquals(ptbTokens("It is B.\nThe pub"), [["it", "is", "b", "."], ["the", "pub"]]);
  assertEquals(ptbTokens("It is B.\na pub"), [["it", "is", "b."], ["a", "pub"]]);
  assertEquals(ptbTokens("\n\nx"), [[], [], ["x"]]);
});

Deno.test("a line end inside a text does not shift the others", () => {
  const { references, predictions } = ptbTexts({
    references: [["a\nb", "c"], ["d"]],
    predictions: ["e\r\nf", "g"],
  });
  assertEquals(references, [["a b", "c"], ["d"]]);
  assertEquals(predictions, ["e f", "g"]);
});

const EMPTY: Corpus = { references: [["A pub .", "It is a pub ."], ["Cheap food ."]], predictions: ["", ""] };

Deno.test("empty predictions score nothing", async () => {
  const scores = await scoreCorpus(EMPTY, { meteor: METEOR });
  const { METEOR: meteorScore, ROUGE_L, CIDEr } = scores;
  assertEquals({ meteorScore, ROUGE_L, CIDEr }, { meteorScore: 0, ROUGE_L: 0, CIDEr: 0 });
  assertEquals(scores.BLEU < 1e-6, true);
  assertEquals(scores.segments.length, 2);
});

Deno.test("a single instance that equals its reference scores full marks, but nothing is rare", async () => {
  const text = "Café Brazil – “the” pub – costs £20-25, isn’t it?";
  const scores = await scoreCorpus({ references: [[text]], predictions: [text] }, { meteor: METEOR });
  assertClose([scores.BLEU, scores.METEOR!, scores.ROUGE_L, scores.CIDEr], [1, 1, 1, 0], TOLERANCE.score);
});

Deno.test("scoreCorpus leaves METEOR out without its data", async () => {
  const scores = await scoreCorpus(EMPTY);
  assertEquals([scores.METEOR, scores.segments[0]!.METEOR], [null, null]);
});

Deno.test("scoreCorpus tells how far it is, and stops when asked", async () => {
  const corpus = {
    references: Array<string[]>(40).fill(["a b"]),
    predictions: Array<string>(40).fill("a b"),
  };
  const done: number[] = [];
  await scoreCorpus(corpus, { meteor: METEOR, onProgress: (count) => done.push(count) });
  assertEquals(done, [0, 16, 32, 40]);
  const controller = new AbortController();
  const error = await assertRejects(
    () =>
      scoreCorpus(corpus, {
        meteor: METEOR,
        signal: controller.signal,
        onProgress: () => controller.abort(),
      }),
    DOMException,
  );
  assertEquals(error.name, "AbortError");
});

Deno.test("words of the same stem and synonyms count less than the same words, and only with METEOR's data", () => {
  const score = (prediction: string, reference: string): number =>
    meteor({ references: [[reference]], predictions: [prediction] }, METEOR).score;
  const same = score("a cheap restaurant", "a cheap restaurant");
  const stem = score("a cheap restaurants", "a cheap restaurant");
  const synonym = score("an inexpensive restaurant", "a cheap restaurant");
  const other = score("an xyz restaurant", "a cheap restaurant");
  assertEquals([same === 1, same > stem, stem > other, synonym > other], [true, true, true, true]);
});

Deno.test("METEOR takes texts of thousands of words in time and memory that do not grow with their square", () => {
  const words = read("metrics/" + [...Deno.readDirSync(`${FIXTURES}/metrics`)][0]!.name).match(/[a-z]+/g)!;
  const text = (first: number) =>
    Array.from({ length: 1200 }, (_, i) => words[(first + i) % words.length]).join(" ");
  const started = performance.now();
  const { score } = meteor({ references: [[text(0)]], predictions: [text(700)] }, METEOR);
  assertEquals(score > 0.1 && score < 1, true);
  // Less than a second; copies of every path took a minute.
  assertEquals(performance.now() - started < 10_000, true);
});

const BAD: readonly (readonly [what: string, corpus: Corpus, message: string])[] = [
  ["no instance", { references: [], predictions: [] }, "at least one prediction: there is none"],
  [
    "too few predictions",
    { references: [["a"], ["b"]], predictions: ["a"] },
    "2 instances and 1 predictions",
  ],
  [
    "an instance without reference",
    { references: [["a"], []], predictions: ["a", "b"] },
    "instance 2 has none",
  ],
];

for (const [what, corpus, message] of BAD) {
  Deno.test(`scores refuse ${what}`, async () => {
    for (const score of [bleu, nist, rougeL, cider]) assertThrows(() => score(corpus), RangeError, message);
    assertThrows(() => meteor(corpus, METEOR), RangeError, message);
    await assertRejects(() => scoreCorpus(corpus), RangeError, message);
  });
}
