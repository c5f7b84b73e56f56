import { Engine } from "@edgetuner/kernels";
import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { ModelFileError } from "../contracts/errors.ts";
import type { NamedArrays } from "../files/named_arrays.ts";
import type { LlamaConfig } from "../model/families/llama.ts";
import type { ModelConfig } from "../model/families.ts";
import { loadEmbeddingAndHead, loadLayers } from "../model/load.ts";
import { embedTokens, logitsOf } from "../model/loss.ts";
import { Tape } from "../model/tape.ts";
import { fingerprintOf, parameterCount } from "./fingerprint.ts";
import { dequantise, GGML_TYPES, ggmlBytes } from "../files/ggml_types.ts";
import { loadModelFolder } from "./model_folder.ts";
import { GgufFile } from "../files/gguf.ts";
import { loadGgufModel } from "./gguf_model.ts";
import { loadGgufTokenizer } from "./gguf_tokenizer.ts";
import { checkTokenizer, isGguf, loadModel, loadTokenizerOf, modelFolderOf } from "./model_path.ts";
import { ASSETS, FIXTURES } from "../../tests/support/places.ts";
import { type GgufValue, writeGguf } from "../../tests/support/write_gguf.ts";

const engine = await Engine.create();
const GPT2 = `${FIXTURES}gguf/gpt2.gguf`;
const BPE = `${FIXTURES}gguf/bpe.gguf`;
const FILE = `${FIXTURES}gguf/quants.gguf`;

Deno.test("every type is dequantised to the very bits of the gguf package", async () => {
  const file = await GgufFile.open(FILE);
  assertEquals(file.metadata["general.architecture"], "llama");
  assertEquals(
    [...file.tensors.keys()].filter((n) => !n.endsWith(".expected")).sort(),
    [...GGML_TYPES].sort(),
  );
  for (const type of GGML_TYPES) {
    const { shape, data } = file.read(type);
    const expected = file.read(`${type}.expected`);
    assertEquals(shape, [3, 512], type);
    assert(data.some((x) => x !== 0), type);
    assertEquals(new Uint32Array(data.buffer), new Uint32Array(expected.data.slice().buffer), type);
  }
});

Deno.test("pieces of any length are the tensor", async () => {
  const file = await GgufFile.open(FILE);
  for (const type of GGML_TYPES) {
    const { data } = file.read(type);
    for (const step of [1, 700, 512, 2 ** 20]) {
      const pieces = Array.from(file.pieces(type, step), (piece) => piece.length);
      assertEquals(pieces.reduce((a, b) => a + b), data.length);
      let at = 0;
      for (const piece of file.pieces(type, step)) {
        assertEquals(piece, data.slice(at, at + piece.length), `${type}, ${step}`);
        at += piece.length;
      }
    }
  }
  assertThrows(() => [...file.pieces("missing")], ModelFileError, '"missing"');
  const bytes = new Uint8Array(2 * 34);
  assertThrows(() => dequantise("Q8_0", bytes, new Float32Array(63)), RangeError, "64: current length is 63");
});

