/**
 * EdgeTuner: collaborative LoRA fine-tuning on WebGPU. An edge server holds the frozen base model,
 * user devices hold LoRA head modules, and a pruner says in each step which of them matter.
 *
 * This module has what a program needs; the rest is behind `@edgetuner/edgetuner/kernels`, `/core`,
 * `/transport` and `/plugins`. The control server is apart, in `/server`, and the scores of texts are in
 * `/evaluation`, so that only those who use them load them.
 *
 * @module
 */

// Open a model and its data.
export {
  type BaseWeights,
  encodeOpening,
  encodePairs,
  Gpt2EmbeddingAndHead,
  Gpt2Layers,
  initialWeights,
  loadEmbeddingAndHead,
  loadLayers,
  loadModelFolder,
  loadPairs,
  loadTokenizer,
  loadTrainingData,
  type ModelFolder,
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
  type EdgeServerOptions,
  LocalTraining,
  type LoraSettings,
  type OptimizerSettings,
  type RunSettings,
  runUserDevice,
  Trainer,
  type TrainerOptions,
  type UserDeviceOptions,
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
  LocalHeads,
  mergePeft,
  reduceRank,
  saveAdapter,
  toPeft,
} from "@edgetuner/core";

// Generate texts.
export { beamSearch, CachedSession, sample } from "@edgetuner/core";

// The GPU.
export { Engine, type EngineOptions, GpuError, matmul, type Tensor } from "@edgetuner/kernels";

// Pruners, and what they are made of.
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
export type { Pruner, PrunerContext, PrunerDecision, PrunerInput } from "@edgetuner/core";

// Codecs: how numbers are written on the wire.
export { f16Codec, f32Codec, int8Codec, type WireCodec } from "@edgetuner/core";

// Ways to exchange frames.
export {
  httpListener,
  httpTransport,
  inProcessTransport,
  messagePortChannel,
  webSocketListener,
  webSocketTransport,
} from "@edgetuner/transport";
export type { Channel, Listener, Transport } from "@edgetuner/core";

// Runs on emulated links, and what a run would take.
export { emulateLink, LINK_PROFILES, type LinkProfile, plan, simulate } from "@edgetuner/transport";

// Errors to catch.
export {
  ChannelClosedError,
  CheckpointError,
  DataFormatError,
  DeadlineError,
  HandshakeError,
  PluginError,
  ProtocolError,
  SaveError,
  TrainingError,
} from "@edgetuner/core";
