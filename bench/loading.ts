/**
 * What it costs to load a model: memory of the host and time, for each format of the base, each in a process of
 * its own. Without a model it makes one up: GPT-2 small's shape with random weights, 498 MB.
 *
 * @module
 */

import {
  BASE_WEIGHTS,
  type BaseWeights,
  gpt2Config,
  initialWeights,
  saveSafetensors,
  writeWhole,
} from "@edgetuner/core";
import { readFlags, runProgram, text, UsageError } from "../cli/flags/flags.ts";
import { type LoadFigures, measureLoading } from "./load_memory.ts";
import { writeReport } from "../cli/output/report.ts";

const TOKENIZER = new URL("../cli/assets/tiny_gpt2/tokenizer.json", import.meta.url);
/** GPT-2 small. */
const CONFIG = {
  model_type: "gpt2",
  ...gpt2Config({ n_layer: 12, n_head: 12, n_embd: 768, vocab_size: 50_257, n_positions: 1024 }),
};

async function makeModel(folder: string): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  await saveSafetensors(`${folder}/model.safetensors`, initialWeights(CONFIG, 1));
  await writeWhole(`${folder}/config.json`, `${JSON.stringify(CONFIG)}\n`);
  // Any will do, so that other benchmarks can read texts.
  await writeWhole(`${folder}/tokenizer.json`, await Deno.readFile(TOKENIZER));
}

async function inOwnProcess(model: string, format: BaseWeights): Promise<LoadFigures> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", import.meta.url, "--model", model, "--only", format],
  }).output();
  if (code !== 0) throw new UsageError(new TextDecoder().decode(stderr).trim().split("\n").at(-1)!);
  return JSON.parse(new TextDecoder().decode(stdout)) as LoadFigures;
}

async function main(): Promise<void> {
  const flags = readFlags({
    name: "bench_loading.ts",
    about: "Measures memory of the host and time while a model is loaded; Linux only.",
    examples: [
      "deno run -A bench/loading.ts",
      "deno run -A bench/loading.ts --make runs/random_gpt2 && deno run -A bench/weights.ts --model runs/random_gpt2",
    ],
  }, {
    model: text("PATH", "", "a model folder or a GGUF file; else one is made up and removed again"),
    make: text("DIR", "", "only write the made-up model there"),
    only: text("FORMAT", "", "measure this format in this process and print JSON", ["", ...BASE_WEIGHTS]),
    report: text("FILE", "", "write a report as JSON"),
  });
  if (Deno.build.os !== "linux") {
    throw new UsageError(`Cannot measure as the system must be linux: current value is ${Deno.build.os}`);
  }
  if (flags.make !== "") {
    await makeModel(flags.make);
    return console.log(flags.make);
  }
  if (flags.only !== "") {
    return console.log(JSON.stringify(await measureLoading(flags.model, flags.only as BaseWeights)));
  }
  const folder = flags.model === "" ? await Deno.makeTempDir() : null;
  try {
    if (folder !== null) await makeModel(folder);
    const rows: (LoadFigures & { readonly format: BaseWeights })[] = [];
    for (const format of BASE_WEIGHTS) {
      rows.push({ format, ...await inOwnProcess(folder ?? flags.model, format) });
    }
    const mega = (bytes: number) => (bytes / 1e6).toFixed(0);
    const table = [
      ["format", "reading: MB", "s", "on the adapter, MB", "host beside it, MB", "s", "process, MB"],
      Array(7).fill("---"),
      ...rows.map((r) => [
        r.format,
        mega(r.reading),
        (r.readingMs / 1000).toFixed(2),
        mega(r.adapter),
        mega(r.loading - r.adapter),
        (r.loadingMs / 1000).toFixed(2),
        mega(r.peak),
      ]),
    ];
    console.log(table.map((cells) => `| ${cells.join(" | ")} |`).join("\n"));
    await writeReport(flags.report, { model: flags.model || CONFIG, rows });
  } finally {
    if (folder !== null) await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) await runProgram(main);
