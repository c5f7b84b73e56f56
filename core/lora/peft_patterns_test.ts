import { Engine } from "@edgetuner/kernels";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { familyFolder } from "../../tests/support/families.ts";
import { FIXTURES } from "../../tests/support/places.ts";
import { ModelFileError } from "../contracts/errors.ts";
import type { NamedArrays } from "../files/named_arrays.ts";
import { loadEmbeddingAndHead, loadLayers, modelShape } from "../model/load.ts";
import { embedTokens, logitsOf } from "../model/loss.ts";
import { Tape } from "../model/tape.ts";
import { loadHeads } from "./adapter.ts";
import { fromPeft, loadPeft } from "./peft.ts";
import { mergePeft } from "./peft_merge.ts";

const engine = await Engine.create();
const BASE = await familyFolder("llama_grouped");

/** Logits after the last token, with or without head modules. */
async function lastLogits(
  tokens: Uint32Array<ArrayBuffer>,
  weights: NamedArrays,
  adapter?: Parameters<typeof loadHeads>[1],
): Promise<Float32Array> {
  using layers = loadLayers(engine, { config: BASE.config, weights });
  using ends = loadEmbeddingAndHead(engine, { config: BASE.config, weights });
  using heads = adapter === undefined ? null : loadHeads(engine, adapter);
  const { layers: L, heads: H } = layers.shape;
  await heads?.beginStep({ step: 0, mode: "evaluate", mask: new Uint8Array(L * H) });
  using tape = new Tape(engine, { training: false });
  const { length } = tokens;
  const batch = { tokens, targets: tokens, mask: new Float32Array(length), batch: 1, length };
  const embedding = tape.variable(embedTokens(ends, batch), { needsGradient: false });
  const hidden = await layers.forward(tape, embedding, batch, heads);
  using result = logitsOf(ends, hidden.value, Uint32Array.of(length - 1));
  return await result.read();
}

for (const name of ["plain_scale", "root_scale"]) {
  Deno.test(`ranks and alphas of some modules alone are those of PEFT: ${name}`, async () => {
    const folder = `${FIXTURES}peft_patterns/${name}`;
    const { tokens, logits } = JSON.parse(await Deno.readTextFile(`${folder}/logits.json`));
    const peft = await loadPeft(folder);
    assertEquals([peft.config.r, peft.config.use_rslora], [7, false]);
    const shape = modelShape(BASE.config);
    const ids = Uint32Array.from(tokens as number[]);
    const base = await lastLogits(ids, BASE.weights);
    const found = [
      await lastLogits(ids, BASE.weights, fromPeft(peft, "llama", shape)),
      await lastLogits(ids, mergePeft(BASE.weights, peft, "llama", shape)),
    ];
    const off = (a: Float32Array) => a.reduce((most, x, i) => Math.max(most, Math.abs(x - logits[i])), 0);
    assert(off(base) > 0.1, `the adapter must change the logits: ${off(base)}`);
    for (const ours of found) assert(off(ours) < 1e-5, `${off(ours)}`);
  });
}

Deno.test("patterns that are no plain names, and ranks that the weights have not, are refused", async () => {
  const from = `${FIXTURES}peft_patterns/plain_scale`;
  const folder = await Deno.makeTempDir();
  try {
    await Deno.copyFile(`${from}/adapter_model.safetensors`, `${folder}/adapter_model.safetensors`);
    const config = JSON.parse(await Deno.readTextFile(`${from}/adapter_config.json`));
    const cases: [string, unknown, string][] = [
      ["rank_pattern", { "(a+)+$": 3 }, "must name modules by letters, digits, _ and dots"],
      ["rank_pattern", { "q_proj|k_proj": 3 }, "must name modules by"],
      ["rank_pattern", { k_proj: 0 }, "a positive integer for k_proj"],
      ["rank_pattern", [3], "rank_pattern must be an object"],
      ["rank_pattern", { ...config.rank_pattern, k_proj: 5 }, "k_proj.lora_A.weight must have rank 5"],
      ["rank_pattern", {}, "must have rank 3, as r or rank_pattern says"],
      ["alpha_pattern", { q_proj: "9" }, "a positive number for q_proj"],
    ];
    for (const [field, value, rule] of cases) {
      await Deno.writeTextFile(
        `${folder}/adapter_config.json`,
        JSON.stringify({ ...config, [field]: value }),
      );
      await assertRejects(() => loadPeft(folder), ModelFileError, rule);
    }
    // A dot stands for any character and the first pattern counts, as in PEFT.
    const other = { "self_attn.k.proj": 2, ...config.rank_pattern, k_proj: 9 };
    await Deno.writeTextFile(
      `${folder}/adapter_config.json`,
      JSON.stringify({ ...config, rank_pattern: other }),
    );
    assertEquals((await loadPeft(folder)).config.r, 7);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
