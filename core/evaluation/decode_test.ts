import { assertEquals, assertThrows } from "@std/assert";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { parseFormatted } from "../data/formats.ts";
import { DataFormatError } from "../contracts/errors.ts";
import { FIXTURES, meteorData, read, readJsonLines } from "./_fixtures_test.ts";
import { bleu } from "./bleu.ts";
import { decodePredictions, e2eFiles, type EncodedPrediction, numberedFiles } from "./decode.ts";
import { loadCorpus, parseNumberedReferences, parsePredictions, parseReferences } from "./files.ts";
import { mtevalTokens } from "./mteval_tokens.ts";
import { scoreCorpus } from "./scores.ts";

const PIECES = JSON.parse(read("pipeline/gpt2_pieces.json")) as Record<number, string>;

function decode(ids: readonly number[]): string {
  const bytes = ids.flatMap((id) => Array.from(PIECES[id]!, (letter) => letter.charCodeAt(0)));
  return new TextDecoder().decode(Uint8Array.from(bytes));
}

for (const [name, missing] of [["e2e", "refuse"], ["e2e_edgetuner_partial", "drop"]] as const) {
  Deno.test(`decoding and scoring equals the reference: ${name} [slow]`, async () => {
    const instances = decodePredictions(
      parseFormatted(read("pipeline/e2e/input_formatted.jsonl")),
      readJsonLines<EncodedPrediction>(`pipeline/${name}/sample.jsonl`),
      { decode, missing },
    );
    const files = e2eFiles(instances);
    assertEquals(files.references, read(`pipeline/${name}/expected_ref.txt`));
    assertEquals(files.predictions, read(`pipeline/${name}/expected_pred.txt`));

    const corpus = await loadCorpus(
      `${FIXTURES}/pipeline/${name}/expected_ref.txt`,
      `${FIXTURES}/pipeline/${name}/expected_pred.txt`,
    );
    assertEquals(corpus.references, instances.map(({ references }) => references));
    const { BLEU, NIST, METEOR, ROUGE_L, CIDEr } = await scoreCorpus(corpus, { meteor: await meteorData() });
    const expected = JSON.parse(read(`pipeline/${name}/expected_scores.json`)).scores;
    assertClose(
      [BLEU, NIST, METEOR!, ROUGE_L, CIDEr],
      [expected.BLEU, expected.NIST, expected.METEOR_noparaphrase, expected.ROUGE_L, expected.CIDEr],
      TOLERANCE.score,
    );
  });
}

Deno.test("decoding and scoring equals the reference: dart", () => {
  const instances = decodePredictions(
    parseFormatted(read("pipeline/dart/input_formatted.jsonl")),
    readJsonLines<EncodedPrediction>("pipeline/dart/sample.jsonl"),
    { decode, lowerCase: true, tokenize: true },
  );
  const { references, predictions } = numberedFiles(instances, 6);
  references.forEach((text, k) =>
    assertEquals(text, read(`pipeline/dart/expected_references/reference${k}`))
  );
  assertEquals(predictions, read("pipeline/dart/expected_pred.txt"));
  // Moses' multi-bleu-detok: the same tokens, with capitals.
  const { score, referenceLength, totals } = bleu({
    references: parseNumberedReferences(references),
    predictions: parsePredictions(predictions),
  }, { tokenize: (text) => mtevalTokens(text, { caseSensitive: true }) });
  const { multi_bleu_detok } = JSON.parse(read("pipeline/dart/expected_scores.json"));
  const [, percent, hypothesis, reference] = /BLEU = ([\d.]+).*hyp_len=(\d+), ref_len=(\d+)/.exec(
    multi_bleu_detok,
  )!;
  assertEquals([(100 * score).toFixed(2), totals[0], referenceLength], [
    percent,
    Number(hypothesis),
    Number(reference),
  ]);
});

const LINES = [
  { prompt: "a", completion: " One\n\ntwo", cate: true },
  { prompt: "b", completion: "Three<|endoftext|>!", cate: false },
  { prompt: "a", completion: "isn't 1.5 É_x", cate: true },
];
const letters = (ids: readonly number[]): string => String.fromCharCode(...ids);
const ids = (text: string): number[] => Array.from(text, (letter) => letter.charCodeAt(0));

