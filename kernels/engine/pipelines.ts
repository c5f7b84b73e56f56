/**
 * Compiled kernels and their bind groups.
 *
 * @module
 */

import { ShaderError } from "../errors.ts";
import { GPU_COMPUTE_STAGE } from "./device.ts";
import type { Failures } from "./failures.ts";
import type { Kernel } from "./kernel.ts";
import type { Memory } from "./memory.ts";
import { type BindingKind, placeOf } from "./shader.ts";
import { type Bindable, RowWindow, Tensor } from "./tensor.ts";

/** A kernel as a device has it. */
export interface CompiledKernel {
  /** Its pipeline. */
  readonly pipeline: GPUComputePipeline;
  /** Layout of group 0. */
  readonly layout: GPUBindGroupLayout;
  /** Begins the keys of its bind groups. */
  readonly key: string;
}

const MAX_BIND_GROUPS = 8192;

const LAYOUT_OF: Record<BindingKind, Omit<GPUBindGroupLayoutEntry, "binding" | "visibility">> = {
  read: { buffer: { type: "read-only-storage" } },
  write: { buffer: { type: "storage" } },
  texture: { storageTexture: { access: "read-only", format: "rgba32float" } },
  texture_write: { storageTexture: { access: "write-only", format: "rgba32float" } },
};

/** What pipelines are made with. */
export interface PipelinesOptions {
  /** The device. */
  readonly device: GPUDevice;
  /** Where its errors are told. */
  readonly failures: Failures;
  /** Takes back texture copies of tensors that are bound to be written. */
  readonly memory: Memory;
  /** Layout of group 1. */
  readonly parameterLayout: GPUBindGroupLayout;
  /** Largest storage binding in bytes. */
  readonly maxBindingBytes: number;
}

/** Compiles every kernel once, and keeps bind groups for use again. */
export class Pipelines {
  readonly #options: PipelinesOptions;
  readonly #compiled = new Map<Kernel, CompiledKernel>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #bindGroups = new Map<string, GPUBindGroup>();

  /** @param options Device, memory and limits. */
  constructor(options: PipelinesOptions) {
    this.#options = options;
  }

  /** Bind groups kept. */
  get bindGroups(): number {
    return this.#bindGroups.size;
  }

  /** Kernels compiled. */
  get pipelines(): number {
    return this.#compiled.size;
  }

  /** Forgets all bind groups, as what they bind is destroyed. */
  clearBindGroups(): void {
    this.#bindGroups.clear();
  }

  /** Compiles a kernel, unless that was done before; a failure is told later. */
  compile(kernel: Kernel): CompiledKernel {
    const known = this.#compiled.get(kernel);
    if (known !== undefined) return known;
    const { device, failures, parameterLayout } = this.#options;
    const layout = this.#layoutOf(kernel.bindings.map(({ kind }) => kind));
    const { pipeline } = failures.checkWithin(() => {
      const module = device.createShaderModule({ label: kernel.name, code: kernel.source });
      const pipeline = device.createComputePipeline({
        label: kernel.name,
        layout: device.createPipelineLayout({ bindGroupLayouts: [layout, parameterLayout] }),
        compute: { module, entryPoint: kernel.entryPoint, constants: { ...kernel.constants } },
      });
      return { module, pipeline };
    }, (error, { module }) => shaderError(kernel, module, error));
    const compiled = { pipeline, layout, key: `${this.#compiled.size}` };
    this.#compiled.set(kernel, compiled);
    return compiled;
  }

  /**
   * The group that binds some tensors to a kernel. Those bound as `write` lose their texture copies.
   *
   * @param kernel The kernel.
   * @param compiled As `compile` returned it.
   * @param bindings What is bound, by name.
   * @param batch Number of the batch that uses them.
   * @throws {TypeError} If a binding is missing or disposed.
   * @throws {RangeError} If a tensor does not fit a binding.
   */
  bindGroup(
    kernel: Kernel,
    compiled: CompiledKernel,
    bindings: Readonly<Record<string, Bindable>>,
    batch: number,
  ): GPUBindGroup {
    let key = compiled.key;
    for (const { name, kind } of kernel.bindings) {
      const bindable = bindings[name];
      if (bindable === undefined) {
        throw new TypeError(
          `Cannot dispatch "${kernel.name}" as its binding "${name}" must be given: it is missing`,
        );
      }
      if (bindable instanceof Tensor || bindable instanceof RowWindow) {
        const tensor = bindable instanceof Tensor ? bindable : bindable.tensor;
        const pooled = tensor.buffer;
        pooled.lastBatch = batch;
        key += `,${pooled.id}:${bindable.bytes}:${bindable.offset}`;
        if (kind === "write") this.#options.memory.dropStaged(tensor);
      } else {
        bindable.texture.lastBatch = batch;
        key += `,${bindable.texture.id}`;
      }
    }
    const known = this.#bindGroups.get(key);
    if (known !== undefined) return known;
    if (this.#bindGroups.size >= MAX_BIND_GROUPS) this.#bindGroups.clear();
    const group = this.#options.device.createBindGroup({
      label: kernel.name,
      layout: compiled.layout,
      entries: kernel.bindings.map(({ name }, binding) => {
        const bindable = bindings[name]!;
        const isBuffer = bindable instanceof Tensor || bindable instanceof RowWindow;
        return { binding, resource: isBuffer ? this.#bufferBinding(kernel, bindable) : bindable.view };
      }),
    });
    this.#bindGroups.set(key, group);
    return group;
  }

  #layoutOf(kinds: readonly BindingKind[]): GPUBindGroupLayout {
    const key = kinds.join();
    let layout = this.#layouts.get(key);
    if (layout === undefined) {
      layout = this.#options.device.createBindGroupLayout({
        entries: kinds.map((kind, binding) => ({
          binding,
          visibility: GPU_COMPUTE_STAGE,
          ...LAYOUT_OF[kind],
        })),
      });
      this.#layouts.set(key, layout);
    }
    return layout;
  }

  #bufferBinding(kernel: Kernel, part: Tensor | RowWindow): GPUBufferBinding {
    const tensor = part instanceof Tensor ? part : part.tensor;
    const { maxBindingBytes } = this.#options;
    if (part.bytes > maxBindingBytes) {
      throw new RangeError(
        `Cannot bind tensor "${tensor.label}" to "${kernel.name}" as a binding must be at most ${maxBindingBytes} bytes: it has ${part.bytes}`,
      );
    }
    return { buffer: tensor.buffer.resource, offset: part.offset, size: part.bytes };
  }
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
