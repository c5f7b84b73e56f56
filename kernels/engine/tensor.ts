/**
 * Typed handles to matrices in GPU memory, and what their engine does for kernels.
 *
 * Layout, the same everywhere: row-major with a **pitch**: every row starts at a multiple of four
 * elements, `pitch = ceil(columns / 4) * 4`, and the elements between `columns` and `pitch` are
 * zero. So every kernel reads and writes whole `vec4`s at any shape, and padding never shows.
 *
 * @module
 */

import type { AdapterClass } from "./adapter.ts";
import type { Kernel } from "./kernel.ts";
import { type Pooled, sizeClass } from "./pool.ts";
import type { KernelTime } from "./profiler.ts";
import type { EngineStats } from "./stats.ts";

/** Element type: 32-bit float or 32-bit unsigned integer. */
export type DType = "f32" | "u32";

/** Rounds up to a multiple of four. */
export function roundUp4(n: number): number {
  return (n + 3) & ~3;
}

/** Bytes that a tensor takes of an engine's memory: those of its buffer, which is rounded up so that others fit it too. */
export function tensorBytes(rows: number, columns: number): number {
  return sizeClass(rows * Math.ceil(columns / 4) * 16);
}

/** Whole rows, each padded with zeros to a multiple of four elements. */
export function padRows(data: Float32Array | Uint32Array, columns: number): Float32Array | Uint32Array {
  const pitch = roundUp4(columns);
  const size = data.length / columns * pitch;
  const padded = data instanceof Uint32Array ? new Uint32Array(size) : new Float32Array(size);
  for (let r = 0; r * columns < data.length; r++) {
    padded.set(data.subarray(r * columns, (r + 1) * columns), r * pitch);
  }
  return padded;
}

/** A copy of a tensor as `rgba32float` textures of at most the adapter's side length of rows each. */
export interface StagedTexture {
  /** Texture of one row window. */
  readonly texture: Pooled<GPUTexture>;
  /** View bound to kernels. */
  readonly view: GPUTextureView;
  /** First row of the window. */
  readonly row: number;
  /** Rows in the window. */
  readonly rows: number;
}

/** Some rows of a tensor, bound in place of the whole; it does not own them. */
export class RowWindow {
  /** The tensor. */
  readonly tensor: Tensor;
  /** First row. */
  readonly row: number;
  /** Number of rows. */
  readonly rows: number;

  /** Made by `Tensor.windows`. */
  constructor(tensor: Tensor, row: number, rows: number) {
    this.tensor = tensor;
    this.row = row;
    this.rows = rows;
  }

  /** Byte offset of the first row; a multiple of 256. */
  get offset(): number {
    return this.row * this.tensor.pitch * 4;
  }

  /** Bytes of the rows. */
  get bytes(): number {
    return this.rows * this.tensor.pitch * 4;
  }
}

/** Windows start at multiples of this many rows, which are multiples of 256 bytes. */
export const WINDOW_ROWS = 16;

/** What a tensor is, apart from its memory. */
export interface TensorForm {
  /** Number of rows. */
  readonly rows: number;
  /** Number of columns, without padding. */
  readonly columns: number;
  /** Element type. */
  readonly dtype: DType;
  /** Name for error messages and GPU debuggers. */
  readonly label: string;
}

/**
 * A matrix [rows, columns] in GPU memory. It belongs to whoever made it: declare it with `using`,
 * or dispose it; its memory then goes back to the engine's pool. Using it afterwards throws.
 *
 * @category GPU
 */
export class Tensor implements Disposable {
  /** The engine that holds it. */
  readonly engine: TensorEngine;
  /** Number of rows. */
  readonly rows: number;
  /** Number of columns, without padding. */
  readonly columns: number;
  /** Elements from one row to the next; a multiple of four. */
  readonly pitch: number;
  /** Element type. */
  readonly dtype: DType;
  /** Name for error messages and GPU debuggers. */
  readonly label: string;
  #buffer: Pooled<GPUBuffer> | null;
  /** Textures that hold the same content, made when a kernel asks and dropped when it changes. */
  staged: StagedTexture[] | null = null;

