/**
 * Takes an adapter away: as PEFT or llama.cpp have it, at a smaller rank, merged into the base model; and brings one in.
 * Every export is read back from its files and held against a split run of what was trained before it is kept.
 *
 * @module
 */

import {
  absenceLines,
  type Adapter,
  baseProjections,
  certifyExport,
  exactRank,
  type ExportCertificate,
  familyName,
  fingerprintOf,
  fromPeft,
  GGML_WRITTEN,
  type GgmlWritten,
  isGguf,
  joinAbsences,
  joinAdapters,
  loadAdapter,
  loadGgufLora,
  loadGgufModel,
  loadLayers,
  loadModelFolder,
  loadPeft,
  mergePeft,
  ModelFileError,
  type ModelFolder,
  modelFolderOf,
  modelShape,
  type NamedArrays,
  type PeftAdapter,
  PendingFolder,
  recogniseFormat,
  reduceRank,
  saveAdapter,
  saveGgufLora,
  saveMergedFolder,
  saveMergedGguf,
  savePeft,
  TEMPLATE_FOLDER,
  type Tokenizer,
  TOKENIZER_FILES,
  toPeft,
  writeWhole,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { splitLogits } from "@edgetuner/transport";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import {
  CERTIFICATE,
  type Places,
  requireApart,
  requireReplaceable,
  unusable,
} from "../shared/export_places.ts";
import { type FlagValues, number, readFlags, text, UsageError } from "../flags/flags.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import {
  GGUF_FILES,
  MERGED_GGUF_FILES,
  mergedModelfile,
  modelfile,
  nameOf,
  requireSame,
} from "../shared/export_files.ts";
import { percent, refusalOf, show } from "../shared/export_report.ts";
import { loadTrainingSet } from "../shared/training_data.ts";
import { loadGpu } from "../flags/webgpu.ts";
import { requireWritable } from "../process/writable.ts";
import { assetPath, commandText, pathsOf, shownPath } from "../process/places.ts";
import { ProgressBar } from "../output/progress.ts";
import { tellDone } from "../output/run_end.ts";
import { TUNING_FLAGS } from "../flags/tuning_flags.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call } from "../process/invocation.ts";
import { loadTold, openTold } from "../shared/opened_model.ts";

/** Files of a model folder that a merged model needs too. */
const COMPANIONS = ["config.json", TEMPLATE_FOLDER, ...TOKENIZER_FILES];
/** Files of an adapter in PEFT's format. */
const PEFT_FILES = ["adapter_config.json", "adapter_model.safetensors"];

const FLAGS = {
  model: MODEL_FLAG,
  tokenizer: TOKENIZER_FLAG,
  adapter: { ...COMMON_FLAGS.adapter, default: "runs/demo/adapter" },
  peft: text("DIR", "", "write the adapter in PEFT's format"),
  rank: {
    ...TUNING_FLAGS.rank,
    fits: false,
    default: 0,
    min: 0,
    help: "reduce the rank to this one, of an import too; 0 = the smallest exact one",
  },
  "accept-loss": number(
    "X",
    0.05,
    "with --rank or --merge-gguf: how much of what the adapter does to the logits may be lost; 1 = as much as it does",
    { min: 0 },
  ),
  gguf: text("DIR", "", "write the adapter as GGUF for llama.cpp and Ollama, with a Modelfile"),
  merge: text("DIR", "", "write the base model with the adapter merged in"),
  "merge-gguf": text("DIR", "", "the same as one GGUF file for llama.cpp and Ollama, with a Modelfile"),
  "gguf-type": text("TYPE", "F16", "with --merge-gguf: type of its matrices", GGML_WRITTEN),
  import: text("PATH", "", "the way back: read a PEFT folder or a GGUF adapter and write it to --adapter"),
  data: {
    ...COMMON_FLAGS.data,
    default: assetPath("restaurant/test.txt"),
    help: "texts on which exports are compared: any training data, or plain lines",
  },
  samples: { ...COMMON_FLAGS.samples, default: 8, min: 1, help: "how many of them" },
  length: { ...COMMON_FLAGS.length, default: 128, min: 1, help: "most tokens of each" },
  devices: {
    ...COMMON_FLAGS.devices,
    default: 2,
    min: 2,
    max: 64,
    help: "devices of the split run that exports are held against",
  },
  tolerance: number("X", 1e-4, "largest difference of a logit, in proportion to the largest logit", {
    min: 0,
  }),
  webgpu: COMMON_FLAGS.webgpu,
};

