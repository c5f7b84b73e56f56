import { Engine } from "@edgetuner/kernels";
import {
  adapterOf,
  embedTokens,
  familyName,
  fromPeft,
  HeadModules,
  joinAdapters,
  loadIntoModules,
  loadLayers,
  LocalHeads,
  logitsOf,
  mergePeft,
  shapeForDevices,
  Tape,
  toPeft,
} from "@edgetuner/core";
import { assert } from "@std/assert";
import { FAMILY_NAMES, familyFolder, familyHeads, TinyFamily } from "../support/families.ts";
import { normal } from "../support/kernels.ts";
import { BATCH, tinySettings } from "../support/tiny_model.ts";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";

const engine = await Engine.create();
const ALL_ROWS = Uint32Array.from(BATCH.tokens, (_, i) => i);

async function logitsWith(model: TinyFamily, layers: TinyFamily["layers"], heads: LocalHeads | null) {
  await heads?.beginStep({ step: 0, mode: "evaluate", mask: new Uint8Array(8) });
  using tape = new Tape(engine, { training: false });
  const h = await layers.forward(
    tape,
    tape.variable(embedTokens(model.ends, BATCH), { needsGradient: false }),
    BATCH,
    heads,
  );
  using logits = logitsOf(model.ends, h.value, ALL_ROWS);
  return await logits.read();
}

for (const name of FAMILY_NAMES) {
  for (const mode of ["slice", "full", "core"] as const) {
    Deno.test(`${name}, ${mode} mode: merged into the base, and to PEFT and back, the logits stay [slow]`, async () => {
      const folder = await familyFolder(name);
      using model = new TinyFamily(engine, folder);
      const settings = tinySettings(mode, 1, 0);
      const devices = familyHeads(model, settings, [1, 3]);
      for (const [i, modules] of devices.entries()) {
        modules.load(
          (await modules.weights()).map((heads, l) =>
            heads.map((targets, h) =>
              targets.map(({ a, b }, k) => {
                const numbers = (length: number) => normal(length, i * 1000 + l * 100 + h * 10 + k, 0.2);
                // What is zero at the start: B, and R in mode `core`, which has no B.
                return b.length === 0 ? { a: numbers(a.length), b } : { a, b: numbers(b.length) };
              })
            )
          ),
        );
      }
      using heads = new LocalHeads(devices);
      const expected = await logitsWith(model, model.layers, heads);
      const base = await logitsWith(model, model.layers, null);
      assert(expected.some((x, i) => Math.abs(x - base[i]!) > 0.01), "the adapter changes the logits");

      const { shape } = model.layers;
      const { kvHeads } = shape;
      const family = familyName(model.config);
      const peft = toPeft(joinAdapters(await Promise.all(devices.map((d) => adapterOf(d)))), family, kvHeads);
      const weights = mergePeft(folder.weights, peft, family, shape);
      using merged = loadLayers(engine, { config: folder.config, weights });
      assertClose(await logitsWith(model, merged, null), expected, TOLERANCE.model, "merged");

      const adapter = fromPeft(peft, family, shape);
      const again = new HeadModules(engine, {
        ...settings,
        lora: { ...adapter.lora, dropout: 0 },
        ...shapeForDevices(shape),
        range: { first: 0, count: shape.heads },
      });
      loadIntoModules(adapter, again);
      using back = new LocalHeads([again]);
      assertClose(await logitsWith(model, model.layers, back), expected, TOLERANCE.model, "from PEFT");
    });
  }
}
