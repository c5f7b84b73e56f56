import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { loadTokenizer, writeFormatted } from "@edgetuner/core";
import { inThread } from "../support/in_thread.ts";

const ROOT = `${import.meta.dirname}/../..`;
const FIXTURES = "tests/fixtures/eval";

/** Runs a program of the examples as a user does, with piped output. */
async function run(program: string, args: string[]): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `examples/${program}`, ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  return { code, out: decoder.decode(stdout), err: decoder.decode(stderr) };
}

/** The same in this thread, for what needs no GPU; the tests are run from the repository. */
async function here(program: string, args: string[]): Promise<{ code: number; out: string; err: string }> {
  const { code, out, errors } = await inThread(program, args);
  return { code, out, err: errors === "" ? "" : `${errors}\n` };
}

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("evaluate.ts prints the scores, and writes report and page [slow]", async () => {
  await inFolder(async (folder) => {
    const { code, out, err } = await run("evaluate.ts", [
      `--references=${FIXTURES}/pipeline/e2e/expected_ref.txt`,
      `--predictions=${FIXTURES}/pipeline/e2e/expected_pred.txt`,
      `--synonyms=${FIXTURES}/meteor`,
      `--report=${folder}/report.json`,
      `--pretty=${folder}/page.html`,
      "--samples=5",
    ]);
    const expected = JSON.parse(
      await Deno.readTextFile(`${ROOT}/${FIXTURES}/pipeline/e2e/expected_scores.json`),
    );
    const { METEOR_noparaphrase: METEOR, ...others } = expected.printed_python;
    const table = Object.fromEntries(out.trim().split("\n").map((line) => line.split(/ +/)));
    assertMatch(err, /^Done: 22 instances scored in .*\nSaved: .*report.json; .*page.html\n$/);
    assertEquals({ code, table }, { code: 0, table: { METEOR, ...others } });
    const report = JSON.parse(await Deno.readTextFile(`${folder}/report.json`));
    assertEquals([report.instances, report.segments.length, report.scores.BLEU.toFixed(4)], [
      22,
      22,
      others.BLEU,
    ]);
    const page = await Deno.readTextFile(`${folder}/page.html`);
    assertEquals(page.match(/<article>/g)?.length, 5);
    assertStringIncludes(page, "<td>0.8345</td>");
    const data = `synonyms from ${FIXTURES}/meteor, without the paraphrase table`;
    assertEquals(report.meteor, data);
    assertStringIncludes(page, `METEOR: ${data}.`);
    assertEquals(/<script|https?:|src=/.test(page), false);
  });
});

Deno.test("evaluate.ts reads CSV and shows prompts; texts cannot break the page [slow]", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(
      `${folder}/refs.csv`,
      'mr,ref\n"name[A & B]","<b>A</b> pub."\n"name[A & B]",A pub.\n"name[C]",C.\n',
    );
    await Deno.writeTextFile(`${folder}/pred.txt`, "A <i>new</i> pub.\n\n");
    const { code, out } = await here("evaluate.ts", [
      `--references=${folder}/refs.csv`,
      `--predictions=${folder}/pred.txt`,
      "--synonyms=none",
      `--pretty=${folder}/page.html`,
    ]);
    assertEquals(code, 0);
    assertMatch(out, /^METEOR +-$/m);
    const page = await Deno.readTextFile(`${folder}/page.html`);
    assertStringIncludes(page, '<p class="prompt">name : A &amp; B</p>');
    assertStringIncludes(page, "A &lt;<mark>i</mark>&gt;<mark>new</mark>&lt;/<mark>i</mark>&gt; pub.");
    assertStringIncludes(page, "<mark>(empty)</mark>");
    assertStringIncludes(page, "METEOR: not computed, as no synonyms were given.");
    assertStringIncludes(page, "<li>&lt;b&gt;A&lt;/b&gt; pub.</li>");
  });
});