Deno.test("damaged and unknown files are refused", async () => {
  await assertRejects(() => GgufFile.open("/nowhere.gguf"), ModelFileError, "/nowhere.gguf");
  const folder = await Deno.makeTempDir();
  try {
    const bytes = await Deno.readFile(FILE);
    const write = async (name: string, content: Uint8Array) => {
      await Deno.writeFile(`${folder}/${name}`, content);
      return `${folder}/${name}`;
    };
    const other = await write("other.gguf", Uint8Array.from({ length: 64 }, (_, i) => i));
    await assertRejects(() => GgufFile.open(other), ModelFileError, "must be a GGUF file");
    const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    for (const [text, what] of [[pointer, "pointer of Git LFS"], ["<!DOCTYPE html>\n<html>", "web page"]]) {
      const path = await write("text.gguf", new TextEncoder().encode(text));
      await assertRejects(
        () => GgufFile.open(path),
        ModelFileError,
        `text.gguf as it must be a GGUF file: it is a ${what}`,
      );
    }
    const short = await write("short.gguf", bytes.slice(0, -100));
    await assertRejects(() => GgufFile.open(short), ModelFileError, "must end within the file's");
    const header = await write("header.gguf", bytes.slice(0, 300));
    await assertRejects(() => GgufFile.open(header), ModelFileError, "must be a GGUF file");
    const file = await GgufFile.open(FILE);
    assertThrows(() => file.read("missing"), ModelFileError, '"missing"');
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  assertThrows(() => ggmlBytes("IQ2_XS", 256, 1), ModelFileError, "current value is IQ2_XS");
  assertThrows(() => ggmlBytes("Q8_0", 33, 1), ModelFileError, "whole blocks of 32");
  assertThrows(() => dequantise("Q4_0", new Uint8Array(17)), ModelFileError, "whole blocks of 18 bytes");
});

Deno.test("a LLaMA in a GGUF file is the model that it was made from", async () => {
  const fixtures = FIXTURES;
  const model = await loadGgufModel(`${fixtures}gguf/llama.gguf`);
  const original = await loadModelFolder(`${fixtures}families/llama_grouped`);
  assertEquals([...model.weights.keys()].sort(), [...original.weights.keys()].sort());
  for (const [name, { shape, data }] of original.weights) {
    const found = model.weights.get(name)!;
    assertEquals([found.shape, found.data], [shape, data], name);
  }
  // The file was written without the original's stretched positions.
  const expected = { ...original.config as LlamaConfig, rope_scaling: { rope_type: "default" } } as const;
  assertEquals(model.config, expected);
  const inMemory = new Map(model.weights);
  assertEquals(await fingerprintOf(model.config, inMemory), model.fingerprint, "read in pieces or whole");
  assertEquals(parameterCount(model), parameterCount({ config: model.config, weights: inMemory }));
});

/** Logits of a few tokens. */
async function logits(model: { readonly config: ModelConfig; readonly weights: NamedArrays }) {
  using layers = loadLayers(engine, model);
  using ends = loadEmbeddingAndHead(engine, model);
  using tape = new Tape(engine, { training: false });
  const tokens = Uint32Array.of(3, 14, 1, 5, 9);
  const batch = { tokens, targets: tokens, mask: new Float32Array(5), batch: 1, length: 5 };
  const embedding = tape.variable(embedTokens(ends, batch), { needsGradient: false });
  const hidden = await layers.forward(tape, embedding, batch, null);
  using result = logitsOf(ends, hidden.value, tokens.map((_, i) => i));
  return await result.read();
}

Deno.test("a GPT-2 in a GGUF file is the model that it was made from [slow]", async () => {
  const model = await loadGgufModel(GPT2);
  const original = await loadModelFolder(
    new URL("../../tests/fixtures/parity/gpt2_one_head", import.meta.url),
  );
  assertEquals(model.config, original.config);
  // Values, names and shapes, read piece by piece, are those of the other file.
  assertEquals(model.fingerprint, original.fingerprint);
  for (const [name, { shape, data }] of original.weights) {
    const found = model.weights.get(name) ?? model.weights.get(`transformer.${name}`);
    if (/lm_head|attn\.(masked_)?bias$/.test(name)) continue;
    assertEquals([found?.shape, found?.data], [shape, data], name);
  }
  assertEquals(parameterCount(model), parameterCount(original));
  const tensors = engine.stats.tensors;
  assertEquals(await logits(model), await logits(original));
  assertEquals(engine.stats.tensors, tensors);
});

Deno.test("a model in several GGUF files is that of one, whichever of them is named", async () => {
  const whole = await GgufFile.open(GPT2);
  const names = [...whole.tensors.keys()];
  const folder = await Deno.makeTempDir();
  const path = (part: number, count = 3) => `${folder}/m-0000${part}-of-0000${count}.gguf`;
  const write = async (part: number, chosen: readonly string[], more: Record<string, GgufValue> = {}) => {
    const fields = part === 1 ? whole.metadata as Record<string, GgufValue> : {};
    const known = Object.entries(fields).filter(([, value]) => typeof value !== "bigint");
    await writeGguf(path(part), {
      ...Object.fromEntries(known),
      "general.architecture": "gpt2",
      "split.no": part - 1,
      "split.count": 3,
      "split.tensors.count": names.length,
      ...more,
    }, new Map(chosen.map((name) => [name, whole.read(name)])));
  };
  try {
    await write(1, names.slice(0, 5));
    await write(2, names.slice(5, 9));
    await write(3, names.slice(9));
    const { fingerprint } = await loadGgufModel(GPT2);
    assertEquals((await loadGgufModel(path(1))).fingerprint, fingerprint);
    assertEquals((await loadGgufModel(path(3))).fingerprint, fingerprint);
    await write(2, names.slice(5, 8));
    await assertRejects(() => loadGgufModel(path(1)), ModelFileError, "tensors together: they have");
    await write(2, names.slice(4, 9));
    await assertRejects(() => loadGgufModel(path(1)), ModelFileError, "must be there once");
    await Deno.remove(path(2));
    await assertRejects(() => loadGgufModel(path(1)), ModelFileError, "m-00002-of-00003.gguf");
    await Deno.rename(path(1), `${folder}/other.gguf`);
    await assertRejects(
      () => loadGgufModel(`${folder}/other.gguf`),
      ModelFileError,
      "a part of a model in 3 files must be named NAME-00001-of-00003.gguf",
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a GGUF file of another architecture is refused; another LM head is obeyed", async () => {
  const bytes = await Deno.readFile(GPT2);
  const at = (text: string, from = 0) => {
    const wanted = new TextEncoder().encode(text);
    return bytes.findIndex((_, i) => i >= from && wanted.every((byte, k) => bytes[i + k] === byte));
  };
  const file = await Deno.makeTempFile({ suffix: ".gguf" });
  try {
    const changed = bytes.slice();
    changed.set(new TextEncoder().encode("bert"), at("gpt2", at("general.architecture")));
    await Deno.writeFile(file, changed);
    const error = await assertRejects(() => loadGgufModel(file), ModelFileError, '"bert"');
    assert(
      error.message.includes("(of other models give a folder with safetensors)"),
      error.message,
    );
    const { tensors } = await GgufFile.open(GPT2);
    const head = bytes.slice();
    head[tensors.get("output.weight")!.offset + 2]! ^= 1;
    await Deno.writeFile(file, head);
    const untied = await loadGgufModel(file);
    assertEquals("tie_word_embeddings" in untied.config && untied.config.tie_word_embeddings, false);
    assert(untied.weights.has("lm_head.weight"));
    assertNotEquals(await logits(untied), await logits(await loadGgufModel(GPT2)));
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("a GGUF file that is no LLaMA, or says what is not done, is refused", async () => {
  await assertRejects(() => loadGgufModel(FILE), ModelFileError, "llama.embedding_length");
  // Keys and values of different sizes: the name of a field of equal length is written over another's.
  const bytes = await Deno.readFile(BPE);
  const [from, to] = ["llama.rope.dimension_count", "llama.attention.key_length"]
    .map((name) => new TextEncoder().encode(name));
  const at = bytes.findIndex((_, i) => from!.every((byte, k) => bytes[i + k] === byte));
  bytes.set(to!, at);
  const value = at + to!.length + 4;
  assertEquals(bytes[value], 8);
  bytes[value] = 16;
  const file = await Deno.makeTempFile({ suffix: ".gguf" });
  try {
    await Deno.writeFile(file, bytes);
    await assertRejects(
      () => loadGgufModel(file),
      ModelFileError,
      "value_length must be 16: current value is 8",
    );
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("the tokenizer of a GGUF file is what its tokens and merges say", async () => {
  const tokenizer = await loadGgufTokenizer(BPE);
  assertEquals([tokenizer.vocabSize, tokenizer.eos], [266, 265]);
  // 256 bytes, then the merges in order: "Ġthe" is 258, "Ġfood" 264.
  assertEquals(tokenizer.encode(" the food"), [258, 264]);
  assertEquals(tokenizer.encode("a"), [97]);
  assertEquals(tokenizer.encode("<end>"), [265]);
  const text = "Ünd 我 🍲 the food.\n\tthen";
  assertEquals(tokenizer.decode(tokenizer.encode(text)), text);
  const model = await loadGgufModel(BPE);
  checkTokenizer(tokenizer, model);
  assertThrows(
    () => checkTokenizer({ ...tokenizer, vocabSize: 267, ordinarySize: 267 }, model),
    ModelFileError,
    "below the model's vocabulary, 266: current value is 266",
  );
});

/** A copy of a file with more metadata; what is added fills whole blocks of 32 bytes, as tensors are aligned. */
function withMetadata(
  file: Uint8Array,
  entries: readonly (readonly [name: string, value: boolean | number])[],
) {
  const encoded = entries.map(([name, value]) => {
    const text = new TextEncoder().encode(name);
    const isFlag = typeof value === "boolean";
    const bytes = new Uint8Array(8 + text.length + 4 + (isFlag ? 1 : 4));
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, BigInt(text.length), true);
    bytes.set(text, 8);
    // Types of GGUF: 7 is a flag, 4 an unsigned integer.
    view.setUint32(8 + text.length, isFlag ? 7 : 4, true);
    if (isFlag) view.setUint8(12 + text.length, value ? 1 : 0);
    else view.setUint32(12 + text.length, value, true);
    return bytes;
  });
  const size = encoded.reduce((sum, { length }) => sum + length, 0);
  // A flag with a name of the right length fills the block.
  const filler = 32 + (32 - (size + 13) % 32) % 32;
  const padding = new Uint8Array(13 + filler);
  new DataView(padding.buffer).setBigUint64(0, BigInt(filler), true);
  padding.fill(0x78, 8, 8 + filler);
  new DataView(padding.buffer).setUint32(8 + filler, 7, true);
  const parts = [...encoded, padding];
  const bytes = new Uint8Array(file.length + parts.reduce((sum, { length }) => sum + length, 0));
  bytes.set(file.subarray(0, 24));
  const view = new DataView(bytes.buffer);
  view.setBigUint64(16, view.getBigUint64(16, true) + BigInt(parts.length), true);
  let at = 24;
  for (const part of [...parts, file.subarray(24)]) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

Deno.test("a GGUF file says whether a token begins texts", async () => {
  assertEquals((await loadGgufTokenizer(BPE)).bos, null);
  const file = await Deno.readFile(BPE);
  const path = await Deno.makeTempFile({ suffix: ".gguf" });
  const bosOf = async (...entries: (readonly [string, boolean | number])[]) => {
    await Deno.writeFile(path, withMetadata(file, entries));
    assertEquals((await loadGgufModel(path)).fingerprint, (await loadGgufModel(BPE)).fingerprint);
    return (await loadGgufTokenizer(path)).bos;
  };
  const [adds, id] = ["tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id"];
  try {
    assertEquals(await bosOf([adds, true], [id, 265]), 265);
    assertEquals(await bosOf([adds, true], [id, 7]), 7);
    assertEquals(await bosOf([adds, false], [id, 265]), null);
    assertEquals(await bosOf([id, 265]), null);
    for (const entries of [[[adds, true]], [[adds, true], [id, 266]]] as const) {
      await assertRejects(
        () => bosOf(...entries),
        ModelFileError,
        "tokenizer.ggml.bos_token_id must be a token where add_bos_token is true",
      );
    }
  } finally {
    await Deno.remove(path);
  }
});

Deno.test("loadTokenizerOf takes what is named, what lies beside a GGUF file, or what is in it", async () => {
  const tiny = `${ASSETS}tiny_gpt2`;
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/model.GGUF`;
    await Deno.copyFile(BPE, path);
    assertEquals([isGguf(path), isGguf(folder), modelFolderOf(path)], [true, false, folder]);
    assertEquals(modelFolderOf("model.gguf"), ".");
    assertEquals((await loadTokenizerOf(path)).vocabSize, 266);
    assertEquals((await loadTokenizerOf(path, tiny)).vocabSize, 1024);
    assertEquals((await loadTokenizerOf(path, `${tiny}/tokenizer.json`)).vocabSize, 1024);
    await Deno.copyFile(`${tiny}/tokenizer.json`, `${folder}/tokenizer.json`);
    assertEquals((await loadTokenizerOf(path)).vocabSize, 1024);
    assertEquals((await loadModel(path)).fingerprint, (await loadGgufModel(BPE)).fingerprint);
    await Deno.rename(`${folder}/tokenizer.json`, `${folder}/other.json`);
    assertEquals((await loadTokenizerOf(path, `${folder}/other.json`)).vocabSize, 1024);
    await assertRejects(() => loadTokenizerOf(path, `${folder}/none.json`), ModelFileError, "none.json");
    await assertRejects(
      () => loadTokenizerOf(BPE.replace("bpe", "llama")),
      ModelFileError,
      "give the model's tokenizer.json instead",
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
