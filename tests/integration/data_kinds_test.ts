/**
 * Data of all kinds through the programs: pairs, plain texts, conversations by a chat template; what is cut or left
 * out is counted and said.
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
} from "@std/assert";
import {
  encodeExamples,
  loadAdapter,
  loadChatTemplate,
  loadModelTokenizer,
  parseExamples,
} from "@edgetuner/core";
import { inThread } from "../support/in_thread.ts";
import { ASSETS, EXAMPLES } from "../support/places.ts";

const TINY = `${ASSETS}tiny_gpt2`;

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly errors: readonly string[];
}

async function run(program: string, args: readonly string[]): Promise<Ended> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${EXAMPLES}${program}`, ...args],
    stdin: "null",
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  const errors = decoder.decode(stderr).split("\n").filter((l) => l !== "" && !l.includes("XDG_RUNTIME_DIR"));
  return { code, out: decoder.decode(stdout), errors };
}

/** A program that is to end before it computes anything. */
async function refusal(program: string, args: readonly string[]): Promise<Ended> {
  const { errors, ...ended } = await inThread(program, args);
  return { ...ended, errors: errors.split("\n") };
}

async function withFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await use(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** The tiny model with a chat template. */
async function chatModel(folder: string): Promise<string> {
  const model = `${folder}/model`;
  await Deno.mkdir(model);
  for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
    await Deno.copyFile(`${TINY}/${name}`, `${model}/${name}`);
  }
  await Deno.writeTextFile(
    `${model}/tokenizer_config.json`,
    JSON.stringify({
      eos_token: "<|endoftext|>",
      // The space after the role and what follows it are one token: it is left to the model to write.
      chat_template: "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}" +
        "{% if add_generation_prompt %}[assistant] {% endif %}",
    }),
  );
  return model;
}

const PLACES = ["harbour", "riverside", "city centre", "north gate"];

/** Conversations of which the sixth is long, with a bad line after them. */
function conversations(): string {
  const lines = Array.from({ length: 24 }, (_, i) => {
    const place = PLACES[i % PLACES.length]!;
    const question = i === 5 ? `Where? ${"again and again ".repeat(30)}` : `Where is it, ${i}?`;
    return JSON.stringify({
      messages: [
        { role: "system", content: "Be short." },
        { role: "user", content: question },
        { role: "assistant", content: `By the ${place}.` },
      ],
    });
  });
  return [...lines, "{ no JSON"].join("\n");
}

const LENGTH = 48;
const SMALL = ["--batch", "4", "--length", `${LENGTH}`, "--rank", "2"];

/** Of the one conversation that is too long: its answer, six tokens, fits. */
const CUT = { shortenedPrompts: 1, shortenedCompletions: 0 };

/** What the library says of the same data. */
async function expectedCounts(model: string, text: string) {
  const chatTemplate = await loadChatTemplate(model);
  const tokenizer = await loadModelTokenizer(model);
  let skipped = 0;
  const examples = parseExamples(text, { chatTemplate, onBadLine: () => skipped++ });
  const whole = encodeExamples(examples, tokenizer, { length: 100_000 });
  const truncated = whole.sequences.filter(({ tokens }) => tokens.length > LENGTH + 1).length;
  const { shortenedPrompts, shortenedCompletions } = encodeExamples(examples, tokenizer, { length: LENGTH });
  return { sequences: examples.length, truncated, shortenedPrompts, shortenedCompletions, skipped };
}

