/**
 * The programs with a model in a GGUF file, and generation through the split between processes.
 */

import { type Gpt2Config, loadModelFolder, loadTokenizerOf } from "@edgetuner/core";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { writeGpt2Gguf } from "../support/write_gguf.ts";
import { ROOT } from "../support/places.ts";

const MODEL = "tests/fixtures/gguf/bpe.gguf";

function start(program: string, args: readonly string[]): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `examples/${program}`, ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function end(process: Deno.ChildProcess): Promise<Ended> {
  const { code, stdout, stderr } = await process.output();
  const decoder = new TextDecoder();
  const lines = decoder.decode(stderr).split("\n").filter((l) => l !== "" && !l.includes("XDG_RUNTIME_DIR"));
  return { code, out: decoder.decode(stdout), err: lines.join("\n") };
}

const run = (program: string, ...args: string[]): Promise<Ended> => end(start(program, args));

/** An edge server that has printed where it listens. */
async function startServer(
  ...args: string[]
): Promise<{ readonly url: string; readonly ended: Promise<Ended> }> {
  const process = start("edge_server.ts", [
    "--port=0",
    "--join-token=the-join-token",
    "--join-timeout=40",
    "--step-timeout=40",
    "--events",
    ...args,
  ]);
  const [first, second] = process.stdout.tee();
  const reader = first.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("\n")) {
    const { value, done } = await reader.read();
    if (done) break;
    text += value;
  }
  reader.cancel().catch(() => {});
  const ended = Promise.all([
    process.status,
    new Response(second).text(),
    new Response(process.stderr).text(),
  ]).then(([{ code }, out, err]) => ({ code, out, err }));
  const { address } = JSON.parse(text.split("\n")[0]!);
  return { url: `ws://${address}/join/ws`, ended };
}

const LORA = ["--rank=3", "--alpha=24", "--mode=slice", "--targets=q,v"];

