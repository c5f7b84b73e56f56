import { assert, assertEquals } from "@std/assert";
import {
  type Adapter,
  certifyExport,
  loadModelFolder,
  modelShape,
  type NamedArray,
  randomStream,
  saveAdapter,
  toPeft,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";

const engine = await Engine.create();
const FIXTURES = new URL("../fixtures/", import.meta.url).pathname;
const EXAMPLES = new URL("../../examples/", import.meta.url).pathname;
const SAMPLES = [[1, 5, 9, 30, 2], [7], [3, 3, 60, 12, 44, 8, 1, 0, 2]];

/** Head modules with random A and B. */
async function randomAdapter(folder: string, mode: "slice" | "full", rank = 4): Promise<Adapter> {
  const model = await loadModelFolder(folder);
  const { layers, heads, hidden, headSize } = modelShape(model.config);
  const random = randomStream(5);
  const numbers = (rows: number, columns: number): NamedArray => ({
    shape: [rows, columns],
    data: Float32Array.from({ length: rows * columns }, () => 0.2 * (random.float() - 0.5)),
  });
  const arrays = new Map<string, NamedArray>();
  for (let l = 0; l < layers; l++) {
    for (let h = 0; h < heads; h++) {
      for (const target of ["q", "v"]) {
        arrays.set(`layer${l}.head${h}.${target}.A`, numbers(rank, mode === "slice" ? headSize : hidden));
        arrays.set(`layer${l}.head${h}.${target}.B`, numbers(headSize, rank));
      }
    }
  }
  return {
    lora: { mode, targets: ["q", "v"], rank, alpha: 8, dropout: 0 },
    model: { layers, heads, hidden },
    fingerprint: model.fingerprint,
    arrays,
  };
}

const MODELS = [
  ["parity/gpt2_base", "gpt2"],
  ["families/llama_grouped", "llama"],
  ["families/opt", "opt"],
] as const;

for (const [name, family] of MODELS) {
  for (const mode of ["slice", "full"] as const) {
    Deno.test(`an export of ${name} in ${mode} mode is certified, a wrong one is not`, async () => {
      const folder = `${FIXTURES}${name}`;
      const model = await loadModelFolder(folder);
      const adapter = await randomAdapter(folder, mode);
      const peft = toPeft(adapter, family, modelShape(model.config).kvHeads);
      const options = { engine, model, family, adapter, samples: SAMPLES };
      const before = engine.stats.tensors;
      const right = await certifyExport({ ...options, peft });
      assertEquals(engine.stats.tensors, before);
      assertEquals([right.holds, right.samples, right.tokens], [true, 3, 15]);
      assert(right.effect > 1e-3 * right.largestLogit, `the adapter must change logits: ${right.effect}`);
      assert(right.imported! < 1e-5 * right.largestLogit, `${right.imported}`);
      const [first, array] = [...peft.arrays].find(([key]) => key.endsWith("lora_B.weight"))!;
      const spoilt = new Map(peft.arrays).set(first, { ...array, data: array.data.map((x) => 1.01 * x) });
      const wrong = await certifyExport({ ...options, peft: { ...peft, arrays: spoilt } });
      assertEquals(wrong.holds, false);
    });
  }
}

async function run(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${EXAMPLES}export.ts`, ...args],
    env: { NO_COLOR: "1" },
  }).output();
  const decoder = new TextDecoder();
  return { code, out: decoder.decode(stdout), err: decoder.decode(stderr) };
}

Deno.test("export.ts writes, merges, reduces and imports, each with a certificate", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const adapter = await randomAdapter(`${EXAMPLES}tiny_gpt2`, "full");
    await saveAdapter(`${folder}/heads`, adapter);
    const exported = await run(
      ...["--adapter", `${folder}/heads`, "--samples", "2"],
      ...["--peft", `${folder}/peft`, "--merge", `${folder}/merged`],
    );
    assertEquals(exported.code, 0, exported.err);
    for (const place of ["peft", "merged"]) {
      const certificate = JSON.parse(await Deno.readTextFile(`${folder}/${place}/certificate.json`));
      assertEquals([certificate.holds, certificate.samples], [true, 2]);
    }
    // The merged model is a model folder like any other, and imported heads export again.
    await loadModelFolder(`${folder}/merged`);
    const imported = await run("--import", `${folder}/peft`, "--adapter", `${folder}/imported`);
    assertEquals(imported.code, 0, imported.err);
    const reduced = await run(
      ...["--adapter", `${folder}/heads`, "--samples", "2", "--peft", `${folder}/small`, "--rank", "8"],
    );
    assertEquals(reduced.code, 0, reduced.err);
    const { reduction } = JSON.parse(await Deno.readTextFile(`${folder}/small/certificate.json`));
    assert(reduction.error > 0.01 && reduction.error < 1, `${reduction.error}`);
    const refused = await run(
      ...["--adapter", `${folder}/heads`, "--samples", "1", "--peft", `${folder}/never`, "--tolerance", "0"],
    );
    assertEquals(refused.code, 1);
    assert(refused.err.includes("Nothing was written"), refused.err);
    assertEquals(await Deno.stat(`${folder}/never`).then(() => true, () => false), false);
    assertEquals((await run()).code, 2);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
