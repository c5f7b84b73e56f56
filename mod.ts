/**
 * EdgeTuner: collaborative LoRA fine-tuning on WebGPU. An edge server holds the frozen base model,
 * user devices hold LoRA head modules, and a pruner says in each step which of them matter.
 *
 * This module has what a program needs. The rest is behind `@edgetuner/edgetuner/kernels`, `/core`,
 * `/transport` and `/plugins`. Three entry points are for some programs alone: `/contracts` for those who write
 * a pruner, a codec or a transport, `/server` for the control server, `/evaluation` for the scores of texts.
 *
 * @module
 */

// Open a model and its data.
export {
  type BaseWeights,
  encodeOpening,
  encodePairs,
  loadEmbeddingAndHead,
  loadLayers,
  loadPairs,
  loadTokenizer,
  loadTrainingData,
  type OpenedModel,
  openModel,
  pullModel,
  shuffledBatches,
  type TokenBatch,
  type Tokenizer,
  type TrainingData,
} from "@edgetuner/core";

// Settings of a run, and what trains by them: one machine, an edge server, or devices.
export {
  ByteLedger,
  DEFAULT_LORA,
  DEFAULT_OPTIMIZER,
  defaultRunSettings,
  EdgeServer,
  LocalTraining,
  type LoraSettings,
  type OptimizerSettings,
  type RunSettings,
  runUserDevice,
  Trainer,
  TrainingPlan,
  warmUp,
} from "@edgetuner/core";

// Head modules, and adapters made of them.
export {
  type Adapter,
  adapterOf,
  fromPeft,
  HeadModules,
  joinAdapters,
  loadAdapter,
  loadHeads,
  loadPeft,
  LocalHeads,
  mergePeft,
  reduceRank,
  saveAdapter,
  savePeft,
  toPeft,
} from "@edgetuner/core";

// Generate texts.
export { beamSearch, CachedSession, sample } from "@edgetuner/core";

// The GPU.
export { Engine, GpuError, type Tensor } from "@edgetuner/kernels";

// Pruners.
export {
  budgetPruner,
  collectingPruner,
  dloraPruner,
  gradientPruner,
  greedyPruner,
  iHeadPruner,
  magnitudePruner,
  noPruner,
  oraclePruner,
  randomPruner,
} from "@edgetuner/plugins";
export type { Pruner } from "@edgetuner/core";

// Codecs: how numbers are written on the wire.
export { f16Codec, f32Codec, int8Codec } from "@edgetuner/core";

// Ways to exchange frames.
export {
  httpListener,
  httpTransport,
  inProcessTransport,
  messagePortChannel,
  webSocketListener,
  webSocketTransport,
} from "@edgetuner/transport";
export type { Channel } from "@edgetuner/core";

// Runs on emulated links, and what a run would take.
export { emulateLink, LINK_PROFILES, plan, simulate } from "@edgetuner/transport";

// Errors to catch.
export {
  ChannelClosedError,
  DataFormatError,
  DeadlineError,
  DownloadError,
  HandshakeError,
  ModelFileError,
  PluginError,
  ProtocolError,
  RunStateError,
  SaveError,
  TrainingError,
} from "@edgetuner/core";
