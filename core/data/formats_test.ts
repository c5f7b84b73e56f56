import { assertEquals, assertRejects } from "@std/assert";
import { DataFormatError } from "../contracts/errors.ts";
import {
  formatDart,
  formatE2eCsv,
  formatE2eLines,
  formatWebnlg,
  parseFormatted,
  writeFormatted,
} from "./formats.ts";

const read = (path: string): string =>
  Deno.readTextFileSync(new URL(`../../tests/fixtures/eval/data/${path}`, import.meta.url));

Deno.test("E2E lines become what the reference writes, byte for byte", () => {
  const expected = read("e2e/expected_lora_test.head400_formatted.jsonl");
  const pairs = formatE2eLines(read("e2e/lora_test.head400.txt"));
  assertEquals(writeFormatted(pairs), expected);
  assertEquals(parseFormatted(expected), pairs);
});

Deno.test("DART becomes what the reference writes, byte for byte", () => {
  const text = writeFormatted(formatDart(read("dart/dart-v1.1.1-full-dev.excerpt.json")));
  assertEquals(text, read("dart/expected_formatted.jsonl"));
});

Deno.test("WebNLG becomes what the reference writes, byte for byte", () => {
  const expected = read("webnlg/expected_unseen.jsonl");
  const pairs = formatWebnlg(read("webnlg/handmade_unseen.json"));
  assertEquals(writeFormatted(pairs), expected);
  assertEquals(parseFormatted(expected), pairs);
});

Deno.test("formatted lines may be empty texts, as data sets have them", () => {
  const pairs = [{ prompt: "", completion: "" }, { prompt: "\n\u007f🍣", completion: " x ", cate: false }];
  assertEquals(
    writeFormatted(pairs),
    '{"context": "", "completion": ""}\n{"context": "\\n\\u007f\\ud83c\\udf63", "completion": " x ", "cate": false}\n',
  );
  assertEquals(parseFormatted(writeFormatted(pairs)), pairs);
  // Other programs write the name that training data has.
  assertEquals(parseFormatted(writeFormatted(pairs).replaceAll('"context"', '"prompt"')), pairs);
});

Deno.test("E2E CSV gives the prompts of the E2E lines", async () => {
  const pairs = await formatE2eCsv(read("e2e/devset.head300.csv"));
  const lines = formatE2eLines(read("e2e/lora_valid.head300.txt"));
  assertEquals(pairs.map(({ prompt }) => prompt), lines.map(({ prompt }) => prompt));
  assertEquals(
    pairs[0]!.completion,
    "There is a place in the city centre, Alimentum, that is not family-friendly.",
  );
});

Deno.test("E2E CSV may have quotes, line ends and commas inside fields, and further columns", async () => {
  const text =
    '\uFEFFid,mr,ref\r\n1,"name[A, B], near[X]","He said ""hi"",\nthen left. "\r\n\r\n2,name[Ça],x';
  assertEquals(await formatE2eCsv(text), [
    { prompt: "name : A , B | near : X", completion: 'He said "hi",\nthen left.' },
    { prompt: "name : Ça", completion: "x" },
  ]);
});

const BAD: readonly (readonly [what: string, read: () => unknown, message: string])[] = [
  [
    "lines without a separator",
    () => formatE2eLines("a||b\nc\n", { name: "t" }),
    "Cannot read t, line 2, as a",
  ],
  [
    "CSV without columns",
    () => formatE2eCsv("a,b\n", { name: "t" }),
    'must be "mr" and "ref": current value is "a,b"',
  ],
  ["empty CSV", () => formatE2eCsv(""), 'must be "mr" and "ref"'],
  ["CSV with short rows", () => formatE2eCsv('mr,ref\n"name[a]"\n'), "line 2, as a row must have 2 fields"],
  ["CSV with open quotes", () => formatE2eCsv('mr,ref\n"name[a],x\n'), "line 2, as a quoted field must end"],
  [
    "CSV with text after quotes",
    () => formatE2eCsv('mr,ref\n"name[a]"y,x\n'),
    "line 2, as a field with quotes must be quoted whole",
  ],
  [
    "CSV with other attributes",
    () => formatE2eCsv("mr,ref\nname=a,x\n"),
    "line 2, as an attribute must be written",
  ],
  ["WebNLG that is no JSON", () => formatWebnlg("{", { name: "t" }), "Cannot read t as it must be JSON"],
  [
    "WebNLG without entries",
    () => formatWebnlg("{}"),
    '"entries" must be a list: current value is undefined',
  ],
  ["WebNLG with other keys", () => formatWebnlg('{"entries":[{"2":{}}]}'), "entry 1 must be an object"],
  ["DART that is no list", () => formatDart("{}"), "the file must be a list"],
  ["DART without triples", () => formatDart('[{"annotations":[]}]'), '"tripleset" of entry 1 must be a list'],
  [
    "DART without text",
    () => formatDart('[{"tripleset":[["a","B","c"]],"annotations":[{}]}]'),
    '"text" of entry 1 must be a string',
  ],
  [
    "formatted lines with another flag",
    () => parseFormatted('{"context":"a","completion":"b","cate":1}'),
    '"cate"',
  ],
];

for (const [what, run, message] of BAD) {
  Deno.test(`formatters refuse ${what}`, async () => {
    await assertRejects(async () => await run(), DataFormatError, message);
  });
}
