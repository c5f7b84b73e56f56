/**
 * What a device needs beside `@edgetuner/core/device` to have the data, and to take adapters away: model families,
 * tokenizers and formats of texts. A page loads it when it is asked for.
 *
 * @module
 */

export { ExampleEncoder, parseExamples } from "./data/examples.ts";
export { parsePairs } from "./data/pairs.ts";
export type { SequenceSet } from "./data/sequences.ts";
export { type Tokenizer, tokenizerFromJson } from "./data/tokenizer.ts";
export type { NamedArray } from "./files/named_arrays.ts";
export { fingerprintOfDigests } from "./loading/model_digests.ts";
export { peftFiles, toPeft } from "./lora/peft.ts";
export type { EmbeddingAndHead } from "./model/base.ts";
export type { ModelConfig, ModelFamily } from "./model/families.ts";
export { loadEmbeddingAndHead } from "./model/load.ts";
export type { DataSide } from "./session/data_device.ts";
export type { RunState, SavedData } from "./session/run_state.ts";
export { requireSameRun } from "./session/same_run.ts";
export { runUserDevice } from "./session/user_device.ts";
export { TrainingPlan } from "./train/training_plan.ts";
