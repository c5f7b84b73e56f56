import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { ModelFileError } from "../contracts/errors.ts";
import { endsOf, loadTokenizer, type Tokenizer, tokenizerFromJson } from "./tokenizer.ts";
import { copyTokenizerFiles, loadModelTokenizer, TOKENIZER_FILES } from "./tokenizer_folder.ts";
import { TEMPLATE_FOLDER } from "./chat_template.ts";

const FILE = new URL("../../cli/assets/tiny_gpt2/tokenizer.json", import.meta.url);
const ENCODINGS = new URL("../../tests/fixtures/tokenizer/encodings.jsonl", import.meta.url);
const FIXTURES = new URL("../../tests/fixtures/tokenizer/", import.meta.url);
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

Deno.test("a tokenizer refuses what is no id, and ids without a text give nothing", () => {
  for (const bad of [-1, 0.5, NaN]) {
    const error = assertThrows(() => tokenizer.decode([1, bad]), RangeError);
    assertStringIncludes(error.message, `integers of at least 0: current value is ${bad}`);
  }
  assertEquals(tokenizer.decode([1024, ...tokenizer.encode(" river"), 2 ** 40]), " river");
});

Deno.test("tokenizerFromJson takes merges in pairs and another special token", () => {
  const model = { ...json.model, merges: json.model.merges.map((merge: string) => merge.split(" ")) };
  const added_tokens = [...json.added_tokens, { ...json.added_tokens[0], id: 1100, content: "<end>" }];
  const other = tokenizerFromJson({ ...json, model, added_tokens }, { eos: "<end>" });
  assertEquals([other.vocabSize, other.eos], [1101, 1100]);
  assertEquals(other.encode("The Copper Wren"), tokenizer.encode("The Copper Wren"));
  assertEquals([other.decode([1050]), other.ordinarySize], ["", 1023]);
});

Deno.test("bytes that a vocabulary lacks are left out of texts", () => {
  const vocab = Object.fromEntries(Object.entries(json.model.vocab).filter(([token]) => token !== "!"));
  const other = tokenizerFromJson({ ...json, model: { ...json.model, vocab } });
  const text = "Hi! A river!";
  const { ids, starts } = other.encodeWithPlaces!(text);
  assertEquals([ids, other.decode(ids)], [other.encode(text), "Hi A river"]);
  assertEquals(starts.map((start) => text[start]).includes("!"), false);
});

Deno.test("white space and digits are those that the Python package knows", async () => {
  const lines = (await Deno.readTextFile(new URL("spaces.jsonl", FIXTURES))).trimEnd().split("\n");
  assertEquals(lines.length, 4);
  for (const line of lines) {
    const { pre_tokenizer, texts, ids } = JSON.parse(line);
    const other = tokenizerFromJson({ ...json, pre_tokenizer });
    assertEquals(texts.map((text: string) => other.encode(text)), ids);
  }
});

/** What a token is by its place must be what it is by its text. */
function assertPlaces(tokenizer: Tokenizer, text: string): void {
  const { ids, starts, stops } = tokenizer.encodeWithPlaces!(text);
  assertEquals(ids, tokenizer.encode(text));
  ids.forEach((id, i) => {
    const token = tokenizer.decode([id]);
    const part = text.slice(starts[i], stops[i]);
    if (!token.includes("\uFFFD")) assertEquals(part.trimStart(), token.trimStart(), text);
    else assertEquals([...part].length > 0, true, text);
    if (i > 0) assertEquals(starts[i]! >= starts[i - 1]! && stops[i]! >= stops[i - 1]!, true, text);
  });
}

Deno.test("a tokenizer knows where its tokens are in a text", async () => {
  const metaspace = tokenizerFromJson(
    JSON.parse(await Deno.readTextFile(new URL("metaspace.json", FIXTURES))),
    { eos: "</s>" },
  );
  const composing = tokenizerFromJson({ ...json, normalizer: { type: "NFC" } });
  for (const line of (await Deno.readTextFile(ENCODINGS)).trimEnd().split("\n")) {
    const { text } = JSON.parse(line) as { text: string };
    assertPlaces(tokenizer, text);
    if (text.normalize("NFC") === text) assertPlaces(composing, text);
    assertPlaces(metaspace, `<s>${text}</s>\n\n${text}`);
  }
  // The text is written with composed letters before it is cut: the places are those of the text as it was.
  const text = "cafe\u0301 <|endoftext|> bar";
  const { ids, starts, stops } = composing.encodeWithPlaces!(text);
  const at = ids.indexOf(composing.eos);
  assertEquals(text.slice(starts[at], stops[at]), "<|endoftext|>");
  const lower = tokenizerFromJson({ ...json, normalizer: { type: "Lowercase" } });
  assertThrows(() => lower.encodeWithPlaces!("A river"), ModelFileError, "Cannot tell where tokens are");
});

const { decoder: _, ...noDecoder } = json;
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
    const error = assertThrows(() => tokenizerFromJson(content, { name: "t.json" }), ModelFileError);
    assertStringIncludes(error.message, "Cannot use t.json as ");
    assertStringIncludes(error.message, message);
  });
}

