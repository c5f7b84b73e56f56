/**
 * Pre-trains the tiny GPT-2 of `cli/assets/tiny_gpt2` on restaurant talk, with this project's engine.
 *
 * ```sh
 * deno run -A bench/tiny_model/make_data.ts && deno run -A bench/tiny_model/pretrain.ts
 * ```
 *
 * @module
 */

import {
  encodeWindows,
  evaluateLoss,
  fixedBatches,
  fullTrainingStep,
  Gpt2EmbeddingAndHead,
  Gpt2Layers,
  keepPrevious,
  loadTokenizer,
  type NamedArray,
  saveSafetensors,
  shuffledBatches,
  type StepMode,
  type TokenBatch,
  Trainer,
  writeWhole,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { copyingStart } from "./copying_start.ts";
import { integer, number, readFlags, runProgram, text, UsageError } from "../../cli/flags/flags.ts";
import { Interrupts } from "../../cli/process/interrupts.ts";
import { duration, ProgressBar } from "../../cli/output/progress.ts";
import { assetPath } from "../../cli/process/places.ts";
import { INTERRUPTED } from "../../cli/process/supervisor.ts";

/** Shape of the model: 0.9 million parameters. */
const SHAPE = { n_layer: 4, n_head: 8, n_embd: 128, n_positions: 128, layer_norm_epsilon: 1e-5 };

/** Share of the peak learning rate: a rise, then half a wave down to a fiftieth. */
function rateFactor(step: number, steps: number): number {
  const warmup = Math.min(50, steps / 10);
  const factor = step < warmup
    ? (step + 1) / warmup
    : 0.5 * (1 + Math.cos(Math.PI * (step - warmup) / (steps - warmup)));
  return Math.max(0.02, factor);
}

async function main(): Promise<number> {
  const flags = readFlags({
    name: "pretrain.ts",
    about: "Pre-trains a tiny GPT-2 on generated restaurant talk.",
    examples: [
      "deno run -A bench/tiny_model/make_data.ts && deno run -A bench/tiny_model/pretrain.ts",
      "deno run -A bench/tiny_model/pretrain.ts --steps 50 --out runs/trial   # needs tokenizer.json there",
    ],
  }, {
    data: text(
      "FILE",
      assetPath("restaurant/pretrain.txt"),
      "text, one document per line",
    ),
    out: text(
      "DIR",
      assetPath("tiny_gpt2"),
      "where config.json and model.safetensors go and tokenizer.json is read from",
    ),
    steps: integer("N", 1100, "training steps", { min: 1 }),
    batch: integer("N", 8, "sequences per step", { min: 1 }),
    length: integer("N", 128, "tokens per sequence", { min: 8, max: SHAPE.n_positions }),
    rate: number("X", 3e-3, "peak learning rate", { min: 0 }),
    seed: integer("N", 1, "seed of weights and order", { min: 0, max: 0xffff_ffff }),
  });
  const { steps, batch, length, rate, seed } = flags;
  const tokenizer = await loadTokenizer(`${flags.out}/tokenizer.json`);
  const content = await Deno.readTextFile(flags.data).catch((cause) => {
    throw new UsageError(
      `Cannot pre-train as --data must be a file that can be read; bench/tiny_model/make_data.ts makes the default one: ${cause.message}`,
    );
  });
  const lines = content.split("\n").filter((line) => line !== "");
  const held = Math.max(1, Math.floor(lines.length / 50));
  const train = encodeWindows(lines.slice(held), tokenizer, { length });
  const valid = fixedBatches(encodeWindows(lines.slice(0, held), tokenizer, { length }), batch);
  const batches = shuffledBatches(train, { batch, seed });
  const config = { ...SHAPE, vocab_size: tokenizer.vocabSize };
  const start = copyingStart(config, seed);
  using engine = await Engine.create();
  using layers = new Gpt2Layers(engine, config, start, { trainable: true });
  using ends = new Gpt2EmbeddingAndHead(engine, config, start, { trainable: true });
  const model = { engine, layers, ends };
  const parameters = [...ends.parameters(), ...layers.parameters()];
  const count = [...start.values()].reduce((sum, w) => sum + w.data.length, 0);
  console.log(
    `${count} parameters, ${train.sequences.length} windows of ${length} tokens, on ${engine.adapterName}`,
  );

  const loss = { labelSmoothing: 0 };
  const bar = new ProgressBar(steps);
  const started = performance.now();
  let mean = 0;
  let validLoss = 0;
  const left = [...valid];
  using interrupts = new Interrupts();
  const trainer = new Trainer<{ readonly mode: StepMode; readonly batch: TokenBatch }>({
    next(step) {
      if (step < steps) return Promise.resolve({ mode: "train", batch: batches.next() });
      const batch = left.shift();
      return Promise.resolve(batch === undefined ? null : { mode: "evaluate", batch });
    },
    async step(step, { mode, batch }) {
      const sizes = { statistics: {}, batch: batch.batch, tokens: batch.batch * batch.length };
      if (mode === "evaluate") return { loss: await evaluateLoss(model, batch, loss), ...sizes };
      const adamw = {
        rate: rate * rateFactor(step, steps),
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        decay: 0.1,
      };
      const result = await fullTrainingStep(model, batch, { adamw, loss, clipNorm: 1 });
      return { loss: result.loss, ...sizes };
    },
  }, {
    shouldStop: () => interrupts.asked,
    onEvent(event) {
      if (event.type !== "step") return;
      if (event.mode === "evaluate") return void (validLoss += event.loss! / valid.length);
      mean = event.step === 0 ? event.loss! : 0.95 * mean + 0.05 * event.loss!;
      const done = event.step + 1;
      const speed = (performance.now() - started) / 1000 / done;
      bar.draw(done, `loss ${mean.toFixed(3)}  ${speed.toFixed(2)} s/step`);
      if (!Deno.stderr.isTerminal() && done % 100 === 0) console.log(`step ${done}  loss ${mean.toFixed(3)}`);
    },
  });
  const { step, ending } = await trainer.run();
  bar.end();
  if (step === 0) return INTERRUPTED;
  const heldOut = ending === "done" ? `, loss on held-out text ${validLoss.toFixed(3)}` : "";
  console.log(
    `${step} steps in ${duration((performance.now() - started) / 1000)}: training loss ${
      mean.toFixed(3)
    }${heldOut}`,
  );

  const trained = new Map<string, NamedArray>();
  const values = await engine.read(parameters.map((p) => p.plain));
  parameters.forEach((p, i) => trained.set(p.name, { shape: start.get(p.name)!.shape, data: values[i]! }));
  const previous = await keepPrevious(flags.out, ["config.json", "model.safetensors"]);
  if (previous !== null) console.log(`The model that was there is kept: ${previous}`);
  await saveSafetensors(`${flags.out}/model.safetensors`, trained, { format: "pt" });
  const json = {
    model_type: "gpt2",
    architectures: ["GPT2LMHeadModel"],
    activation_function: "gelu_new",
    ...config,
    n_inner: null,
    embd_pdrop: 0,
    attn_pdrop: 0,
    resid_pdrop: 0,
    tie_word_embeddings: true,
    bos_token_id: tokenizer.eos,
    eos_token_id: tokenizer.eos,
  };
  await writeWhole(`${flags.out}/config.json`, `${JSON.stringify(json, null, 2)}\n`);
  console.log(`Wrote ${flags.out}/config.json and model.safetensors`);
  return interrupts.asked ? INTERRUPTED : 0;
}

if (import.meta.main) await runProgram(main);
