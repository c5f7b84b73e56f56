/**
 * The demo that gives a chat model another voice, on a tiny chat model in a GGUF file that is made here.
 */

import { type Gpt2Config, loadModelFolder } from "@edgetuner/core";
import { assert, assertEquals, assertLess, assertStringIncludes } from "@std/assert";
import { ASSETS, ROOT } from "../support/places.ts";
import { writeGpt2Gguf } from "../support/write_gguf.ts";

const TINY = `${ASSETS}tiny_gpt2`;

/** The tiny model as a GGUF file with tokenizer and chat template beside it. */
async function chatModel(folder: string): Promise<string> {
  const { config, weights } = await loadModelFolder(TINY);
  await writeGpt2Gguf(`${folder}/model.gguf`, config as Gpt2Config, weights);
  await Deno.copyFile(`${TINY}/tokenizer.json`, `${folder}/tokenizer.json`);
  const template = "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}" +
    "{% if add_generation_prompt %}a: {% endif %}";
  await Deno.writeTextFile(
    `${folder}/tokenizer_config.json`,
    JSON.stringify({ eos_token: "<|endoftext|>", chat_template: template }),
  );
  return `${folder}/model.gguf`;
}

async function persona(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${ROOT}cli/main.ts`, "demo", "--persona", ...args],
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  return { code, out: decoder.decode(stdout), err: decoder.decode(stderr) };
}

Deno.test("the demo gives a chat model in a GGUF file another voice, and asks it before and after [slow]", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const model = await chatModel(folder);
    const report = `${folder}/report.json`;
    const { code, out, err } = await persona(
      ...["--model", model, "--out", `${folder}/run`, "--report", report],
      ...["--steps", "12", "--capacities", "2,1", "--valid-batches", "1"],
    );
    assertEquals(code, 0, out + err);
    const { samples, summary, settings } = JSON.parse(await Deno.readTextFile(report));
    assertEquals(settings["base-weights"], "int8");
    assertLess(summary.validAfter, summary.validBefore);
    const questions = (await Deno.readTextFile(`${ASSETS}lighthouse/questions.jsonl`)).trim().split("\n")
      .map((line) => JSON.parse(line).messages[0].content as string);
    assertEquals(samples.map(({ prompt }: { prompt: string }) => prompt), questions);
    for (const { prompt, before, after } of samples) {
      assertStringIncludes(out, `${prompt}\n  before     ${before}\n  after      ${after}\n`);
    }
    assert(
      samples.some(({ before, after }: { before: string; after: string }) => before !== after),
      "what was learnt changes what is said",
    );
    assertStringIncludes(err, "edgetuner chat --adapter");
    assertStringIncludes(out, "LoRA rank 8 for each of 8 heads, 192 at most for an exported adapter");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a voice needs a model that chats", async () => {
  const { code, err } = await persona();
  assertEquals(code, 2);
  assertStringIncludes(err, "--persona needs a --model with a chat template");
});
