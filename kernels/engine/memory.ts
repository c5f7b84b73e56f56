/**
 * Buffers and textures of an engine.
 *
 * @module
 */

import type { AdapterClass } from "./adapter.ts";
import { BUFFER_USAGE, TEXTURE_USAGE } from "./device.ts";
import { Pool, type Pooled, type PoolStats } from "./pool.ts";
import type { Tensor } from "./tensor.ts";

/** Pools of buffers and textures of one device. */
export class Memory {
  readonly #device: GPUDevice;
  readonly #adapterClass: AdapterClass;
  readonly #buffers: Pool<GPUBuffer>;
  readonly #textures: Pool<GPUTexture>;
  readonly #views = new Map<number, GPUTextureView>();
  #nextId = 0;

  /**
   * @param device Where memory is obtained.
   * @param adapterClass Which form of the kernels reads it.
   * @param budget Counts what is obtained, and the most bytes of it.
   */
  constructor(
    device: GPUDevice,
    adapterClass: AdapterClass,
    { stats, maxBytes }: { readonly stats: PoolStats; readonly maxBytes: number },
  ) {
    this.#device = device;
    this.#adapterClass = adapterClass;
    const nextId = () => this.#nextId++;
    this.#buffers = new Pool(stats, nextId, maxBytes);
    this.#textures = new Pool(stats, nextId, maxBytes);
  }

  /** A buffer of so many bytes, with any content. */
  acquireBuffer(size: number): Pooled<GPUBuffer> {
    return this.#buffers.acquire(`b${size}`, size, () =>
      this.#device.createBuffer({
        label: `pooled buffer of ${size} bytes`,
        size,
        usage: BUFFER_USAGE.STORAGE | BUFFER_USAGE.COPY_SRC | BUFFER_USAGE.COPY_DST,
      }));
  }

  /** Takes a buffer back. */
  releaseBuffer(buffer: Pooled<GPUBuffer>): void {
    this.#buffers.release(buffer);
  }

  /** An `rgba32float` texture of at least these sides. */
  acquireTexture(width: number, rows: number): Pooled<GPUTexture> {
    const [w, h] = this.#adapterClass === "software" ? softwareTextureSize(width, rows) : [width, rows];
    return this.#textures.acquire(`t${width}x${rows}`, w * h * 16, () =>
      this.#device.createTexture({
        label: `pooled texture of ${w} x ${h}`,
        size: [w, h],
        format: "rgba32float",
        usage: TEXTURE_USAGE.COPY_DST | TEXTURE_USAGE.STORAGE_BINDING,
      }));
  }

  /** Takes a texture back. */
  releaseTexture(texture: Pooled<GPUTexture>): void {
    this.#textures.release(texture);
  }

  /** The view of a texture; always the same one. */
  viewOf(texture: Pooled<GPUTexture>): GPUTextureView {
    let view = this.#views.get(texture.id);
    if (view === undefined) this.#views.set(texture.id, view = texture.resource.createView());
    return view;
  }

  /** Takes the texture copies of a tensor back, as its content changes. */
  dropStaged(tensor: Tensor): void {
    if (tensor.staged === null) return;
    for (const { texture } of tensor.staged) this.releaseTexture(texture);
    tensor.staged = null;
  }

  /** Destroys everything that is free. */
  trim(): void {
    this.#buffers.trim(() => {});
    this.#textures.trim((id) => this.#views.delete(id));
  }
}

/**
 * Size of a texture that a software adapter reads fast. Rows a multiple of 4096 bytes apart fall on
 * the same cache sets: 16 texels more avoid it (31 -> 44 GFLOP/s on llvmpipe). And llvmpipe compiles
 * a kernel anew, 0.4 s each time, for every combination of sides that are powers of two and sides
 * that are not: so no side ever is.
 */
function softwareTextureSize(width: number, rows: number): [number, number] {
  const avoidPower = (side: number) => {
    while ((side & (side - 1)) === 0) side++;
    return side;
  };
  return [width % 256 === 0 ? width + 16 : avoidPower(width), avoidPower(rows)];
}
