/**
 * The endpoint of the OpenAI API through the split: in one process with OpenAI's client, and as processes of their own.
 */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { Engine } from "@edgetuner/kernels";
import {
  type Adapter,
  CachedSession,
  completeText,
  type DecodingSession,
  defaultRunSettings,
  encodeTurn,
  GenerationServer,
  HeadModules,
  loadEmbeddingAndHead,
  loadHeads,
  loadLayers,
  openModel,
  runUserDevice,
  saveAdapter,
  shapeForDevices,
} from "@edgetuner/core";
import OpenAI from "openai";
import { assetPath } from "../../cli/process/places.ts";
import { textGenerator } from "../../cli/shared/text_generators.ts";
import { ROOT } from "../support/places.ts";
import { until } from "../support/until.ts";
import { clientOf, KEY, openEndpoint, TEMPLATE, template } from "./_api.ts";
import { learntBy, partOf } from "./_learnt.ts";
import { admitAll, joinDevice, openLink, type Passed, tapped } from "./_session.ts";

const engine = await Engine.create();
const { model, tokenizer } = await openModel(assetPath("tiny_gpt2"));
const { fingerprint } = model;
const layers = loadLayers(engine, model);
const ends = loadEmbeddingAndHead(engine, model);
const settings = { ...defaultRunSettings(1), task: "generate" as const };
const SECRET = "The Crooked Heron";
const ASKED = {
  model: "tiny",
  messages: [{ role: "user" as const, content: `Where is ${SECRET}?` }],
  max_tokens: 16,
  temperature: 0,
};

/** What all heads of the model have learnt. */
async function learnt(): Promise<Adapter> {
  const { lora, optimizer, seed, steps } = settings;
  const range = { first: 0, count: layers.shape.heads };
  using modules = new HeadModules(engine, {
    lora,
    optimizer,
    ...shapeForDevices(layers.shape),
    range,
    seed,
    steps,
  });
  return await learntBy(modules, { fingerprint, scale: 0.2 });
}

const adapter = await learnt();

/** What one machine answers, with the adapter or without. */
async function here(of: Adapter | null): Promise<string> {
  using heads = of === null ? null : loadHeads(engine, of);
  using session = new CachedSession({ engine, layers, ends, heads });
  const { tokens: prompt, lead } = encodeTurn(
    tokenizer,
    template.render({ messages: ASKED.messages }, { addGenerationPrompt: true }),
  );
  const options = { lead, maxNewTokens: 16, endTokens: [tokenizer.eos] };
  return (await completeText(session, tokenizer, prompt, options)).text;
}

Deno.test("through the split the endpoint gives the text of one machine, and texts stay at the data device [slow]", async () => {
  const server = new GenerationServer({ engine, base: layers, fingerprint, settings, devices: 2 });
  const link = openLink("websocket");
  const admitting = admitAll(link.listener, server);
  const running = server.start();
  const heads = [];
  for (const [first, count] of [[0, 3], [3, 5]] as const) {
    const own = {
      name: `heads ${first}`,
      capacity: 1,
      task: "generate",
      adapter: partOf(adapter, first, count),
    } as const;
    heads.push((await joinDevice(link, server, { engine, ...own })).result);
  }
  const frames: Passed[] = [];
  const generate = async (session: DecodingSession) => {
    const { positions, vocabulary } = ends.shape;
    const source = { id: "tiny", fingerprint, tokenizer, template, positions, vocabulary, isPair: false };
    await using endpoint = await openEndpoint([
      textGenerator({ ...source, search: (search) => search(session) }),
    ]);
    const { client } = endpoint;
    const whole = await client.chat.completions.create(ASKED);
    const text = whole.choices[0]!.message.content!;
    assertEquals(text, await here(adapter));
    assert(text !== await here(null), "what the heads have learnt matters");
    let streamed = "";
    for await (const { choices } of await client.chat.completions.create({ ...ASKED, stream: true })) {
      streamed += choices[0]?.delta.content ?? "";
    }
    assertEquals(streamed, text);
    const stop = text.slice(4, 8);
    const { choices: [stopped] } = await client.chat.completions.create({ ...ASKED, stop });
    assertEquals([stopped!.message.content, stopped!.finish_reason], [
      text.slice(0, text.indexOf(stop)),
      "stop",
    ]);
    const drawn = async (seed: number) =>
      (await client.chat.completions.create({ ...ASKED, temperature: 1.5, seed })).choices[0]!.message
        .content;
    assertEquals(await drawn(3), await drawn(3));
    // Its reader goes: the next one is answered.
    const stream = await client.completions.create({
      model: "tiny",
      prompt: SECRET,
      max_tokens: 90,
      temperature: 2,
      stream: true,
    });
    for await (const _piece of stream) break;
    await until(() => endpoint.answered.some(({ reason }) => reason === "aborted"), "the answer ends");
    assertEquals((await client.chat.completions.create(ASKED)).choices[0]!.message.content, text);
  };
  const channel = tapped(await link.transport.connect(), 2, (passed) => void frames.push(passed));
  const { error } = await runUserDevice({
    ...{ engine, channel, name: "data", capacity: 0, task: "generate" },
    data: { ends, fingerprint, loss: { labelSmoothing: 0 }, next: () => null, generate },
  });
  assertEquals(error, null);
  server.stop();
  await running;
  for (const result of heads) (await result).modules?.[Symbol.dispose]();
  await link[Symbol.asyncDispose]();
  await admitting;
  const sent = frames.filter(({ direction }) => direction === "sent").map(({ frame }) => frame);
  assertEquals([...new Set(sent.map(({ kind }) => kind))].sort(), ["decode", "finished", "hello"]);
  assert(!JSON.stringify(sent.map(({ meta }) => meta)).includes("Heron"));
});

