/**
 * Tables, and the machine that figures are from.
 *
 * @module
 */

import { cpus } from "node:os";
import { adapterName } from "./child.ts";

/** The machine, for figures to be read with. */
export interface Machine {
  /** The adapter's own name. */
  readonly adapter: string;
  /** Processor and number of cores. */
  readonly processor: string;
  /** Versions of Deno and V8. */
  readonly deno: string;
  /** Load averages over 1, 5 and 15 minutes when the run began. */
  readonly load: readonly number[];
}

/** Describes the machine. */
export async function describeMachine(): Promise<Machine> {
  const cores = cpus();
  return {
    adapter: await adapterName(),
    processor: `${cores.length} x ${cores[0]?.model.trim() ?? "unknown processor"}`,
    deno: `${Deno.version.deno} (V8 ${Deno.version.v8})`,
    load: loadNow(),
  };
}

/** Load averages over 1, 5 and 15 minutes. */
export function loadNow(): number[] {
  return Deno.loadavg().map((load) => Math.round(load * 100) / 100);
}

/** A machine in lines of text. */
export function machineText({ adapter, processor, deno, load }: Machine): string {
  return `adapter    ${adapter}\nprocessor  ${processor}\ndeno       ${deno}\nload       ${load.join(" ")}`;
}

/** A table: the first column to the left, the others to the right. */
export function tableText(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows.map((row) =>
    row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)).join("  ").trimEnd()
  ).join("\n");
}

/** A number with as many digits as it deserves. */
export function numberText(value: number): string {
  if (!Number.isFinite(value)) return "-";
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}
