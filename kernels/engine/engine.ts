/**
 * The engine: one GPU device, its memory and its command queue.
 *
 * Work is recorded and submitted in batches; nothing is waited for until something is read back.
 *
 * @module
 */

import {
  type AdapterClass,
  adapterClass,
  canReadTextures,
  type FeatureLevel,
  requestAdapter,
} from "./adapter.ts";
import { openDevice } from "./device.ts";
import { Failures } from "./failures.ts";
import type { Kernel } from "./kernel.ts";
import { Memory } from "./memory.ts";
import { Pipelines } from "./pipelines.ts";
import { exactSize, type Pooled, sizeClass } from "./pool.ts";
import type { KernelTime } from "./profiler.ts";
import { CommandQueue } from "./queue.ts";
import { Readback, type ReadbackMode } from "./readback.ts";
import { stageKernel } from "./stage.ts";
import { type EngineStats, noStats } from "./stats.ts";
import {
  type Dispatch,
  type DType,
  padRows,
  roundUp4,
  type RowWindow,
  type StagedTexture,
  Tensor,
  type TensorEngine,
  type TensorForm,
} from "./tensor.ts";

/** Options of `Engine.create`. */
export interface EngineOptions {
  /** The WebGPU implementation. @default {navigator.gpu} */
  readonly gpu?: GPU | undefined;
  /** Overrides the adapter class, to test the other class's kernels. @default {as the adapter says} */
  readonly adapterClass?: AdapterClass | undefined;
  /**
   * Let kernels measure on this adapter which of their variants is the fastest: some tens of milliseconds.
   *
   * @default {true on a GPU, false if its form is only tested on a software adapter}
   */
  readonly prepare?: boolean | undefined;
  /** How results are read back; see `Readback`. @default {chosen for the runtime} */
  readonly readback?: ReadbackMode | undefined;
  /** Time every kernel with timestamp queries; see `profile`. Slows everything down. @default {false} */
  readonly profile?: boolean | undefined;
  /** Most bytes of GPU memory to hold; more is an error. @default {no limit but the adapter's} */
  readonly maxMemoryBytes?: number | undefined;
  /**
   * What kind of adapter to ask for. With `"compatibility"` the oldest GPUs take part too: those of OpenGL ES 3.1.
   *
   * @default {"core", and "compatibility" where there is none}
   */
  readonly featureLevel?: FeatureLevel | undefined;
  /** `"default"` takes the limits that every WebGPU has, to see what weak devices do. @default {"adapter"} */
  readonly limits?: "adapter" | "default" | undefined;
  /** Lowers the largest storage binding in bytes, to test splitting. @default {the adapter's limit} */
  readonly maxBindingBytes?: number | undefined;
  /** Lowers the largest texture side, to test splitting. @default {the adapter's limit} */
  readonly maxTextureSide?: number | undefined;
}

const MAX_WORKGROUPS = 65_535;

const preparations: ((engine: Engine) => Promise<void>)[] = [];

/** Has every engine that is created from now on measured by kernels that have variants; see `EngineOptions.prepare`. */
export function prepareEngines(prepare: (engine: Engine) => Promise<void>): void {
  preparations.push(prepare);
}

/** The engine on WebGPU. */
class GpuEngine implements Engine {
  readonly device: GPUDevice;
  readonly adapterClass: AdapterClass;
  readonly adapterName: string;
  readonly maxBindingBytes: number;
  readonly maxTextureSide: number;
  readonly #stats: EngineStats = noStats();
  readonly #failures: Failures;
  readonly #memory: Memory;
  readonly #queue: CommandQueue;
  readonly #pipelines: Pipelines;
  readonly #readback: Readback;
  readonly nullInput: Tensor;
  readonly nullOutput: Tensor;
  readonly unitScale: Tensor;
  #disposed = false;

