/**
 * Deno's own WebGPU against Dawn in one process on one driver: reading results back, and a whole
 * fine-tuning step of the demo. The two take turns, so that both meet the same load of the machine.
 *
 * @module
 */

import {
  HeadModules,
  loadEmbeddingAndHead,
  loadLayers,
  loadModelFolder,
  LocalData,
  LocalHeads,
  runStep,
} from "@edgetuner/core";
import { addScaled, Engine } from "@edgetuner/kernels";
import { integer, readFlags, runProgram, text } from "../cli/flags/flags.ts";
import { TUNING_FLAGS, tuningSettings } from "../cli/flags/tuning_flags.ts";
import { loadGpu, WEBGPU_CHOICES, type WebGpuChoice } from "../cli/flags/webgpu.ts";
import { assetPath } from "../cli/process/places.ts";

const FLAGS = {
  ...TUNING_FLAGS,
  model: text("DIR", assetPath("tiny_gpt2"), "folder of the base model"),
  batch: integer("N", 8, "sequences per step", { min: 1 }),
  length: integer("N", 96, "tokens per sequence", { min: 2 }),
  rounds: integer("N", 20, "measured rounds", { min: 1 }),
};

/** Rounds at the start that are not counted: shaders compile there. */
const WARM = 3;
const SIZES = [4096, 2 ** 20];

/** One implementation's engine and what runs on it. */
async function openSystem(choice: WebGpuChoice, flags: ReturnType<typeof readFlags<typeof FLAGS>>) {
  const engine = await Engine.create({ gpu: await loadGpu(choice) });
  const model = await loadModelFolder(flags.model);
  const base = loadLayers(engine, model);
  const ends = loadEmbeddingAndHead(engine, model);
  const { layers, heads } = base.shape;
  const range = { first: 0, count: heads };
  const modules = new HeadModules(engine, { ...tuningSettings(flags), ...base.shape, range });
  const local = new LocalHeads([modules]);
  const count = flags.batch * flags.length;
  const tokens = Uint32Array.from({ length: count }, (_, i) => (i * 7919) % ends.shape.vocabulary);
  const batch = {
    tokens,
    targets: tokens,
    mask: new Float32Array(count).fill(1),
    batch: flags.batch,
    length: flags.length,
  };
  const data = new LocalData(ends, { labelSmoothing: 0 }, () => ({ batch, mode: "train" }));
  let step = 0;
  return {
    engine,
    async step() {
      const embedded = (await data.next(step))!;
      await runStep({ engine, base, heads: local, data }, step++, embedded, new Uint8Array(layers * heads));
      await engine.idle();
    },
    async readback(bytes: number) {
      using x = engine.zeros(bytes / 1024, 256);
      using y = engine.zeros(bytes / 1024, 256);
      addScaled(x, y);
      await y.read();
    },
  };
}

function median(values: readonly number[]): string {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!.toFixed(2);
}

async function main(): Promise<void> {
  const flags = readFlags({
    name: "bench_webgpu.ts",
    about: "Measures Deno's own WebGPU and Dawn side by side.",
    examples: ["deno run -A --lock=/tmp/any.lock bench/webgpu.ts --rounds 30"],
  }, FLAGS);
  const systems = [];
  for (const choice of WEBGPU_CHOICES) systems.push({ choice, ...await openSystem(choice, flags) });
  const times = new Map<string, number[]>();
  for (let round = 0; round < WARM + flags.rounds; round++) {
    for (const { choice, step, readback } of systems) {
      const cases: [string, () => Promise<void>][] = [
        ...SIZES.map((
          size,
        ): [string, () => Promise<void>] => [`readback of ${size} bytes`, () => readback(size)]),
        ["step", step],
      ];
      for (const [name, run] of cases) {
        const started = performance.now();
        await run();
        const key = `${choice}: ${name}`;
        if (round >= WARM) times.set(key, [...times.get(key) ?? [], performance.now() - started]);
      }
    }
  }
  for (const { choice, engine } of systems) {
    console.log(`${choice} on ${engine.adapterName}`);
    for (const name of [...SIZES.map((size) => `readback of ${size} bytes`), "step"]) {
      console.log(`  ${name.padEnd(28)}${median(times.get(`${choice}: ${name}`)!)} ms`);
    }
    engine.dispose();
  }
}

if (import.meta.main) await runProgram(main);
