/**
 * The command queue: work is recorded and submitted in batches.
 *
 * @module
 */

import { BUFFER_USAGE, GPU_COMPUTE_STAGE } from "./device.ts";
import type { Failures } from "./failures.ts";
import type { Kernel } from "./kernel.ts";
import type { Pooled } from "./pool.ts";
import { type KernelTime, Profiler } from "./profiler.ts";
import { PARAMETER_BYTES } from "./shader.ts";

/** What a queue counts. */
export interface QueueStats {
  /** Kernels dispatched so far. */
  dispatches: number;
  /** Command buffers submitted so far. */
  submits: number;
}

/** One dispatch, ready to be recorded. */
export interface RecordedDispatch {
  /** The kernel. */
  readonly kernel: Kernel;
  /** Its pipeline. */
  readonly pipeline: GPUComputePipeline;
  /** Group 0. */
  readonly group: GPUBindGroup;
  /** Values of the uniform struct, by name. */
  readonly parameters: Readonly<Record<string, number>>;
  /** Workgroups in x, y, z. */
  readonly workgroups: readonly [number, number, number];
}

/** Bytes from one dispatch's uniform struct to the next in the arena: what dynamic offsets are multiples of. */
const PARAMETER_SLOT = PARAMETER_BYTES;
/** Dispatches recorded before a batch is submitted, so that the GPU starts early and waits stay short. */
const SLOTS_PER_BATCH = 128;
/** Bytes of writes after which the queue is told to go on: until then it keeps a copy of each. */
const PENDING_WRITE_BYTES = 2 ** 22;

/** Records commands of one device. */
export class CommandQueue {
  /** Layout of group 1: the uniform struct. */
  readonly parameterLayout: GPUBindGroupLayout;
  readonly #device: GPUDevice;
  readonly #failures: Failures;
  readonly #stats: QueueStats;
  readonly #profiler: Profiler | null;
  readonly #parameterBuffer: GPUBuffer;
  readonly #parameterGroup: GPUBindGroup;
  readonly #parameterBytes = new ArrayBuffer(PARAMETER_SLOT * SLOTS_PER_BATCH);
  readonly #parameterFloats = new Float32Array(this.#parameterBytes);
  readonly #parameterIntegers = new Uint32Array(this.#parameterBytes);
  #encoder: GPUCommandEncoder | null = null;
  #pass: GPUComputePassEncoder | null = null;
  #slot = 0;
  #batch = 0;
  /** Bytes written since the last submission. */
  #pendingWriteBytes = 0;

  /**
   * @param device The device.
   * @param failures Where its errors are told.
   * @param stats Counts what is submitted.
   * @param options Whether to time every kernel. @default {{ profile: false }}
   */
  constructor(
    device: GPUDevice,
    failures: Failures,
    stats: QueueStats,
    { profile = false }: { readonly profile?: boolean | undefined },
  ) {
    this.#device = device;
    this.#failures = failures;
    this.#stats = stats;
    this.#profiler = profile ? new Profiler(device, SLOTS_PER_BATCH) : null;
    this.parameterLayout = device.createBindGroupLayout({
      entries: [{
        binding: 0,
        visibility: GPU_COMPUTE_STAGE,
        buffer: { type: "uniform", hasDynamicOffset: true, minBindingSize: PARAMETER_SLOT },
      }],
    });
    this.#parameterBuffer = device.createBuffer({
      label: "kernel parameters",
      size: PARAMETER_SLOT * SLOTS_PER_BATCH,
      usage: BUFFER_USAGE.UNIFORM | BUFFER_USAGE.COPY_DST,
    });
    this.#parameterGroup = device.createBindGroup({
      layout: this.parameterLayout,
      entries: [{ binding: 0, resource: { buffer: this.#parameterBuffer, size: PARAMETER_SLOT } }],
    });
  }

  /** Number of the batch that is being recorded. */
  get batch(): number {
    return this.#batch;
  }

  /** Notes that the batch being recorded uses a resource. */
  touch(pooled: Pooled<unknown>): void {
    pooled.lastBatch = this.#batch;
  }

  /** The encoder of the batch, outside of any compute pass: for copies. */
  encoder(): GPUCommandEncoder {
    this.#endPass();
    return this.#commandEncoder();
  }

  /** Records one dispatch; a full batch is submitted. */
  dispatch({ kernel, pipeline, group, parameters, workgroups }: RecordedDispatch): void {
    const offset = this.#writeParameters(kernel, parameters);
    if (this.#profiler !== null) this.#endPass();
    const pass = this.#pass ??= this.#commandEncoder().beginComputePass(
      this.#profiler?.passFor(kernel.name) ?? {},
    );
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.setBindGroup(1, this.#parameterGroup, [offset]);
    pass.dispatchWorkgroups(...workgroups);
    this.#stats.dispatches++;
    if (this.#slot === SLOTS_PER_BATCH) this.flush();
  }

  /** Writes to a buffer, after the recorded commands that use it. */
  write(buffer: Pooled<GPUBuffer>, offset: number, source: Float32Array | Uint32Array): void {
    // A write is done before any command that is recorded but not yet submitted: if one of those
    // still uses this memory, it has to go first.
    if (buffer.lastBatch === this.#batch) this.flush();
    const { queue } = this.#device;
    queue.writeBuffer(
      buffer.resource,
      offset,
      source.buffer as ArrayBuffer,
      source.byteOffset,
      source.byteLength,
    );
    this.#pendingWriteBytes += source.byteLength;
    if (this.#pendingWriteBytes > PENDING_WRITE_BYTES) {
      queue.submit([]);
      this.#pendingWriteBytes = 0;
    }
  }

  /**
   * Submits what is recorded.
   *
   * @throws {GpuError} If the GPU has reported a failure.
   */
  flush(): void {
    this.#endPass();
    if (this.#encoder === null) return;
    const { queue } = this.#device;
    if (this.#slot > 0) {
      queue.writeBuffer(this.#parameterBuffer, 0, this.#parameterBytes, 0, this.#slot * PARAMETER_SLOT);
    }
    this.#profiler?.resolve(this.#encoder);
    queue.submit([this.#encoder.finish()]);
    this.#pendingWriteBytes = 0;
    this.#failures.check();
    this.#stats.submits++;
    this.#encoder = null;
    this.#slot = 0;
    this.#batch++;
    this.#failures.throwIfFailed();
  }

  /**
   * Time that each kernel took since the last call, longest first.
   *
   * @throws {TypeError} If kernels are not timed.
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

  /** Forgets what is recorded, as the device goes. */
  dispose(): void {
    this.#pass = null;
    this.#encoder = null;
  }

  #commandEncoder(): GPUCommandEncoder {
    return this.#encoder ??= this.#device.createCommandEncoder();
  }

  #endPass(): void {
    if (this.#pass === null) return;
    this.#pass.end();
    this.#pass = null;
  }

  #writeParameters(kernel: Kernel, values: Readonly<Record<string, number>>): number {
    const offset = this.#slot++ * PARAMETER_SLOT;
    const first = offset / 4;
    for (const { name, kind, word } of kernel.parameters) {
      const value = values[name];
      if (value === undefined) {
        this.#slot--;
        throw new TypeError(
          `Cannot dispatch "${kernel.name}" as its parameter "${name}" must be given: it is missing`,
        );
      }
      (kind === "f32" ? this.#parameterFloats : this.#parameterIntegers)[first + word] = value;
    }
    return offset;
  }
}
