import { assertEquals } from "@std/assert";
import { familyConfig, familyFolder } from "../../tests/support/families.ts";
import type { NamedArray, NamedArrays } from "../files/named_arrays.ts";
import { writeSafetensors } from "../files/safetensors.ts";
import { parameterCount } from "./fingerprint.ts";
import { loadModelFolder, type ModelFolder } from "./model_folder.ts";

const { weights: OF_QWEN3 } = await familyFolder("qwen3"); // tied
const EMBEDDING = "model.embed_tokens.weight";
const HEAD = "lm_head.weight";

/** A model in a folder with these weights. */
async function folderOf(weights: NamedArrays): Promise<ModelFolder> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(familyConfig("qwen3")));
    await Deno.writeFile(`${folder}/model.safetensors`, writeSafetensors(weights));
    const read = await loadModelFolder(folder);
    return { ...read, weights: new Map(read.weights) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const plain = new Map(OF_QWEN3);
const embedding = plain.get(EMBEDDING)!;
const other: NamedArray = { ...embedding, data: embedding.data.map((x, i) => i === 70 ? x + 1 : x) };
const tiedOf = ({ config }: ModelFolder) => "tie_word_embeddings" in config && config.tie_word_embeddings;

Deno.test("a copy of the token embedding is no LM head of its own", async () => {
  const original = await folderOf(plain);
  const copied = await folderOf(new Map([...plain, [HEAD, embedding]]));
  assertEquals([tiedOf(copied), copied.fingerprint, copied.notices], [true, original.fingerprint, undefined]);
});

Deno.test("an LM head that differs is used, whatever the configuration says", async () => {
  const original = await folderOf(plain);
  const untied = await folderOf(new Map([...plain, [HEAD, other]]));
  assertEquals([tiedOf(untied), untied.fingerprint === original.fingerprint], [false, false]);
  assertEquals(untied.notices, [
    'The LM head of the model is a weight of its own: tie_word_embeddings is true, but "lm_head.weight" differs from "model.embed_tokens.weight"',
  ]);
  assertEquals(parameterCount(untied), parameterCount(original) + embedding.data.length);
  const { shape: [rows, columns], data } = embedding;
  const shorter = { shape: [rows! - 1, columns!], data: data.subarray(columns!) };
  assertEquals(
    tiedOf(await folderOf(new Map([...plain, [HEAD, shorter]]))),
    false,
    "its shape is checked later",
  );
});

Deno.test("an LM head alone is the token embedding, where they are tied", async () => {
  const original = await folderOf(plain);
  const alone = new Map(plain);
  alone.delete(EMBEDDING);
  const found = await folderOf(alone.set(HEAD, embedding));
  assertEquals([tiedOf(found), found.fingerprint], [true, original.fingerprint]);
  assertEquals([found.weights.has(HEAD), found.weights.get(EMBEDDING)!.data], [false, embedding.data]);
});
