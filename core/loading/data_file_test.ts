import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { ASSETS, ROOT } from "../../tests/support/places.ts";
import { DataFormatError } from "../contracts/errors.ts";
import { chatTemplateFromConfig } from "../data/chat_template.ts";
import type { TrainingExample } from "../data/examples.ts";
import { loadModelTokenizer } from "../data/tokenizer_folder.ts";
import { recogniseFormat } from "./data_file.ts";
import { loadTrainingData, type ReadExamplesOptions, readTrainingExamples } from "./training_data.ts";

const MODEL = `${ASSETS}tiny_gpt2`;
const PARQUET = `${ROOT}tests/fixtures/data`;

type Files = Readonly<Record<string, string | Uint8Array>>;

async function withFiles(files: Files, test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, content] of Object.entries(files)) {
      if (typeof content === "string") await Deno.writeTextFile(`${folder}/${name}`, content);
      else await Deno.writeFile(`${folder}/${name}`, content);
    }
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const chatTemplate = chatTemplateFromConfig({
  chat_template: "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}" +
    "{% if add_generation_prompt %}[assistant]{% endif %}",
});

async function examplesOf(
  name: string,
  content: string | Uint8Array,
  options: Partial<ReadExamplesOptions> = {},
): Promise<readonly TrainingExample[]> {
  let found: readonly TrainingExample[] = [];
  await withFiles({ [name]: content }, async (folder) => {
    found = (await readTrainingExamples(`${folder}/${name}`, { model: MODEL, ...options })).examples;
  });
  return found;
}

const PAIR = { prompt: "Where?", completion: "At the harbour." };
const JSON_PAIR = JSON.stringify(PAIR);

const FORMATS: readonly (readonly [name: string, content: string, format: string])[] = [
  ["a.jsonl", `${JSON_PAIR}\n`, "jsonl"],
  ["a.JSONL", JSON_PAIR, "jsonl"],
  ["a.ndjson", `\uFEFF${JSON_PAIR}\r\n\r\n`, "jsonl"],
  ["a.json", `[\n  ${JSON.stringify(PAIR, null, 2)}\n]\n`, "json"],
  ["b.json", `${JSON_PAIR}\n`, "jsonl"],
  ["a.data", `[${JSON_PAIR}]`, "json"],
  ["rows", JSON_PAIR, "jsonl"],
  ["a.csv", 'id,prompt,completion\r\n1,Where?,"At the harbour."\r\n', "csv"],
  ["b.CSV", "prompt;completion\nWhere?;At the harbour.\n", "csv"],
  ["a.tsv", "prompt\tcompletion\nWhere?\tAt the harbour.\n", "tsv"],
  ["a.dat", 'id,prompt,completion\r\n1,Where?,"At the harbour."\r\n', "csv"],
  ["b.txt", '"prompt"\t"completion"\nWhere?\tAt the harbour.\n', "tsv"],
  ["a.txt", "Where?||At the harbour.\n", "pairs"],
];

for (const [name, content, format] of FORMATS) {
  Deno.test(`${name} with ${JSON.stringify(content.slice(0, 20))} is ${format}`, async () => {
    await withFiles({ [name]: content }, async (folder) => {
      assertEquals(await recogniseFormat(`${folder}/${name}`), format);
    });
    assertEquals(await examplesOf(name, content), [PAIR]);
  });
}

Deno.test("files that gzip has made smaller, and UTF-16 with its mark, are read", async () => {
  const zipped = new Blob([`${JSON_PAIR}\n`]).stream().pipeThrough(new CompressionStream("gzip"));
  assertEquals(await examplesOf("a.jsonl.gz", await new Response(zipped).bytes()), [PAIR]);
  const wide = `\uFEFFprompt\tcompletion\nWhere?\tAt the harbour.\n`;
  const units = Uint8Array.from(
    Array.from(wide).flatMap((c) => [c.charCodeAt(0) & 255, c.charCodeAt(0) >> 8]),
  );
  assertEquals(await examplesOf("a.tsv", units), [PAIR]);
});

