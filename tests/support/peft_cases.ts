/**
 * Adapters that `examples/export.ts` exports for PEFT and merges into their models: one for each family and LoRA
 * mode, with the logits that this project computes with them. Run as a program it writes them where
 * `tests/fixtures/check_peft.py` reads them:
 *
 *     deno run -A tests/support/peft_cases.ts FOLDER
 *
 * @module
 */

import {
  type Adapter,
  embedTokens,
  type InputModeName,
  loadEmbeddingAndHead,
  loadHeads,
  loadLayers,
  loadModelFolder,
  logitsOf,
  modelShape,
  type NamedArray,
  randomStream,
  saveAdapter,
  saveSafetensors,
  Tape,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { ROOT } from "./places.ts";

/** Models of the cases, by name. */
export const PEFT_MODELS: Readonly<Record<string, string>> = {
  gpt2: "tests/fixtures/parity/gpt2_base",
  llama: "tests/fixtures/families/llama",
  llama_grouped: "tests/fixtures/families/llama_grouped",
  opt: "tests/fixtures/families/opt",
};

/** Tokens on which logits are compared. */
export const PEFT_TOKENS: readonly number[] = [1, 5, 9, 30, 2, 66, 3, 3, 60, 12, 44, 8, 1, 0, 2, 17];

/** Tensors and settings that every case has. */
export interface PeftCase {
  /** Name: model and LoRA mode. */
  readonly name: string;
  /** Folder of the model, from the repository's root. */
  readonly model: string;
  /** LoRA mode. */
  readonly mode: InputModeName;
}

/** All cases. */
export const PEFT_CASES: readonly PeftCase[] = Object.entries(PEFT_MODELS).flatMap(([name, model]) =>
  (["slice", "full", "core"] as const).map((mode) => ({ name: `${name}_${mode}`, model, mode }))
);

/** Head modules with random A and B, or R in mode `core`, the same everywhere. */
async function adapterFor({ model, mode }: PeftCase): Promise<Adapter> {
  const folder = await loadModelFolder(`${ROOT}${model}`);
  const { layers, heads, hidden, headSize } = modelShape(folder.config);
  const random = randomStream(11);
  const numbers = (rows: number, columns: number): NamedArray => ({
    shape: [rows, columns],
    data: Float32Array.from({ length: rows * columns }, () => random.float() - 0.5),
  });
  const [rank, targets] = [3, ["q", "k", "v"] as const];
  const arrays = new Map<string, NamedArray>();
  for (let l = 0; l < layers; l++) {
    for (let h = 0; h < heads; h++) {
      for (const target of targets) {
        if (mode === "core") {
          arrays.set(`layer${l}.head${h}.${target}.R`, numbers(rank, rank));
          continue;
        }
        arrays.set(`layer${l}.head${h}.${target}.A`, numbers(rank, mode === "slice" ? headSize : hidden));
        arrays.set(`layer${l}.head${h}.${target}.B`, numbers(headSize, rank));
      }
    }
  }
  return {
    lora: { mode, targets, rank, alpha: 6, dropout: 0 },
    model: { layers, heads, hidden },
    fingerprint: folder.fingerprint,
    arrays,
  };
}

/** A tokenizer of 67 letters for models whose vocabulary has no text. */
function tokenizer(): unknown {
  const letters = Array.from({ length: 66 }, (_, i) => String.fromCodePoint(0x30 + i));
  const vocab = Object.fromEntries(["<|endoftext|>", ...letters].map((token, id) => [token, id]));
  return {
    version: "1.0",
    added_tokens: [{ id: 0, content: "<|endoftext|>", special: true, normalized: false }],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: { type: "BPE", unk_token: null, vocab, merges: [] },
  };
}

/**
 * Exports a case with `examples/export.ts` to `FOLDER/NAME`, and merged to `FOLDER/NAME.merged`.
 *
 * @returns Our logits with the adapter and without, [tokens * V].
 */
export async function exportCase(
  engine: Engine,
  one: PeftCase,
  folder: string,
): Promise<{ readonly logits: Float32Array; readonly base: Float32Array }> {
  const adapter = await adapterFor(one);
  await saveAdapter(`${folder}/${one.name}.heads`, adapter);
  await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(tokenizer()));
  await Deno.writeTextFile(`${folder}/texts.txt`, "ABC||ABCDE\nabc||aBcD\n".replaceAll(" ", ""));
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--quiet", "examples/export.ts", "--model", one.model],
      ...["--tokenizer", `${folder}/tokenizer.json`, "--data", `${folder}/texts.txt`],
      ...["--adapter", `${folder}/${one.name}.heads`, "--peft", `${folder}/${one.name}`],
      ...["--merge", `${folder}/${one.name}.merged`],
    ],
    cwd: ROOT,
  }).output();
  if (code !== 0) {
    throw new Error(`export.ts must succeed for ${one.name}: ${new TextDecoder().decode(stderr)}`);
  }
  const model = await loadModelFolder(`${ROOT}${one.model}`);
  using layers = loadLayers(engine, model);
  using ends = loadEmbeddingAndHead(engine, model);
  using heads = loadHeads(engine, adapter);
  const tokens = Uint32Array.from(PEFT_TOKENS);
  const { length } = tokens;
  const batch = { tokens, targets: tokens, mask: new Float32Array(length), batch: 1, length };
  const { layers: L, heads: H } = layers.shape;
  await heads.beginStep({ step: 0, mode: "evaluate", mask: new Uint8Array(L * H) });
  const logitsWith = async (which: typeof heads | null) => {
    using tape = new Tape(engine, { training: false });
    const hidden = await layers.forward(
      tape,
      tape.variable(embedTokens(ends, batch), { needsGradient: false }),
      batch,
      which,
    );
    using logits = logitsOf(ends, hidden.value, tokens.map((_, i) => i));
    return await logits.read();
  };
  return { logits: await logitsWith(heads), base: await logitsWith(null) };
}

if (import.meta.main) {
  const [folder] = Deno.args;
  if (folder === undefined) throw new Error("A folder must be given to write to");
  await Deno.mkdir(folder, { recursive: true });
  using engine = await Engine.create();
  const tensors = new Map<string, NamedArray>();
  for (const one of PEFT_CASES) {
    const { logits } = await exportCase(engine, one, folder);
    tensors.set(one.name, { shape: [PEFT_TOKENS.length, logits.length / PEFT_TOKENS.length], data: logits });
    console.log(one.name);
  }
  await saveSafetensors(`${folder}/logits.safetensors`, tensors);
  await Deno.writeTextFile(
    `${folder}/cases.json`,
    JSON.stringify({ tokens: PEFT_TOKENS, cases: PEFT_CASES }, null, 2),
  );
}
