import { assert, assertEquals } from "@std/assert";
import { ASSETS } from "../../tests/support/places.ts";
import { loadModelConfig } from "../loading/model_path.ts";
import { loadModel } from "../loading/model_path.ts";
import { peftRank } from "../lora/peft_modules.ts";
import { fittingSettings, fittingSettingsOf } from "./fitting_settings.ts";
import { defaultRunSettings } from "./default_run_settings.ts";

const SMOLLM2 = { layers: 30, heads: 9, hidden: 576 };

Deno.test("the rate falls with the hidden size, and no width gets more than the narrowest", () => {
  const rateOf = (hidden: number) =>
    fittingSettings({ shape: { layers: 12, heads: 8, hidden }, steps: 400 }).learningRate;
  const rates = [16, 128, 576, 768, 1024, 4096].map(rateOf);
  assertEquals(rates[0], rates[1]);
  assert(rates.slice(2).every((rate, i) => rate < rates[i + 1]!), `${rates}`);
});

Deno.test("a head module that reads fewer columns gets a larger rate", () => {
  const rateOf = (mode: "full" | "slice") =>
    fittingSettings({ shape: SMOLLM2, steps: 400, mode }).learningRate;
  assertEquals(rateOf("full"), fittingSettings({ shape: SMOLLM2, steps: 400 }).learningRate);
  // Nine heads: a ninth of the columns.
  assertEquals(rateOf("slice"), 0.0067);
});

Deno.test("the warm-up is a fortieth of the run, ten steps at least, and no longer than the run", () => {
  const warmUps = [3, 10, 400, 2000].map((steps) => fittingSettings({ shape: SMOLLM2, steps }).warmupSteps);
  assertEquals(warmUps, [3, 10, 10, 50]);
});

Deno.test("sequences are as long as nine tenths of the data need, and the step's tokens have a limit", () => {
  const of = (lengths: number[], positions?: number) => {
    const { length, batch } = fittingSettings({ shape: SMOLLM2, steps: 400, lengths, positions });
    return [length, batch];
  };
  assertEquals(of([]), [80, 8]);
  assertEquals(of([10, 20, 30]), [80, 8]);
  const most = [...Array<number>(90).fill(150), ...Array<number>(10).fill(4000)];
  assertEquals(of(most), [160, 6]);
  assertEquals(of([5000, 6000]), [512, 2]);
  assertEquals(of([5000, 6000], 128), [128, 8]);
});

Deno.test("the settings of a model by its files are those of the library, and the weights are not read for them", async () => {
  const path = `${ASSETS}tiny_gpt2`;
  const { config } = await loadModel(path);
  assertEquals(await loadModelConfig(path), config);
  assertEquals(defaultRunSettings(400, config), defaultRunSettings(400));
  assertEquals(fittingSettingsOf(config, { steps: 400 }).pruning, { tau: 0.9, eta: 0.6 });
  const gguf = "tests/fixtures/gguf/llama.gguf";
  assertEquals(await loadModelConfig(gguf), (await loadModel(gguf)).config);
  // GPT-2 has Q, K and V in one module, so that an adapter of it has the rows of all three.
  assertEquals(peftRank(config, { rank: 8, targets: ["q", "k", "v"] }), 3 * 8 * 8);
  assertEquals(peftRank(config, { rank: 2, targets: ["v"] }), 8 * 2);
});
