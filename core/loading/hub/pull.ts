/**
 * Brings models and the paper's data sets to this machine, once; after that they work without a network.
 *
 * @module
 */

import { unzipSync } from "fflate";
import { TEMPLATE_FOLDER } from "../../data/chat_template.ts";
import { TOKENIZER_FILES } from "../../data/tokenizer_folder.ts";
import { writeWhole } from "../../files/atomic.ts";
import { DownloadError } from "../../contracts/errors.ts";
import { readJson } from "../../files/json_file.ts";
import { showValue } from "../../contracts/plain_text.ts";
import { environmentVariable } from "./environment.ts";
import { type Checksum, download, type DownloadOptions, pause } from "./download.ts";

/** Where models come from. @default of `PullOptions.endpoint` */
const HUB = "https://huggingface.co";

/** Options of `pullModel` and `pullDataset`. */
export interface PullOptions extends Omit<DownloadOptions, "size" | "maxBytes" | "checksum" | "onProgress"> {
  /** Folder of everything that was pulled. @default {defaultCache()} */
  readonly cache?: string | undefined;
  /** Another hub of the same kind. @default {HF_ENDPOINT, or huggingface.co} */
  readonly endpoint?: string | undefined;
  /** Called as bytes arrive: bytes of all files so far, of all files together, and the file. */
  onProgress?(done: number, total: number | null, file: string): void;
  /** Called if another program, or this one, is pulling the same: what it brings is waited for. */
  onWait?(): void;
}

/** `EDGETUNER_CACHE`, or `edgetuner` in the system's cache folder. */
export function defaultCache(): string {
  const env = environmentVariable;
  const home = env("HOME") ?? env("USERPROFILE") ?? ".";
  return env("EDGETUNER_CACHE") ??
    `${env("XDG_CACHE_HOME") ?? env("LOCALAPPDATA") ?? `${home}/.cache`}/edgetuner`;
}

interface Sibling {
  readonly rfilename: string;
  readonly size?: number;
  readonly blobId?: string;
  readonly lfs?: { readonly sha256?: string; readonly size?: number };
}

/** Files of a model that this library reads, or that belong to it, if they are there. */
const SMALL_FILES = ["config.json", ...TOKENIZER_FILES];
/** Further chat templates. */
const TEMPLATE = new RegExp(`^${TEMPLATE_FOLDER}/[^/]+\\.jinja$`);

/** Weights in formats of other libraries; these can hold programs, or need those libraries. */
const OTHER_WEIGHTS = /(\.(bin|h5|msgpack|pt|pth|ckpt(\.index)?|onnx|ot)|\.bin\.index\.json)$/;

/** Most bytes of a list of a model's files. */
const MAX_LISTING = 2 ** 24;
/** Most bytes of a file inside an archive. */
const MAX_UNPACKED = 2 ** 28;

