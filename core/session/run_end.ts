/**
 * How a run ends for a device.
 *
 * @module
 */

import { ChannelClosedError, PluginError, ProtocolError, TrainingError } from "../contracts/errors.ts";
import { type Absences, joinAbsences, missedSteps } from "../lora/absence.ts";
import type { FrameOf } from "../protocol/frame.ts";
import type { Peer } from "../protocol/peer.ts";
import { raceTimeout } from "./_race_timeout.ts";
import type { RunEnding } from "./run_events.ts";
import type { Welcome } from "./welcome.ts";

/** Progress of a device in a run. */
export interface RunProgress {
  /** Training steps done. */
  steps: number;
  /** Why the run ended. */
  reason: string;
  /** How it ended, if without a fault. */
  ending: RunEnding | null;
  /** True if somebody stopped it. */
  wasStopped: boolean;
}

/** Takes in the end of a run. */
export function takeEnd({ meta }: FrameOf<"end">, state: RunProgress): void {
  const { reason, stopped = false, step, best = false, away, missed } = meta;
  state.reason = reason;
  state.wasStopped = stopped;
  if (step === undefined) return;
  state.ending = { step, best, ...(away && { away }), ...(missed && { missed }) };
}

/** What a device knows of heads that are away, and of steps that its own have missed. */
export function absencesOf(
  { range, missed: steps = 0 }: Welcome,
  { away = [], missed = [] }: Pick<RunEnding, "away" | "missed">,
): Absences {
  const heads = Array.from({ length: range?.count ?? 0 }, (_, i) => range!.first + i);
  return joinAbsences([{ away, missed: missedSteps(missed.entries()) }, { missed: [{ heads, steps }] }]);
}

/**
 * Checks that a run that has ended did so without a fault, and not because it failed elsewhere.
 *
 * @throws {ChannelClosedError} If it failed.
 */
export function requireOrderlyEnd({ reason, ending }: RunProgress): void {
  if (ending !== null || reason === "") return;
  throw new ChannelClosedError(`Cannot go on as the edge server ended the run: ${reason}`);
}

/**
 * What a lane's error is once the edge server's last word has been read: a device that was sending learns only that
 * the channel is closed, while the end of the run may lie unread.
 */
export async function withLastWord(error: unknown, peer: Peer, progress: RunProgress): Promise<unknown> {
  if (!(error instanceof ChannelClosedError) || progress.reason !== "") return error;
  try {
    const frame = await peer.next("control", '"end"', LAST_WORD_MS);
    if (frame.kind !== "end") return error;
    takeEnd(frame, progress);
    requireOrderlyEnd(progress);
    return error;
  } catch (cause) {
    return progress.reason === "" ? error : cause;
  }
}

/** Longest time that a device waits for the edge server once its run has failed, in milliseconds. */
const LEAVE_FAILED_MS = 1000;

/** Longest time in milliseconds for the word that this device leaves. */
const LAST_WORD_MS = 200;

/** Longest reason of a closed channel, in characters. */
const MAX_REASON = 100;

/** Says goodbye to the edge server and closes the channel: in bounded time, whatever the edge server does. */
export async function leave(peer: Peer, error: unknown, signal: AbortSignal | undefined): Promise<void> {
  if (error instanceof ProtocolError) peer.failWith(error);
  const limit = new AbortController();
  const cut = () => limit.abort();
  // It did not answer before, or this device is to end: nobody waits again.
  if (signal?.aborted && !peer.hasEnded) {
    // The others need not wait for it.
    peer.outliveSignal();
    const told = peer.send("leave", { meta: { reason: "device stopped" } }).catch(() => {});
    await raceTimeout(told, LAST_WORD_MS);
  }
  if (peer.isSilent || signal?.aborted) cut();
  signal?.addEventListener("abort", cut);
  const told = error instanceof TrainingError ? peer.sendDivergence(error) : undefined;
  const timer = error === null ? undefined : setTimeout(cut, LEAVE_FAILED_MS);
  // Of a plugin of this device's the others hear too: it is no secret, and no fault of theirs.
  const why = error instanceof PluginError ? error.message.slice(0, MAX_REASON) : "device stopped";
  await peer.close(error === null ? "" : why, { signal: limit.signal }).catch(() => {});
  await told;
  clearTimeout(timer);
  signal?.removeEventListener("abort", cut);
}
