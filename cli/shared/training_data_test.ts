import { assertEquals, assertRejects } from "@std/assert";
import { loadModelTokenizer } from "@edgetuner/core";
import { ASSETS } from "../../tests/support/places.ts";
import { UsageError } from "../flags/flags.ts";
import { beginOf, loadTrainingSet, withEpochs } from "./training_data.ts";

Deno.test("loadTrainingSet() takes the chat template that is beside --tokenizer", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const model = `${ASSETS}tiny_gpt2`;
    const data = `${folder}/chats.jsonl`;
    const messages = [{ role: "user", content: "Hi" }, { role: "assistant", content: "Yo" }];
    await Deno.writeTextFile(data, JSON.stringify({ messages }));
    await Deno.copyFile(`${model}/tokenizer.json`, `${folder}/tokenizer.json`);
    await Deno.writeTextFile(
      `${folder}/chat_template.jinja`,
      "{% for m in messages %}<{{ m.content }}>{% endfor %}",
    );
    const encoder = await loadModelTokenizer(folder);
    const options = { model, encoder, length: 20, "skip-bad": false, "train-on-prompt": false };
    const { sequences } = await loadTrainingSet(data, { ...options, tokenizer: `${folder}/tokenizer.json` });
    assertEquals(sequences.map(({ tokens }) => encoder.decode(tokens)), ["<Hi><Yo>"]);
    await assertRejects(() => loadTrainingSet(data, options), UsageError, "chat template");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("withEpochs() makes steps of passes over the data", async () => {
  const data = await Deno.makeTempFile({ suffix: ".txt" });
  try {
    await Deno.writeTextFile(data, Array.from({ length: 21 }, (_, i) => `name[${i}]||Text ${i}.\n`).join(""));
    const flags = { ...{ model: "", data, "skip-bad": false, steps: 400, batch: 2 }, accumulate: 2 };
    assertEquals((await withEpochs({ ...flags, epochs: 0 })).steps, 400);
    assertEquals((await withEpochs({ ...flags, epochs: 1 })).steps, 6);
    assertEquals((await withEpochs({ ...flags, epochs: 2.5 })).steps, 14);
    assertEquals((await withEpochs({ ...flags, epochs: 0.01 })).steps, 1);
  } finally {
    await Deno.remove(data);
  }
});

Deno.test("beginOf() keeps the clock of a run's start, wherever the run goes on", () => {
  const { begun, now } = beginOf("2024-07-06T15:04:09");
  assertEquals([begun, now.getDate(), now.getHours(), now.getSeconds()], ["2024-07-06T15:04:09", 6, 15, 9]);
  for (const saved of [undefined, "no date"]) {
    const fresh = beginOf(saved);
    assertEquals(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$/.test(fresh.begun), true, fresh.begun);
    assertEquals(Math.abs(fresh.now.getTime() - Date.now()) < 60_000, true);
    assertEquals(beginOf(fresh.begun).now, fresh.now);
  }
});
