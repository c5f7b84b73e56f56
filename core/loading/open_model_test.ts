import { assertEquals, assertRejects } from "@std/assert";
import { ASSETS } from "../../tests/support/places.ts";
import { DataFormatError, ModelFileError } from "../contracts/errors.ts";
import { encodeExamples } from "../data/examples.ts";
import { openModel } from "./open_model.ts";
import { loadTrainingData } from "./training_data.ts";

const TINY = `${ASSETS}tiny_gpt2`;

async function withFile(name: string, text: string, fn: (file: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/${name}`, text);
    await fn(`${folder}/${name}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("openModel() takes the model's own tokenizer or the one that is named, and refuses one that is too large", async () => {
  const { model, tokenizer } = await openModel(TINY);
  assertEquals([model.config.vocab_size, tokenizer.vocabSize], [1024, 1024]);
  assertEquals((await openModel(TINY, { tokenizer: `${TINY}/tokenizer.json` })).tokenizer.vocabSize, 1024);
  const file = JSON.parse(await Deno.readTextFile(`${TINY}/tokenizer.json`));
  file.added_tokens.push({ ...file.added_tokens[0], id: 1024, content: "<one more>" });
  // A special token that nobody trained may have no row.
  await withFile("tokenizer.json", JSON.stringify(file), async (padded) => {
    assertEquals((await openModel(TINY, { tokenizer: padded })).tokenizer.vocabSize, 1025);
  });
  file.model.vocab["one more"] = 1024;
  file.added_tokens.pop();
  await withFile("tokenizer.json", JSON.stringify(file), async (larger) => {
    const error = await assertRejects(() => openModel(TINY, { tokenizer: larger }), ModelFileError);
    assertEquals(error.message.includes("below the model's vocabulary, 1024: current value is 1024"), true);
  });
});

Deno.test("loadTrainingData() encodes each kind of file, counts what it cut, and gives bad lines to its caller", async () => {
  const { tokenizer } = await openModel(TINY);
  const options = { model: TINY, tokenizer, length: 6 };
  const text = "a||b\nname : the one, by the river||A long text that is cut.\na||A long text that is cut.";
  await withFile("data.txt", text, async (file) => {
    const { sequences, counts } = await loadTrainingData(file, options);
    assertEquals([sequences.length, counts], [3, {
      ...{ sequences: 3, truncated: 2, skipped: 0 },
      ...{ shortenedPrompts: 1, shortenedCompletions: 2 },
    }]);
  });
  await withFile(
    "data.jsonl",
    '{"text":"One."}\n{"txt":1}\n{"prompt":"a","completion":"b"}',
    async (file) => {
      await assertRejects(() => loadTrainingData(file, options), DataFormatError, "line 2");
      const lines: number[] = [];
      const onBadLine = (bad: { readonly line: number }) => void lines.push(bad.line);
      const read = await loadTrainingData(file, { ...options, trainOnPrompt: true, onBadLine });
      assertEquals([lines, read.counts.skipped], [[2], 1]);
      const examples = [{ text: "One." }, { prompt: "a", completion: "b" }];
      assertEquals(
        read.sequences,
        encodeExamples(examples, tokenizer, { length: 6, trainOnPrompt: true }).sequences,
      );
    },
  );
});

Deno.test("loadTrainingData() does not count conversations as bad lines where the model has no chat template", async () => {
  const { tokenizer } = await openModel(TINY);
  const text =
    '{"text":"One."}\n{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}';
  await withFile("chat.jsonl", text, async (file) => {
    const options = { model: TINY, tokenizer, length: 8, onBadLine: () => {} };
    await assertRejects(() => loadTrainingData(file, options), DataFormatError, "chat template of a model");
  });
});
