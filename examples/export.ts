/**
 * Takes an adapter away: as PEFT has it, at a smaller rank, merged into the base model; and brings one in.
 * Every export is held against what was trained before it is kept.
 *
 * @module
 */

import {
  type Adapter,
  certifyExport,
  encodePrompt,
  type ExportCertificate,
  fromPeft,
  isGguf,
  joinAdapters,
  loadAdapter,
  loadModel,
  loadPairs,
  loadPeft,
  mergePeft,
  type ModelFamily,
  type ModelFolder,
  modelShape,
  type PeftAdapter,
  reduceRank,
  saveAdapter,
  savePeft,
  saveSafetensors,
  toPeft,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { integer, number, readFlags, runProgram, text, UsageError } from "./_support/flags.ts";
import { MODEL_FLAG, openModel, TOKENIZER_FLAG } from "./_support/model_flags.ts";
import { loadGpu, WEBGPU_CHOICES } from "./_support/webgpu.ts";

/** Files of a model folder that a merged model needs too. */
const COMPANIONS = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
];

const FLAGS = {
  model: MODEL_FLAG,
  tokenizer: TOKENIZER_FLAG,
  adapter: text("DIRS", "runs/demo/adapter", "adapter folder, or the parts that devices saved: a,b,c"),
  peft: text("DIR", "", "write the adapter in PEFT's format"),
  rank: integer("N", 0, "with --peft or --merge: reduce the rank to this one; 0 = exact", { min: 0 }),
  merge: text("DIR", "", "write the base model with the adapter merged in"),
  import: text("DIR", "", "the way back: read a PEFT adapter and write it to --adapter"),
  data: text(
    "FILE",
    new URL("./restaurant/test.txt", import.meta.url).pathname,
    "texts on which exports are compared",
  ),
  samples: integer("N", 8, "how many of them", { min: 1 }),
  tolerance: number("X", 1e-4, "largest difference of a logit, in proportion to the largest logit", {
    min: 0,
  }),
  webgpu: text("NAME", "deno", "WebGPU implementation", WEBGPU_CHOICES),
};

function familyOf({ config }: ModelFolder): ModelFamily {
  return "model_type" in config ? config.model_type : "gpt2";
}

function shapeOf({ config }: ModelFolder) {
  const { layers, heads, kvHeads, hidden } = modelShape(config);
  return { layers, heads, kvHeads, hidden };
}

/** Puts a folder in place once everything in it is right. */
async function writeWhole(folder: string, write: (partial: string) => Promise<void>): Promise<void> {
  const partial = `${folder.replace(/\/$/, "")}.partial`;
  await Deno.remove(partial, { recursive: true }).catch(() => {});
  await Deno.mkdir(partial, { recursive: true });
  try {
    await write(partial);
    await Deno.mkdir(folder, { recursive: true });
    for await (const { name } of Deno.readDir(partial)) {
      await Deno.rename(`${partial}/${name}`, `${folder}/${name}`);
    }
  } finally {
    await Deno.remove(partial, { recursive: true }).catch(() => {});
  }
}

