import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { CheckpointError } from "../errors.ts";
import { loadTokenizer, tokenizerFromJson } from "./tokenizer.ts";

const FILE = new URL("../../examples/tiny_gpt2/tokenizer.json", import.meta.url);
const ENCODINGS = new URL("../../tests/fixtures/tokenizer/encodings.jsonl", import.meta.url);
const json = JSON.parse(await Deno.readTextFile(FILE));
const tokenizer = await loadTokenizer(FILE);

Deno.test("loadTokenizer knows size and end-of-text", () => {
  assertEquals([tokenizer.vocabSize, tokenizer.eos], [1024, 1023]);
  assertEquals(tokenizer.encode("a<|endoftext|>"), [...tokenizer.encode("a"), 1023]);
});

Deno.test("a tokenizer encodes as the Python package does, and decodes without loss", async () => {
  const lines = (await Deno.readTextFile(ENCODINGS)).trimEnd().split("\n");
  assertEquals(lines.length, 406);
  for (const line of lines) {
    const { text, ids } = JSON.parse(line) as { text: string; ids: number[] };
    assertEquals(tokenizer.encode(text), ids, text);
    assertEquals(tokenizer.decode(ids), text);
  }
});

Deno.test("a tokenizer decodes spaces before signs, arrays of integers and broken characters", () => {
  const text = "it 's , is n't ? <|endoftext|> .";
  assertEquals(tokenizer.decode(Uint32Array.from(tokenizer.encode(text))), text);
  assertEquals(tokenizer.decode([]), "");
  assertEquals(tokenizer.encode(""), []);
  const [first] = tokenizer.encode("字");
  assertEquals(tokenizer.decode([first!]), "\uFFFD");
});

Deno.test("a tokenizer refuses ids that are not in the vocabulary", () => {
  for (const bad of [-1, 1024, 0.5, NaN]) {
    const error = assertThrows(() => tokenizer.decode([1, bad]), RangeError);
    assertStringIncludes(error.message, `(below 1024): current value is ${bad}`);
  }
});

Deno.test("tokenizerFromJson takes merges in pairs and another special token", () => {
  const model = { ...json.model, merges: json.model.merges.map((merge: string) => merge.split(" ")) };
  const added_tokens = [...json.added_tokens, { ...json.added_tokens[0], id: 1100, content: "<end>" }];
  const other = tokenizerFromJson({ ...json, model, added_tokens }, { eos: "<end>" });
  assertEquals([other.vocabSize, other.eos], [1101, 1100]);
  assertEquals(other.encode("The Copper Wren"), tokenizer.encode("The Copper Wren"));
  assertThrows(() => other.decode([1050]), RangeError);
});

const { decoder: _, ...noDecoder } = json;
const noByte = Object.fromEntries(Object.entries(json.model.vocab).filter(([token]) => token !== "!"));
const MALFORMED: readonly (readonly [what: string, json: unknown, message: string])[] = [
  ["no object", null, "it must be an object: current value is null"],
  ["a list", [], "it must be an object"],
  ["nothing", {}, 'model.type must be "BPE": current value is undefined'],
  ["another model", { ...json, model: { type: "Unigram" } }, 'current value is "Unigram"'],
  ["no vocabulary", { ...json, model: { ...json.model, vocab: null } }, "model.vocab must be an object"],
  [
    "a bad id",
    { ...json, model: { ...json.model, vocab: { a: -1 } } },
    "non-negative integers: current value is -1",
  ],
  ["no merges", { ...json, model: { ...json.model, merges: undefined } }, "model.merges must be a list"],
  ["a missing byte", { ...json, model: { ...json.model, vocab: noByte } }, "an entry for each byte"],
  [
    "another way to cut",
    { ...json, pre_tokenizer: { type: "Metaspace" } },
    "pre_tokenizer must be ByteLevel",
  ],
  ["no decoder", noDecoder, "decoder must be ByteLevel: current value is undefined"],
  ["no list of special tokens", { ...json, added_tokens: null }, "added_tokens must be a list"],
  ["no end-of-text", { ...json, added_tokens: [] }, 'added_tokens must have "<|endoftext|>"'],
  ["an unknown step", { ...json, normalizer: { type: "Nonsense" } }, "it must be complete"],
];

for (const [what, content, message] of MALFORMED) {
  Deno.test(`tokenizerFromJson refuses ${what}`, () => {
    const error = assertThrows(() => tokenizerFromJson(content, { name: "t.json" }), CheckpointError);
    assertStringIncludes(error.message, "Cannot use t.json as ");
    assertStringIncludes(error.message, message);
  });
}

Deno.test("loadTokenizer names the file", async () => {
  assertStringIncludes(
    (await assertRejects(() => loadTokenizer("/no/such/file"), CheckpointError)).message,
    "Cannot read /no/such/file",
  );
  const noJson = new URL(import.meta.url);
  assertStringIncludes(
    (await assertRejects(() => loadTokenizer(noJson), CheckpointError)).message,
    "must be a readable JSON file",
  );
});