async function getJson(url: string, options: PullOptions): Promise<unknown> {
  const folder = await Deno.makeTempDir();
  try {
    const { onProgress: _, onWait: __, ...rest } = options;
    await download(url, `${folder}/answer.json`, { ...rest, maxBytes: MAX_LISTING });
    return await readJson(`${folder}/answer.json`);
  } catch (cause) {
    if (!(cause instanceof SyntaxError) && !(cause instanceof RangeError)) throw cause;
    throw new DownloadError(`Cannot use ${url} as it must be JSON: ${cause.message}`, { cause });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Which files of a repository make up the model. */
function modelFiles(id: string, siblings: readonly Sibling[]): Sibling[] {
  const has = (name: string) => siblings.some(({ rfilename }) => rfilename === name);
  const weights = has("model.safetensors") ? ["model.safetensors"] : has("model.safetensors.index.json")
    ? [
      "model.safetensors.index.json",
      ...siblings.map((s) => s.rfilename).filter((name) => /^model-\d+-of-\d+\.safetensors$/.test(name)),
    ]
    : [];
  const others = siblings.map((s) => s.rfilename).filter((name) => OTHER_WEIGHTS.test(name));
  if (weights.length === 0 && others.length > 0) {
    const [name] = id.split("@");
    throw new DownloadError(
      `Cannot pull ${id} as its weights must be safetensors: it has ${
        others.slice(0, 20).join(", ")
      } alone. ` +
        `A pull request of the repository may hold a conversion: look there, and pull ${name}@refs/pr/N, N its number`,
    );
  }
  if (weights.length === 0 || !has("config.json")) {
    throw new DownloadError(
      `Cannot pull ${id} as it must have config.json and model.safetensors, or the latter in pieces with an index: it has ${
        siblings.map((s) => s.rfilename).slice(0, 20).join(", ")
      }`,
    );
  }
  const wanted = (name: string) =>
    SMALL_FILES.includes(name) || weights.includes(name) || TEMPLATE.test(name);
  return siblings.filter(({ rfilename }) => wanted(rfilename));
}

function checksumOf({ lfs, blobId }: Sibling): Checksum | undefined {
  if (lfs?.sha256) return { kind: "sha256", value: lfs.sha256 };
  return blobId ? { kind: "git", value: blobId } : undefined;
}

/** Names become parts of paths: nothing may lead out of the cache. */
function requireName(what: string, name: string): void {
  const plain = /^[\w.-]+(\/[\w.-]+)*$/.test(name) && !name.split("/").includes("..");
  if (!plain) {
    throw new DownloadError(
      `Cannot pull as ${what} must be letters, digits, ".", "-", "_" and "/": current value is ${
        JSON.stringify(name)
      }`,
    );
  }
}

/** One file to bring. */
interface Wanted {
  readonly url: string;
  readonly path: string;
  readonly size?: number | undefined;
  readonly checksum?: Checksum | undefined;
}

async function bring(files: readonly Wanted[], options: PullOptions): Promise<void> {
  const total = files.every((f) => f.size !== undefined) ? files.reduce((sum, f) => sum + f.size!, 0) : null;
  let before = 0;
  for (const { url, path, size, checksum } of files) {
    const name = path.slice(path.lastIndexOf("/") + 1);
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    await download(url, path, {
      ...options,
      size,
      checksum,
      onProgress: (done) => options.onProgress?.(before + done, total, name),
    });
    before += (await Deno.stat(path)).size;
  }
}

/** Between two looks at a lock that another program holds, in milliseconds. */
const LOCK_PAUSE = 100;

/**
 * Runs what writes into a folder of the cache, after all others who do. The system frees the lock of a program
 * that is gone; its file stays, as nobody knows who else has it open.
 */
async function alone<T>(folder: string, options: PullOptions, run: () => Promise<T>): Promise<T> {
  const cache = options.cache ?? defaultCache();
  await Deno.mkdir(`${cache}/locks`, { recursive: true });
  const name = encodeURIComponent(folder.slice(cache.length + 1));
  using file = await Deno.open(`${cache}/locks/${name}`, { write: true, create: true });
  for (let told = false; !await file.tryLock(true); told = true) {
    if (!told) options.onWait?.();
    await pause(LOCK_PAUSE, options.signal);
  }
  return await run();
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

/** A file in the folder of everything that was pulled completely. */
const COMPLETE = ".complete";

/**
 * Brings a model of the Hugging Face hub: configuration, tokenizer, safetensors.
 *
 * @param id Such as `"openai-community/gpt2-medium"`, with `@revision` behind it if it is not `main`: a
 * branch, a tag, a commit or a pull request (`@refs/pr/1`).
 * @param options Cache, token, limits.
 * @returns The folder. If the model was pulled before, nothing is asked of the network; if it is being pulled by
 * another program, that one's work is waited for.
 * @throws {DownloadError} If it cannot be had, or is not what the hub says it is.
 * @throws The signal's reason, if it is aborted, also while waiting.
 * @category Model and data
 */
export async function pullModel(id: string, options: PullOptions = {}): Promise<string> {
  const [name = "", revision = "main"] = id.split("@");
  requireName("the model's name", name);
  requireName("the revision", revision);
  const folder = `${options.cache ?? defaultCache()}/models/${name}/${revision}`;
  if (await exists(`${folder}/${COMPLETE}`)) return folder;
  await alone(folder, options, () => bringModel({ id, name, revision, folder }, options));
  return folder;
}

interface WantedModel {
  readonly id: string;
  readonly name: string;
  readonly revision: string;
  readonly folder: string;
}

async function bringModel(
  { id, name, revision, folder }: WantedModel,
  options: PullOptions,
): Promise<void> {
  // By whoever was waited for.
  if (await exists(`${folder}/${COMPLETE}`)) return;
  const endpoint = options.endpoint ?? environmentVariable("HF_ENDPOINT") ?? HUB;
  // Of a revision such as refs/pr/1 the slashes are part of its name.
  const version = encodeURIComponent(revision);
  const answer = await getJson(`${endpoint}/api/models/${name}/revision/${version}?blobs=true`, options);
  const siblings = (answer as { siblings?: unknown } | null)?.siblings;
  if (!Array.isArray(siblings) || siblings.some((s) => typeof s?.rfilename !== "string")) {
    throw new DownloadError(
      `Cannot pull ${id} as the hub must list its files: it sent ${showValue(answer)}`,
    );
  }
  const files = modelFiles(id, siblings as Sibling[]);
  const missing: Wanted[] = [];
  for (const file of files) {
    requireName("a file's name", file.rfilename);
    const path = `${folder}/${file.rfilename}`;
    if (await exists(path)) continue;
    missing.push({
      url: `${endpoint}/${name}/resolve/${version}/${file.rfilename}`,
      path,
      size: file.lfs?.size ?? file.size,
      checksum: checksumOf(file),
    });
  }
  await bring(missing, options);
  await writeWhole(`${folder}/${COMPLETE}`, "");
}

/** A data set of the paper. */
export interface DatasetSource {
  /** What it is, and under which terms. */
  readonly about: string;
  /** Its files by name, or one archive. */
  readonly files: Readonly<Record<string, string>>;
  /** Of an archive: the file inside for each name here. */
  readonly archive?: Readonly<Record<string, string>>;
}

const RAW = "https://raw.githubusercontent.com";
const splits = (names: readonly string[], url: (name: string) => string) =>
  Object.fromEntries(names.map((name) => [name, url(name)]));

/** The data sets of the paper. Where they lie was taken from their authors' pages. */
export const DATASETS: Readonly<Record<string, DatasetSource>> = {
  "e2e": {
    about: "E2E NLG as LoRA's example has it (MR||text lines); text CC BY-SA 4.0",
    files: splits(
      ["train.txt", "valid.txt", "test.txt"],
      (name) => `${RAW}/microsoft/LoRA/main/examples/NLG/data/e2e/${name}`,
    ),
  },
  "e2e-csv": {
    about: "E2E NLG as published (CSV); CC BY-SA 4.0",
    files: splits(
      ["trainset.csv", "devset.csv", "testset_w_refs.csv"],
      (name) => `${RAW}/tuetschek/e2e-dataset/master/${name}`,
    ),
  },
  "webnlg": {
    about: "WebNLG challenge 2017 (JSON); CC BY-NC-SA 4.0: not for commercial use",
    files: splits(
      ["train.json", "dev.json", "test.json"],
      (name) => `${RAW}/microsoft/LoRA/main/examples/NLG/data/webnlg_challenge_2017/${name}`,
    ),
  },
  "dart": {
    about: "DART 1.1.1 (JSON); MIT, with parts from WebNLG (CC BY-NC-SA) and E2E (CC BY-SA)",
    files: splits(
      ["train", "dev", "test"].map((split) => `dart-v1.1.1-full-${split}.json`),
      (name) => `${RAW}/Yale-LILY/dart/master/data/v1.1.1/${name}`,
    ),
  },
  "winogrande": {
    about: "Winogrande 1.1 (JSONL); CC BY",
    files: {
      "winogrande_1.1.zip": "https://storage.googleapis.com/ai2-mosaic/public/winogrande/winogrande_1.1.zip",
    },
    archive: {
      "train_xl.jsonl": "winogrande_1.1/train_xl.jsonl",
      "dev.jsonl": "winogrande_1.1/dev.jsonl",
      "test.jsonl": "winogrande_1.1/test.jsonl",
    },
  },
  "openbookqa": {
    about: "OpenBookQA (JSONL); terms not stated by its authors",
    files: {
      "OpenBookQA-V1-Sep2018.zip":
        "https://s3-us-west-2.amazonaws.com/ai2-website/data/OpenBookQA-V1-Sep2018.zip",
    },
    archive: {
      "train.jsonl": "OpenBookQA-V1-Sep2018/Data/Main/train.jsonl",
      "dev.jsonl": "OpenBookQA-V1-Sep2018/Data/Main/dev.jsonl",
      "test.jsonl": "OpenBookQA-V1-Sep2018/Data/Main/test.jsonl",
    },
  },
};

/**
 * Brings a data set of the paper.
 *
 * @param name One of `DATASETS`.
 * @param options Cache and limits.
 * @param sources Where data sets lie. @default {DATASETS}
 * @returns The folder. If the data set was pulled before, nothing is asked of the network; if it is being pulled
 * by another program, that one's work is waited for.
 * @throws {DownloadError} If the name is unknown, or the data set cannot be had.
 */
export async function pullDataset(
  name: string,
  options: PullOptions = {},
  sources: Readonly<Record<string, DatasetSource>> = DATASETS,
): Promise<string> {
  const source = Object.hasOwn(sources, name) ? sources[name] : undefined;
  if (source === undefined) {
    throw new DownloadError(
      `Cannot pull the data set as it must be one of ${Object.keys(sources).join(", ")}: current value is ${
        JSON.stringify(name)
      }`,
    );
  }
  const folder = `${options.cache ?? defaultCache()}/datasets/${name}`;
  if (await exists(`${folder}/${COMPLETE}`)) return folder;
  await alone(folder, options, () => bringDataset(source, folder, options));
  return folder;
}

async function bringDataset(source: DatasetSource, folder: string, options: PullOptions): Promise<void> {
  if (await exists(`${folder}/${COMPLETE}`)) return;
  const missing: Wanted[] = [];
  for (const [file, url] of Object.entries(source.files)) {
    if (!await exists(`${folder}/${file}`)) missing.push({ url, path: `${folder}/${file}` });
  }
  // A token of the hub is no business of other hosts.
  await bring(missing, { ...options, token: undefined });
  if (source.archive !== undefined) {
    const [zip] = Object.keys(source.files);
    const inside = Object.values(source.archive);
    let content: Record<string, Uint8Array>;
    try {
      content = unzipSync(await Deno.readFile(`${folder}/${zip}`), {
        filter: ({ name, originalSize }) => {
          if (!inside.includes(name)) return false;
          if (originalSize <= MAX_UNPACKED) return true;
          throw new RangeError(`${name} must have at most ${MAX_UNPACKED} bytes: it has ${originalSize}`);
        },
      });
    } catch (cause) {
      await Deno.remove(`${folder}/${zip}`);
      throw new DownloadError(`Cannot use ${zip} as it must be an archive: ${(cause as Error).message}`, {
        cause,
      });
    }
    for (const [file, entry] of Object.entries(source.archive)) {
      const bytes = content[entry];
      if (bytes === undefined) {
        throw new DownloadError(`Cannot use ${zip}: ${entry} is missing in it`);
      }
      await writeWhole(`${folder}/${file}`, bytes);
    }
  }
  await writeWhole(`${folder}/${COMPLETE}`, "");
}
