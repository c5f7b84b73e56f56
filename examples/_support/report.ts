/**
 * Reports: what a run was and did, as JSON for plots and checks.
 *
 * @module
 */

import { writeWhole } from "@edgetuner/core";
import { resourceUsage } from "node:process";

/** Versions that figures depend on. */
export function versions(): Record<string, string> {
  return {
    edgetuner: "0.1.0",
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
    const line = Deno.readTextFileSync(STATUS).split("\n").find((l) => l.startsWith("VmHWM:"));
    if (line !== undefined) return Number(line.replace(/\D/g, "")) * 1024;
  }
  // Of a child of another process this counts what that one had when it started it.
  return Math.max(Deno.memoryUsage().rss, resourceUsage().maxRSS * 1024);
}

/** Memory of this process over the steps: a long run must not grow. */
export class MemoryLog {
  /** Resident bytes every 25 steps. */
  readonly samples: { readonly step: number; readonly residentBytes: number }[] = [];

  /** Call after each step. */
  sample(step: number): void {
    if (step % 25 === 0) this.samples.push({ step, residentBytes: Deno.memoryUsage().rss });
  }
}

/** Writes a report, if a file was asked for. */
export async function writeReport(file: string, report: Record<string, unknown>): Promise<void> {
  if (file !== "") await writeWhole(file, `${JSON.stringify(report, null, 1)}\n`);
}
