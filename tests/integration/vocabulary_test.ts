/**
 * What ends a text, and what does not: tokens that the generation configuration names, and rows of a model that its
 * tokenizer has no text for.
 */

import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { loadModelTokenizer, loadSafetensors, saveSafetensors } from "@edgetuner/core";
import { ASSETS, EXAMPLES } from "../support/places.ts";

const TINY = `${ASSETS}tiny_gpt2`;
const PROMPTS = 24;

async function generate(folder: string, args: readonly string[]): Promise<string[]> {
  const report = `${folder}/report.json`;
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${EXAMPLES}generate.ts`, ...args, "--report", report],
    stdin: "null",
    env: { NO_COLOR: "1" },
  }).output();
  assertEquals(code, 0, new TextDecoder().decode(stderr));
  const { results } = JSON.parse(await Deno.readTextFile(report));
  return results.map(({ generated }: { readonly generated: string }) => generated);
}

/** The tiny model in a folder of its own, with other fields of its configuration. */
async function copied(folder: string, config: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const model = await Deno.makeTempDir({ dir: folder });
  for (const name of ["model.safetensors", "tokenizer.json"]) {
    await Deno.copyFile(`${TINY}/${name}`, `${model}/${name}`);
  }
  const own = JSON.parse(await Deno.readTextFile(`${TINY}/config.json`));
  await Deno.writeTextFile(`${model}/config.json`, JSON.stringify({ ...own, ...config }));
  return model;
}

async function withFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await use(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a token without a text never ends a run of many prompts [slow]", async () => {
  await withFolder(async (folder) => {
    const weights = new Map(await loadSafetensors(`${TINY}/model.safetensors`));
    const name = [...weights.keys()].find((key) => key.endsWith("wte.weight"))!;
    const { shape: [rows, width], data } = weights.get(name)!;
    // As many rows again, each larger than one that the tokenizer knows: the likeliest tokens have no text.
    const wider = new Float32Array(2 * data.length);
    wider.set(data);
    data.forEach((value, i) => wider[data.length + i] = 1.5 * value);
    weights.set(name, { shape: [2 * rows!, width!], data: wider });
    const model = await copied(folder, { vocab_size: 2 * rows! });
    await saveSafetensors(`${model}/model.safetensors`, weights);
    const file = `${folder}/prompts.txt`;
    const lines = Array.from({ length: PROMPTS }, (_, i) => `name : Kivo ${i}||Kivo is a pub .`);
    await Deno.writeTextFile(file, lines.join("\n"));
    const args = ["--model", model, "--data", file, "--count", "0", "--max-tokens", "4"];
    const drawn = await generate(folder, [...args, "--temperature", "1"]);
    const likeliest = await generate(folder, args);
    assertEquals([drawn.length, likeliest.length], [PROMPTS, PROMPTS]);
    assert(likeliest.includes(""), "the rows without a text are the likeliest");
  });
});

Deno.test("every end token of the generation configuration ends a text [slow]", async () => {
  await withFolder(async (folder) => {
    const tokenizer = await loadModelTokenizer(TINY);
    const args = ["--raw", "--prompt", "name : The Heron", "--max-tokens", "12"];
    const [whole] = await generate(folder, ["--model", await copied(folder), ...args]);
    const tokens = tokenizer.encode(` ${whole}`);
    const end = tokens[4]!;
    const model = await copied(folder);
    await Deno.writeTextFile(
      `${model}/generation_config.json`,
      JSON.stringify({ eos_token_id: [tokenizer.eos, end] }),
    );
    const [cut] = await generate(folder, ["--model", model, ...args]);
    assertNotEquals(cut, whole);
    assertEquals(cut, tokenizer.decode(tokens.slice(0, tokens.indexOf(end))).trim());
  });
});