Deno.test("Parquet is read with every compression, and null columns are not there", async () => {
  for (const codec of ["none", "snappy", "zstd", "gzip", "brotli"]) {
    const bad: string[] = [];
    const { examples } = await readTrainingExamples(`${PARQUET}/pairs_${codec}.parquet`, {
      model: MODEL,
      map: { prompt: "question", completion: "answer" },
      onBadLine: ({ line, problem }) => void bad.push(`${line}: ${problem}`),
    });
    assertEquals(examples, [{ prompt: "Where can I eat?", completion: "At the harbour." }], codec);
    assertEquals(bad, ['2: "completion" must be a string']);
  }
  const { examples } = await readTrainingExamples(`${PARQUET}/chats.parquet`, { model: MODEL, chatTemplate });
  assertEquals(examples.length, 3);
  assertStringIncludes(JSON.stringify(examples[2]), "Hello!");
  await withFiles({ "a.parquet": "PAR1 and nothing" }, async (folder) => {
    await assertRejects(
      () => readTrainingExamples(`${folder}/a.parquet`, { model: MODEL }),
      DataFormatError,
      "must be a whole Parquet file",
    );
  });
});

Deno.test("columns are named only where a file has some", async () => {
  for (
    const [name, text, format] of [["a.txt", "Where?||Here.", "pairs"], ["b.txt", "A text.", "text"]] as const
  ) {
    await withFiles({ [name]: text }, async (folder) => {
      await assertRejects(
        () => readTrainingExamples(`${folder}/${name}`, { model: MODEL, map: { prompt: "question" } }),
        DataFormatError,
        `columns can be named only where it has some: its format is "${format}"`,
      );
    });
  }
});

Deno.test("Alpaca's rows are conversations where there is a chat template, else pairs", async () => {
  const rows = [
    { instruction: "Add.", input: "1 + 1", output: "2" },
    { instruction: "Greet.", input: "", output: "Hello!" },
    { instruction: "Greet.", input: null, output: "Hello!", system: "Be brief." },
  ];
  const content = JSON.stringify(rows);
  assertEquals(await examplesOf("a.json", content), [
    { prompt: "Add.\n\n1 + 1", completion: "2" },
    { prompt: "Greet.", completion: "Hello!" },
    { prompt: "Be brief.\n\nGreet.", completion: "Hello!" },
  ]);
  const chats = await examplesOf("a.json", content, { chatTemplate });
  const texts = chats.map((example) => "parts" in example ? example.parts.map(({ text }) => text) : []);
  assertEquals(texts, [
    ["[user]Add.\n\n1 + 1[assistant]", "2"],
    ["[user]Greet.[assistant]", "Hello!"],
    ["[system]Be brief.[user]Greet.[assistant]", "Hello!"],
  ]);
});

Deno.test("Rows of ShareGPT are conversations, and who speaks must be known", async () => {
  const turns = [{ from: "human", value: "Hi" }, { from: "gpt", value: "Hello!" }];
  const [chat] = await examplesOf("a.jsonl", JSON.stringify({ conversations: turns, system: "Be brief." }), {
    chatTemplate,
  });
  assertEquals("parts" in chat! && chat.parts, [
    { text: "[system]Be brief.[user]Hi[assistant]", isLearnt: false },
    { text: "Hello!", isLearnt: true },
  ]);
  const error = await assertRejects(
    () =>
      examplesOf("a.jsonl", JSON.stringify({ conversations: [{ from: "alien", value: "x" }] }), {
        chatTemplate,
      }),
    DataFormatError,
  );
  assertStringIncludes(error.message, 'line 1, as "from" of turn 1 must be one of human, user, gpt');
  assertStringIncludes(error.message, 'current value is "alien"');
});

Deno.test("columns that are null are not there, and those of any name are mapped", async () => {
  const lines = [
    { prompt: "a", completion: "b", text: null, messages: null },
    { prompt: null, completion: null, text: "c", messages: null },
    {
      prompt: null,
      completion: null,
      text: null,
      messages: [{ role: "user", content: "d" }, { role: "assistant", content: "e" }],
    },
  ];
  const found = await examplesOf("a.jsonl", lines.map((line) => JSON.stringify(line)).join("\n"), {
    chatTemplate,
  });
  assertEquals(found.slice(0, 2), [{ prompt: "a", completion: "b" }, { text: "c" }]);
  assertEquals("parts" in found[2]!, true);
  const map = { prompt: "question", completion: "answer" };
  assertEquals(await examplesOf("a.csv", "text,question,answer\nx,Where?,At the harbour.\n", { map }), [
    PAIR,
  ]);
  await assertRejects(
    () => examplesOf("a.csv", "question,reply\nWhere?,There.\n", { map }),
    DataFormatError,
    'line 2, as a row must have the column "answer": its columns are question, reply',
  );
});

