/**
 * Memory of the host while a base is loaded.
 */

import { BASE_WEIGHTS, writeSafetensors } from "@edgetuner/core";
import { assertGreater, assertLessOrEqual } from "@std/assert";
import { normal } from "../support/kernels.ts";

const CHILD = new URL("../support/load_ends.ts", import.meta.url).pathname;

/** The ends of a GPT-2 with one large matrix, 246 MB. */
const SHAPE = { n_layer: 1, n_head: 8, n_embd: 512, vocab_size: 120_000, n_positions: 8 };
const LARGEST = 4 * SHAPE.n_embd * SHAPE.vocab_size;

Deno.test({
  name: "loading takes no more of the host's memory than the largest matrix and a tenth",
  // /proc says what a process took at most; on the software adapter that includes what the adapter holds.
  ignore: Deno.build.os !== "linux",
  async fn() {
    const folder = await Deno.makeTempDir();
    try {
      const d = SHAPE.n_embd;
      const table = new Float32Array(SHAPE.vocab_size * d);
      const piece = normal(10_007, 1, 0.02);
      for (let at = 0; at < table.length; at += piece.length) {
        table.set(piece.subarray(0, table.length - at), at);
      }
      const file = writeSafetensors(
        new Map([
          ["wte.weight", { shape: [SHAPE.vocab_size, d], data: table }],
          ["wpe.weight", { shape: [SHAPE.n_positions, d], data: new Float32Array(SHAPE.n_positions * d) }],
          ["ln_f.weight", { shape: [d], data: new Float32Array(d).fill(1) }],
          ["ln_f.bias", { shape: [d], data: new Float32Array(d) }],
        ]),
      );
      await Deno.writeFile(`${folder}/model.safetensors`, file);
      await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(SHAPE));
      for (const format of BASE_WEIGHTS) {
        const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
          args: ["run", "-A", "--no-check", CHILD, folder, format],
        }).output();
        if (code !== 0) throw new Error(new TextDecoder().decode(stderr));
        const { peak, adapter } = JSON.parse(new TextDecoder().decode(stdout));
        // What the adapter holds is the format's; the rest is the host's.
        assertLessOrEqual(peak - adapter, 1.1 * LARGEST, `${format}: ${peak - adapter} beside ${adapter}`);
        assertGreater(peak, LARGEST, format);
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
