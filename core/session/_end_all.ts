/**
 * The end of a run for its devices.
 *
 * @module
 */

import { DeadlineError, TrainingError } from "../contracts/errors.ts";
import { plainText } from "../contracts/plain_text.ts";
import type { RunEnding } from "./run_events.ts";
import type { Peer } from "../protocol/peer.ts";
import type { RunMember } from "./run_member.ts";

/** Longest time for all devices to take the end of a run, in milliseconds. */
const END_MS = 5000;

/** The same where the run failed or is to end at once: other devices may be behind the link that was cut. */
const END_FAILED_MS = 500;

/** The same for a device that let a wait reach its limit. */
const END_SILENT_MS = 100;

/** How a run ended. */
export interface RunOutcome {
  /** Why it ended. */
  readonly reason: string;
  /** What devices save by, if all steps are done. */
  readonly ending: RunEnding | null;
  /** The divergence that ended it, if one did. */
  readonly diverged: TrainingError | null;
  /** True if somebody stopped it. */
  readonly stopped: boolean;
  /** True if the run is to end at once. */
  readonly aborted: boolean;
  /** True if it failed. */
  readonly failed: boolean;
}

/** Tells all devices that the run is over, and closes their channels: in bounded time, whatever they do. */
export async function endAll(
  members: readonly RunMember[],
  { reason, ending, diverged, stopped, aborted, failed }: RunOutcome,
): Promise<void> {
  // Those too that have just come back.
  const peers = members.flatMap(({ peer, returning }) => returning === null ? [peer] : [peer, returning]);
  const endMs = aborted || failed ? END_FAILED_MS : END_MS;
  await Promise.all(peers.map(async (peer) => {
    // They are to hear the reason even if the run is to end at once.
    if (aborted) peer.outliveSignal();
    const limit = new AbortController();
    const late = Promise.withResolvers<void>();
    limit.signal.addEventListener("abort", () => late.resolve());
    const timer = setTimeout(() => limit.abort(), peer.isSilent ? END_SILENT_MS : endMs);
    // Closing waits until it is on its way.
    const told = diverged !== null
      ? peer.sendDivergence(diverged)
      : peer.send("end", { meta: { reason, ...(ending ?? {}), ...(stopped && { stopped }) } }).catch(
        () => {},
      );
    if (peer.isSilent) {
      await Promise.race([told, late.promise]);
      // It is gone, and whoever hands frames on to it hears so.
      limit.abort();
    }
    await peer.close(plainText(reason, 100), { signal: limit.signal }).catch(() => {});
    await told;
    clearTimeout(timer);
  }));
}

/** Tells a device that it does not take part, and why. */
export async function turnAway(peer: Peer, reason: string): Promise<void> {
  await peer.send("refuse", { meta: { reason } }).catch(() => {});
  await peer.close(plainText(reason, 100)).catch(() => {});
}

/** Tells one device that it is over for it, while the others go on: in bounded time, whatever it does. */
export async function dismiss(peer: Peer, reason: string): Promise<void> {
  const limit = new AbortController();
  const late = Promise.withResolvers<void>();
  const timer = setTimeout(() => {
    limit.abort();
    late.resolve();
  }, END_FAILED_MS);
  // It may never answer: nobody waits for it.
  await Promise.race([peer.send("end", { meta: { reason } }).catch(() => {}), late.promise]);
  await peer.close(plainText(reason, 100), { signal: limit.signal }).catch(() => {});
  clearTimeout(timer);
}

/** Takes leave of one device that is lost, while the others go on: in bounded time, whatever it does. */
export async function farewell(peer: Peer, error: Error): Promise<void> {
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), END_FAILED_MS);
  const told = error instanceof TrainingError ? peer.sendDivergence(error) : undefined;
  if (error instanceof DeadlineError) limit.abort();
  await peer.close(plainText(error.message, 100), { signal: limit.signal }).catch(() => {});
  await told;
  clearTimeout(timer);
}