  private constructor(device: GPUDevice, adapter: GPUAdapter, options: EngineOptions) {
    this.device = device;
    this.adapterClass = options.adapterClass ?? adapterClass(adapter);
    this.adapterName = adapter.info.description || adapter.info.device || adapter.info.vendor ||
      "unknown adapter";
    const limit = device.limits;
    this.maxBindingBytes = Math.min(limit.maxStorageBufferBindingSize, options.maxBindingBytes ?? Infinity);
    // Leaves room for padding; a multiple of 16, as row windows start at multiples of that.
    this.maxTextureSide = Math.min(limit.maxTextureDimension2D - 16, options.maxTextureSide ?? Infinity) &
      ~15;
    this.#failures = new Failures(device);
    const { maxMemoryBytes = Infinity } = options;
    this.#memory = new Memory(device, this.adapterClass, { stats: this.#stats, maxBytes: maxMemoryBytes });
    this.#queue = new CommandQueue(device, this.#failures, this.#stats, options);
    this.#pipelines = new Pipelines({
      device,
      failures: this.#failures,
      memory: this.#memory,
      parameterLayout: this.#queue.parameterLayout,
      maxBindingBytes: this.maxBindingBytes,
    });
    this.#readback = new Readback(device, options.readback);
    this.nullInput = this.zeros(1, 4, "absent input");
    this.nullOutput = this.zeros(1, 4, "absent output");
    this.unitScale = this.upload(new Float32Array(4).fill(1), 1, 4, "unit scale");
  }

  /**
   * Opens a device on the best adapter, with the adapter's own limits.
   *
   * @throws {NoAdapterError} If there is no WebGPU or no adapter.
   */
  static async create(options: EngineOptions = {}): Promise<Engine> {
    const gpu = options.gpu ?? (globalThis.navigator as { gpu?: GPU } | undefined)?.gpu;
    const adapter = await requestAdapter(gpu, options.featureLevel);
    const device = await openDevice(adapter, options.limits);
    // Without storage textures that can be read, only the form for GPUs runs.
    const form = canReadTextures(gpu) ? {} : { adapterClass: "hardware" as const };
    const engine = new GpuEngine(device, adapter, { ...form, ...options });
    const isGpu = adapterClass(adapter) === "hardware" && engine.adapterClass === "hardware";
    if (options.prepare ?? isGpu) {
      for (const prepare of preparations) await prepare(engine);
    }
    return engine;
  }

  get stats(): EngineStats {
    const { bindGroups, pipelines } = this.#pipelines;
    return { ...this.#stats, bindGroups, pipelines };
  }

  tensor(rows: number, columns: number, label = "tensor", dtype: DType = "f32"): Tensor {
    return this.#tensor({ rows, columns, label, dtype }, sizeClass);
  }

  allocateExact(rows: number, columns: number, label = "weights", dtype: DType = "f32"): Tensor {
    return this.#tensor({ rows, columns, label, dtype }, exactSize);
  }

  #tensor(form: TensorForm, sizeOf: (bytes: number) => number): Tensor {
    const { rows, columns, label } = form;
    if (!(Number.isInteger(rows) && rows > 0 && Number.isInteger(columns) && columns > 0)) {
      throw new RangeError(
        `Cannot make tensor "${label}" as rows and columns must be positive integers: current shape is [${rows}, ${columns}]`,
      );
    }
    const bytes = rows * roundUp4(columns) * 4;
    if (bytes > this.device.limits.maxBufferSize) {
      throw new RangeError(
        `Cannot make tensor "${label}" [${rows}, ${columns}] as it must fit a buffer of ${this.device.limits.maxBufferSize} bytes: it needs ${bytes}`,
      );
    }
    const size = sizeOf(bytes);
    const buffer = this.#memory.acquireBuffer(size);
    this.#stats.tensors++;
    return new Tensor(this, buffer, form);
  }

  zeros(rows: number, columns: number, label = "zeros"): Tensor {
    const tensor = this.tensor(rows, columns, label);
    this.clear(tensor);
    return tensor;
  }

  clear(tensor: Tensor): void {
    this.#queue.touch(tensor.buffer);
    this.#memory.dropStaged(tensor);
    this.#queue.encoder().clearBuffer(tensor.buffer.resource, 0, tensor.bytes);
  }

  upload(
    data: Float32Array | Uint32Array,
    rows: number,
    columns: number,
    label = "upload",
  ): Tensor {
    requireValues(label, rows, columns, data);
    const tensor = this.tensor(rows, columns, label, data instanceof Uint32Array ? "u32" : "f32");
    this.write(tensor, data);
    return tensor;
  }

  write(tensor: Tensor, data: Float32Array | Uint32Array): void {
    requireValues(tensor.label, tensor.rows, tensor.columns, data);
    this.writeRows(tensor, 0, data);
  }

  writeRows(tensor: Tensor, first: number, data: Float32Array | Uint32Array): void {
    const { columns, pitch } = tensor;
    const rows = data.length / columns;
    if (!Number.isInteger(rows) || first < 0 || first + rows > tensor.rows) {
      throw new RangeError(
        `Cannot write rows of tensor "${tensor.label}" [${tensor.rows}, ${columns}] as they must be whole and lie in it: ${data.length} values from row ${first} on`,
      );
    }
    this.#memory.dropStaged(tensor);
    const source = pitch === columns ? data : padRows(data, columns);
    this.#queue.write(tensor.buffer, first * pitch * 4, source);
  }

  async read(tensors: readonly Tensor[]): Promise<Float32Array<ArrayBuffer>[]> {
    this.#stats.pending++;
    try {
      return await this.#read(tensors);
    } finally {
      this.#stats.pending--;
    }
  }

  async yieldToEventLoop(): Promise<void> {
    this.#stats.pending++;
    try {
      await new Promise((resolve) => setTimeout(resolve, 0));
    } finally {
      this.#stats.pending--;
    }
  }

  async #read(tensors: readonly Tensor[]): Promise<Float32Array<ArrayBuffer>[]> {
    const started = performance.now();
    // Everything is recorded before the first await: tensors may be disposed right after the call.
    const all = await this.#readback.read(this.#queue, tensors);
    await this.#failures.settle();
    this.throwIfFailed();
    this.#stats.readbacks++;
    this.#stats.readbackMs += performance.now() - started;
    return all;
  }

  async idle(): Promise<void> {
    using probe = this.tensor(1, 4, "idle probe");
    await this.read([probe]);
  }

  copy(from: Tensor, to: Tensor): void {
    if (from.rows !== to.rows || from.columns !== to.columns) {
      throw new TypeError(
        `Cannot copy "${from.label}" to "${to.label}" as shapes must be equal: [${from.rows}, ${from.columns}] and [${to.rows}, ${to.columns}]`,
      );
    }
    this.#queue.touch(from.buffer);
    this.#queue.touch(to.buffer);
    this.#memory.dropStaged(to);
    this.#queue.encoder().copyBufferToBuffer(from.buffer.resource, 0, to.buffer.resource, 0, from.bytes);
  }

  copyRows(
    from: Tensor,
    to: Tensor,
    rows: { readonly fromRow?: number; readonly toRow?: number; readonly rows?: number } = {},
  ): void {
    const { fromRow = 0, toRow = 0 } = rows;
    const count = rows.rows ?? Math.min(from.rows - fromRow, to.rows - toRow);
    if (from.columns !== to.columns || fromRow + count > from.rows || toRow + count > to.rows || count < 1) {
      throw new TypeError(
        `Cannot copy rows of "${from.label}" to "${to.label}" as both must hold them, with as many columns: ${count} rows from ${fromRow} of [${from.rows}, ${from.columns}] to ${toRow} of [${to.rows}, ${to.columns}]`,
      );
    }
    const bytes = from.pitch * 4;
    this.#queue.touch(from.buffer);
    this.#queue.touch(to.buffer);
    this.#memory.dropStaged(to);
    this.#queue.encoder().copyBufferToBuffer(
      from.buffer.resource,
      fromRow * bytes,
      to.buffer.resource,
      toRow * bytes,
      count * bytes,
    );
  }

  dispatch<P extends string, B extends string>(kernel: Kernel<P, B>, dispatch: Dispatch<P, B>): void {
    const [x, y = 1, z = 1] = dispatch.workgroups;
    if (x === 0 || y === 0 || z === 0) return;
    if (x > MAX_WORKGROUPS || y > MAX_WORKGROUPS || z > MAX_WORKGROUPS) {
      throw new RangeError(
        `Cannot dispatch "${kernel.name}" as each dimension must be at most ${MAX_WORKGROUPS} workgroups: current value is [${x}, ${y}, ${z}]`,
      );
    }
    const compiled = this.#pipelines.compile(kernel);
    const group = this.#pipelines.bindGroup(kernel, compiled, dispatch.bindings, this.#queue.batch);
    this.#queue.dispatch({
      kernel,
      pipeline: compiled.pipeline,
      group,
      parameters: dispatch.parameters,
      workgroups: [x, y, z],
    });
  }

  flush(): void {
    this.#queue.flush();
  }

  profile(): Promise<KernelTime[]> {
    return this.#queue.profile();
  }

  async compile(kernels: readonly Kernel[]): Promise<void> {
    for (const kernel of kernels) this.#pipelines.compile(kernel);
    await this.idle();
  }

  throwIfFailed(): void {
    this.#failures.throwIfFailed();
  }

  stage(tensor: Tensor): readonly StagedTexture[] {
    if (tensor.staged !== null) return tensor.staged;
    const width = tensor.pitch / 4;
    if (width > this.maxTextureSide) {
      throw new RangeError(
        `Cannot stage tensor "${tensor.label}" as a row must be at most ${
          this.maxTextureSide * 4
        } elements: it has ${tensor.pitch}`,
      );
    }
    const staged: StagedTexture[] = [];
    for (let row = 0; row < tensor.rows; row += this.maxTextureSide) {
      const rows = Math.min(this.maxTextureSide, tensor.rows - row);
      const texture = this.#memory.acquireTexture(width, rows);
      staged.push({ texture, view: this.#memory.viewOf(texture), row, rows });
      this.#copyToTexture(tensor, texture, row, rows);
    }
    tensor.staged = staged;
    return staged;
  }

  stageWindow({ tensor, row, rows }: RowWindow): StagedTexture {
    const texture = this.#memory.acquireTexture(tensor.pitch / 4, rows);
    this.#copyToTexture(tensor, texture, row, rows);
    return { texture, view: this.#memory.viewOf(texture), row, rows };
  }

  releaseStaged({ texture }: StagedTexture): void {
    this.#memory.releaseTexture(texture);
  }

  release(tensor: Tensor, buffer: Pooled<GPUBuffer>): void {
    this.#memory.dropStaged(tensor);
    this.#memory.releaseBuffer(buffer);
    this.#stats.tensors--;
  }

  async trim(): Promise<void> {
    await this.idle();
    this.#pipelines.clearBindGroups();
    this.#memory.trim();
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#failures.expectLoss();
    this.#queue.dispose();
    this.#readback.dispose();
    this.device.destroy();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #copyToTexture(tensor: Tensor, texture: Pooled<GPUTexture>, row: number, rows: number): void {
    const width = tensor.pitch / 4;
    this.#queue.touch(tensor.buffer);
    if (width * 16 % 256 === 0) {
      this.#queue.encoder().copyBufferToTexture(
        {
          buffer: tensor.buffer.resource,
          offset: row * width * 16,
          bytesPerRow: width * 16,
          rowsPerImage: rows,
        },
        { texture: texture.resource },
        [width, rows],
      );
      return;
    }
    // Buffer rows of a copy must be a multiple of 256 bytes apart; a kernel has no such rule.
    const target = { texture, view: this.#memory.viewOf(texture), row, rows };
    for (const window of tensor.windows(row, rows)) {
      this.dispatch(stageKernel, {
        bindings: { source: window, target_texture: target },
        parameters: { width, rows: window.rows, row: window.row - row },
        workgroups: [Math.ceil(width / 8), window.rows],
      });
    }
  }
}

/** Makes engines. */
export interface EngineFactory {
  /**
   * Opens a device on the best adapter, with the adapter's own limits.
   *
   * @throws {NoAdapterError} If there is no WebGPU or no adapter.
   */
  create(options?: EngineOptions): Promise<Engine>;
}

/**
 * A GPU device with its pools, pipelines and command queue.
 *
 * @category GPU
 */
export type Engine = TensorEngine;

/**
 * Makes engines: `await Engine.create()`.
 *
 * @example
 * ```ts
 * import { Engine } from "@edgetuner/kernels";
 *
 * using engine = await Engine.create();
 * using x = engine.upload(new Float32Array([1, 2, 3, 4]), 2, 2);
 * const [values] = await engine.read([x]);
 * console.log(values, engine.stats.tensors);
 * ```
 */
export const Engine: EngineFactory = { create: (options) => GpuEngine.create(options) };

function requireValues(label: string, rows: number, columns: number, data: ArrayLike<number>): void {
  if (data.length === rows * columns) return;
  throw new RangeError(
    `Cannot write tensor "${label}" [${rows}, ${columns}] as ${
      rows * columns
    } values are needed: got ${data.length}`,
  );
}