Deno.test("what the assistant says with weight 0 is not learnt", async () => {
  const messages = [
    { role: "user", content: "Where?" },
    { role: "assistant", content: "Go away!", weight: 0 },
    { role: "user", content: "Please?" },
    { role: "assistant", content: "At the harbour.", weight: 1 },
  ];
  const [chat] = await examplesOf("a.jsonl", JSON.stringify({ messages }), { chatTemplate });
  const learnt = "parts" in chat!
    ? chat.parts.filter(({ isLearnt }) => isLearnt).map(({ text }) => text)
    : [];
  assertEquals(learnt, ["At the harbour."]);
  messages[1]!.weight = 0.5;
  await assertRejects(
    () => examplesOf("a.jsonl", JSON.stringify({ messages }), { chatTemplate }),
    DataFormatError,
    '"weight" of a message must be 0 or 1',
  );
});

Deno.test("tables have quotes, line breaks in fields and commas; what is wrong is told with its line", async () => {
  const csv = 'prompt,completion\n"a ""quote"", b","line one\nline two"\n\nc,d\n';
  assertEquals(await examplesOf("a.csv", csv), [
    { prompt: 'a "quote", b', completion: "line one\nline two" },
    { prompt: "c", completion: "d" },
  ]);
  const BAD: readonly (readonly [csv: string, message: string])[] = [
    ["", "must begin with a header"],
    ["a,a\n1,2\n", 'line 1, as each column must have a name of its own: "a" comes twice'],
    [
      "prompt,completion\na,b\nc\n",
      "line 3, as a row must have 2 fields (prompt, completion): current value is 1",
    ],
    [
      'prompt,completion\na,"b\nc,d\n',
      'line 2, as a quoted field must end with ": the file ends before it, in field 2',
    ],
    [
      'prompt,completion\na,b"c\n',
      "line 2, as a field with quotes must be quoted whole, with each quote in it doubled, in field 2",
    ],
    ["prompt,completion\n\n\na,b,c\n", "line 4, as a row must have 2 fields"],
    ["prompt,completion\na,\n", 'line 2, as "completion" must be a string'],
    ["question,answer\na,b\n", "its columns are question, answer"],
  ];
  for (const [content, message] of BAD) {
    await assertRejects(() => examplesOf("a.csv", content), DataFormatError, message);
  }
});

Deno.test("a table of many portions has all its rows, and says the line of a wrong one", async () => {
  // Fields of several lines, so that portions end within quotes.
  const rows = Array.from(
    { length: 9000 },
    (_, i) => ({ prompt: `row ${i}\n\nof many`, completion: `"${i}"` }),
  );
  const written = rows.map(({ prompt, completion }) => `"${prompt}","${completion.replaceAll('"', '""')}"\n`);
  const csv = `prompt,completion\n${written.join("")}`;
  assertEquals(await examplesOf("a.csv", csv), rows);
  for (const [wrong, rule] of [['a,b"c', "a field with quotes must"], ['a,"b', "a quoted field must"]]) {
    const message = `line ${3 * rows.length + 2}, as ${rule}`;
    await assertRejects(() => examplesOf("a.csv", `${csv}${wrong}\n`), DataFormatError, message);
  }
});

Deno.test("Latin-1 is named with line, column and byte, in every format", async () => {
  const bytes = (text: string) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const CASES: readonly (readonly [name: string, text: string, line: number, column: number])[] = [
    ["a.csv", "prompt,completion\na,caf\xe9\n", 2, 6],
    ["a.jsonl", `${JSON_PAIR}\n{"text":"\xfcber"}\n`, 2, 10],
    // A byte that UTF-8 letters begin with, and nothing that may follow it.
    ["a.jsonl", `{"text":"caf\xe9"}\n`, 1, 13],
    ["a.json", `[\n{"text":"\xfcber"}]\n`, 2, 10],
    ["a.txt", "a||b\nd||\xe9\n", 2, 4],
  ];
  for (const [name, text, line, column] of CASES) {
    const error = await assertRejects(() => examplesOf(name, bytes(text)), DataFormatError);
    assertStringIncludes(error.message, `line ${line}, as a line must be UTF-8: current value is byte 0x`);
    assertStringIncludes(error.message, `at column ${column}, "`);
    assertStringIncludes(error.message, "in Latin-1");
  }
});