Deno.test("programs train a GGUF file's model and generate with its heads, here and through the split [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(
      `${folder}/data.txt`,
      ["the food||in the an", "a||the food", "in||a food in the"].join("\n"),
    );
    const data = [`--data=${folder}/data.txt`, "--batch=2", "--length=32"];
    const tuned = await run(
      "server_tuner.ts",
      ...[
        `--model=${MODEL}`,
        ...data,
        ...LORA,
        "--steps=6",
        "--rate=0.05",
        "--warmup=0",
        "--pad-to-multiple-of=8",
      ],
      ...[`--save=${folder}/heads`, `--report=${folder}/tuned.json`],
    );
    assertEquals(tuned.code, 0, tuned.err);
    // Sequences of at most 12 tokens: places for 8 or 16 each in place of 32.
    const { padding } = JSON.parse(await Deno.readTextFile(`${folder}/tuned.json`));
    assertEquals(padding.allPlaces, 6 * 2 * 32);
    assert(padding.places <= padding.allPlaces / 2, JSON.stringify(padding));
    assertMatch(
      tuned.out,
      new RegExp(`saved ${Math.round(100 * (1 - padding.places / padding.allPlaces))} % of 384`),
    );

    // Merged, as a folder and as a file: both are read back and certified, and go on from there.
    const merged = await run(
      "export.ts",
      ...[`--model=${MODEL}`, `--adapter=${folder}/heads`, "--samples=1", "--length=6"],
      ...[`--data=${folder}/data.txt`, `--merge=${folder}/merged`, `--merge-gguf=${folder}/gguf`],
      ...["--gguf-type=Q8_0", "--accept-loss=0.5"],
    );
    assertEquals(merged.code, 0, merged.err);
    assertMatch(merged.out, /Merged GGUF file: its rounding loses [\d.]+ % of what the adapter does/);
    const { rounding } = JSON.parse(await Deno.readTextFile(`${folder}/gguf/certificate.json`));
    assert(rounding.share > 0 && rounding.share < 0.5, JSON.stringify(rounding));
    assertEquals(await loadTokenizerOf(`${folder}/merged`).then(({ eos }) => eos), 265);

    for (const how of [[], ["--beams=3"], ["--temperature=0.9", "--seed=4"]]) {
      const generate = [
        `--model=${MODEL}`,
        `--data=${folder}/data.txt`,
        "--count=0",
        "--max-tokens=8",
        ...how,
      ];
      const here = await run(
        "generate.ts",
        ...[...generate, `--adapter=${folder}/heads`, `--report=${folder}/here.json`],
      );
      assertEquals(here.code, 0, here.err);
      const server = await startServer("--generate", "--once", `--model=${MODEL}`, "--devices=1", ...LORA);
      const to = ["--token=the-join-token", "--name=d", "--capacity=2", "--join-timeout=40"];
      const device = run("user_device.ts", `--server=${server.url}`, ...to, `--load=${folder}/heads`);
      const there = await run(
        "generate.ts",
        ...[
          ...generate,
          `--connect=${server.url}`,
          "--token=the-join-token",
          `--report=${folder}/there.json`,
        ],
      );
      assertEquals(there.code, 0, there.err);
      assertEquals((await device).code, 0);
      const ended = await server.ended;
      assertEquals(ended.code, 0, ended.err);
      assertMatch(ended.out, /"type":"decoding"/);
      const read = async (name: string) => JSON.parse(await Deno.readTextFile(`${folder}/${name}.json`));
      const [a, b] = [await read("here"), await read("there")];
      assertEquals(b.results, a.results, `${how}`);
      assert(b.bytes > 0 && a.bytes === 0);
      assert(a.results.some((r: { generated: string }) => r.generated !== ""), "something is generated");
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a data device trains through the split from a GGUF file and generates samples at the end [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/data.txt`, "the food||in the an\na||the food\n");
    const server = await startServer(
      `--model=${MODEL}`,
      "--devices=1",
      "--steps=2",
      "--pruner=none",
      ...LORA,
    );
    const device = await run(
      "user_device.ts",
      ...[`--server=${server.url}`, "--token=the-join-token", `--model=${MODEL}`, "--batch=2", "--length=24"],
      ...[`--data=${folder}/data.txt`, `--valid=${folder}/data.txt`, "--samples=2", "--pad-to-multiple-of=8"],
      `--report=${folder}/device.json`,
    );
    assertEquals(device.code, 0, device.err);
    const ended = await server.ended;
    assertEquals(ended.code, 0, ended.err);
    const { samples, steps, padding, losses } = JSON.parse(await Deno.readTextFile(`${folder}/device.json`));
    assertEquals([steps, losses.train.length, losses.after.length], [2, 2, 1]);
    assertEquals(samples.map((s: { prompt: string }) => s.prompt), ["the food", "a"]);
    assert(padding.places < padding.allPlaces);
    const texts = device.out.split("\n");
    assert(texts.includes("the food"), device.out);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("programs say in one line what is missing beside a GGUF file, or does not go with it [slow]", async () => {
  const cases = [
    [
      "generate.ts",
      ["--model=tests/fixtures/gguf/llama.gguf", "--prompt=a"],
      1,
      "give the model's tokenizer.json",
    ],
    [
      "generate.ts",
      [`--model=${MODEL}`, "--tokenizer=cli/assets/tiny_gpt2", "--prompt=a"],
      1,
      "vocabulary, 266",
    ],
    [
      "generate.ts",
      ["--connect=ws://127.0.0.1:1/", "--adapter=x", "--prompt=a"],
      2,
      "--connect and --adapter",
    ],
    ["user_device.ts", ["--load=tests/fixtures", "--token=some-token"], 1, "adapter_config.json"],
  ] as const;
  await Promise.all(cases.map(async ([program, args, code, message]) => {
    const ended = await run(program, ...args);
    assertEquals([ended.code, ended.err.split("\n").length], [code, 1], ended.err);
    assertStringIncludes(ended.err, message);
  }));
});

Deno.test("a GPT-2 in a GGUF file says what the folder that it was made from says [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const tiny = await loadModelFolder(`${ROOT}cli/assets/tiny_gpt2`);
    const file = `${folder}/tiny.gguf`;
    await writeGpt2Gguf(file, tiny.config as Gpt2Config, new Map(tiny.weights));
    const tuned = await run(
      "server_tuner.ts",
      "--steps=2",
      "--batch=2",
      "--length=48",
      `--save=${folder}/heads`,
    );
    assertEquals(tuned.code, 0, tuned.err);
    const tokenizer = "--tokenizer=cli/assets/tiny_gpt2";
    const prompt = "--prompt=name[The Crooked Fox], eatType[pub]";
    const texts = await Promise.all([
      run("generate.ts", `--adapter=${folder}/heads`, prompt),
      run("generate.ts", `--adapter=${folder}/heads`, prompt, `--model=${file}`, tokenizer),
    ]);
    for (const { code, err } of texts) assertEquals(code, 0, err);
    assertEquals(texts[1]!.out, texts[0]!.out);
    assert(texts[0]!.out.length > 20, texts[0]!.out);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
