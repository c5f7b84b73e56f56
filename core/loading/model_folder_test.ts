import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Engine } from "@edgetuner/kernels";
import { familyConfig, familyFolder } from "../../tests/support/families.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { writeSafetensors } from "../files/safetensors.ts";
import { loadLayers } from "../model/load.ts";
import { loadModelFolder } from "./model_folder.ts";

const engine = await Engine.create();
const { weights: OF_OPT, fingerprint } = await familyFolder("opt");

/** A model whose file has other fields in its header, and more bytes at its end. */
async function withHeader(
  change: (header: Record<string, unknown>, end: number) => number,
  use: (folder: string) => Promise<void>,
) {
  const bytes = writeSafetensors(OF_OPT);
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const added = change(header, bytes.length - 8 - length);
  const text = new TextEncoder().encode(JSON.stringify(header));
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(familyConfig("opt")));
    const parts = [
      new Uint8Array(BigUint64Array.of(BigInt(text.length)).buffer),
      text,
      bytes.subarray(8 + length),
      new Uint8Array(added),
    ];
    await Deno.writeFile(`${folder}/model.safetensors`, ReadableStream.from(parts));
    await use(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("tensors of foreign types that no layer needs do not matter, nor do empty notes", async () => {
  await withHeader((header, end) => {
    header["position_ids"] = { dtype: "F64", shape: [3], data_offsets: [end, end + 24] };
    header["__metadata__"] = null;
    return 24;
  }, async (folder) => {
    const model = await loadModelFolder(folder);
    assertEquals([model.weights.has("position_ids"), model.fingerprint], [false, fingerprint]);
    loadLayers(engine, model)[Symbol.dispose]();
  });
});

Deno.test("a weight of a foreign type is named with its type", async () => {
  const name = "model.decoder.layers.1.fc1.bias";
  await withHeader((header) => {
    const entry = header[name] as { shape: number[]; dtype: string };
    header[name] = { ...entry, dtype: "F64", shape: [entry.shape[0]! / 2] };
    return 0;
  }, async (folder) => {
    const model = await loadModelFolder(folder);
    const before = engine.stats.tensors;
    const load = () => Promise.resolve().then(() => loadLayers(engine, model));
    const error = await assertRejects(load, ModelFileError);
    assertMatch(error.message, /"layers\.1\.fc1\.bias" is of the dtype F64/);
    assertEquals(engine.stats.tensors, before);
  });
});
