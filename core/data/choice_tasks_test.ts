import { assertEquals, assertThrows } from "@std/assert";
import { DataFormatError } from "../contracts/errors.ts";
import {
  encodeRequest,
  openBookQaQuestion,
  parseOpenBookQa,
  parseWinogrande,
  winograndeQuestion,
} from "./choice_tasks.ts";

const read = (path: string): string =>
  Deno.readTextFileSync(new URL(`../../tests/fixtures/eval/choice/${path}`, import.meta.url));

/** Words with the space before them, as byte-pair tokenizers cut; "ab" is one token where "a" and "b" meet. */
const words = {
  vocabSize: 1 << 16,
  eos: 0,
  bos: null,
  encode: (text: string) => (text.match(/ab|\s?[^\s]/g) ?? []).map((w) => w.charCodeAt(0) * 256 + w.length),
  decode: () => "",
};

Deno.test("both layouts of OpenBookQA give the same questions", () => {
  const questions = parseOpenBookQa(read("handmade.jsonl"));
  assertEquals(parseOpenBookQa(read("handmade_hf.jsonl")), questions);
  assertEquals(questions[0], {
    requests: ["ice", "steam", "rock", "wood"].map((answer) => ({
      context: "When water is heated past its boiling point it will turn into",
      continuation: ` ${answer}`,
    })),
    gold: 1,
    lengths: [3, 5, 4, 4],
  });
});

Deno.test("questions count characters as code points, keep spaces before the blank and allow any label", () => {
  const row = {
    stem: "s",
    choices: [{ text: "🍣é", label: "1" }, { text: "", label: "2" }],
    answerKey: "  2",
  };
  const { gold, lengths } = openBookQaQuestion(row);
  assertEquals({ gold, lengths }, { gold: 1, lengths: [2, 1] });
  const { requests } = winograndeQuestion({
    sentence: " A _, and _ . ",
    option1: "x",
    option2: "y",
    answer: "1",
  });
  assertEquals(requests, [
    { context: " A x", continuation: " , and _ ." },
    { context: " A y", continuation: " , and _ ." },
  ]);
});

Deno.test("encodeRequest encodes both texts together and moves spaces at the end of the context", () => {
  const whole = words.encode("a b c");
  assertEquals(encodeRequest(words, { context: "a", continuation: " b c" }), {
    context: whole.slice(0, 1),
    continuation: whole.slice(1),
  });
  assertEquals(encodeRequest(words, { context: "a ", continuation: "b c" }), {
    context: whole.slice(0, 1),
    continuation: whole.slice(1),
  });
  // Where a token spans the border, nothing of it is left for the continuation.
  assertEquals(encodeRequest(words, { context: "a", continuation: "b" }).continuation, []);
  assertEquals(encodeRequest(words, { context: "a", continuation: " b" }, { bos: 7 }).context, [
    7,
    ...words.encode("a"),
  ]);
  // A tokenizer's own token comes by itself, and can be left out.
  const withBos = { ...words, bos: 7 };
  const request = { context: "a", continuation: " b" };
  assertEquals(encodeRequest(withBos, request), encodeRequest(words, request, { bos: 7 }));
  assertEquals(encodeRequest(withBos, request, { bos: null }), encodeRequest(words, request));
  assertEquals(encodeRequest(withBos, { context: "", continuation: "b" }).context, [7]);
  assertEquals(encodeRequest(words, { context: " ", continuation: "b" }), {
    context: [0],
    continuation: words.encode(" b"),
  });
});

const BAD: readonly (readonly [what: string, read: () => unknown, message: string])[] = [
  [
    "no blank",
    () => parseWinogrande('{"sentence":"a","option1":"b","option2":"c","answer":"1"}'),
    `must have a "_"`,
  ],
  [
    "no answer",
    () => parseWinogrande('{"sentence":"_","option1":"b","option2":"c","answer":""}'),
    `"1" or "2"`,
  ],
  [
    "no option",
    () => parseWinogrande('{"sentence":"_","option1":"b","answer":"1"}'),
    `"option2" must be a string`,
  ],
  ["no stem", () => parseOpenBookQa("{}"), `"question_stem" or "question.stem"`],
  ["no choices", () => parseOpenBookQa('{"question_stem":"a","answerKey":"A"}'), `"choices" must have texts`],
  [
    "an unknown answer",
    () => parseOpenBookQa('{"question_stem":"a","choices":{"text":["b"],"label":["A"]},"answerKey":"B"}'),
    `line 1, as 'answerKey' must be one of A: current value is "B"`,
  ],
];

for (const [what, run, message] of BAD) {
  Deno.test(`questions refuse ${what}`, () => {
    assertThrows(run, DataFormatError, message);
  });
}
