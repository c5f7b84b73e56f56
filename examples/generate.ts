/**
 * Generates sentences from meaning representations, with a base model and an adapter.
 *
 * @module
 */

import { loadAdapter, loadPairs } from "@edgetuner/core";
import { integer, readFlags, runProgram, text, UsageError } from "./_support/flags.ts";
import { versions, writeReport } from "./_support/report.ts";
import { TextModel } from "./_support/texts.ts";
import { WEBGPU_CHOICES } from "./_support/webgpu.ts";

async function main(): Promise<void> {
  const flags = readFlags({
    name: "generate.ts",
    about: "Continues prompts by greedy decoding, from a base model and an adapter.",
    examples: [
      "deno run -A examples/generate.ts --adapter runs/demo/adapter --count 5",
      'deno run -A examples/generate.ts --adapter runs/demo/adapter --prompt "name[The Vaults], food[Thai], area[harbour]"',
    ],
  }, {
    model: text("DIR", new URL("./tiny_gpt2", import.meta.url).pathname, "folder of the base model"),
    adapter: text("DIR", "", "adapter folder; without one the base model alone"),
    prompt: text("TEXT", "", "what to continue"),
    data: text(
      "FILE",
      new URL("./restaurant/test.txt", import.meta.url).pathname,
      "without --prompt: file whose prompts to continue",
    ),
    count: integer("N", 3, "without --prompt: number of prompts to take from the file", { min: 1 }),
    "max-tokens": integer("N", 64, "most tokens to add", { min: 1 }),
    webgpu: text("NAME", "deno", "WebGPU implementation", WEBGPU_CHOICES),
    seed: integer("N", 1, "which prompts of the file: the first one to take", { min: 0 }),
    report: text("FILE", "", "write a report as JSON"),
  });
  const adapter = flags.adapter === "" ? null : await loadAdapter(flags.adapter);
  let pairs = [{ prompt: flags.prompt, completion: "" }];
  if (flags.prompt === "") {
    const all = await loadPairs(flags.data);
    if (all.length === 0) {
      throw new UsageError(`Cannot generate as ${flags.data} must hold prompts: it is empty`);
    }
    pairs = Array.from(
      { length: Math.min(flags.count, all.length) },
      (_, i) => all[(flags.seed + i) % all.length]!,
    );
  }
  using model = await TextModel.open(flags.model, adapter, flags.webgpu);
  const results = await model.generate(pairs.map((p) => p.prompt), flags["max-tokens"]);
  results.forEach((result, i) => {
    const { prompt, completion } = pairs[i]!;
    console.log(`${prompt}\n  ${result}`);
    if (completion !== "") console.log(`  (reference: ${completion})`);
  });
  await writeReport(flags.report, {
    versions: versions(),
    settings: flags,
    results: results.map((generated, i) => ({ ...pairs[i], generated })),
  });
}

if (import.meta.main) await runProgram(main);