  /** Made by `Engine.tensor`, `Engine.upload` and kernels; not called directly. */
  constructor(
    engine: TensorEngine,
    buffer: Pooled<GPUBuffer>,
    { rows, columns, dtype, label }: TensorForm,
  ) {
    this.engine = engine;
    this.rows = rows;
    this.columns = columns;
    this.pitch = roundUp4(columns);
    this.dtype = dtype;
    this.label = label;
    this.#buffer = buffer;
  }

  /** Bytes of content, padding included. */
  get bytes(): number {
    return this.rows * this.pitch * 4;
  }

  /** Byte offset within the buffer: always 0. */
  get offset(): number {
    return 0;
  }

  /**
   * The rows from `row` on in windows that fit one binding of the adapter. A kernel that works row
   * by row runs once per window and so serves tensors of any size.
   *
   * @param row First row; a multiple of 16.
   * @param rows Number of rows. @default {all}
   */
  windows(row = 0, rows: number = this.rows - row): RowWindow[] {
    if (this.bytes <= this.engine.maxBindingBytes) return [new RowWindow(this, row, rows)];
    const most = Math.floor(this.engine.maxBindingBytes / (this.pitch * 4) / WINDOW_ROWS) * WINDOW_ROWS;
    if (most === 0) {
      throw new RangeError(
        `Cannot split tensor "${this.label}" as ${WINDOW_ROWS} rows must fit a binding of ${this.engine.maxBindingBytes} bytes: a row has ${
          this.pitch * 4
        }`,
      );
    }
    const all: RowWindow[] = [];
    for (let r = 0; r < rows; r += most) all.push(new RowWindow(this, row + r, Math.min(most, rows - r)));
    return all;
  }

  /**
   * A window that holds the rows from any `row` on: it starts up to 15 rows before.
   *
   * @param row First row that is needed.
   * @param rows Number of rows.
   */
  windowAt(row: number, rows: number): RowWindow {
    const first = row - row % WINDOW_ROWS;
    return new RowWindow(this, first, row + rows - first);
  }

  /** True once disposed. */
  get disposed(): boolean {
    return this.#buffer === null;
  }

  /**
   * The buffer behind this tensor.
   *
   * @throws {TypeError} If the tensor was disposed.
   */
  get buffer(): Pooled<GPUBuffer> {
    if (this.#buffer === null) {
      throw new TypeError(
        `Cannot use tensor "${this.label}" as it must not be disposed: it was disposed before`,
      );
    }
    return this.#buffer;
  }

