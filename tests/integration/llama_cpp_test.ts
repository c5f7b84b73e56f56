/**
 * llama.cpp with an exported adapter, or with a merged model, writes the text that this project writes with the head
 * modules.
 *
 * Optional: runs where EDGETUNER_LLAMA_CPP is a folder in which `npm install node-llama-cpp@3.22.1` was run, and
 * EDGETUNER_GGUF a model's GGUF file; is left out elsewhere.
 */

import {
  type Adapter,
  embedTokens,
  exactRank,
  familyName,
  type LlamaConfig,
  loadEmbeddingAndHead,
  loadLayers,
  loadModel,
  loadModelFolder,
  logitsOf,
  type ModelFiles,
  modelShape,
  type NamedArray,
  type PeftAdapter,
  randomStream,
  saveAdapter,
  saveGgufLora,
  saveMergedGguf,
  Tape,
  toPeft,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { FAMILY_NAMES } from "../support/families.ts";
import { LLAMA_CPP_KNOWS, writeFolder } from "../support/gguf_folders.ts";
import { EXAMPLES } from "../support/places.ts";

const MODEL = Deno.env.get("EDGETUNER_GGUF");
const LLAMA_CPP = Deno.env.get("EDGETUNER_LLAMA_CPP");
const PROMPT = "The capital of France is";
const TOKENS = 12;

/** A program for Node.js: what llama.cpp continues the prompt with, greedily, as JSON. */
const PROGRAM = `
import { getLlama } from "node-llama-cpp";
const [modelPath, filePath] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: 1 });
const model = await llama.loadModel({ modelPath });
const lora = filePath === "" ? {} : { lora: { adapters: [{ filePath }] } };
const context = await model.createContext({ contextSize: 64, ...lora });
const found = [];
for await (const token of context.getSequence().evaluate(model.tokenize("${PROMPT}"), { temperature: 0 })) {
  found.push(token);
  if (found.length === ${TOKENS}) break;
}
console.log(JSON.stringify(model.detokenize(found)));
process.exit(0);
`;

/** A program for Node.js: for each file the probabilities of what follows some tokens, as JSON. */
const PROBABILITIES = `
import { getLlama } from "node-llama-cpp";
const [paths, tokens] = process.argv.slice(2).map((text) => JSON.parse(text));
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: 1 });
const found = [];
for (const modelPath of paths) {
  const model = await llama.loadModel({ modelPath });
  const context = await model.createContext({ contextSize: 64 });
  const last = [tokens.at(-1), { generateNext: { probabilities: true } }];
  const given = await context.getSequence().controlledEvaluate([...tokens.slice(0, -1), last]);
  found.push([...given.at(-1).next.probabilities]);
}
console.log(JSON.stringify(found));
process.exit(0);
`;

async function run(program: string, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args: [...args],
    signal: AbortSignal.timeout(300_000),
  }).output();
  const decoder = new TextDecoder();
  assertEquals(code, 0, decoder.decode(stderr));
  return decoder.decode(stdout);
}

/** Head modules that change what is said by Q and K alone, whose rows llama.cpp has in another order. */
async function randomAdapter(path: string) {
  const { config, fingerprint } = await loadModel(path);
  const shape = modelShape(config);
  const { layers, heads, hidden, headSize } = shape;
  const random = randomStream(5);
  const numbers = (...sizes: [number, number]): NamedArray => ({
    shape: sizes,
    data: Float32Array.from({ length: sizes[0] * sizes[1] }, () => 0.3 * (random.float() - 0.5)),
  });
  const arrays = new Map<string, NamedArray>();
  for (let l = 0; l < layers; l++) {
    for (let h = 0; h < heads; h++) {
      for (const target of ["q", "k"]) {
        arrays.set(`layer${l}.head${h}.${target}.A`, numbers(2, hidden));
        arrays.set(`layer${l}.head${h}.${target}.B`, numbers(headSize, 2));
      }
    }
  }
  const lora = { mode: "full", targets: ["q", "k"], rank: 2, alpha: 4, dropout: 0 } as const;
  const adapter: Adapter = { lora, model: { layers, heads, hidden, headSize }, fingerprint, arrays };
  return { adapter, family: familyName(config), shape };
}

