import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { ASSETS } from "../../tests/support/places.ts";
import { histogram, previewOf } from "./data_preview.ts";
import { columnMap, withEpochs } from "./training_data.ts";
import { UsageError } from "../flags/flags.ts";

const OPTIONS = {
  ...{ model: "", tokenizer: "", length: 12, isColoured: false },
  ...{ "train-on-prompt": false, "skip-bad": false, map: "", "data-format": "" },
};

async function withFile(name: string, content: string, test: (file: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/${name}`, content);
    await test(`${folder}/${name}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a preview names what was recognised, marks what is learnt, and tells what would be cut", async () => {
  const table = `q,a\n"Where can I eat cheap food that is good?","At the harbour."\nWhen?,Now\n`;
  await withFile("t.csv", table, async (file) => {
    const map = "prompt=q,completion=a";
    const plain = (await previewOf(file, { ...OPTIONS, map })).join("\n");
    assertStringIncludes(plain, `${file}: csv, 2 pairs`);
    assertStringIncludes(plain, "  When?[[ Now]]");
    assertStringIncludes(plain, "Lengths in characters");
    const model = `${ASSETS}tiny_gpt2`;
    const told = (await previewOf(file, { ...OPTIONS, map, model, isColoured: true })).join("\n");
    assertStringIncludes(told, "When?<|endoftext|>\u001b[32m Now<|endoftext|>\u001b[0m");
    assertStringIncludes(told, `1 of 2 sequences of ${file} cut to 12 tokens: 1 prompts lost their start`);
  });
});

Deno.test("nothing in data steers the terminal, and conversations are shown without a model too", async () => {
  const messages = [{ role: "user", content: "\u001b[2JHi" }, { role: "assistant", content: "Hello!" }];
  await withFile("c.jsonl", JSON.stringify({ messages }), async (file) => {
    const lines = (await previewOf(file, OPTIONS)).join("\n");
    assertStringIncludes(lines, "<user> \uFFFD[2JHi");
    assertStringIncludes(lines, "<assistant> [[Hello!");
  });
});

Deno.test("a histogram counts every length once", () => {
  const lengths = [3, 3, 4, 90, 40];
  const counts = histogram(lengths, 80).map((row) => Number(/ {2}(\d+) {2}/.exec(row)![1]));
  assertEquals(counts.reduce((a, b) => a + b), lengths.length);
  assertEquals(histogram([5, 5], 80), [`  5  2  ${"#".repeat(60)}`]);
});

Deno.test("--map says which column is which, and refuses names that are not ours", () => {
  assertEquals(columnMap("prompt=my question, completion=answer"), {
    prompt: "my question",
    completion: "answer",
  });
  for (const bad of ["answer=a", "prompt", "prompt=", "prompt=a,prompt=b", ""]) {
    assertThrows(() => columnMap(bad), UsageError, "must be a list of NAME=COLUMN");
  }
});

Deno.test("an epoch of packed text has as many sequences as its tokens fill", async () => {
  await withFile("a.txt", "The harbour is cheap and good. ".repeat(40), async (file) => {
    const flags = {
      model: `${ASSETS}tiny_gpt2`,
      data: file,
      "skip-bad": false,
      steps: 1,
      batch: 2,
      accumulate: 1,
    };
    const { steps } = await withEpochs({ ...flags, epochs: 1, tokenizer: "", length: 16 });
    assertEquals(steps > 5, true);
  });
});
