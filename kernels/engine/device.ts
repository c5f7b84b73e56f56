/**
 * Opening a device, and the numbers of the WebGPU standard.
 *
 * @module
 */

// The globals that hold these numbers belong to one implementation; an engine may run on another.

/** `GPUShaderStage.COMPUTE`. */
export const GPU_COMPUTE_STAGE = 0x4;
/** Of `GPUBufferUsage`. */
export const BUFFER_USAGE = { COPY_SRC: 0x4, COPY_DST: 0x8, UNIFORM: 0x40, STORAGE: 0x80 } as const;
/** Of `GPUTextureUsage`. */
export const TEXTURE_USAGE = { COPY_DST: 0x2, STORAGE_BINDING: 0x8 } as const;

/**
 * Opens a device with the adapter's own limits, where kernels come near the defaults.
 *
 * @param kind `"default"` leaves them at those that every WebGPU has.
 */
export function openDevice(adapter: GPUAdapter, kind: "adapter" | "default" = "adapter"): Promise<GPUDevice> {
  if (kind === "default") return adapter.requestDevice({ label: "edgetuner" });
  const { limits } = adapter;
  return adapter.requestDevice({
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
}