Deno.test("server_tuner.ts learns conversations, counts what is cut and left out, and generate.ts goes on as it learnt [slow]", async () => {
  await withFolder(async (folder) => {
    const model = await chatModel(folder);
    const data = `${folder}/chat.jsonl`;
    await Deno.writeTextFile(data, conversations());
    const strict = await refusal("server_tuner.ts", [
      "--model",
      model,
      "--data",
      data,
      ...SMALL,
      "--steps",
      "1",
    ]);
    assertEquals(strict.code, 1);
    assertStringIncludes(strict.errors.join("\n"), "line 25");

    const report = `${folder}/new/report.json`;
    const tuned = await run("server_tuner.ts", [
      ...["--model", model, "--data", data, "--valid", data, "--valid-batches", "1", "--skip-bad", ...SMALL],
      ...["--steps", "24", "--save", `${folder}/adapter`, "--report", report],
    ]);
    assertEquals(tuned.code, 0, tuned.errors.join("\n"));
    const result = JSON.parse(await Deno.readTextFile(report));
    const expected = await expectedCounts(model, conversations());
    assertEquals(expected, { ...CUT, sequences: 24, truncated: 1, skipped: 1 });
    assertEquals(result.data, { train: expected, valid: expected });
    // A line for each file: train and valid.
    assertEquals(
      tuned.errors.filter((line) => line.startsWith(`1 of 24 sequences of ${data} cut to 48 tokens: `))
        .length,
      2,
    );
    assertEquals(tuned.errors.filter((line) => line.startsWith("1 bad lines of ")).length, 2);
    const [before, after] = result.validations as { loss: number }[];
    assertLess(after!.loss, before!.loss / 2);

    const question = ["--chat", "--system", "Be short.", "--prompt", "Where is it, 8?"];
    const common = ["--model", model, "--adapter", `${folder}/adapter`, "--max-tokens", "12"];
    const asked = await run("generate.ts", [...common, ...question, "--report", `${folder}/asked.json`]);
    assertEquals(asked.code, 0, asked.errors.join("\n"));
    const read = await run("generate.ts", [
      ...[...common, "--data", data, "--skip-bad", "--first", "8", "--count", "1"],
      ...["--report", `${folder}/read.json`],
    ]);
    assertEquals(read.code, 0, read.errors.join("\n"));
    const resultOf = async (name: string) =>
      JSON.parse(await Deno.readTextFile(`${folder}/${name}.json`)).results[0];
    const [one, other] = [await resultOf("asked"), await resultOf("read")];
    const opening = "[system] Be short.<|endoftext|>[user] Where is it, 8?<|endoftext|>[assistant] ";
    assertEquals([one.prompt, other.prompt], [opening, opening]);
    assertEquals([one.completion, other.completion], ["", "By the harbour."]);
    // The same words are the same tokens, whether typed or read; what it learnt to say comes.
    assertEquals(one.generated, other.generated);
    assertMatch(one.generated, /^By the /);
  });
});

Deno.test("a chat template that is broken or missing is said so, and does not make bad lines of conversations [slow]", async () => {
  await withFolder(async (folder) => {
    const model = await chatModel(folder);
    await Deno.writeTextFile(`${model}/chat_template.jinja`, "{% if %}");
    const data = `${folder}/chat.jsonl`;
    await Deno.writeTextFile(data, `${conversations()}\n{"text":"One."}`);
    const args = ["--model", model, "--data", data, ...SMALL, "--steps", "1", "--skip-bad"];
    const broken = await refusal("server_tuner.ts", args);
    assertEquals([broken.code, broken.errors.length], [1, 1], broken.errors.join("\n"));
    assertStringIncludes(
      broken.errors[0]!,
      `${model}/chat_template.jinja as its chat template must be valid`,
    );
    // Nor does one that is missing.
    const without = await refusal("server_tuner.ts", [
      "--data",
      data,
      ...SMALL,
      "--steps",
      "1",
      "--skip-bad",
    ]);
    assertEquals([without.code, without.errors.length], [2, 1], without.errors.join("\n"));
    assertStringIncludes(without.errors[0]!, `${data} as its "messages" must come with the chat template`);
    const asked = await refusal("generate.ts", ["--model", model, "--chat", "--prompt", "Where?"]);
    assertEquals([asked.code, asked.errors.length], [1, 1], asked.errors.join("\n"));
    assertStringIncludes(asked.errors[0]!, "must be valid");
  });
});

