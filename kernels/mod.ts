/**
 * WGSL kernels for transformers, LoRA head modules and head pruning, and the engine that runs them.
 *
 * Dimension letters: B batch, T tokens, H heads, D head size, d = H * D hidden size, r LoRA rank,
 * V vocabulary, L layers. Matrices are row-major with rows padded to four elements; see `Tensor`.
 *
 * @module
 */

export { GpuError, KernelDefinitionError, NoAdapterError, ShaderError } from "./errors.ts";
export { type AdapterClass, adapterClass, type FeatureLevel, requestAdapter } from "./engine/adapter.ts";
export { Engine, type EngineFactory, type EngineOptions, prepareEngines } from "./engine/engine.ts";
export type { QueueStats } from "./engine/queue.ts";
export type { EngineStats } from "./engine/stats.ts";
export { defineKernel, type Kernel, type KernelDefinition } from "./engine/kernel.ts";
export type {
  BindingKind,
  ParameterKind,
  ShaderBinding,
  ShaderFile,
  ShaderParameter,
} from "./engine/shader.ts";
export type { Pooled, PoolStats } from "./engine/pool.ts";
export type { KernelTime } from "./engine/profiler.ts";
export type { ReadbackMode } from "./engine/readback.ts";
export {
  type Bindable,
  type Dispatch,
  type DType,
  roundUp4,
  RowWindow,
  type StagedTexture,
  Tensor,
  tensorBytes,
  type TensorEngine,
  type TensorForm,
} from "./engine/tensor.ts";
export {
  attention,
  attentionBackward,
  type AttentionBackwardOptions,
  type AttentionResult,
  type AttentionShape,
} from "./attention/attention.ts";
export {
  cachedAttention,
  extendCache,
  type ExtendCacheOptions,
  type KeyValueCache,
} from "./attention/cached_attention.ts";
export {
  conv3x3,
  type Conv3x3BackwardOptions,
  conv3x3InputGradient,
  type Conv3x3Options,
  conv3x3WeightGradients,
} from "./conv/conv3x3.ts";
export { crossEntropy, type CrossEntropyOptions, type LogitsChunk } from "./cross_entropy/cross_entropy.ts";
export { dropout, type DropoutKey } from "./dropout/dropout.ts";
export { addScaled, relu, reluBackward } from "./elementwise/elementwise.ts";
export { embeddingGather, embeddingScatterAdd } from "./embedding/embedding.ts";
export { type GateActivation, gated, gatedBackward, type GatedGradients } from "./gated/gated.ts";
export { headNorm, headNormBackward, type HeadNormOptions } from "./head_norm/head_norm.ts";
export {
  addColumnSums,
  layerNorm,
  layerNormBackward,
  layerNormParameterGradients,
  type LayerNormResult,
} from "./layer_norm/layer_norm.ts";
export type { NormBackwardOptions } from "./layer_norm/norm_backward.ts";
export {
  type ArenaMatrix,
  type GatheredColumnsOptions,
  gatherHeadColumns,
  type HeadColumnsOptions,
  headGradient,
  type HeadGradientOptions,
  headProduct,
  type HeadProductOptions,
  scatterAddHeadColumns,
} from "./lora/lora.ts";
export { type BatchLayout, type Causal, type HeadColumns, type MatmulOptions } from "./matmul/options.ts";
export { matmul } from "./matmul/matmul.ts";
export { measureTiles } from "./matmul/measure_tiles.ts";
export {
  DEFAULT_TILES,
  fastestTiles,
  MATMUL_TILES,
  type MatmulTile,
  type MatmulTiles,
  matmulTiles,
  setMatmulTiles,
  type TileTimes,
} from "./matmul/tiles.ts";
export {
  adamw,
  adamwControl,
  type AdamWSegments,
  type AdamWSettings,
  type AdamWTensors,
  clipScale,
  type FadeOptions,
  fadeSegments,
  segmentChange,
  segmentNorms,
  type SegmentNormsOptions,
} from "./optimizer/optimizer.ts";
export {
  type GroupsAlong,
  PACKED_FORMATS,
  type PackedFormat,
  type PackedShape,
  weightBytes,
} from "./packed/formats.ts";
export { PackedMatrix, type PackedWindow } from "./packed/packed_matrix.ts";
export { rmsNorm, rmsNormBackward, type RmsNormResult } from "./rms_norm/rms_norm.ts";
export { rope, type RopeOptions, ropeTable } from "./rope/rope.ts";
export { loraNorms, type LoraNormsOptions } from "./pruning/lora_norms.ts";
export {
  greedyPruneOnGpu,
  type GreedyPruneOnGpuOptions,
  type GreedyPruneOnGpuResult,
} from "./pruning/pruning.ts";
export { sigmoidLoss, type SigmoidLossOptions } from "./sigmoid_loss/sigmoid_loss.ts";