Deno.test("decodePredictions gathers equal prompts, ends texts and takes the last prediction", () => {
  const predictions = [
    { id: 2, predict: ids("later<|endoftext|>!!!") },
    { id: 1, predict: ids("  B\n\nmore") },
    { id: 0, predict: ids("\x1e Last \x85") },
  ];
  assertEquals(decodePredictions(LINES, predictions, { decode: letters }), [
    { prompt: "a", references: ["One", "isn't 1.5 É_x"], prediction: "Last" },
    { prompt: "b", references: ["Three"], prediction: "B" },
  ]);
  assertEquals(
    decodePredictions(LINES, predictions, {
      decode: letters,
      filter: "seen",
      lowerCase: true,
      tokenize: true,
    }),
    [{ prompt: "a", references: ["one", "isn ' t 1 . 5 é_x"], prediction: "last" }],
  );
});

Deno.test("decodePredictions ends texts at the tokens that end them", () => {
  const predictions = [{ id: 0, predict: ids("One</s>two") }, { id: 1, predict: ids("#") }];
  const [slash, hash] = ids("/#");
  const found = decodePredictions(LINES, predictions, { decode: letters, ends: [slash!, hash!] });
  assertEquals(found.map(({ prediction }) => prediction), ["One<", ""]);
});

Deno.test("decodePredictions refuses or drops prompts without prediction, and refuses unknown lines", () => {
  const one = [{ id: 1, predict: [] }];
  assertThrows(
    () => decodePredictions(LINES, one, { decode: letters }),
    DataFormatError,
    'there is none for "a"',
  );
  assertEquals(decodePredictions(LINES, one, { decode: letters, missing: "drop" }), [
    { prompt: "b", references: ["Three"], prediction: "" },
  ]);
  assertThrows(
    () => decodePredictions(LINES, [{ id: 3, predict: [] }], { decode: letters }),
    DataFormatError,
    "must be below 3, the number of lines: current value is 3",
  );
});

Deno.test("numberedFiles repeats the first reference and leaves out further ones", () => {
  const instances = decodePredictions(LINES, [{ id: 0, predict: [] }, { id: 1, predict: [] }], {
    decode: letters,
  });
  assertEquals(numberedFiles(instances, 1).references, ["One\nThree\n"]);
  assertEquals(numberedFiles(instances, 3).references, [
    "One\nThree\n",
    "isn't 1.5 É_x\nThree\n",
    "One\nThree\n",
  ]);
});

Deno.test("reference files are read as the reference tool does", () => {
  assertEquals(parseReferences("a\n b \n\nc\n\n"), [["a", "b"], ["c"]]);
  assertEquals(parseReferences("a\nb\n"), [["a"], ["b"]]);
  assertEquals(parseReferences("a\nb\n", 2), [["a"], ["b"]]);
  assertEquals(parseReferences("a\nb\n\n", 1), [["a", "b"]]);
  assertEquals(parseReferences("a\u2028b\r\n\r\nc"), [["a", "b"], ["c"]]);
  assertEquals(parsePredictions("a\n\nb\n"), ["a", "", "b"]);
  assertThrows(() => parseReferences("a\n\n\nb\n"), DataFormatError, "line 3");
  assertThrows(() => parseReferences(""), DataFormatError, "the text is empty");
  assertEquals(parseNumberedReferences(["a\nb\n", "c\n\n"]), [["a", "c"], ["b"]]);
  assertThrows(() => parseNumberedReferences(["a\n", "b\nc\n"]), DataFormatError, "there are 1 and 2");
  assertThrows(() => parseNumberedReferences(["a\n\n", "b\n\n"]), DataFormatError, "line 2");
});

Deno.test("line ends within texts become spaces, and such texts are counted", () => {
  const instances = [
    { prompt: "a", references: ["one\ntwo", "three"], prediction: "four\r\nfive\u2028six" },
    { prompt: "b", references: ["seven"], prediction: "eight" },
  ];
  const files = e2eFiles(instances);
  assertEquals(files, {
    references: "one two\nthree\n\nseven\n\n",
    predictions: "four five six\neight\n",
    joined: 2,
  });
  assertEquals(parsePredictions(files.predictions).length, instances.length);
  assertEquals(parseReferences(files.references), [["one two", "three"], ["seven"]]);
  assertEquals(numberedFiles(instances, 2), {
    references: ["one two\nseven\n", "three\nseven\n"],
    predictions: "four five six\neight\n",
    joined: 2,
  });
});
