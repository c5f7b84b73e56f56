/**
 * What a step of an edge server costs.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { RunMember } from "./run_member.ts";

/** What a step cost, told apart from what its probe did: the step's own figures compare with other pruners'. */
export class StepMeter {
  readonly #counters: () => Counters;
  #before: Counters;
  #probe: Counters | null = null;
  /** The clock when the step began. */
  startedAt = 0;

  constructor(counters: () => Counters) {
    this.#counters = counters;
    this.#before = counters();
  }

  /** Bytes sent and received before the step. */
  get bytesBefore(): number {
    return this.#before.bytes;
  }

  begin(now: number): void {
    this.#before = this.#counters();
    this.#probe = null;
    this.startedAt = now;
  }

  async probe<T>(task: () => Promise<T>): Promise<T> {
    const before = this.#counters();
    const result = await task();
    this.#probe = difference(this.#counters(), before);
    return result;
  }

  /** Since the step began; the probe's bytes are `null` without one. */
  spent(): Counters & { readonly probeBytes: number | null } {
    const all = difference(this.#counters(), this.#before);
    if (this.#probe === null) return { ...all, probeBytes: null };
    return { ...difference(all, this.#probe), probeBytes: this.#probe.bytes };
  }
}

/** Milliseconds and bytes. */
export type Counters = Readonly<Record<"readback" | "codec" | "wait" | "bytes", number>>;

/** What was spent so far. */
export function countersOf(
  { stats: { readbackMs: readback } }: Engine,
  { members, waits, bytes }: {
    readonly members: readonly Pick<RunMember, "peer">[];
    readonly waits: readonly { readonly waitMs: number }[];
    readonly bytes: number;
  },
): Counters {
  const codec = members.reduce((sum, { peer }) => sum + peer.times.codecMs, 0);
  const wait = waits.reduce((sum, { waitMs }) => sum + waitMs, 0);
  return { readback, codec, wait, bytes };
}

function difference(a: Counters, b: Counters): Counters {
  return {
    readback: a.readback - b.readback,
    codec: a.codec - b.codec,
    wait: a.wait - b.wait,
    bytes: a.bytes - b.bytes,
  };
}
