/**
 * The messages of the protocol: one table that says of each kind who sends it, in which lane, what tensors it
 * carries and how they are written, and which fields its `meta` has. Whatever does not fit is refused when a
 * frame is decoded; no other code looks at raw fields.
 *
 * Letters of shapes: B sequences, T tokens of each, or rows in all; d hidden size, D head size, L layers,
 * H heads of the device, n of them kept, c targets.
 *
 * @module
 */

import { INPUT_MODE_NAMES } from "../lora/input_modes.ts";
import { LORA_TARGETS, type LoraSettings, PROJECTION_SOURCES, SCHEDULES } from "../lora/settings.ts";
import { MAX_MICRO_BATCHES } from "../contracts/micro_batches.ts";
import { DEVICE_STATISTICS } from "../contracts/pruner.ts";
import {
  type Field,
  type FieldsOf,
  flag,
  integer,
  list,
  name,
  nullable,
  number,
  oneOf,
  optional,
  record,
  tuple,
  words,
} from "./fields.ts";
import type { CodedTensor, Lane, Message, MessageTensors, Side } from "./message.ts";
import type {
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
} from "./metas.ts";
import { EXAMPLES, PAUSED, SAVE, TURN } from "./turn_messages.ts";

export { CODED_TENSORS } from "./message.ts";
export type { CodedTensor, Lane, Message, MessageTensors, Side };

/** Version of envelope and step protocol. Peers with another one are refused. */
export const PROTOCOL_VERSION = 5;

/** Kind of a message. */
export type FrameKind = keyof Messages;

/** Fields of a kind's `meta`. */
export type MetaOf<K extends FrameKind> = Messages[K] extends Message<infer M> ? M : never;

const UINT32 = 0xffff_ffff;
const FLOAT_MAX = Number.MAX_VALUE;
/** Most bytes of memory that a device may say it has, and the largest capacity. */
const LARGE = 2 ** 53 - 1;
/** Most rows that a list of rows may count together. */
const MAX_ROWS = 2 ** 24 - 1;
/** Most states that a device may bring. */
const MAX_STATES = 1024;
/** Most heads of a layer. */
const MAX_HEADS = 4096;
/** Most continuations side by side in generation. */
const MAX_BEAMS = 4096;

const range: Field<RangeMeta> = record({ first: integer(0, 1e6), count: integer(1, 1e6) });

/** Fields of LoRA settings. */
export const LORA_FIELDS: FieldsOf<LoraSettings> = {
  mode: oneOf(...INPUT_MODE_NAMES),
  targets: list(oneOf(...LORA_TARGETS), 1, LORA_TARGETS.length),
  rank: integer(1, 65_536),
  alpha: number(-FLOAT_MAX, FLOAT_MAX),
  dropout: number(0, 1),
  projections: optional(
    record({ from: oneOf(...PROJECTION_SOURCES), seed: integer(0, UINT32), shared: flag() }),
  ),
};

/** Fields of run settings. */
export const SETTINGS_FIELDS: FieldsOf<SettingsMeta> = {
  lora: record(LORA_FIELDS),
  optimizer: record({
    learningRate: number(0, FLOAT_MAX),
    warmupSteps: integer(0, LARGE),
    schedule: oneOf(...SCHEDULES),
    beta1: number(0, 1),
    beta2: number(0, 1),
    epsilon: number(0, FLOAT_MAX),
    weightDecay: number(0, FLOAT_MAX),
  }),
  steps: integer(1, LARGE),
  seed: integer(0, UINT32),
  codec: name(1, 256),
  microBatches: integer(1, MAX_MICRO_BATCHES),
  overlap: flag(),
  accumulate: integer(1, UINT32),
  clipNorm: nullable(number(0, FLOAT_MAX)),
  prunedFade: number(0, 1),
  saveEvery: integer(0, UINT32),
  task: oneOf("train", "generate"),
};

