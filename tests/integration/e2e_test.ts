/**
 * The paper's five steps as people run them, one program after the other, on the E2E fixtures.
 */

import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import {
  allocateHeads,
  loadAdapter,
  loadModelTokenizer,
  loadPredictor,
  parseFormatted,
} from "@edgetuner/core";
import { loadCorpus, scoreCorpus } from "@edgetuner/core/evaluation";
import { type Ended, inThread } from "../support/in_thread.ts";
import { ROOT } from "../support/places.ts";

const E2E = `${ROOT}tests/fixtures/eval/data/e2e`;
const TINY = `${ROOT}cli/assets/tiny_gpt2`;

/** A program in a process of its own. */
async function run(program: string, args: readonly string[], cwd = ROOT): Promise<Ended> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    cwd,
    args: ["run", "-A", "--quiet", `${ROOT}examples/e2e/${program}`, ...args],
    stdin: "null",
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  const errors = decoder.decode(stderr).split("\n").filter((l) => l !== "" && !l.includes("XDG_RUNTIME_DIR"));
  return { code, out: decoder.decode(stdout), errors: errors.join("\n") };
}

/** A program that computes nothing on a GPU. */
const here = (program: string, args: readonly string[]) => inThread(`e2e/${program}`, args);

async function withFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await use(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const FILES = ["--train", `${E2E}/lora_valid.head300.txt`, "--test", `${E2E}/lora_test.head400.txt`];
const STEPS = 16;
const HISTORY = 10;
/** Test prompts that are continued. */
const PROMPTS = 4;

/** A step of a run, as its report has it. */
interface ReportedStep {
  readonly step: number;
  readonly mode: string;
  readonly mask: readonly number[];
  readonly kept: readonly number[];
  readonly loss: number;
}

Deno.test("the five steps run one after the other, from E2E's files to scores [slow]", async () => {
  await withFolder(async (out) => {
    const ended = await run("run.ts", [
      ...["--out", out, ...FILES, "--synonyms", "none", "--pruner-steps", "72", "--epochs", "4"],
      ...["--steps", `${STEPS}`, "--batch", "2", "--length", "96", "--rank", "2", "--tau", "0.5"],
      ...["--prompts", "2", "--eval-every", "8", "--valid-batches", "2", "--keep-best", "--best"],
      ...["--count", `${PROMPTS}`, "--beams", "3", "--max-tokens", "12"],
    ]);
    assertEquals(ended.code, 0, ended.out + ended.errors);

    // 0. What was read: all of E2E's lines, with whole prompts held out.
    const pairsOf = async (part: string) => {
      const name = `${out}/${part}.jsonl`;
      return parseFormatted(await Deno.readTextFile(name), { name });
    };
    const [train, valid, test] = [await pairsOf("train"), await pairsOf("valid"), await pairsOf("test")];
    assertEquals([train.length + valid.length, test.length], [300, 400]);
    const trained = new Set(train.map(({ prompt }) => prompt));
    assertEquals(valid.filter(({ prompt }) => trained.has(prompt)), []);

    // 1. The predictor is of this model and these samples.
    const pruner = JSON.parse(await Deno.readTextFile(`${out}/pruner.json`));
    assertEquals([pruner.samples, pruner.settings.rank, pruner.settings.length], [72, 2, 96]);
    assertEquals(pruner.data.train.sequences, train.length);
    const { config } = await loadPredictor(`${out}/predictor`);
    assertEquals([config.layers, config.heads, config.history], [4, 8, HISTORY]);

    // 2. iHeadPruner keeps all heads until its history is full, and prunes from then on, for nobody else's loss.
    const report = JSON.parse(await Deno.readTextFile(`${out}/finetune.json`));
    assertEquals(report.run.pruner, "ihead");
    const steps = (report.steps as ReportedStep[]).filter(({ mode }) => mode === "train");
    assertEquals(steps.map(({ step }) => step), Array.from({ length: STEPS }, (_, i) => i));
    const pruned = steps.map(({ mask }) => mask.reduce((a, b) => a + b, 0));
    steps.forEach(({ mask, kept }, i) => {
      assertEquals(mask.length, 4 * 8);
      assertEquals(kept.reduce((a, b) => a + b, 0), mask.length - pruned[i]!);
    });
    assertEquals(pruned.slice(0, HISTORY), Array(HISTORY).fill(0));
    for (const count of pruned.slice(HISTORY)) assertGreater(count, 0);
    assertLess(report.summary.bytes, report.summary.unprunedBytes);
    assertLess(report.summary.validAfter, report.summary.validBefore);
    assertEquals(report.validations.map(({ step }: { step: number }) => step), [0, 8, 16]);
    assertEquals(report.summary.headsPerDevice, allocateHeads(8, [8, 5, 3]).map(({ count }) => count));
    assertEquals(report.data.train.sequences, train.length);
    assertEquals(report.data.valid.sequences, valid.length);
    assertEquals(report.data.test, { sequences: 2, truncated: 0, skipped: 0 });
    const { lora } = await loadAdapter(`${out}/adapter-best`);
    assertEquals([lora.mode, lora.rank, lora.targets], ["full", 2, ["q", "k", "v"]]);

    // 3. and 4. The texts are those of the tokens, in the order of the prompts, beside all their references.
    const tokenizer = await loadModelTokenizer(TINY);
    const beams = (await Deno.readTextFile(`${out}/beam.jsonl`)).trimEnd().split("\n")
      .map((line) => JSON.parse(line) as { id: number; predict: number[] });
    const prompts = [...new Set(test.map(({ prompt }) => prompt))].slice(0, PROMPTS);
    assertEquals(beams.map(({ id }) => test[id]!.prompt), prompts);
    for (const { predict } of beams) assert(predict.length >= 1 && predict.length <= 12, `${predict.length}`);
    const predictions = (await Deno.readTextFile(`${out}/predictions.txt`)).trimEnd().split("\n");
    assertEquals(
      predictions,
      beams.map(({ predict }) =>
        tokenizer.decode(predict.filter((id) => id !== tokenizer.eos)).split("\n")[0]!.trim()
      ),
    );
    const references = (await Deno.readTextFile(`${out}/references.txt`)).trimEnd().split("\n\n");
    assertEquals(
      references.map((group) => group.split("\n")),
      prompts.map((wanted) =>
        test.filter(({ prompt }) => prompt === wanted).map(({ completion }) => completion.trim())
      ),
    );

    // 5. The scores are those of the library on the same files.
    const written = JSON.parse(await Deno.readTextFile(`${out}/scores.json`));
    const corpus = await loadCorpus(`${out}/references.txt`, `${out}/predictions.txt`);
    const { segments, ...scores } = await scoreCorpus(corpus);
    assertEquals(written.scores, JSON.parse(JSON.stringify(scores)));
    assertEquals(written.segments, JSON.parse(JSON.stringify(segments)));
    assertEquals(written.instances, PROMPTS);
    const page = await Deno.readTextFile(`${out}/samples.html`);
    assertStringIncludes(page, predictions[0]!.slice(0, 12));

    // A step alone goes on with what the folder's note says, and takes its place in it again.
    await Deno.remove(`${out}/predictions.txt`);
    const missing = await here("score.ts", ["--out", out]);
    assertEquals(missing.code, 2);
    assertStringIncludes(missing.errors, `${out}/predictions.txt`);
    assertStringIncludes(missing.errors, "e2e/decode.ts");
    const decoded = await here("decode.ts", ["--out", out]);
    assertEquals(decoded.code, 0, decoded.errors);
    assertEquals((await Deno.readTextFile(`${out}/predictions.txt`)).trimEnd().split("\n"), predictions);

    // Samples that were collected otherwise are not taken for these.
    const other = await here("train_pruner.ts", ["--out", out, "--rank", "3"]);
    assertEquals(other.code, 2);
    assertStringIncludes(other.errors, "samples.bin");
    // Nor is another run's folder written over.
    const another = await here("pull.ts", ["--out", out, "--restaurant"]);
    assertEquals(another.code, 2);
    assertStringIncludes(another.errors, out);
    assertStringIncludes(another.errors, "pass another --out");
  });
});

Deno.test("each kind of run begins in a folder of its own, so that none is in another's way [slow]", async () => {
  await withFolder(async (cwd) => {
    const tiny = await run("pull.ts", FILES, cwd);
    assertEquals(tiny.code, 0, tiny.errors);
    assertMatch(tiny.errors, /Next: .*e2e\/train_pruner\.ts --out runs\/e2e_tiny$/m);
    const restaurant = await run("pull.ts", ["--restaurant"], cwd);
    assertEquals(restaurant.code, 0, restaurant.errors);
    assertMatch(restaurant.errors, /Next: .*--out runs\/e2e_restaurant$/m);
    await Deno.mkdir(`${cwd}/model`);
    for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
      await Deno.copyFile(`${TINY}/${name}`, `${cwd}/model/${name}`);
    }
    const other = await run("pull.ts", ["--model", "model", ...FILES], cwd);
    assertEquals(other.code, 0, other.errors);
    assertMatch(other.errors, /Next: .*e2e\/train_pruner\.ts$/m);
    const folders = (await Array.fromAsync(Deno.readDir(`${cwd}/runs`))).map(({ name }) => name).sort();
    assertEquals(folders, ["e2e", "e2e_restaurant", "e2e_tiny"]);
    const named = await run("pull.ts", ["--restaurant", "--out", "mine"], cwd);
    assertEquals(named.code, 0, named.errors);
    assert((await Deno.stat(`${cwd}/mine/e2e.json`)).isFile);
  });
});

