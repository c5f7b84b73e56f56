/**
 * The list of model families.
 *
 * @module
 */

import { alternatives, showValue } from "../contracts/plain_text.ts";
import { ModelFileError } from "../contracts/errors.ts";
import type { Family } from "./families/family.ts";
import { type Gpt2Config, gpt2Family } from "./families/gpt2.ts";
import { type LlamaConfig, llamaFamily } from "./families/llama.ts";
import { type OptConfig, optFamily } from "./families/opt.ts";
import { type Gemma3Config, gemma3Family } from "./families/gemma3.ts";
import { asLlama, type MistralConfig, mistralFamily } from "./families/mistral.ts";
import { type Qwen3Config, qwen3Family } from "./families/qwen3.ts";
import { type Smollm3Config, smollm3Family } from "./families/smollm3.ts";
import { type Qwen2Config, qwen2Family } from "./families/qwen2.ts";

/** All model families by name: a new one is one file in `families/` and one line here. */
export class Families {
  /** GPT-2. */
  readonly gpt2: Family<Gpt2Config> = gpt2Family;
  /** LLaMA, and what shares its architecture. */
  readonly llama: Family<LlamaConfig> = llamaFamily;
  /** OPT. */
  readonly opt: Family<OptConfig> = optFamily;
  /** Qwen2 and Qwen2.5. */
  readonly qwen2: Family<Qwen2Config> = qwen2Family;
  /** Qwen3. */
  readonly qwen3: Family<Qwen3Config> = qwen3Family;
  /** Mistral. */
  readonly mistral: Family<MistralConfig> = mistralFamily;
  /** Gemma 3, models of text alone. */
  readonly gemma3_text: Family<Gemma3Config> = gemma3Family;
  /** SmolLM3. */
  readonly smollm3: Family<Smollm3Config> = smollm3Family;
}

/** Name of a model family. */
export type ModelFamily = keyof Families;

/** Shape of a model of any family. */
export type ModelConfig = Families[ModelFamily] extends infer F ? F extends Family<infer C> ? C : never
  : never;

/** The model families by name. */
export const FAMILIES: Readonly<Families> = new Families();

const ALL = Object.values(FAMILIES) as readonly Family<ModelConfig>[];
/** The family of configurations that do not say theirs: those of GPT-2, the first one there was. */
const UNNAMED = "gpt2";

/** The name of a model's family. */
export function familyName(config: ModelConfig): ModelFamily {
  return "model_type" in config ? config.model_type : UNNAMED;
}

/** What is known of a model's family. */
export function familyOf(config: ModelConfig): Family<ModelConfig> {
  return FAMILIES[familyName(config)] as Family<ModelConfig>;
}

/**
 * Checks a `config.json` and takes what its family needs.
 *
 * @throws {ModelFileError} If the family is not known, a field is missing or out of range, or asks for
 * what is not done here.
 */
export function modelConfig(json: unknown): ModelConfig {
  const { model_type: type, architectures } = (json ?? {}) as Record<string, unknown>;
  const name = type ?? (Array.isArray(architectures) ? architectures[0] : undefined) ?? UNNAMED;
  const family = ALL.find((f) => f.name === name || f.architectures.some((other) => other === name));
  if (family === undefined) {
    throw new ModelFileError(
      `Cannot load the model as model_type must be ${
        alternatives(ALL.map((f) => f.name))
      }: current value is ${showValue(name)}`,
    );
  }
  const config = family.config(json);
  // Without a window it is a LLaMA, as which its GGUF files come: one model has one fingerprint.
  return "model_type" in config && config.model_type === "mistral" ? asLlama(config) ?? config : config;
}
