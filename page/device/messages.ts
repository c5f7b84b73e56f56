/**
 * What the page and its worker say to each other.
 *
 * @module
 */

import type { EngineOptions } from "@edgetuner/kernels";
import type { RunAbout } from "@edgetuner/transport";
import type { JoinRequestJson } from "@edgetuner/transport/control";

/** Where a run is, and what lets this device in. */
export interface RunPlace {
  /** Address of the control server, without a path. */
  readonly server: string;
  /** Token that devices show. */
  readonly token: string;
  /** It was given for an invite, and lets this device in once the host has said so. @default {false} */
  readonly isInvited?: boolean;
}

/** Texts to learn from; they stay in the browser. */
export interface ChosenData {
  /** Name of the file. */
  readonly name: string;
  /** Its content. */
  readonly text: string;
  /** Sequences of a step. */
  readonly batch: number;
  /** Tokens of a sequence. */
  readonly length: number;
  /** Seed of the order of the data. */
  readonly seed: number;
  /** The host sees the loss of each step. */
  readonly sharesLoss: boolean;
}

/** To the worker. */
export type ToWorker =
  /** Looks at a run; without a place at the one that this browser took part in last. */
  | {
    readonly type: "look";
    readonly place: RunPlace | { readonly server: string; readonly invite: string } | null;
    /** Which GPU to use; for tests, and for people with two. */
    readonly gpu?: Pick<EngineOptions, "featureLevel" | "limits" | "adapterClass">;
  }
  | {
    readonly type: "join";
    readonly name: string;
    /** Compute capacity compared with other devices; 0 for data alone. */
    readonly capacity: number;
    readonly data: ChosenData | null;
  }
  /** Asks the host to be let in, with the invite of the place. */
  | { readonly type: "ask"; readonly name: string }
  | { readonly type: "pause"; readonly paused: boolean }
  /** The page is seen again. */
  | { readonly type: "wake" }
  /** The page is about to be gone. */
  | { readonly type: "bye" }
  | { readonly type: "leave" }
  | { readonly type: "forget" };

/** What this device would do in a run. */
export interface Forecast {
  /** Heads of every layer that it would have. */
  readonly heads: number;
  /** Numbers that it would train. */
  readonly parameters: number;
  /** Bytes of GPU memory. */
  readonly memoryBytes: number;
  /** Bytes of each step, both ways. */
  readonly stepBytes: number;
  /** Tokens of the step that this holds for. */
  readonly tokens: number;
}

/** How a device takes part. */
export type Phase = "joining" | "waiting" | "running" | "stopped" | "paused" | "lost" | "saving" | "ended";

/** What this browser keeps of a run. */
export interface KeptHeads {
  readonly run: string;
  readonly steps: number;
  readonly bytes: number;
  /** Name of the store that has them. */
  readonly store: string;
  /** What the model is; `null` if it is not known. */
  readonly base: RunAbout["base"];
  /** When it was kept, in milliseconds. */
  readonly at: number;
}

/** From the worker. */
export type FromWorker =
  | {
    readonly type: "about";
    readonly about: RunAbout;
    readonly forecast: Forecast | null;
    /** True if this device was in the run before and has not left it: it comes back by itself. */
    readonly returning:
      | { readonly name: string; readonly capacity: number; readonly withData: boolean }
      | null;
    readonly adapter: string;
    readonly kept: KeptHeads | null;
  }
  /** The place is an invite: a person gives a name and asks. */
  | { readonly type: "invited" }
  /** The host is asked. */
  | { readonly type: "asked"; readonly request: JoinRequestJson }
  /** This device cannot take part, why, and what helps. */
  | { readonly type: "cannot"; readonly why: string; readonly help: string }
  | { readonly type: "phase"; readonly phase: Phase; readonly text: string }
  | {
    readonly type: "welcome";
    readonly layers: number;
    readonly heads: number;
    readonly range: { readonly first: number; readonly count: number } | null;
    readonly start: number;
    readonly steps: number;
  }
  | {
    readonly type: "step";
    /** Training steps done. */
    readonly steps: number;
    /** Own part of the head mask, [L * H_m], 1 = pruned. */
    readonly mask: Uint8Array;
    readonly totalBytes: number;
    readonly memoryBytes: number;
  }
  | { readonly type: "loss"; readonly step: number; readonly loss: number; readonly mode: string }
  | { readonly type: "progress"; readonly what: string; readonly done: number; readonly total: number }
  | { readonly type: "kept"; readonly kept: KeptHeads | null }
  | { readonly type: "file"; readonly name: string; readonly bytes: Uint8Array<ArrayBuffer> }
  | { readonly type: "failed"; readonly what: string };
