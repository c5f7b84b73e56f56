/**
 * Choice tasks end to end: rows as the data sets have them, tuning on their right answers, accuracies.
 */

import {
  CachedSession,
  encodeExamples,
  encodeRequest,
  examplePrompt,
  loadAdapter,
  loadEmbeddingAndHead,
  loadExamples,
  loadHeads,
  loadLayers,
  loadModel,
  loadTokenizer,
  parseOpenBookQa,
  parseWinogrande,
  rightAnswers,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { inThreadWithGpu } from "../support/in_thread.ts";
import { assertClose } from "../support/tolerance.ts";

const ROOT = `${import.meta.dirname}/../..`;
const MODEL = `${ROOT}/cli/assets/tiny_gpt2`;

/** How a program ended, and what it printed. */
interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs a program of the examples in this thread. */
async function run(program: string, args: string[]): Promise<Ended> {
  const { code, out, errors } = await inThreadWithGpu(program, args);
  return { code, out, err: errors };
}

/** Runs a program of the examples as a user does, with piped output. */
async function runAlone(program: string, args: string[]): Promise<Ended> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `examples/${program}`, ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  const lines = decoder.decode(stderr).split("\n").filter((line) => !line.includes("XDG_RUNTIME_DIR"));
  return { code, out: decoder.decode(stdout), err: lines.join("\n") };
}

/** Runs a program that must end well; returns what it prints. */
async function succeed(program: string, ...args: string[]): Promise<string> {
  return outOf(await run(program, args));
}

function outOf({ code, out, err }: Ended): string {
  assertEquals(code, 0, err);
  return out;
}

/** What a program says of itself, on standard error. */
async function notesOf(program: string, ...args: string[]): Promise<string> {
  const { code, err } = await run(program, args);
  assertEquals(code, 0, err);
  return err;
}

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Questions of a task, the answers not yet told. */
interface Rows {
  readonly write: (golds: readonly number[]) => string;
  readonly parse: typeof parseWinogrande;
  readonly count: number;
  readonly answers: number;
}

const SENTENCES: readonly (readonly [sentence: string, option1: string, option2: string])[] = [
  ["The pub beat the cafe in the vote since the _ served better fish.", "pub", "cafe"],
  ["Ann lent Bea a coat as _ was cold near the river.", "Ann", "Bea"],
  ["The bread did not fit in the basket because the _ was too large.", "bread", "basket"],
  ["The chef paid the waiter after _ asked for money.", "the chef", "the waiter"],
  ["Tom walked past Max without a word, so _ felt sad.", "Tom", "Max"],
];
const STEMS: readonly (readonly [stem: string, ...choices: string[]])[] = [
  ["A place by the river that serves cheap food is most likely to have", "fish", "snow", "a moon", "glass"],
  ["When a family with children looks for dinner they want", "a kettle", "a quiet table", "sand", "a drum"],
  ["Bread is made from", "stones", "flour", "rain", "paper"],
  ["Coffee is best", "hot", "blue", "square", "asleep"],
];
const TASKS: Readonly<Record<"winogrande" | "openbookqa", Rows>> = {
  winogrande: {
    write: (golds) =>
      SENTENCES.map(([sentence, option1, option2], i) =>
        JSON.stringify({ qID: `made-up-${i}`, sentence, option1, option2, answer: String(golds[i]! + 1) })
      ).join("\n"),
    parse: parseWinogrande,
    count: SENTENCES.length,
    answers: 2,
  },
  openbookqa: {
    write: (golds) =>
      STEMS.map(([stem, ...choices], i) =>
        JSON.stringify({
          id: `made-up-${i}`,
          question: { stem, choices: choices.map((text, k) => ({ text, label: "ABCD"[k] })) },
          answerKey: "ABCD"[golds[i]!],
        })
      ).join("\n"),
    parse: parseOpenBookQa,
    count: STEMS.length,
    answers: 4,
  },
};

interface Result {
  readonly question: number;
  readonly gold: number;
  readonly chosen: number;
  readonly chosenByCharacter?: number;
  readonly logLikelihoods: readonly number[];
}

async function readResults(file: string): Promise<Result[]> {
  return (await Deno.readTextFile(file)).trimEnd().split("\n").map((line) => JSON.parse(line));
}

