import { assert, assertEquals, assertRejects } from "@std/assert";
import { familyConfig, familyFolder, type FamilyName } from "../../tests/support/families.ts";
import { ASSETS, FIXTURES } from "../../tests/support/places.ts";
import { DECODER_GGUF_NAMES, writeDecoderGguf } from "../../tests/support/write_gguf.ts";
import { CheckpointError } from "../contracts/errors.ts";
import { dequantise } from "../files/ggml_types.ts";
import { quantise } from "../files/ggml_encode.ts";
import { GgufFile } from "../files/gguf.ts";
import type { NamedArray, NamedArrays } from "../files/named_arrays.ts";
import { loadGgufModel } from "../loading/gguf_model.ts";
import { loadModelFolder } from "../loading/model_folder.ts";
import { loadTokenizerOf } from "../loading/model_path.ts";
import { fullName, modulesOf, type PeftAdapter } from "../lora/peft_modules.ts";
import { mergePeft } from "../lora/peft_merge.ts";
import { FAMILIES, familyName, type ModelConfig } from "../model/families.ts";
import { modelShape } from "../model/load.ts";
import { randomStream } from "../model/random.ts";
import { saveMergedFolder } from "./merged_folder.ts";
import { saveMergedGguf } from "./merged_gguf.ts";

/** An adapter of rank 2 that changes all of Q, K and V in the first layer, and nothing else. */
function adapterFor(config: ModelConfig): PeftAdapter {
  const [family, shape] = [familyName(config), modelShape(config)];
  const random = randomStream(3);
  const matrix = (rows: number, columns: number): NamedArray => ({
    shape: [rows, columns],
    data: Float32Array.from({ length: rows * columns }, () => random.float() - 0.5),
  });
  const arrays = new Map<string, NamedArray>();
  for (const { name, outputs } of modulesOf(family, shape, 0)) {
    arrays.set(fullName(name, "A"), matrix(2, shape.hidden));
    arrays.set(fullName(name, "B"), matrix(outputs, 2));
  }
  const more = { lora_dropout: 0, target_modules: [], fan_in_fan_out: FAMILIES[family].storesInOut };
  return { config: { peft_type: "LORA", r: 2, lora_alpha: 4, use_rslora: false, ...more }, arrays };
}

