/**
 * A system under test as a process of its own: it takes a step for each line that it reads.
 *
 * @module
 */

import { cpuUsage } from "node:process";
import { requestAdapter } from "@edgetuner/kernels";
import { SHAPES, type StepShape } from "./shapes.ts";

/** What a system does. */
export interface System extends AsyncDisposable {
  /** What runs and on which adapter. */
  readonly about: string;
  /** Takes a step and returns its loss, once all of its work is done. */
  step(): Promise<number>;
}

/** What a system is started with. */
export interface SystemOptions {
  /** Shape of model and batch. */
  readonly shape: StepShape;
  /** Full-width or head-sliced LoRA, or rank space; for EdgeTuner only. */
  readonly mode: "full" | "slice" | "core";
  /** True to keep the vocabulary table in one piece even if no binding holds it; for the others only. */
  readonly whole: boolean;
}

/** A line that a child writes. */
export type Report =
  | { readonly kind: "ready"; readonly about: string; readonly ms: number }
  | { readonly kind: "step"; readonly loss: number; readonly ms: number; readonly processorMs: number }
  | { readonly kind: "end"; readonly peakBytes: number }
  | { readonly kind: "failed"; readonly error: string };

/** What the lines of a report begin with; libraries may write other lines. */
export const MARK = "@report ";

function report(line: Report): void {
  // JSON has no NaN: the loss of a system that went wrong would read as null.
  console.log(
    MARK + JSON.stringify(line, (_, v) => typeof v === "number" && !Number.isFinite(v) ? String(v) : v),
  );
}

/** Processor milliseconds of all threads of this process so far. */
function processorMs(): number {
  const { user, system } = cpuUsage();
  return (user + system) / 1000;
}

/** Peak resident memory of this process, where the system tells it; else what is resident now. */
async function peakBytes(): Promise<number> {
  try {
    const status = await Deno.readTextFile("/proc/self/status");
    const match = /VmHWM:\s+(\d+) kB/.exec(status);
    if (match) return Number(match[1]) * 1024;
  } catch { /* not Linux */ }
  return Deno.memoryUsage().rss;
}

/** Runs a system: arguments are the shape's name, the mode and `whole` or `pieces`. */
export async function runChild(start: (options: SystemOptions) => Promise<System>): Promise<void> {
  const [name = "A", mode = "full", vocabulary = "pieces"] = Deno.args;
  try {
    const begun = performance.now();
    await using system = await start({
      shape: SHAPES[name]!,
      mode: mode === "slice" || mode === "core" ? mode : "full",
      whole: vocabulary === "whole",
    });
    report({ kind: "ready", about: system.about, ms: performance.now() - begun });
    let rest = "";
    for await (const chunk of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      for (const _ of lines) {
        const [before, used] = [performance.now(), processorMs()];
        const loss = await system.step();
        report({ kind: "step", loss, ms: performance.now() - before, processorMs: processorMs() - used });
      }
    }
    report({ kind: "end", peakBytes: await peakBytes() });
  } catch (error) {
    report({
      kind: "failed",
      error: error instanceof Error ? `${error.name}: ${error.message}` : String(error),
    });
    console.error(error);
  }
  // Libraries may keep a device, and with it the process, alive.
  Deno.exit();
}

/** The adapter's own name. */
export async function adapterName(): Promise<string> {
  // As the engine asks, so that all systems of the process take the same drivers.
  const { info } = await requestAdapter((navigator as { gpu?: GPU }).gpu);
  return info.description || info.device || info.vendor || "unknown adapter";
}