/** Little is left of the logits of texts learnt by heart, but for their rounding: 7e-6 was measured over ten tokens. */
const SUMS = { absolute: 5e-5, relative: 1e-5, ofLargest: true };

const tokenizer = await loadTokenizer(`${MODEL}/tokenizer.json`);
const engine = await Engine.create();

/** The same likelihoods token by token, from logits that are read back: another way than the program's. */
async function slowLikelihoods(file: string, rows: Rows, adapter: string): Promise<number[][]> {
  const model = await loadModel(MODEL);
  using layers = loadLayers(engine, model);
  using ends = loadEmbeddingAndHead(engine, model);
  using heads = loadHeads(engine, await loadAdapter(adapter));
  using session = new CachedSession({ engine, layers, ends, heads });
  const found: number[][] = [];
  for (const { requests } of rows.parse(await Deno.readTextFile(file))) {
    const sums: number[] = [];
    for (const request of requests) {
      const { context, continuation } = encodeRequest(tokenizer, request);
      let logits = await session.start(context);
      let sum = 0;
      for (const [i, token] of continuation.entries()) {
        const most = Math.max(...logits);
        sum += logits[token]! - most - Math.log(logits.reduce((all, x) => all + Math.exp(x - most), 0));
        if (i + 1 < continuation.length) logits = await session.append([token], [0]);
      }
      sums.push(sum);
    }
    found.push(sums);
  }
  return found;
}

