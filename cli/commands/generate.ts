/**
 * Continues prompts with a base model and an adapter: greedily, by beam search, or drawn at random.
 *
 * @module
 */

import {
  beamSearch,
  beginningWith,
  chatTemplateOf,
  type DecodingSession,
  encodeOpening,
  encodePrompt,
  sample,
  type Tokenizer,
  writeWhole,
} from "@edgetuner/core";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import {
  type FlagValues,
  type GivenFlags,
  integer,
  number,
  readGiven,
  text,
  toggle,
  UsageError,
  withDefaults,
} from "../flags/flags.ts";
import { SPLIT_FLAGS, throughSplit } from "../shared/split_session.ts";
import { neverBegan } from "../output/run_end.ts";
import { ProgressBar } from "../output/progress.ts";
import {
  chatPrompt,
  cutText,
  encodePrompts,
  endTokens,
  fitPrompt,
  type Prompt,
  promptRoom,
  type Prompts,
  requirePrompts,
  requireRoom,
  textOf,
} from "../shared/prompts.ts";
import { peakMemory, versions, writeReport } from "../output/report.ts";
import { requireFlag } from "../flags/run_flags.ts";
import { loadAdapterParts, TextModel } from "../shared/texts.ts";
import { DATA_FLAGS, readExamples } from "../shared/training_data.ts";
import { baseWeightsOf } from "../flags/weights_flag.ts";
import { requireWritable } from "../process/writable.ts";
import { assetPath } from "../process/places.ts";
import { TUNING_FLAGS } from "../flags/tuning_flags.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call } from "../process/invocation.ts";

/** Its flags. */
export const FLAGS = {
  ...SPLIT_FLAGS,
  adapter: {
    ...COMMON_FLAGS.adapter,
    help:
      "adapter folder, or the parts that devices saved: a,b,c; without one, and without --connect, the base model alone",
  },
  prompt: text("TEXT", "", "what to continue; see --raw, --pair and --chat"),
  raw: {
    ...COMMON_FLAGS.raw,
    help:
      "--prompt: a text to go on with as it is, or from nothing if it is empty; so it is without --adapter and --connect",
  },
  pair: {
    ...COMMON_FLAGS.pair,
    help: "--prompt: the prompt of a pair, which a completion follows; so it is with --adapter or --connect",
  },
  chat: toggle("--prompt: what the user says, in the words of the model's chat template"),
  system: { ...COMMON_FLAGS.system, help: "--chat: what the system says before" },
  data: {
    ...COMMON_FLAGS.data,
    default: assetPath("restaurant/test.txt"),
    help: "without --prompt: file whose prompts to continue: MR||text lines, or JSONL with pairs or messages",
  },
  "skip-bad": DATA_FLAGS["skip-bad"],
  map: DATA_FLAGS.map,
  "data-format": DATA_FLAGS["data-format"],
  count: {
    ...COMMON_FLAGS.count,
    help: "without --prompt: number of prompts to take from the file; 0 = all",
  },
  distinct: toggle("without --prompt: each prompt once, at its first line"),
  first: { ...COMMON_FLAGS.first, default: 1, help: "without --prompt: index of the first one" },
  "max-tokens": {
    ...COMMON_FLAGS["max-tokens"],
    help:
      "most tokens to add; prompts lose their start where the model has too few places for both, but are left half of them",
  },
  "min-length": integer("N", 0, "tokens before a text may end", { min: 0 }),
  beams: integer("N", 1, "beam search with this many beams", { min: 1 }),
  "length-penalty": number("X", 0.8, "beams: scores are divided by length to this power", {
    min: -10,
    max: 10,
  }),
  "no-repeat-ngram": integer("N", 4, "beams: no n-gram of this length twice; 0 = off", { min: 0 }),
  "repetition-penalty": COMMON_FLAGS["repetition-penalty"],
  temperature: { ...COMMON_FLAGS.temperature, help: "above 0: draw tokens at random" },
  "top-k": { ...COMMON_FLAGS["top-k"], help: "sampling: among this many most likely tokens; 0 = all" },
  "top-p": { ...COMMON_FLAGS["top-p"], help: "sampling: among tokens that together have this probability" },
  seed: { ...TUNING_FLAGS.seed, help: "sampling: seed" },
  predictions: {
    ...COMMON_FLAGS.predictions,
    help: 'write lines {"id", "predict"} of tokens, as edgetuner decode reads them',
  },
  report: COMMON_FLAGS.report,
  connect: {
    ...COMMON_FLAGS.connect,
    help:
      "generate with the heads of the devices at this edge server, which runs with --generate: ws(s)://.../join/ws",
  },
};

type Flags = FlagValues<typeof FLAGS>;

interface Options {
  readonly flags: Flags;
  readonly given: GivenFlags<typeof FLAGS>;
}