Deno.test("pull.ts takes this repository's own task, and notes settings that fit the model [slow]", async () => {
  await withFolder(async (out) => {
    const { code, errors } = await here("pull.ts", ["--restaurant", "--out", out]);
    assertEquals(code, 0, errors);
    const { model, settings } = JSON.parse(await Deno.readTextFile(`${out}/e2e.json`));
    assertEquals(model, await Deno.realPath(TINY));
    assertEquals([settings.length, settings.mode, settings.steps], [80, "full", 400]);
    for (const [part, count] of [["train", 2000], ["valid", 200], ["test", 200]] as const) {
      const lines = (await Deno.readTextFile(`${out}/${part}.jsonl`)).trimEnd().split("\n");
      assertEquals(lines.length, count);
    }
    // The tiny model has 128 positions; the paper's 512 tokens do not fit.
    const paper = await here("pull.ts", ["--out", `${out}/paper`, ...FILES, "--settings", "paper"]);
    assertEquals(paper.code, 0, paper.errors);
    const note = JSON.parse(await Deno.readTextFile(`${out}/paper/e2e.json`));
    assertEquals([note.settings.length, note.settings.mode, note.settings.rate], [128, "slice", 2e-4]);
    const help = await here("finetune.ts", ["--out", `${out}/paper`, "--help"]);
    assertMatch(help.out, /--rate X .*\[0\.0002\]/);
  });
});