const step: Field<number> = integer(0, UINT32);
const mode: Field<"train" | "evaluate"> = oneOf("train", "evaluate");
const row: Field<number> = integer(0, MAX_ROWS);
const part: Field<readonly [number, number]> = tuple(integer(0, MAX_ROWS), integer(1, MAX_ROWS));

/** One tensor of one shape, written with the codec that the run has for it. */
function coded(tensor: CodedTensor, ...shapes: readonly string[]): MessageTensors {
  return { as: "codec", tensor, count: [1, 1], shapes: shapes.map((shape) => shape.split(" ")) };
}

function floats(count: readonly [number, number], shape: string): MessageTensors {
  return { as: "f32", count, shapes: [shape.split(" ")] };
}

const BOTH = ["server", "device"] as const;

/** How long the device had the question. */
const ANSWER: FieldsOf<AnswerMeta> = { took: optional(name(8, 8)) };

/**
 * Every kind of message, one property each: who sends it, its lane, its tensors, and its fields with what reads them.
 * All else follows from this table, the types too.
 */
export class Messages {
  /** Who a device is, and what it brings. */
  readonly hello: Message<HelloMeta> = {
    from: ["device"],
    lane: "control",
    tensors: null,
    meta: {
      name: name(1, 64),
      id: optional(name(8, 64)),
      key: optional(name(43, 43)),
      capacity: number(0, LARGE),
      data: flag(),
      fingerprint: name(0, 128),
      sharesLoss: flag(),
      states: optional(record({ run: name(1, 64), steps: list(step, 1, MAX_STATES) })),
      unfinished: optional(step),
      task: optional(oneOf("train", "generate")),
      learnt: optional(record({ range, lora: record(LORA_FIELDS) })),
      system: optional(oneOf("split", "tensorParallel")),
      memory: optional(number(0, LARGE)),
    },
  };

  /** The run begins: its settings, and what the device has of the model. */
  readonly welcome: Message<WelcomeMeta> = {
    from: ["server"],
    lane: "control",
    tensors: null,
    meta: {
      run: name(1, 64),
      settings: record(SETTINGS_FIELDS),
      model: record({
        layers: integer(1, 1e6),
        heads: integer(1, 1e6),
        hidden: integer(1, 1e6),
        headSize: optional(integer(1, 1e6)),
      }),
      range: nullable(range),
      statistics: list(oneOf(...DEVICE_STATISTICS), 0, DEVICE_STATISTICS.length),
      start: optional(step),
      repeats: optional(flag()),
      trained: optional(step),
      finishes: optional(step),
      missed: optional(step),
      turns: optional(oneOf("steps", "parts")),
      columns: optional(nullable(record({ first: integer(0, 1e7), count: integer(1, 1e7) }))),
      epsilon: optional(number(0, 1)),
    },
  };

  /** The sender does not take part; why. */
  readonly refuse: Message<{ readonly reason: string }> = {
    from: BOTH,
    lane: "control",
    tensors: null,
    meta: { reason: words() },
  };

  /** The run is paused, or others take their turns: said again at an interval, so that nobody waits in vain. */
  readonly paused: Message<PausedMeta> = PAUSED;

  /** The run is over; why, and after which step. */
  readonly end: Message<EndMeta> = {
    from: BOTH,
    lane: "control",
    tensors: null,
    meta: {
      reason: words(),
      diverged: optional(flag()),
      elsewhere: optional(flag()),
      stopped: optional(flag()),
      step: optional(step),
      best: optional(flag()),
      away: optional(list(integer(0, 1e6), 1, MAX_HEADS)),
      missed: optional(list(step, 1, MAX_HEADS)),
    },
  };

  /** The device is to prove that it has the key of its id. */
  readonly challenge: Message<{ readonly nonce: string }> = {
    from: ["server"],
    lane: "control",
    tensors: null,
    meta: { nonce: name(43, 43) },
  };