for (const task of ["winogrande", "openbookqa"] as const) {
  const rows = TASKS[task];
  Deno.test(`${task}: format_data.ts, server_tuner.ts and choice.ts follow each other [slow]`, async () => {
    await inFolder(async (folder) => {
      const data = `${folder}/rows.jsonl`;
      // Right is what the base model finds least likely, so that it knows none of the answers.
      await Deno.writeTextFile(data, rows.write(Array(rows.count).fill(0)));
      const score = (name: string, ...args: string[]) =>
        succeed(
          "choice.ts",
          `--task=${task}`,
          `--data=${data}`,
          `--results=${folder}/${name}.jsonl`,
          ...args,
        );
      await score("first");
      const first = await readResults(`${folder}/first.jsonl`);
      assertEquals(first.map(({ question }) => question), [...Array(rows.count).keys()]);
      const golds = first.map(({ logLikelihoods }) => logLikelihoods.indexOf(Math.min(...logLikelihoods)));
      await Deno.writeTextFile(data, rows.write(golds));
      const untuned = await score("untuned");
      assertMatch(
        untuned,
        new RegExp(`^${task}: ${rows.count} questions, ${rows.count * rows.answers} answers`),
      );
      assertMatch(untuned, /^acc {7}0\.0000 ± 0\.0000$/m);
      assertEquals((await readResults(`${folder}/untuned.jsonl`)).map(({ gold }) => gold), golds);

      const formatted = await notesOf(
        "format_data.ts",
        `--format=${task}`,
        `--input=${data}`,
        `--output=${folder}/tune.jsonl`,
      );
      assertStringIncludes(formatted, `${rows.count} right answers of ${rows.count} questions`);
      // What is learnt is what is scored.
      const examples = await loadExamples(`${folder}/tune.jsonl`);
      const { sequences } = encodeExamples(examples, tokenizer, { length: 64 });
      rows.parse(await Deno.readTextFile(data)).forEach(({ requests, gold }, i) => {
        const { context, continuation } = encodeRequest(tokenizer, requests[gold]!);
        assertEquals([...sequences[i]!.tokens], [...context, ...continuation]);
        assertEquals(sequences[i]!.firstTarget, context.length);
        assertEquals(examplePrompt(examples[i]!, tokenizer).tokens, context);
      });

      const adapter = `${folder}/adapter`;
      await succeed(
        "server_tuner.ts",
        `--data=${folder}/tune.jsonl`,
        ...["--steps=60", "--rate=0.01", "--batch=5", "--length=32", "--smoothing=0", `--save=${adapter}`],
      );
      const tuned = await score(
        "tuned",
        `--adapter=${adapter}`,
        "--batch=3",
        `--report=${folder}/report.json`,
      );
      const results = await readResults(`${folder}/tuned.jsonl`);
      const slow = await slowLikelihoods(data, rows, adapter);
      const largest = (values: readonly number[]) => values.indexOf(Math.max(...values));
      for (const [i, { logLikelihoods, chosen, chosenByCharacter }] of results.entries()) {
        assertClose(logLikelihoods, slow[i]!, SUMS, `question ${i}`);
        assertEquals(chosen, largest(logLikelihoods), `question ${i}`);
        const byCharacter = task === "winogrande"
          ? undefined
          : largest(logLikelihoods.map((sum, k) => sum / STEMS[i]![1 + k]!.length));
        assertEquals(chosenByCharacter, byCharacter, `question ${i}`);
      }
      const hits = slow.map((sums, i) => sums.indexOf(Math.max(...sums)) === golds[i] ? 1 : 0);
      const mean = hits.reduce<number>((sum, hit) => sum + hit, 0) / hits.length;
      assert(mean >= 0.75, `of questions learnt by heart at least three in four: ${hits}`);
      const error = Math.sqrt(
        hits.reduce<number>((sum, hit) => sum + (hit - mean) ** 2, 0) / (hits.length - 1) / hits.length,
      );
      assertStringIncludes(tuned, `acc       ${mean.toFixed(4)} ± ${error.toFixed(4)}\n`);
      const report = JSON.parse(await Deno.readTextFile(`${folder}/report.json`));
      assertEquals([report.questions, report.acc.mean, report.bytes], [rows.count, mean, 0]);

      if (task === "winogrande") {
        assertEquals([tuned.includes("acc_norm"), report.acc_norm], [false, null]);
      } else {
        // Per character of the answer, without the space before it.
        const normalised = slow.map((sums, i) => {
          const perCharacter = sums.map((sum, k) => sum / STEMS[i]![1 + k]!.length);
          return perCharacter.indexOf(Math.max(...perCharacter)) === golds[i] ? 1 : 0;
        });
        const share = normalised.reduce<number>((sum, hit) => sum + hit, 0) / normalised.length;
        assertEquals(report.acc_norm.mean, share);
        assertStringIncludes(tuned, `acc_norm  ${share.toFixed(4)} ± `);
      }

      if (task !== "winogrande") return;
      // Some questions give the numbers that they give among all.
      const some = await score("some", `--adapter=${adapter}`, "--count=2");
      assertMatch(some, new RegExp(`^${task}: 2 questions, ${2 * rows.answers} answers`));
      assertEquals(await readResults(`${folder}/some.jsonl`), results.slice(0, 2));
      const packed = await score("packed", `--adapter=${adapter}`, "--base-weights=f16");
      assertStringIncludes(packed, "acc ");
      const one = await score("one", "--count=1");
      assertMatch(one, /^acc {7}[01]\.0000 ± -$/m);
    });
  });
}

Deno.test("choice.ts scores through the split what it scores on one machine [slow]", async () => {
  await inFolder(async (folder) => {
    const data = `${folder}/rows.jsonl`;
    await Deno.writeTextFile(data, TASKS.winogrande.write([0, 1, 0, 1, 0]));
    const rows = parseWinogrande(await Deno.readTextFile(data));
    const lines = rightAnswers(rows).map((example) => JSON.stringify(example));
    await Deno.writeTextFile(`${folder}/tune.jsonl`, lines.join("\n"));
    const lora = ["--rank=4", "--alpha=16", "--mode=slice", "--targets=q,v"];
    const tuning = [`--data=${folder}/tune.jsonl`, "--steps=8", "--batch=5", "--length=32"];
    await succeed("server_tuner.ts", ...tuning, ...lora, `--save=${folder}/heads`);
    const score = (name: string, ...args: string[]) =>
      succeed("choice.ts", `--data=${data}`, `--results=${folder}/${name}.jsonl`, ...args);
    const here = outOf(
      await runAlone("choice.ts", [
        `--data=${data}`,
        `--results=${folder}/here.jsonl`,
        `--adapter=${folder}/heads`,
      ]),
    );

    const server = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-A",
        "--quiet",
        "examples/edge_server.ts",
        "--generate",
        "--once",
        "--devices=1",
        "--port=0",
      ]
        .concat(
          lora,
          ["--join-token=the-token", "--join-timeout=60", "--step-timeout=60", "--events"],
        ),
      cwd: ROOT,
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const [first, rest] = server.stdout.tee();
    let text = "";
    for await (const piece of first.pipeThrough(new TextDecoderStream())) {
      text += piece;
      if (text.includes("\n")) break;
    }
    const ended = new Response(rest).text();
    const url = `ws://${JSON.parse(text.split("\n")[0]!).address}/join/ws`;
    const device = runAlone(
      "user_device.ts",
      [`--server=${url}`, "--token=the-token", "--capacity=2", `--load=${folder}/heads`],
    );
    const there = await score("there", `--connect=${url}`, "--token=the-token", `--report=${folder}/r.json`);
    outOf(await device);
    assertEquals((await server.status).code, 0, await ended);
    assertEquals(there, here);
    assertEquals(await readResults(`${folder}/there.jsonl`), await readResults(`${folder}/here.jsonl`));
    const { bytes } = JSON.parse(await Deno.readTextFile(`${folder}/r.json`));
    assert(bytes > 0);
  });
});

