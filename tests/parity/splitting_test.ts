/**
 * Whole models on an adapter with tiny limits: every large tensor is used in pieces.
 */

import { assertEquals } from "@std/assert";
import { Engine } from "@edgetuner/kernels";
import {
  fullGradients,
  fullTrainingStep,
  type Gpt2Config,
  gpt2Config,
  Gpt2EmbeddingAndHead,
  Gpt2Layers,
  loadSafetensors,
  sumLosses,
} from "@edgetuner/core";
import { assertClose, TOLERANCE } from "../support/tolerance.ts";

const FOLDER = new URL("../fixtures/parity/", import.meta.url);
const manifest = JSON.parse(await Deno.readTextFile(new URL("manifest.json", FOLDER)));
const fixture = manifest.fixtures.gpt2_full_training;
const expected = await loadSafetensors(new URL(fixture.file, FOLDER));
const weights = await loadSafetensors(new URL("gpt2_base/model.safetensors", FOLDER));
const config: Gpt2Config = gpt2Config(
  JSON.parse(await Deno.readTextFile(new URL("gpt2_base/config.json", FOLDER))),
);
const batch = {
  tokens: Uint32Array.from(manifest.batch.tokens.flat()),
  targets: Uint32Array.from(manifest.batch.targets.flat()),
  mask: Float32Array.from(manifest.batch.mask.flat()),
  batch: 2,
  length: 13,
};

for (const adapterClass of ["software", "hardware"] as const) {
  Deno.test(`training in pieces equals PyTorch where a binding holds 20 kB and a texture 48 rows (${adapterClass}) [slow]`, async () => {
    // The widest matrix has 192 columns, 48 texels; most weights have more rows or bytes than that.
    using engine = await Engine.create({ adapterClass, maxBindingBytes: 20_480, maxTextureSide: 48 });
    using layers = new Gpt2Layers(engine, config, weights, { trainable: true });
    using ends = new Gpt2EmbeddingAndHead(engine, config, weights, { trainable: true });
    const model = { engine, layers, ends };
    const loss = { labelSmoothing: 0.1 };
    const pieces = await fullGradients(model, batch, loss);
    const total = sumLosses(await engine.read(pieces));
    for (const piece of pieces) piece.dispose();
    assertClose([total], [fixture.loss], TOLERANCE.model, "loss");
    let split = 0;
    for (const parameter of [...layers.parameters(), ...ends.parameters()]) {
      if (parameter.plain.windows().length > 1) split++;
      const gradient = await parameter.gradient!.read();
      assertClose(
        gradient,
        expected.get(`gradient.${parameter.name}`)!.data,
        TOLERANCE.model,
        parameter.name,
      );
    }
    assertEquals(split > 5, true, `${split} weights were split`);
    const { loss: before } = await fullTrainingStep(model, batch, {
      loss,
      adamw: { rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 0.01 },
      clipNorm: 1,
    });
    assertClose([before], [fixture.loss], TOLERANCE.model, "loss");
  });
}