Deno.test({
  name: "llama.cpp with a GGUF adapter, or merged, writes the greedy text of the head modules [slow]",
  ignore: MODEL === undefined || LLAMA_CPP === undefined,
  fn: async () => {
    const folder = await Deno.makeTempDir();
    // Beside its packages: it starts itself again to try them.
    const program = await Deno.makeTempFile({ dir: LLAMA_CPP!, suffix: ".mjs" });
    try {
      await Deno.writeTextFile(program, PROGRAM);
      const { adapter, family, shape } = await randomAdapter(MODEL!);
      await saveAdapter(`${folder}/heads`, adapter);
      const { peft } = await exactRank(toPeft(adapter, family, shape.kvHeads));
      await saveGgufLora(`${folder}/adapter.gguf`, peft, family, shape);
      const theirs = async (model: string, lora = "") =>
        (JSON.parse(await run("node", [program, model, lora])) as string).trim();
      const [base, adapted] = [await theirs(MODEL!), await theirs(MODEL!, `${folder}/adapter.gguf`)];
      assertNotEquals(adapted, base, "the adapter must change the text");
      const ours = async (model: string, heads: string) => {
        const text = await run(Deno.execPath(), [
          ...["run", "-A", "--quiet", `${EXAMPLES}generate.ts`, "--model", model, "--raw"],
          ...["--adapter", heads, "--prompt", PROMPT, "--max-tokens", `${TOKENS}`],
        ]);
        return text.slice(PROMPT.length).trim();
      };
      assertEquals(await ours(MODEL!, `${folder}/heads`), adapted);
      for (const type of ["F16", "Q8_0"] as const) {
        const merged = `${folder}/${type}.gguf`;
        await saveMergedGguf(merged, { model: MODEL!, peft, type });
        assertEquals(await theirs(merged), adapted, type);
        if (type === "Q8_0") assertEquals(await ours(merged, ""), adapted);
        await Deno.remove(merged);
      }
    } finally {
      await Deno.remove(program);
      await Deno.remove(folder, { recursive: true });
    }
  },
});

/** What follows the tokens, as this project computes it. */
async function probabilities(engine: Engine, model: ModelFiles): Promise<number[]> {
  using layers = loadLayers(engine, model);
  using ends = loadEmbeddingAndHead(engine, model);
  using tape = new Tape(engine, { training: false });
  const tokens = Uint32Array.from(SOME);
  const { length } = tokens;
  const batch = { tokens, targets: tokens, mask: new Float32Array(length), batch: 1, length };
  const embedding = tape.variable(embedTokens(ends, batch), { needsGradient: false });
  const hidden = await layers.forward(tape, embedding, batch, null);
  using result = logitsOf(ends, hidden.value, Uint32Array.of(length - 1));
  const logits = await result.read();
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (x) => Math.exp(x - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((x) => x / sum);
}

/** An adapter that changes nothing. */
const NOTHING: PeftAdapter = {
  config: {
    ...{ peft_type: "LORA", r: 1, lora_alpha: 1, lora_dropout: 0, target_modules: [] },
    ...{ fan_in_fan_out: false, use_rslora: false },
  },
  arrays: new Map(),
};

const SOME = [5, 40, 41, 12, 43, 3, 45, 20, 47, 48, 9, 50];

/**
 * LLaMA 3.1 is among them: its `rope_freqs.weight` divides the angles, in llama.cpp and in this project alike.
 * transformers 5.23 reads such files without the tensor, as if the model had never been stretched.
 */
Deno.test({
  name:
    "llama.cpp computes what this project does of a GGUF file of each family, angles that are divided too [slow]",
  ignore: LLAMA_CPP === undefined,
  fn: async () => {
    const engine = await Engine.create();
    const folder = await Deno.makeTempDir();
    const program = await Deno.makeTempFile({ dir: LLAMA_CPP!, suffix: ".mjs" });
    try {
      await Deno.writeTextFile(program, PROBABILITIES);
      const names = [...FAMILY_NAMES.filter((name) => name !== "opt"), "gpt2"] as const;
      const models: ModelFiles[] = [];
      for (const name of names) {
        await writeFolder(name, folder, name === "gpt2" ? {} : LLAMA_CPP_KNOWS[name]);
        const model = await loadModelFolder(folder);
        models.push({ config: model.config, weights: new Map(model.weights) });
        await saveMergedGguf(`${folder}/${name}.gguf`, { model: folder, peft: NOTHING, type: "F32" });
      }
      const paths = names.map((name) => `${folder}/${name}.gguf`);
      const theirs = JSON.parse(
        await run("node", [program, JSON.stringify(paths), JSON.stringify(SOME)]),
      ) as [number, number][][];
      const differences: number[] = [];
      for (const [i, model] of models.entries()) {
        const ours = await probabilities(engine, model);
        differences.push(Math.max(...theirs[i]!.map(([token, p]) => Math.abs(p - ours[token]!))));
      }
      assert(differences.every((d) => d < 1e-3), `${names}: ${differences}`);
      const stretched = models[names.indexOf("llama_grouped")]!.config as LlamaConfig;
      assertEquals(stretched.rope_scaling.rope_type, "llama3");
    } finally {
      await Deno.remove(program);
      await Deno.remove(folder, { recursive: true });
    }
  },
});
