import { assertEquals, assertThrows } from "@std/assert";
import { chatTemplateFromConfig, DataFormatError, encodeExamples, parseExamples } from "@edgetuner/core";
import {
  chatPrompt,
  cutText,
  encodePrompts,
  endTokens,
  fitPrompt,
  havePrompts,
  type PromptChoice,
  promptRoom,
  requirePrompts,
  requireRoom,
  textOf,
} from "./prompts.ts";
import { UsageError } from "../flags/flags.ts";

/** A token for each letter, and one each for `<end>` and `<eos>`. */
const [END, EOS, VOCABULARY] = [200, 201, 202];
const tokenizer = {
  vocabSize: VOCABULARY,
  eos: EOS,
  bos: null,
  encode: (text: string) =>
    (text.match(/<end>|<eos>|[^]/g) ?? []).map((piece) =>
      piece === "<end>" ? END : piece === "<eos>" ? EOS : piece.charCodeAt(0)
    ),
  decode: (ids: ArrayLike<number>) =>
    Array.from(ids, (id) => id === END ? "<end>" : id === EOS ? "<eos>" : String.fromCharCode(id)).join(""),
};

const template = (ending: string) =>
  chatTemplateFromConfig({
    chat_template: `{% for m in messages %}{{ m.role[0] }}:{{ m.content }}${ending}{% endfor %}` +
      "{% if add_generation_prompt %}a:{% endif %}",
    eos_token: "<eos>",
  });

const ALL: PromptChoice = { count: 0, first: 1, distinct: false };

Deno.test("prompts that leave no room lose their start, but not the token that begins texts, and are counted", () => {
  assertEquals(fitPrompt([1, 2, 3], tokenizer, 3), [1, 2, 3]);
  assertEquals(fitPrompt([1, 2, 3, 4], tokenizer, 2), [3, 4]);
  assertEquals(fitPrompt([7, 2, 3, 4], { ...tokenizer, bos: 7 }, 3), [7, 3, 4]);
  const examples = parseExamples(
    ["ab", "abcd", "ab"].map((prompt) => JSON.stringify({ prompt, completion: "x" })).join("\n"),
  );
  const { prompts, counts } = encodePrompts({ examples, skipped: 2 }, tokenizer, ALL, 4);
  assertEquals(counts, { sequences: 3, truncated: 1, skipped: 2 });
  assertEquals(prompts.map(({ id, tokens }) => [id, tokens.length]), [[0, 3], [1, 4], [2, 3]]);
  assertEquals(cutText("f", counts, 4), "1 of 3 prompts of f cut to 4 tokens");
  assertEquals(cutText("f", { ...counts, truncated: 0 }, 4), null);
});

Deno.test("prompts are taken from the first one on, each once if so wished", () => {
  const examples = parseExamples(
    ["p", "q", "p", "r"].map((prompt) => JSON.stringify({ prompt, completion: "x" })).join("\n"),
  );
  const ids = (choice: PromptChoice) =>
    encodePrompts({ examples, skipped: 0 }, tokenizer, choice, 9).prompts.map(({ id }) => id);
  assertEquals(ids(ALL), [0, 1, 2, 3]);
  assertEquals(ids({ ...ALL, distinct: true }), [0, 1, 3]);
  assertEquals(ids({ count: 2, first: 2, distinct: true }), [3, 0]);
  assertEquals(ids({ count: 1, first: 2, distinct: true, within: "f" }), [3]);
  assertThrows(
    () => ids({ count: 1, first: 3, distinct: true, within: "f" }),
    UsageError,
    "from f as --first must be below 3, the number of prompts: current value is 3",
  );
});

Deno.test("prompts leave room for what is to follow, as far as half of the model's places are theirs", () => {
  // The reference's 512 places and 64 tokens.
  assertEquals(promptRoom(512, 64), 448);
  assertEquals([promptRoom(128, 64), promptRoom(128, 100), promptRoom(9, 500)], [64, 64, 4]);
  const prompts = [3, 7].map((length, id) => ({
    id,
    tokens: Array(length).fill(1),
    text: "",
    reference: "",
  }));
  requireRoom(prompts, 20, 13);
  assertThrows(
    () => requireRoom(prompts, 20, 14),
    UsageError,
    "must be at most 13, what a prompt of 7 tokens",
  );
});

Deno.test("plain texts have no prompts", () => {
  const examples = parseExamples('{"text":"abc"}');
  assertEquals(havePrompts(examples), false);
  assertThrows(() => requirePrompts("data.jsonl", examples), DataFormatError, "data.jsonl");
});

Deno.test("a question is written as the conversations were that the model was tuned on", () => {
  const chatTemplate = template("<end>");
  const { text, tokens } = chatPrompt(chatTemplate, tokenizer, { user: "Hi", system: "Be" });
  assertEquals(text, "s:Be<end>u:Hi<end>a:");
  const messages = [
    { role: "system", content: "Be" },
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Yo" },
  ];
  const [example] = parseExamples(JSON.stringify({ messages }), { chatTemplate });
  const { sequences: [learnt] } = encodeExamples([example!], tokenizer, { length: 99 });
  assertEquals([...learnt!.tokens].slice(0, learnt!.firstTarget), tokens);
});

Deno.test("what ends an answer is the tokenizer's token, and the special one that the template writes", () => {
  assertEquals(endTokens(tokenizer, null), [EOS]);
  assertEquals(endTokens(tokenizer, template("<eos>")), [EOS]);
  assertEquals(endTokens(tokenizer, template("<end>\n")), [EOS, END]);
  assertEquals(endTokens({ ...tokenizer, ends: [EOS, 7] }, null), [EOS, 7]);
  assertEquals(endTokens({ ...tokenizer, ends: [EOS, 7] }, template("<end>")), [EOS, 7, END]);
  // A line break goes on in many an answer.
  assertEquals(endTokens(tokenizer, template("\n")), [EOS]);
  const tokens = [...tokenizer.encode(" Yo"), END, ...tokenizer.encode("more")];
  assertEquals(textOf(tokenizer, tokens, [EOS, END]), "Yo");
  // Rows that pad a model's vocabulary are no tokens.
  assertEquals(textOf(tokenizer, [65, VOCABULARY + 3, 66, EOS], [EOS]), "AB");
});
