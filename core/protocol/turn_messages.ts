/**
 * Messages of runs on several people's data: whose turn it is, and what those hear who wait.
 *
 * @module
 */

import { flag, integer, oneOf, optional } from "./fields.ts";
import type { Message } from "./message.ts";
import type { NoMeta, PausedMeta, TurnMeta } from "./metas.ts";

const UINT32 = 0xffff_ffff;

/** Said again at an interval, so that nobody waits in vain. */
export const PAUSED: Message<PausedMeta> = {
  what:
    "The run is paused, or others take their turns: said again at an interval, so that nobody waits in vain.",
  from: ["server"],
  lane: "control",
  tensors: null,
  meta: { others: optional(flag()) },
};

/** The next step is a device's turn. */
export const TURN: Message<TurnMeta> = {
  what: "Several people's data: the next step, or so many parts of it, is this device's turn.",
  from: ["server"],
  lane: "data",
  tensors: null,
  meta: {
    mode: oneOf("train", "evaluate", "generate"),
    position: integer(0, UINT32),
    parts: optional(integer(1, UINT32)),
  },
};

/** How many examples a device has. */
export const EXAMPLES: Message<{ readonly count?: number }> = {
  what: "Several people's data: how many training examples a device has; without a number, the question.",
  from: ["server", "device"],
  lane: "data",
  tensors: null,
  meta: { count: optional(integer(1, UINT32)) },
};

/** A state is to be saved. */
export const SAVE: Message<NoMeta> = {
  what:
    "Several people's data: the state after so many training steps is to be saved, by a device without heads.",
  from: ["server"],
  lane: "data",
  tensors: null,
  meta: {},
};