type LoadedModel = ModelFolder;

function shapeOf({ config }: LoadedModel) {
  return modelShape(config);
}

/** Tokens of the sample texts: of training data of any kind, or of lines of plain text. */
async function samplesOf(
  file: string,
  tokenizer: Tokenizer,
  options: { readonly model: string; readonly samples: number; readonly length: number },
): Promise<number[][]> {
  const { model, length, samples } = options;
  const format = await recogniseFormat(file).catch((cause) => {
    throw unusable("data", "a file that can be read", file, cause);
  });
  if (format === "text") {
    const lines = (await Deno.readTextFile(file)).split("\n").map((l) => l.trim()).filter((l) => l !== "");
    if (lines.length > 0 && lines.every((line) => !line.includes("||"))) {
      return lines.slice(0, samples).map((line) => tokenizer.encode(line).slice(0, length));
    }
  }
  const reading = { model, encoder: tokenizer, length, "train-on-prompt": false, "skip-bad": false };
  const { sequences } = await loadTrainingSet(file, reading);
  return sequences.slice(0, samples).map(({ tokens }) => [...tokens.subarray(0, length)]);
}

type Flags = FlagValues<typeof FLAGS>;

const PROGRAM = {
  name: "export.ts",
  about:
    "Exports an adapter to PEFT's format, to GGUF or into the base model, and certifies that nothing was lost.",
  examples: [
    "edgetuner export --peft runs/peft --merge runs/merged",
    "edgetuner export --adapter MY_HEADS,YOUR_HEADS --peft runs/peft --rank 16",
    "edgetuner export --peft runs/peft --rank 8 --accept-loss 0.3 --data CHATS",
    "edgetuner export --model MODEL.gguf --adapter runs/chat/adapter --gguf runs/gguf",
    "edgetuner export --model MODEL.gguf --adapter runs/chat/adapter --merge-gguf runs/merged_gguf",
    "edgetuner export --import PEFT_ADAPTER --adapter runs/imported",
  ],
};

async function readOptions(call: Call): Promise<{ readonly flags: Flags }> {
  const flags = readFlags(PROGRAM, FLAGS, call);
  requireTask(flags);
  await requirePlaces(flags);
  return { flags };
}

async function main({ flags }: { readonly flags: Flags }, call: Call): Promise<number> {
  // Written beside their places, read back, and compared before they get there.
  await using peftFolder = await pendingAt("peft", flags.peft);
  await using ggufFolder = await pendingAt("gguf", flags.gguf);
  await using mergeFolder = await pendingAt("merge", flags.merge);
  await using mergeGgufFolder = await pendingAt("merge-gguf", flags["merge-gguf"]);
  const folders = { peft: peftFolder, gguf: ggufFolder, merge: mergeFolder, mergeGguf: mergeGgufFolder };
  const model = await loadTold(flags.model);
  if (flags.import !== "") return await bringIn(flags, model, call);
  const whole = await loadTrained(flags, model);
  const small = await reduced(flags, model, whole);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const samples = await samplesFor(flags, model);
  await write(flags, model, small.peft, folders);
  const certificate = await certify({ flags, engine, model, samples, ...small }, folders);
  show(certificate, flags.rank, small.weightsLost);
  if (!certificate.holds) {
    console.error(`Nothing was written: ${refusalOf(certificate, flags.rank)}`);
    return 1;
  }
  const paper = {
    ...certificate,
    rank: small.peft.config.r,
    weightsLost: small.weightsLost,
    readBack: {
      adapter: peftFolder !== null,
      gguf: ggufFolder !== null,
      merged: mergeFolder !== null,
      mergedGguf: mergeGgufFolder === null ? null : flags["gguf-type"],
    },
    splitDevices: Math.min(flags.devices, shapeOf(model).heads),
    fingerprint: model.fingerprint,
    // Who was missing while it was learnt.
    ...joinAbsences([whole]),
  };
  for (const folder of Object.values(folders)) if (folder !== null) await keep(folder, paper);
  for (const line of absenceLines(whole)) console.log(`Note: ${line}`);
  tellExported(flags, small.peft.config.r, call);
  return 0;
}

