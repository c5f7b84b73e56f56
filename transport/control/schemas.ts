/**
 * Schemas of what the control API takes and answers.
 *
 * @module
 */

import * as v from "valibot";
import type {
  AnswerTime,
  DataAnswerTime,
  JoinedDevice,
  LedgerEntry,
  RunSettings,
  StepTimes,
} from "@edgetuner/core";
import type { ModelShape } from "@edgetuner/core/contracts";
import type { AboutDevice, ModelAbout, RunAbout } from "../run_about.ts";
import type {
  AskedJson,
  AskJson,
  HeadsJson,
  HealthJson,
  InviteJson,
  JoinRequestJson,
  RecordJson,
  RemovedJson,
  RunHealthJson,
  RunJson,
  SeriesJson,
  SessionJson,
  SignInJson,
  SignInLinkJson,
  SteeredJson,
  StepJson,
  StoredEventJson,
  StoredRunJson,
} from "./types.ts";

type Schema<T> = v.GenericSchema<unknown, T>;

/** A schema that has every field of a type, those that may be absent too: a field that is added there is missed here. */
function shape<T>(
  fields: { readonly [K in keyof T]-?: v.GenericSchema<unknown, Exclude<T[K], undefined>> },
): Schema<T> {
  return v.strictObject(fields as v.ObjectEntries) as unknown as Schema<T>;
}

const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const status = v.picklist(["waiting", "running", "paused", "ended", "failed"]);
const wellness = v.picklist(["ok", "silent", "failed"]);

/** Any text. */
export const text: Schema<string> = v.string();

/** Bytes as they are. */
export const bytes: Schema<Uint8Array<ArrayBuffer>> = v.instance(
  Uint8Array as new (...args: never[]) => Uint8Array<ArrayBuffer>,
);

/** Any object. */
export const anyObject: Schema<Readonly<Record<string, unknown>>> = v.record(v.string(), v.unknown());

/** A device that joined. */
export const device: Schema<JoinedDevice> = shape<JoinedDevice>({
  name: v.string(),
  id: v.pipe(v.string(), v.description("The first eight characters of its id; empty if it has none")),
  capacity: v.pipe(v.number(), v.description("Its capacity; 0 without heads")),
  data: v.pipe(v.boolean(), v.description("True if it is the data device")),
  range: v.pipe(
    v.nullable(v.strictObject({ first: count, count })),
    v.description("Its heads, once the run has started"),
  ),
  connected: v.pipe(v.boolean(), v.description("False once its connection has ended")),
});

/** Devices of a run. */
export const devices: Schema<readonly JoinedDevice[]> = v.array(device);

const milliseconds = v.pipe(v.number(), v.minValue(0), v.description("Milliseconds"));

const computeMs = v.exactOptional(v.pipe(
  v.number(),
  v.minValue(0),
  v.description("Milliseconds of them in which the device computed, as it tells; the rest is the wire's"),
));