Deno.test("choice.ts says which contexts are cut and which questions cannot be scored, and leaves these out if so wished [slow]", async () => {
  await inFolder(async (folder) => {
    const data = `${folder}/rows.jsonl`;
    const row = (sentence: string, answer = "1") =>
      JSON.stringify({ sentence, option1: "pub", option2: "cafe", answer });
    const rows = [
      row("The _ is near the river."),
      row("The _ has no answer.", ""),
      row(`${"The food is cheap. ".repeat(40)}The _ serves it.`, "2"),
      row(`The _ is ${"very ".repeat(200)}near.`),
      row("Ann saw the _ at the river."),
    ];
    await Deno.writeTextFile(data, rows.join("\n"));
    const unanswered = await run("choice.ts", [`--data=${data}`]);
    assertEquals(unanswered.code, 1);
    assertStringIncludes(unanswered.err, "line 2, as 'answer' must be");
    assertEquals(unanswered.err.split("current value is").length, 2, unanswered.err);
    const some = `${folder}/some.jsonl`;
    await Deno.writeTextFile(some, rows.toSpliced(1, 1).join("\n"));
    const long = await run("choice.ts", [`--data=${some}`]);
    assertEquals([long.code, long.err.trimEnd().split("\n").length], [1, 1], long.err);
    assertStringIncludes(
      long.err,
      `Cannot score line 3 of ${some} as what is scored must have at most the model's 128`,
    );

    const files = [`--results=${folder}/new/r.jsonl`, `--report=${folder}/new/report.json`];
    const ended = await run("choice.ts", [`--data=${data}`, "--skip-bad", ...files]);
    assertEquals(ended.code, 0, ended.err);
    assertMatch(ended.out, /^winogrande: 3 questions, 6 answers$/m);
    assertMatch(ended.err, /^2 bad lines of .* left out; the first: line 2: 'answer'/m);
    assertMatch(
      ended.err,
      /^2 of 6 answers of .* scored after a context that was cut: the model takes 128 tokens$/m,
    );
    const { data: counts } = JSON.parse(await Deno.readTextFile(`${folder}/new/report.json`));
    assertEquals(counts, { test: { sequences: 6, truncated: 2, skipped: 2 } });
    const results = (await Deno.readTextFile(`${folder}/new/r.jsonl`)).trimEnd().split("\n").map((l) =>
      JSON.parse(l)
    );
    assertEquals(results.map(({ question, line }) => [question, line]), [[0, 1], [1, 3], [2, 5]]);
    // Bad lines behind the questions that are asked for are not counted.
    const first = await run("choice.ts", [`--data=${data}`, "--skip-bad", "--count=1"]);
    assertEquals([first.code, first.err.includes("left out")], [0, false], first.err);
    assertMatch(first.out, /^winogrande: 1 questions, 2 answers$/m);
    // What cannot be written is said before the model is loaded.
    for (const flag of ["results", "report"]) {
      const refused = await run("choice.ts", [`--data=${data}`, "--model=no-such", `--${flag}=${data}/x`]);
      assertEquals(refused.code, 2, refused.err);
      assertStringIncludes(refused.err, `--${flag} must be a path that can be written`);
    }
  });
});