/** Where files are written at first. */
interface Folders {
  readonly peft: PendingFolder | null;
  readonly gguf: PendingFolder | null;
  readonly merge: PendingFolder | null;
  readonly mergeGguf: PendingFolder | null;
}

/** Writes all that was asked for beside its place. */
async function write(flags: Flags, model: LoadedModel, peft: PeftAdapter, folders: Folders): Promise<void> {
  const [family, shape] = [familyName(model.config), shapeOf(model)];
  if (folders.peft !== null) await savePeft(folders.peft.path, peft);
  if (folders.gguf !== null) {
    await saveGgufLora(`${folders.gguf.path}/${GGUF_FILES.adapter}`, peft, family, shape);
    await writeWhole(`${folders.gguf.path}/${GGUF_FILES.modelfile}`, await modelfile(flags.model));
  }
  if (folders.merge !== null) {
    const weights = mergePeft(model.weights, peft, family, shape);
    await saveMergedFolder(folders.merge.path, { model: flags.model, tokenizer: flags.tokenizer, weights });
  }
  if (folders.mergeGguf !== null) {
    const { path } = folders.mergeGguf;
    const type = flags["gguf-type"] as GgmlWritten;
    await saveMergedGguf(`${path}/${MERGED_GGUF_FILES.model}`, { ...flags, peft, type });
    await writeWhole(`${path}/${MERGED_GGUF_FILES.modelfile}`, mergedModelfile());
  }
}

/**
 * Refuses flags that are no task together.
 *
 * @throws {UsageError} If they are not.
 */
function requireTask(flags: Flags): void {
  const { peft, gguf, merge, "merge-gguf": mergeGguf } = flags;
  const wanted = [peft, gguf, merge, mergeGguf, flags.import].filter((f) => f !== "");
  if (wanted.length === 0 || (flags.import !== "" && wanted.length > 1)) {
    throw new UsageError(
      "Cannot export as one or more of --peft, --gguf, --merge and --merge-gguf, or --import alone, must be given; see --help",
    );
  }
}

/**
 * Refuses places where something would be lost.
 *
 * @throws {UsageError} If a place is read too, or holds anything else than a former export.
 */
async function requirePlaces(flags: Flags): Promise<void> {
  const places: Places = flags.import === ""
    ? { peft: flags.peft, gguf: flags.gguf, merge: flags.merge, "merge-gguf": flags["merge-gguf"] }
    : { adapter: flags.adapter };
  await requireApart(places, {
    model: modelFolderOf(flags.model),
    tokenizer: flags.tokenizer,
    ...(flags.import === "" ? { adapter: flags.adapter } : { import: flags.import }),
  });
  // Heads that were imported look like heads that were trained: nothing is replaced by an import.
  await requireReplaceable("adapter", places.adapter ?? "", []);
  await requireReplaceable("peft", flags.peft, PEFT_FILES);
  await requireReplaceable("gguf", flags.gguf, Object.values(GGUF_FILES));
  await requireReplaceable("merge", flags.merge, [...COMPANIONS, "model.safetensors"]);
  await requireReplaceable("merge-gguf", flags["merge-gguf"], Object.values(MERGED_GGUF_FILES));
  if (places.adapter !== undefined) {
    await requireWritable("export.ts", { folders: { adapter: places.adapter } });
  }
}