  /** Gives the memory back to the pool. Idempotent. */
  dispose(): void {
    if (this.#buffer === null) return;
    this.engine.release(this, this.#buffer);
    this.#buffer = null;
  }

  /** As `dispose`; called at the end of a `using` scope. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Reads the content back, rows * columns elements without padding. */
  read(): Promise<Float32Array<ArrayBuffer>> {
    return this.engine.read([this]).then((all) => all[0]!);
  }
}

/** A tensor, or some of its rows as a buffer or as a texture, bound to a kernel. */
export type Bindable = Tensor | RowWindow | StagedTexture;

/** One dispatch. */
export interface Dispatch<P extends string, B extends string> {
  /** What is bound to group 0, by name. */
  readonly bindings: Readonly<Record<B, Bindable>>;
  /** Values of the uniform struct, by name. */
  readonly parameters: Readonly<Record<P, number>>;
  /** Workgroups in x, y, z; y and z default to 1. */
  readonly workgroups: readonly [number, number?, number?];
}

/** An engine: a GPU device with its pools, pipelines and command queue. `Engine.create` makes it. */
export interface TensorEngine extends Disposable {
  /** The WebGPU device. */
  readonly device: GPUDevice;
  /** Which form of the kernels is used. */
  readonly adapterClass: AdapterClass;
  /** What the adapter calls itself. */
  readonly adapterName: string;
  /** Largest storage binding in bytes. */
  readonly maxBindingBytes: number;
  /** Largest texture side in texels. */
  readonly maxTextureSide: number;
  /** Four zeros: bound where a kernel's optional input is absent. */
  readonly nullInput: Tensor;
  /** Bound where a kernel's optional output is absent. */
  readonly nullOutput: Tensor;
  /** (1, 1, 1, 1): a factor that changes nothing. */
  readonly unitScale: Tensor;
  /** Counters, as they are now. */
  readonly stats: EngineStats;
  /** Makes a tensor with undefined content; the kernel that fills it writes the padding too. */
  tensor(rows: number, columns: number, label?: string, dtype?: DType): Tensor;
  /**
   * As `tensor`, in a buffer of no more than its own size (`exactSize`): for weights, which live as long as
   * their model. Other sizes are rounded up by as much as a quarter, so that tensors can share buffers.
   */
  allocateExact(rows: number, columns: number, label?: string, dtype?: DType): Tensor;
  /** Makes a tensor of zeros. */
  zeros(rows: number, columns: number, label?: string): Tensor;
  /** Sets every element to zero. */
  clear(tensor: Tensor): void;
  /**
   * Makes a tensor from rows * columns values.
   *
   * @throws {RangeError} If the number of values is another one.
   */
  upload(
    data: Float32Array | Uint32Array,
    rows: number,
    columns: number,
    label?: string,
  ): Tensor;
  /**
   * Replaces the content of a tensor by rows * columns values.
   *
   * @throws {RangeError} If the number of values is another one.
   */
  write(tensor: Tensor, data: Float32Array | Uint32Array): void;
  /**
   * Replaces some rows of a tensor.
   *
   * @param tensor The tensor.
   * @param first First row.
   * @param data Values of whole rows.
   * @throws {RangeError} If the values are not whole rows, or more than the tensor has from there on.
   */
  writeRows(tensor: Tensor, first: number, data: Float32Array | Uint32Array): void;
  /**
   * Reads tensors back in one go, each rows * columns values without padding. All work recorded
   * so far is submitted and waited for.
   *
   * @throws {GpuError} If any earlier work failed.
   */
  read(tensors: readonly Tensor[]): Promise<Float32Array<ArrayBuffer>[]>;
  /**
   * Lets the event loop turn once, so that what was sent leaves before this thread waits for the GPU
   * again. Use it instead of a timer: whoever must know whether work goes on finds it in `stats`.
   */
  yieldToEventLoop(): Promise<void>;
  /** Waits until all work recorded so far is done. */
  idle(): Promise<void>;
  /** Copies the content of one tensor to another of the same shape. */
  copy(from: Tensor, to: Tensor): void;
  /**
   * Copies some rows of one tensor to rows of another one with as many columns.
   *
   * @param from The tensor to copy from.
   * @param to The tensor to copy to.
   * @param rows First rows and number of rows; without them as many rows as both have.
   */
  copyRows(
    from: Tensor,
    to: Tensor,
    rows?: { readonly fromRow?: number; readonly toRow?: number; readonly rows?: number },
  ): void;
  /** Records one dispatch of a kernel. Tensors bound as `write` lose their texture copies. */
  dispatch<P extends string, B extends string>(kernel: Kernel<P, B>, dispatch: Dispatch<P, B>): void;
  /** Submits what is recorded. Called by itself when a batch is full and before a readback. */
  flush(): void;
  /**
   * Time that each kernel took since the last call, longest first.
   *
   * @throws {TypeError} If the engine was not created with `profile` true.
   */
  profile(): Promise<KernelTime[]>;
  /**
   * Compiles kernels now instead of at their first dispatch.
   *
   * @throws {ShaderError} If one does not compile.
   */
  compile(kernels: readonly Kernel[]): Promise<void>;
  /**
   * Throws if the GPU has reported a failure. An engine that failed stays failed.
   *
   * @throws {GpuError} The first failure.
   */
  throwIfFailed(): void;
  /**
   * The tensor as textures, copied from its buffer unless that was done before and the content is
   * unchanged. Storage textures are what software adapters read fastest.
   */
  stage(tensor: Tensor): readonly StagedTexture[];
  /** Copies a window to a texture of its own; give it back with `releaseStaged`. */
  stageWindow(window: RowWindow): StagedTexture;
  /** Gives back a texture of `stageWindow`, after the last dispatch that reads it was recorded. */
  releaseStaged(staged: StagedTexture): void;
  /** Takes back a tensor's memory; called by `Tensor.dispose`. */
  release(tensor: Tensor, buffer: Pooled<GPUBuffer>): void;
  /** Destroys pooled memory that no tensor uses, after the work that used it. */
  trim(): Promise<void>;
  /** Destroys the device and all its memory. */
  dispose(): void;
  /** As `dispose`; called at the end of a `using` scope. */
  [Symbol.dispose](): void;
}
