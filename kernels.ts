/**
 * The WebGPU engine and its kernels: all of `@edgetuner/kernels`.
 *
 * @module
 */

export * from "@edgetuner/kernels";
