import { assert, assertEquals, assertRejects } from "@std/assert";
import { ModelFileError } from "../contracts/errors.ts";
import { endsOf } from "../data/tokenizer.ts";
import { FIXTURES } from "../../tests/support/places.ts";
import { type GgufValue, writeGguf } from "../../tests/support/write_gguf.ts";
import { loadGgufChatTemplate, loadGgufTokenizer } from "./gguf_tokenizer.ts";
import { PRE_TOKENIZERS } from "./_pre_tokenizers.ts";

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
}

interface Fixture {
  readonly texts: readonly string[];
  readonly byteLevel: Vocabulary & {
    readonly merges: readonly string[];
    readonly cases: readonly { readonly pre: string; readonly ids: readonly (readonly number[])[] }[];
  };
  readonly sentencePiece: readonly (Vocabulary & {
    readonly name: string;
    readonly spaceFirst: boolean;
    readonly scores: readonly number[];
    readonly texts: readonly string[];
    readonly ids: readonly (readonly number[])[];
    readonly decoded: readonly string[];
  })[];
}

const { texts, byteLevel, sentencePiece }: Fixture = JSON.parse(
  await Deno.readTextFile(`${FIXTURES}gguf/tokenizers.json`),
);

/** Runs with a file of such fields; `tokenizer.ggml.` is put before the names without a dot. */
async function withGguf<T>(
  fields: Readonly<Record<string, GgufValue>>,
  run: (path: string) => Promise<T>,
): Promise<T> {
  const path = await Deno.makeTempFile({ suffix: ".gguf" });
  try {
    const named = Object.entries(fields).map(([name, value]) =>
      [name.includes(".") ? name : `tokenizer.ggml.${name}`, value] as const
    );
    await writeGguf(path, Object.fromEntries(named), new Map());
    return await run(path);
  } finally {
    await Deno.remove(path);
  }
}

function byteFields(pre: string): Record<string, GgufValue> {
  const { tokens, types: token_type, merges } = byteLevel;
  return {
    model: "gpt2",
    pre,
    tokens,
    token_type,
    merges,
    eos_token_id: tokens.length - 1,
    add_bos_token: false,
  };
}

for (const { pre, ids } of byteLevel.cases) {
  Deno.test(`a GGUF file's pre-tokenizer "${pre}" cuts as the tokenizers package does`, async () => {
    const tokenizer = await withGguf(byteFields(pre), loadGgufTokenizer);
    texts.forEach((text, i) => {
      assertEquals(tokenizer.encode(text), ids[i], text);
      const composes = PRE_TOKENIZERS.get(pre)!.composes ?? false;
      assertEquals(tokenizer.decode(ids[i]!), composes ? text.normalize("NFC") : text);
    });
  });
}

Deno.test("ways to cut differ where it matters: no two kinds of the fixture agree on all texts", () => {
  const alike = new Set(["stablelm2", "qwen2"]);
  const kinds = byteLevel.cases.filter(({ pre }) => !alike.has(pre)).map(({ ids }) => JSON.stringify(ids));
  assertEquals(new Set(kinds).size, kinds.length);
});

for (const { name, ids, decoded, texts, spaceFirst, tokens, types: token_type, scores } of sentencePiece) {
  const fields = {
    model: "llama",
    tokens,
    token_type,
    scores,
    add_space_prefix: spaceFirst,
    eos_token_id: 2,
  };
  Deno.test(`a GGUF file's SentencePiece model "${name}" cuts as the sentencepiece package does`, async () => {
    const tokenizer = await withGguf({ ...fields, add_bos_token: false }, loadGgufTokenizer);
    assertEquals([tokenizer.vocabSize, tokenizer.eos, tokenizer.bos], [tokens.length, 2, null]);
    texts.forEach((text, i) => {
      assertEquals(tokenizer.encode(text), ids[i], text);
      // What the package writes for the unknown token is a sign of its own.
      if (!ids[i]!.includes(0)) assertEquals(tokenizer.decode(ids[i]!), decoded[i], text);
      const places = tokenizer.encodeWithPlaces!(text);
      assertEquals([places.ids, places.stops.at(-1)], [ids[i], text.length], text);
    });
    // Whole tokens are found in texts; what follows one begins anew.
    assertEquals(tokenizer.encode("</s>x")[0], 2);
    assertEquals(tokenizer.decode(tokenizer.encode("a</s>")), "a</s>");
  });
}

