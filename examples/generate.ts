/**
 * Generates sentences from meaning representations, with a base model and an adapter: greedily, by beam
 * search, or drawn at random.
 *
 * @module
 */

import { beamSearch, loadAdapter, loadPairs, sample } from "@edgetuner/core";
import { integer, number, readFlags, runProgram, text, toggle, UsageError } from "./_support/flags.ts";
import { ProgressBar } from "./_support/progress.ts";
import { versions, writeReport } from "./_support/report.ts";
import { TextModel } from "./_support/texts.ts";
import { WEBGPU_CHOICES } from "./_support/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "./_support/weights_flag.ts";

/** Prompts that are continued side by side. */
const GROUP = 32;

async function main(): Promise<void> {
  const flags = readFlags({
    name: "generate.ts",
    about: "Continues prompts: greedily, by beam search, or drawn at random.",
    examples: [
      "deno run -A examples/generate.ts --adapter runs/demo/adapter --count 5",
      'deno run -A examples/generate.ts --adapter runs/demo/adapter --prompt "name[The Vaults], food[Thai], area[harbour]"',
      "deno run -A examples/generate.ts --adapter runs/demo/adapter --beams 10 --count 0 --predictions beam.jsonl",
      "deno run -A examples/generate.ts --temperature 0.8 --top-p 0.9 --seed 3",
    ],
  }, {
    model: text("DIR", new URL("./tiny_gpt2", import.meta.url).pathname, "folder of the base model"),
    ...WEIGHTS_FLAG,
    adapter: text("DIR", "", "adapter folder; without one the base model alone"),
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
  });
  const searches = flags.beams > 1 || flags.temperature > 0;
  if (flags.beams > 1 && flags.temperature > 0) {
    throw new UsageError("Cannot generate as one of --beams and --temperature may be given: both are");
  }
  const adapter = flags.adapter === "" ? null : await loadAdapter(flags.adapter);
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
  using model = await TextModel.open(flags.model, adapter, flags.webgpu, baseWeightsOf(flags));
  const { tokenizer } = model;
  const tokens: number[][] = [];
  const bar = new ProgressBar(pairs.length);
  if (!searches) {
    // All prompts side by side; in groups, so that progress shows.
    for (let at = 0; at < pairs.length; at += GROUP) {
      const group = pairs.slice(at, at + GROUP).map((p) => p.prompt);
      tokens.push(...await model.generateTokens(group, flags["max-tokens"]));
      bar.draw(tokens.length, "prompts");
    }
  } else {
    const common = {
      maxNewTokens: flags["max-tokens"],
      endTokens: [tokenizer.eos],
      repetitionPenalty: flags["repetition-penalty"],
    };
    for (const { prompt } of pairs) {
      tokens.push(
        await model.search(prompt, async (session, given) => {
          const maxNewTokens = Math.min(common.maxNewTokens, session.capacity - given.length + 1);
          if (flags.temperature > 0) {
            return await sample(session, given, {
              ...common,
              maxNewTokens,
              temperature: flags.temperature,
              topK: flags["top-k"],
              topP: flags["top-p"],
              seed: flags.seed,
            });
          }
          const found = await beamSearch(session, given, {
            ...common,
            maxNewTokens,
            beams: flags.beams,
            lengthPenalty: flags["length-penalty"],
            noRepeatNgramSize: flags["no-repeat-ngram"],
          });
          return [...found.tokens];
        }),
      );
      bar.draw(tokens.length, "prompts");
    }
  }
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
  });
}

if (import.meta.main) await runProgram(main);
