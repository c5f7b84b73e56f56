/**
 * Who of a run is there: devices are lost, waited for, and taken in again before a step.
 *
 * @module
 */

import type { RunClock } from "../contracts/clock.ts";
import { ChannelClosedError, DeadlineError } from "../contracts/errors.ts";
import type { MetaOf } from "../protocol/messages.ts";
import type { Peer } from "../protocol/peer.ts";
import { farewell } from "./_end_all.ts";
import { awayHeads, type HeadMember, isLoss } from "./head_members.ts";
import type { EdgeServerEvent, RunEnding } from "./run_events.ts";
import type { RunMember } from "./run_member.ts";
import type { LossPolicy } from "./step_attempts.ts";

/** What presence is kept of. */
export interface PresenceOptions {
  /** The devices with heads, in order of their heads. */
  readonly owners: RunMember[];
  /** The same, as the steps see them. */
  readonly devices: readonly HeadMember[];
  /** The devices with data. */
  dataMembers(): readonly RunMember[];
  /** False if the run goes on where none of them is there. @default {true} */
  readonly needsData?: boolean;
  /** A device with data has come back over another connection. */
  goOnOver(member: RunMember): void;
  /** One with heads has; `unfinished` is a step of which it has all but the last messages. */
  headsGoOnOver(device: HeadMember, unfinished: number | undefined): void;
  /** What to do about losses. */
  readonly policy: LossPolicy;
  /** Longest wait in milliseconds for a device without which the run cannot go on. */
  readonly lossWaitMs: number;
  /** The clock of that wait. */
  readonly clock: RunClock;
  /** What a device is told that comes back. */
  welcome(member: RunMember): MetaOf<"welcome">;
  /** Prepares a connection for the steps. */
  begin(peer: Peer): void;
  /** Tells what happens. */
  emit(event: EdgeServerEvent): void;
  /** Waits until something may have changed; false if the run is to end. */
  waitForChange(ms: number): Promise<boolean>;
  /** Training steps that a device had missed before, in a run that goes on. @default {none} */
  missed?(member: RunMember): number;
}

/** Keeps who is there. */
export class Presence {
  readonly #options: PresenceOptions;
  /** Of devices that are away: training steps that count for them. */
  readonly #trained = new Map<RunMember, number>();
  /** Of all devices with heads: training steps that they missed while they were away, and are back. */
  readonly #missed = new Map<RunMember, number>();
  /** Devices that sent what is not valid. */
  readonly #excluded = new Set<RunMember>();

  /** See `PresenceOptions`. */
  constructor(options: PresenceOptions) {
    this.#options = options;
    for (const member of options.owners) this.#missed.set(member, options.missed?.(member) ?? 0);
  }

