import { pathToFileURL } from "node:url";
import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { ModelFileError } from "../contracts/errors.ts";
import type { NamedArray } from "./named_arrays.ts";
import { loadModelFolder } from "../loading/model_folder.ts";
import { readSafetensors, writeSafetensors } from "./safetensors.ts";
import { StoredTensors } from "./stored_tensors.ts";

const FIXTURES = new URL("../../tests/fixtures/", import.meta.url);
const BASE = new URL("parity/gpt2_base/", FIXTURES);

/** Runs a test in a folder of its own. */
async function inFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Writes a checkpoint in several files, which take turns with the tensors. */
async function writeShards(
  folder: string,
  tensors: ReadonlyMap<string, NamedArray>,
  count: number,
): Promise<Record<string, string>> {
  const map: Record<string, string> = {};
  const shards = Array.from({ length: count }, () => new Map<string, NamedArray>());
  [...tensors].forEach(([name, tensor], i) => {
    map[name] = `model-${i % count + 1}-of-${count}.safetensors`;
    shards[i % count]!.set(name, tensor);
  });
  for (const [i, shard] of shards.entries()) {
    await Deno.writeFile(`${folder}/model-${i + 1}-of-${count}.safetensors`, writeSafetensors(shard));
  }
  await writeIndex(folder, { metadata: { total_size: 1 }, weight_map: map });
  return map;
}

function writeIndex(folder: string, index: unknown): Promise<void> {
  return Deno.writeTextFile(`${folder}/model.safetensors.index.json`, JSON.stringify(index));
}

function open(folder: string): Promise<StoredTensors> {
  return StoredTensors.open(`${folder}/model.safetensors.index.json`);
}

async function refusal(wait: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => wait, ModelFileError)).message;
}

Deno.test("StoredTensors gives what readSafetensors gives, bit for bit", async () => {
  const path = new URL("safetensors/half.safetensors", FIXTURES);
  const expected = readSafetensors(await Deno.readFile(path));
  const stored = await StoredTensors.open(path);
  assertEquals(stored.size, expected.size);
  assertEquals([...stored.keys()], [...expected.keys()]);
  for (const [name, { shape, data }] of stored) {
    assertEquals(shape, expected.get(name)!.shape);
    assertEquals(new Uint32Array(data.buffer), new Uint32Array(expected.get(name)!.data.buffer), name);
    assertEquals(stored.get(name), { shape, data });
    assert(stored.get(name)!.data !== data, "values must not be kept");
  }
  assertEquals([...stored.values()], [...expected.values()]);
  const seen: string[] = [];
  stored.forEach((_, name, all) => seen.push(`${name} ${all.size}`));
  assertEquals(seen, [...expected.keys()].map((name) => `${name} ${expected.size}`));
  assertEquals([stored.has("f32"), stored.has("none"), stored.get("none")], [true, false, undefined]);
});

Deno.test("StoredTensors converts half precision in pieces", async () => {
  const count = 2 ** 20 + 3; // two whole pieces and a bit
  const header = `{"b":{"dtype":"BF16","shape":[${count}],"data_offsets":[0,${2 * count}]}}`;
  const bytes = new Uint8Array(8 + header.length + 2 * count);
  bytes.set(new TextEncoder().encode(header), 8);
  bytes[0] = header.length;
  for (let i = 0; i < 2 * count; i++) bytes[8 + header.length + i] = i * 31 + (i >> 11);
  await inFolder(async (folder) => {
    await Deno.writeFile(`${folder}/b.safetensors`, bytes);
    const { data } = (await StoredTensors.open(`${folder}/b.safetensors`)).get("b")!;
    assertEquals(new Uint32Array(data.buffer), new Uint32Array(readSafetensors(bytes).get("b")!.data.buffer));
  });
});

