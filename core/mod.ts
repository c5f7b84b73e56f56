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
  DataFormatError,
  DeadlineError,
  DownloadError,
  GenerationError,
  HandshakeError,
  ListenError,
  ModelFileError,
  PluginError,
  ProtocolError,
  RunStateError,
  SaveError,
  TrainingError,
} from "./contracts/errors.ts";
export type {
  Channel,
  CloseInfo,
  Listener,
  Transport,
  TransportFlags,
  WaitOptions,
} from "./contracts/channel.ts";
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
} from "./contracts/pruner.ts";
export type { DeviceLink, LinkStatistics } from "./contracts/links.ts";
export * from "./pruning/importance.ts";
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
} from "./contracts/ports.ts";
export {
  type AccumulationStep,
  MAX_MICRO_BATCHES,
  type MicroBatch,
  splitBatch,
  WHOLE_STEP,
} from "./contracts/micro_batches.ts";
export { type MatrixParameter, Parameter, Tape, Variable } from "./model/tape.ts";
export type {
  AttentionCache,
  AttentionStyle,
  BaseLayers,
  BaseShape,
  EmbeddingAndHead,
  EmbeddingAndHeadShape,
  Normalised,
  SequenceShape,
} from "./model/base.ts";
export {
  addInputGradient,
  attentionOp,
  feedForwardOp,
  layerNormalised,
  linearOp,
  type LinearWeights,
  loraLinearOp,
  normOp,
  weightOf,
} from "./model/ops.ts";
export {
  type Gpt2Config,
  gpt2Config,
  Gpt2EmbeddingAndHead,
  type Gpt2Layer,
  Gpt2Layers,
  type Gpt2LoadOptions,
  gpt2Shape,
} from "./model/families/gpt2.ts";
export { streamedPieces } from "./files/streaming.ts";
export type { NamedArray, NamedArrays } from "./files/named_arrays.ts";
export {
  type Decoder,
  DecoderEmbeddingAndHead,
  type DecoderLayer,
  DecoderLayers,
  gatedFeedForwardOp,
  type LayerAttention,
} from "./model/families/decoder.ts";
export type { DecoderSizes } from "./model/families/decoder_config.ts";
export { type LlamaConfig, llamaConfig, llamaShape } from "./model/families/llama.ts";
export { type Gemma3Config, gemma3Config } from "./model/families/gemma3.ts";
export { type MistralConfig, mistralConfig } from "./model/families/mistral.ts";
export { type Qwen2Config, qwen2Config } from "./model/families/qwen2.ts";
export { type Qwen3Config, qwen3Config } from "./model/families/qwen3.ts";
export { type Smollm3Config, smollm3Config } from "./model/families/smollm3.ts";
export { type RopeConfig, ropeFrequencies, type RopeScaling } from "./model/families/rope.ts";
export type { LayerKind, WindowConfig } from "./model/families/windows.ts";
export { headNormOp, rmsNormOp, ropeOp } from "./model/ops.ts";
export {
  contextLength,
  loadEmbeddingAndHead,
  loadLayers,
  type LoadOptions,
  type ModelFiles,
  modelShape,
} from "./model/load.ts";
export {
  FAMILIES,
  Families,
  familyName,
  familyOf,
  type ModelConfig,
  modelConfig,
  type ModelFamily,
} from "./model/families.ts";
export type {
  AttentionProjection,
  Family,
  FamilyActivations,
  FamilyBytes,
  FamilyLoad,
  ProjectionShape,
  ProjectionTarget,
} from "./model/families/family.ts";
export {
  type GgufChange,
  type GgufFamily,
  GgufFields,
  type GgufHeader,
  type GgufNames,
  type GgufReading,
} from "./model/families/gguf.ts";
export { BASE_WEIGHTS, type BaseWeights } from "./model/weights.ts";
export { type BaseWeightBytes, baseWeightBytes } from "./model/weight_bytes.ts";
export {
  type MemoryModel,
  memoryModelOf,
  type StepMemory,
  stepMemory,
  type StepMemoryOptions,
} from "./train/step_memory.ts";
export { headMemory, type MemoryLora } from "./train/head_memory.ts";
export {
  type OptConfig,
  optConfig,
  OptEmbeddingAndHead,
  type OptLayer,
  OptLayers,
  optShape,
  reluFeedForwardOp,
} from "./model/families/opt.ts";
export { LearnedPositions, type LearnedPositionsWeights } from "./model/families/pre_norm.ts";
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
export { baseProjections, requireProjections } from "./lora/base_projections.ts";
export {
  type EdgeHeads,
  type EdgeHeadsOptions,
  type EdgePlace,
  type GatheredInput,
  type KeptHeads,
} from "./lora/edge_heads.ts";
export type { EdgeLora, ProjectionForm } from "./lora/targets.ts";
export { unprojected } from "./lora/unprojected.ts";
export {
  type HeadProjections,
  type ProjectionPair,
  type ProjectionPlace,
  projectionsFor,
  seededProjections,
} from "./lora/projections.ts";
export {
  type EdgeWork,
  type HeadSlots,
  type InputMode,
  type InputModelSize,
  inputNumbers,
  inputRows,
  type InputShare,
} from "./lora/input_mode.ts";
export { INPUT_MODE_NAMES, INPUT_MODES, type InputModeName, InputModes } from "./lora/input_modes.ts";
export { clipFactor, globalNorm } from "./lora/clipping.ts";
export { type HeadModulesState, type HeadWeights, initialA } from "./lora/head_arena.ts";
export { HeadModules } from "./lora/head_modules.ts";
export type { HeadModulesOptions } from "./lora/head_modules_options.ts";
export { keptHeads, lowestLayer, maskOfRange, putRange } from "./lora/head_mask.ts";
export { LocalHeads, type LocalHeadsOptions } from "./lora/local_heads.ts";
export {
  adamwAt,
  checkLora,
  checkOptimizer,
  DEFAULT_LORA,
  DEFAULT_OPTIMIZER,
  DEFAULT_PROJECTIONS,
  headParameters,
  LORA_TARGETS,
  type LoraForm,
  type LoraSettings,
  type LoraTarget,
  type ModeSize,
  modeSize,
  type OptimizerSettings,
  PAPER_LORA,
  PAPER_OPTIMIZER,
  PROJECTION_SOURCES,
  type ProjectionSettings,
  projectionsOf,
  type Schedule,
  SCHEDULES,
} from "./lora/settings.ts";
export { type AccumulatedBatch, accumulationSteps, type BatchSource, LocalData } from "./train/local_data.ts";
export { probeStep, runStep, type StepContext, type StepOutcome } from "./train/step.ts";
export {
  type LossesAtEnds,
  lossesAtEnds,
  type PruningPort,
  type SavingPort,
  Trainer,
  type TrainerEvent,
  type TrainerOptions,
  type TrainerPorts,
  type TrainerStep,
  type TrainingSummary,
  type ValidationPort,
} from "./train/trainer.ts";
export {
  type BestLoss,
  type PaddingCount,
  type PlannedBatch,
  stepsOfEpochs,
  type TrainingBatches,
  trainingBatches,
  TrainingPlan,
  type TrainingPlanOptions,
} from "./train/training_plan.ts";
export { TokenMean } from "./train/token_mean.ts";
export { PruningSession, type PruningSessionOptions, type SavedPruning } from "./pruning/pruning_session.ts";
export { LocalTraining, type LocalTrainingOptions } from "./session/local_training.ts";
export {
  builtInCodecs,
  checkCodec,
  f16Codec,
  f32Codec,
  findCodec,
  int8Codec,
  type Int8CodecOptions,
} from "./protocol/codec.ts";
export { groupCodec, type GroupCodecOptions } from "./protocol/group_codec.ts";
export {
  type CodecNames,
  codecNames,
  codecsText,
  codedBytes,
  findRunCodecs,
  oneCodec,
  type RunCodecs,
} from "./protocol/run_codecs.ts";
export { type RunClock, WALL_CLOCK } from "./contracts/clock.ts";
export { type CodecStream, elementsOf, type WireCodec } from "./contracts/codec.ts";
export { type HeadsDeviceOptions, runHeadsDevice } from "./session/heads_device.ts";
export { warmUpHeads } from "./session/warm_heads.ts";
export { warmUp, type WarmUpParts } from "./session/warm_up.ts";
export {
  decodeFrame,
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
} from "./protocol/frame.ts";
export {
  CODED_TENSORS,
  type CodedTensor,
  FRAME_KINDS,
  type FrameKind,
  isFrameKind,
  type Lane,
  type Message,
  MESSAGES,
  Messages,
  type MessageTensors,
  type MetaOf,
  PROTOCOL_VERSION,
  type Side,
} from "./protocol/messages.ts";
export type { Field, FieldsOf, NullIn, OptionalField } from "./protocol/fields.ts";
export type {
  ActivationMeta,
  AnswerMeta,
  EmbeddingMeta,
  EndMeta,
  FinishedMeta,
  HelloMeta,
  HiddenMeta,
  LossMeta,
  MaskMeta,
  NoMeta,
  PausedMeta,
  RangeMeta,
  SettingsMeta,
  TurnMeta,
  WelcomeMeta,
} from "./protocol/metas.ts";
export { decodePlainData, encodePlainData } from "./protocol/cbor.ts";
export { MAX_PEER_TEXT, plainText, showValue } from "./contracts/plain_text.ts";
export { ByteLedger, type Direction, type LedgerEntry } from "./protocol/ledger.ts";
export { Peer, type PeerTimes } from "./protocol/peer.ts";
export type { Expectation, Outgoing, OutgoingEnvelope, PeerOptions } from "./protocol/peer_options.ts";
export {
  describeEmbedding,
  describePass,
  type DeviceHeads,
  type Exchange,
  exchangesOf,
  headsOfDevices,
  type PartDescription,
  type PassDescription,
  type PassShape,
  type SplitShape,
  splitShape,
  type StepMessage,
  type StepParty,
  type StepWork,
} from "./protocol/pass.ts";
export {
  type DecodingDescriptionOptions,
  describeDecoding,
  describeStep,
  describeTensorParallelStep,
  messagesOf,
  type PartyWork,
  type StepDescriptionOptions,
  type TensorParallelStepOptions,
  workOf,
} from "./protocol/step.ts";
export {
  decodingTraffic,
  messageBytes,
  stepTraffic,
  tensorParallelTraffic,
  type TrafficShape,
} from "./protocol/traffic.ts";
export {
  type FittingOptions,
  type FittingSettings,
  fittingSettings,
  fittingSettingsOf,
} from "./train/fitting_settings.ts";
export { defaultRunSettings } from "./train/default_run_settings.ts";
export {
  checkRunSettings,
  MAX_ACCUMULATE,
  type RunSettings,
  type RunTask,
  settingsWith,
  TRAINING_DEFAULTS,
} from "./train/run_settings.ts";
export { headSizeOf, type ModelShape, shapeForDevices } from "./contracts/model_shape.ts";
export { readWelcome, receiveWelcome, type Welcome } from "./session/welcome.ts";
export {
  loadRunState,
  openRunStates,
  readRunState,
  type RemovedDevice,
  type RunState,
  runStateBytes,
  type RunStateSource,
  runStateWriter,
  type SavedData,
  type SavedDevice,
  type SavedHeads,
  saveHeads,
  saveRunState,
} from "./session/run_state.ts";
export { requireSameRun } from "./session/same_run.ts";
export { forgetRunStates, storedRunStates, storeRunState } from "./session/run_state_store.ts";
export { type ByteStore, checkStoreName, folderStore, memoryStore } from "./files/byte_store.ts";
export { deviceIdIn, deviceKeyIn } from "./session/device_id_file.ts";
export { type DeviceKey, newDeviceKey, proveDevice } from "./session/device_key.ts";
export type { KeptStreams } from "./protocol/peer.ts";
export { newDeviceId } from "./session/device_id.ts";
export type { BaseIdentity, JoinOptions, RunHandle, RunHealth } from "./session/run_handle.ts";
export { RemoteHeads } from "./session/remote_heads.ts";
export type { RemoteHeadsOptions } from "./session/remote_heads_options.ts";
export { OUTLIER_FACTOR } from "./session/outliers.ts";
export { LOSS_POLICIES, type LossPolicy } from "./session/step_attempts.ts";
export type { AnswerClock, HeadMember } from "./session/head_members.ts";
export type { DataSource, DecodingRequest, DecodingSource } from "./session/data_source.ts";
export { type OwnedBatch, RemoteData, type RemoteDataOptions } from "./session/remote_data.ts";
export {
  DATA_SHARES,
  type DataShare,
  DataTurns,
  type DrawnTurns,
  type SavedTurns,
  type TurnOwner,
} from "./train/data_turns.ts";
export { HeadDevice, type HeadDeviceOptions } from "./session/head_device.ts";
export type { RunProgress } from "./session/run_end.ts";
export { DataDevice, type DataDeviceOptions, type DataSide, type DataTurn } from "./session/data_device.ts";
export { WaitTimer } from "./session/wait_timer.ts";
export { RemoteSession } from "./session/remote_session.ts";
export { EdgeServer } from "./session/edge_server.ts";
export { keptPerLayer } from "./session/step_record.ts";
export type { DataSharing } from "./session/data_sharing.ts";
export type {
  AbsentOwner,
  OwnerLoss,
  SavedSharing,
  SharedBest,
  SharedValidationEvent,
} from "./session/shared_validation.ts";
export type { EdgeServerOptions } from "./session/edge_server_options.ts";
export { GenerationServer, type GenerationServerOptions } from "./session/generation_server.ts";
export type {
  AnswerTime,
  DataAnswerTime,
  DecodingRecord,
  EdgeServerEvent,
  JoinedDevice,
  RunEnding,
  RunStatus,
  StepRecord,
  StepTimes,
} from "./session/run_events.ts";
export type { RunMember, RunSystem } from "./session/run_member.ts";
export { RunServer } from "./session/run_server.ts";
export type { RunServerOptions } from "./session/run_server_options.ts";
export { runUserDevice } from "./session/user_device.ts";
export type { DeviceStep, UserDeviceOptions, UserDeviceResult } from "./session/user_device_options.ts";
export {
  allocateShares,
  cutShard,
  shardBytes,
  shardShapes,
  type Share,
  type ShareMemory,
  shareMemory,
  type StepSize,
} from "./baselines/tensor_parallel/shares.ts";
export {
  TensorParallelServer,
  type TensorParallelServerOptions,
} from "./baselines/tensor_parallel/server.ts";
export {
  runTensorParallelDevice,
  type TensorParallelDeviceOptions,
  type TensorParallelDeviceResult,
} from "./baselines/tensor_parallel/device.ts";
export type { TensorParallelWelcome } from "./baselines/tensor_parallel/welcome.ts";
export {
  evaluateLoss,
  fullGradients,
  type FullStepResult,
  type FullStepSettings,
  fullTrainingStep,
  type TrainableModel,
} from "./train/full_training.ts";
export { type JsonLimits, parseJson, readJson } from "./files/json_file.ts";
export { environmentVariable } from "./loading/hub/environment.ts";
export { withinTime } from "./contracts/time_limit.ts";
export { loadGgufChatTemplate, loadGgufTokenizer } from "./loading/gguf_tokenizer.ts";
export {
  checkTokenizer,
  isGguf,
  loadModel,
  loadModelConfig,
  loadTokenizerOf,
  modelFolderOf,
} from "./loading/model_path.ts";
export { type OpenedModel, openModel, type OpenModelOptions } from "./loading/open_model.ts";
export * from "./loading/training_data.ts";
export { DATA_FORMATS, dataFiles, type DataFormat, recogniseFormat } from "./loading/data_file.ts";
export { type ColumnMap, type ColumnOptions, COLUMNS } from "./data/columns.ts";
export { BrokenRule, parsePreciseJson, plainNumber } from "./data/lines.ts";
export { fingerprintOfDigests, isEndTensor, type TensorDigest } from "./loading/model_digests.ts";
export {
  initialWeights,
  loadModelFolder,
  type ModelFolder,
  openModelFolder,
} from "./loading/model_folder.ts";
export { fingerprintOf, parameterCount, tensorDigests } from "./loading/fingerprint.ts";
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
} from "./files/atomic.ts";
export { openRunFolder, type RunFolder, type RunFolderOptions, setAside } from "./session/run_folder.ts";
export {
  BackgroundSaver,
  type SaveEvery,
  type SaveHooks,
  SaveSchedule,
  type SavingTimes,
} from "./train/saving.ts";
export * from "./files/safetensors.ts";
export { StoredTensors } from "./files/stored_tensors.ts";
export * from "./data/batches.ts";
export type { SequenceSet, TokenSequence } from "./data/sequences.ts";
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
export * from "./model/random.ts";
export * from "./data/sentence_piece.ts";
export * from "./data/tokenizer.ts";
export {
  copyTokenizerFiles,
  endsOfModel,
  type FolderTokenizer,
  loadModelTokenizer,
  TOKENIZER_FILES,
  tokenizerFilesOf,
} from "./data/tokenizer_folder.ts";
export { loadText } from "./files/text.ts";
export { absenceLines, type Absences, joinAbsences, type MissedSteps, missedSteps } from "./lora/absence.ts";
export {
  type Adapter,
  adapterFiles,
  adapterOf,
  type AdapterOrigin,
  adapterOrigin,
  adapterRange,
  joinAdapters,
  loadAdapter,
  loadHeads,
  loadIntoModules,
  readAdapter,
  saveAdapter,
  withZeroHeads,
} from "./lora/adapter.ts";

