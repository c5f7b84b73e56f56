/**
 * What the control API takes and answers, as JSON has it.
 *
 * @module
 */

import type {
  EdgeServerEvent,
  JoinedDevice,
  LedgerEntry,
  ModelShape,
  RunSettings,
  RunStatus,
  StepRecord,
  StepTimes,
} from "@edgetuner/core";

/** A step record as JSON: head mask and scores are lists. */
export interface StepJson extends Omit<StepRecord, "mask" | "scores"> {
  /** Head mask, [L * H], 1 = pruned. */
  readonly mask: readonly number[];
  /** The pruner's importance per head, [L * H], if it gives one. */
  readonly scores: readonly number[] | null;
}

/** A run as JSON. */
export interface RunJson {
  /** Name of the run. */
  readonly run: string;
  /** State of the run. */
  readonly status: RunStatus;
  /** Settings of the run. */
  readonly settings: RunSettings;
  /** Devices that joined, in order of joining. */
  readonly devices: readonly JoinedDevice[];
  /** The last step; `null` before the first. */
  readonly latest: StepJson | null;
  /** Lines of the byte ledger so far. */
  readonly traffic: readonly LedgerEntry[];
}

/** How a run is, for anyone to see: no names, no losses. */
export interface RunHealthJson {
  /** Whether it is well. */
  readonly health: "ok" | "silent" | "failed";
  /** State of the run. */
  readonly state: RunStatus;
  /** The last step; `null` before the first. */
  readonly step: number | null;
  /** Seconds since the last step ended; `null` before the first. */
  readonly secondsSinceStep: number | null;
  /** Seconds since the last sign of life of whoever computes the steps. */
  readonly secondsSilent: number;
}

/** Whether the runs of a server are well. */
export interface HealthJson {
  /** `ok`, or what the first run that is not well is. */
  readonly status: "ok" | "silent" | "failed";
  /** Version of the server; empty if it does not say. */
  readonly version: string;
  /** Each run. */
  readonly runs: readonly RunHealthJson[];
}

/** What pausing, resuming or stopping a run led to. */
export interface SteeredJson {
  /** Name of the run. */
  readonly run: string;
  /** Its state now. */
  readonly status: RunStatus;
}

/** Who a caller is. */
export interface SessionJson {
  /** How the caller is known: by a session of the browser, or by the admin token. */
  readonly by: "session" | "admin token";
  /** Seconds until the session ends; `null` with the admin token. */
  readonly secondsLeft: number | null;
}

/** What signs a browser in. */
export interface SignInJson {
  /** The secret behind `#signin=` of a link. */
  readonly secret: string;
}

/** A link that signs one browser in. */
export interface SignInLinkJson {
  /** Path and fragment: to be put behind the address of the server. */
  readonly path: string;
  /** Seconds until it can no longer be used. */
  readonly secondsLeft: number;
}

/** What became of a request to join. */
export type RequestState = "waiting" | "approved" | "refused" | "removed";

/** A request to join of a device that was invited. */
export interface JoinRequestJson {
  /** Its number. */
  readonly request: string;
  /** Name of the run. */
  readonly run: string;
  /** Name of the device, for people. */
  readonly name: string;
  /** The first eight characters of the device's id. */
  readonly device: string;
  /** What host and device compare: 8 digits of the digest of the device's key. */
  readonly code: string;
  /** What became of it. */
  readonly state: RequestState;
  /** Seconds since it asked. */
  readonly seconds: number;
}

/** What redeems an invite. */
export interface AskJson {
  /** The secret behind `#invite=` of an invite. */
  readonly invite: string;
  /** Name of the device, for people. */
  readonly name: string;
  /** Its id: 32 hexadecimal digits. */
  readonly id: string;
  /** Its public key: Ed25519, 32 bytes in base64url. */
  readonly key: string;
}

/** An invite that was redeemed. */
export interface AskedJson {
  /** The request. */
  readonly request: JoinRequestJson;
  /** The key to join with, once the host has approved the device: for this device and run alone. */
  readonly joinKey: string;
}

/** An invite for one device. */
export interface InviteJson {
  /** Path and fragment: to be put behind the address of the server. */
  readonly path: string;
  /** Seconds until it can no longer be used. */
  readonly secondsLeft: number;
}

/** A device that was removed from a run. */
export interface RemovedJson {
  /** Name of the run. */
  readonly run: string;
  /** The device, as it was named in the request. */
  readonly device: string;
}

