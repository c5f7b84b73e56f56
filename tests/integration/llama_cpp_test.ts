/**
 * llama.cpp with an exported adapter, or with a merged model, writes the text that this project writes with the head
 * modules.
 *
 * Optional: runs where EDGETUNER_GGUF is a model's GGUF file and EDGETUNER_LLAMA_CPP a folder in which
 * `npm install node-llama-cpp@3.22.1` was run; is left out elsewhere.
 */

import {
  type Adapter,
  exactRank,
  familyName,
  loadModel,
  modelShape,
  type NamedArray,
  randomStream,
  saveAdapter,
  saveGgufLora,
  saveMergedGguf,
  toPeft,
} from "@edgetuner/core";
import { assertEquals, assertNotEquals } from "@std/assert";
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
