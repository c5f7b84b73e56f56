import type { InputModeName } from "./input_modes.ts";
import { Engine } from "@edgetuner/kernels";
import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { tinyHeads, tinySettings } from "../../tests/support/tiny_model.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { writeSafetensors } from "../files/safetensors.ts";
import {
  type Adapter,
  adapterOf,
  joinAdapters,
  loadAdapter,
  loadIntoModules,
  readAdapter,
  saveAdapter,
} from "./adapter.ts";
import { HeadModules } from "./head_modules.ts";

const engine = await Engine.create();
const settings = tinySettings("slice", 1);

/** Head modules with a B that is not zero. */
async function trained(first: number, count: number, mode: InputModeName = "slice"): Promise<HeadModules> {
  const modules = tinyHeads(engine, tinySettings(mode, 1), { first, count });
  modules.load(
    (await modules.weights()).map((heads, l) =>
      heads.map((targets, i) =>
        targets.map(({ a, b }, k) => ({ a, b: b.map((_, j) => l + (first + i) / 10 + k / 100 + j / 1000) }))
      )
    ),
  );
  return modules;
}

async function inTempDir(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "adapter test " });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const written = await (async () => {
  using modules = await trained(0, 4);
  const adapter = await adapterOf(modules, "base model");
  let bytes = new Uint8Array();
  await inTempDir(async (folder) => {
    await saveAdapter(folder, adapter);
    bytes = await Deno.readFile(`${folder}/adapter_model.safetensors`);
  });
  return { adapter, bytes };
})();

Deno.test({
  name: "an adapter is read from memory where there are no files, and damaged bytes are refused",
  permissions: "none",
  async fn() {
    assertEquals(await readAdapter(written.bytes), written.adapter);
    const short = await assertRejects(() => readAdapter(written.bytes.subarray(0, 900)), ModelFileError);
    assertStringIncludes(short.message, "the adapter");
    const broken = written.bytes.slice();
    new DataView(broken.buffer).setFloat32(broken.length - 4, NaN, true);
    await assertRejects(() => readAdapter(broken, "mine"), ModelFileError, "mine");
    await assertRejects(
      () => readAdapter(writeSafetensors(written.adapter.arrays)),
      ModelFileError,
      'its header must have "edgetuner.config"',
    );
  },
});

Deno.test("an adapter is saved and loaded bit by bit, in all modes", async () => {
  for (const mode of ["slice", "full", "core"] as const) {
    await inTempDir(async (folder) => {
      using modules = await trained(0, 4, mode);
      const adapter = await adapterOf(modules, "base model");
      if (mode === "core") {
        assertEquals(adapter.arrays.size, 3 * 4 * 2);
        assertEquals(adapter.arrays.get("layer2.head3.v.R")!.shape, [4, 4]);
      } else {
        assertEquals(adapter.arrays.size, 3 * 4 * 2 * 2);
        assertEquals(adapter.arrays.get("layer2.head3.v.A")!.shape, [4, mode === "slice" ? 12 : 48]);
        assertEquals(adapter.arrays.get("layer0.head0.q.B")!.shape, [12, 4]);
      }
      await saveAdapter(`${folder}/not/yet/there`, adapter);
      const loaded = await loadAdapter(`${folder}/not/yet/there`);
      assertEquals(loaded, adapter);
      using fresh = tinyHeads(engine, tinySettings(mode, 1));
      loadIntoModules(loaded, fresh);
      assertEquals(await fresh.weights(), await modules.weights());
    });
  }
});

Deno.test("an adapter of heads of a size of their own says it, others do not", async () => {
  await inTempDir(async (folder) => {
    const options = { ...settings, layers: 1, heads: 4, hidden: 48, range: { first: 0, count: 4 } };
    using usual = new HeadModules(engine, { ...options, headSize: 12 });
    using wide = new HeadModules(engine, { ...options, headSize: 16 });
    const adapter = await adapterOf(wide);
    assertEquals(adapter.model, { layers: 1, heads: 4, hidden: 48, headSize: 16 });
    assertEquals((await adapterOf(usual)).model, { layers: 1, heads: 4, hidden: 48 });
    assertEquals(adapter.arrays.get("layer0.head0.q.A")!.shape, [4, 12]);
    assertEquals(adapter.arrays.get("layer0.head0.q.B")!.shape, [16, 4]);
    await saveAdapter(folder, adapter);
    const loaded = await loadAdapter(folder);
    assertEquals(loaded, adapter);
    loadIntoModules(loaded, wide);
    assertThrows(() => loadIntoModules(loaded, usual), ModelFileError, '"headSize":16');
  });
});

