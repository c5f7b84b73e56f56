/**
 * llama.cpp and PEFT, to hold a real model against. Both are optional.
 *
 * @module
 */

import { type PeftAdapter, saveMergedGguf } from "@edgetuner/core";
import { fileURLToPath } from "node:url";
import { UsageError } from "../../cli/flags/flags.ts";
import { writeReport } from "../../cli/output/report.ts";

/** Longest time that one of them may take, in milliseconds. */
const LIMIT_MS = 600_000;

/** What llama.cpp is asked. */
export interface LlamaJob {
  /** Texts to tokenise, special tokens included. */
  readonly texts?: readonly string[];
  /** Conversations to render. */
  readonly chats?: {
    readonly template: string;
    readonly conversations: readonly (readonly Readonly<Record<string, string>>[])[];
    readonly more: Readonly<Record<string, unknown>>;
  };
  /** Sequences whose tokens are scored, each after those before it. */
  readonly scored?: readonly (readonly number[])[];
  /** A sequence whose logits are wanted, and the file that they go to. */
  readonly logits?: { readonly tokens: readonly number[]; readonly path: string };
  /** Prompts to continue greedily, with so many tokens at most. */
  readonly prompts?: readonly (readonly number[])[];
  readonly maxTokens?: number;
  /** GGUF file of an adapter. */
  readonly adapter?: string;
}

/** The file as it is, or a copy of it with float32 weights, which this project writes. */
export type Which = "file" | "float32";

/** What it said. */
export interface LlamaAnswer {
  readonly tokens: readonly (readonly number[])[];
  readonly rendered: readonly string[];
  readonly likelihoods: readonly (readonly number[])[];
  readonly greedy: readonly (readonly number[])[];
}

/** A PEFT adapter that changes nothing. */
const NOTHING: PeftAdapter = {
  config: {
    ...{ peft_type: "LORA", r: 1, lora_alpha: 1, lora_dropout: 0, target_modules: [] },
    ...{ fan_in_fan_out: false, use_rslora: false },
  },
  arrays: new Map(),
};

/** Programs that are not part of this project, and a folder for what they exchange. */
export class Peers {
  /** The same weights as float32, which llama.cpp multiplies by activations that it does not round to 8 bits. */
  #exact: string | null = null;
  readonly #llama: string;
  readonly #python: string;
  readonly #model: string;
  readonly #folder: string;

  /**
   * @param model The GGUF file.
   * @param folder Where files may be put.
   * @param programs Folder with node-llama-cpp and a Python with PEFT; empty for none.
   */
  constructor(
    model: string,
    folder: string,
    { llama, python }: { readonly llama: string; readonly python: string },
  ) {
    this.#model = model;
    this.#folder = folder;
    this.#llama = llama;
    this.#python = python;
  }

  /** Asks llama.cpp; `null` where there is none. */
  async llama(job: LlamaJob, model: Which = "file"): Promise<LlamaAnswer | null> {
    if (this.#llama === "") return null;
    const file = model === "file" ? this.#model : await this.#float32();
    const path = `${this.#folder}/job.json`;
    await writeReport(path, { ...job });
    const program = fileURLToPath(new URL("./llama_cpp.mjs", import.meta.url));
    return JSON.parse(await run("node", [program, this.#llama, file, path]));
  }

  /** Logits of llama.cpp after every token, with a GGUF adapter; `null` where there is none. */
  async llamaLogits(
    tokens: readonly number[],
    { model = "file", adapter }: { readonly model?: Which; readonly adapter?: string } = {},
  ): Promise<Float32Array | null> {
    const path = `${this.#folder}/llama.f32`;
    const job = { logits: { tokens, path }, ...(adapter === undefined ? {} : { adapter }) };
    return await this.llama(job, model) === null ? null : await numbersOf(path);
  }

  /** Writes the model with float32 weights, once. */
  async #float32(): Promise<string> {
    if (this.#exact !== null) return this.#exact;
    const path = `${this.#folder}/float32.gguf`;
    await saveMergedGguf(path, { model: this.#model, peft: NOTHING, type: "F32" });
    return this.#exact = path;
  }

  /** Logits of transformers after every token, with PEFT's adapter; `null` where there is none. */
  async transformersLogits(tokens: readonly number[], adapter = ""): Promise<Float32Array | null> {
    if (this.#python === "") return null;
    const path = `${this.#folder}/transformers.f32`;
    const program = fileURLToPath(new URL("./logits.py", import.meta.url));
    const more = adapter === "" ? [] : [adapter];
    await run(this.#python, [program, this.#model, tokens.join(","), path, ...more]);
    return await numbersOf(path);
  }
}

async function numbersOf(path: string): Promise<Float32Array> {
  return new Float32Array((await Deno.readFile(path)).buffer);
}

async function run(program: string, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args: [...args],
    signal: AbortSignal.timeout(LIMIT_MS),
  }).output();
  const decoder = new TextDecoder();
  if (code === 0) return decoder.decode(stdout);
  throw new UsageError(`Cannot compare as ${program} must succeed: ${decoder.decode(stderr).slice(-2000)}`);
}
