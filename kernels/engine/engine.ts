/**
 * The engine: one GPU device, its memory and its command queue.
 *
 * Work is recorded and submitted in batches; nothing is waited for until something is read back.
 *
 * @module
 */

import { GpuError, ShaderError } from "../errors.ts";
import { type AdapterClass, adapterClass, requestAdapter } from "./adapter.ts";
import type { Kernel } from "./kernel.ts";
import { type BindingKind, PARAMETER_BYTES, placeOf } from "./shader.ts";
import { exactSize, Pool, type Pooled, type PoolStats, sizeClass } from "./pool.ts";
import { Readback, type ReadbackMode } from "./readback.ts";
import { type KernelTime, Profiler } from "./profiler.ts";
import { stageKernel } from "./stage.ts";
import { type DType, roundUp4, RowWindow, type StagedTexture, Tensor } from "./tensor.ts";

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
  /** Lowers the largest storage binding in bytes, to test splitting. @default {the adapter's limit} */
  readonly maxBindingBytes?: number | undefined;
  /** Lowers the largest texture side, to test splitting. @default {the adapter's limit} */
  readonly maxTextureSide?: number | undefined;
}

/** Counters of an engine: a step that returns to the same figures does not leak. */
export interface EngineStats extends PoolStats {
  /** Live tensors. */
  tensors: number;
  /** Kernels dispatched so far. */
  dispatches: number;
  /** Command buffers submitted so far. */
  submits: number;
  /** Readbacks so far. */
  readbacks: number;
  /** Readbacks and yields to the event loop under way: while there are any, work goes on by itself. */
  pending: number;
  /** Milliseconds spent waiting for readbacks so far. */
  readbackMs: number;
  /** Bind groups kept for use again. */
  bindGroups: number;
  /** Compute pipelines compiled so far. */
  pipelines: number;
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

interface CompiledKernel {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** Begins the keys of its bind groups. */
  readonly key: string;
}

/** Bytes from one dispatch's uniform struct to the next in the arena: what dynamic offsets are multiples of. */
const PARAMETER_SLOT = PARAMETER_BYTES;
/** Dispatches recorded before a batch is submitted, so that the GPU starts early and waits stay short. */
const SLOTS_PER_BATCH = 128;
const MAX_WORKGROUPS = 65_535;
/** Bytes of writes after which the queue is told to go on: until then it keeps a copy of each. */
const PENDING_WRITE_BYTES = 2 ** 22;
const MAX_BIND_GROUPS = 8192;

const preparations: ((engine: Engine) => Promise<void>)[] = [];

/** Has every engine that is created from now on measured by kernels that have variants; see `EngineOptions.prepare`. */
export function prepareEngines(prepare: (engine: Engine) => Promise<void>): void {
  preparations.push(prepare);
}

/** A GPU device with its pools, pipelines and command queue. */
export class Engine implements Disposable {
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
  readonly #stats: EngineStats = {
    allocatedBytes: 0,
    allocatedCount: 0,
    liveBytes: 0,
    liveCount: 0,
    tensors: 0,
    dispatches: 0,
    submits: 0,
    readbacks: 0,
    pending: 0,
    readbackMs: 0,
    bindGroups: 0,
    pipelines: 0,
  };
  readonly #buffers: Pool<GPUBuffer>;
  readonly #textures: Pool<GPUTexture>;
  readonly #textureViews = new Map<number, GPUTextureView>();
  readonly #compiled = new Map<Kernel, CompiledKernel>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  readonly #readback: Readback;
  readonly #profiler: Profiler | null;
  readonly #parameterLayout: GPUBindGroupLayout;
  readonly #parameterBuffer: GPUBuffer;
  readonly #parameterGroup: GPUBindGroup;
  readonly #parameterBytes = new ArrayBuffer(PARAMETER_SLOT * SLOTS_PER_BATCH);
  readonly #parameterFloats = new Float32Array(this.#parameterBytes);
  readonly #parameterIntegers = new Uint32Array(this.#parameterBytes);
  /** Four zeros: bound where a kernel's optional input is absent. */
  readonly nullInput: Tensor;
  /** Bound where a kernel's optional output is absent. */
  readonly nullOutput: Tensor;
  /** (1, 1, 1, 1): a factor that changes nothing. */
  readonly unitScale: Tensor;
  #encoder: GPUCommandEncoder | null = null;
  #pass: GPUComputePassEncoder | null = null;
  #slot = 0;
  #batch = 0;
  #nextId = 0;
  /** Bytes written since the last submission. */
  #pendingWriteBytes = 0;
  #failure: Error | null = null;
  /** Error reports asked for and not yet answered. */
  #reports: Promise<void>[] = [];
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
    const nextId = () => this.#nextId++;
    this.#buffers = new Pool(this.#stats, nextId);
    this.#textures = new Pool(this.#stats, nextId);
    this.#readback = new Readback(device, options.readback);
    this.#profiler = options.profile ? new Profiler(device, SLOTS_PER_BATCH) : null;
    this.#parameterLayout = device.createBindGroupLayout({
      entries: [{
        binding: 0,
        visibility: GPU_COMPUTE_STAGE,
        buffer: { type: "uniform", hasDynamicOffset: true, minBindingSize: PARAMETER_SLOT },
      }],
    });
    this.#parameterBuffer = device.createBuffer({
      label: "kernel parameters",
      size: PARAMETER_SLOT * SLOTS_PER_BATCH,
      usage: USAGE.UNIFORM | USAGE.COPY_DST,
    });
    this.#parameterGroup = device.createBindGroup({
      layout: this.#parameterLayout,
      entries: [{ binding: 0, resource: { buffer: this.#parameterBuffer, size: PARAMETER_SLOT } }],
    });
    device.addEventListener("uncapturederror", (event) => {
      (event as Event).preventDefault?.();
      this.#fail(new GpuError((event as GPUUncapturedErrorEvent).error.message));
    });
    device.pushErrorScope("validation");
    this.nullInput = this.zeros(1, 4, "absent input");
    this.nullOutput = this.zeros(1, 4, "absent output");
    this.unitScale = this.upload(new Float32Array(4).fill(1), 1, 4, "unit scale");
    device.lost.then((info) => {
      if (!this.#disposed) this.#fail(new GpuError(`GPU device lost (${info.reason}): ${info.message}`));
    });
  }

  /**
   * Opens a device on the best adapter, with the adapter's own limits.
   *
   * @throws {NoAdapterError} If there is no WebGPU or no adapter.
   */
  static async create(options: EngineOptions = {}): Promise<Engine> {
    const gpu = options.gpu ?? (globalThis.navigator as { gpu?: GPU } | undefined)?.gpu;
    const adapter = await requestAdapter(gpu);
    const limits = adapter.limits;
    const device = await adapter.requestDevice({
      label: "edgetuner",
      requiredFeatures: adapter.features.has("timestamp-query") ? ["timestamp-query"] : [],
      requiredLimits: {
        maxBufferSize: limits.maxBufferSize,
        maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
        maxTextureDimension2D: limits.maxTextureDimension2D,
        maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
        maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
      },
    });
    const engine = new Engine(device, adapter, options);
    const isGpu = adapterClass(adapter) === "hardware" && engine.adapterClass === "hardware";
    if (options.prepare ?? isGpu) {
      for (const prepare of preparations) await prepare(engine);
    }
    return engine;
  }

  /** Counters, as they are now. */
  get stats(): EngineStats {
    return { ...this.#stats, bindGroups: this.#bindGroups.size, pipelines: this.#compiled.size };
  }

  /** Makes a tensor with undefined content; the kernel that fills it writes the padding too. */
  tensor(rows: number, columns: number, label = "tensor", dtype: DType = "f32"): Tensor {
    return this.#tensor(rows, columns, label, dtype, sizeClass);
  }

  /**
   * As `tensor`, in a buffer of no more than its own size (`exactSize`): for weights, which live as long as
   * their model. Other sizes are rounded up by as much as a quarter, so that tensors can share buffers.
   */
  allocateExact(rows: number, columns: number, label = "weights", dtype: DType = "f32"): Tensor {
    return this.#tensor(rows, columns, label, dtype, exactSize);
  }

  #tensor(
    rows: number,
    columns: number,
    label: string,
    dtype: DType,
    sizeOf: (bytes: number) => number,
  ): Tensor {
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
    const buffer = this.#buffers.acquire(`b${size}`, size, () =>
      this.device.createBuffer({
        label: `pooled buffer of ${size} bytes`,
        size,
        usage: USAGE.STORAGE | USAGE.COPY_SRC | USAGE.COPY_DST,
      }));
    this.#stats.tensors++;
    return new Tensor(this, buffer, rows, columns, dtype, label);
  }

  /** Makes a tensor of zeros. */
  zeros(rows: number, columns: number, label = "zeros"): Tensor {
    const tensor = this.tensor(rows, columns, label);
    this.clear(tensor);
    return tensor;
  }

  /** Sets every element to zero. */
  clear(tensor: Tensor): void {
    this.#endPass();
    this.#touch(tensor.buffer);
    this.#dropStaged(tensor);
    this.#commandEncoder().clearBuffer(tensor.buffer.resource, 0, tensor.bytes);
  }

  /**
   * Makes a tensor from rows * columns values.
   *
   * @throws {RangeError} If the number of values is another one.
   */
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

  /**
   * Replaces the content of a tensor by rows * columns values.
   *
   * @throws {RangeError} If the number of values is another one.
   */
  write(tensor: Tensor, data: Float32Array | Uint32Array): void {
    requireValues(tensor.label, tensor.rows, tensor.columns, data);
    this.writeRows(tensor, 0, data);
  }

  /**
   * Replaces some rows of a tensor.
   *
   * @param tensor The tensor.
   * @param first First row.
   * @param data Values of whole rows.
   * @throws {RangeError} If the values are not whole rows, or more than the tensor has from there on.
   */
  writeRows(tensor: Tensor, first: number, data: Float32Array | Uint32Array): void {
    const { columns, pitch } = tensor;
    const rows = data.length / columns;
    if (!Number.isInteger(rows) || first < 0 || first + rows > tensor.rows) {
      throw new RangeError(
        `Cannot write rows of tensor "${tensor.label}" [${tensor.rows}, ${columns}] as they must be whole and lie in it: ${data.length} values from row ${first} on`,
      );
    }
    // A write is done before any command that is recorded but not yet submitted: if one of those
    // still uses this memory, it has to go first.
    if (tensor.buffer.lastBatch === this.#batch) this.flush();
    this.#dropStaged(tensor);
    let source = data;
    if (pitch !== columns) {
      source = data instanceof Uint32Array ? new Uint32Array(rows * pitch) : new Float32Array(rows * pitch);
      for (let r = 0; r < rows; r++) source.set(data.subarray(r * columns, (r + 1) * columns), r * pitch);
    }
    this.device.queue.writeBuffer(
      tensor.buffer.resource,
      first * pitch * 4,
      source.buffer as ArrayBuffer,
      source.byteOffset,
      source.byteLength,
    );
    this.#pendingWriteBytes += source.byteLength;
    if (this.#pendingWriteBytes > PENDING_WRITE_BYTES) {
      this.device.queue.submit([]);
      this.#pendingWriteBytes = 0;
    }
  }

  /**
   * Reads tensors back in one go, each rows * columns values without padding. All work recorded
   * so far is submitted and waited for.
   *
   * @throws {GpuError} If any earlier work failed.
   */
  async read(tensors: readonly Tensor[]): Promise<Float32Array<ArrayBuffer>[]> {
    this.#stats.pending++;
    try {
      return await this.#read(tensors);
    } finally {
      this.#stats.pending--;
    }
  }

  /**
   * Lets the event loop turn once, so that what was sent leaves before this thread waits for the GPU
   * again. Use it instead of a timer: whoever must know whether work goes on finds it in `stats`.
   */
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
    let bytes = 0;
    for (const tensor of tensors) bytes += tensor.bytes;
    // Everything is recorded before the first await: tensors may be disposed right after the call.
    const buffers = tensors.map((tensor) => tensor.buffer);
    this.#endPass();
    const staging = this.#readback.acquire(bytes);
    let offset = 0;
    for (let i = 0; i < tensors.length; i++) {
      this.#touch(buffers[i]!);
      this.#commandEncoder().copyBufferToBuffer(
        buffers[i]!.resource,
        0,
        staging.buffer,
        offset,
        tensors[i]!.bytes,
      );
      offset += tensors[i]!.bytes;
    }
    this.flush();
    const all = await this.#readback.finish(staging, bytes);
    await Promise.all(this.#reports.splice(0));
    this.throwIfFailed();
    this.#stats.readbacks++;
    this.#stats.readbackMs += performance.now() - started;
    offset = 0;
    return tensors.map((tensor) => {
      const padded = new Float32Array(all, offset, tensor.rows * tensor.pitch);
      offset += tensor.bytes;
      if (tensor.pitch === tensor.columns) return tensors.length === 1 ? padded : padded.slice();
      const out = new Float32Array(tensor.rows * tensor.columns);
      for (let r = 0; r < tensor.rows; r++) {
        out.set(padded.subarray(r * tensor.pitch, r * tensor.pitch + tensor.columns), r * tensor.columns);
      }
      return out;
    });
  }

  /** Waits until all work recorded so far is done. */
  async idle(): Promise<void> {
    using probe = this.tensor(1, 4, "idle probe");
    await this.read([probe]);
  }

  /** Copies the content of one tensor to another of the same shape. */
  copy(from: Tensor, to: Tensor): void {
    if (from.rows !== to.rows || from.columns !== to.columns) {
      throw new TypeError(
        `Cannot copy "${from.label}" to "${to.label}" as shapes must be equal: [${from.rows}, ${from.columns}] and [${to.rows}, ${to.columns}]`,
      );
    }
    this.#endPass();
    this.#touch(from.buffer);
    this.#touch(to.buffer);
    this.#dropStaged(to);
    this.#commandEncoder().copyBufferToBuffer(from.buffer.resource, 0, to.buffer.resource, 0, from.bytes);
  }

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
    this.#endPass();
    this.#touch(from.buffer);
    this.#touch(to.buffer);
    this.#dropStaged(to);
    this.#commandEncoder().copyBufferToBuffer(
      from.buffer.resource,
      fromRow * bytes,
      to.buffer.resource,
      toRow * bytes,
      count * bytes,
    );
  }

  /** Records one dispatch of a kernel. Tensors bound as `write` lose their texture copies. */
  dispatch<P extends string, B extends string>(kernel: Kernel<P, B>, dispatch: Dispatch<P, B>): void {
    const [x, y = 1, z = 1] = dispatch.workgroups;
    if (x === 0 || y === 0 || z === 0) return;
    if (x > MAX_WORKGROUPS || y > MAX_WORKGROUPS || z > MAX_WORKGROUPS) {
      throw new RangeError(
        `Cannot dispatch "${kernel.name}" as each dimension must be at most ${MAX_WORKGROUPS} workgroups: current value is [${x}, ${y}, ${z}]`,
      );
    }
    const compiled = this.#compile(kernel);
    const group = this.#bindGroup(kernel, compiled, dispatch.bindings);
    const offset = this.#writeParameters(kernel, dispatch.parameters);
    if (this.#profiler !== null) this.#endPass();
    const pass = this.#pass ??= this.#commandEncoder().beginComputePass(
      this.#profiler?.passFor(kernel.name) ?? {},
    );
    pass.setPipeline(compiled.pipeline);
    pass.setBindGroup(0, group);
    pass.setBindGroup(1, this.#parameterGroup, [offset]);
    pass.dispatchWorkgroups(x, y, z);
    this.#stats.dispatches++;
    if (this.#slot === SLOTS_PER_BATCH) this.flush();
  }

  /** Submits what is recorded. Called by itself when a batch is full and before a readback. */
  flush(): void {
    this.#endPass();
    if (this.#encoder === null) return;
    if (this.#slot > 0) {
      this.device.queue.writeBuffer(
        this.#parameterBuffer,
        0,
        this.#parameterBytes,
        0,
        this.#slot * PARAMETER_SLOT,
      );
    }
    this.#profiler?.resolve(this.#encoder);
    this.device.queue.submit([this.#encoder.finish()]);
    this.#pendingWriteBytes = 0;
    // A scope is always open: without one an error is told in an event, which comes only after the
    // caller has waited for something else, and results that were never computed count until then.
    this.#reports.push(this.#popErrorScope((error) => new GpuError(error.message)));
    this.device.pushErrorScope("validation");
    this.#stats.submits++;
    this.#encoder = null;
    this.#slot = 0;
    this.#batch++;
    this.throwIfFailed();
  }

  /**
   * Time that each kernel took since the last call, longest first.
   *
   * @throws {TypeError} If the engine was not created with `profile` true.
   */
  async profile(): Promise<KernelTime[]> {
    if (this.#profiler === null) {
      throw new TypeError(
        "Cannot report kernel times as the engine must be created with profile: true: it was not",
      );
    }
    this.flush();
    return await this.#profiler.report();
  }

  /**
   * Compiles kernels now instead of at their first dispatch.
   *
   * @throws {ShaderError} If one does not compile.
   */
  async compile(kernels: readonly Kernel[]): Promise<void> {
    for (const kernel of kernels) this.#compile(kernel);
    await this.idle();
  }

  /**
   * Throws if the GPU has reported a failure. An engine that failed stays failed.
   *
   * @throws {GpuError} The first failure.
   */
  throwIfFailed(): void {
    if (this.#failure === null) return;
    throw this.#failure;
  }

  /**
   * The tensor as textures, copied from its buffer unless that was done before and the content is
   * unchanged. Storage textures are what software adapters read fastest.
   */
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
      const texture = this.#acquireTexture(width, rows);
      staged.push({ texture, view: this.#textureView(texture), row, rows });
      this.#copyToTexture(tensor, texture, row, rows);
    }
    tensor.staged = staged;
    return staged;
  }

  /** Copies a window to a texture of its own; give it back with `releaseStaged`. */
  stageWindow({ tensor, row, rows }: RowWindow): StagedTexture {
    const texture = this.#acquireTexture(tensor.pitch / 4, rows);
    this.#copyToTexture(tensor, texture, row, rows);
    return { texture, view: this.#textureView(texture), row, rows };
  }

  /** Gives back a texture of `stageWindow`, after the last dispatch that reads it was recorded. */
  releaseStaged({ texture }: StagedTexture): void {
    this.#textures.release(texture);
  }

  /** Takes back a tensor's memory; called by `Tensor.dispose`. */
  release(tensor: Tensor, buffer: Pooled<GPUBuffer>): void {
    this.#dropStaged(tensor);
    this.#buffers.release(buffer);
    this.#stats.tensors--;
  }

  /** Destroys pooled memory that no tensor uses, after the work that used it. */
  async trim(): Promise<void> {
    await this.idle();
    this.#bindGroups.clear();
    this.#buffers.trim(() => {});
    this.#textures.trim((id) => this.#textureViews.delete(id));
  }

  /** Destroys the device and all its memory. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#pass = null;
    this.#encoder = null;
    this.#readback.dispose();
    this.device.destroy();
  }

  /** As `dispose`; called at the end of a `using` scope. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #fail(error: Error): void {
    // A kernel that does not compile fails twice, the second time when it is dispatched.
    if (this.#failure === null || (error instanceof ShaderError && !(this.#failure instanceof ShaderError))) {
      this.#failure = error;
    }
  }

  async #popErrorScope(describe: (error: GPUError) => GpuError | Promise<GpuError>): Promise<void> {
    const error = await this.device.popErrorScope().catch(() => null); // a lost device is told elsewhere
    if (error !== null) this.#fail(await describe(error));
  }

  #commandEncoder(): GPUCommandEncoder {
    return this.#encoder ??= this.device.createCommandEncoder();
  }

  #endPass(): void {
    if (this.#pass === null) return;
    this.#pass.end();
    this.#pass = null;
  }

  #touch(pooled: Pooled<unknown>): void {
    pooled.lastBatch = this.#batch;
  }

  #dropStaged(tensor: Tensor): void {
    if (tensor.staged === null) return;
    for (const { texture } of tensor.staged) this.#textures.release(texture);
    tensor.staged = null;
  }

  #acquireTexture(width: number, rows: number): Pooled<GPUTexture> {
    // Keyed by what is used of it: the rest of a texture stays zero.
    const [w, h] = this.adapterClass === "software" ? softwareTextureSize(width, rows) : [width, rows];
    return this.#textures.acquire(`t${width}x${rows}`, w * h * 16, () =>
      this.device.createTexture({
        label: `pooled texture of ${w} x ${h}`,
        size: [w, h],
        format: "rgba32float",
        usage: TEXTURE_USAGE.COPY_DST | TEXTURE_USAGE.STORAGE_BINDING,
      }));
  }

  #textureView(texture: Pooled<GPUTexture>): GPUTextureView {
    let view = this.#textureViews.get(texture.id);
    if (view === undefined) this.#textureViews.set(texture.id, view = texture.resource.createView());
    return view;
  }

  #copyToTexture(tensor: Tensor, texture: Pooled<GPUTexture>, row: number, rows: number): void {
    const width = tensor.pitch / 4;
    this.#touch(tensor.buffer);
    this.#endPass();
    if (width * 16 % 256 === 0) {
      this.#commandEncoder().copyBufferToTexture(
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
    const target = { texture, view: this.#textureView(texture), row, rows };
    for (const window of tensor.windows(row, rows)) {
      this.dispatch(stageKernel, {
        bindings: { source: window, target_texture: target },
        parameters: { width, rows: window.rows, row: window.row - row },
        workgroups: [Math.ceil(width / 8), window.rows],
      });
    }
  }

  #compile(kernel: Kernel): CompiledKernel {
    const known = this.#compiled.get(kernel);
    if (known !== undefined) return known;
    const { device } = this;
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ label: kernel.name, code: kernel.source });
    const layout = this.#bindGroupLayout(kernel.bindings.map(({ kind }) => kind));
    const pipeline = device.createComputePipeline({
      label: kernel.name,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout, this.#parameterLayout] }),
      compute: {
        module,
        entryPoint: kernel.entryPoint,
        constants: { ...kernel.constants },
      },
    });
    this.#reports.push(this.#popErrorScope((error) => shaderError(kernel, module, error)));
    const compiled = { pipeline, layout, key: `${this.#compiled.size}` };
    this.#compiled.set(kernel, compiled);
    return compiled;
  }

  #bindGroupLayout(bindings: readonly BindingKind[]): GPUBindGroupLayout {
    const key = bindings.join();
    let layout = this.#layouts.get(key);
    if (layout === undefined) {
      layout = this.device.createBindGroupLayout({
        entries: bindings.map((kind, binding) => ({
          binding,
          visibility: GPU_COMPUTE_STAGE,
          ...LAYOUT_OF[kind],
        })),
      });
      this.#layouts.set(key, layout);
    }
    return layout;
  }

  #bindGroup(
    kernel: Kernel,
    compiled: CompiledKernel,
    bindings: Readonly<Record<string, Bindable>>,
  ): GPUBindGroup {
    let key = compiled.key;
    for (const { name, kind } of kernel.bindings) {
      const bindable = bindings[name];
      if (bindable === undefined) throw missing(kernel, "binding", name);
      if (bindable instanceof Tensor || bindable instanceof RowWindow) {
        const tensor = bindable instanceof Tensor ? bindable : bindable.tensor;
        const pooled = tensor.buffer;
        pooled.lastBatch = this.#batch;
        key += `,${pooled.id}:${bindable.bytes}:${bindable.offset}`;
        if (kind === "write") this.#dropStaged(tensor);
      } else {
        bindable.texture.lastBatch = this.#batch;
        key += `,${bindable.texture.id}`;
      }
    }
    let group = this.#bindGroups.get(key);
    if (group === undefined) {
      if (this.#bindGroups.size >= MAX_BIND_GROUPS) this.#bindGroups.clear();
      group = this.device.createBindGroup({
        label: kernel.name,
        layout: compiled.layout,
        entries: kernel.bindings.map(({ name }, binding) => {
          const bindable = bindings[name]!;
          const isBuffer = bindable instanceof Tensor || bindable instanceof RowWindow;
          return { binding, resource: isBuffer ? this.#bufferBinding(kernel, bindable) : bindable.view };
        }),
      });
      this.#bindGroups.set(key, group);
    }
    return group;
  }

  #bufferBinding(kernel: Kernel, part: Tensor | RowWindow): GPUBufferBinding {
    const tensor = part instanceof Tensor ? part : part.tensor;
    if (part.bytes > this.maxBindingBytes) {
      throw new RangeError(
        `Cannot bind tensor "${tensor.label}" to "${kernel.name}" as a binding must be at most ${this.maxBindingBytes} bytes: it has ${part.bytes}`,
      );
    }
    return { buffer: tensor.buffer.resource, offset: part.offset, size: part.bytes };
  }

  #writeParameters(kernel: Kernel, values: Readonly<Record<string, number>>): number {
    const offset = this.#slot++ * PARAMETER_SLOT;
    const first = offset / 4;
    for (const { name, kind, word } of kernel.parameters) {
      const value = values[name];
      if (value === undefined) throw missing(kernel, "parameter", name);
      (kind === "f32" ? this.#parameterFloats : this.#parameterIntegers)[first + word] = value;
    }
    return offset;
  }
}

// Numbers of the WebGPU standard. The globals that hold them belong to one implementation; an
// engine may run on another.
const GPU_COMPUTE_STAGE = 0x4;
const USAGE = { COPY_SRC: 0x4, COPY_DST: 0x8, UNIFORM: 0x40, STORAGE: 0x80 } as const;
const TEXTURE_USAGE = { COPY_DST: 0x2, STORAGE_BINDING: 0x8 } as const;

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

const LAYOUT_OF: Record<BindingKind, Omit<GPUBindGroupLayoutEntry, "binding" | "visibility">> = {
  read: { buffer: { type: "read-only-storage" } },
  write: { buffer: { type: "storage" } },
  texture: { storageTexture: { access: "read-only", format: "rgba32float" } },
  texture_write: { storageTexture: { access: "write-only", format: "rgba32float" } },
};

function missing(kernel: Kernel, what: string, name: string): TypeError {
  return new TypeError(
    `Cannot dispatch "${kernel.name}" as its ${what} "${name}" must be given: it is missing`,
  );
}

function requireValues(label: string, rows: number, columns: number, data: ArrayLike<number>): void {
  if (data.length === rows * columns) return;
  throw new RangeError(
    `Cannot write tensor "${label}" [${rows}, ${columns}] as ${
      rows * columns
    } values are needed: got ${data.length}`,
  );
}

/** Turns a compile failure into an error with file, line, column and the source around it. */
async function shaderError(kernel: Kernel, module: GPUShaderModule, error: GPUError): Promise<ShaderError> {
  const parts = [`Cannot compile kernel "${kernel.name}": ${error.message}`];
  const info = await module.getCompilationInfo();
  for (const message of info.messages) {
    const { file: { file, source }, line } = placeOf(kernel.files, message.lineNum);
    const lines = source.split("\n");
    parts.push(`${file}:${line}:${message.linePos}: ${message.type}: ${message.message}`);
    for (let n = Math.max(1, line - 2); n <= Math.min(lines.length, line + 2); n++) {
      parts.push(`${n === line ? ">" : " "}${String(n).padStart(4)} | ${lines[n - 1]}`);
    }
  }
  return new ShaderError(parts.join("\n"));
}
