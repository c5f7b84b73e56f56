/**
 * Generates sentences from meaning representations, with a base model and an adapter: greedily, by beam
 * search, or drawn at random.
 *
 * @module
 */

import {
  beamSearch,
  type DecodingSession,
  encodePrompt,
  loadAdapter,
  loadEnds,
  loadPairs,
  runUserDevice,
  sample,
  type Tokenizer,
  warmUp,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { codecChoice, codecsOf } from "./_support/codecs.ts";
import { CONNECTION_FLAGS, openTransport } from "./_support/connection.ts";
import { integer, number, readFlags, runProgram, text, toggle, UsageError } from "./_support/flags.ts";
import { MODEL_FLAG, openModel, TOKENIZER_FLAG } from "./_support/model_flags.ts";
import { ProgressBar } from "./_support/progress.ts";
import { versions, writeReport } from "./_support/report.ts";
import { TextModel } from "./_support/texts.ts";
import { loadGpu, WEBGPU_CHOICES } from "./_support/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "./_support/weights_flag.ts";

/** Prompts that are continued side by side. */
const GROUP = 32;

const FLAGS = {
  model: MODEL_FLAG,
  ...WEIGHTS_FLAG,
  tokenizer: TOKENIZER_FLAG,
  adapter: text("DIR", "", "adapter folder; without one, and without --connect, the base model alone"),
  prompt: text("TEXT", "", "what to continue"),
  data: text(
    "FILE",
    new URL("./restaurant/test.txt", import.meta.url).pathname,
    "without --prompt: file whose prompts to continue",
  ),
  count: integer("N", 3, "without --prompt: number of prompts to take from the file; 0 = all", { min: 0 }),
  distinct: toggle("without --prompt: each prompt once, at its first line"),
  first: integer("N", 1, "without --prompt: index of the first one", { min: 0 }),
  "max-tokens": integer("N", 64, "most tokens to add", { min: 1 }),
  beams: integer("N", 1, "beam search with this many beams", { min: 1 }),
  "length-penalty": number("X", 0.8, "beams: scores are divided by length to this power"),
  "no-repeat-ngram": integer("N", 4, "beams: no n-gram of this length twice; 0 = off", { min: 0 }),
  "repetition-penalty": number("X", 1, "beams, sampling: tokens said before get less likely", { min: 0 }),
  temperature: number("X", 0, "above 0: draw tokens at random", { min: 0 }),
  "top-k": integer("N", 0, "sampling: among this many most likely tokens; 0 = all", { min: 0 }),
  "top-p": number("X", 1, "sampling: among tokens that together have this probability", { min: 0, max: 1 }),
  webgpu: text("NAME", "deno", "WebGPU implementation", WEBGPU_CHOICES),
  seed: integer("N", 1, "sampling: seed", { min: 0, max: 0xffff_ffff }),
  predictions: text("FILE", "", 'write lines {"id", "predict"} of tokens, as decode.ts reads them'),
  report: text("FILE", "", "write a report as JSON"),
  connect: text(
    "URL",
    "",
    "generate with the heads of the devices at this edge server, which runs with --generate: ws(s)://.../join/ws",
  ),
  ...CONNECTION_FLAGS,
  codec: text("FILE", "f32", "--connect: module of a codec that the run may use"),
};

type Flags = ReturnType<typeof readFlags<typeof FLAGS>>;

async function main(): Promise<number> {
  const flags = readFlags({
    name: "generate.ts",
    about: "Continues prompts: greedily, by beam search, or drawn at random.",
    examples: [
      "deno run -A examples/generate.ts --adapter runs/demo/adapter --count 5",
      'deno run -A examples/generate.ts --adapter runs/demo/adapter --prompt "name[The Vaults], food[Thai], area[harbour]"',
      "deno run -A examples/generate.ts --adapter runs/demo/adapter --beams 10 --count 0 --predictions beam.jsonl",
      "deno run -A examples/generate.ts --temperature 0.8 --top-p 0.9 --seed 3",
      "deno run -A examples/generate.ts --connect ws://127.0.0.1:8787/join/ws --token T --count 5",
    ],
  }, FLAGS);
  if (flags.beams > 1 && flags.temperature > 0) {
    throw new UsageError("Cannot generate as one of --beams and --temperature may be given: both are");
  }
  if (flags.connect !== "" && flags.adapter !== "") {
    throw new UsageError(
      "Cannot generate as one of --connect and --adapter may be given: with --connect the devices have the heads",
    );
  }
  let pairs = [{ prompt: flags.prompt, completion: "" }];
  let ids = [0];
  if (flags.prompt === "") {
    const all = await loadPairs(flags.data);
    const seen = new Set<string>();
    const lines = [...all.keys()].filter((id) => {
      const { prompt } = all[id]!;
      if (flags.distinct && seen.has(prompt)) return false;
      seen.add(prompt);
      return true;
    });
    const count = flags.count === 0 ? lines.length : Math.min(flags.count, lines.length);
    const first = flags.count === 0 ? 0 : flags.first;
    ids = Array.from({ length: count }, (_, i) => lines[(first + i) % lines.length]!);
    pairs = ids.map((id) => all[id]!);
  }
  const prompts = pairs.map(({ prompt }) => prompt);
  const bar = new ProgressBar(prompts.length);
  const { tokens, tokenizer, bytes } = flags.connect === ""
    ? await generateHere(flags, prompts, bar)
    : await generateThere(flags, prompts, bar);
  bar.end();
  const results = tokens.map((found) => tokenizer.decode(found.filter((t) => t !== tokenizer.eos)).trim());
  if (flags.predictions !== "") {
    const lines = tokens.map((predict, i) => `${JSON.stringify({ id: ids[i], predict })}\n`);
    await Deno.writeTextFile(flags.predictions, lines.join(""));
    console.log(`${lines.length} predictions: ${flags.predictions}`);
  } else {
    results.forEach((result, i) => {
      const { prompt, completion } = pairs[i]!;
      console.log(`${prompt}\n  ${result}`);
      if (completion !== "") console.log(`  (reference: ${completion})`);
    });
  }
  await writeReport(flags.report, {
    versions: versions(),
    settings: flags,
    results: results.map((generated, i) => ({ ...pairs[i], generated })),
    bytes,
  });
  return 0;
}

interface Generated {
  readonly tokens: readonly (readonly number[])[];
  readonly tokenizer: Tokenizer;
  /** Bytes on the wire. */
  readonly bytes: number;
}

/** With the whole model on this machine. */
async function generateHere(
  flags: Flags,
  prompts: readonly string[],
  bar: ProgressBar,
): Promise<Generated> {
  const adapter = flags.adapter === "" ? null : await loadAdapter(flags.adapter);
  using model = await TextModel.open(flags, adapter, flags.webgpu, baseWeightsOf(flags));
  const { tokenizer } = model;
  const tokens: (readonly number[])[] = [];
  if (flags.beams > 1 || flags.temperature > 0) {
    for (const prompt of prompts) {
      tokens.push(await model.search(prompt, (session, given) => search(session, given, flags, tokenizer)));
      bar.draw(tokens.length, "prompts");
    }
    return { tokens, tokenizer, bytes: 0 };
  }
  // All prompts side by side; in groups, so that progress shows.
  for (let at = 0; at < prompts.length; at += GROUP) {
    tokens.push(...await model.generateTokens(prompts.slice(at, at + GROUP), flags["max-tokens"]));
    bar.draw(tokens.length, "prompts");
  }
  return { tokens, tokenizer, bytes: 0 };
}

/** As the data device of a run: the layers are at the edge server, the heads on other devices. */
async function generateThere(
  flags: Flags,
  prompts: readonly string[],
  bar: ProgressBar,
): Promise<Generated> {
  const transport = openTransport(flags, flags.connect, "--connect");
  const { model, tokenizer } = await openModel(flags);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const baseWeights = baseWeightsOf(flags);
  using ends = loadEnds(engine, model, { baseWeights });
  await warmUp(engine, ["data"], baseWeights);
  const tokens: (readonly number[])[] = [];
  const channel = await transport.connect();
  const { error, ledger } = await runUserDevice({
    engine,
    channel,
    name: `generate-${crypto.randomUUID().slice(0, 4)}`,
    capacity: 0,
    task: "generate",
    joinTimeoutMs: 600_000,
    codecs: await codecsOf((await codecChoice(flags.codec)).module),
    data: {
      ends,
      loss: { labelSmoothing: 0 },
      fingerprint: model.fingerprint,
      next: () => null,
      async generate(session) {
        for (const prompt of prompts) {
          tokens.push(await search(session, encodePrompt(tokenizer, prompt), flags, tokenizer));
          bar.draw(tokens.length, "prompts");
        }
      },
    },
  });
  if (error !== null) throw error;
  return { tokens, tokenizer, bytes: ledger.totalBytes };
}

/** Continues one prompt as the flags say. */
async function search(
  session: DecodingSession,
  given: readonly number[],
  flags: Flags,
  tokenizer: Tokenizer,
): Promise<readonly number[]> {
  const common = {
    maxNewTokens: Math.min(flags["max-tokens"], session.capacity - given.length + 1),
    endTokens: [tokenizer.eos],
    repetitionPenalty: flags["repetition-penalty"],
  };
  if (flags.beams > 1) {
    const { beams, "length-penalty": lengthPenalty, "no-repeat-ngram": noRepeatNgramSize } = flags;
    return (await beamSearch(session, given, { ...common, beams, lengthPenalty, noRepeatNgramSize })).tokens;
  }
  const { temperature, "top-k": topK, "top-p": topP, seed } = flags;
  return await sample(session, given, { ...common, temperature, topK, topP, seed });
}

if (import.meta.main) await runProgram(main);
