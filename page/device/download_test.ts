import { assertEquals, assertRejects } from "@std/assert";
import { adapterFiles, DEFAULT_LORA, loadPeft, memoryStore, type NamedArray } from "@edgetuner/core";
import { unzipSync } from "fflate";
import { downloadOf } from "./download.ts";

const lora = { ...DEFAULT_LORA, mode: "slice", targets: ["q"], rank: 2, dropout: 0 } as const;
const model = { layers: 1, hidden: 16, heads: 2, headSize: 8 };

Deno.test("what a browser keeps is taken away as a PEFT adapter that works by itself, and as files to join", async () => {
  const filled = (shape: readonly number[], value: number): NamedArray => ({
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value),
  });
  const arrays = new Map([
    ["layer0.head1.q.A", filled([2, 8], 0.5)],
    ["layer0.head1.q.B", filled([8, 2], 0.25)],
  ]);
  const files = await adapterFiles({ lora, model, fingerprint: "", arrays }, { run: "r", steps: 3 });
  const store = memoryStore();
  const base = { name: "a model", family: "gpt2", kvHeads: 2 };
  await assertRejects(() => downloadOf(store, "heads", base), Error, "keeps no heads");
  await store.write("heads.safetensors", files.get("adapter_model.safetensors")!);
  await store.write("heads.json", files.get("adapter_config.json")!);
  assertEquals(unzipSync((await downloadOf(store, "heads", base)).bytes), Object.fromEntries(files));
  await assertRejects(() => downloadOf(store, "peft", null), Error, "what model");
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, bytes] of Object.entries(unzipSync((await downloadOf(store, "peft", base)).bytes))) {
      await Deno.writeFile(`${folder}/${name}`, bytes);
    }
    const peft = await loadPeft(folder);
    assertEquals([peft.config.r, [...peft.arrays.values()].map(({ shape }) => shape)], [4, [[4, 16], [
      48,
      4,
    ]]]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
