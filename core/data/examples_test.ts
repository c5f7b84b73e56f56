import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { CheckpointError } from "../errors.ts";
import { encodePairs, fixedBatches, type SequenceSet } from "./batches.ts";
import { chatTemplateFromConfig, loadChatTemplate } from "./chat_template.ts";
import { encodeExamples, loadExamples, parseExamples, renderChat } from "./examples.ts";
import type { BadLine } from "./pairs.ts";

/** Every letter is a token; 0 ends a text. */
const letters = {
  vocabSize: 0x10000,
  eos: 0,
  encode: (text: string) => Array.from({ length: text.length }, (_, i) => text.charCodeAt(i)),
  decode: (ids: ArrayLike<number>) => String.fromCharCode(...Array.from(ids)),
};

/** ChatML with tools. */
const CHAT_ML =
  "{%- if tools %}<|im_start|>tools\n{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>\n" +
  "{% endif %}{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" +
  "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const template = chatTemplateFromConfig({ chat_template: CHAT_ML });

/** What counts for the loss, as text. */
function learnt(set: SequenceSet, index = 0): string {
  const { tokens, firstTarget, counts } = set.sequences[index]!;
  return letters.decode(tokens.filter((_, i) => counts ? counts[i] === 1 : i >= firstTarget));
}

const TURNS = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Hi" },
  { role: "assistant", content: "Hello é!" },
  { role: "user", content: "Bye" },
  { role: "assistant", content: "So long" },
];

Deno.test("parseExamples reads pairs, texts and conversations", () => {
  const lines = [
    { prompt: "a", completion: "b" },
    { context: "a", completion: "b" },
    { text: "c" },
    { messages: TURNS.slice(1, 3), tools: null },
  ];
  const examples = parseExamples(lines.map((line) => JSON.stringify(line)).join("\n"), {
    chatTemplate: template,
  });
  assertEquals(examples, [
    { prompt: "a", completion: "b" },
    { prompt: "a", completion: "b" },
    { text: "c" },
    {
      parts: [
        { text: "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", isLearnt: false },
        { text: "Hello é!<|im_end|>\n", isLearnt: true },
      ],
    },
  ]);
});

Deno.test("every turn of the assistant is learnt, and nothing else", () => {
  const tools = [{ name: "weather" }];
  const chat = renderChat(template, { messages: TURNS, tools });
  const whole = chat.parts.map(({ text }) => text).join("");
  assertEquals(whole, template.render({ messages: TURNS, tools }));
  assertStringIncludes(whole, '{"name": "weather"}');
  const set = encodeExamples([chat], letters, { length: 1000 });
  assertEquals(learnt(set), "Hello é!<|im_end|>\nSo long<|im_end|>\n");
  const [batch] = fixedBatches(set, 1);
  assertEquals(
    letters.decode(batch!.targets.filter((_, i) => batch!.mask[i] === 1)),
    "Hello é!<|im_end|>\nSo long<|im_end|>\n",
  );
  const all = encodeExamples([chat], letters, { length: 1000, trainOnPrompt: true });
  assertEquals(learnt(all), whole.slice(1));
});

Deno.test("what comes after the last turn of the assistant is not learnt", () => {
  const chat = renderChat(template, { messages: TURNS.slice(0, 4) });
  assertEquals(learnt(encodeExamples([chat], letters, { length: 1000 })), "Hello é!<|im_end|>\n");
});

Deno.test("a turn that the template writes otherwise later on is not learnt", () => {
  const forgetful = chatTemplateFromConfig({
    chat_template:
      "{% for m in messages %}[{{ m.role }}]{% if m.role == 'user' or loop.last %}{{ m.content }}{% endif %}" +
      "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
  });
  const chat = renderChat(forgetful, { messages: TURNS.slice(1) });
  assertEquals(learnt(encodeExamples([chat], letters, { length: 1000 })), "So long");
});

Deno.test("a template without generation prompt, with the special tokens of the configuration", () => {
  const inst = chatTemplateFromConfig({
    chat_template:
      "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]" +
      "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}",
    bos_token: { content: "<s>", lstrip: false },
    eos_token: "</s>",
    pad_token: null,
  });
  const chat = renderChat(inst, { messages: TURNS.slice(1, 3) });
  assertEquals(chat.parts, [
    { text: "<s>[INST] Hi [/INST]", isLearnt: false },
    { text: " Hello é! </s>", isLearnt: true },
  ]);
});

Deno.test("named templates: tool_use for conversations with tools", () => {
  const named = chatTemplateFromConfig({
    chat_template: [{ name: "default", template: "plain" }, { name: "tool_use", template: "tools" }],
  });
  assertEquals([named.render({ messages: [] }), named.render({ messages: [], tools: [{}] })], [
    "plain",
    "tools",
  ]);
});