Deno.test("demo.ts takes conversations, says through its processes what was cut, and shows texts before and after [slow]", async () => {
  await withFolder(async (folder) => {
    const model = await chatModel(folder);
    const data = `${folder}/chat.jsonl`;
    await Deno.writeTextFile(data, conversations());
    const out = `${folder}/run`;
    const ended = await run("demo.ts", [
      ...["--model", model, "--data", data, "--valid", data, "--test", data, "--skip-bad", ...SMALL],
      ...[
        "--buckets",
        "4",
        "--steps",
        "12",
        "--valid-batches",
        "1",
        "--prompts",
        "6",
        "--capacities",
        "5,3",
      ],
      ...["--pruner", "random", "--share", "0.25", "--out", out, "--report", `${folder}/report.json`],
    ]);
    assertEquals(ended.code, 0, ended.errors.join("\n"));
    const report = JSON.parse(await Deno.readTextFile(`${folder}/report.json`));
    const expected = { ...CUT, sequences: 24, truncated: 1, skipped: 1 };
    // The long question fits the model's 127 places or not: it has 120 tokens and more.
    const { truncated: cut, ...test } = report.data.test;
    assertEquals([report.data.train, report.data.valid, test], [expected, expected, {
      sequences: 6,
      skipped: 1,
    }]);
    assertEquals(ended.errors.filter((line) => line.includes("sequences of")).length, 2);
    assertEquals(ended.errors.filter((line) => line.includes("prompts of")).length, cut);
    assertEquals(report.samples.length, 6);
    // Of a conversation what was asked.
    assertEquals(report.samples[0].prompt, "Where is it, 0?");
    assertEquals(report.samples[0].reference, "By the harbour.");
    assertNotEquals(report.samples[0].before, report.samples[0].after);
    assertLess(report.summary.validAfter, report.summary.validBefore);
    // A quarter of the heads is pruned: 8 of 32, in whole heads of each step.
    for (const { mask, mode } of report.steps) {
      if (mode === "train") assertEquals(mask.reduce((a: number, b: number) => a + b, 0), 8);
    }
    // Buckets: batches are padded to multiples of 4, not to 48.
    const padding = report.devices["device-1"].padding;
    assertLess(padding.places, padding.allPlaces);
    assertEquals((await loadAdapter(`${out}/adapter`)).model.heads, 8);
  });
});

Deno.test("train_pruner.ts takes plain texts, and refuses too few steps and other models' samples at once [slow]", async () => {
  await withFolder(async (folder) => {
    const data = `${folder}/texts.jsonl`;
    const texts = Array.from(
      { length: 12 },
      (_, i) => JSON.stringify({ text: `The Vaults, ${PLACES[i % 4]}.` }),
    );
    await Deno.writeTextFile(data, texts.join("\n"));
    const common = ["--data", data, "--samples", `${folder}/s.bin`, "--out", `${folder}/predictor`, ...SMALL];
    const few = await refusal("train_pruner.ts", [...common, "--steps", "5", "--history", "2"]);
    assertEquals([few.code, few.errors.length], [2, 1]);
    const least = Number(few.errors[0]!.match(/at least (\d+) with --history 2: current value is 5/)![1]);
    // The least that it names is enough, and one less is not.
    const fewer = await refusal("train_pruner.ts", [...common, "--steps", `${least - 1}`, "--history", "2"]);
    assertStringIncludes(fewer.errors.join("\n"), `at least ${least}`);
    const args = ["--steps", `${least}`, "--history", "2", "--runs", "1", "--epochs", "2"];
    const trained = await run("train_pruner.ts", [...common, ...args, "--report", `${folder}/report.json`]);
    assertEquals(trained.code, 0, trained.errors.join("\n"));
    const report = JSON.parse(await Deno.readTextFile(`${folder}/report.json`));
    const none = { shortenedPrompts: 0, shortenedCompletions: 0 };
    assertEquals(report.data.train, { ...none, sequences: 12, truncated: 0, skipped: 0 });
    assertEquals(report.samples, least);
    for (const count of Object.values(report.windows)) assertGreater(count as number, 0);
    // Nothing is spliced to them that was trained in another way, before a step is run again.
    const bytes = await Deno.readFile(`${folder}/s.bin`);
    const more = ["--steps", `${least + 10}`, "--history", "2", "--runs", "1", "--epochs", "2"];
    const shorter = `${folder}/shorter.jsonl`;
    await Deno.writeTextFile(shorter, texts.slice(1).join("\n"));
    for (
      const [flag, value, name] of [
        ["mode", "slice", "lora.mode"],
        ["rank", "3", "lora.rank"],
        ["rate", "0.5", "optimizer.learningRate"],
        ["batch", "3", "batch"],
        ["data", shorter, "data"],
      ] as const
    ) {
      const mixed = await run("train_pruner.ts", [...common, ...more, `--${flag}`, value]);
      assertEquals(mixed.code, 1);
      assertStringIncludes(mixed.errors.at(-1)!, `must have the same "${name}" as the run`);
      assertEquals(await Deno.readFile(`${folder}/s.bin`), bytes);
    }
    // Samples of another model are what is wrong, however few steps there are.
    const model = await chatModel(folder);
    const config = JSON.parse(await Deno.readTextFile(`${model}/config.json`));
    await Deno.writeTextFile(`${model}/config.json`, JSON.stringify({ ...config, layer_norm_epsilon: 1e-6 }));
    const other = await refusal("train_pruner.ts", [...common, "--steps", "1", "--model", model]);
    assertEquals(other.code, 2);
    assertStringIncludes(other.errors.join("\n"), "fingerprint");
  });
});

