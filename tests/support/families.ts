/**
 * The small models of the PyTorch fixtures of families.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import {
  type BaseLayers,
  type BaseWeights,
  type EmbeddingAndHead,
  HeadModules,
  loadEmbeddingAndHead,
  loadLayers,
  loadModelFolder,
  type LoraSettings,
  type ModelConfig,
  type ModelFiles,
  type ModelFolder,
  type NamedArray,
  readSafetensors,
  type RunSettings,
  shapeForDevices,
} from "@edgetuner/core";

import type { TinyBase } from "./tiny_model.ts";

const FOLDER = new URL("../fixtures/families/", import.meta.url);

/** One pass of a fixture. */
export interface FamilyPass {
  readonly headMask: readonly number[];
  readonly loss: number;
}

/** A fixture: a model with head modules on it. */
export interface FamilyFixture {
  readonly file: string;
  readonly model: FamilyName;
  readonly kvHeads: number;
  readonly hidden: number;
  readonly headSize: number;
  readonly lora: Omit<LoraSettings, "dropout">;
  readonly optimizer: Omit<RunSettings["optimizer"], "warmupSteps" | "schedule">;
  readonly baseLoss: number;
  readonly unpruned: FamilyPass;
  readonly pruned: FamilyPass;
  readonly steps: {
    readonly headMasks: readonly (readonly number[])[];
    readonly stepLosses: readonly number[];
  };
}

/** Angles per position of one way to stretch them. */
export interface RopeCase {
  readonly hiddenSize: number;
  readonly heads: number;
  readonly ropeParameters: Readonly<Record<string, unknown>>;
  readonly frequencies: readonly number[];
}

/** Models of the fixtures. */
export const FAMILY_NAMES = [
  "llama",
  "llama_grouped",
  "opt",
  "qwen2",
  "qwen3",
  "mistral",
  "gemma3",
  "smollm3",
] as const;

/** See `FAMILY_NAMES`. */
export type FamilyName = typeof FAMILY_NAMES[number];

/** `manifest.json` of the fixtures. */
export const FAMILIES: {
  readonly fixtures: Readonly<Record<string, FamilyFixture>>;
  readonly rope: Readonly<Record<string, RopeCase>>;
} = JSON.parse(Deno.readTextFileSync(new URL("manifest.json", FOLDER)));

/** Reads a file of tensors. */
export function familyTensors(file: string): Map<string, NamedArray> {
  return readSafetensors(Deno.readFileSync(new URL(file, FOLDER)), file);
}

/** `config.json` of a model, parsed. */
export function familyConfig(name: FamilyName): Record<string, unknown> {
  return JSON.parse(Deno.readTextFileSync(new URL(`${name}/config.json`, FOLDER)));
}

/** A model of the fixtures, read from its folder. */
export function familyFolder(name: FamilyName): Promise<ModelFolder> {
  return loadModelFolder(new URL(name, FOLDER));
}

/** Both halves of a model on an engine. */
export class TinyFamily implements TinyBase, Disposable {
  readonly config: ModelConfig;
  readonly layers: BaseLayers;
  readonly ends: EmbeddingAndHead;

  constructor(readonly engine: Engine, readonly folder: ModelFiles, baseWeights: BaseWeights = "f32") {
    this.config = folder.config;
    this.layers = loadLayers(engine, folder, { baseWeights });
    this.ends = loadEmbeddingAndHead(engine, folder, { baseWeights });
  }

  [Symbol.dispose](): void {
    this.layers[Symbol.dispose]();
    this.ends[Symbol.dispose]();
  }
}

/** Head modules of virtual devices with some heads each. */
export function familyHeads(
  { engine, layers }: TinyFamily,
  settings: RunSettings,
  counts: readonly number[],
): HeadModules[] {
  const { shape } = layers;
  let first = 0;
  return counts.map((count) => {
    const range = { first, count };
    first += count;
    return new HeadModules(engine, { ...settings, ...shapeForDevices(shape), range });
  });
}
