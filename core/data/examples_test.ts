import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { DataFormatError, ModelFileError } from "../contracts/errors.ts";
import { encodePairs, fixedBatches } from "./batches.ts";
import type { SequenceSet } from "./sequences.ts";
import { chatTemplateFromConfig, findChatTemplate, loadChatTemplate } from "./chat_template.ts";
import { formatDart, formatE2eCsv, formatE2eLines } from "./formats.ts";
import { loadText } from "../files/text.ts";
import {
  encodeChat,
  encodeExamples,
  examplePrompt,
  loadExamples,
  parseExamples,
  renderChat,
} from "./examples.ts";
import { type BadLine, loadPairs } from "./pairs.ts";
import { ASSETS, FIXTURES } from "../../tests/support/places.ts";
import { loadModelTokenizer } from "./tokenizer_folder.ts";

/** Every letter is a token; 0 ends a text. */
const letters = {
  vocabSize: 0x10000,
  eos: 0,
  bos: null,
  encode: (text: string) => Array.from({ length: text.length }, (_, i) => text.charCodeAt(i)),
  decode: (ids: ArrayLike<number>) => String.fromCharCode(...Array.from(ids)),
};
const BOS = 1;
/** Those of a model that begins texts with \x01. */
const withBos = { ...letters, bos: BOS };

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
    { context: "a", continuation: " b" },
    { messages: TURNS.slice(1, 3), tools: null },
  ];
  const examples = parseExamples(lines.map((line) => JSON.stringify(line)).join("\n"), {
    chatTemplate: template,
  });
  assertEquals(examples, [
    { prompt: "a", completion: "b" },
    { prompt: "a", completion: "b" },
    { text: "c" },
    { context: "a", continuation: " b" },
    {
      last: {
        opening: "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        answer: "Hello é!",
        asked: "Hi",
      },
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

Deno.test("a turn that the template leaves out later on is refused, unless it is not to be learnt", () => {
  const forgetful = chatTemplateFromConfig({
    chat_template:
      "{% for m in messages %}[{{ m.role }}]{% if m.role == 'user' or loop.last %}{{ m.content }}{% endif %}" +
      "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
  });
  assertThrows(
    () => renderChat(forgetful, { messages: TURNS.slice(1) }),
    DataFormatError,
    "message 2 of 4 is left out or changed by it",
  );
  const messages = TURNS.slice(1).map((turn, i) => i === 1 ? { ...turn, weight: 0 } : turn);
  const chat = renderChat(forgetful, { messages });
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

Deno.test("long conversations lose the start of what comes first, down to half of the room, then the end", () => {
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
  assertEquals(encode(12), ["given learnt ", "learnt", 1]);
  assertEquals(encode(5), ["en lea", "lea", 8]);
  assertEquals(encode(4), ["n lea", "lea", 9]);
});

Deno.test("continued texts have nothing between and after, and learn what is scored", () => {
  const example = { context: "ab ", continuation: "cd" };
  const set = encodeExamples([example], letters, { length: 8 });
  assertEquals(set.sequences, [{ tokens: Uint32Array.from(letters.encode("ab cd")), firstTarget: 2 }]);
  assertEquals(encodeExamples([example], withBos, { length: 4 }).sequences, [
    { tokens: Uint32Array.from(letters.encode("\x01b cd")), firstTarget: 2 },
  ]);
  // One token for all of it: it is what is learnt, from the one that begins texts.
  const one = { ...withBos, encode: (text: string) => text === "" ? [] : [10 + text.length] };
  assertEquals(encodeExamples([{ context: "a", continuation: "b" }], one, { length: 8 }).sequences, [
    { tokens: Uint32Array.of(BOS, 12), firstTarget: 1 },
  ]);
});

Deno.test("the token that begins texts comes first and once in every kind of example", () => {
  const inst = chatTemplateFromConfig({
    chat_template: "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}" +
      "{% if add_generation_prompt %}[assistant]{% endif %}",
    bos_token: "\x01",
  });
  const chats = [template, inst].map((one) => renderChat(one, { messages: TURNS.slice(1, 3) }));
  const texts = [
    "\x01ab\0 c\0",
    "\x01hello\0",
    "\x01ab c",
    // What begins a conversation is the template's matter.
    template.render({ messages: TURNS.slice(1, 3) }),
    "\x01[user]Hi[assistant]Hello é!",
  ];
  const examples = [
    { prompt: "ab", completion: "c" },
    { text: "hello" },
    { context: "ab", continuation: " c" },
    ...chats,
  ];
  const set = encodeExamples(examples, withBos, { length: 100 });
  assertEquals(set.sequences.map(({ tokens }) => letters.decode(tokens)), texts);
  const batch = fixedBatches(set, 5)[0]!;
  assertEquals(batch.targets.some((target, i) => batch.mask[i] === 1 && target === BOS), false);
  assertEquals(set.sequences.map((_, i) => learnt(set, i)).slice(0, 3), [" c\0", "hello\0", " c"]);
  assertEquals(learnt(set, 4), "Hello é!");
  // Cut, it stays.
  encodeExamples(examples, withBos, { length: 4 }).sequences.forEach(({ tokens }, i) => {
    assertEquals(tokens[0] === BOS, i !== 3);
    assertEquals(tokens.length, 5);
  });
});

Deno.test("examplePrompt gives what is given and what should follow", () => {
  const both = [letters, withBos] as const;
  for (const tokenizer of both) {
    const first = tokenizer.bos === null ? [] : [BOS];
    assertEquals(examplePrompt({ prompt: "ab", completion: "c" }, tokenizer), {
      tokens: [...first, ...letters.encode("ab"), 0],
      text: "ab",
      reference: "c",
    });
    assertEquals(examplePrompt({ context: "ab", continuation: " c" }, tokenizer), {
      tokens: [...first, ...letters.encode("ab")],
      text: "ab",
      reference: " c",
    });
  }
  const tools = [{ name: "weather" }];
  const given = template.render({ messages: TURNS.slice(0, 4), tools }, { addGenerationPrompt: true });
  const chat = examplePrompt(renderChat(template, { messages: TURNS, tools }), letters);
  assertEquals(chat, { tokens: letters.encode(given), text: given, reference: "So long", asked: "Bye" });
  assertStringIncludes(chat.text, '{"name": "weather"}');
  // By hand, without what the assistant says last.
  const parts = [{ text: "a", isLearnt: false }, { text: "b", isLearnt: true }, {
    text: "c",
    isLearnt: false,
  }];
  assertEquals(examplePrompt({ parts }, withBos), { tokens: [97], text: "a", reference: "b" });
  assertEquals(examplePrompt({ parts: parts.slice(1) }, letters).tokens, [0]);
  assertThrows(
    () => examplePrompt({ text: "hello" }, letters),
    RangeError,
    'as it must have one (a pair, context and continuation, or messages): current value is the text "hello"',
  );
});

Deno.test("the tokens of a conversation's prompt are those that it is fine-tuned on", () => {
  // A tokenizer that sees two letters at a time tells where texts are cut.
  const twos = {
    ...withBos,
    encode: (text: string) => (text.match(/..?/gs) ?? []).map((two) => two.charCodeAt(0) * 256 + two.length),
    encodeWithPlaces(text: string) {
      const ids = this.encode(text);
      const stops = ids.map((_, i) => Math.min(text.length, 2 * i + 2));
      return { ids, starts: ids.map((_, i) => 2 * i), stops };
    },
  };
  for (const turns of [TURNS, TURNS.slice(1)]) {
    const chat = renderChat(template, { messages: turns });
    const { sequences: [learnt] } = encodeExamples([chat], twos, { length: 1000 });
    const whole = template.render({ messages: turns });
    assertEquals([...learnt!.tokens], twos.encode(whole));
    const prompt = examplePrompt(chat, twos);
    assertEquals(prompt.tokens, twos.encode(prompt.text));
    // A token over the border is learnt, as it has a letter of the answer.
    const border = Math.floor(prompt.text.length / 2);
    assertEquals([...learnt!.tokens.subarray(0, border)], prompt.tokens.slice(0, border));
    assertEquals(learnt!.counts!.slice(border), new Uint8Array(learnt!.tokens.length - border).fill(1));
  }
});

Deno.test("a template that opens a thought is trained on what it writes, and asked as it asks", () => {
  const thinking = chatTemplateFromConfig({
    chat_template: "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}" +
      "{% if add_generation_prompt %}[assistant]{% if messages|length > 3 %}<think>{% endif %}{% endif %}",
  });
  const chat = renderChat(thinking, { messages: TURNS });
  assertEquals(learnt(encodeExamples([chat], letters, { length: 1000 })), "Hello é!So long");
  const text = "[system]Be brief.[user]Hi[assistant]Hello é![user]Bye[assistant]<think>";
  assertEquals(examplePrompt(chat, withBos), {
    tokens: letters.encode(text),
    text,
    reference: "So long",
    asked: "Bye",
  });
});

/** Thoughts of earlier turns are left out, and that of the next one is opened. */
const THINKING = chatTemplateFromConfig({
  chat_template: "{%- for m in messages %}<{{ m.role }}>" +
    "{%- if m.role == 'assistant' and '</think>' in m.content %}" +
    "{{- m.content.split('</think>')[-1].lstrip('\n') }}{%- else %}{{- m.content }}{%- endif %}<end>\n{%- endfor %}" +
    "{%- if add_generation_prompt %}{{- '<assistant><think>\n' }}{%- endif %}",
});

Deno.test("turns that the template rewrites are learnt as it writes them", () => {
  const thought = "<think>\nshort\n</think>\n\n";
  const messages = [
    { role: "user", content: "Where can I eat?" },
    { role: "assistant", content: `${thought}At the harbour.` },
    { role: "user", content: "Is it far?" },
    { role: "assistant", content: `${thought}Two streets away.` },
  ];
  const chat = renderChat(THINKING, { messages });
  assertEquals(chat.parts.map(({ text }) => text).join(""), THINKING.render({ messages }));
  assertEquals(
    chat.parts.filter(({ isLearnt }) => isLearnt).map(({ text }) => text),
    ["At the harbour.<end>", "Two streets away.<end>"],
  );
  // Where the last turn keeps its thought, that is learnt from where the model is to go on.
  const keeping = chatTemplateFromConfig({
    chat_template: "{%- for m in messages %}<{{ m.role }}>" +
      "{%- if '</think>' in m.content and not loop.last %}{{- m.content.split('</think>')[-1].lstrip('\n') }}" +
      "{%- else %}{{- m.content }}{%- endif %}<end>\n{%- endfor %}" +
      "{%- if add_generation_prompt %}{{- '<assistant><think>\n' }}{%- endif %}",
  });
  assertEquals(
    renderChat(keeping, { messages }).parts.filter(({ isLearnt }) => isLearnt).map(({ text }) => text),
    ["At the harbour.<end>", "short\n</think>\n\nTwo streets away.<end>"],
  );
});

Deno.test("what a template marks as generated is learnt, and nothing else", () => {
  const marked = chatTemplateFromConfig({
    chat_template: "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}" +
      "{{ m.content }}</s>{% endgeneration %}~{% else %}{{ m.content }}{% endif %}{% endfor %}" +
      "{% if add_generation_prompt %}[assistant]{% endif %}",
  });
  const learntOf = (messages: typeof TURNS) =>
    learnt(encodeExamples([renderChat(marked, { messages })], letters, { length: 1000 }));
  assertEquals(learntOf(TURNS), "Hello é!</s>So long</s>");
  assertEquals(learntOf(TURNS.map((turn, i) => i === 2 ? { ...turn, weight: 0 } : turn)), "So long</s>");
});

Deno.test("messages of weight 0 are not learnt", () => {
  const weighted = (...weights: unknown[]) =>
    renderChat(template, {
      messages: [TURNS[1]!, TURNS[2]!, TURNS[1]!, TURNS[2]!].map((turn, i) =>
        turn.role === "assistant" ? { ...turn, weight: weights[i >> 1] } : turn
      ),
    });
  const learntOf = (...weights: unknown[]) =>
    learnt(encodeExamples([weighted(...weights)], letters, { length: 1000 }));
  const said = "Hello é!<|im_end|>\n";
  assertEquals([learntOf(0, 1), learntOf(1, 0), learntOf(1, null), learntOf()], [
    said,
    said,
    said + said,
    said + said,
  ]);
  assertThrows(() => weighted(0, 0), DataFormatError, "the assistant must say something that is learnt");
  for (const bad of [0.5, "0", -1]) {
    assertThrows(() => weighted(1, bad), DataFormatError, "the weight of a message must be 0 or 1");
  }
});

Deno.test("the tokens of a conversation are those of the whole text, as transformers has them", async () => {
  const folder = `${FIXTURES}tokenizer/chats/`;
  const want = JSON.parse(await Deno.readTextFile(`${folder}want.json`)) as Record<string, number[]>;
  const [first] = JSON.parse(await Deno.readTextFile(`${folder}chats.jsonl`)).messages;
  for (const name of ["chatml_nobos", "inst_legacy", "zephyr_legacy"]) {
    const tokenizer = await loadModelTokenizer(`${folder}${name}`);
    const chatTemplate = await loadChatTemplate(`${folder}${name}`);
    const examples = await loadExamples(`${folder}chats.jsonl`, { chatTemplate });
    const { sequences: [learnt] } = encodeExamples(examples, tokenizer, { length: 1000 });
    assertEquals([...learnt!.tokens], want[name], name);
    const asked = chatTemplate.render({ messages: [first] }, { addGenerationPrompt: true });
    assertEquals(encodeChat(tokenizer, asked), want[`${name}/prompt`], name);
    const counted = [...learnt!.tokens].filter((_, i) =>
      i >= learnt!.firstTarget && learnt!.counts![i] === 1
    );
    const text = tokenizer.decode(counted).replaceAll(/\s+/g, " ");
    assertStringIncludes(text, "At the harbour.");
    assertStringIncludes(text, "Two streets away.");
    assertEquals(text.includes("eat"), false, name);
  }
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
    '{"sentence":"A _.","option1":"x","option2":"y","answer":"1"}',
    '{"question_stem":"s","choices":{"text":["x"],"label":["A"]},"answerKey":"A"}',
    '{"id":"1","question":{"stem":"s","choices":[]},"answerKey":"A"}',
    '{"continuation":" x"}',
    '{"context":"x","continuation":" "}',
    '{"text":"good too"}',
  ];
  const bad: BadLine[] = [];
  const options = { name: "d.jsonl", chatTemplate: template };
  const examples = parseExamples(lines.join("\n"), { ...options, onBadLine: (line) => bad.push(line) });
  assertEquals(examples, [{ text: "good" }, { text: "good too" }]);
  assertEquals(bad.map(({ line, problem }) => `${line}: ${problem.split(": current")[0]}`), [
    "2: the text must not be empty",
    '3: a row must have "messages", "text" or "prompt" and "completion" (or "context" and "continuation", ' +
    '"instruction" and "output", "conversations"): its columns are txt; --map prompt=COLUMN,completion=COLUMN says which is which',
    '4: "completion" must be a string',
    '5: "messages" must be a list of objects with a "role"',
    '6: "messages" must be a list of objects with a "role"',
    "7: the assistant must say something that is learnt",
    '8: "tools" must be a list',
    "9: a line must be JSON",
    "10: a line must be an object",
    '11: "text" must be a string',
    "12: rows of winogrande must be made examples first: format_data.ts --format winogrande does that",
    "13: rows of openbookqa must be made examples first: format_data.ts --format openbookqa does that",
    "14: rows of openbookqa must be made examples first: format_data.ts --format openbookqa does that",
    '15: "context" must be a string',
    "16: the continuation must not be empty",
  ]);
  assertEquals(bad[0]!.name, "d.jsonl");
  for (const { line, problem } of bad) {
    const message = `Cannot read d.jsonl, line 2, as ${problem}`;
    assertThrows(
      () => parseExamples(`${lines[0]}\n${lines[line - 1]}\n${lines[0]}`, options),
      DataFormatError,
      message,
    );
  }
  assertThrows(() => parseExamples(lines[1]!, { onBadLine: () => {} }), DataFormatError, "no line is valid");
  assertThrows(
    () => parseExamples('{"messages":[]}'),
    DataFormatError,
    '"messages" must come with the chat template of a model',
  );
});

Deno.test("what a template refuses is told with the line", () => {
  const strict = chatTemplateFromConfig({ chat_template: "{{ raise_exception('No system role') }}" });
  const line = JSON.stringify({ messages: TURNS });
  assertThrows(
    () => parseExamples(line, { chatTemplate: strict }),
    DataFormatError,
    "line 1, as the chat template must take it: No system role",
  );
});

Deno.test("chatTemplateFromConfig refuses what is no template", () => {
  for (const value of [undefined, 1, [], [{ name: "default" }], [{ name: "other", template: "x" }]]) {
    assertThrows(
      () => chatTemplateFromConfig({ chat_template: value }, { name: "t" }),
      ModelFileError,
      'Cannot use t as "chat_template" must be a template',
    );
  }
  assertThrows(() => chatTemplateFromConfig({ chat_template: "{% if %}" }), ModelFileError, "must be valid");
});

Deno.test("loadChatTemplate prefers the template's own file; loadExamples names the file", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await assertRejects(() => loadChatTemplate(folder), ModelFileError, `${folder}/tokenizer_config.json`);
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
      DataFormatError,
      `${folder}/d.jsonl, line 1, as a line`,
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("findChatTemplate tells a template that is not there from one that is broken", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const config = `${folder}/tokenizer_config.json`;
    assertEquals(await findChatTemplate(folder), null);
    assertEquals(await findChatTemplate(`${folder}/no/such`), null);
    await Deno.writeTextFile(config, '{"eos_token":"."}');
    assertEquals(await findChatTemplate(folder), null);
    await assertRejects(() => loadChatTemplate(folder), ModelFileError, "there is none");
    await Deno.writeTextFile(config, '{"chat_template":null}');
    assertEquals(await findChatTemplate(folder), null);
    await Deno.writeTextFile(config, '{"chat_template":"{% if %}"}');
    await assertRejects(() => findChatTemplate(folder), ModelFileError, "must be valid");
    await Deno.writeTextFile(config, '{"chat_template":5}');
    await assertRejects(() => findChatTemplate(folder), ModelFileError, "current value is 5");
    await Deno.writeTextFile(config, "{");
    await assertRejects(() => findChatTemplate(folder), ModelFileError, `${config} as it must be JSON`);
    await Deno.remove(config);
    await Deno.writeTextFile(`${folder}/chat_template.jinja`, "alone");
    assertEquals((await findChatTemplate(folder))!.render({ messages: [] }), "alone");
    await Deno.writeTextFile(`${folder}/chat_template.jinja`, "{% for %}");
    await assertRejects(() => findChatTemplate(folder), ModelFileError, "chat_template.jinja");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** A text of which each "!" is a byte that is no UTF-8. */
function withBadBytes(text: string): Uint8Array {
  return new TextEncoder().encode(text).map((byte) => byte === 0x21 ? 0xff : byte);
}

Deno.test("a line that is not UTF-8 is named, and may be left out", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const lines = `${folder}/d.txt`, objects = `${folder}/d.jsonl`;
    await Deno.writeFile(lines, withBadBytes("\uFEFFa||é\nb!||c\n\uFEFFd||e\n"));
    await Deno.writeFile(objects, withBadBytes('{"text":"a"}\n{"text":"!"}\n'));
    await assertRejects(() => loadPairs(lines), DataFormatError, `${lines}, line 2, as a line must be UTF-8`);
    await assertRejects(
      () => loadExamples(objects),
      DataFormatError,
      `${objects}, line 2, as a line must be UTF-8`,
    );
    const bad: number[] = [];
    const onBadLine = ({ line }: { line: number }) => void bad.push(line);
    // A byte-order mark within a text is white space; at its start it is none of it.
    assertEquals(await loadPairs(lines, { onBadLine }), [
      { prompt: "a", completion: "é" },
      { prompt: "d", completion: "e" },
    ]);
    assertEquals(await loadExamples(objects, { onBadLine }), [{ text: "a" }]);
    assertEquals(bad, [2, 2]);
    const e2e = await loadText(lines);
    assertEquals(formatE2eLines(e2e, { onBadLine }).map(({ completion }) => completion), ["é", "e"]);
    await Deno.writeFile(`${folder}/d.csv`, withBadBytes("mr,ref\na[b],C.\na[d],E!\nf,G.\n"));
    const csv = await loadText(`${folder}/d.csv`);
    await assertRejects(
      () => formatE2eCsv(csv, { name: "t" }),
      DataFormatError,
      "t, line 3, as a row must be UTF-8",
    );
    assertEquals(await formatE2eCsv(csv, { onBadLine }), [{ prompt: "a : b", completion: "C." }]);
    assertEquals(bad, [2, 2, 2, 3, 4]);
    await Deno.writeFile(`${folder}/d.json`, withBadBytes('[\n"!"]'));
    const json = await loadText(`${folder}/d.json`);
    assertThrows(() => formatDart(json, { name: "t" }), DataFormatError, "t, line 2, as it must be UTF-8");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("further chat templates of a folder have the names of their files; older files count too", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(
      `${folder}/chat_template.json`,
      JSON.stringify({ chat_template: "plain{{ pad_token }}" }),
    );
    await Deno.writeTextFile(`${folder}/special_tokens_map.json`, JSON.stringify({ pad_token: "<pad>" }));
    assertEquals((await loadChatTemplate(folder)).render({ messages: [] }), "plain<pad>");
    await Deno.mkdir(`${folder}/additional_chat_templates`);
    await Deno.writeTextFile(`${folder}/additional_chat_templates/tool_use.jinja`, "tools");
    const both = await loadChatTemplate(folder);
    assertEquals([both.render({ messages: [] }), both.render({ messages: [], tools: [{}] })], [
      "plain<pad>",
      "tools",
    ]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a date in a template is that of the time that is given", async () => {
  const chat_template = "{{ strftime_now('%d %b %Y') }}";
  const now = new Date("2024-07-06T15:04:09");
  assertEquals(chatTemplateFromConfig({ chat_template }, { now }).render({ messages: [] }), "06 Jul 2024");
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/chat_template.jinja`, chat_template);
    assertEquals((await findChatTemplate(folder, now))!.render({ messages: [] }), "06 Jul 2024");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("examplePrompt says what a template that asks with a space at its end leaves to the model", async () => {
  const tokenizer = await loadModelTokenizer(`${ASSETS}tiny_gpt2`);
  const chatTemplate = chatTemplateFromConfig({
    chat_template:
      "{% for m in messages %}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}: {% endif %}",
  });
  const messages = [{ role: "user", content: "Hi" }, { role: "assistant", content: "Yo" }];
  const { text, tokens, lead } = examplePrompt(renderChat(chatTemplate, { messages }), tokenizer);
  assertEquals([text, tokenizer.decode(tokens), lead], [": Hi: ", ": Hi:", " "]);
});
