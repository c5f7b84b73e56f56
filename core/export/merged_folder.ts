/**
 * Models with an adapter merged in as a folder in Hugging Face form, for transformers and vLLM.
 *
 * @module
 */

import { writeWhole } from "../files/atomic.ts";
import { parseJson, readTextWithin } from "../files/json_file.ts";
import type { NamedArrays } from "../files/named_arrays.ts";
import { saveSafetensors } from "../files/safetensors.ts";
import { copyTokenizerFiles } from "../data/tokenizer_folder.ts";
import { ggufTokenizerFiles } from "../loading/gguf_tokenizer_files.ts";
import { hasTokenizerFiles, isGguf, loadModelConfig, modelFolderOf } from "../loading/model_path.ts";
import { configJson } from "../model/config_json.ts";
import { familyOf } from "../model/families.ts";

/** Where the files of a merged model come from. */
export interface MergedFolderOptions {
  /** Path of the base model: a folder, or a GGUF file. */
  readonly model: string;
  /** Of a GGUF base: folder or `tokenizer.json` to take the tokenizer from; empty for its own. @default {""} */
  readonly tokenizer?: string;
  /** The merged weights, such as `mergePeft` makes. */
  readonly weights: NamedArrays;
}

/**
 * Writes the folder of a merged model: `model.safetensors` in float32, `config.json`, and the base's tokenizer and chat
 * templates. Of a GGUF base these are made from what the file says. Memory holds one weight at a time.
 *
 * @param folder Where to; it is there already.
 * @throws {ModelFileError} If the base's tokenizer or positions have no such files.
 * @throws {SaveError} If a file cannot be written.
 * @category Adapters
 */
export async function saveMergedFolder(folder: string, options: MergedFolderOptions): Promise<void> {
  const { model, tokenizer = "", weights } = options;
  await saveSafetensors(`${folder}/model.safetensors`, weights, { format: "pt" });
  const put = (name: string, content: unknown) =>
    writeWhole(`${folder}/${name}`, `${JSON.stringify(content, null, 2)}\n`);
  const companions = modelFolderOf(model);
  if (!isGguf(model)) {
    await copyTokenizerFiles(companions, folder);
    const text = await readTextWithin(`${model}/config.json`);
    await writeWhole(`${folder}/config.json`, text);
    const { _name_or_path, ...merged } = parseJson(text) as Record<string, unknown>;
    // Not the base any more, and in f32 whatever the base was in: readers would round to what is noted.
    const noted = ["dtype", "torch_dtype"].filter((name) => (merged[name] ?? "float32") !== "float32");
    if (_name_or_path === undefined && noted.length === 0) return;
    for (const name of noted) merged[name] = "float32";
    return await put("config.json", merged);
  }
  const config = await loadModelConfig(model);
  const written = { architectures: familyOf(config).architectures, ...configJson(config) };
  if (tokenizer !== "" || await hasTokenizerFiles(companions)) {
    // A file stands for the folder that it is in.
    const [, place = ""] = /^(?:(.*)\/)?[^/]+\.json$/.exec(tokenizer) ?? [];
    const other = tokenizer.endsWith(".json") ? place || "." : tokenizer;
    await copyTokenizerFiles(tokenizer === "" ? companions : other, folder);
    return await put("config.json", { ...written, torch_dtype: "float32" });
  }
  const { files, eos, bos } = await ggufTokenizerFiles(model);
  for (const [name, content] of files) await put(name, content);
  const ids = { ...(bos === null ? {} : { bos_token_id: bos }), eos_token_id: eos };
  await put("config.json", { ...written, ...ids, torch_dtype: "float32" });
}