/** What a run store knows of a run, of now or before. */
export interface StoredRunJson {
  /** Name of the run. */
  readonly run: string;
  /** Its last state; `lost` where its process ended without a word. */
  readonly status: RunStatus | "lost";
  /** Why it is in that state; empty if nobody said. */
  readonly reason: string;
  /** Milliseconds since 1970 when it began. */
  readonly started: number;
  /** Milliseconds since 1970 when it was over; `null` if it is not. */
  readonly ended: number | null;
  /** Name of its pruner; empty if it is not known. */
  readonly pruner: string;
  /** Settings of the run. */
  readonly settings: RunSettings;
  /** Shape of the base model; `null` if it is not known. */
  readonly model: ModelShape | null;
  /** Its devices, as they were last. */
  readonly devices: readonly JoinedDevice[];
  /** Lines of the byte ledger of its last process. */
  readonly traffic: readonly LedgerEntry[];
  /** Records of steps that are kept. */
  readonly records: number;
  /** Training steps done. */
  readonly steps: number;
  /** Seconds from its start to its last step, without those in which it did not run. */
  readonly seconds: number;
  /** Bytes of frames of all its steps. */
  readonly bytes: number;
  /** Loss of the last training step, where it was shared. */
  readonly loss: number | null;
  /** The lowest validation loss; `null` without any. */
  readonly bestValidation: number | null;
}

/** A step record as a run store keeps it. */
export interface RecordJson {
  /** Its number in the run, from 0. */
  readonly number: number;
  /** Milliseconds since 1970 when the step was over. */
  readonly at: number;
  /** Seconds since the start of the run, without those in which it did not run. */
  readonly seconds: number;
  /** Bytes of frames of all steps up to this one. */
  readonly sumBytes: number;
  /** The record. */
  readonly record: StepJson;
  /** Bytes of frames since the record before, by kind and direction, such as `"input sent"`. */
  readonly kinds: Readonly<Record<string, number>>;
}

/** An event as a run store keeps it. */
export interface StoredEventJson {
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Its name. */
  readonly type: string;
  /** What happened. */
  readonly data: Readonly<Record<string, unknown>>;
}

/** Figures over a run, as means over equal parts of it; each list has one number a part. */
export interface SeriesJson {
  /** Name of the run. */
  readonly run: string;
  /** The last training step of each part. */
  readonly step: readonly number[];
  /** Seconds since the start of the run. */
  readonly seconds: readonly number[];
  /** Bytes of frames of all steps so far. */
  readonly sumBytes: readonly number[];
  /** Mean loss; `null` where it was not shared. */
  readonly loss: readonly (number | null)[];
  /** The lowest loss. */
  readonly lossMin: readonly (number | null)[];
  /** The highest loss. */
  readonly lossMax: readonly (number | null)[];
  /** Mean milliseconds of a step by part. */
  readonly times: { readonly [K in keyof StepTimes]: readonly number[] };
  /** Mean bytes of frames of a step. */
  readonly bytes: readonly number[];
  /** Mean kept heads of a step. */
  readonly kept: readonly number[];
  /** Validations. */
  readonly validation: {
    /** Training steps before each. */
    readonly step: readonly number[];
    /** Seconds since the start of the run. */
    readonly seconds: readonly number[];
    /** Bytes of frames so far. */
    readonly sumBytes: readonly number[];
    /** Loss. */
    readonly loss: readonly number[];
  };
}

/** Head masks of some steps of a run. */
export interface HeadsJson {
  /** Name of the run. */
  readonly run: string;
  /** L, layers. */
  readonly layers: number;
  /** H, heads of a layer. */
  readonly heads: number;
  /** The steps. */
  readonly steps: readonly number[];
  /** Head mask of each step: L * H digits, 1 = pruned. */
  readonly pruned: readonly string[];
  /** The pruner's importance per head of each step, [L * H], if it gives one. */
  readonly scores: readonly (readonly number[] | null)[];
}

/** Data of each event of a run's event stream, by the name of the event. */
export type EventData =
  & { readonly [E in Exclude<EdgeServerEvent, { readonly type: "step" }> as E["type"]]: E }
  & {
    /** The run as it is where the stream begins; again where events were missed that are no longer kept. */
    readonly run: RunJson;
    /** A device that was invited asks to join, or was answered. */
    readonly request: JoinRequestJson;
    /** A step is done. */
    readonly step: { readonly type: "step"; readonly record: StepJson };
  };