/** The way back: an adapter of another program becomes head modules. */
async function bringIn(flags: Flags, model: LoadedModel, { form }: Call): Promise<number> {
  const [family, shape] = [familyName(model.config), shapeOf(model)];
  const whole = isGguf(flags.import)
    ? await loadGgufLora(flags.import, family, shape)
    : await loadPeft(flags.import);
  const { peft, error } = flags.rank === 0
    ? { peft: whole, error: 0 }
    : await reduceRank(whole, Math.min(flags.rank, whole.config.r));
  if (error > 0) {
    console.log(
      `Rank ${whole.config.r} became ${peft.config.r}: ${
        percent(error)
      } of the change of the weights is lost`,
    );
  }
  const adapter = fromPeft(peft, family, shape);
  await saveAdapter(flags.adapter, { ...adapter, fingerprint: model.fingerprint });
  tellDone({
    done: `imported as head modules of rank ${adapter.lora.rank}, full mode`,
    saved: [flags.adapter],
    next: commandText("generate.ts", [
      ...["--model", shownPath(flags.model), "--adapter", flags.adapter, "--count", "3"],
    ], form),
  });
  return 0;
}

/**
 * The adapter of the flags.
 *
 * @throws {UsageError} If it was trained on another model.
 */
async function loadTrained(flags: Flags, model: LoadedModel): Promise<Adapter> {
  const parts = await pathsOf(flags.adapter);
  const adapter = joinAdapters(await Promise.all(parts.map((part) => loadAdapter(part))));
  if (adapter.fingerprint !== "" && adapter.fingerprint !== model.fingerprint) {
    throw new UsageError(
      `Cannot export the adapter as it must have been trained on ${flags.model}: its base has fingerprint ${
        adapter.fingerprint.slice(0, 12)
      }, this model ${model.fingerprint.slice(0, 12)}`,
    );
  }
  return adapter;
}

/** What is exported. */
interface Exported {
  /** In PEFT's format. */
  readonly peft: PeftAdapter;
  /** What the files must be equal to. */
  readonly adapter: Adapter;
  /** What of the change of the weights is lost; `null` at full rank. */
  readonly weightsLost: number | null;
  /** The adapter before its rank was reduced, and how much of what it does may be lost. */
  readonly reducedFrom: { readonly adapter: Adapter; readonly allowed: number } | undefined;
}

/** The adapter in PEFT's format, at the rank of the flags. */
async function reduced(flags: Flags, model: LoadedModel, adapter: Adapter): Promise<Exported> {
  const [family, shape] = [familyName(model.config), shapeOf(model)];
  const projections = await baseProjections(model, adapter.lora);
  const { config, arrays } = toPeft(adapter, family, shape.kvHeads, projections);
  const peft: PeftAdapter = { config: { ...config, ...await nameOf(flags.model) }, arrays };
  if (flags.rank === 0) {
    return { peft: (await exactRank(peft)).peft, adapter, weightsLost: null, reducedFrom: undefined };
  }
  const small = await reduceRank(peft, Math.min(flags.rank, peft.config.r));
  return {
    peft: small.peft,
    // The files must be equal to the reduced adapter; how far that is from the whole one is another question.
    adapter: { ...fromPeft(small.peft, family, shape), fingerprint: adapter.fingerprint },
    weightsLost: small.error,
    reducedFrom: { adapter, allowed: flags["accept-loss"] },
  };
}

/** Tokens of the texts on which exports are compared. */
async function samplesFor(flags: Flags, { config }: LoadedModel): Promise<number[][]> {
  const { tokenizer } = await openTold(flags.model, flags);
  const positions = "n_positions" in config ? config.n_positions : config.max_position_embeddings;
  return await samplesOf(flags.data, tokenizer, { ...flags, length: Math.min(flags.length, positions) });
}