/** A program of the command, and what it has said. */
interface Program {
  readonly child: Deno.ChildProcess;
  readonly output: () => string;
}

function start(args: readonly string[], input?: string): Program {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "cli/main.ts", ...args],
    cwd: ROOT,
    ...{ stdin: input === undefined ? "null" : "piped", stdout: "piped", stderr: "piped" },
  }).spawn();
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.pipeThrough(new TextDecoderStream()).pipeTo(
      new WritableStream({ write: (piece) => void (said += piece) }),
    ).catch(() => {});
  }
  if (input !== undefined) {
    const writer = child.stdin.getWriter();
    writer.write(new TextEncoder().encode(input)).then(() => writer.close()).catch(() => {});
  }
  return { child, output: () => said };
}

async function line(program: Program, pattern: RegExp): Promise<string> {
  const found = await until(() => pattern.exec(program.output()), `${pattern}`, 60_000).catch((error) => {
    throw new Error(`${error.message}: ${program.output()}`);
  });
  return found[1]!;
}

Deno.test(
  "serve --generate stays while generate, chat and api come and go as processes, until Ctrl-C [slow]",
  {
    ignore: Deno.build.os === "windows",
  },
  async () => {
    const folder = await Deno.makeTempDir();
    const programs: Program[] = [];
    const run = (args: readonly string[], input?: string) => {
      programs.push(start(args, input));
      return programs.at(-1)!;
    };
    const codeOf = async (program: Program) => (await program.child.status).code;
    try {
      for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
        await Deno.copyFile(assetPath(`tiny_gpt2/${name}`), `${folder}/${name}`);
      }
      const config = { eos_token: "<|endoftext|>", chat_template: TEMPLATE };
      await Deno.writeTextFile(`${folder}/tokenizer_config.json`, JSON.stringify(config));
      await saveAdapter(`${folder}/heads`, adapter);
      const { mode, targets, rank, alpha } = adapter.lora;
      const lora = [`--mode=${mode}`, `--targets=${targets}`, `--rank=${rank}`, `--alpha=${alpha}`];
      const server = run([
        "serve",
        "--generate",
        "--devices=1",
        "--port=0",
        "--join-token=the-token",
        `--model=${folder}`,
        ...lora,
      ]);
      const url = `ws://${await line(server, /ws:\/\/(\S+)/)}`;
      const device = run(["join", `--server=${url}`, "--token=the-token", `--load=${folder}/heads`]);
      const there = [`--model=${folder}`, `--connect=${url}`, "--token=the-token"];
      const api = run(["api", ...there, "--port=0", "--alias=tiny", `--api-key=${KEY}`]);
      const client = clientOf(`http://${await line(api, /http:\/\/(\S+)\/v1/)}`);
      const expected = await here(adapter);
      const generate = () =>
        run(["generate", ...there, "--chat", `--prompt=${ASKED.messages[0]!.content}`, "--max-tokens=16"]);
      // All at once, and then once more: nobody's end is the end.
      const first = [
        generate(),
        run(["chat", ...there, "--temperature=0", "--max-tokens=16"], `${ASKED.messages[0]!.content}\n`),
      ];
      assertEquals((await client.chat.completions.create(ASKED)).choices[0]!.message.content, expected);
      for (const program of [...first, generate()]) {
        assertEquals(await codeOf(program), 0, program.output());
        assertStringIncludes(program.output(), expected.trim());
      }
      assertEquals((await client.models.list()).data.map(({ id }) => id), ["tiny"]);
      server.child.kill("SIGINT");
      assertEquals(await codeOf(server), 130, server.output());
      assertStringIncludes(server.output(), "passes of generation");
      for (const program of [device, api]) assertEquals(await codeOf(program), 130, program.output());
      assertStringIncludes(api.output(), "The edge server has ended the run: interrupted");
      assertStringIncludes(device.output(), "Stopped: generation");
      await assertRejects(() => client.models.list(), OpenAI.APIConnectionError);
    } finally {
      for (const { child } of programs) {
        try {
          child.kill("SIGKILL");
        } catch {
          // It has ended.
        }
        await child.status;
      }
      await Deno.remove(folder, { recursive: true });
    }
  },
);

globalThis.addEventListener("unload", () => {
  layers[Symbol.dispose]();
  ends[Symbol.dispose]();
});
