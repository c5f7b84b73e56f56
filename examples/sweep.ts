/**
 * How a step scales with the number of devices: each number is simulated in this process, in virtual
 * time, on emulated links.
 *
 * @module
 */

import {
  evenMask,
  gpt2Config,
  Gpt2Ends,
  Gpt2Layers,
  initialWeights,
  plan,
  type Pruner,
  type TokenBatch,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { simulate } from "@edgetuner/transport";
import { integer, number, readFlags, runProgram, text, toggle, UsageError } from "./_support/flags.ts";
import { bytes } from "./_support/progress.ts";
import { versions, writeReport } from "./_support/report.ts";
import {
  computeHere,
  computeOf,
  integersOf,
  LINK_HELP,
  linkOf,
  MEASURED_HELP,
  seconds,
  table,
} from "./_support/twin_flags.ts";
import { TUNING_FLAGS, tuningSettings } from "./_support/tuning_flags.ts";
import { loadGpu, WEBGPU_CHOICES } from "./_support/webgpu.ts";

/** A line of the table. */
interface Line {
  readonly devices: number;
  /** Why it could not run, else `null`. */
  readonly refused: string | null;
  readonly msPerStep?: number;
  readonly plannedMsPerStep?: number;
  readonly bytesPerStep?: number;
  readonly edgeMemoryBytes?: number;
  readonly edgeComputeMs?: number;
  readonly headsPerDevice?: readonly number[];
  readonly losses?: readonly (number | null)[];
}

async function main(): Promise<void> {
  const flags = readFlags({
    name: "sweep.ts",
    about: "Simulates steps with more and more devices on emulated links, in virtual time.",
    examples: [
      "deno run -A examples/sweep.ts",
      "deno run -A examples/sweep.ts --devices 1,3,8 --link lte --keep 0.5",
      "deno run -A examples/sweep.ts --compute measured --link my_link.json --report sweep.json",
    ],
  }, {
    ...TUNING_FLAGS,
    devices: text("LIST", "1,2,4,8,16,32,64", "numbers of devices"),
    link: text("LINK", "wifi-5", LINK_HELP),
    compute: text("MODEL", "typical", MEASURED_HELP),
    keep: number("X", 1, "share of the heads kept, evenly over layers and devices", { min: 0, max: 1 }),
    mode: text("MODE", "slice", "what a head module reads", ["slice", "full"]),
    steps: integer("N", 4, "training steps of each simulation", { min: 1 }),
    layers: integer("N", 4, "layers of the model, which has random weights", { min: 1 }),
    heads: integer("N", 64, "heads of a layer; as many devices can hold some", { min: 1 }),
    hidden: integer("N", 512, "hidden size, a multiple of 4 times the heads", { min: 4 }),
    vocabulary: integer("N", 256, "entries of the vocabulary", { min: 2 }),
    batch: integer("N", 2, "sequences per step", { min: 1 }),
    length: integer("N", 64, "tokens per sequence", { min: 2 }),
    webgpu: text("NAME", "deno", "WebGPU implementation", WEBGPU_CHOICES),
    json: toggle("print JSON in place of the table"),
    report: text("FILE", "", "write the JSON to a file"),
  });
  const counts = integersOf("devices", flags.devices);
  const link = await linkOf(flags.link);
  if (flags.hidden % (4 * flags.heads) !== 0) {
    throw new UsageError(
      `Cannot run sweep.ts as --hidden must be a multiple of 4 times --heads: current values are ${flags.hidden} and ${flags.heads}`,
    );
  }
  const config = gpt2Config({
    n_layer: flags.layers,
    n_head: flags.heads,
    n_embd: flags.hidden,
    vocab_size: flags.vocabulary,
    n_positions: flags.length,
  });
  const weights = initialWeights(config, flags.seed);
  const gpu = await loadGpu(flags.webgpu);
  // Apart from each other, so that the edge server's memory can be seen.
  using engine = await Engine.create({ gpu });
  using deviceEngine = await Engine.create({ gpu });
  using layers = new Gpt2Layers(engine, config, weights);
  using ends = new Gpt2Ends(deviceEngine, config, weights);
  const settings = tuningSettings(flags);
  const batch = randomBatch(flags.vocabulary, flags.batch, flags.length);
  const compute = flags.compute === "measured"
    ? await measured(engine, config, weights, settings, batch)
    : await computeOf(flags.compute);
  const lines: Line[] = [];
  for (const devices of counts) {
    await engine.trim();
    try {
      const run = await simulate({
        model: { engine, layers, ends, deviceEngine },
        settings,
        devices,
        pruner: evenPruner(flags.keep),
        batches: () => batch,
        link,
        compute,
        linkSeed: flags.seed + 1,
      });
      if (run.error !== null) throw run.error;
      const planned = plan({
        model: {
          layers: flags.layers,
          heads: flags.heads,
          hidden: flags.hidden,
          vocabulary: flags.vocabulary,
        },
        batch: flags.batch,
        length: flags.length,
        lora: settings.lora,
        devices,
        keep: flags.keep,
        link,
        compute,
        sharesLoss: true,
      });
      lines.push({
        devices,
        refused: null,
        msPerStep: run.msPerStep,
        plannedMsPerStep: planned.msPerStep,
        bytesPerStep: run.bytesPerStep,
        edgeMemoryBytes: run.edgeMemoryBytes,
        edgeComputeMs: run.steps.at(-1)!.edgeComputeMs,
        headsPerDevice: run.devices.map((d) => d.range?.count ?? 0),
        losses: run.steps.map((s) => s.loss),
      });
    } catch (error) {
      // More devices than heads: the allocation rule gives each at least one.
      if (!(error instanceof RangeError)) throw error;
      lines.push({ devices, refused: error.message });
    }
  }
  const report = { versions: versions(), adapter: engine.adapterName, settings: flags, link, compute, lines };
  await writeReport(flags.report, report);
  if (flags.json) return console.log(JSON.stringify(report, null, 1));
  console.log(
    `${flags.layers} layers, ${flags.heads} heads, d ${flags.hidden}, ${flags.batch} x ${flags.length} tokens, ` +
      `${flags.mode} mode, ${Math.round(100 * flags.keep)} % of the heads, ${link.name}; virtual time`,
  );
  const head = ["devices", "s/step", "planned", "per step", "edge GPU memory", "heads of a device"];
  const ran = lines.filter((l) => l.refused === null);
  for (
    const line of table([
      head,
      ...ran.map((l) => [
        `${l.devices}`,
        seconds(l.msPerStep!),
        seconds(l.plannedMsPerStep!),
        bytes(l.bytesPerStep!),
        bytes(l.edgeMemoryBytes!),
        range(l.headsPerDevice!),
      ]),
    ])
  ) console.log(line);
  for (const { devices, refused } of lines) {
    if (refused !== null) console.log(`${devices} devices: ${refused}`);
  }
}

/** Keeps the same share of heads in every step, evenly over layers and devices. */
function evenPruner(keep: number): Pruner {
  return {
    name: "even",
    needs: [],
    init: () => null,
    decide: (
      _,
      state,
      { layers, headsPerDevice },
    ) => [{ mask: evenMask(headsPerDevice, { layers, keep }) }, state],
  };
}

function randomBatch(vocabulary: number, batch: number, length: number): TokenBatch {
  const tokens = Uint32Array.from({ length: batch * length }, (_, i) => (i * i * 31 + i * 7) % vocabulary);
  const targets = Uint32Array.from(tokens, (_, i) => tokens[(i + 1) % tokens.length]!);
  return { tokens, targets, mask: new Float32Array(tokens.length).fill(1), batch, length };
}

async function measured(
  engine: Engine,
  config: ConstructorParameters<typeof Gpt2Layers>[1],
  weights: ConstructorParameters<typeof Gpt2Layers>[2],
  settings: ReturnType<typeof tuningSettings>,
  batch: TokenBatch,
) {
  using layers = new Gpt2Layers(engine, config, weights);
  using ends = new Gpt2Ends(engine, config, weights);
  return await computeHere({ layers, ends }, settings, batch);
}

function range(counts: readonly number[]): string {
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  return least === most ? `${least}` : `${least} to ${most}`;
}

if (import.meta.main) await runProgram(main);