Deno.test("rows with bytes that are not UTF-8 are left out of tables and lists too, and no other", async () => {
  const bytes = (text: string) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const all = [1, 2, 3, 4, 5].map((i) => ({ prompt: `p${i}`, completion: i === 4 ? "two\nlines" : "x" }));
  const csv = all.map(({ prompt, completion }) => `${prompt},"${completion}"\n`);
  csv[1] = "caf\xe9,x\n";
  csv[3] = 'p4,"two\nl\xefnes"\n';
  const rows = all.map((row) => JSON.stringify(row));
  rows[1] = '{"prompt":"caf\xe9","completion":"x"}';
  rows[3] = '{"prompt":"p4",\n"completion":"\xef"}';
  for (
    const [name, text, lines] of [
      ["a.csv", `prompt,completion\n${csv.join("")}`, [3, 6]],
      ["a.json", `[\n${rows.join(",\n")}\n]\n`, [3, 6]],
      ["a.json", `[${rows.join(",").replace("\n", "")}]`, [1, 1]],
    ] as const
  ) {
    const bad: number[] = [];
    const found = await examplesOf(name, bytes(text), { onBadLine: ({ line }) => void bad.push(line) });
    assertEquals([found, bad], [[0, 2, 4].map((i) => all[i]), lines], name);
  }
});

Deno.test("a JSON list that is none is told with its line", async () => {
  for (
    const [content, message] of [
      ['[{"text":"a"}\n', 'line 1, as the list must end with "]"'],
      ['[{"text":"a"}]\n[1]', "line 2, as the file must be one list of objects"],
      ['[\n{"text":"a"},\n{"text":}\n]', "line 3, as a line must be JSON"],
      ['[\n{"text":"a"},\n\n7]', "as a line must be an object"],
    ] as const
  ) {
    await assertRejects(() => examplesOf("a.json", content), DataFormatError, message);
  }
  const nested = [{ text: 'a ] } , \\ " [' }, { text: "b", more: { list: [1, [2, {}]] } }];
  assertEquals(await examplesOf("a.json", JSON.stringify(nested, null, 1)), [
    { text: nested[0]!.text },
    { text: "b" },
  ]);
});

Deno.test("plain text is packed to the length and loses nothing; or a paragraph is a text", async () => {
  const text = "Kivo is a pub at the harbour.\n\nIt is cheap.\nAnd good.\n\n\nThe end.";
  const tokenizer = await loadModelTokenizer(MODEL);
  await withFiles({ "a.txt": text }, async (folder) => {
    const file = `${folder}/a.txt`;
    const options = { model: MODEL, tokenizer, length: 8 };
    const { sequences, counts } = await loadTrainingData(file, options);
    const all = [...tokenizer.encode(text), tokenizer.eos];
    const rejoined = sequences.flatMap(({ tokens }, i) => [...(i === 0 ? tokens : tokens.subarray(1))]);
    assertEquals(rejoined, all);
    assertEquals([counts.truncated, sequences.length], [0, Math.ceil((all.length - 1) / 8)]);
    const { examples } = await readTrainingExamples(file, { model: MODEL, format: "paragraphs" });
    assertEquals(examples, [
      { text: "Kivo is a pub at the harbour." },
      { text: "It is cheap.\nAnd good." },
      { text: "The end." },
    ]);
  });
});

Deno.test("all files of a folder count, in the order of their names, but not beside held-out parts", async () => {
  const files = {
    "b.csv": "text\nb\n",
    "a.jsonl": '{"text":"a"}\n',
    "README.md": "no data",
    ".hidden.jsonl": "{",
  };
  await withFiles(files, async (folder) => {
    const { examples, formats } = await readTrainingExamples(folder, { model: MODEL });
    assertEquals(examples, [{ text: "a" }, { text: "b" }]);
    assertEquals(formats, ["jsonl", "csv"]);
    await Deno.writeTextFile(`${folder}/train.jsonl`, '{"text":"c"}');
    await Deno.writeTextFile(`${folder}/test.jsonl`, '{"text":"d"}');
    await assertRejects(
      () => readTrainingExamples(folder, { model: MODEL }),
      DataFormatError,
      "it holds training data and test.jsonl; name one file",
    );
  });
  await withFiles({ "README.md": "no data" }, async (folder) => {
    await assertRejects(() => readTrainingExamples(folder, { model: MODEL }), DataFormatError, "it has none");
  });
});

Deno.test("memory holds a line of a large file, and a line has a limit", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const file = `${folder}/a.jsonl`;
    const line = `${JSON.stringify({ text: "x", filler: "y".repeat(1000) })}\n`;
    await Deno.writeTextFile(file, line.repeat(40_000));
    const before = Deno.memoryUsage().heapUsed;
    const { examples } = await readTrainingExamples(file, { model: MODEL });
    assertEquals(examples.length, 40_000);
    assertEquals(Deno.memoryUsage().heapUsed - before < 40e6, true, "half of the file's 80 MB as a text");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