async function main(): Promise<number> {
  const flags = readFlags({
    name: "export.ts",
    about: "Exports an adapter to PEFT's format or into the base model, and certifies that nothing was lost.",
    examples: [
      "deno run -A examples/export.ts --peft runs/peft --merge runs/merged",
      "deno run -A examples/export.ts --adapter my_heads,your_heads --peft runs/peft --rank 16",
      "deno run -A examples/export.ts --import some_peft_adapter --adapter runs/imported",
    ],
  }, FLAGS);
  const wanted = [flags.peft, flags.merge, flags.import].filter((f) => f !== "");
  if (wanted.length === 0 || (flags.import !== "" && wanted.length > 1)) {
    throw new UsageError(
      "Cannot export as --peft, --merge, or both, or --import alone must be given; see --help",
    );
  }
  if (flags.merge !== "" && isGguf(flags.model)) {
    throw new UsageError(
      `Cannot merge as --model must be a folder, whose files a merged model needs: current value is ${flags.model}`,
    );
  }
  const model = await loadModel(flags.model);
  const family = familyOf(model);
  const shape = shapeOf(model);
  if (flags.import !== "") {
    const adapter = fromPeft(await loadPeft(flags.import), family, shape);
    await saveAdapter(flags.adapter, { ...adapter, fingerprint: model.fingerprint });
    console.log(`Imported as head modules of rank ${adapter.lora.rank}, full mode: ${flags.adapter}`);
    return 0;
  }
  let adapter: Adapter = joinAdapters(await Promise.all(flags.adapter.split(",").map((a) => loadAdapter(a))));
  if (adapter.fingerprint !== "" && adapter.fingerprint !== model.fingerprint) {
    throw new UsageError(
      `Cannot export the adapter as it must have been trained on ${flags.model}: its base has fingerprint ${
        adapter.fingerprint.slice(0, 12)
      }, this model ${model.fingerprint.slice(0, 12)}`,
    );
  }
  let peft: PeftAdapter = toPeft(adapter, family, shape.kvHeads);
  const { tokenizer } = await openModel(flags);
  const samples = (await loadPairs(flags.data)).slice(0, flags.samples)
    .map((
      { prompt, completion },
    ) => [...encodePrompt(tokenizer, prompt), ...tokenizer.encode(` ${completion}`)]);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const certify = (tolerance: number) =>
    certifyExport({ engine, model, family, adapter, peft, samples, tolerance });
  let reduction: { readonly rank: number; readonly error: number; readonly logits: number } | null = null;
  if (flags.rank > 0) {
    const reduced = await reduceRank(peft, flags.rank);
    peft = reduced.peft;
    const { merged } = await certify(Infinity);
    reduction = { rank: flags.rank, error: reduced.error, logits: merged };
    console.log(
      `Rank ${flags.rank}: ${(reduced.error * 100).toFixed(2)} % of the change of the weights is lost; ` +
        `logits change by at most ${merged.toPrecision(2)}`,
    );
    // From here on the reduced adapter is what the files must be equal to.
    adapter = fromPeft(peft, family, shape);
  }
  const certificate = await certify(flags.tolerance);
  show(certificate);
  if (!certificate.holds) {
    console.error("Nothing was written: the export is not what was trained.");
    return 1;
  }
  const paper = `${JSON.stringify({ ...certificate, reduction, fingerprint: model.fingerprint }, null, 2)}\n`;
  if (flags.peft !== "") {
    await writeWhole(flags.peft, async (partial) => {
      await savePeft(partial, peft);
      await Deno.writeTextFile(`${partial}/certificate.json`, paper);
    });
    console.log(`PEFT adapter of rank ${peft.config.r}: ${flags.peft}`);
  }
  if (flags.merge !== "") {
    await writeWhole(flags.merge, async (partial) => {
      const merged = mergePeft(model.weights, peft, family, shape);
      await saveSafetensors(`${partial}/model.safetensors`, merged, { format: "pt" });
      for (const name of COMPANIONS) {
        await Deno.copyFile(`${flags.model}/${name}`, `${partial}/${name}`).catch((error) => {
          if (!(error instanceof Deno.errors.NotFound)) throw error;
        });
      }
      await Deno.writeTextFile(`${partial}/certificate.json`, paper);
    });
    console.log(`Merged model: ${flags.merge}`);
  }
  return 0;
}

function show(
  { samples, tokens, largestLogit, effect, imported, merged, tolerance }: ExportCertificate,
): void {
  const rows = [
    ["largest logit", largestLogit],
    ["largest change by the adapter", effect],
    ["off after export and import", imported],
    ["off in the merged model", merged],
    ["allowed", tolerance * largestLogit],
  ] as const;
  console.log(`Logits of ${samples} texts, ${tokens} tokens`);
  for (const [what, value] of rows) {
    console.log(
      `  ${what.padEnd(32)}${value === null ? "rank above 256: not imported" : value.toExponential(2)}`,
    );
  }
}

if (import.meta.main) await runProgram(main);
