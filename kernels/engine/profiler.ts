/**
 * Kernel times by timestamp queries.
 *
 * @module
 */

/** What one kernel took. */
export interface KernelTime {
  /** Name of the kernel. */
  readonly kernel: string;
  /** Times it ran. */
  readonly runs: number;
  /** Milliseconds in all. */
  readonly ms: number;
}

const QUERY_RESOLVE = 0x200;
const COPY_SRC = 0x4;
const COPY_DST = 0x8;
const MAP_READ = 0x1;

interface Batch {
  readonly names: readonly string[];
  readonly buffer: GPUBuffer;
}

/** Gives every dispatch a compute pass of its own with a timestamp at both ends. */
export class Profiler {
  readonly #device: GPUDevice;
  readonly #querySet: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #batches: Batch[] = [];
  #names: string[] = [];

  /** @param slots Dispatches in a batch at most. */
  constructor(device: GPUDevice, slots: number) {
    this.#device = device;
    this.#querySet = device.createQuerySet({ type: "timestamp", count: slots * 2 });
    this.#resolved = device.createBuffer({ size: slots * 16, usage: QUERY_RESOLVE | COPY_SRC });
  }

  /** Descriptor of the pass of the next dispatch. */
  passFor(kernel: string): GPUComputePassDescriptor {
    const index = this.#names.push(kernel) - 1;
    return {
      timestampWrites: {
        querySet: this.#querySet,
        beginningOfPassWriteIndex: index * 2,
        endOfPassWriteIndex: index * 2 + 1,
      },
    };
  }

  /** Resolves the timestamps of the batch that is about to be submitted. */
  resolve(encoder: GPUCommandEncoder): void {
    if (this.#names.length === 0) return;
    const bytes = this.#names.length * 16;
    const buffer = this.#device.createBuffer({ size: bytes, usage: COPY_DST | MAP_READ });
    encoder.resolveQuerySet(this.#querySet, 0, this.#names.length * 2, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, buffer, 0, bytes);
    this.#batches.push({ names: this.#names, buffer });
    this.#names = [];
  }

  /** Adds up what was timed and starts again. */
  async report(): Promise<KernelTime[]> {
    const sums = new Map<string, { runs: number; ms: number }>();
    for (const { names, buffer } of this.#batches.splice(0)) {
      await buffer.mapAsync(MAP_READ);
      const stamps = new BigUint64Array(buffer.getMappedRange());
      names.forEach((name, i) => {
        const sum = sums.get(name) ?? { runs: 0, ms: 0 };
        sum.runs++;
        sum.ms += Number(stamps[i * 2 + 1]! - stamps[i * 2]!) / 1e6;
        sums.set(name, sum);
      });
      buffer.unmap();
      buffer.destroy();
    }
    return [...sums].map(([kernel, { runs, ms }]) => ({ kernel, runs, ms })).sort((a, b) => b.ms - a.ms);
  }
}
