/**
 * The endpoint of the OpenAI API on one machine, with OpenAI's own client and with what no client sends.
 */

import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import OpenAI from "openai";
import { chatTemplateFromConfig, encodeOpening, sample } from "@edgetuner/core";
import type { TextGenerator } from "@edgetuner/transport/server";
import { textGenerator, type TokenSource } from "../../cli/shared/text_generators.ts";
import { TextModel } from "../../cli/shared/texts.ts";
import { assetPath } from "../../cli/process/places.ts";
import { until } from "../support/until.ts";
import { clientOf, openEndpoint, template } from "./_api.ts";

const model = await TextModel.open({ model: assetPath("tiny_gpt2") }, null);
const { tokenizer, fingerprint, positions, vocabulary } = model;
const SOURCE: TokenSource = {
  ...{ id: "tiny", fingerprint, tokenizer, template, positions, vocabulary, isPair: false },
  search: (search) => model.search(search),
};
const TINY = textGenerator(SOURCE);
const QUESTION = [{ role: "user", content: "Where can I eat?" }] as const;
const PROMPT = "The Crooked Heron is";

/** Greedy tokens of a text as `edgetuner generate` makes them, and their text. */
async function greedy(prompt: string, maxNewTokens: number, lead = ""): Promise<string> {
  const mayBegin = (tokens: readonly number[]) => tokenizer.decode(tokens).startsWith(lead);
  const tokens = await model.search((session) =>
    sample(session, encodeOpening(tokenizer, prompt), { maxNewTokens, mayBegin, endTokens: [tokenizer.eos] })
  );
  return tokenizer.decode(tokens.filter((token) => token !== tokenizer.eos));
}

/** A request for tokens that do not end by themselves for long. */
const LONG = { model: "tiny", prompt: PROMPT, temperature: 2, max_tokens: 100, seed: 3 };