/** A step record. */
export const step: Schema<StepJson> = shape<StepJson>({
  step: v.pipe(count, v.description("Training steps before this one")),
  mode: v.picklist(["train", "evaluate"]),
  loss: v.pipe(v.nullable(v.number()), v.description("If the data device shares it")),
  counted: v.exactOptional(v.pipe(count, v.description("Tokens that the loss is the mean of"))),
  times: shape<StepTimes>({
    total: milliseconds,
    prune: milliseconds,
    readback: milliseconds,
    codec: milliseconds,
    wait: milliseconds,
  }),
  bytes: v.pipe(count, v.description("Bytes of frames sent and received, without a probe's")),
  owners: v.exactOptional(
    v.pipe(v.array(v.string()), v.description("Whose data it was, where several have some")),
  ),
  embeddingRows: v.exactOptional(v.pipe(v.array(count), v.description("Rows of E that travelled, by part"))),
  probeBytes: v.exactOptional(v.pipe(count, v.description("Bytes of frames of the probe"))),
  gradientNorm: v.exactOptional(v.pipe(v.number(), v.description("Before gradients were clipped"))),
  mask: v.pipe(v.array(v.picklist([0, 1])), v.description("[L * H], 1 = pruned")),
  away: v.exactOptional(v.pipe(v.array(count), v.description("Heads whose devices were away"))),
  kept: v.pipe(v.array(count), v.description("Kept heads of each layer, [L]")),
  scores: v.pipe(v.nullable(v.array(v.number())), v.description("Importance per head, [L * H]")),
  figures: v.exactOptional(
    v.pipe(v.record(v.string(), v.number()), v.description("What the pruner tells of its decision")),
  ),
  answers: v.exactOptional(v.pipe(
    v.array(shape<AnswerTime>({
      first: v.pipe(count, v.description("First head of the device")),
      ms: milliseconds,
      computeMs,
      link: v.exactOptional(v.strictObject({
        roundTripSeconds: v.number(),
        bytesPerSecond: v.nullable(v.strictObject({ down: v.number(), up: v.number() })),
      })),
    })),
    v.description("How long each device took to answer, wire and computing"),
  )),
  dataAnswers: v.exactOptional(v.pipe(
    v.array(shape<DataAnswerTime>({ name: v.string(), ms: milliseconds, computeMs })),
    v.description("How long each device whose data it was took to answer the last hidden states"),
  )),
  tokens: count,
  batch: v.pipe(count, v.description("Sequences of the step")),
});

/** Of the settings what every run has; `RunSettings` documents the rest. */
const settings = v.looseObject({
  lora: v.looseObject({
    mode: v.string(),
    targets: v.array(v.string()),
    rank: v.unknown(),
    alpha: v.number(),
  }),
  optimizer: v.looseObject({ learningRate: v.number(), warmupSteps: v.number(), schedule: v.string() }),
  steps: count,
  seed: count,
}) as unknown as Schema<RunSettings>;

const traffic = v.array(v.strictObject({
  kind: v.pipe(v.string(), v.description("Kind of message")),
  direction: v.picklist(["sent", "received"]),
  frames: count,
  tensorBytes: count,
  frameBytes: count,
})) as unknown as Schema<readonly LedgerEntry[]>;

/** A run. */
export const run: Schema<RunJson> = shape<RunJson>({
  run: v.string(),
  status,
  settings,
  devices,
  latest: v.nullable(step),
  traffic,
});

/** All runs. */
export const runs: Schema<readonly RunJson[]> = v.array(run);

const modelShape = v.nullable(v.looseObject({ layers: count, heads: count })) as unknown as Schema<
  ModelShape | null
>;
const numbers = v.array(v.number());
const epoch = v.pipe(v.number(), v.description("Milliseconds since 1970"));

/** A run that records are kept of. */
export const storedRun: Schema<StoredRunJson> = shape<StoredRunJson>({
  run: v.string(),
  status: v.picklist(["waiting", "running", "paused", "ended", "failed", "lost"]),
  reason: v.string(),
  started: epoch,
  ended: v.nullable(epoch),
  pruner: v.string(),
  settings,
  model: modelShape,
  devices,
  traffic,
  records: v.pipe(count, v.description("Records of steps that are kept")),
  steps: v.pipe(count, v.description("Training steps done")),
  seconds: v.pipe(v.number(), v.description("Seconds of the run, without those in which it did not run")),
  bytes: v.pipe(count, v.description("Bytes of frames of all its steps")),
  loss: v.nullable(v.number()),
  bestValidation: v.nullable(v.number()),
});

/** Runs that records are kept of. */
export const storedRuns: Schema<readonly StoredRunJson[]> = v.array(storedRun);

/** A step record that is kept. */
export const record: Schema<RecordJson> = shape<RecordJson>({
  number: v.pipe(count, v.description("Its number in the run")),
  at: epoch,
  seconds: v.pipe(v.number(), v.description("Seconds since the start of the run")),
  sumBytes: v.pipe(count, v.description("Bytes of frames of all steps so far")),
  record: step,
  kinds: v.pipe(v.record(v.string(), count), v.description("Bytes of frames by kind and direction")),
});

/** Step records that are kept. */
export const records: Schema<readonly RecordJson[]> = v.array(record);