Deno.test("StoredTensors gives a tensor in pieces, whatever its dtype [slow]", async () => {
  await inFolder(async (folder) => {
    // More than one piece, the last one short.
    const count = 2 ** 19 + 77;
    const values = Float32Array.from({ length: count }, (_, i) => Math.fround(Math.sin(i)));
    const halves = Uint16Array.from({ length: count }, (_, i) => i & 0x7bff);
    const header = new TextEncoder().encode(JSON.stringify({
      f32: { dtype: "F32", shape: [count], data_offsets: [0, 4 * count] },
      f16: { dtype: "F16", shape: [count], data_offsets: [4 * count, 6 * count] },
      bf16: { dtype: "BF16", shape: [1, count], data_offsets: [6 * count, 8 * count] },
      none: { dtype: "F32", shape: [0, 3], data_offsets: [8 * count, 8 * count] },
    }));
    const length = new Uint8Array(8);
    new DataView(length.buffer).setBigUint64(0, BigInt(header.length), true);
    const bytes = [length, header, new Uint8Array(values.buffer), halves.buffer, halves.buffer];
    await Deno.writeFile(`${folder}/a.safetensors`, new Blob(bytes).stream());
    const tensors = await StoredTensors.open(`${folder}/a.safetensors`);
    for (const [name, { data }] of tensors) {
      let at = 0;
      for (const piece of tensors.pieces(name)) {
        assertEquals(piece.length, Math.min(2 ** 18, data.length - at));
        assertEquals(
          new Uint32Array(piece.slice().buffer),
          new Uint32Array(data.slice(at, at + piece.length).buffer),
        );
        at += piece.length;
      }
      assertEquals(at, data.length, name);
    }
    assertEquals(tensors.get("f32")!.data, values);
    assertThrows(() => [...tensors.pieces("other")], ModelFileError, '"other"');
  });
});

Deno.test("loadModelFolder reads one file and several alike", async () => {
  const single = await loadModelFolder(BASE);
  await inFolder(async (folder) => {
    await Deno.copyFile(new URL("config.json", BASE), `${folder}/config.json`);
    const tensors = readSafetensors(await Deno.readFile(new URL("model.safetensors", BASE)));
    await writeShards(folder, tensors, 3);
    const sharded = await loadModelFolder(folder);
    assertEquals(sharded.fingerprint, single.fingerprint);
    assertEquals(new Map(sharded.weights), new Map(single.weights));
    const url = pathToFileURL(`${folder}/`);
    assertEquals((await loadModelFolder(url)).fingerprint, single.fingerprint);
    await Deno.remove(`${folder}/model.safetensors.index.json`);
    assertStringIncludes(await refusal(loadModelFolder(folder)), `${folder}/model.safetensors as it must be`);
  });
});

Deno.test("StoredTensors refuses a checkpoint whose index and files do not fit", async () => {
  const w = { shape: [2], data: Float32Array.of(1, 2) };
  await inFolder(async (folder) => {
    const map = await writeShards(folder, new Map([["a", w], ["b", w]]), 2);
    assertEquals((await open(folder)).get("b"), w);

    await writeIndex(folder, { weight_map: { ...map, c: "model-1-of-2.safetensors" } });
    assertStringIncludes(await refusal(open(folder)), '"c" is not in model-1-of-2.safetensors');

    await writeIndex(folder, { weight_map: { ...map, c: "model-3-of-3.safetensors" } });
    assertStringIncludes(
      await refusal(open(folder)),
      "model-3-of-3.safetensors as it must be a readable file",
    );

    for (const file of ["../a.safetensors", "/etc/a.safetensors", "..\\a.safetensors", "a.bin", 1, null]) {
      await writeIndex(folder, { weight_map: { a: file } });
      assertStringIncludes(await refusal(open(folder)), 'the file of "a" must be a .safetensors file in the');
    }
    for (const index of [null, [], {}, { weight_map: [] }, { weight_map: "a" }]) {
      await writeIndex(folder, index);
      assertStringIncludes(await refusal(open(folder)), "weight_map must be an object");
    }
    await Deno.writeTextFile(`${folder}/model.safetensors.index.json`, "{");
    assertStringIncludes(await refusal(open(folder)), "must be a readable JSON file");
    await Deno.remove(`${folder}/model.safetensors.index.json`);
    assertStringIncludes(await refusal(open(folder)), "must be a readable JSON file");
  });
});

Deno.test("StoredTensors refuses values of a file that has changed", async () => {
  const bytes = writeSafetensors(new Map([["w", { shape: [2], data: Float32Array.of(1, 2) }]]));
  await inFolder(async (folder) => {
    const path = `${folder}/w.safetensors`;
    await Deno.writeFile(path, bytes);
    const stored = await StoredTensors.open(path);
    await Deno.truncate(path, bytes.length - 4);
    const message = () => assertThrows(() => stored.get("w"), ModelFileError).message;
    assertStringIncludes(message(), "must not change while it is used");
    await Deno.remove(path);
    assertStringIncludes(message(), "must be a readable file");
  });
});