Deno.test("evaluate.ts reads CSV with a mark at its start, and names what is wrong with one [slow]", async () => {
  await inFolder(async (folder) => {
    const refs = 'mr,ref\n"name[A]",Caf\u00e9 A.\n"name[B]",B is\n';
    const score = (name: string, predictions = "ok") =>
      here("evaluate.ts", [
        `--references=${folder}/${name}.csv`,
        `--predictions=${folder}/${predictions}.txt`,
        "--synonyms=none",
      ]);
    await Deno.writeTextFile(`${folder}/plain.csv`, refs);
    await Deno.writeTextFile(`${folder}/marked.csv`, `\uFEFF${refs}`);
    await Deno.writeFile(`${folder}/latin.csv`, Uint8Array.from(refs, (letter) => letter.charCodeAt(0)));
    await Deno.writeTextFile(`${folder}/ok.txt`, "\uFEFFCaf\u00e9 A.\nB is\n");
    await Deno.writeTextFile(`${folder}/few.txt`, "Caf\u00e9 A.\n");
    const [plain, marked] = [await score("plain"), await score("marked")];
    assertEquals([plain.code, marked.out], [0, plain.out]);
    const wrong = [
      [await score("latin"), 1, /latin\.csv, line 2, as a row must be UTF-8: current value is .*Caf/],
      [await score("missing"), 2, /--references must be a file or a folder that is there: .*missing\.csv"/],
      [await score("plain", "missing"), 1, /missing\.txt/],
      [await score("plain", "few"), 1, /few\.txt .*: there are 1 lines and 2 instances/],
    ] as const;
    for (const [{ code, out, err }, expected, message] of wrong) {
      assertEquals([code, out, err.trim().split("\n").length], [expected, "", 1], err);
      assertMatch(err, message);
    }
  });
});

Deno.test("evaluate.ts says what is wrong in one line [slow]", async () => {
  const bare = await here("evaluate.ts", []);
  assertEquals([bare.code, bare.out], [2, ""]);
  assertMatch(bare.err, /^Cannot run evaluate.ts as --references must be given; see --help\n$/);
  const nowhere = await here("evaluate.ts", ["--references=nowhere", "--predictions=nowhere"]);
  assertEquals(nowhere.code, 2);
  assertMatch(nowhere.err, /^Cannot score as --references must be a file or a folder .*"nowhere"\n$/);
  const counts = await here("evaluate.ts", [
    `--references=${FIXTURES}/pipeline/e2e/expected_ref.txt`,
    `--predictions=${FIXTURES}/pipeline/dart/expected_pred.txt`,
    "--synonyms=none",
  ]);
  assertEquals(counts.code, 1);
  assertMatch(
    counts.err,
    /^Cannot score .*: there are 143 lines and 22 instances( \(--predictions .*\))?\n$/,
  );
});

Deno.test("format_data.ts, decode.ts and evaluate.ts follow each other [slow]", async () => {
  await inFolder(async (folder) => {
    const formatted = await here("format_data.ts", [
      "--format=dart",
      `--input=${FIXTURES}/data/dart/dart-v1.1.1-full-dev.excerpt.json`,
      `--output=${folder}/data.jsonl`,
    ]);
    assertMatch(formatted.err, /^Done: \d+ pairs, \d+ prompts/);
    assertEquals(
      await Deno.readTextFile(`${folder}/data.jsonl`),
      await Deno.readTextFile(`${ROOT}/${FIXTURES}/data/dart/expected_formatted.jsonl`),
    );

    const texts = ["a quiet pub", "a loud pub", "no food"];
    const prompts = ["one", "one", "two"];
    const pairs = texts.map((completion, i) => ({ prompt: prompts[i]!, completion }));
    await Deno.writeTextFile(`${folder}/data.jsonl`, writeFormatted(pairs));
    const tokenizer = await loadTokenizer(`${ROOT}/cli/assets/tiny_gpt2/tokenizer.json`);
    const lines = [[2, " no food"], [0, " a Quiet pub."]] as const;
    await Deno.writeTextFile(
      `${folder}/beam.jsonl`,
      lines.map(([id, text]) =>
        `${JSON.stringify({ id, predict: [...tokenizer.encode(text), tokenizer.eos, 0, 0] })}\n`
      ).join(""),
    );
    const decoded = await here("decode.ts", [
      `--data=${folder}/data.jsonl`,
      `--predictions=${folder}/beam.jsonl`,
      "--model=cli/assets/tiny_gpt2",
      `--output=${folder}/texts`,
      "--lower-case",
      "--tokenize",
    ]);
    assertEquals(decoded.code, 0, decoded.err);
    assertMatch(decoded.err, /^Done: 2 instances\nSaved: references.txt and predictions.txt in .*\nNext: /);
    assertEquals(await Deno.readTextFile(`${folder}/texts/predictions.txt`), "a quiet pub .\nno food\n");
    assertEquals(
      await Deno.readTextFile(`${folder}/texts/references.txt`),
      "a quiet pub\na loud pub\n\nno food\n\n",
    );
    // A line break makes no second line, and tokens that nobody knows are not dropped in silence.
    const odd = [...tokenizer.encode(" a pub\nof note"), tokenizer.vocabSize, tokenizer.vocabSize + 7];
    await Deno.writeTextFile(
      `${folder}/beam.jsonl`,
      [odd, tokenizer.encode(" no food")].map((predict, i) => `${JSON.stringify({ id: 2 * i, predict })}\n`)
        .join(""),
    );
    const told = await here("decode.ts", [
      `--data=${folder}/data.jsonl`,
      `--predictions=${folder}/beam.jsonl`,
      "--model=cli/assets/tiny_gpt2",
      `--output=${folder}/texts`,
    ]);
    assertEquals(told.code, 0, told.err);
    assertEquals(await Deno.readTextFile(`${folder}/texts/predictions.txt`), "a pub of note\nno food\n");
    assertMatch(told.err, /^2 tokens of 1 predictions left out: /m);
    assertMatch(told.err, /^1 texts had line breaks, which became spaces$/m);
    await Deno.writeTextFile(`${folder}/beam.jsonl`, '{"id":0,"predict":"x"}\n');
    const bad = await here("decode.ts", [
      `--data=${folder}/data.jsonl`,
      `--predictions=${folder}/beam.jsonl`,
      "--model=cli/assets/tiny_gpt2",
      `--output=${folder}/texts`,
    ]);
    assertEquals(bad.code, 1);
    assertMatch(bad.err, /beam.jsonl, line 1, as it must be/);
  });
});

Deno.test("server_tuner.ts learns from conversations and counts bad lines [slow]", async () => {
  await inFolder(async (folder) => {
    for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
      await Deno.copyFile(`${ROOT}/cli/assets/tiny_gpt2/${name}`, `${folder}/${name}`);
    }
    await Deno.writeTextFile(
      `${folder}/tokenizer_config.json`,
      JSON.stringify({
        chat_template: "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" +
          "{% if add_generation_prompt %}assistant: {% endif %}",
      }),
    );
    const chat = { messages: [{ role: "user", content: "Hi" }, { role: "assistant", content: "Hello" }] };
    const lines = [chat, { text: "A pub." }, { prompt: "a", completion: "b" }, { nothing: 1 }];
    await Deno.writeTextFile(`${folder}/d.jsonl`, lines.map((line) => JSON.stringify(line)).join("\n"));
    const args = [`--model=${folder}`, `--data=${folder}/d.jsonl`, "--steps=1", "--batch=3", "--length=16"];
    const strict = await here("server_tuner.ts", args);
    assertEquals(strict.code, 1);
    assertMatch(strict.err, /d.jsonl, line 4, as a row must have "messages", "text" or "prompt"/);
    const lenient = await run("server_tuner.ts", [...args, "--skip-bad"]);
    assertEquals(lenient.code, 0);
    assertMatch(lenient.err, /^1 bad lines of .*; the first: line 4: a row must have/m);
  });
});
