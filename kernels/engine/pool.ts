/**
 * Buffers and textures that are used again instead of being made again.
 *
 * @module
 */

import { GpuError } from "../errors.ts";

/** What a pool holds, for tests and reports. */
export interface PoolStats {
  /** Bytes of all GPU memory obtained and not yet destroyed. */
  allocatedBytes: number;
  /** Buffers and textures obtained and not yet destroyed. */
  allocatedCount: number;
  /** Bytes of that in use by live tensors. */
  liveBytes: number;
  /** Buffers and textures in use by live tensors. */
  liveCount: number;
}

/** A GPU resource that a pool hands out. */
export interface Pooled<T> {
  /** The GPU object. */
  readonly resource: T;
  /** Identity for bind group caching; never used twice. */
  readonly id: number;
  /** Size in bytes. */
  readonly bytes: number;
  /** Number of the command batch that touched it last; see `Engine.upload`. */
  lastBatch: number;
  /** Key under which it is kept while free. */
  readonly key: string;
}

/** Rounds a size up to one of four steps per power of two, so that near sizes share buffers. */
export function sizeClass(bytes: number): number {
  const least = Math.max(256, bytes);
  const step = Math.max(256, 2 ** (Math.ceil(Math.log2(least)) - 3));
  return Math.ceil(least / step) * step;
}

/** Rounds a size up as little as a buffer allows. */
export function exactSize(bytes: number): number {
  return Math.ceil(bytes / 256) * 256;
}

/**
 * A pool over one kind of resource. The free resource that was made first is used first, in whatever
 * order they came back: so equal steps find equal resources, and their bind groups.
 */
export class Pool<T extends { destroy(): void }> {
  readonly #free = new Map<string, Pooled<T>[]>();
  readonly #stats: PoolStats;
  readonly #maxBytes: number;
  #nextId: () => number;

  constructor(stats: PoolStats, nextId: () => number, maxBytes = Infinity) {
    this.#stats = stats;
    this.#nextId = nextId;
    this.#maxBytes = maxBytes;
  }

  /**
   * Takes a free resource of this key or makes one.
   *
   * @throws {GpuError} If all resources that count together would take more bytes than are allowed.
   */
  acquire(key: string, bytes: number, make: () => T): Pooled<T> {
    const free = this.#free.get(key)?.pop();
    if (free === undefined && this.#stats.allocatedBytes + bytes > this.#maxBytes) {
      throw new GpuError(
        `Out of memory: ${this.#stats.allocatedBytes} of at most ${this.#maxBytes} bytes are in use, and ${bytes} more are needed`,
      );
    }
    this.#stats.liveBytes += bytes;
    this.#stats.liveCount++;
    if (free !== undefined) return free;
    const resource = make();
    this.#stats.allocatedBytes += bytes;
    this.#stats.allocatedCount++;
    return { resource, id: this.#nextId(), bytes, lastBatch: -1, key };
  }

  /** Gives a resource back; it is handed out again to the next one who asks for this key. */
  release(pooled: Pooled<T>): void {
    this.#stats.liveBytes -= pooled.bytes;
    this.#stats.liveCount--;
    let list = this.#free.get(pooled.key);
    if (list === undefined) this.#free.set(pooled.key, list = []);
    let place = list.length;
    while (place > 0 && list[place - 1]!.id < pooled.id) place--;
    list.splice(place, 0, pooled); // highest id first: acquire takes the last
  }

  /** Destroys everything that is free. */
  trim(onDestroy: (id: number) => void): void {
    for (const list of this.#free.values()) {
      for (const pooled of list) {
        pooled.resource.destroy();
        onDestroy(pooled.id);
        this.#stats.allocatedBytes -= pooled.bytes;
        this.#stats.allocatedCount--;
      }
    }
    this.#free.clear();
  }
}
