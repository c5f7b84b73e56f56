/**
 * What splitting costs: ServerTuner (one machine) against vEdgeTuner (no pruning) with one and three
 * devices as processes on loopback, the same work, side by side.
 *
 * @module
 */

import { Child } from "../cli/process/child.ts";
import { integer, readFlags, runProgram, text } from "../cli/flags/flags.ts";
import { bytes } from "../cli/output/progress.ts";
import { versions, writeReport } from "../cli/output/report.ts";
import { assetPath } from "../cli/process/places.ts";

/** Times of one system, in milliseconds a step. */
interface Times {
  total: number[];
  readback: number[];
  codec: number[];
  wait: number[];
  peak: Record<string, number>;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}

/** Steps at the start that are not counted: shaders compile there. */
const WARM = 3;

async function serverTuner(flags: readonly string[], into: Times): Promise<void> {
  const child = new Child("ServerTuner", "server_tuner.ts", flags, (event) => {
    if (event.type === "step" && Number(event.step) >= WARM) into.total.push(Number(event.ms));
    else if (event.type === "done") {
      into.peak["ServerTuner"] = Math.max(into.peak["ServerTuner"] ?? 0, Number(event.peakMemoryBytes));
    }
  });
  if (await child.ended !== 0) throw new Error(child.errors);
}

async function edgeTuner(
  devices: number,
  flags: readonly string[],
  data: readonly string[],
  into: Times,
): Promise<void> {
  const token = crypto.randomUUID();
  const listening = Promise.withResolvers<string>();
  const server = new Child("edge server", "edge_server.ts", [
    ...["--port", "0", "--join-token", token, "--pruner", "none", "--devices", `${devices}`],
    ...flags,
  ], (event) => {
    if (event.type === "listening") listening.resolve(String(event.address));
    else if (event.type === "step") {
      const { step, times } = event.record as {
        step: number;
        times: Record<"total" | "readback" | "codec" | "wait", number>;
      };
      if (step < WARM) return;
      for (const name of ["total", "readback", "codec", "wait"] as const) into[name].push(times[name]);
    } else if (event.type === "done") into.peak["edge server"] = Number(event.peakMemoryBytes);
  });
  server.ended.then(() => listening.reject(new Error(server.errors)));
  const address = await listening.promise;
  const children = Array.from({ length: devices }, (_, i) =>
    new Child(`device ${i + 1}`, "user_device.ts", [
      ...["--server", `ws://${address}/join/ws`, "--token", token, "--name", `device-${i + 1}`],
      ...(i === 0 ? data : []),
    ], (event) => {
      if (event.type === "done") into.peak[`device ${i + 1}`] = Number(event.peakMemoryBytes);
    }));
  for (const child of [...children, server]) {
    if (await child.ended !== 0) throw new Error(`${child.name}: ${child.errors}`);
  }
}

async function main(): Promise<void> {
  const flags = readFlags({
    name: "bench_split.ts",
    about: "Measures a step of ServerTuner against vEdgeTuner with one and three devices on loopback.",
    examples: ["deno run -A bench/split.ts --steps 20 --rounds 2"],
  }, {
    steps: integer("N", 15, "steps of each system in a round", { min: WARM + 2 }),
    rounds: integer("N", 2, "rounds; the systems take turns", { min: 1 }),
    batch: integer("N", 8, "sequences per step", { min: 1 }),
    length: integer("N", 96, "tokens per sequence", { min: 2 }),
    report: text("FILE", "", "write the figures as JSON"),
  });
  const shared = ["--steps", `${flags.steps}`];
  const data = ["--batch", `${flags.batch}`, "--length", `${flags.length}`];
  const file = ["--data", assetPath("restaurant/train.txt")];
  const empty = (): Times => ({ total: [], readback: [], codec: [], wait: [], peak: {} });
  const systems = { "ServerTuner": empty(), "vEdgeTuner M=1": empty(), "vEdgeTuner M=3": empty() };
  for (let round = 0; round < flags.rounds; round++) {
    await serverTuner([...shared, ...data, ...file], systems["ServerTuner"]);
    await edgeTuner(1, shared, [...data, ...file], systems["vEdgeTuner M=1"]);
    await edgeTuner(3, shared, [...data, ...file], systems["vEdgeTuner M=3"]);
  }
  const floor = median(systems["ServerTuner"].total);
  console.log("median ms a step     total  ratio   own GPU   codec    wait  rest");
  for (const [name, t] of Object.entries(systems)) {
    const [total, readback, codec, wait] = [t.total, t.readback, t.codec, t.wait].map(median) as [
      number,
      number,
      number,
      number,
    ];
    const cell = (x: number, width: number) => (Number.isNaN(x) ? "" : x.toFixed(1)).padStart(width);
    console.log(
      `${name.padEnd(17)}${cell(total, 9)}${(total / floor).toFixed(2).padStart(7)}${cell(readback, 10)}${
        cell(codec, 8)
      }${cell(wait, 8)}${cell(total - readback - codec - wait, 6)}`,
    );
  }
  console.log(
    "\nown GPU: the edge server waits for its own results; wait: for devices, with nothing else left to do",
  );
  for (const [name, t] of Object.entries(systems)) {
    console.log(
      `peak memory, ${name}: ${Object.entries(t.peak).map(([p, b]) => `${p} ${bytes(b)}`).join(", ")}`,
    );
  }
  await writeReport(flags.report, { versions: versions(), settings: flags, systems });
}

if (import.meta.main) await runProgram(main);