function readOptions(call: Call): Options {
  const given = readGiven(
    {
      name: "generate.ts",
      about: "Continues prompts: greedily, by beam search, or drawn at random.",
      examples: [
        "edgetuner generate --adapter runs/demo/adapter --count 5",
        'edgetuner generate --adapter runs/demo/adapter --prompt "name[The Vaults], food[Thai], area[harbour]"',
        "edgetuner generate --adapter runs/demo/adapter --beams 10 --count 0 --predictions runs/beam.jsonl",
        'edgetuner generate --prompt "The Vaults is" --temperature 0.8 --top-p 0.9 --seed 3',
        'edgetuner generate --model MODEL --adapter runs/chat/adapter --chat --prompt "Where can I eat?"',
        "edgetuner generate --connect ws://127.0.0.1:8787/join/ws --token T --count 5",
      ],
    },
    FLAGS,
    call,
  );
  const flags = withDefaults(FLAGS, given);
  if (flags.beams > 1 && flags.temperature > 0) {
    throw new UsageError("Cannot generate as one of --beams and --temperature may be given: both are");
  }
  for (const [name, isOff] of [["top-k", flags["top-k"] === 0], ["top-p", flags["top-p"] === 1]] as const) {
    requireFlag("generate.ts", { flag: name, needs: "temperature", isMet: isOff || flags.temperature > 0 });
  }
  if (flags.connect !== "" && flags.adapter !== "") {
    throw new UsageError(
      "Cannot generate as one of --connect and --adapter may be given: with --connect the devices have the heads",
    );
  }
  if (flags["min-length"] > flags["max-tokens"]) {
    throw new UsageError(
      `Cannot generate as --min-length must be at most --max-tokens: current values are ${
        flags["min-length"]
      } and ${flags["max-tokens"]}`,
    );
  }
  return { flags, given };
}

async function main({ flags, given }: Options): Promise<number> {
  const asked = await openQuestion(flags, given);
  await requireWritable("generate.ts", { files: { predictions: flags.predictions, report: flags.report } });
  const done = flags.connect === "" ? await generateHere(flags, asked) : await generateThere(flags, asked);
  const { prompts, counts, tokens, tokenizer, ends, bytes } = done;
  const results = tokens.map((found) => textOf(tokenizer, found, ends));
  if (flags.predictions !== "") {
    const lines = tokens.map((predict, i) => `${JSON.stringify({ id: prompts[i]!.id, predict })}\n`);
    await writeWhole(flags.predictions, lines.join(""));
    console.error(`${lines.length} predictions: ${flags.predictions}`);
  } else {
    results.forEach((result, i) => {
      const { text, reference } = prompts[i]!;
      console.log(`${text}\n  ${result}`);
      if (reference !== "") console.log(`  (reference: ${reference})`);
    });
  }
  await writeReport(flags.report, {
    versions: versions(),
    settings: flags,
    data: { test: counts },
    results: results.map((generated, i) => {
      const { text: prompt, reference: completion } = prompts[i]!;
      return { prompt, completion, generated };
    }),
    bytes,
    peakMemoryBytes: peakMemory(),
  });
  return 0;
}

/** What is asked, before the model is there that makes tokens of it. */
interface Question {
  /** Tokens that end an answer. */
  readonly ends: (tokenizer: Tokenizer) => readonly number[];
  /** The prompts, each of at most so many tokens. */
  readonly prompts: (tokenizer: Tokenizer, room: number) => Prompts;
}

/** Reads what the flags name and refuses what does not go together. */
async function openQuestion(flags: Flags, given: GivenFlags<typeof FLAGS>): Promise<Question> {
  const forms = (["raw", "pair", "chat"] as const).filter((name) => flags[name]);
  if (forms.length > 1) {
    throw new UsageError(`Cannot generate as one of --${forms.join(" and --")} may be given: both are`);
  }
  requireFlag("generate.ts", { flag: "system", needs: "chat", isMet: flags.system === "" || flags.chat });
  const template = await chatTemplateOf(flags.model, flags.tokenizer);
  if (given.prompt === undefined) {
    requireFlag("generate.ts", { flag: forms[0] ?? "", needs: "prompt", isMet: forms.length === 0 });
    const read = await readExamples(flags.data, flags);
    requirePrompts(flags.data, read.examples);
    const isChat = read.examples.some((example) => "parts" in example);
    return {
      ends: (tokenizer) => endTokens(tokenizer, isChat ? template : null),
      prompts: (tokenizer, room) => {
        const { count, first, distinct } = flags;
        // The first that is not named is there in files of one prompt too.
        const within = given.first === undefined ? {} : { within: flags.data };
        return encodePrompts(read, tokenizer, { count, first, distinct, ...within }, room);
      },
    };
  }
  const form = forms[0] ?? (flags.adapter === "" && flags.connect === "" ? "raw" : "pair");
  if (form !== "raw" && flags.prompt.trim() === "") {
    throw new UsageError(
      `Cannot generate as --prompt must not be empty ${
        form === "chat" ? "with --chat" : "where it is a pair's; with --raw it may be"
      }`,
    );
  }
  if (form === "chat" && template === null) {
    throw new UsageError(
      `Cannot generate with --chat as the model's folder must have a chat template: ${
        flags.tokenizer || flags.model
      } has none`,
    );
  }
  const encode = (tokenizer: Tokenizer): Pick<Prompt, "tokens" | "text" | "lead"> => {
    const { prompt: text } = flags;
    if (form === "chat") return chatPrompt(template!, tokenizer, { user: text, system: flags.system });
    return { tokens: form === "raw" ? encodeOpening(tokenizer, text) : encodePrompt(tokenizer, text), text };
  };
  return {
    ends: (tokenizer) => endTokens(tokenizer, form === "chat" ? template : null),
    prompts: (tokenizer, room) => {
      const { tokens, ...others } = encode(tokenizer);
      const fitting = fitPrompt(tokens, tokenizer, room);
      return {
        prompts: [{ id: 0, ...others, tokens: fitting, reference: "" }],
        counts: { sequences: 1, truncated: fitting.length < tokens.length ? 1 : 0, skipped: 0 },
      };
    },
  };
}

