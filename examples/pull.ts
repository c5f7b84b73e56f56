/**
 * Downloads a model of the Hugging Face hub or a data set of the paper into a cache folder.
 *
 * @module
 */

import { DATASETS, defaultCache, pullDataset, pullModel, type PullOptions } from "@edgetuner/core";
import { readFlags, runProgram, text, UsageError } from "./_support/flags.ts";
import { bytes, ProgressBar } from "./_support/progress.ts";

async function main(): Promise<void> {
  const flags = readFlags({
    name: "pull.ts",
    about:
      `Downloads a model or a data set once; interrupted downloads go on where they stopped.\n\nData sets\n${
        Object.entries(DATASETS).map(([name, { about }]) => `  ${name.padEnd(12)}${about}`).join("\n")
      }`,
    examples: [
      "deno run -A examples/pull.ts --model openai-community/gpt2-medium",
      "HF_TOKEN=... deno run -A examples/pull.ts --model meta-llama/Llama-3.2-1B",
      "deno run -A examples/pull.ts --dataset e2e",
    ],
  }, {
    model: text("ID", "", "model of the hub, OWNER/NAME or OWNER/NAME@REVISION"),
    dataset: text("NAME", "", "data set, see above", ["", ...Object.keys(DATASETS)]),
    cache: text("DIR", defaultCache(), "where everything goes; or EDGETUNER_CACHE"),
    token: text("TOKEN", "", "for models that need one; or HF_TOKEN"),
    endpoint: text("URL", "", "another hub of the same kind; or HF_ENDPOINT"),
  });
  if ((flags.model === "") === (flags.dataset === "")) {
    throw new UsageError("Cannot pull as one of --model and --dataset must be given; see --help");
  }
  const abort = new AbortController();
  Deno.addSignalListener("SIGINT", () => abort.abort(new DOMException("interrupted", "AbortError")));
  // One bar over all files; its total comes with the first bytes.
  let bar: ProgressBar | null = null;
  const options: PullOptions = {
    cache: flags.cache,
    token: flags.token || Deno.env.get("HF_TOKEN"),
    endpoint: flags.endpoint || undefined,
    signal: abort.signal,
    onProgress(done, total, file) {
      bar ??= new ProgressBar(total ?? 0);
      if (total !== null) bar.draw(done, `${bytes(done)} of ${bytes(total)}  ${file}`);
    },
  };
  try {
    const folder = flags.model !== ""
      ? await pullModel(flags.model, options)
      : await pullDataset(flags.dataset, options);
    (bar as ProgressBar | null)?.end();
    console.log(folder);
  } catch (error) {
    (bar as ProgressBar | null)?.end();
    if (!abort.signal.aborted) throw error;
    console.error("Interrupted; the same command goes on where it stopped.");
    Deno.exit(130);
  }
  Deno.exit(0); // the signal listener would keep the program
}

if (import.meta.main) await runProgram(main);