Deno.test("generate.ts goes on with a text as it is, or answers it as a pair's prompt, and says what it cannot do [slow]", async () => {
  await withFolder(async (folder) => {
    const generated = async (...args: string[]) => {
      const report = `${folder}/report.json`;
      const ended = await run("generate.ts", [...args, "--max-tokens", "10", "--report", report]);
      assertEquals(ended.code, 0, ended.errors.join("\n"));
      return JSON.parse(await Deno.readTextFile(report)).results[0].generated as string;
    };
    const prompt = ["--prompt", "name[The Vaults], food[Thai]"];
    const plain = await generated(...prompt);
    assertEquals(await generated(...prompt, "--raw"), plain);
    assertNotEquals(await generated(...prompt, "--pair"), plain);
    assert((await generated("--prompt", "")).length > 0, "from nothing");
    const predictions = `${folder}/p.jsonl`;
    const long = await run("generate.ts", [
      ...["--count", "2", "--min-length", "30", "--max-tokens", "34", "--predictions", predictions],
    ]);
    assertEquals(long.code, 0, long.errors.join("\n"));
    const eos = (await loadModelTokenizer(TINY)).eos;
    for (const line of (await Deno.readTextFile(predictions)).trimEnd().split("\n")) {
      const { predict } = JSON.parse(line) as { predict: number[] };
      assert(predict.length >= 30 && predict.length <= 34, `${predict.length} tokens`);
      assertEquals(predict.slice(0, 30).includes(eos), false);
    }
    // All that is asked for comes after a long prompt too, which loses its start.
    const pairs = `${folder}/pairs.jsonl`;
    await Deno.writeTextFile(pairs, JSON.stringify({ prompt: "good food ".repeat(80), completion: "x" }));
    const room = await run("generate.ts", [
      ...["--data", pairs, "--count", "1", "--max-tokens", "40", "--min-length", "40"],
      ...["--predictions", predictions, "--report", `${folder}/room.json`],
    ]);
    assertEquals(room.code, 0, room.errors.join("\n"));
    assertEquals(room.errors[0], `1 of 1 prompts of ${pairs} cut to 88 tokens`);
    assertEquals(JSON.parse(await Deno.readTextFile(predictions)).predict.length, 40);
    const { data: told } = JSON.parse(await Deno.readTextFile(`${folder}/room.json`));
    assertEquals(told, { test: { sequences: 1, truncated: 1, skipped: 0 } });
    const texts = `${folder}/texts.jsonl`;
    await Deno.writeTextFile(texts, '{"text":"Only a text."}');
    for (
      const [args, code, part] of [
        [["--prompt", "", "--pair"], 2, "must not be empty"],
        [["--prompt", "x", "--chat"], 2, "chat template"],
        [["--prompt", "x", "--raw", "--chat"], 2, "one of --raw and --chat"],
        [["--raw"], 2, "--prompt"],
        [["--prompt", "x", "--system", "y"], 2, "--chat"],
        [["--min-length", "9", "--max-tokens", "8"], 2, "--min-length"],
        [["--top-k", "5"], 2, "--top-k needs --temperature"],
        [["--top-p", "0.5"], 2, "--top-p needs --temperature"],
        [["--adapter", `${folder},${folder}/no`, "--prompt", "x"], 1, `${folder}`],
        [["--data", texts], 1, "plain text"],
      ] as const
    ) {
      const refused = await refusal("generate.ts", args);
      assertEquals([refused.code, refused.errors.length], [code, 1], `${args}: ${refused.errors.join("\n")}`);
      assertStringIncludes(refused.errors[0]!, part);
    }
    // What the tokenizer and the model must be asked for.
    for (
      const [args, part] of [
        [["--prompt", "hi", "--max-tokens", "500"], "--max-tokens must be at most 126"],
        [["--first", "500"], "--first must be below 200, the number of prompts: current value is 500"],
      ] as const
    ) {
      const refused = await run("generate.ts", args);
      assertEquals([refused.code, refused.errors.length], [2, 1], refused.errors.join("\n"));
      assertStringIncludes(refused.errors[0]!, part);
    }
  });
});
