/**
 * Errors of the GPU layer.
 *
 * @module
 */

/** No usable WebGPU adapter: the message names what to install on this platform. */
export class NoAdapterError extends Error {
  /** Always `"NoAdapterError"`. */
  override readonly name = "NoAdapterError";
}

/**
 * The GPU rejected something after the fact: validation, out of memory, device lost.
 *
 * @category GPU
 */
export class GpuError extends Error {
  /** Always `"GpuError"`. */
  override readonly name: string = "GpuError";
}

/** A WGSL source did not compile; the message holds line, column and the source around it. */
export class ShaderError extends GpuError {
  /** Always `"ShaderError"`. */
  override readonly name = "ShaderError";
}

/** A kernel's declaration does not fit its WGSL source: the message names the kernel and the field or binding. */
export class KernelDefinitionError extends TypeError {
  /** Always `"KernelDefinitionError"`. */
  override readonly name = "KernelDefinitionError";
}