interface Generated extends Prompts {
  readonly tokens: readonly (readonly number[])[];
  readonly tokenizer: Tokenizer;
  /** Tokens that end an answer. */
  readonly ends: readonly number[];
  /** Bytes on the wire. */
  readonly bytes: number;
}

/** Makes prompts that leave room for what is asked for, and says how many were cut. */
function promptsOf(flags: Flags, asked: Question, tokenizer: Tokenizer, positions: number): Prompts {
  const room = promptRoom(positions, flags["max-tokens"]);
  const all = asked.prompts(tokenizer, room);
  requireRoom(all.prompts, positions, flags["max-tokens"]);
  const cut = cutText(flags.prompt === "" ? flags.data : "--prompt", all.counts, room);
  if (cut !== null) console.error(cut);
  return all;
}

/** With the whole model on this machine. */
async function generateHere(flags: Flags, asked: Question): Promise<Generated> {
  const adapter = await loadAdapterParts(flags.adapter);
  using model = await TextModel.open(flags, adapter, flags.webgpu, baseWeightsOf(flags));
  const { tokenizer } = model;
  const ends = asked.ends(tokenizer);
  const all = promptsOf(flags, asked, tokenizer, model.positions);
  const bar = new ProgressBar(all.prompts.length);
  let tokens: (readonly number[])[] = [];
  // Without rules and draws all prompts go side by side.
  const isPlain = flags.beams === 1 && flags.temperature === 0 && flags["min-length"] === 0 &&
    flags["repetition-penalty"] === 1 && ends.length === 1 &&
    !all.prompts.some(({ lead = "" }) => lead !== "");
  if (isPlain) {
    const given = all.prompts.map((prompt) => prompt.tokens);
    const onDone = (done: number) => bar.draw(done, "prompts");
    tokens = await model.generateTokens(given, flags["max-tokens"], { onDone });
  } else {
    for (const prompt of all.prompts) {
      tokens.push(await model.search((session) => search(session, prompt, { flags, ends, tokenizer })));
      bar.draw(tokens.length, "prompts");
    }
  }
  bar.end();
  return { ...all, tokens, tokenizer, ends, bytes: 0 };
}

/** As the data device of a run: the layers are at the edge server, the heads on other devices. */
async function generateThere(flags: Flags, asked: Question): Promise<Generated> {
  const tokens: (readonly number[])[] = [];
  const { prepared, bytes } = await throughSplit(
    flags,
    "generate",
    ({ tokenizer, positions }) => ({
      tokenizer,
      ends: asked.ends(tokenizer),
      ...promptsOf(flags, asked, tokenizer, positions),
    }),
    async (session, { prompts, ends, tokenizer }) => {
      const bar = new ProgressBar(prompts.length);
      for (const prompt of prompts) {
        tokens.push(await search(session, prompt, { flags, ends, tokenizer }));
        bar.draw(tokens.length, "prompts");
      }
      bar.end();
    },
  );
  return { ...prepared, tokens, bytes };
}

/** Continues one prompt as the flags say. */
async function search(
  session: DecodingSession,
  { tokens: given, lead = "" }: Prompt,
  { flags, ends, tokenizer }: Pick<Generated, "ends" | "tokenizer"> & { readonly flags: Flags },
): Promise<readonly number[]> {
  const common = {
    maxNewTokens: Math.min(flags["max-tokens"], session.contextLength - given.length + 1),
    endTokens: ends,
    minLength: flags["min-length"],
    repetitionPenalty: flags["repetition-penalty"],
  };
  if (flags.beams > 1) {
    const { beams, "length-penalty": lengthPenalty, "no-repeat-ngram": noRepeatNgramSize } = flags;
    return (await beamSearch(session, given, { ...common, beams, lengthPenalty, noRepeatNgramSize })).tokens;
  }
  const { temperature, "top-k": topK, "top-p": topP, seed } = flags;
  const begin = beginningWith(lead, tokenizer, given);
  return await sample(session, given, { ...common, ...begin, temperature, topK, topP, seed });
}

/** Runs the command. */
export const run: CommandRun = command(
  readOptions,
  (options, call) => main(options).catch((error) => neverBegan(call, "generate.ts", error)),
  "answers",
);