Deno.test("format_data.ts makes instructions of choice tasks [slow]", async () => {
  await inFolder(async (folder) => {
    const format = (task: "winogrande" | "openbookqa") =>
      notesOf(
        "format_data.ts",
        `--format=${task}`,
        "--instruct",
        `--input=${folder}/rows.jsonl`,
        `--output=${folder}/told.jsonl`,
      );
    await Deno.writeTextFile(`${folder}/rows.jsonl`, TASKS.winogrande.write([0, 1, 0, 1, 0]));
    assertStringIncludes(await format("winogrande"), "5 pairs, 5 prompts");
    assertEquals((await loadExamples(`${folder}/told.jsonl`))[1], {
      prompt: "Please choose the correct answer to fill in the blank to complete the given sentence: " +
        "Ann lent Bea a coat as _ was cold near the river.\n\n" +
        "Option1: Ann Option2: Bea Answer format: option1/option2",
      completion: "the correct answer is option2",
    });
    await Deno.writeTextFile(`${folder}/rows.jsonl`, TASKS.openbookqa.write([0, 1, 1, 0]));
    await format("openbookqa");
    assertEquals((await loadExamples(`${folder}/told.jsonl`))[2], {
      prompt: "Please choose the correct answer to the question: Bread is made from\n\n" +
        "Answer1: stones Answer2: flour Answer3: rain Answer4: paper\n\n" +
        "Answer format: answer1/answer2/answer3/answer4",
      completion: "the correct answer is answer2",
    });
  });
});

Deno.test("what is wrong with choice tasks is said in one line [slow]", async () => {
  await inFolder(async (folder) => {
    const rows = `${folder}/rows.jsonl`;
    await Deno.writeTextFile(rows, TASKS.winogrande.write([0, 1, 0, 1, 0]));
    await Deno.writeTextFile(
      `${folder}/test.jsonl`,
      '{"sentence":"The _ is full.","option1":"cup","option2":"jug","answer":""}\n',
    );
    const CASES: readonly (readonly [program: string, args: string[], code: number, message: string])[] = [
      ["choice.ts", [], 2, "Cannot run choice.ts as --data must be given; see --help"],
      ["choice.ts", ["--data=nope"], 2, 'as --data must be a file that can be read: current value is "nope"'],
      ["choice.ts", [`--data=${rows}`, "--task=x"], 2, "as --task must be one of winogrande, openbookqa"],
      [
        "choice.ts",
        [`--data=${rows}`, "--task=openbookqa"],
        1,
        'line 1, as "question_stem" or "question.stem" must be a string',
      ],
      [
        "choice.ts",
        [`--data=${folder}/test.jsonl`],
        1,
        'line 1, as \'answer\' must be "1" or "2": current value is ""',
      ],
      [
        "choice.ts",
        [`--data=${rows}`, "--connect=ws://127.0.0.1:1", "--adapter=a"],
        2,
        "as one of --connect and --adapter may be given",
      ],
      [
        "format_data.ts",
        ["--input=nope", `--output=${folder}/x`],
        2,
        'Cannot format the data as --input must be a file that can be read: current value is "nope"',
      ],
      [
        "format_data.ts",
        ["--instruct", `--input=${rows}`, `--output=${folder}/x`],
        2,
        '--instruct must come with one of winogrande, openbookqa: current value of --format is "e2e"',
      ],
      [
        "server_tuner.ts",
        [`--data=${rows}`, "--steps=1"],
        1,
        "line 1, as rows of winogrande must be made examples first: format_data.ts --format winogrande does that",
      ],
    ];
    for (const [program, args, expected, message] of CASES) {
      const { code, out, err } = await run(program, args);
      assertEquals([code, out], [expected, ""], err);
      assertStringIncludes(err, message);
      assertEquals(err.trimEnd().split("\n").length, 1, err);
      // Nothing is said twice.
      assert(err.split("current value").length <= 2 && err.split("Cannot ").length === 2, err);
    }
  });
});