Deno.test("parts of several devices are joined, in any order, and loaded by any other partition", async () => {
  using whole = await trained(0, 4);
  using a = await trained(0, 2);
  using b = await trained(2, 1);
  using c = await trained(3, 1);
  const parts = [await adapterOf(c), await adapterOf(a, "base model"), await adapterOf(b)];
  const joined = joinAdapters(parts);
  const expected = await adapterOf(whole, "base model");
  const sorted = ({ arrays }: Adapter) => [...arrays].sort(([x], [y]) => x < y ? -1 : 1);
  assertEquals(sorted(joined), sorted(expected));
  assertEquals(joined.fingerprint, "base model");
  using other = tinyHeads(engine, settings, { first: 1, count: 2 });
  loadIntoModules(joined, other);
  const all = await whole.weights();
  assertEquals(await other.weights(), all.map((heads) => heads.slice(1, 3)));
});

Deno.test("parts that do not belong together are not joined", async () => {
  using a = await trained(0, 2);
  using b = await trained(1, 1);
  using full = await trained(2, 2, "full");
  const part = await adapterOf(a);
  assertThrows(() => joinAdapters([]), ModelFileError, "one part");
  const overlapping = await adapterOf(b);
  assertThrows(() => joinAdapters([part, overlapping]), ModelFileError, "layer0.head1.q.A");
  const other = await adapterOf(full);
  assertThrows(() => joinAdapters([part, other]), ModelFileError, "must be equal");
});

Deno.test("an adapter that does not fit is not loaded into head modules", async () => {
  using modules = await trained(0, 2);
  const adapter = await adapterOf(modules);
  using missing = tinyHeads(engine, settings, { first: 1, count: 2 });
  assertThrows(() => loadIntoModules(adapter, missing), ModelFileError, "layer0.head2.q.A");
  using full = tinyHeads(engine, tinySettings("full", 1), { first: 0, count: 2 });
  assertThrows(() => loadIntoModules(adapter, full), ModelFileError, "must be equal");
  const narrow = { ...adapter, model: { ...adapter.model, heads: 8 } };
  assertThrows(() => loadIntoModules(narrow, modules), ModelFileError, "must be equal");
  const before = await modules.weights();
  const short = new Map(adapter.arrays).set("layer1.head1.v.B", { shape: [1], data: new Float32Array(1) });
  assertThrows(() => loadIntoModules({ ...adapter, arrays: short }, modules), TypeError);
  assertEquals(before.length, 3);
});

Deno.test("a folder that is no adapter is a ModelFileError that names the file", async () => {
  await inTempDir(async (folder) => {
    await assertRejects(() => loadAdapter(folder), ModelFileError, "adapter_config.json");
    using modules = await trained(0, 1);
    await saveAdapter(folder, await adapterOf(modules));
    const path = `${folder}/adapter_config.json`;
    const right = JSON.parse(await Deno.readTextFile(path));
    const wrong = [
      "{",
      "null",
      JSON.stringify({ ...right, format: "peft" }),
      JSON.stringify({ ...right, formatVersion: 2 }),
      JSON.stringify({ ...right, model: undefined }),
      JSON.stringify({ ...right, lora: { ...right.lora, rank: 0 } }),
    ];
    for (const text of wrong) {
      await Deno.writeTextFile(path, text);
      await assertRejects(() => loadAdapter(folder), ModelFileError, "adapter_config.json");
    }
    await Deno.writeTextFile(path, JSON.stringify(right));
    await Deno.writeFile(`${folder}/adapter_model.safetensors`, Uint8Array.of(1, 2, 3));
    await assertRejects(() => loadAdapter(folder), ModelFileError, "adapter_model.safetensors");
    await Deno.remove(`${folder}/adapter_model.safetensors`);
    await assertRejects(() => loadAdapter(folder), ModelFileError, "adapter_model.safetensors");
  });
});
