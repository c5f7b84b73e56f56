import {
  defaultRunSettings,
  fittingSettingsOf,
  loadEmbeddingAndHead,
  loadLayers,
  loadModel,
  loadModelTokenizer,
  loadTrainingData,
  LocalTraining,
  modelShape,
  type SequenceSet,
  TrainingPlan,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { assert } from "@std/assert";
import { fileURLToPath } from "node:url";
import { ASSETS } from "../support/places.ts";

const TINY = `${ASSETS}tiny_gpt2`;
const FAMILIES = fileURLToPath(new URL("../fixtures/families/", import.meta.url));

/** Sequences in which a token says which one follows. */
function counting(vocabulary: number, first: number, count: number): SequenceSet {
  return {
    sequences: Array.from({ length: count }, (_, i) => ({
      tokens: Uint32Array.from({ length: 13 }, (_, t) => (first + 5 * i + 3 * t) % vocabulary),
      firstTarget: 1,
    })),
    ...{ length: 12, padding: 0, shortened: 0 },
    ...{ shortenedPrompts: 0, shortenedCompletions: 0, droppedTokens: 0 },
  };
}

/** What each model learns: the pre-trained one its restaurants, the random ones to count. */
async function setsOf(path: string, vocabulary: number): Promise<{ set: SequenceSet; valid: SequenceSet }> {
  if (path !== TINY) return { set: counting(vocabulary, 0, 32), valid: counting(vocabulary, 1, 8) };
  const tokenizer = await loadModelTokenizer(TINY);
  const [set, valid] = await Promise.all(
    ["train", "valid"].map((name) =>
      loadTrainingData(`${ASSETS}restaurant/${name}.txt`, { model: TINY, tokenizer, length: 64 })
    ),
  );
  return { set: set!, valid: { ...valid!, sequences: valid!.sequences.slice(0, 8) } };
}

Deno.test("the settings chosen lower the validation loss of each model in the repository [slow]", async () => {
  using engine = await Engine.create();
  const families = ["llama_grouped", "gemma3", "qwen3", "opt", "smollm3"].map((name) => `${FAMILIES}${name}`);
  const runs = [
    ...[TINY, ...families].map((path) => ({ path, mode: "full" as const })),
    ...[TINY, families[0]!].map((path) => ({ path, mode: "slice" as const })),
    { path: TINY, mode: "core" as const },
  ];
  for (const { path, mode } of runs) {
    const model = await loadModel(path);
    const { config } = model;
    using base = loadLayers(engine, model);
    using ends = loadEmbeddingAndHead(engine, model);
    // Past the warm-up of 10 steps, so that the rate itself is tried.
    const steps = 20;
    const vocabulary = Math.min(64, config.vocab_size);
    const settings = defaultRunSettings(steps, config);
    const { learningRate, labelSmoothing: smoothing } = fittingSettingsOf(config, { steps, mode });
    const source = await TrainingPlan.create({
      ...await setsOf(path, vocabulary),
      ...{ batch: 4, seed: 1, smoothing },
    });
    using training = new LocalTraining({
      ...{ engine, base, ends, source },
      settings: {
        ...settings,
        lora: { ...settings.lora, mode },
        optimizer: { ...settings.optimizer, learningRate },
      },
    });
    const { losses } = await training.trainer.run();
    const { hidden } = modelShape(config);
    assert(
      losses!.after < losses!.before,
      `${path}, ${mode}, d ${hidden}: ${losses!.before} to ${losses!.after}`,
    );
  }
});