/** An event that is kept. */
export const storedEvent: Schema<StoredEventJson> = shape<StoredEventJson>({
  at: epoch,
  type: v.string(),
  data: anyObject,
});

/** Events that are kept. */
export const storedEvents: Schema<readonly StoredEventJson[]> = v.array(storedEvent);

/** Figures over a run. */
export const series: Schema<SeriesJson> = shape<SeriesJson>({
  run: v.string(),
  step: v.pipe(numbers, v.description("The last training step of each part")),
  seconds: v.pipe(numbers, v.description("Seconds since the start of the run")),
  sumBytes: v.pipe(numbers, v.description("Bytes of frames of all steps so far")),
  loss: v.array(v.nullable(v.number())),
  lossMin: v.array(v.nullable(v.number())),
  lossMax: v.array(v.nullable(v.number())),
  times: shape<SeriesJson["times"]>({
    total: numbers,
    prune: numbers,
    readback: numbers,
    codec: numbers,
    wait: numbers,
  }),
  bytes: v.pipe(numbers, v.description("Mean bytes of frames of a step")),
  kept: v.pipe(numbers, v.description("Mean kept heads of a step")),
  validation: shape<SeriesJson["validation"]>({
    step: numbers,
    seconds: numbers,
    sumBytes: numbers,
    loss: numbers,
  }),
});

/** Head masks over a run. */
export const heads: Schema<HeadsJson> = shape<HeadsJson>({
  run: v.string(),
  layers: count,
  heads: count,
  steps: v.array(count),
  pruned: v.pipe(v.array(v.string()), v.description("Head mask of each step: L * H digits, 1 = pruned")),
  scores: v.array(v.nullable(numbers)),
});

/** Whether the runs are well. */
export const health: Schema<HealthJson> = shape<HealthJson>({
  status: wellness,
  version: v.string(),
  runs: v.array(shape<RunHealthJson>({
    health: wellness,
    state: status,
    step: v.nullable(count),
    secondsSinceStep: v.nullable(v.number()),
    secondsSilent: v.number(),
  })),
});

/** What steering led to. */
export const steered: Schema<SteeredJson> = shape<SteeredJson>({ run: v.string(), status });

/** Who the caller is. */
export const session: Schema<SessionJson> = shape<SessionJson>({
  by: v.picklist(["session", "admin token"]),
  secondsLeft: v.nullable(count),
});

/** A secret of 128 bits in base64url. */
const secret = v.pipe(
  v.string(),
  v.regex(/^[\w-]{22}$/, "a secret has 22 characters, A to Z, a to z, 0 to 9, - and _"),
);

/** What signs a browser in. */
export const signIn: Schema<SignInJson> = shape<SignInJson>({ secret });

const requestState = v.picklist(["waiting", "approved", "refused", "removed"]);

/** A request to join. */
export const joinRequest: Schema<JoinRequestJson> = shape<JoinRequestJson>({
  request: v.pipe(v.string(), v.description("Its number")),
  run: v.string(),
  name: v.pipe(v.string(), v.description("Name of the device, for people")),
  device: v.pipe(v.string(), v.description("The first eight characters of the device's id")),
  code: v.pipe(v.string(), v.description("What host and device compare: 8 digits of its key's digest")),
  state: requestState,
  seconds: v.pipe(count, v.description("Seconds since it asked")),
});

/** Requests to join. */
export const joinRequests: Schema<readonly JoinRequestJson[]> = v.array(joinRequest);

/** What redeems an invite. */
export const ask: Schema<AskJson> = shape<AskJson>({
  invite: v.pipe(secret, v.description("What stands behind #invite= of an invite")),
  name: v.pipe(
    v.string(),
    v.trim(),
    v.regex(/^[^\p{Cc}\p{Cf}]{1,64}$/u, "a name has 1 to 64 characters, and none of control"),
    v.description("Name of the device, for people"),
  ),
  id: v.pipe(v.string(), v.regex(/^[\da-f]{32}$/, "an id has 32 hexadecimal digits")),
  key: v.pipe(
    v.string(),
    v.regex(/^[\w-]{43}$/, "a public key has 32 bytes in base64url"),
    v.description("Public key of the device: Ed25519 in base64url"),
  ),
});