export { generateGreedy, type GenerateOptions, type GenerationModel } from "./generation/greedy.ts";
export { beamSearch, type BeamSearchOptions, type BeamSearchResult } from "./generation/beam_search.ts";
export { CachedSession, TokenSession } from "./generation/cached_session.ts";
export { type LikelihoodOptions, logLikelihoods } from "./generation/likelihood.ts";
export { applyRules, type LogitsRules, logSoftmax } from "./generation/logits.ts";
export type { DecodingSession } from "./generation/model.ts";
export { sample, type SampleOptions } from "./generation/sample.ts";
export {
  beginningWith,
  type CompletedText,
  completeText,
  type CompleteTextOptions,
} from "./generation/complete_text.ts";
export { TextStream, type TextStreamOptions } from "./generation/text_stream.ts";
export { fromPeft, loadPeft, peftFiles, savePeft, toPeft } from "./lora/peft.ts";
export { mergePeft } from "./lora/peft_merge.ts";
export { type PeftAdapter, type PeftConfig, type PeftModelShape, peftRank } from "./lora/peft_modules.ts";
export { exactRank, reduceRank, type SmallerAdapter } from "./lora/peft_rank.ts";
export { loadGgufLora, saveGgufLora } from "./lora/gguf_lora.ts";
export { dequantise, GGML_TYPES, ggmlBytes } from "./files/ggml_types.ts";
export { firstNotFinite } from "./files/finite_values.ts";
export { type GgufFieldsTyped, GgufFile, type GgufTensor } from "./files/gguf.ts";
export { type GgufField } from "./files/gguf_writer.ts";
export { type Checksum, download, type DownloadOptions } from "./loading/hub/download.ts";
export {
  DATASETS,
  type DatasetSource,
  defaultCache,
  pullDataset,
  pullModel,
  type PullOptions,
} from "./loading/hub/pull.ts";
export { baseNorms } from "./pruning/predictor/base_norms.ts";
export {
  loadSamples,
  type PrunerSample,
  readSamples,
  type SampleSet,
  sampleSettings,
  type SampleSource,
  SampleWriter,
} from "./pruning/predictor/samples.ts";
export { embeddingMean } from "./train/embedding_mean.ts";
export { predictImportance, predictorForward } from "./pruning/predictor/forward.ts";
export { PredictorNetwork } from "./pruning/predictor/network.ts";
export {
  DEFAULT_PREDICTOR_SIZES,
  initialPredictor,
  loadPredictor,
  type Predictor,
  type PredictorConfig,
  predictorShapes,
  requirePredictorShape,
  savePredictor,
} from "./pruning/predictor/predictor.ts";
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
} from "./pruning/predictor/train.ts";
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
} from "./pruning/predictor/windows.ts";
export {
  type CertificateOptions,
  certifyExport,
  type ExportCertificate,
  type ReductionLoss,
} from "./export/certificate.ts";
export { type MergedFolderOptions, saveMergedFolder } from "./export/merged_folder.ts";
export { type MergedGgufOptions, saveMergedGguf } from "./export/merged_gguf.ts";
export { GGML_WRITTEN, type GgmlWritten } from "./files/ggml_encode.ts";
export { type GgufModel, loadGgufModel } from "./loading/gguf_model.ts";
