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
  from: ["server"],
  lane: "control",
  tensors: null,
  meta: { others: optional(flag()) },
};

/** The next step is a device's turn. */
export const TURN: Message<TurnMeta> = {
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
  from: ["server", "device"],
  lane: "data",
  tensors: null,
  meta: { count: optional(integer(1, UINT32)) },
};

/** A state is to be saved. */
export const SAVE: Message<NoMeta> = {
  from: ["server"],
  lane: "data",
  tensors: null,
  meta: {},
};