/** Runs with a new folder and a GGUF file of a fixture in it. */
async function withGguf(name: string, run: (path: string, folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  const path = `${folder}/base.gguf`;
  try {
    if (name.endsWith(".gguf")) await Deno.copyFile(`${FIXTURES}gguf/${name}`, path);
    else {
      const { weights } = await familyFolder(name as FamilyName);
      const config = familyConfig(name as FamilyName);
      const size = Number(config.head_dim ?? Number(config.hidden_size) / Number(config.num_attention_heads));
      await writeDecoderGguf(path, name, { weights, config }, {
        ...{ "attention.key_length": size, "attention.value_length": size },
        ...(name === "gemma3" ? { "attention.sliding_window": 5 } : {}),
      });
    }
    await run(path, folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function requireEqual(found: NamedArrays, wanted: NamedArrays): void {
  assertEquals([...found.keys()].sort(), [...wanted.keys()].sort());
  for (const [name, { shape, data }] of wanted) assertEquals(found.get(name), { shape, data }, name);
}

for (const name of ["gpt2.gguf", ...Object.keys(DECODER_GGUF_NAMES)]) {
  Deno.test(`${name} with an adapter merged in is the same model as a GGUF file and as a folder`, async () => {
    await withGguf(name, async (path, folder) => {
      const base = await loadGgufModel(path);
      const peft = adapterFor(base.config);
      const merged = mergePeft(base.weights, peft, familyName(base.config), modelShape(base.config));
      await saveMergedGguf(`${folder}/merged.gguf`, { model: path, peft, type: "F32" });
      const again = await loadGgufModel(`${folder}/merged.gguf`);
      assertEquals(again.config, base.config);
      assert(again.fingerprint !== base.fingerprint, "the adapter must change the model");
      requireEqual(again.weights, merged);
      const { fields } = await GgufFile.open(path);
      const written = await GgufFile.open(`${folder}/merged.gguf`);
      for (const [field, value] of Object.entries(fields)) {
        if (!/^(version|kv_count|general\.(file_type|quantization_version|alignment)$)/.test(field)) {
          assertEquals(written.fields[field], value, field);
        }
      }
      // The tokenizer of another model: these files have none.
      const tokenizer = `${ASSETS}tiny_gpt2/tokenizer.json`;
      await Deno.mkdir(`${folder}/hf`);
      await saveMergedFolder(`${folder}/hf`, { model: path, tokenizer, weights: merged });
      const read = await loadModelFolder(`${folder}/hf`);
      assertEquals(read.config, base.config);
      assertEquals(read.fingerprint, again.fingerprint);
      assertEquals(await Deno.readFile(`${folder}/hf/tokenizer.json`), await Deno.readFile(tokenizer));
    });
  });
}

Deno.test("a merged GGUF file has the type that was asked for, norms in F32, and rows that are no blocks in F16", async () => {
  await withGguf("gpt2.gguf", async (path, folder) => {
    const { config, weights } = await loadGgufModel(path);
    const peft = adapterFor(config);
    const merged = mergePeft(weights, peft, "gpt2", modelShape(config));
    for (const [type, number] of [["F16", 1], ["Q8_0", 7]] as const) {
      await saveMergedGguf(`${folder}/merged.gguf`, { model: path, peft, type });
      const file = await GgufFile.open(`${folder}/merged.gguf`);
      assertEquals(file.metadata["general.file_type"], number);
      for (const tensor of file.tensors.values()) {
        const isMatrix = tensor.shape.length === 2 && tensor.name !== "position_embd.weight";
        const fits = tensor.shape.at(-1)! % (type === "Q8_0" ? 32 : 1) === 0;
        assertEquals(tensor.type, !isMatrix ? "F32" : fits ? type : "F16", tensor.name);
      }
      const { data } = file.read("blk.0.attn_qkv.weight");
      const { shape: [rows, columns], data: exact } = merged.get("transformer.h.0.attn.c_attn.weight")!;
      const turned = Float32Array.from(exact, (_, i) => exact[i % rows! * columns! + Math.floor(i / rows!)]!);
      const own = file.tensors.get("blk.0.attn_qkv.weight")!.type as "F16" | "Q8_0";
      assertEquals(data, dequantise(own, quantise(own, turned)));
    }
  });
});

Deno.test("a merged folder of a GGUF base has the tokenizer and the template of the file", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const model = `${FIXTURES}gguf/bpe.gguf`;
    const base = await loadGgufModel(model);
    await saveMergedFolder(folder, { model, weights: base.weights });
    const [own, written] = [await loadTokenizerOf(model), await loadTokenizerOf(folder)];
    const text = "Kivo is a cheap pub, isn't it? 1234 <|end|>";
    assertEquals(written.encode(text), own.encode(text));
    assertEquals([written.eos, written.bos, written.ends], [own.eos, own.bos, own.ends]);
    const config = JSON.parse(await Deno.readTextFile(`${folder}/config.json`));
    assertEquals(config.architectures.length, 1);
    assertEquals(config.eos_token_id, own.eos);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("values that are not finite, or too large for the type, are no merged file", async () => {
  await withGguf("gpt2.gguf", async (path, folder) => {
    const { config } = await loadGgufModel(path);
    const peft = adapterFor(config);
    const large = { ...peft, config: { ...peft.config, lora_alpha: 1e7 } };
    const place = `${folder}/merged.gguf`;
    await assertRejects(
      () => saveMergedGguf(place, { model: path, peft: large, type: "F16" }),
      CheckpointError,
      "must be between -65504 and 65504",
    );
    await assertRejects(() => Deno.stat(place), Deno.errors.NotFound);
  });
});
