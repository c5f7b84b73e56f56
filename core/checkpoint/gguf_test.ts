import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { CheckpointError } from "../errors.ts";
import type { LlamaConfig } from "../model/llama.ts";
import { dequantise, GGML_TYPES, ggmlBytes } from "./ggml_types.ts";
import { loadModelFolder } from "./model_folder.ts";
import { GgufFile } from "./gguf.ts";
import { loadGgufModel } from "./gguf_model.ts";

const FILE = new URL("../../tests/fixtures/gguf/quants.gguf", import.meta.url).pathname;

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

Deno.test("damaged and unknown files are refused", async () => {
  await assertRejects(() => GgufFile.open("/nowhere.gguf"), CheckpointError, "/nowhere.gguf");
  const folder = await Deno.makeTempDir();
  try {
    const bytes = await Deno.readFile(FILE);
    const write = async (name: string, content: Uint8Array) => {
      await Deno.writeFile(`${folder}/${name}`, content);
      return `${folder}/${name}`;
    };
    const other = await write("other.gguf", Uint8Array.from({ length: 64 }, (_, i) => i));
    await assertRejects(() => GgufFile.open(other), CheckpointError, "must be a GGUF file");
    const short = await write("short.gguf", bytes.slice(0, -100));
    await assertRejects(() => GgufFile.open(short), CheckpointError, "must end within the file's");
    const header = await write("header.gguf", bytes.slice(0, 300));
    await assertRejects(() => GgufFile.open(header), CheckpointError, "must be a GGUF file");
    const file = await GgufFile.open(FILE);
    assertThrows(() => file.read("missing"), CheckpointError, '"missing"');
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  assertThrows(() => ggmlBytes("IQ2_XS", 256, 1), CheckpointError, "current value is IQ2_XS");
  assertThrows(() => ggmlBytes("Q8_0", 33, 1), CheckpointError, "whole blocks of 32");
  assertThrows(() => dequantise("Q4_0", new Uint8Array(17)), CheckpointError, "whole blocks of 18 bytes");
});

Deno.test("a LLaMA in a GGUF file is the model that it was made from", async () => {
  const fixtures = new URL("../../tests/fixtures/", import.meta.url).pathname;
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
  assertEquals(model.fingerprint.length > 20, true);
});

Deno.test("a GGUF file that is no LLaMA, or says what is not done, is refused", async () => {
  await assertRejects(() => loadGgufModel(FILE), CheckpointError, "llama.embedding_length");
});
