/**
 * What a device is told of a run before it takes part, as `GET /join/about` answers it.
 *
 * @module
 */

import type { ModelShape } from "@edgetuner/core/contracts";

/** A run, as a device sees it that has not joined. */
export interface RunAbout {
  /** Name of the run. */
  readonly run: string;
  /** State of the run. */
  readonly status: string;
  /** Training steps done. */
  readonly step: number;
  /** Training steps in all. */
  readonly steps: number;
  /** Loss of the last training step, if the data device shares it. */
  readonly loss: number | null;
  /** Milliseconds of the last training step; `null` before the first. */
  readonly stepMs: number | null;
  /** Shape of the model; `null` if it is not known. */
  readonly model: ModelShape | null;
  /** What it is; `null` if it is not known. */
  readonly base: { readonly name: string; readonly family: string; readonly kvHeads: number } | null;
  /** Settings of LoRA: `LoraSettings` of core. */
  readonly lora: Readonly<Record<string, unknown>>;
  /** Name of the codec that writes what travels. */
  readonly codec: string;
  /** Devices with heads that the run waits for; 0 if it is not known. */
  readonly places: number;
  /** Who has joined. */
  readonly devices: readonly AboutDevice[];
}

/** What a device with data is told of a model, as `GET /join/model/RUN` answers it. */
export interface ModelAbout {
  /** What `modelConfig` of core makes of its configuration. */
  readonly config: unknown;
  /** Its fingerprint, which the digests give. */
  readonly fingerprint: string;
  /** Digests of all weights. */
  readonly tensors: readonly {
    readonly name: string;
    readonly shape: readonly number[];
    readonly digest: string;
  }[];
  /** Names of embedding, final norm and LM head, which are served. */
  readonly ends: readonly string[];
  /** Its tokenizer, as `tokenizerFromJson` of core takes it. */
  readonly tokenizer: { readonly json: unknown; readonly options: Readonly<Record<string, unknown>> };
}

/** A device that has joined. */
export interface AboutDevice {
  /** Its name. */
  readonly name: string;
  /** The first characters of its id. */
  readonly id: string;
  /** Its capacity; 0 without heads. */
  readonly capacity: number;
  /** Heads that it has in every layer; `null` before the start. */
  readonly heads: number | null;
  /** True if it has the data. */
  readonly data: boolean;
  /** False while it is away. */
  readonly connected: boolean;
}
