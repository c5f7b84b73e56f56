/**
 * What a step takes of each party's adapter memory, beside what `stepMemory` says before it runs.
 */

import {
  defaultRunSettings,
  EdgeServer,
  gpt2Config,
  initialWeights,
  llamaConfig,
  loadEmbeddingAndHead,
  loadLayers,
  LocalTraining,
  memoryModelOf,
  type ModelFiles,
  type RunSettings,
  runUserDevice,
  type StepMemory,
  stepMemory,
  type TokenBatch,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { assert } from "@std/assert";
import { admitAll, openLink, serverOptions } from "./_session.ts";
import { randomLlama } from "../support/packed_weights.ts";

/** Share that may be missing: lists of heads and other small uploads. */
const BELOW = 0.02;
/** Share that may be too much: a buffer that is free may serve what is made later. */
const ABOVE = 0.12;

interface Case {
  readonly name: string;
  readonly model: ModelFiles;
  readonly batch: number;
  readonly length: number;
  readonly settings: RunSettings;
}

const LORA = { mode: "full", targets: ["q", "k", "v"], rank: 8, alpha: 16, dropout: 0 } as const;

const gpt2 = gpt2Config({ n_layer: 3, n_head: 4, n_embd: 64, vocab_size: 900, n_positions: 64 });
const llama = llamaConfig({
  ...{ model_type: "llama", num_hidden_layers: 2, num_attention_heads: 6, num_key_value_heads: 2 },
  ...{ hidden_size: 96, intermediate_size: 200, vocab_size: 3000, max_position_embeddings: 128 },
  ...{ rms_norm_eps: 1e-6, tie_word_embeddings: true },
});

const CASES: readonly Case[] = [
  {
    ...{ name: "GPT-2", batch: 6, length: 40, model: { config: gpt2, weights: initialWeights(gpt2, 1) } },
    settings: { ...defaultRunSettings(2), lora: LORA },
  },
  {
    ...{ name: "LLaMA in two parts", batch: 4, length: 90, model: randomLlama(llama) },
    settings: {
      ...defaultRunSettings(2),
      ...{ accumulate: 2, lora: { ...LORA, mode: "slice", targets: ["q", "v"], dropout: 0.1 } },
    },
  },
  {
    ...{ name: "GPT-2 in rank space", batch: 6, length: 40 },
    model: { config: gpt2, weights: initialWeights(gpt2, 1) },
    settings: { ...defaultRunSettings(2), lora: { ...LORA, mode: "core", dropout: 0.1 } },
  },
];

function tokensOf({ batch, length, model }: Case): TokenBatch {
  const tokens = Uint32Array.from({ length: batch * length }, (_, i) => (i * 37) % model.config.vocab_size);
  return { tokens, targets: tokens, mask: new Float32Array(tokens.length).fill(1), batch, length };
}

/** An engine as on a GPU: on a software adapter tensors have copies as textures too. */
const open = () => Engine.create({ adapterClass: "hardware", prepare: false });

/** What is in use beside the weights after the steps of a run on one machine. */
async function measuredHere(at: Case): Promise<number> {
  using engine = await open();
  using base = loadLayers(engine, at.model);
  using ends = loadEmbeddingAndHead(engine, at.model);
  const before = engine.stats.allocatedBytes;
  const batch = tokensOf(at);
  const source = (step: number) => step < at.settings.steps ? { batch, mode: "train" } as const : null;
  using training = new LocalTraining({ engine, base, ends, settings: at.settings, source });
  await training.trainer.run();
  return engine.stats.allocatedBytes - before;
}

/** The same for a run of three machines: edge server, data device, and a device with all heads. */
async function measuredThere(at: Case): Promise<Omit<StepMemory, "oneMachine">> {
  using edge = await open();
  using data = await open();
  using heads = await open();
  using layers = loadLayers(edge, at.model);
  using ends = loadEmbeddingAndHead(data, at.model);
  const before = [edge, data, heads].map((engine) => engine.stats.allocatedBytes);
  const batch = tokensOf(at);
  const server = new EdgeServer(
    serverOptions({ engine: edge, layers, ends }, at.settings, { onLoss: "prune" }),
  );
  await using link = openLink("in-process");
  const admitting = admitAll(link.listener, server);
  const running = server.start();
  const common = { timeoutMs: 60_000, name: "device" };
  const device = runUserDevice({
    ...{ ...common, engine: heads, channel: await link.transport.connect(), capacity: 1 },
  });
  const dataDevice = runUserDevice({
    ...{ ...common, name: "data", engine: data, channel: await link.transport.connect(), capacity: 0 },
    data: {
      ...{ ends, fingerprint: "tiny", loss: { labelSmoothing: 0 }, shareLoss: false },
      next: (step) => step < at.settings.steps ? { batch, mode: "train" } : null,
    },
  });
  await running;
  const { modules } = await device;
  await dataDevice;
  const [edgeServer, dataBytes, headModules] = [edge, data, heads].map((engine, i) =>
    engine.stats.allocatedBytes - before[i]!
  ) as [number, number, number];
  modules?.[Symbol.dispose]();
  await link.listener[Symbol.asyncDispose]();
  await admitting;
  return { edgeServer, dataDevice: dataBytes, headModules };
}

for (const at of CASES) {
  Deno.test(`stepMemory() says what each party of ${at.name} takes, within 12 % and not too little [slow]`, async () => {
    const { settings: { lora, accumulate = 1 }, model, batch, length } = at;
    const said = stepMemory({ model: memoryModelOf(model.config), batch, length, accumulate, lora });
    const seen: StepMemory = { ...await measuredThere(at), oneMachine: await measuredHere(at) };
    for (const [party, bytes] of Object.entries(seen) as [keyof StepMemory, number][]) {
      const share = said[party] / bytes;
      const about = `${party}: ${said[party]} bytes were said and ${bytes} taken, ${share}`;
      assert(share >= 1 - BELOW && share <= 1 + ABOVE, about);
    }
  });
}
