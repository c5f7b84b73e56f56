/**
 * The core of EdgeTuner: GPT-2 with LoRA head modules, the split fine-tuning step, the wire
 * protocol, and the interfaces that pruners and transports implement.
 *
 * Dimension letters: B batch, T tokens, L layers, H heads per layer, D head size, d = H * D hidden
 * size, r LoRA rank, c LoRA targets, M user devices, V vocabulary.
 *
 * @module
 */

export {
  ChannelClosedError,
  CheckpointError,
  DeadlineError,
  DownloadError,
  GenerationError,
  HandshakeError,
  ListenError,
  PluginError,
  ProtocolError,
  SaveError,
  TrainingError,
} from "./errors.ts";
export type { Channel, CloseInfo, Listener, Transport, TransportFlags, WaitOptions } from "./transport.ts";
export {
  checkPruner,
  DEVICE_STATISTICS,
  type DeviceStatistic,
  type Pruner,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
  type PrunerState,
  type StatisticName,
  STATISTICS,
  validateDecision,
} from "./pruner.ts";
export * from "./importance.ts";
export type {
  DataPort,
  EmbeddedBatch,
  HeadMode,
  HeadPort,
  HeadStatistics,
  HeadStep,
  LayerHeads,
  LossPass,
  LossResult,
  PendingSum,
  StepMode,
} from "./ports.ts";
export {
  MAX_MICRO_BATCHES,
  type MicroBatch,
  splitBatch,
  type StepPart,
  WHOLE_STEP,
} from "./micro_batches.ts";
export { type MatrixParameter, Parameter, Tape, Variable } from "./tape.ts";
export type {
  AttentionCache,
  BaseLayers,
  BaseShape,
  EndsShape,
  ModelEnds,
  Normalised,
  SequenceShape,
} from "./model/base.ts";
export {
  addInputGradient,
  attentionOp,
  feedForwardOp,
  type Gpt2Config,
  gpt2Config,
  Gpt2Ends,
  type Gpt2Layer,
  Gpt2Layers,
  gpt2Shape,
  layerNormalised,
  linearOp,
  type LinearWeights,
  loraLinearOp,
  type NamedArray,
  type NamedArrays,
  normOp,
  weightOf,
} from "./model/gpt2.ts";
export {
  gatedFeedForwardOp,
  type LlamaConfig,
  llamaConfig,
  LlamaEnds,
  type LlamaLayer,
  LlamaLayers,
  llamaShape,
  rmsNormOp,
  ropeFrequencies,
  ropeOp,
  type RopeScaling,
} from "./model/llama.ts";
export {
  type Checkpoint,
  loadEnds,
  loadLayers,
  type LoadOptions,
  type ModelConfig,
  modelConfig,
  modelShape,
} from "./model/load.ts";
export { BASE_WEIGHTS, type BaseWeights } from "./model/weights.ts";
export { type BaseWeightBytes, baseWeightBytes } from "./model/weight_bytes.ts";
export {
  type OptConfig,
  optConfig,
  OptEnds,
  type OptLayer,
  OptLayers,
  optShape,
  reluFeedForwardOp,
} from "./model/opt.ts";
export {
  embedTokens,
  embedTokensBackward,
  logitsOf,
  type LossSettings,
  maskSumOf,
  type ModelLoss,
  modelLoss,
  partOfBatch,
  sumLosses,
  targetLogProbabilities,
  type TokenBatch,
} from "./model/loss.ts";
export { allocateHeads, type HeadRange } from "./lora/allocation.ts";
export {
  clipFactor,
  globalNorm,
  HeadModules,
  type HeadModulesOptions,
  type HeadModulesState,
  type HeadWeights,
  initialA,
} from "./lora/head_modules.ts";
export { keptHeads, LocalHeads, maskOfRange, putRange } from "./lora/local_heads.ts";
export {
  adamwAt,
  checkLora,
  checkOptimizer,
  DEFAULT_LORA,
  DEFAULT_OPTIMIZER,
  headParameters,
  LORA_TARGETS,
  type LoraSettings,
  type LoraTarget,
  type OptimizerSettings,
  type Schedule,
  SCHEDULES,
} from "./lora/settings.ts";
export { type BatchPart, type BatchSource, LocalData, partsOfStep } from "./train/local_data.ts";
export { probeStep, runStep, type StepContext, type StepOutcome } from "./train/step.ts";
export {
  builtInCodecs,
  checkCodec,
  type CodecStream,
  f16Codec,
  f32Codec,
  findCodec,
  int8Codec,
  type Int8CodecOptions,
  type WireCodec,
} from "./wire/codec.ts";
export { warmUp, type WarmUpPart } from "./train/warm_up.ts";
export {
  decodeFrame,
  elementsOf,
  encodeFrame,
  type Envelope,
  type Frame,
  type FrameOf,
  measureFrame,
  OtherVersionError,
  type RawFrame,
  tensorBytes,
  type WireDType,
  type WireTensor,
} from "./wire/frame.ts";
export {
  FRAME_KINDS,
  type FrameKind,
  isFrameKind,
  type Lane,
  type Message,
  MESSAGES,
  type MessageTensors,
  type MetaOf,
  PROTOCOL_VERSION,
  type Side,
} from "./wire/messages.ts";
export type { Field, FieldsOf, NullIn, OptionalField } from "./wire/fields.ts";
export type {
  ActivationMeta,
  EmbeddingMeta,
  EndMeta,
  HelloMeta,
  MaskMeta,
  Metas,
  NoMeta,
  RangeMeta,
  SettingsMeta,
  WelcomeMeta,
} from "./wire/metas.ts";
export { decodePlainData, encodePlainData } from "./wire/cbor.ts";
export { MAX_PEER_TEXT, plainText, quoted } from "./plain_text.ts";
export { ByteLedger, type Direction, type LedgerEntry } from "./wire/ledger.ts";
export {
  type Expectation,
  type Outgoing,
  type OutgoingEnvelope,
  Peer,
  type PeerOptions,
  type PeerTimes,
} from "./wire/peer.ts";
export { decodingTraffic, stepTraffic, tensorParallelTraffic, type TrafficShape } from "./wire/traffic.ts";
export {
  checkRunSettings,
  defaultRunSettings,
  MAX_ACCUMULATE,
  type ModelShape,
  readWelcome,
  type RunSettings,
  type RunTask,
  type Welcome,
} from "./session/settings.ts";
export {
  type BestLoss,
  type CheckpointSource,
  checkpointWriter,
  loadCheckpoint,
  openCheckpoints,
  requireSameRun,
  type RunCheckpoint,
  saveCheckpoint,
  type SavedData,
  type SavedDevice,
  type SavedHeads,
  type SavedPruning,
  saveHeads,
} from "./checkpoint/run_checkpoint.ts";
export { deviceIdIn } from "./checkpoint/device_id.ts";
export { newDeviceId } from "./session/device_id.ts";
export type { RunHandle, RunHealth } from "./session/run_handle.ts";
export { type HeadDevice, RemoteHeads, type RemoteHeadsOptions } from "./session/remote_heads.ts";
export { type DecodingRequest, RemoteData } from "./session/remote_data.ts";
export { Waits } from "./session/waits.ts";
export { RemoteSession } from "./session/remote_session.ts";
export { EdgeServer, type EdgeServerOptions, keptPerLayer } from "./session/edge_server.ts";
export {
  type DecodingRecord,
  type EdgeServerEvent,
  type JoinedDevice,
  type RunEnding,
  type RunMember,
  RunServer,
  type RunServerOptions,
  type RunStatus,
  type RunSystem,
  type StepRecord,
  type StepTimes,
} from "./session/run_server.ts";
export {
  type DataSide,
  runUserDevice,
  type UserDeviceOptions,
  type UserDeviceResult,
} from "./session/user_device.ts";
export {
  allocateShares,
  cutShard,
  shardBytes,
  shardShapes,
  type Share,
  type ShareMemory,
  shareMemory,
  type StepSize,
} from "./tensor_parallel/shares.ts";
export { TensorParallelServer, type TensorParallelServerOptions } from "./tensor_parallel/server.ts";
export {
  runTensorParallelDevice,
  type TensorParallelDeviceOptions,
  type TensorParallelDeviceResult,
} from "./tensor_parallel/device.ts";
export type { TensorParallelWelcome } from "./tensor_parallel/welcome.ts";
export {
  evaluateLoss,
  fullGradients,
  type FullStepResult,
  type FullStepSettings,
  fullTrainingStep,
  type TrainableModel,
} from "./train/full_training.ts";
export { type JsonLimits, parseJson, readJson, showValue } from "./checkpoint/json_file.ts";
export { environmentVariable } from "./hub/environment.ts";
export { withinTime } from "./time_limit.ts";
export { loadGgufTokenizer } from "./checkpoint/gguf_tokenizer.ts";
export {
  checkTokenizer,
  isGguf,
  loadModel,
  loadTokenizerOf,
  modelFolderOf,
} from "./checkpoint/model_path.ts";
export { initialWeights, loadModelFolder, type ModelFolder } from "./checkpoint/model_folder.ts";
export { fingerprintOf, parameterCount } from "./checkpoint/fingerprint.ts";
export {
  claimFolder,
  keepPrevious,
  makeFolder,
  PendingFolder,
  previousOf,
  saveError,
  type WholeFile,
  writeWhole,
  writeWholeSync,
} from "./checkpoint/atomic.ts";
export { openRunFolder, type RunFolder, type RunFolderOptions, setAside } from "./checkpoint/run_folder.ts";
export { BackgroundSaver, type SaveEvery, SaveSchedule, type SavingTimes } from "./checkpoint/saving.ts";
export * from "./checkpoint/safetensors.ts";
export { StoredTensors } from "./checkpoint/stored_tensors.ts";
export * from "./data/batches.ts";
export * from "./data/chat_template.ts";
export * from "./data/choice_tasks.ts";
export * from "./data/examples.ts";
export * from "./data/formats.ts";
export {
  type BadLine,
  loadPairs,
  type PairFormat,
  type PairOptions,
  parsePairs,
  type TextPair,
} from "./data/pairs.ts";
export * from "./data/random.ts";
export * from "./data/tokenizer.ts";
export { loadText } from "./text.ts";
export {
  type Adapter,
  adapterOf,
  type AdapterOrigin,
  adapterOrigin,
  adapterRange,
  joinAdapters,
  loadAdapter,
  loadHeads,
  loadIntoModules,
  saveAdapter,
} from "./lora/adapter.ts";
export * from "./plan.ts";
export * from "./twin/link_profile.ts";
export * from "./twin/compute.ts";
export { measureCompute, type MeasureOptions } from "./twin/measure.ts";
export { generateGreedy, type GenerateOptions, type GenerationModel } from "./generate.ts";
export { beamSearch, type BeamSearchOptions, type BeamSearchResult } from "./generation/beam_search.ts";
export { CachedSession, TokenSession } from "./generation/cached_session.ts";
export { type LikelihoodOptions, logLikelihoods } from "./generation/likelihood.ts";
export { applyRules, type LogitsRules, logSoftmax } from "./generation/logits.ts";
export type { DecodingSession } from "./generation/model.ts";
export { sample, type SampleOptions } from "./generation/sample.ts";
export {
  fromPeft,
  loadPeft,
  mergePeft,
  type ModelFamily,
  type PeftAdapter,
  type PeftConfig,
  type PeftModelShape,
  reduceRank,
  savePeft,
  toPeft,
} from "./lora/peft.ts";
export { dequantise, GGML_TYPES, ggmlBytes } from "./checkpoint/ggml_types.ts";
export { firstNotFinite } from "./checkpoint/finite_values.ts";
export { GgufFile, type GgufTensor } from "./checkpoint/gguf.ts";
export { type Checksum, download, type DownloadOptions } from "./hub/download.ts";
export {
  DATASETS,
  type DatasetSource,
  defaultCache,
  pullDataset,
  pullModel,
  type PullOptions,
} from "./hub/pull.ts";
export { baseNorms } from "./predictor/base_norms.ts";
export {
  loadSamples,
  type PrunerSample,
  readSamples,
  type SampleSet,
  sampleSettings,
  type SampleSource,
  SampleWriter,
} from "./predictor/samples.ts";
export { embeddingMean } from "./train/embedding_mean.ts";
export { predictImportance, predictorForward } from "./predictor/forward.ts";
export { PredictorNetwork } from "./predictor/network.ts";
export {
  DEFAULT_PREDICTOR_SIZES,
  initialPredictor,
  loadPredictor,
  type Predictor,
  type PredictorConfig,
  predictorShapes,
  requirePredictorShape,
  savePredictor,
} from "./predictor/predictor.ts";
export {
  comparePredictors,
  meanLabel,
  type PredictionQuality,
  type PredictorComparison,
  type PredictorEpoch,
  type PredictorRequest,
  type PredictorResult,
  type PredictorTrainer,
  predictorTrainer,
  type PredictorTraining,
  rankCorrelation,
  trainPredictor,
} from "./predictor/train.ts";
export {
  embeddingStatistics,
  type HeldOutShares,
  meanImportance,
  type PredictorFeatures,
  predictorFeatures,
  type PredictorWindow,
  splitSteps,
  splitWindows,
  type StepView,
  type TrackedStep,
  trackSamples,
  trackStep,
  windowsOf,
  type WindowSplit,
} from "./predictor/windows.ts";
export {
  type CertificateOptions,
  certifyExport,
  type ExportCertificate,
  type ReductionLoss,
} from "./lora/certificate.ts";
export { type GgufModel, loadGgufModel } from "./checkpoint/gguf_model.ts";