Deno.test("loadTokenizer names the file", async () => {
  assertStringIncludes(
    (await assertRejects(() => loadTokenizer("/no/such/file"), ModelFileError)).message,
    "Cannot read /no/such/file",
  );
  const noJson = new URL(import.meta.url);
  assertStringIncludes(
    (await assertRejects(() => loadTokenizer(noJson), ModelFileError)).message,
    "must be a readable JSON file",
  );
});

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
      ModelFileError,
      "holds neither tokenizer.json nor vocab.json",
    );
  });
  await withFolder({ "tokenizer.json": "{" }, async (folder) => {
    await assertRejects(
      () => loadModelTokenizer(folder),
      ModelFileError,
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
    ModelFileError,
    'as "bos_token" must be a token where "add_bos_token" is true: current value is null',
  );
  await assertRejects(
    () => bosOf({ bos_token: "<b>" }),
    ModelFileError,
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
    ModelFileError,
    'post_processor must put at most one token before a text: current value is ["<s>","<unk>"]',
  );
});

Deno.test("all tokenizer files travel with a model, and no others", async () => {
  const files = Object.fromEntries([...TOKENIZER_FILES, "notes.txt"].map((name) => [name, `of ${name}`]));
  await withFolder(files, async (from) => {
    await withFolder({}, async (to) => {
      await copyTokenizerFiles(from, to);
      const names = async () => (await Array.fromAsync(Deno.readDir(to), ({ name }) => name)).sort();
      assertEquals(await names(), TOKENIZER_FILES.toSorted());
      await Deno.mkdir(`${from}/${TEMPLATE_FOLDER}`);
      await Deno.writeTextFile(`${from}/${TEMPLATE_FOLDER}/rag.jinja`, "{{ x }}");
      await Deno.writeTextFile(`${from}/${TEMPLATE_FOLDER}/notes.txt`, "");
      await copyTokenizerFiles(from, to);
      assertEquals((await names()).includes(TEMPLATE_FOLDER), true);
      assertEquals(await Deno.readTextFile(`${to}/${TEMPLATE_FOLDER}/rag.jinja`), "{{ x }}");
      assertEquals((await Array.fromAsync(Deno.readDir(`${to}/${TEMPLATE_FOLDER}`))).length, 1);
    });
  });
});

interface FolderCase {
  readonly name: string;
  readonly files: Readonly<Record<string, unknown>>;
  readonly texts: readonly string[];
  readonly ids: readonly (readonly number[])[];
  readonly eos: number;
  readonly size: number;
}

Deno.test("every tokenizer file of a folder counts, as transformers has it", async () => {
  const { vocab, merges } = json.model as { vocab: Record<string, number>; merges: string[] };
  const lines = (await Deno.readTextFile(new URL("folders.jsonl", FIXTURES))).trimEnd().split("\n");
  assertEquals(lines.length, 12);
  for (const line of lines) {
    const { name, files, texts, ids, eos, size }: FolderCase = JSON.parse(line);
    const contents = Object.fromEntries(
      Object.entries(files).map(([file, content]) => [file, JSON.stringify(content)]),
    );
    const own = name.startsWith("vocabulary")
      ? {
        "vocab.json": JSON.stringify({ ...vocab, "<|endoftext|>": 1023 }),
        "merges.txt": `#version: 0.2\n${merges.join("\n")}\n`,
      }
      : { "tokenizer.json": JSON.stringify(json) };
    await withFolder({ ...own, ...contents }, async (folder) => {
      const found = await loadModelTokenizer(folder);
      assertEquals(texts.map((text) => found.encode(text)), ids, name);
      assertEquals([found.eos, found.vocabSize], [eos, size], name);
      for (const text of texts) assertPlaces(found, text);
    });
  }
});

Deno.test("what ends a text is what tokenizer, generation_config.json and config.json name", async () => {
  const tokenizerFile = JSON.stringify(json);
  const endsWith = async (files: Readonly<Record<string, unknown>>) => {
    let ends: readonly number[] = [];
    const contents = Object.entries(files).map(([name, content]) => [name, JSON.stringify(content)]);
    await withFolder({ "tokenizer.json": tokenizerFile, ...Object.fromEntries(contents) }, async (folder) => {
      ends = endsOf(await loadModelTokenizer(folder));
    });
    return ends;
  };
  assertEquals(await endsWith({}), [1023]);
  assertEquals(await endsWith({ "config.json": { eos_token_id: 7 } }), [1023, 7]);
  assertEquals(
    await endsWith({
      "generation_config.json": { eos_token_id: [5, 1023, 9000] },
      "config.json": { eos_token_id: [7, 5] },
    }),
    [1023, 5, 7],
  );
  assertEquals(await endsWith({ "config.json": { eos_token_id: null } }), [1023]);
  assertEquals(await endsWith({ "config.json": { eos_token_id: -1 } }), [1023]);
  for (const eos_token_id of ["</s>", [1, "2"], 0.5, -2]) {
    await assertRejects(
      () => endsWith({ "generation_config.json": { eos_token_id } }),
      ModelFileError,
      '"eos_token_id" must be a token\'s id or a list of them',
    );
  }
});