Deno.test("pairs are encoded as encodePairs does, texts with the end-of-text token after them", () => {
  const pair = { prompt: "ab", completion: "c" };
  for (const encoding of [{ length: 8 }, { length: 3 }, { length: 1 }, { length: 4, trainOnPrompt: true }]) {
    assertEquals(encodeExamples([pair], letters, encoding), encodePairs([pair], letters, encoding));
  }
  const set = encodeExamples([{ text: "hello" }], letters, { length: 8 });
  assertEquals(set.sequences, [{ tokens: Uint32Array.from(letters.encode("hello\0")), firstTarget: 1 }]);
  const short = encodeExamples([{ text: "hello" }], letters, { length: 3 });
  assertEquals([learnt(short), short.shortenedCompletions, short.droppedTokens], ["ell", 1, 2]);
});

Deno.test("long conversations lose the start of what comes first, then the end", () => {
  const chat = {
    parts: [{ text: "given ", isLearnt: false }, { text: "learnt", isLearnt: true }, {
      text: " x",
      isLearnt: false,
    }],
  };
  const encode = (length: number): [string, string, number] => {
    const set = encodeExamples([chat], letters, { length });
    return [letters.decode(set.sequences[0]!.tokens), learnt(set), set.droppedTokens];
  };
  assertEquals(encode(13), ["given learnt x", "learnt", 0]);
  assertEquals(encode(10), ["en learnt x", "learnt", 3]);
  assertEquals(encode(4), [" lear", "lear", 9]);
});

Deno.test("bad lines are errors, or skipped and told", () => {
  const lines = [
    '{"text":"good"}',
    '{"text":""}',
    '{"txt":"x"}',
    '{"prompt":"x"}',
    '{"messages":"x"}',
    '{"messages":[{"content":"x"}]}',
    '{"messages":[{"role":"user","content":"x"}]}',
    '{"messages":[{"role":"user","content":"x"}],"tools":{}}',
    "",
    "[1]",
    '{"text":1}',
    '{"text":"good too"}',
  ];
  const bad: BadLine[] = [];
  const options = { name: "d.jsonl", chatTemplate: template };
  const examples = parseExamples(lines.join("\n"), { ...options, onBadLine: (line) => bad.push(line) });
  assertEquals(examples, [{ text: "good" }, { text: "good too" }]);
  assertEquals(bad.map(({ line, problem }) => `${line}: ${problem.split(": current")[0]}`), [
    "2: the text must not be empty",
    '3: a line must have "messages", "text" or "prompt" and "completion"',
    '4: "completion" must be a string',
    '5: "messages" must be a list of objects with a "role"',
    '6: "messages" must be a list of objects with a "role"',
    "7: the assistant must say something that the template lets follow what was said before",
    '8: "tools" must be a list',
    "9: a line must be JSON",
    "10: a line must be an object",
    '11: "text" must be a string',
  ]);
  assertEquals(bad[0]!.name, "d.jsonl");
  for (const { line, problem } of bad) {
    const message = `Cannot read d.jsonl, line 2, as ${problem}`;
    assertThrows(
      () => parseExamples(`${lines[0]}\n${lines[line - 1]}\n${lines[0]}`, options),
      CheckpointError,
      message,
    );
  }
  assertThrows(() => parseExamples(lines[1]!, { onBadLine: () => {} }), CheckpointError, "all lines are bad");
  assertThrows(
    () => parseExamples('{"messages":[]}'),
    CheckpointError,
    '"messages" must come with the chat template of a model',
  );
});

Deno.test("what a template refuses is told with the line", () => {
  const strict = chatTemplateFromConfig({ chat_template: "{{ raise_exception('No system role') }}" });
  const line = JSON.stringify({ messages: TURNS });
  assertThrows(
    () => parseExamples(line, { chatTemplate: strict }),
    CheckpointError,
    "line 1, as the chat template must take it: No system role",
  );
});

Deno.test("chatTemplateFromConfig refuses what is no template", () => {
  for (const value of [undefined, 1, [], [{ name: "default" }], [{ name: "other", template: "x" }]]) {
    assertThrows(
      () => chatTemplateFromConfig({ chat_template: value }, { name: "t" }),
      CheckpointError,
      'Cannot use t as "chat_template" must be a template',
    );
  }
  assertThrows(() => chatTemplateFromConfig({ chat_template: "{% if %}" }), CheckpointError, "must be valid");
});

Deno.test("loadChatTemplate prefers the template's own file; loadExamples names the file", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await assertRejects(() => loadChatTemplate(folder), CheckpointError, `${folder}/tokenizer_config.json`);
    await Deno.writeTextFile(
      `${folder}/tokenizer_config.json`,
      '{"chat_template":"old{{ eos_token }}","eos_token":"."}',
    );
    assertEquals((await loadChatTemplate(folder)).render({ messages: [] }), "old.");
    await Deno.writeTextFile(`${folder}/chat_template.jinja`, "new{{ eos_token }}");
    assertEquals((await loadChatTemplate(folder)).render({ messages: [] }), "new.");
    await Deno.writeTextFile(`${folder}/d.jsonl`, '{"text":"a"}\n');
    assertEquals(await loadExamples(`${folder}/d.jsonl`), [{ text: "a" }]);
    await Deno.writeTextFile(`${folder}/d.jsonl`, "x\n");
    await assertRejects(
      () => loadExamples(`${folder}/d.jsonl`),
      CheckpointError,
      `${folder}/d.jsonl, line 1, as a line`,
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
