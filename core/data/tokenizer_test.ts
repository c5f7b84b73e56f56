import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { CheckpointError } from "../contracts/errors.ts";
import { loadModelTokenizer, loadTokenizer, tokenizerFromJson } from "./tokenizer.ts";

const FILE = new URL("../../cli/assets/tiny_gpt2/tokenizer.json", import.meta.url);
const ENCODINGS = new URL("../../tests/fixtures/tokenizer/encodings.jsonl", import.meta.url);
const json = JSON.parse(await Deno.readTextFile(FILE));
const tokenizer = await loadTokenizer(FILE);

Deno.test("loadTokenizer knows size and end-of-text", () => {
  assertEquals([tokenizer.vocabSize, tokenizer.eos, tokenizer.bos], [1024, 1023, null]);
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
  ["nothing", {}, "model.type must be a name: current value is missing"],
  ["a model that is not known", { ...json, model: { type: "Nonsense" } }, "it must be complete"],
  ["no vocabulary", { ...json, model: { ...json.model, vocab: null } }, "model.vocab must be an object"],
  [
    "a bad id",
    { ...json, model: { ...json.model, vocab: { a: -1 } } },
    "non-negative integers below 16777216: current value is -1",
  ],
  ["no merges", { ...json, model: { ...json.model, merges: undefined } }, "model.merges must be a list"],
  ["a missing byte", { ...json, model: { ...json.model, vocab: noByte } }, "an entry for each byte"],
  [
    "another way to cut",
    { ...json, pre_tokenizer: { type: "Metaspace" } },
    "must both be ByteLevel or neither",
  ],
  ["no decoder", noDecoder, "must both be ByteLevel or neither: current value is missing"],
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

const FIXTURES = new URL("../../tests/fixtures/tokenizer/", import.meta.url);

async function withFolder(
  files: Readonly<Record<string, string>>,
  run: (folder: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, content] of Object.entries(files)) {
      await Deno.writeTextFile(`${folder}/${name}`, content);
    }
    await run(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a tokenizer of LLaMA 2's kind encodes and decodes as the Python package does", async () => {
  const files = {
    "tokenizer.json": await Deno.readTextFile(new URL("metaspace.json", FIXTURES)),
    "tokenizer_config.json": JSON.stringify({ eos_token: { content: "</s>", lstrip: false } }),
  };
  await withFolder(files, async (folder) => {
    const other = await loadModelTokenizer(folder);
    assertEquals(other.eos, 2);
    const lines = (await Deno.readTextFile(new URL("metaspace.jsonl", FIXTURES))).trimEnd().split("\n");
    assertEquals(lines.length > 100, true);
    for (const line of lines) {
      const { text, ids, decoded } = JSON.parse(line) as { text: string; ids: number[]; decoded: string };
      assertEquals(other.encode(text), ids, text);
      assertEquals(other.decode(ids), decoded, text);
    }
  });
});

Deno.test("loadModelTokenizer takes vocab.json and merges.txt where there is no tokenizer.json", async () => {
  const { vocab, merges } = json.model as { vocab: Record<string, number>; merges: (string | string[])[] };
  const all = { ...vocab, "<|endoftext|>": 1023 };
  const lines = merges.map((merge) => Array.isArray(merge) ? merge.join(" ") : merge);
  const files = {
    "vocab.json": JSON.stringify(all),
    "merges.txt": `#version: 0.2\n${lines.join("\n")}\n`,
  };
  await withFolder(files, async (folder) => {
    const old = await loadModelTokenizer(folder);
    assertEquals([old.vocabSize, old.eos], [1024, 1023]);
    for (const line of (await Deno.readTextFile(ENCODINGS)).trimEnd().split("\n").slice(0, 100)) {
      const { text, ids } = JSON.parse(line) as { text: string; ids: number[] };
      assertEquals(old.encode(text), ids, text);
    }
  });
  await withFolder({ "vocab.json": "{}" }, async (folder) => {
    await assertRejects(
      () => loadModelTokenizer(folder),
      CheckpointError,
      "holds neither tokenizer.json nor vocab.json",
    );
  });
  await withFolder({ "tokenizer.json": "{" }, async (folder) => {
    await assertRejects(
      () => loadModelTokenizer(folder),
      CheckpointError,
      "tokenizer.json as it must be JSON",
    );
  });
});

interface BosCase {
  readonly name: string;
  readonly base: "metaspace" | "tiny";
  readonly old: boolean;
  readonly post_processor: unknown;
  readonly config: { readonly eos_token: string };
  readonly text: string;
  readonly ids: number[];
}

Deno.test("the token that begins a text is the one that transformers puts there", async () => {
  const metaspace = JSON.parse(await Deno.readTextFile(new URL("metaspace.json", FIXTURES)));
  const lines = (await Deno.readTextFile(new URL("bos.jsonl", FIXTURES))).trimEnd().split("\n");
  assertEquals(lines.length, 10);
  for (const line of lines) {
    const { name, base, old, post_processor, config, text, ids }: BosCase = JSON.parse(line);
    const content = base === "metaspace" ? metaspace : json;
    const { vocab, merges } = content.model as { vocab: Record<string, number>; merges: string[] };
    const files: Record<string, string> = old
      ? {
        "vocab.json": JSON.stringify({ ...vocab, [config.eos_token]: Object.keys(vocab).length }),
        "merges.txt": `#version: 0.2\n${merges.join("\n")}\n`,
      }
      : { "tokenizer.json": JSON.stringify({ ...content, post_processor }) };
    await withFolder({ ...files, "tokenizer_config.json": JSON.stringify(config) }, async (folder) => {
      const { bos, encode } = await loadModelTokenizer(folder);
      assertEquals([...(bos === null ? [] : [bos]), ...encode(text)], ids, name);
    });
  }
});

Deno.test("a configuration may ask for a token that begins texts, which must be there", async () => {
  const config = { eos_token: "</s>", bos_token: { content: "<s>" }, add_bos_token: true };
  const metaspace = await Deno.readTextFile(new URL("metaspace.json", FIXTURES));
  const bosOf = async (changes: Record<string, unknown>, post_processor: unknown = null) => {
    let found: number | null = -1;
    const files = {
      "tokenizer.json": JSON.stringify({ ...JSON.parse(metaspace), post_processor }),
      "tokenizer_config.json": JSON.stringify({ ...config, ...changes }),
    };
    await withFolder(files, async (folder) => {
      found = (await loadModelTokenizer(folder)).bos;
    });
    return found;
  };
  assertEquals(await bosOf({}), 1);
  assertEquals(await bosOf({ add_bos_token: null }), null);
  assertEquals(await bosOf({ bos_token: null, add_bos_token: false }), null);
  await assertRejects(
    () => bosOf({ bos_token: null }),
    CheckpointError,
    'as "bos_token" must be a token where "add_bos_token" is true: current value is null',
  );
  await assertRejects(
    () => bosOf({ bos_token: "<b>" }),
    CheckpointError,
    'must be in the vocabulary: current value is "<b>"',
  );
  const piece = (id: string) => ({ SpecialToken: { id, type_id: 0 } });
  const text = { Sequence: { id: "A", type_id: 0 } };
  const template = (...single: unknown[]) => ({
    type: "TemplateProcessing",
    single,
    pair: [],
    special_tokens: {},
  });
  // What follows a text does not count, and the file comes before the configuration.
  assertEquals(await bosOf({ add_bos_token: false }, template(text, piece("</s>"))), null);
  assertEquals(await bosOf({}, template(piece("<unk>"), text, piece("</s>"))), 0);
  assertEquals(await bosOf({}, { type: "RobertaProcessing", sep: ["</s>", 2], cls: ["<s>", 1] }), 1);
  await assertRejects(
    () => bosOf({}, template(piece("<s>"), piece("<unk>"), text)),
    CheckpointError,
    'post_processor must put at most one token before a text: current value is ["<s>","<unk>"]',
  );
});