/** Reads the files back and holds them against a split run of what was trained. */
async function certify(
  { flags, engine, model, samples, peft, adapter, reducedFrom }: Exported & {
    readonly flags: Flags;
    readonly engine: Engine;
    readonly model: LoadedModel;
    readonly samples: readonly (readonly number[])[];
  },
  folders: Folders,
): Promise<ExportCertificate> {
  const [family, shape] = [familyName(model.config), shapeOf(model)];
  if (folders.gguf !== null) {
    requireSame(await loadGgufLora(`${folders.gguf.path}/${GGUF_FILES.adapter}`, family, shape), peft);
  }
  const projections = await baseProjections(model, (reducedFrom?.adapter ?? adapter).lora);
  let bar: ProgressBar | undefined;
  const certificate = await certifyExport({
    ...{ engine, model, adapter, projections, reducedFrom, samples },
    onProgress: (done, total) => (bar ??= new ProgressBar(total, { unit: "text" })).draw(done, "compared"),
    family,
    split: async (samples, ends, onText) => {
      using layers = loadLayers(engine, model);
      const parts = { engine, layers, ends, adapter, projections };
      return await splitLogits({ ...parts, devices: flags.devices, samples, onText });
    },
    peft: folders.peft === null ? peft : await loadPeft(folders.peft.path),
    merged: folders.merge === null
      ? undefined
      : await readBack(await loadModelFolder(folders.merge.path), model, "config.json"),
    rounded: folders.mergeGguf === null ? undefined : {
      weights: await readBack(
        await loadGgufModel(`${folders.mergeGguf.path}/${MERGED_GGUF_FILES.model}`),
        model,
        MERGED_GGUF_FILES.model,
      ),
      allowed: flags["accept-loss"],
    },
    tolerance: flags.tolerance,
  });
  bar?.end();
  return certificate;
}

/**
 * The weights of a merged model, if its configuration is that of the base.
 *
 * @throws {ModelFileError} If it is another one.
 */
async function readBack(merged: ModelFolder, { config }: LoadedModel, file: string): Promise<NamedArrays> {
  const nothing = new Map();
  if (await fingerprintOf(merged.config, nothing) === await fingerprintOf(config, nothing)) {
    return merged.weights;
  }
  throw new ModelFileError(
    `Cannot export the merged model as ${file} must say what the base's says: it differs`,
  );
}

/** Puts an export in its place, with its certificate. */
async function keep(folder: PendingFolder, paper: Record<string, unknown>): Promise<void> {
  await writeWhole(`${folder.path}/${CERTIFICATE}`, `${JSON.stringify(paper, null, 2)}\n`);
  const previous = await folder.keep();
  if (previous !== null) console.error(`The former export is kept: ${previous}`);
}

/** How it went. */
function tellExported(flags: Flags, rank: number, { form }: Call): void {
  tellDone({
    done: `exported at rank ${rank}; the files were read back and are what was trained`,
    saved: [
      ...(flags.peft === "" ? [] : [`PEFT adapter of rank ${rank}: ${flags.peft}`]),
      ...(flags.gguf === "" ? [] : [`GGUF adapter and Modelfile: ${flags.gguf}`]),
      ...(flags.merge === "" ? [] : [`Merged model: ${flags.merge}`]),
      ...(flags["merge-gguf"] === "" ? [] : [`Merged GGUF file and Modelfile: ${flags["merge-gguf"]}`]),
    ],
    next: flags.merge === ""
      ? ""
      : commandText("generate.ts", ["--model", flags.merge, "--adapter", "", "--count", "3"], form),
  });
}

async function pendingAt(flag: string, place: string): Promise<PendingFolder | null> {
  if (place === "") return null;
  return await PendingFolder.create(place).catch((cause) => {
    throw unusable(flag, "a folder that can be written", place, cause);
  });
}

/** Runs the command. */
export const run: CommandRun = command(readOptions, main, "answers");
