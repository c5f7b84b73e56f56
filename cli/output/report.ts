/**
 * Reports: what a run was and did, as JSON for plots and checks.
 *
 * @module
 */

import { writeWhole } from "@edgetuner/core";
import { resourceUsage } from "node:process";
import { Rows } from "./rows.ts";

/** Samples of memory at which every other one is left out. */
const MAX_SAMPLES = 512;

/** Versions that figures depend on. */
export function versions(): Record<string, string> {
  return {
    edgetuner: "0.2.0",
    deno: Deno.version.deno,
    v8: Deno.version.v8,
    os: `${Deno.build.os} ${Deno.build.arch}`,
  };
}

const STATUS = "/proc/self/status";

/** Peak memory of this process in bytes, where the system tells; else the present figure. */
export function peakMemory(): number {
  const mayRead = Deno.permissions.querySync({ name: "read", path: STATUS }).state === "granted";
  if (mayRead && Deno.build.os === "linux") {
    try {
      const line = Deno.readTextFileSync(STATUS).split("\n").find((l) => l.startsWith("VmHWM:"));
      if (line !== undefined) return Number(line.replace(/\D/g, "")) * 1024;
    } catch (error) {
      // Files of the system take more than the right to read, whatever was said when asked for that.
      if (!(error instanceof Deno.errors.NotCapable)) throw error;
    }
  }
  // Of a child of another process this counts what that one had when it started it.
  return Math.max(Deno.memoryUsage().rss, resourceUsage().maxRSS * 1024);
}

/** Memory of this process over the steps: a long run must not grow. */
export class MemoryLog {
  #samples: { readonly step: number; readonly residentBytes: number }[] = [];
  #every = 25;

  /** Resident bytes every 25 steps; in long runs every 50, 100 and so on. */
  get samples(): readonly { readonly step: number; readonly residentBytes: number }[] {
    return this.#samples;
  }

  /** Call after each step. */
  sample(step: number): void {
    if (step % this.#every !== 0) return;
    this.#samples.push({ step, residentBytes: Deno.memoryUsage().rss });
    if (this.#samples.length < MAX_SAMPLES) return;
    this.#every *= 2;
    this.#samples = this.#samples.filter(({ step }) => step % this.#every === 0);
  }
}

/** Writes a report, if a file was asked for. Lists that are `Rows` are copied from their files, row by row. */
export async function writeReport(file: string, report: Record<string, unknown>): Promise<void> {
  if (file === "") return;
  const encoder = new TextEncoder();
  await writeWhole(file, async ({ write }) => {
    const put = (text: string) => write(encoder.encode(text));
    let before = "{\n ";
    for (const [name, value] of Object.entries(report)) {
      if (value === undefined) continue;
      await put(`${before}${JSON.stringify(name)}: `);
      before = ",\n ";
      if (!(value instanceof Rows)) {
        await put(JSON.stringify(value, null, 1).replaceAll("\n", "\n "));
        continue;
      }
      let first = true;
      for await (const line of value.lines()) {
        await put(`${first ? "[" : ","}\n  ${line}`);
        first = false;
      }
      await put(first ? "[]" : "\n ]");
    }
    await put("\n}\n");
  });
}