Deno.test("a token begins texts where the file says so, or where its kind has one", async () => {
  const bosOf = async (fields: Record<string, GgufValue>) => (await withGguf(fields, loadGgufTokenizer)).bos;
  const { add_bos_token: _, ...plain } = byteFields("llama-bpe");
  assertEquals(await bosOf({ ...plain, bos_token_id: 7 }), 7);
  assertEquals(await bosOf({ ...plain, bos_token_id: 7, add_bos_token: false }), null);
  assertEquals(await bosOf({ ...plain, pre: "qwen2", bos_token_id: 7 }), null);
  await assertRejects(
    () => bosOf(plain),
    ModelFileError,
    "bos_token_id must be a token where add_bos_token",
  );
  const { tokens, types: token_type, scores } = sentencePiece[0]!;
  assertEquals(await bosOf({ model: "llama", tokens, token_type, scores }), 1);
});

Deno.test("what ends a text is every token that the file names, and the usual ends of turns", async () => {
  const tokens = [...byteLevel.tokens.slice(0, 300), "<|eot_id|>", "<|im_end|>", "<x>", "<|end|>"];
  const token_type = tokens.map((token) => token === "<|im_end|>" || token === "<|end|>" ? 3 : 1);
  const fields = {
    model: "gpt2",
    pre: "gpt-2",
    tokens,
    token_type,
    merges: [] as string[],
    eos_token_id: 303,
  };
  const endsWith = async (more: Record<string, GgufValue>) =>
    endsOf(await withGguf({ ...fields, ...more }, loadGgufTokenizer));
  // The first one is an ordinary token here.
  assertEquals(await endsWith({}), [303, 301]);
  assertEquals(await endsWith({ eot_token_id: 302, eom_token_id: 5 }), [303, 302, 5, 301]);
  await assertRejects(
    () => endsWith({ eot_token_id: 4000 }),
    ModelFileError,
    "eot_token_id must be a token",
  );
});

Deno.test("tokenizers of GGUF files that are not known are refused with the way out", async () => {
  const { tokens, types: token_type, scores } = sentencePiece[0]!;
  const piece = { model: "llama", tokens, token_type, scores };
  const { eos_token_id: _, ...endless } = byteFields("gpt-2");
  const wrong: readonly (readonly [Record<string, GgufValue>, RegExp])[] = [
    [{ ...byteFields("nonsense") }, /pre must be one of gpt-2, .*: current value is "nonsense"/],
    [{ ...byteFields("default") }, /pre must be one of/],
    [{ model: "bert" }, /model must be "gpt2" \(byte-level BPE\) or "llama" \(SentencePiece\)/],
    [endless, /eos_token_id must be a token/],
    [{ ...piece, scores: [1] }, /it must have 620 scores/],
    [{ ...piece, eos_token_id: 9999 }, /eos_token_id must be a token/],
    [{ ...piece, remove_extra_whitespaces: true }, /remove_extra_whitespaces must be false/],
    [
      { ...piece, tokens: [...tokens.slice(1), "x".repeat(2000)] },
      /tokens must have at most 1024 characters/,
    ],
  ];
  for (const [fields, message] of wrong) {
    const error = await assertRejects(() => withGguf(fields, loadGgufTokenizer), ModelFileError);
    assert(message.test(error.message), error.message);
    if (!/scores|1024/.test(error.message)) {
      assert(error.message.includes("give the model's tokenizer.json instead"), error.message);
    }
  }
});

Deno.test("a SentencePiece text of many characters takes a time in proportion", async () => {
  const { tokens, types: token_type, scores } = sentencePiece[0]!;
  const tokenizer = await withGguf({ model: "llama", tokens, token_type, scores }, loadGgufTokenizer);
  const begin = performance.now();
  const ids = tokenizer.encode("the the river ".repeat(20_000));
  assert(ids.length > 40_000 && performance.now() - begin < 10_000);
});

Deno.test("the chat template of a GGUF file is used, with the texts of its tokens", async () => {
  const fields = { ...byteFields("gpt-2"), bos_token_id: 0 };
  assertEquals(await withGguf(fields, loadGgufChatTemplate), null);
  const template = await withGguf({
    ...fields,
    "tokenizer.chat_template":
      "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
    "tokenizer.chat_template.tool_use": "tools",
  }, loadGgufChatTemplate);
  const messages = [{ role: "user", content: "Hi" }];
  assertEquals(template!.render({ messages }), `${byteLevel.tokens[0]}Hi<|end|>`);
  assertEquals(template!.render({ messages, tools: [{}] }), "tools");
  await assertRejects(
    () => withGguf({ ...fields, "tokenizer.chat_template": "{% if %}" }, loadGgufChatTemplate),
    ModelFileError,
    "tokenizer.chat_template as its chat template must be valid",
  );
});