Deno.test("pull.ts names a line that is not UTF-8, and leaves it out with --skip-bad [slow]", async () => {
  await withFolder(async (folder) => {
    const train = `${folder}/train.txt`;
    const text = "name[A]||A.\nname[B]||B!\nname[C]||C.\n";
    await Deno.writeFile(train, new TextEncoder().encode(text).map((byte) => byte === 0x21 ? 0xff : byte));
    const args = ["--train", train, "--valid", FILES[1]!, "--test", FILES[3]!, "--out", `${folder}/run`];
    const strict = await here("pull.ts", args);
    assertEquals(strict.code, 1);
    assertStringIncludes(strict.errors, `${train}, line 2, as a line must be UTF-8`);
    const lenient = await here("pull.ts", [...args, "--skip-bad"]);
    assertEquals(lenient.code, 0, lenient.errors);
    assertStringIncludes(
      lenient.errors,
      `1 bad lines of ${train} left out; the first: line 2: a line must be UTF-8`,
    );
    const kept = (await Deno.readTextFile(`${folder}/run/train.jsonl`)).trimEnd().split("\n");
    assertEquals(kept.map((line) => JSON.parse(line).completion), ["A.", "C."]);
  });
});

Deno.test("pull.ts downloads a model with the token and the revision that it is told [slow]", async () => {
  const asked: string[] = [];
  const names = ["config.json", "model.safetensors", "tokenizer.json"];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
    const { pathname } = new URL(request.url);
    asked.push(`${pathname} ${request.headers.get("authorization")}`);
    if (request.headers.get("authorization") !== "Bearer hub-secret") {
      return new Response("no", { status: 401 });
    }
    if (pathname === "/api/models/some/tiny/revision/v2") {
      const siblings = await Promise.all(names.map(async (rfilename) => ({
        rfilename,
        size: (await Deno.stat(`${TINY}/${rfilename}`)).size,
      })));
      return Response.json({ siblings });
    }
    const name = pathname.replace("/some/tiny/resolve/v2/", "");
    return names.includes(name)
      ? new Response(await Deno.readFile(`${TINY}/${name}`))
      : new Response("no", { status: 404 });
  });
  await withFolder(async (folder) => {
    const args = [
      ...["--model", "some/tiny", "--revision", "v2", "--cache", `${folder}/cache`, ...FILES],
      ...["--endpoint", `http://127.0.0.1:${server.addr.port}`],
    ];
    const refused = await here("pull.ts", [...args, "--out", `${folder}/refused`, "--token", "wrong"]);
    assertEquals(refused.code, 1);
    // Below an empty line and the title of the step.
    assertEquals(refused.errors.split("\n").length, 3, refused.errors);
    const pulled = await here("pull.ts", [...args, "--out", `${folder}/run`, "--token", "hub-secret"]);
    assertEquals(pulled.code, 0, pulled.errors);
    const { model, settings } = JSON.parse(await Deno.readTextFile(`${folder}/run/e2e.json`));
    assertEquals(model, `${folder}/cache/models/some/tiny/v2`);
    for (const name of names) {
      assertEquals(await Deno.readFile(`${model}/${name}`), await Deno.readFile(`${TINY}/${name}`));
    }
    // A model of the hub gets the paper's settings.
    assertEquals([settings.mode, settings.steps, settings.warmup], ["slice", 52_600, 500]);
    // What is there is not asked for again.
    const before = asked.length;
    const again = await here("pull.ts", [...args, "--out", `${folder}/again`]);
    assertEquals([again.code, asked.length], [0, before], again.errors);
  });
  await server.shutdown();
});

Deno.test("each step has --help with its folder, and refuses folders without a run [slow]", async () => {
  for (const step of ["pull", "train_pruner", "finetune", "generate", "decode", "score", "run"]) {
    const help = await here(`${step}.ts`, ["--help"]);
    assertStringIncludes(help.out, "--out DIR", step);
    if (step === "pull" || step === "run") continue;
    await withFolder(async (out) => {
      const early = await here(`${step}.ts`, ["--out", out]);
      assertEquals(early.code, 2, step);
      assertStringIncludes(early.errors, "e2e/pull.ts");
    });
  }
});
