/**
 * Each key of a `config.json` with other values: the product agrees with transformers or refuses, and never computes
 * something else.
 */

import { Engine } from "@edgetuner/kernels";
import {
  embedTokens,
  loadEmbeddingAndHead,
  loadLayers,
  loadModelFolder,
  logitsOf,
  ModelFileError,
  type ModelFiles,
  Tape,
  writeSafetensors,
} from "@edgetuner/core";
import { assert } from "@std/assert";
import { FIXTURES } from "../support/places.ts";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";

/** A change, and what transformers makes of it. */
interface Case {
  /** Values by key; `{ "_": "removed" }` for a key that is left out. */
  readonly change: Readonly<Record<string, unknown>>;
  /** True if the files hold an LM head of their own: the token embedding upside down. @default {false} */
  readonly head?: boolean;
  /** Logits in base64, or "same" for those of the first case; missing if there are none. */
  readonly logits?: string;
}

interface Fixture {
  readonly tokens: readonly (readonly number[])[];
  readonly places: readonly number[];
  readonly step: number;
  readonly families: Readonly<Record<string, { readonly model: string; readonly cases: readonly Case[] }>>;
}

const { tokens, places, step, families }: Fixture = JSON.parse(
  await Deno.readTextFile(`${FIXTURES}config_keys.json`),
);
const engine = await Engine.create();

/** The logits that the fixture has, by the product. */
async function logitsBy(model: ModelFiles): Promise<Float32Array> {
  using layers = loadLayers(engine, model);
  using ends = loadEmbeddingAndHead(engine, model);
  const [batch, length] = [tokens.length, tokens[0]!.length];
  const all = Uint32Array.from(tokens.flat());
  const sequences = { tokens: all, targets: all, mask: new Float32Array(all.length), batch, length };
  using tape = new Tape(engine, { training: false });
  const embedding = tape.variable(embedTokens(ends, sequences), { needsGradient: false });
  const hidden = await layers.forward(tape, embedding, sequences, null);
  const rows = tokens.flatMap((_, row) => places.map((place) => row * length + place));
  using logits = logitsOf(ends, hidden.value, Uint32Array.from(rows));
  const { vocabulary } = ends.shape;
  return (await logits.read()).filter((_, i) => i % vocabulary % step === 0);
}

const isRemoved = (value: unknown) => (value as { readonly _?: unknown } | null)?._ === "removed";

for (const [name, { model, cases }] of Object.entries(families)) {
  Deno.test(`${name}: each key of config.json is obeyed as by transformers, or refused [slow]`, async () => {
    const source = await loadModelFolder(`${FIXTURES}${model}`);
    const config = JSON.parse(await Deno.readTextFile(`${FIXTURES}${model}/config.json`));
    const weights = new Map(source.weights);
    const [, embedding] = [...weights].find(([key]) => /(wte|embed_tokens)\.weight$/.test(key))!;
    const [rows, columns] = embedding.shape as [number, number];
    const head = embedding.data.map((_, i) =>
      embedding.data[(rows - 1 - Math.floor(i / columns)) * columns + i % columns]!
    );
    const folder = await Deno.makeTempDir();
    let agrees = 0;
    try {
      for (const { change, head: own = false, logits } of cases) {
        const what = `${name} with ${JSON.stringify(change)}${own ? " and an LM head" : ""}`;
        const changed = Object.entries({ ...config, ...change }).filter(([, value]) => !isRemoved(value));
        const files = own
          ? new Map([...weights, ["lm_head.weight", { shape: embedding.shape, data: head }]])
          : weights;
        await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(Object.fromEntries(changed)));
        await Deno.writeFile(`${folder}/model.safetensors`, writeSafetensors(files));
        let actual: Float32Array;
        try {
          actual = await logitsBy(await loadModelFolder(folder));
        } catch (error) {
          assert(error instanceof ModelFileError, `${what}: ${error}`);
          continue;
        }
        if (logits === undefined) continue; // transformers refuses, or makes weights up
        const bytes = Uint8Array.fromBase64(logits === "same" ? cases[0]!.logits! : logits);
        assertClose(actual, new Float32Array(bytes.buffer), TOLERANCE.model, what);
        agrees++;
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
    assert(agrees > cases.length / 2, `only ${agrees} of ${cases.length} agree`);
  });
}
