/**
 * A `GPU` on which reading past a texture or a buffer shows.
 *
 * WebGPU leaves open what such a read gives: implementations return zero, the nearest element or another
 * one, so that a kernel may be right on one of them by chance. Here every texture and buffer is larger than what
 * was asked for, bindings too, and what is there on top is NaN.
 *
 * @module
 */

/** Texels more on each side of a texture. */
const TEXELS = 8;
/** Bytes more of a buffer. */
const BYTES = 1024;
const STORAGE = 0x80;
const COPY_DST = 0x8;
const TEXTURE_COPY_DST = 0x2;

/** The runtime's own WebGPU with such textures and buffers. */
export function guardedGpu(gpu: GPU = navigator.gpu): GPU {
  return {
    async requestAdapter(options?: GPURequestAdapterOptions) {
      const adapter = await gpu.requestAdapter(options);
      if (adapter === null) return null;
      const requestDevice = adapter.requestDevice.bind(adapter);
      return Object.defineProperty(adapter, "requestDevice", {
        value: async (descriptor: GPUDeviceDescriptor) => guard(await requestDevice(descriptor)),
      });
    },
  } as GPU;
}

function guard(device: GPUDevice): GPUDevice {
  const createTexture = device.createTexture.bind(device);
  const createBuffer = device.createBuffer.bind(device);
  const createBindGroup = device.createBindGroup.bind(device);
  const guarded = new WeakSet<GPUBuffer>();
  const methods = {
    createTexture(descriptor: GPUTextureDescriptor): GPUTexture {
      const [width, height] = (descriptor.size as number[]).map((side) => side + TEXELS) as [number, number];
      const texture = createTexture({
        ...descriptor,
        size: [width, height],
        usage: descriptor.usage | TEXTURE_COPY_DST,
      });
      const nan = new Float32Array(width * height * 4).fill(NaN);
      device.queue.writeTexture({ texture }, nan, { bytesPerRow: width * 16 }, [width, height]);
      return texture;
    },
    createBuffer(descriptor: GPUBufferDescriptor): GPUBuffer {
      const fits = descriptor.size + BYTES <= device.limits.maxBufferSize;
      if ((descriptor.usage & STORAGE) === 0 || !fits) return createBuffer(descriptor);
      const size = descriptor.size + BYTES;
      const buffer = createBuffer({ ...descriptor, size, usage: descriptor.usage | COPY_DST });
      device.queue.writeBuffer(buffer, descriptor.size, new Float32Array(BYTES / 4).fill(NaN));
      guarded.add(buffer);
      return buffer;
    },
    createBindGroup(descriptor: GPUBindGroupDescriptor): GPUBindGroup {
      const entries = [...descriptor.entries].map((entry) => {
        const { buffer, offset = 0, size = 0 } = entry.resource as GPUBufferBinding;
        if (buffer === undefined || !guarded.has(buffer)) return entry;
        return { ...entry, resource: { buffer, offset, size: Math.min(size + BYTES, buffer.size - offset) } };
      });
      return createBindGroup({ ...descriptor, entries });
    },
  };
  for (const [name, value] of Object.entries(methods)) Object.defineProperty(device, name, { value });
  return device;
}