Deno.test("the openai client lists models, chats and completes, whole and in pieces, with the text of generate [slow]", async () => {
  await using endpoint = await openEndpoint([
    TINY,
    textGenerator({ ...SOURCE, id: "base:tiny/2", template: null }),
  ]);
  const { client } = endpoint;
  const { data } = await client.models.list();
  assertEquals(data.map(({ id, object }) => [id, object]), [["tiny", "model"], ["base:tiny/2", "model"]]);
  assertEquals((await client.models.retrieve("base:tiny/2")).id, "base:tiny/2");

  const whole = await client.completions.create({
    model: "tiny",
    prompt: PROMPT,
    max_tokens: 24,
    temperature: 0,
  });
  assertEquals(whole.choices[0]!.text, await greedy(PROMPT, 24));
  const { prompt_tokens: before, completion_tokens: made, total_tokens: all } = whole.usage!;
  assertEquals([before, all], [encodeOpening(tokenizer, PROMPT).length, before + made]);
  const tokens = await client.completions.create({
    ...{ model: "tiny", prompt: encodeOpening(tokenizer, PROMPT), max_tokens: 24, temperature: 0 },
  });
  assertEquals(tokens.choices[0]!.text, whole.choices[0]!.text);

  const asked = { model: "tiny", messages: [...QUESTION], max_tokens: 6, temperature: 0 };
  const { choices: [choice], usage } = await client.chat.completions.create(asked);
  const answer = choice!.message.content!;
  // The template asks with a space at its end, which is one token with the first word.
  assertEquals(` ${answer}`, await greedy("user: Where can I eat?.", 6, " "));
  assert(
    !await greedy("user: Where can I eat?.", 6).then((text) => text.startsWith(" ")),
    "nothing was held to it",
  );
  assertEquals([choice!.finish_reason, usage!.completion_tokens], ["length", 6]);

  const stream = await client.chat.completions.create({
    ...asked,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  const roles: unknown[] = [], ends: unknown[] = [], usages: unknown[] = [];
  for await (const { choices, usage } of stream) {
    usages.push(usage);
    for (const { delta, finish_reason } of choices) {
      text += delta.content ?? "";
      roles.push(delta.role);
      ends.push(finish_reason);
    }
  }
  assertEquals(text, choice!.message.content);
  assertEquals([roles[0], roles.at(1)], ["assistant", undefined]);
  assertEquals([ends.filter((end) => end !== null), ends.at(-1)], [["length"], "length"]);
  assertEquals([usages.filter((u) => u !== null), usages.at(-1)], [[usage], usage]);

  let completed = "";
  const pieces = await client.completions.create({
    model: "tiny",
    prompt: PROMPT,
    max_tokens: 24,
    temperature: 0,
    stream: true,
  });
  for await (const piece of pieces) completed += piece.choices[0]!.text;
  assertEquals(completed, whole.choices[0]!.text);
  const raw = await endpoint.post(
    "/v1/completions",
    JSON.stringify({ ...LONG, max_tokens: 3, stream: true }),
  );
  assertEquals(raw.headers.get("content-type"), "text/event-stream");
  const lines = (await raw.text()).split("\n\n").filter((line) => line !== "");
  assertEquals([lines.at(-1), lines.every((line) => line.startsWith("data: "))], ["data: [DONE]", true]);
});

Deno.test("stop ends the text before it, a seed gives the same text, and temperature 0 takes the most likely one [slow]", async () => {
  await using endpoint = await openEndpoint([TINY]);
  const { client } = endpoint;
  const text = await greedy(PROMPT, 24);
  const complete = async (options: Partial<OpenAI.CompletionCreateParamsNonStreaming>) => {
    const { choices: [choice], usage } = await client.completions.create({
      ...{ model: "tiny", prompt: PROMPT, max_tokens: 24, temperature: 0, ...options },
    });
    return { text: choice!.text, reason: choice!.finish_reason, tokens: usage!.completion_tokens };
  };
  const plain = await complete({});
  assertEquals(plain.text, text);
  const stop = text.slice(3, 6);
  for (const given of [stop, ["nothing of it", stop]]) {
    const stopped = await complete({ stop: given });
    assertEquals([stopped.text, stopped.reason], [text.slice(0, text.indexOf(stop)), "stop"]);
    assertLess(stopped.tokens, plain.tokens);
    let streamed = "";
    const pieces = await client.completions.create({
      ...{ model: "tiny", prompt: PROMPT, max_tokens: 24, temperature: 0, stop: given, stream: true },
    });
    for await (const piece of pieces) {
      streamed += piece.choices[0]!.text;
      assert(stopped.text.startsWith(streamed), "nothing of what ends it is sent");
    }
    assertEquals(streamed, stopped.text);
  }
  const drawn = (seed?: number) => complete({ temperature: 1.5, ...(seed === undefined ? {} : { seed }) });
  const [a, b, other, large] = [await drawn(7), await drawn(7), await drawn(8), await drawn(2 ** 40 + 7)];
  assertEquals(a, b);
  assert(new Set([a.text, other.text, large.text]).size === 3);
  const unseeded = [await drawn(), await drawn(), await drawn()];
  assert(new Set(unseeded.map(({ text }) => text)).size > 1, "another seed each time");
  // No share of the probability, and the most likely token alone, are greedy.
  assertEquals((await complete({ temperature: 1, top_p: 0 })).text, text);
  assertEquals((await complete({ temperature: 1, top_k: 1 } as object)).text, text);
  assertEquals((await complete({ max_tokens: null })).tokens <= 16, true);
});

Deno.test("an answer ends when its reader goes, whole or in pieces, running or waiting", async () => {
  await using endpoint = await openEndpoint([held()]);
  const { client, answered } = endpoint;
  const abort = new AbortController();
  const stream = await client.completions.create({ ...LONG, stream: true }, { signal: abort.signal });
  const waiting = new AbortController();
  const second = client.completions.create(LONG, { signal: waiting.signal });
  for await (const _piece of stream) {
    await until(() => inLine(endpoint.url), "the second request waits");
    waiting.abort();
    await assertRejects(() => second, OpenAI.APIUserAbortError);
    await until(async () => await inLine(endpoint.url) === 0, "it does not wait any more");
    abort.abort();
    break;
  }
  await until(() => answered.length === 1, "the first answer ends");
  const third = new AbortController();
  const whole = client.completions.create(LONG, { signal: third.signal });
  await until(() => holding === 1, "the third answer is being made");
  third.abort();
  await assertRejects(() => whole, OpenAI.APIUserAbortError);
  await until(() => answered.length === 2, "the third answer ends");
  assertEquals(answered.map(({ reason, tokens }) => [reason, tokens < 100]), [["aborted", true], [
    "aborted",
    true,
  ]]);
});

/** Answers that have begun and are held until their signal aborts. */
let holding = 0;

/** The model, which holds each answer after its first piece until nobody wants it. */
function held(): TextGenerator {
  return {
    ...TINY,
    async generate(prompt, options) {
      holding++;
      const gone = new Promise((resolve) => options.signal!.addEventListener("abort", resolve));
      options.onText?.("…");
      await gone;
      holding--;
      return await TINY.generate(prompt, options);
    },
  };
}

/** Requests that wait at an endpoint. */
async function inLine(url: string): Promise<number> {
  return (await (await fetch(`${url}/health`)).json()).waiting;
}

Deno.test("requests wait for their turn in a line of bounded length, and for a limited time", async () => {
  await using endpoint = await openEndpoint([held()], { maxWaiting: 2 });
  const aborts = Array.from({ length: 3 }, () => new AbortController());
  const requests = [];
  for (const [i, { signal }] of aborts.entries()) {
    requests.push(
      endpoint.client.completions.create({ ...LONG, stream: i === 1 }, { signal }).catch(() => {}),
    );
    await until(async () => holding === 1 && await inLine(endpoint.url) === i, "it is in line");
  }
  for (const stream of [false, true]) {
    const full = await endpoint.post("/v1/completions", JSON.stringify({ ...LONG, stream }));
    assertEquals([full.status, full.headers.get("retry-after")], [503, "2"]);
    assertEquals((await full.json()).error.code, "overloaded");
  }
  for (const abort of aborts) abort.abort();
  await Promise.all(requests);
  await until(() => holding === 0, "all have ended");

  await using short = await openEndpoint([held()], { requestTimeoutMs: 50 });
  const error = await assertRejects(() => short.client.completions.create(LONG), OpenAI.APIError);
  assertEquals([error.status, error.code], [504, "timeout"]);
  const late = await short.client.completions.create({ ...LONG, stream: true });
  const cut = await assertRejects(() => Array.fromAsync(late), OpenAI.APIError);
  assertStringIncludes(cut.message, "at most 0.05 s");

  const down = new AbortController();
  await using closing = await openEndpoint([held()], { signal: down.signal });
  const open = closing.client.completions.create(LONG);
  await until(() => holding === 1, "it is being answered");
  down.abort();
  assertEquals((await assertRejects(() => open, OpenAI.APIError)).code, "shutting_down");
});

Deno.test("wrong keys, models and routes are refused as the API refuses them", async () => {
  await using endpoint = await openEndpoint([
    TINY,
    textGenerator({ ...SOURCE, id: "plain", template: null }),
  ]);
  const { url, client } = endpoint;
  const asked = { model: "tiny", messages: [...QUESTION] };
  const wrong = await assertRejects(
    () => clientOf(url, "wrong-key-1").models.list(),
    OpenAI.AuthenticationError,
  );
  assertEquals(wrong.code, "invalid_api_key");
  const none = await fetch(`${url}/v1/models`);
  assertEquals([none.status, none.headers.get("www-authenticate")], [401, "Bearer"]);
  assertStringIncludes((await none.json()).error.message, "did not provide an API key");
  for (const path of ["/v1/chat/completions", "/v1/completions"]) {
    assertEquals((await endpoint.post(path, "{}", { authorization: "Bearer no" })).status, 401);
  }
  const model = await assertRejects(
    () => client.chat.completions.create({ ...asked, model: "gpt-x" }),
    OpenAI.NotFoundError,
  );
  assertEquals([model.code, model.param], ["model_not_found", "model"]);
  assertInstanceOf(await client.models.retrieve("no").catch((e) => e), OpenAI.NotFoundError);
  const template = await assertRejects(
    () => client.chat.completions.create({ ...asked, model: "plain" }),
    OpenAI.BadRequestError,
  );
  assertStringIncludes(template.message, "must have a chat template");
  for (
    const [path, method, status] of [["/v1/embeddings", "POST", 404], ["/", "GET", 404], [
      "/v1/completions",
      "GET",
      405,
    ]] as const
  ) {
    const answer = await fetch(url + path, {
      method,
      headers: { authorization: `Bearer ${"key-of-the-tests"}` },
    });
    assertEquals([answer.status, (await answer.json()).error.type], [status, "invalid_request_error"]);
  }
});

Deno.test("what there is not is refused by the name of its field, and null is as if it were not given", async () => {
  await using endpoint = await openEndpoint([TINY], { maxTokens: 50, maxMessages: 3 });
  const chat = { model: "tiny", messages: QUESTION, max_tokens: 1 };
  const text = { model: "tiny", prompt: "a", max_tokens: 1 };
  const call = { id: "1", type: "function", function: { name: "f", arguments: "{" } };
  const cases: readonly (readonly [object, string, string?])[] = [
    [{ ...chat, n: 2 }, "n"],
    [{ ...chat, logprobs: true }, "logprobs"],
    [{ ...chat, top_logprobs: 2 }, "top_logprobs"],
    [{ ...chat, tools: [{ type: "function", function: { name: "f" } }] }, "tools"],
    [{ ...chat, tool_choice: "required" }, "tool_choice"],
    [{ ...chat, response_format: { type: "json_object" } }, "response_format"],
    [{ ...chat, frequency_penalty: 0.5 }, "frequency_penalty"],
    [{ ...chat, presence_penalty: -1 }, "presence_penalty"],
    [{ ...chat, logit_bias: { 5: 1 } }, "logit_bias"],
    [{ ...chat, stream_options: { include_usage: true } }, "stream_options"],
    [{ ...chat, temperature: 2.5 }, "temperature", "from 0 to 2"],
    [{ ...chat, temperature: "1" }, "temperature"],
    [{ ...chat, top_p: -1 }, "top_p"],
    [{ ...chat, max_tokens: 0 }, "max_tokens"],
    [{ ...chat, max_tokens: 51 }, "max_tokens", "at most 50"],
    [{ ...chat, max_completion_tokens: 51 }, "max_completion_tokens"],
    [{ ...chat, seed: 1.5 }, "seed"],
    [{ ...chat, stop: "" }, "stop"],
    [{ ...chat, stop: ["a", "b", "c", "d", "e"] }, "stop"],
    [{ ...chat, stop: ["a", 1] }, "stop[1]"],
    [{ ...chat, store: true }, "store"],
    [{ ...chat, modalities: ["audio"] }, "modalities", "Unrecognized"],
    [{ ...chat, messages: undefined }, "messages", "Missing required"],
    [{ ...chat, messages: [] }, "messages"],
    [{ ...chat, messages: Array(4).fill(QUESTION[0]) }, "messages", "at most 3"],
    [{ ...chat, messages: ["hi"] }, "messages[0]"],
    [{ ...chat, messages: [{ role: "king", content: "hi" }] }, "messages[0].role"],
    [{ ...chat, messages: [{ role: "user" }] }, "messages[0].content", "Missing required"],
    [{ ...chat, messages: [{ role: "user", content: null }] }, "messages[0].content"],
    [
      { ...chat, messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] },
      "messages[0].content[0].type",
      "text alone",
    ],
    [
      { ...chat, messages: [{ role: "assistant", content: "", tool_calls: [call] }] },
      "messages[0].tool_calls[0].function.arguments",
    ],
    [
      { ...chat, messages: [{ role: "user", content: "x ".repeat(2000) }] },
      "messages",
      "maximum context length",
    ],
    [{ ...text, logprobs: 0 }, "logprobs"],
    [{ ...text, echo: true }, "echo"],
    [{ ...text, suffix: "x" }, "suffix"],
    [{ ...text, best_of: 2 }, "best_of"],
    [{ ...text, prompt: ["a", "b"] }, "prompt"],
    [{ ...text, prompt: [] }, "prompt"],
    [{ ...text, prompt: [vocabulary] }, "prompt", "must be below"],
    [{ ...text, prompt: [-1] }, "prompt[0]"],
    [{ ...text, prompt: 7 }, "prompt"],
    [{ prompt: "a" }, "model", "Missing required"],
  ];
  for (const [body, param, words = ""] of cases) {
    const path = "prompt" in body || !("messages" in body) ? "/v1/completions" : "/v1/chat/completions";
    const answer = await endpoint.post(path, JSON.stringify(body));
    const { error } = await answer.json();
    assertEquals([answer.status, error?.param], [400, param], JSON.stringify(error));
    assertStringIncludes(error.message, words);
  }
  assertEquals(endpoint.answered, []);
  // As many clients write what is not set; and what changes nothing.
  const nothing = Object.fromEntries(
    "temperature top_p seed stop stream stream_options n presence_penalty logit_bias user tools response_format logprobs metadata"
      .split(" ").map((name) => [name, null]),
  );
  const plain = {
    ...chat,
    ...nothing,
    frequency_penalty: 0,
    tool_choice: "none",
    parallel_tool_calls: true,
    service_tier: "auto",
  };
  assertEquals((await endpoint.post("/v1/chat/completions", JSON.stringify(plain))).status, 200);
});

Deno.test("messages of all roles and parts reach the template, tools where it knows them", async () => {
  const source =
    "{% if tools %}[{{ tools[0].function.name }}]{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}" +
    "{% for c in m.tool_calls %}{{ c.function.name }}({{ c.function.arguments.city }}){% endfor %}{{ m.tool_call_id }}{% endfor %}";
  const knowing = textGenerator({ ...SOURCE, template: chatTemplateFromConfig({ chat_template: source }) });
  const prompts: string[] = [];
  const spying: TextGenerator = {
    ...knowing,
    generate(prompt, options) {
      prompts.push(tokenizer.decode(prompt));
      return knowing.generate(prompt, options);
    },
  };
  await using endpoint = await openEndpoint([spying]);
  const tool = {
    type: "function",
    function: { name: "weather", parameters: { type: "object", properties: {} } },
  } as const;
  await endpoint.client.chat.completions.create({
    model: "tiny",
    max_tokens: 1,
    tools: [tool],
    messages: [
      { role: "developer", content: "Be brief." },
      { role: "user", content: [{ type: "text", text: "Rain" }, { type: "text", text: "today?" }] },
      {
        role: "assistant",
        content: null,
        tool_calls: [{
          id: "1",
          type: "function",
          function: { name: "weather", arguments: '{"city":"Bern"}' },
        }],
      },
      { role: "tool", tool_call_id: "1", content: "wet" },
    ],
  });
  assertEquals(prompts, ["[weather]<system>Be brief.<user>Rain\ntoday?<assistant>weather(Bern)<tool>wet1"]);
});

Deno.test("numbers of tools and calls are written as they were given", async () => {
  const source =
    "{% if tools %}{{ tools[0].function.name }} {{ tools[0].function.parameters.maximum }} {% endif %}" +
    "{% for c in messages[0].tool_calls %}{{ c.function.arguments.at }}.{% endfor %}";
  const knowing = textGenerator({ ...SOURCE, template: chatTemplateFromConfig({ chat_template: source }) });
  const prompts: string[] = [];
  const spying: TextGenerator = {
    ...knowing,
    generate(prompt, options) {
      prompts.push(tokenizer.decode(prompt));
      return knowing.generate(prompt, options);
    },
  };
  await using endpoint = await openEndpoint([spying]);
  const response = await endpoint.post(
    "/v1/chat/completions",
    `{"model": "tiny", "max_tokens": 1, "temperature": 1.0,
      "tools": [{"type": "function", "function": {"name": "f", "parameters": {"maximum": 1.0}}}],
      "messages": [{"role": "assistant", "content": "", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\\"at\\": 2.0}"}}]}]}`,
  );
  const answer = await response.text();
  assertEquals([response.status, prompts], [200, ["f 1.0 2.0."]], answer);
});

Deno.test("hostile bodies get an answer of the API's form in bounded time, and leave the endpoint up", async () => {
  await using endpoint = await openEndpoint([TINY], { maxBodyBytes: 100_000, bodyTimeoutMs: 200 });
  const started = performance.now();
  const deep = (n: number) => `${"[".repeat(n)}${"]".repeat(n)}`;
  const withTools = (tools: string) =>
    `{"model":"tiny","messages":[{"role":"user","content":"x"}],"tools":${tools}}`;
  const cases: readonly (readonly [BodyInit, number])[] = [
    ["", 400],
    ["{", 400],
    ["null", 400],
    ["[]", 400],
    ['"x"', 400],
    [new Uint8Array([0x7b, 0xff, 0x7d]), 400],
    [deep(40_000), 400],
    [withTools(deep(40_000)), 400],
    [withTools(`[{"type":"function","function":{"name":"f","parameters":${deep(10_000)}}}]`), 400],
    [`{"model":"tiny","messages":${deep(40_000)}}`, 400],
    ['{"__proto__":{"model":"tiny"},"messages":[]}', 400],
    ['{"model":"tiny","constructor":1,"messages":[]}', 400],
    [`{${Array.from({ length: 9000 }, (_, i) => `"k${i}":1`).join()}}`, 400],
    [`{"model":"${"x".repeat(90_000)}","messages":[{"role":"user","content":"x"}]}`, 404],
    [JSON.stringify({ model: "tiny", messages: [{ role: "user", content: "x".repeat(200_000) }] }), 413],
    [JSON.stringify({ model: "tiny", messages: Array(1500).fill({ role: "user", content: "x" }) }), 400],
    [JSON.stringify({ model: "tiny", messages: [{ role: "user", content: "\ud800" }], max_tokens: 1 }), 200],
  ];
  for (const [body, status] of cases) {
    const answer = await endpoint.post("/v1/chat/completions", body);
    const text = await answer.text();
    assertEquals(answer.status, status, `${String(body).slice(0, 60)}: ${text.slice(0, 300)}`);
    assertLess(text.length, 5000);
    if (status !== 200) assertEquals(typeof JSON.parse(text).error.message, "string");
  }
  for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"]) {
    const answer = await endpoint.post("/v1/completions", JSON.stringify(LONG), { "content-type": type });
    assertEquals(answer.status, 415);
    await answer.body?.cancel();
  }
  // A body that never comes to its end.
  const slow = await endpoint.post(
    "/v1/completions",
    new ReadableStream({ start: (c) => c.enqueue(new Uint8Array([0x7b])) }),
  );
  assertEquals([slow.status, (await slow.json()).error.code], [408, "timeout"]);
  assertLess(performance.now() - started, 20_000);
  const { choices } = await endpoint.client.completions.create({ ...LONG, max_tokens: 1 });
  assertEquals(choices.length, 1);
});

Deno.test("a model that fails is an error of the server, in a stream too, and the next request is answered", async () => {
  let fails = true;
  const failing: TextGenerator = {
    ...TINY,
    generate: (prompt, options) =>
      fails ? Promise.reject(new Error("Cannot go on: lost")) : TINY.generate(prompt, options),
  };
  await using endpoint = await openEndpoint([failing]);
  const { client } = endpoint;
  const error = await assertRejects(() => client.completions.create(LONG), OpenAI.InternalServerError);
  assertEquals([error.status, error.type], [500, "server_error"]);
  const stream = await client.completions.create({ ...LONG, stream: true });
  assertStringIncludes((await assertRejects(() => Array.fromAsync(stream), OpenAI.APIError)).message, "lost");
  fails = false;
  assertEquals((await client.completions.create({ ...LONG, max_tokens: 2 })).usage!.completion_tokens, 2);
});

globalThis.addEventListener("unload", () => model[Symbol.dispose]());
