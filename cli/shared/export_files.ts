/**
 * What lies in exports beside the weights: the base model's name, and what other programs need to find it.
 *
 * @module
 */

import { defaultCache, GgufFile, isGguf, ModelFileError, type PeftAdapter } from "@edgetuner/core";

/** Files of an adapter for llama.cpp and Ollama. */
export const GGUF_FILES = { adapter: "adapter.gguf", modelfile: "Modelfile" };

/**
 * An example of what Ollama takes a model from: the base and the adapter on it.
 *
 * @param model Path of the base model.
 */
export async function modelfile(model: string): Promise<string> {
  const base = await Deno.realPath(model).catch(() => model);
  return `# ollama create NAME -f Modelfile; then: ollama run NAME
FROM ${base}
ADAPTER ./${GGUF_FILES.adapter}
`;
}

/** Files of a merged model for llama.cpp and Ollama. */
export const MERGED_GGUF_FILES = { model: "model.gguf", modelfile: "Modelfile" };

/** What Ollama takes a merged model from. */
export function mergedModelfile(): string {
  return `# ollama create NAME -f Modelfile; then: ollama run NAME
FROM ./${MERGED_GGUF_FILES.model}
`;
}

/**
 * Holds an adapter that was read back against what was written.
 *
 * @throws {ModelFileError} If a value differs.
 */
export function requireSame(found: PeftAdapter, wanted: PeftAdapter): void {
  const scale = ({ config }: PeftAdapter) => Math.fround(config.lora_alpha) / config.r;
  const names = [...wanted.arrays.keys()];
  const other = names.find((name) => {
    const [a, b] = [found.arrays.get(name)?.data, wanted.arrays.get(name)!.data];
    return a === undefined || a.length !== b.length || a.some((x, i) => x !== b[i]);
  });
  if (other === undefined && found.arrays.size === names.length && scale(found) === scale(wanted)) return;
  throw new ModelFileError(
    `Cannot export the adapter as its file must be read back as it was written: ${
      other ?? "the scale"
    } differs`,
  );
}

/** A model folder's `config.json`. */
export async function readConfig(model: string): Promise<Record<string, unknown>> {
  return JSON.parse(await Deno.readTextFile(`${model}/config.json`));
}

/** Fields of a GGUF file that say what it was made from, at a hub. */
const NOTED = ["general.source.huggingface.repository", "general.base_model.0.repo_url"];

/**
 * The base model as others can find it: its name at a hub if it says one, else where it is on this machine, as PEFT
 * notes it too.
 */
export async function nameOf(
  model: string,
): Promise<{ base_model_name_or_path: string; revision?: string | undefined }> {
  const cache = `${defaultCache()}/models/`;
  if (isGguf(model)) {
    const { metadata } = await GgufFile.open(model);
    const noted = NOTED.map((field) => metadata[field]).find((name) => typeof name === "string");
    const [, name] = /^(?:https?:\/\/[^/]+\/)?(\w[\w.-]*\/\w[\w.-]*)$/.exec(String(noted)) ?? [];
    if (name !== undefined) return { base_model_name_or_path: name };
  } else {
    const path = model.replace(/\/+$/, "");
    const [, pulled, revision] = (path.startsWith(cache)
      ? /^([^/]+(?:\/[^/]+)?)\/(refs\/.+|[^/]+)$/.exec(path.slice(cache.length))
      : null) ?? [];
    if (pulled !== undefined) {
      return { base_model_name_or_path: pulled, ...(revision === "main" ? {} : { revision }) };
    }
    if (/^\w[\w.-]*\/\w[\w.-]*$/.test(path)) {
      return { base_model_name_or_path: path };
    }
    const { _name_or_path: noted } = await readConfig(model);
    if (typeof noted === "string" && /^\w[\w.-]*(\/\w[\w.-]*)?$/.test(noted)) {
      return { base_model_name_or_path: noted };
    }
  }
  return { base_model_name_or_path: model };
}
