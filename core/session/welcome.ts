/**
 * Settings of a run, as the edge server hands them to its devices.
 *
 * @module
 */

import { checkRunSettings, type RunSettings } from "../train/run_settings.ts";
import { headSizeOf, type ModelShape } from "../contracts/model_shape.ts";
import type { DeviceStatistic } from "../contracts/pruner.ts";
import { type MetaOf, SETTINGS_FIELDS } from "../protocol/messages.ts";
import type { Peer } from "../protocol/peer.ts";
import type { FieldsOf } from "../protocol/fields.ts";
import { ChannelClosedError, ProtocolError } from "../contracts/errors.ts";

/** What the edge server tells a device that joined. */
export interface Welcome {
  /** The run. */
  readonly run: string;
  /** Settings of the run, complete. */
  readonly settings: Required<RunSettings>;
  /** Shape of the model. */
  readonly model: ModelShape;
  /** Heads that the device owns in every layer; `null` for a device without heads. */
  readonly range: { readonly first: number; readonly count: number } | null;
  /** Statistics that the device sends after each training step. */
  readonly statistics: readonly DeviceStatistic[];
  /** Training steps done before: 0, or those of the state that the run goes on from. */
  readonly start: number;
  /** True if steps may begin again: the device keeps its state of before each update. */
  readonly repeats: boolean;
  /**
   * Where the device has been away: training steps that its heads took part in at most. What they learnt after them does
   * not count. `null` for a device that has not been away.
   */
  readonly trained: number | null;
  /** Training step that it is to finish first, as it lacked its last gradients. @default {none} */
  readonly finishes?: number;
  /** Training steps before `start` that its heads have missed while it was away. @default {0} */
  readonly missed?: number;
  /**
   * Where several people's data takes turns: whether a turn is a whole step, or parts of one; `null` where the device's
   * data is the only one.
   */
  readonly turns: "steps" | "parts" | null;
}

// Every setting has its field in the welcome; one without does not compile.
SETTINGS_FIELDS satisfies FieldsOf<Required<RunSettings>>;

/**
 * Reads a welcome, whose fields are what they must be each by itself.
 *
 * @throws {ProtocolError} If a field does not fit another one, or a setting is out of range.
 */
export function readWelcome(meta: MetaOf<"welcome">): Welcome {
  try {
    const { run, settings, model, range, statistics, start = 0, repeats = false } = meta;
    const { trained = null, turns = null, finishes, missed } = meta;
    if (model.hidden % model.heads !== 0 || (model.hidden / model.heads) % 4 !== 0) {
      throw new RangeError(
        `hidden / heads must be a multiple of 4: current value is ${model.hidden} / ${model.heads}`,
      );
    }
    if (headSizeOf(model) % 4 !== 0) {
      throw new RangeError(`the head size must be a multiple of 4: current value is ${model.headSize}`);
    }
    if (range !== null && range.first + range.count > model.heads) {
      throw new RangeError(`the heads must lie in 0 .. ${model.heads}: they start at ${range.first}`);
    }
    const checked = checkRunSettings(settings);
    if (start > checked.steps) {
      throw new RangeError(`start must be a step from 0 to ${checked.steps}: current value is ${start}`);
    }
    return {
      run,
      settings: checked,
      model,
      range,
      statistics,
      start,
      repeats,
      trained,
      turns,
      ...(finishes !== undefined && { finishes }),
      ...(missed !== undefined && { missed }),
    };
  } catch (cause) {
    throw new ProtocolError(
      `Cannot join as the server's welcome must be complete: ${(cause as Error).message}`,
      { cause },
    );
  }
}

/** Waits for the start of the run, and proves who this device is if it is asked; returns what the server says of it. */
export async function receiveWelcome(
  peer: Peer,
  prove?: (nonce: string) => Promise<string>,
): Promise<MetaOf<"welcome">> {
  const frame = await peer.next("control", "the start of the run");
  if (frame.kind === "challenge" && prove !== undefined) {
    const proof = await prove(frame.meta.nonce);
    await peer.send("proof", { meta: { proof } });
    return await receiveWelcome(peer);
  }
  if (frame.kind === "end") {
    throw new ChannelClosedError(`Cannot join as the server ended the run: ${frame.meta.reason}`);
  }
  return peer.check(frame, "welcome", {}).meta;
}
