import { assert, assertEquals, assertRejects } from "@std/assert";
import { FAMILY_NAMES, familyConfig, familyFolder, type FamilyName } from "../../tests/support/families.ts";
import {
  LLAMA_CPP_KNOWS as KNOWN,
  SMALL_TOKENIZER as SMALL,
  writeFolder,
} from "../../tests/support/gguf_folders.ts";
import { ASSETS, FIXTURES } from "../../tests/support/places.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import {
  DECODER_GGUF_NAMES,
  type GgufValue,
  writeDecoderGguf,
  writeGguf,
} from "../../tests/support/write_gguf.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { dequantise } from "../files/ggml_types.ts";
import { quantise } from "../files/ggml_encode.ts";
import { GgufFile } from "../files/gguf.ts";
import type { NamedArray, NamedArrays } from "../files/named_arrays.ts";
import { loadGgufModel } from "../loading/gguf_model.ts";
import { loadGgufTokenizer } from "../loading/gguf_tokenizer.ts";
import { ggufTokenizerFiles } from "../loading/gguf_tokenizer_files.ts";
import { ggufTokenizerFields } from "../loading/tokenizer_gguf_fields.ts";
import { loadModelFolder } from "../loading/model_folder.ts";
import { loadTokenizerOf } from "../loading/model_path.ts";
import { fullName, modulesOf, type PeftAdapter } from "../lora/peft_modules.ts";
import { mergePeft } from "../lora/peft_merge.ts";
import { FAMILIES, familyName, type ModelConfig } from "../model/families.ts";
import { modelShape } from "../model/load.ts";
import { randomStream } from "../model/random.ts";
import { saveMergedFolder } from "./merged_folder.ts";
import { saveMergedGguf } from "./merged_gguf.ts";

/** Gemma's gains lose a bit on their way to 1 + w and back. */
const LOSES = { ...TOLERANCE.sum, absolute: 1e-7 };

const PIECES: readonly {
  readonly name: string;
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  readonly scores: readonly number[];
  readonly spaceFirst: boolean;
  readonly texts: readonly string[];
  readonly ids: readonly (readonly number[])[];
}[] = JSON.parse(await Deno.readTextFile(`${FIXTURES}gguf/tokenizers.json`)).sentencePiece;

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
      ModelFileError,
      "must be between -65504 and 65504",
    );
    await assertRejects(() => Deno.stat(place), Deno.errors.NotFound);
  });
});

for (const name of [...FAMILY_NAMES.filter((name) => name !== "opt"), "gpt2"] as const) {
  Deno.test(`a folder of ${name} becomes a GGUF file that is read as the same model, or is refused`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      await writeFolder(name, folder);
      const place = `${folder}/merged.gguf`;
      const save = async () => {
        const { config } = await loadModelFolder(folder);
        await saveMergedGguf(place, { model: folder, peft: adapterFor(config), type: "F32" });
      };
      const known = name === "gpt2" ? undefined : KNOWN[name];
      if (known !== undefined) {
        await assertRejects(save, ModelFileError, "for llama.cpp: current value is");
        await writeFolder(name, folder, known);
      }
      await save();
      const { config, weights } = await loadModelFolder(folder);
      const merged = mergePeft(weights, adapterFor(config), familyName(config), modelShape(config));
      const again = await loadGgufModel(place);
      const rough = (value: unknown) =>
        JSON.parse(JSON.stringify(value, (_, x) => typeof x === "number" ? Number(x.toPrecision(6)) : x));
      assertEquals(rough(again.config), rough(config));
      for (const [key, { shape, data }] of merged) {
        const found = again.weights.get(key)!;
        assertEquals(found?.shape, shape, key);
        assertClose(found.data, data, name === "gemma3" ? LOSES : TOLERANCE.exact, key);
      }
      const [own, found] = [await loadTokenizerOf(folder), await loadGgufTokenizer(place)];
      assertEquals(found.encode("ab ab<|end|>a"), own.encode("ab ab<|end|>a"));
      assertEquals([found.eos, found.bos], [own.eos, own.bos]);
      assertEquals((await GgufFile.open(place)).metadata["tokenizer.chat_template"], "{{ messages }}");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

Deno.test("a folder whose tokenizer a GGUF file cannot say is refused by name", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await writeFolder("llama", folder);
    const { config } = await loadModelFolder(folder);
    const save = () =>
      saveMergedGguf(`${folder}/merged.gguf`, { model: folder, peft: adapterFor(config), type: "F16" });
    const cases: [unknown, string][] = [
      [{ ...SMALL, normalizer: { type: "Lowercase" } }, "normalizer must be NFC or none"],
      [
        { ...SMALL, pre_tokenizer: { ...SMALL.pre_tokenizer, add_prefix_space: true } },
        "its way to cut texts must be one that GGUF files have a name for",
      ],
      [{ ...SMALL, added_tokens: [{ ...SMALL.added_tokens[0], lstrip: true }] }, "the spaces around them"],
      [{ ...SMALL, model: { ...SMALL.model, vocab: { ...SMALL.model.vocab, c: 999 } } }, "ids must be below"],
    ];
    for (const [json, rule] of cases) {
      await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(json));
      await assertRejects(save, ModelFileError, rule);
    }
    await writeFolder("opt", folder);
    const { config: opt } = await loadModelFolder(folder);
    await assertRejects(
      () => saveMergedGguf(`${folder}/opt.gguf`, { model: folder, peft: adapterFor(opt), type: "F16" }),
      ModelFileError,
      "OPT has none",
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

for (const { name, tokens, types, scores, spaceFirst, texts, ids } of PIECES.slice(0, 2)) {
  Deno.test(`merges with byte fallback, as "${name}" has them, come back as the scores of SentencePiece`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      const path = `${folder}/pieces.gguf`;
      await writeGguf(path, {
        ...{ "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens },
        ...{ "tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": types },
        "tokenizer.ggml.add_space_prefix": spaceFirst,
      }, new Map());
      for (const [file, content] of (await ggufTokenizerFiles(path)).files) {
        await Deno.writeTextFile(`${folder}/${file}`, JSON.stringify(content));
      }
      const fields = await ggufTokenizerFields(folder, tokens.length);
      const values = Object.entries(fields).map(([key, { value }]) => [key, value as GgufValue] as const);
      await writeGguf(path, Object.fromEntries(values), new Map());
      const again = await loadGgufTokenizer(path);
      texts.forEach((text, i) => assertEquals(again.encode(text), ids[i], text));
      assertEquals(fields["tokenizer.ggml.token_type"]!.value, types);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}