  /** The device has the key of its id: a signature. */
  readonly proof: Message<{ readonly proof: string }> = {
    from: ["device"],
    lane: "control",
    tensors: null,
    meta: { proof: name(86, 86) },
  };

  /** The sender leaves the run on purpose, and gives its heads up; why. */
  readonly leave: Message<{ readonly reason: string }> = {
    from: ["device"],
    lane: "control",
    tensors: null,
    meta: { reason: words() },
  };

  /** The step begins again: what the device did in it does not count. */
  readonly restart: Message<NoMeta> = {
    from: ["server"],
    lane: "heads",
    tensors: null,
    meta: {},
  };

  /** The step begins again: E of its batch is to be sent again. */
  readonly repeat: Message<{ readonly mode: "train" | "evaluate" }> = {
    from: ["server"],
    lane: "data",
    tensors: null,
    meta: { mode },
  };

  /** Several people's data: the next step, or so many parts of it, is this device's turn. */
  readonly turn: Message<TurnMeta> = TURN;

  /** Several people's data: how many training examples a device has; without a number, the question. */
  readonly examples: Message<{ readonly count?: number }> = EXAMPLES;

  /** Several people's data: the state after so many training steps is to be saved, by a device without heads. */
  readonly save: Message<NoMeta> = SAVE;

  /** E of a batch, or of a part of one; or its rows that differ, and in bytes which is where. */
  readonly embedding: Message<EmbeddingMeta> = {
    from: ["device"],
    lane: "data",
    tensors: { ...coded("e", "B T d", "rows d"), places: ["B", "T", "bytes"] },
    meta: {
      mode,
      part: optional(part),
      best: optional(flag()),
      counted: optional(integer(0, LARGE)),
    },
  };

  /** E of new tokens, in generation, and the row that each row continues. */
  readonly decode: Message<{ readonly parents?: readonly number[] }> = {
    from: ["device"],
    lane: "data",
    tensors: coded("e", "B T d"),
    meta: {
      parents: optional(list(integer(0, MAX_ROWS), 1, MAX_BEAMS)),
    },
  };

  /** The last hidden state. */
  readonly hidden: Message<HiddenMeta> = {
    from: ["server"],
    lane: "data",
    tensors: coded("h", "T d"),
    meta: {
      probe: optional(flag()),
      save: optional(flag()),
      counted: optional(integer(1, LARGE)),
      away: optional(list(integer(0, 1e6), 1, MAX_HEADS)),
    },
  };

  /** The gradient of the last hidden state. */
  readonly hiddenGradient: Message<AnswerMeta> = {
    from: ["device"],
    lane: "data",
    tensors: coded("dh", "T d"),
    meta: ANSWER,
  };

  /**
   * The loss of a step, only if the data device shares it; of a validation batch also how many tokens it is the
   * mean of.
   */
  readonly loss: Message<LossMeta> = {
    from: ["device"],
    lane: "data",
    tensors: null,
    meta: { loss: number(-FLOAT_MAX, FLOAT_MAX), counted: optional(integer(0, LARGE)), ...ANSWER },
  };

  /** There is no further batch; of a validation also the mean loss of all, and of how many tokens. */
  readonly finished: Message<FinishedMeta> = {
    from: ["device"],
    lane: "data",
    tensors: null,
    meta: {
      best: optional(flag()),
      loss: optional(number(-FLOAT_MAX, FLOAT_MAX)),
      counted: optional(integer(1, LARGE)),
    },
  };

  /** A step or a part of it begins: the device's head mask, 1 = pruned, and the rows of each micro-batch. */
  readonly mask: Message<MaskMeta> = {
    from: ["server"],
    lane: "heads",
    tensors: { as: "u8", count: [1, 1], shapes: [["L", "H"]] },
    meta: {
      mode: oneOf("train", "evaluate", "probe"),
      lowest: integer(0, 1e6),
      rows: list(integer(1, MAX_ROWS), 1, MAX_MICRO_BATCHES),
      part: optional(tuple(row, integer(1, MAX_ROWS), row)),
      best: optional(flag()),
      away: optional(list(integer(0, 1e6), 1, MAX_HEADS)),
      save: optional(flag()),
    },
  };