  /** Training steps that a device has missed, of so many. */
  missedOf(member: RunMember, step: number): number {
    const trained = this.#trained.get(member) ?? step;
    return (this.#missed.get(member) ?? 0) + step - trained;
  }

  /** What is said of heads whose devices are away after so many steps, or were before. */
  absences(step: number): Pick<RunEnding, "away" | "missed"> {
    const { owners, devices } = this.#options;
    const away = awayHeads(devices);
    const missed = devices.flatMap(({ range: { count } }, i) =>
      Array.from({ length: count }, () => this.missedOf(owners[i]!, step))
    );
    return { ...(away.length > 0 && { away }), ...(missed.some((n) => n > 0) && { missed }) };
  }

  /**
   * A device whose heads another one may take over.
   *
   * @param step Training steps so far.
   * @param after Steps for which it must have been away, if it has not given its heads up.
   */
  orphan(step: number, after: number): RunMember | null {
    const { owners } = this.#options;
    return owners.find((member) => {
      const trained = this.#trained.get(member);
      if (trained === undefined || member.device.data || member.returning !== null) return false;
      return member.peer.hasLeft || step - trained >= after;
    }) ?? null;
  }

  /** A device takes the place of another one, which may not come back. */
  replace(orphan: RunMember, member: RunMember): void {
    const { owners } = this.#options;
    owners[owners.indexOf(orphan)] = member;
    const trained = this.#trained.get(orphan) ?? 0;
    this.#trained.set(member, trained);
    this.#trained.delete(orphan);
    // The heads begin anew: all that was trained before does not count for them.
    this.#missed.set(member, trained);
    this.#missed.delete(orphan);
  }

  /** True for a device that may not come back. */
  isExcluded(member: RunMember): boolean {
    return this.#excluded.has(member);
  }

  /** True while a device is away. */
  isAway(member: RunMember): boolean {
    return this.#trained.has(member);
  }

  /** What a state notes of it: training steps that count for a device that is away, and those that it has missed. */
  savedOf(member: RunMember): { readonly trained?: number; readonly missed?: number } {
    const trained = this.#trained.get(member);
    const missed = this.#missed.get(member) ?? 0;
    return { ...(trained !== undefined && { trained }), ...(missed > 0 && { missed }) };
  }

  /** A device is away from a step on; its connection is ended. */
  lose(member: RunMember, step: number, error: Error): void {
    if (this.#trained.has(member)) return;
    this.#trained.set(member, step);
    if (!isReturning(error)) this.#excluded.add(member);
    this.#options.emit({ type: "away", device: member.device, step, reason: error.message });
    void farewell(member.peer, error);
  }

  /** A device with heads is lost. */
  loseHeads(device: HeadMember, step: number, error: Error): void {
    const { owners, devices } = this.#options;
    this.lose(owners[devices.indexOf(device)]!, step, error);
  }

  /** True if an error is that of the connection of a device with data, which is lost then. */
  losesData(step: number, error: unknown): boolean {
    const { policy } = this.#options;
    const members = this.#dataMembers;
    const silent = members.filter(({ peer }) => peer.isSilent);
    const lost = members.find(({ peer }) => peer.failure === error) ??
      silent.find((member) => !this.isAway(member)) ?? silent[0];
    if (policy === "stop" || lost === undefined) return false;
    // Others have data too: what one does wrong is not theirs to bear.
    const others = members.filter((member) => member !== lost && !this.isAway(member));
    const isFault = isLoss(error) && others.length > 0;
    if (!isReturning(error) && !isFault) return false;
    this.lose(lost, step, error as Error);
    return true;
  }

  get #dataMembers(): readonly RunMember[] {
    return this.#options.dataMembers();
  }

  /** Waits for a device with data that is away; false if none has come back in time. */
  async waitForData(step: number): Promise<boolean> {
    const { clock, lossWaitMs } = this.#options;
    const until = clock.now() + lossWaitMs;
    const away = this.#dataMembers.filter((member) => this.isAway(member));
    for (;;) {
      await this.admit(step);
      if (away.some((member) => !this.isAway(member))) return true;
      const leftMs = until - clock.now();
      if (leftMs <= 0 || !await this.#options.waitForChange(leftMs)) return false;
    }
  }

  /** Takes in the devices that have come back. */
  async admit(step: number): Promise<void> {
    for (const member of new Set([...this.#options.owners, ...this.#dataMembers])) {
      const peer = member.returning;
      member.returning = null;
      if (peer !== null && peer.failure === null) await this.#admitOne(member, peer, step);
    }
  }

  /**
   * Waits as long as the run cannot go on, or is to wait for whoever is away.
   *
   * @param error Why it cannot go on.
   * @throws That, once it is too late.
   */
  async goOn(step: number, error: Error): Promise<void> {
    const { devices, policy, lossWaitMs, clock, needsData = true, waitForChange } = this.#options;
    const until = clock.now() + lossWaitMs;
    for (;;) {
      await this.admit(step);
      const isEnough = devices.some((d) => d.isAway !== true) &&
        (!needsData || this.#dataMembers.some((member) => !this.isAway(member)));
      // Who has left on purpose is not waited for.
      const isAwaited = [...this.#trained.keys()].some(({ peer }) => !peer.hasLeft);
      const isWorthIt = isReturning(error) && isAwaited && clock.now() < until;
      if (isEnough && (policy !== "wait" || this.#trained.size === 0 || !isWorthIt)) return;
      if (!isWorthIt) throw error;
      const leftMs = until - clock.now();
      if (!await waitForChange.call(this.#options, leftMs)) throw error;
    }
  }

  async #admitOne(member: RunMember, peer: Peer, step: number): Promise<void> {
    const { owners, devices, emit } = this.#options;
    const trained = this.#trained.get(member) ?? step;
    // One that does not count begins again, or is missed.
    const unfinished = trained > (member.unfinished ?? Infinity) ? member.unfinished : undefined;
    const finishes = unfinished === undefined ? {} : { finishes: unfinished };
    const missed = this.missedOf(member, step);
    try {
      const meta = {
        ...this.#options.welcome(member),
        ...{ start: step, trained, ...finishes },
        ...(missed > 0 && { missed }),
      };
      await peer.send("welcome", { meta });
    } catch {
      return; // it is gone again
    }
    this.#options.begin(peer);
    member.peer = peer;
    member.device.connected = true;
    this.#trained.delete(member);
    this.#missed.set(member, missed);
    const at = owners.indexOf(member);
    if (at >= 0) {
      const device = Object.assign(devices[at]!, { peer, isAway: false });
      this.#options.headsGoOnOver(device, unfinished);
    }
    if (member.device.data) this.#options.goOnOver(member);
    emit.call(this.#options, { type: "back", device: member.device, step });
  }
}

/** True if a device that was lost so may come back: who sent what is not valid may not. */
function isReturning(error: unknown): boolean {
  return error instanceof ChannelClosedError || error instanceof DeadlineError;
}
