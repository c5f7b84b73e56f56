/**
 * Memory of the host while a model is read, its fingerprint computed, and its layers and ends loaded.
 */

import {
  gpt2Config,
  initialWeights,
  loadModelFolder,
  type NamedArray,
  saveSafetensors,
} from "@edgetuner/core";
import { assertEquals, assertGreater, assertLess } from "@std/assert";
import { writeGpt2Gguf } from "../support/write_gguf.ts";
import { ROOT } from "../support/places.ts";

const CHILD = `${ROOT}tests/support/load_model.ts`;

/** A GPT-2 with one large matrix, its token embedding. */
const CONFIG = gpt2Config({ n_layer: 1, n_head: 8, n_embd: 512, vocab_size: 120_000, n_positions: 8 });
/** Bytes of that matrix in an F32 file: 246 MB. */
const LARGEST = 4 * CONFIG.n_embd * CONFIG.vocab_size;
/**
 * What a process may take beside the adapter's memory, whatever the size of the model: pieces that are under way,
 * the driver's copies of them, compiled code, garbage. A quarter of the largest matrix, where the promise is the
 * largest matrix and a tenth: no tensor is held as a whole.
 */
const HOST = LARGEST / 4;

interface Seen {
  readonly fingerprint: string;
  readonly reading: number;
  readonly loading: number;
  readonly adapter: number;
}

/** Loads a model in a process of its own, and checks the promise. */
async function load(path: string, format: string): Promise<Seen> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", CHILD, path, format],
  }).output();
  if (code !== 0) throw new Error(new TextDecoder().decode(stderr));
  const seen = JSON.parse(new TextDecoder().decode(stdout)) as Seen;
  const about = `${path} as ${format}: ${JSON.stringify(seen)}`;
  assertLess(seen.reading, HOST, about);
  // On the software adapter its memory is the process's too; the rest is the host's.
  assertLess(seen.loading - seen.adapter, HOST, about);
  assertGreater(seen.loading, seen.adapter / 2, about);
  return seen;
}

Deno.test({
  name:
    "reading, fingerprint and loading take a small part of the largest tensor of the host's memory [slow]",
  // /proc says what a process took at most.
  ignore: Deno.build.os !== "linux",
  async fn() {
    const folder = await Deno.makeTempDir();
    try {
      const weights = initialWeights(CONFIG, 1);
      const config = JSON.stringify(CONFIG);
      await Deno.mkdir(`${folder}/f32`);
      await saveSafetensors(`${folder}/f32/model.safetensors`, weights);
      await Deno.writeTextFile(`${folder}/f32/config.json`, config);
      await Deno.mkdir(`${folder}/f16`);
      await writeHalves(`${folder}/f16/model.safetensors`, weights);
      await Deno.writeTextFile(`${folder}/f16/config.json`, config);
      await writeGpt2Gguf(`${folder}/model.gguf`, CONFIG, weights);
      const { fingerprint } = await loadModelFolder(`${folder}/f32`);
      // Each kind of file, and each format, at least once.
      for (const format of ["f32", "int4"]) {
        assertEquals((await load(`${folder}/f32`, format)).fingerprint, fingerprint, format);
      }
      await load(`${folder}/f16`, "f16");
      const gguf = await load(`${folder}/model.gguf`, "f32");
      assertEquals(gguf.fingerprint, fingerprint);
      await load(`${folder}/model.gguf`, "int8");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

/** As `saveSafetensors`, in F16. */
async function writeHalves(path: string, weights: ReadonlyMap<string, NamedArray>): Promise<void> {
  const header: Record<string, unknown> = {};
  let at = 0;
  for (const [name, { shape, data }] of weights) {
    header[name] = { dtype: "F16", shape, data_offsets: [at, at + 2 * data.length] };
    at += 2 * data.length;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const values = [...weights.values()].map(({ data }) => new Uint8Array(new Float16Array(data).buffer));
  const length = new Uint8Array(BigUint64Array.of(BigInt(text.length)).buffer);
  await Deno.writeFile(path, ReadableStream.from([length, text, ...values]));
}
