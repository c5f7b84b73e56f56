/**
 * Reading results back from the GPU.
 *
 * Deno resolves `mapAsync` a fixed 10 ms after the work is done: it polls the device once, inside
 * the call, then sleeps. The data is there right after the call, though, and `getMappedRange`
 * returns it if the buffer was mapped at any time before (Deno 2.9 aborts the process otherwise,
 * so buffers here are mapped at creation). `eager` takes it then, in 0.3 ms; `await` waits for
 * the promise as every other implementation needs.
 *
 * @module
 */

import { sizeClass } from "./pool.ts";
import type { CommandQueue } from "./queue.ts";
import type { Tensor } from "./tensor.ts";

/** How results are read back: `eager` takes them as soon as they are there, `await` waits for the promise. */
export type ReadbackMode = "eager" | "await";

/** A buffer that results are copied to. */
export interface StagingBuffer {
  /** The mappable buffer. */
  readonly buffer: GPUBuffer;
  /** Its size in bytes. */
  readonly size: number;
  /** False while a mapping is pending. */
  free: boolean;
}

/**
 * Mappings whose promises may be unsettled before the event loop gets a turn. It settles them, and a loop of steps
 * that waits for nothing but results never lets it: each would be kept, with what its runtime holds, for ever.
 */
const MAX_UNSETTLED = 32;

const MAP_READ = 0x1;
const COPY_DST = 0x8;

/** The mode for this runtime: eager only where it was seen to work. */
function defaultMode(): ReadbackMode {
  const version = (globalThis as { Deno?: { version?: { deno?: string } } }).Deno?.version?.deno;
  return version !== undefined && /^2\.9\./.test(version) ? "eager" : "await";
}

/** Staging buffers and the way to wait for them. */
export class Readback {
  readonly #device: GPUDevice;
  readonly #pool = new Map<number, StagingBuffer[]>();
  #mode: ReadbackMode;
  #unsettled = 0;

  constructor(device: GPUDevice, mode?: ReadbackMode | undefined) {
    this.#device = device;
    // Another implementation's device (Dawn's, a browser's) never needs or allows eager reading.
    const own = (globalThis as { GPUDevice?: unknown }).GPUDevice;
    const isRuntimes = typeof own === "function" && device instanceof own;
    this.#mode = mode ?? (isRuntimes ? defaultMode() : "await");
  }

  /**
   * Reads tensors back in one go; everything is recorded and submitted before the first wait.
   *
   * @param queue The device's queue.
   * @param tensors What is read.
   * @returns rows * columns values of each, without padding.
   */
  async read(queue: CommandQueue, tensors: readonly Tensor[]): Promise<Float32Array<ArrayBuffer>[]> {
    const buffers = tensors.map((tensor) => tensor.buffer);
    const bytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
    const staging = this.acquire(bytes);
    const encoder = queue.encoder();
    let offset = 0;
    tensors.forEach((tensor, i) => {
      queue.touch(buffers[i]!);
      encoder.copyBufferToBuffer(buffers[i]!.resource, 0, staging.buffer, offset, tensor.bytes);
      offset += tensor.bytes;
    });
    queue.flush();
    const all = await this.finish(staging, bytes);
    offset = 0;
    return tensors.map(({ rows, columns, pitch, bytes }) => {
      const padded = new Float32Array(all, offset, rows * pitch);
      offset += bytes;
      if (pitch === columns) return tensors.length === 1 ? padded : padded.slice();
      const out = new Float32Array(rows * columns);
      for (let r = 0; r < rows; r++) {
        out.set(padded.subarray(r * pitch, r * pitch + columns), r * columns);
      }
      return out;
    });
  }

  /** A staging buffer of at least this many bytes. */
  acquire(bytes: number): StagingBuffer {
    const size = sizeClass(bytes);
    let list = this.#pool.get(size);
    if (list === undefined) this.#pool.set(size, list = []);
    let staging = list.find((s) => s.free);
    if (staging === undefined) {
      const buffer = this.#device.createBuffer({
        label: `readback of ${size} bytes`,
        size,
        usage: MAP_READ | COPY_DST,
        mappedAtCreation: true,
      });
      buffer.unmap();
      staging = { buffer, size, free: true };
      list.push(staging);
    }
    staging.free = false;
    return staging;
  }

  /** Waits for the copies submitted to `staging` and returns its first `bytes` bytes. */
  async finish(staging: StagingBuffer, bytes: number): Promise<ArrayBuffer> {
    const mapped = staging.buffer.mapAsync(MAP_READ, 0, bytes);
    if (this.#mode === "eager") {
      let copy: ArrayBuffer | null = null;
      try {
        copy = staging.buffer.getMappedRange(0, bytes).slice(0);
      } catch {
        // Not there yet: this runtime does not poll inside mapAsync after all.
        this.#mode = "await";
      }
      if (copy !== null) {
        // Not when the promise resolves: a caller that awaits nothing else would never let it, and
        // every read would take a new buffer.
        staging.buffer.unmap();
        staging.free = true;
        this.#unsettled++;
        const settled = () => void this.#unsettled--;
        mapped.then(settled, settled); // an error says that the device is gone; nothing will use this buffer again
        if (this.#unsettled > MAX_UNSETTLED) await new Promise((resolve) => setTimeout(resolve, 0));
        return copy;
      }
    }
    await mapped;
    const copy = staging.buffer.getMappedRange(0, bytes).slice(0);
    staging.buffer.unmap();
    staging.free = true;
    return copy;
  }

  /** Destroys all staging buffers. */
  dispose(): void {
    for (const list of this.#pool.values()) for (const { buffer } of list) buffer.destroy();
    this.#pool.clear();
  }
}