  /** X of the kept heads; in mode `full` all of it, in mode `core` u = A x. */
  readonly input: Message<NoMeta> = {
    from: ["server"],
    lane: "heads",
    tensors: coded("x", "n T D", "T d", "n T r", "c n T r"),
    meta: {},
  };

  /** Deltas of the kept heads; in mode `core` v = R u. */
  readonly delta: Message<AnswerMeta> = {
    from: ["device"],
    lane: "heads",
    tensors: coded("delta", "c n T D", "c n T r"),
    meta: ANSWER,
  };

  /** Gradients of the Deltas, or of v. */
  readonly deltaGradient: Message<NoMeta> = {
    from: ["server"],
    lane: "heads",
    tensors: coded("ddelta", "c n T D", "c n T r"),
    meta: {},
  };

  /** The gradient of X, or of u; not for the lowest layer with a kept head. */
  readonly inputGradient: Message<AnswerMeta> = {
    from: ["device"],
    lane: "heads",
    tensors: coded("dx", "n T D", "T d", "n T r", "c n T r"),
    meta: ANSWER,
  };

  /** What the device's gradients add to the squared global norm, only if gradients are clipped. */
  readonly squaredNorm: Message<AnswerMeta> = {
    from: ["device"],
    lane: "heads",
    tensors: floats([1, 1], "1"),
    meta: ANSWER,
  };

  /** The factor of the gradients, only if they are clipped. */
  readonly clip: Message<NoMeta> = {
    from: ["server"],
    lane: "heads",
    tensors: floats([1, 1], "1"),
    meta: {},
  };

  /** A map for each statistic that the pruner needs. */
  readonly statistics: Message<AnswerMeta> = {
    from: ["device"],
    lane: "heads",
    tensors: floats([1, DEVICE_STATISTICS.length], "L H"),
    meta: ANSWER,
  };

  /** Tensor parallelism: a device's share of a layer, once at the start. */
  readonly shard: Message<NoMeta> = {
    from: ["server"],
    lane: "heads",
    tensors: floats([1, 16], "rows columns"),
    meta: {},
  };

  /** Tensor parallelism: a block's input. */
  readonly activation: Message<ActivationMeta> = {
    from: ["server"],
    lane: "heads",
    tensors: coded("x", "T d"),
    meta: {
      mode: optional(mode),
      batch: optional(integer(1, MAX_ROWS)),
      length: optional(integer(1, MAX_ROWS)),
    },
  };

  /** Tensor parallelism: a device's part of a block's output. */
  readonly partial: Message<NoMeta> = {
    from: ["device"],
    lane: "heads",
    tensors: coded("delta", "T d"),
    meta: {},
  };

  /** Tensor parallelism: the gradient of a block's output. */
  readonly activationGradient: Message<NoMeta> = {
    from: ["server"],
    lane: "heads",
    tensors: coded("ddelta", "T d"),
    meta: {},
  };

  /** Tensor parallelism: a device's part of the gradient of a block's input. */
  readonly partialGradient: Message<NoMeta> = {
    from: ["device"],
    lane: "heads",
    tensors: coded("dx", "T d"),
    meta: {},
  };
}

/** Every kind of message. */
export const MESSAGES: Messages = new Messages();

/** All kinds of messages, see `MESSAGES`. */
export const FRAME_KINDS: readonly FrameKind[] = Object.keys(MESSAGES) as FrameKind[];

/** True if it is a kind of message. */
export function isFrameKind(value: unknown): value is FrameKind {
  return typeof value === "string" && Object.hasOwn(MESSAGES, value);
}