/** An invite that was redeemed. */
export const asked: Schema<AskedJson> = shape<AskedJson>({
  request: joinRequest,
  joinKey: v.pipe(v.string(), v.description("What to join with, once the host has approved the device")),
});

/** An invite. */
export const invite: Schema<InviteJson> = shape<InviteJson>({
  path: v.pipe(v.string(), v.description("Path and fragment, to be put behind the server's address")),
  secondsLeft: count,
});

/** A device that was removed. */
export const removed: Schema<RemovedJson> = shape<RemovedJson>({ run: v.string(), device: v.string() });

/** A run, as a device sees it that has not joined. */
export const about: Schema<RunAbout> = shape<RunAbout>({
  run: v.string(),
  status: v.string(),
  step: v.pipe(count, v.description("Training steps done")),
  steps: v.pipe(count, v.description("Training steps in all")),
  loss: v.pipe(v.nullable(v.number()), v.description("Of the last training step, if it is shared")),
  stepMs: v.pipe(v.nullable(v.number()), v.description("Milliseconds of the last training step")),
  model: v.pipe(
    v.nullable(shape<ModelShape>({
      layers: count,
      heads: count,
      hidden: count,
      headSize: v.exactOptional(count),
    })),
    v.description("Shape of the model, if it is known"),
  ),
  base: v.pipe(
    v.nullable(v.strictObject({ name: v.string(), family: v.string(), kvHeads: count })),
    v.description("What the model is, if it is known"),
  ),
  lora: v.pipe(anyObject, v.description("Settings of LoRA")),
  codec: v.pipe(v.string(), v.description("What writes what travels")),
  places: v.pipe(count, v.description("Devices with heads that the run waits for; 0 if not known")),
  devices: v.array(shape<AboutDevice>({
    name: v.string(),
    id: v.string(),
    capacity: v.number(),
    heads: v.pipe(v.nullable(count), v.description("In every layer, once the run has started")),
    data: v.boolean(),
    connected: v.boolean(),
  })),
});

/** All runs, as a device sees them that has not joined. */
export const runsAbout: Schema<readonly RunAbout[]> = v.array(about);

/** What a device with data is told of the model of its run. */
export const modelAbout: Schema<ModelAbout> = shape<ModelAbout>({
  config: v.pipe(v.unknown(), v.description("Its configuration, as core reads it")),
  fingerprint: v.pipe(v.string(), v.description("Its fingerprint, which the digests give")),
  tensors: v.pipe(
    v.array(v.strictObject({ name: v.string(), shape: v.array(count), digest: v.string() })),
    v.description("All weights, with the SHA-256 of their values as float32"),
  ),
  ends: v.pipe(
    v.array(v.string()),
    v.description("Names of embedding, final norm and LM head, which are served"),
  ),
  tokenizer: v.strictObject({ json: v.unknown(), options: anyObject }),
});

/** A link that signs one browser in. */
export const signInLink: Schema<SignInLinkJson> = shape<SignInLinkJson>({
  path: v.pipe(v.string(), v.description("Path and fragment, to be put behind the server's address")),
  secondsLeft: count,
});

/** A problem (RFC 9457). */
export const problem: v.GenericSchema = v.object({
  type: v.string(),
  title: v.pipe(v.string(), v.description("Short name of the kind of problem")),
  status: v.pipe(v.number(), v.integer()),
  detail: v.pipe(v.string(), v.description("What was wrong and what the rule is")),
});

/** The shapes that have a name, in the order in which they need each other. */
export const SHAPES: Readonly<Record<string, v.GenericSchema>> = {
  Device: device,
  Step: step,
  Run: run,
  StoredRun: storedRun,
  Record: record,
  StoredEvent: storedEvent,
  Series: series,
  Heads: heads,
  Health: health,
  Steered: steered,
  Session: session,
  JoinRequest: joinRequest,
  Ask: ask,
  Asked: asked,
  Invite: invite,
  Removed: removed,
  About: about,
  ModelAbout: modelAbout,
  SignIn: signIn,
  SignInLink: signInLink,
  Problem: problem,
};
