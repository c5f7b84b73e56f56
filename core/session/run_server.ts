/**
 * What every server of a run does, whatever its steps are: devices join, the run starts, and it ends.
 *
 * @module
 */

import { checkRunSettings, type RunSettings } from "../train/run_settings.ts";
import type { RemovedDevice, SavedDevice } from "./run_state.ts";
import type { EdgeServerEvent, JoinedDevice, RunEnding, RunStatus, StepRecord } from "./run_events.ts";
import { Peer } from "../protocol/peer.ts";
import type { MetaOf } from "../protocol/messages.ts";
import type { JoinOptions, RunHandle, RunHealth } from "./run_handle.ts";
import { ByteLedger, type LedgerEntry } from "../protocol/ledger.ts";
import { checkServerWaits } from "./wait_limits.ts";
import { findRunCodecs, type RunCodecs } from "../protocol/run_codecs.ts";
import type { Channel } from "../contracts/channel.ts";
import { type RunClock, WALL_CLOCK } from "../contracts/clock.ts";
import { headsInOrder, requireAdmissible, requireNoneLost, waitForDevices } from "./_admission.ts";
import { Door } from "./_door.ts";
import { dismiss, endAll, farewell, turnAway } from "./_end_all.ts";
import type { RunServerOptions } from "./run_server_options.ts";
import { isCalled, textOf } from "./_identity.ts";
import { newMember, type RunMember, type RunSystem, takingOver } from "./run_member.ts";
import { countersOf } from "./_step_meter.ts";
import { raceTimeout } from "./_race_timeout.ts";
import { tellPaused } from "./_tell_paused.ts";
import { plainText } from "../contracts/plain_text.ts";
import { ChannelClosedError, TrainingError } from "../contracts/errors.ts";
import type { Engine } from "@edgetuner/kernels";

/** What a device is told that the host removes. */
const REMOVED = "the host has removed this device from the run";

/**
 * What every server of a run does: it lets devices join, starts and ends the run, and tells what
 * happens. What the steps are is up to the classes that extend it.
 */
export abstract class RunServer implements RunHandle {
  /** Name of the run. */
  readonly run: string;
  /** What was sent and received, all devices together. */
  readonly ledger: ByteLedger = new ByteLedger();
  /** The clock of waits for devices. */
  protected readonly clock: RunClock;
  readonly #options: RunServerOptions;
  readonly #system: RunSystem;
  readonly #settings: Required<RunSettings>;
  readonly #codecs: RunCodecs;
  readonly #pauseTimeoutMs: number;
  readonly #members: RunMember[] = [];
  readonly #door = new Door();
  readonly #listeners = new Set<(event: EdgeServerEvent) => void>();
  readonly #stop = new AbortController();
  #status: RunStatus = "waiting";
  #paused = false;
  #latest: StepRecord | null = null;
  #steppedAt: number | null = null;
  /** Set by `runAll` when all steps that were to be are done: devices then save what they have. */
  protected ending: RunEnding | null = null;
  #stopReason: string | null = null;
  #changed: PromiseWithResolvers<void> = Promise.withResolvers();
  #saved: Promise<readonly SavedDevice[]> | undefined;

  /**
   * Prepares a run; devices may `join` at once, the steps begin with `start`.
   *
   * @param options See `RunServerOptions`.
   * @param kind What the run is, and the most devices that can have heads in it.
   * @throws {RangeError} If settings or limits of waiting are out of range.
   * @throws {HandshakeError} If the settings name a codec that is not known.
   */
  constructor(
    options: RunServerOptions,
    kind: { readonly system: RunSystem; readonly maxDevices: number },
  ) {
    this.#options = options;
    this.clock = options.clock ?? WALL_CLOCK;
    this.#pauseTimeoutMs = checkServerWaits(options);
    this.#system = kind.system;
    this.#settings = checkRunSettings(options.settings);
    this.#codecs = findRunCodecs(this.#settings.codec, options.codecs);
    if (!Number.isInteger(options.devices) || options.devices < 1 || options.devices > kind.maxDevices) {
      throw new RangeError(
        `Cannot start the edge server as devices must be an integer from 1 to ${kind.maxDevices} (by the heads per layer): current value is ${options.devices}`,
      );
    }
    this.run = options.run ?? options.resume?.run ?? crypto.randomUUID().slice(0, 8);
  }

  /** State of the run. */
  get status(): RunStatus {
    return this.#status;
  }

  /** Settings of the run. */
  get settings(): Required<RunSettings> {
    return this.#settings;
  }

  /** The last step; `null` before the first. */
  get latest(): StepRecord | null {
    return this.#latest;
  }

  /**
   * Calls a listener with everything that happens from now on.
   *
   * @returns A function that ends it.
   */
  subscribe(listener: (event: EdgeServerEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Devices that joined, in order of joining. */
  get devices(): readonly JoinedDevice[] {
    return this.#members.map((m) => m.device);
  }

  /**
   * Lets a device join over an open channel; the server owns the channel from now on. Whatever
   * the device does wrong ends in its channel being closed, with the reason, and in an event.
   */
  async join(channel: Channel, { device: letIn }: JoinOptions = {}): Promise<void> {
    const peer = new Peer(channel, {
      timeoutMs: this.#options.helloTimeoutMs ?? 10_000,
      signal: this.#stop.signal,
      ledger: this.ledger,
      maxQueuedBytes: this.#options.maxQueuedBytes,
      remote: "device",
    });
    try {
      const { meta: said } = await peer.receive("hello");
      const saved = await this.#savedDevices();
      await this.#door.pass(peer, said, { known: [...this.#members.map((m) => m.hello), ...saved], letIn });
      const hello = this.heard(said, saved);
      const former = this.#members.find((m) => hello.id !== undefined && m.hello.id === hello.id);
      if (former !== undefined && this.#isUnderWay && this.mayReturn(former, hello)) {
        former.unfinished = hello.unfinished;
        return this.#comeBack(former, peer);
      }
      const orphan = former === undefined && this.#isUnderWay ? this.orphanFor(hello) : null;
      if (orphan !== null) return this.#takeOver(orphan, hello, peer);
      this.#dropFormer(hello);
      requireAdmissible(hello, {
        status: this.#status,
        system: this.#system,
        task: this.#settings.task,
        fingerprint: this.#options.fingerprint,
        devices: this.#options.devices,
        members: this.#members,
        resumed: this.#options.resume?.run ?? null,
        saved,
        mostDataDevices: this.mostDataDevices,
        adoptAfter: this.adoptAfter,
      });
      this.checkHello(hello);
      const hasNamesake = this.#members.some((m) => m.device.name === hello.name);
      const member = newMember(hello, peer, { hasNamesake });
      peer.timeoutMs = this.#options.timeoutMs ?? 120_000;
      this.#members.push(member);
      this.emit({ type: "joined", device: member.device });
      this.#wake();
      this.#watch(member, peer);
    } catch (error) {
      const reason = plainText(error instanceof Error ? error.message : String(error));
      this.emit({ type: "refused", peer: peer.name, reason });
      await turnAway(peer, reason);
    }
  }

  /** True if the run goes on without the device: a data device among several, without heads. */
  #comesAndGoes({ data, capacity }: MetaOf<"hello">): boolean {
    return this.neededDataDevices === 0 && data && capacity === 0;
  }

  /** Notices when a connection of a device ends. */
  #watch(member: RunMember, peer: Peer): void {
    const { device } = member;
    peer.closed.then(() => {
      if (member.returning === peer) member.returning = null;
      if (member.peer !== peer) return;
      device.connected = false;
      // A device that leaves before the start makes room for another one, or for itself.
      if (this.#status === "waiting" || this.#comesAndGoes(member.hello)) this.#forget(member);
      this.emit({ type: "left", device });
      this.#wake();
    });
  }

  get #isUnderWay(): boolean {
    return this.#status === "running" || this.#status === "paused";
  }

  /** A device of the run is here again: it is taken in before the next step. */
  #comeBack(member: RunMember, peer: Peer, name = member.peer.name): void {
    const { peer: before, returning } = member;
    peer.name = name;
    peer.timeoutMs = this.#options.timeoutMs ?? 120_000;
    member.returning = peer;
    this.#watch(member, peer);
    // The old connection may be dead without the network having said so.
    const error = new ChannelClosedError(`Cannot go on with ${peer.name} here: it has another connection`);
    for (const old of [before, returning]) {
      if (old !== null && old.failure === null) void farewell(old, error);
    }
    this.#wake();
  }

  /** A device that is new takes over the heads of one that stays away. */
  #takeOver(orphan: RunMember, hello: MetaOf<"hello">, peer: Peer): void {
    const member = takingOver(orphan, hello);
    this.#members.splice(this.#members.indexOf(orphan), 1, member);
    this.replaced(orphan, member);
    this.emit({ type: "joined", device: member.device });
    this.#comeBack(member, peer, `device ${textOf(hello)}`);
  }

  /** Removes a device for good; false if the run has no such device. See `RunHandle`. */
  remove(device: string, reason = REMOVED): boolean {
    const member = this.#members.find((m) => isCalled(m.hello, device));
    if (member === undefined) return false;
    this.#door.close(member.hello);
    for (const peer of [member.peer, member.returning]) if (peer !== null) void dismiss(peer, reason);
    return true;
  }

  #forget(member: RunMember): void {
    const at = this.#members.indexOf(member);
    if (at >= 0) this.#members.splice(at, 1);
  }

  /**
   * A device that joins again before the start takes its own place: its old connection may be dead without the
   * network having said so.
   */
  #dropFormer(hello: MetaOf<"hello">): void {
    if (this.#status !== "waiting" || hello.id === undefined) return;
    const former = this.#members.find((m) => m.hello.id === hello.id);
    if (former === undefined) return;
    this.#forget(former);
    void dismiss(former.peer, `device ${textOf(hello)} has joined again`);
  }

  /**
   * Holds the run before its next step. It is paused once the step that is being computed is done; the devices
   * hear of it again and again, so that they do not wait in vain. Who does not resume it in time, see
   * `RunServerOptions.pauseTimeoutMs`, ends it.
   */
  pause(): void {
    this.#paused = true;
  }

  /** Goes on after `pause`. */
  resume(): void {
    this.#paused = false;
    if (this.#status === "paused") this.#setStatus("running", "");
    this.#wake();
  }

  /** Ends the run after the current step; devices keep what they learnt. */
  stop(reason = "stopped"): void {
    this.#stopReason ??= reason;
    this.#wake();
  }

  /**
   * Waits for the devices, then runs all steps. Resolves when the run has ended, on purpose or not
   * wanted any more; all channels are closed then.
   *
   * @param signal Ends the run at once.
   * @throws {DeadlineError} If not all devices joined in time, or one did not answer in time.
   * @throws {ProtocolError} If a device broke the protocol.
   * @throws {PluginError} If the pruner returned something its contract does not allow.
   * @throws {TrainingError} If a loss or the norm of the gradients is not finite; the devices get it too.
   */
  async start(signal?: AbortSignal): Promise<void> {
    const onAbort = () => {
      this.stop("aborted");
      this.#stop.abort(signal!.reason);
    };
    if (signal?.aborted) onAbort();
    else signal?.addEventListener("abort", onAbort);
    let reason = "";
    let diverged: TrainingError | null = null;
    try {
      await this.#waitForDevices();
      if (this.#stopReason === null) await this.runAll();
      reason = this.#stopReason ?? "";
      this.#setStatus("ended", reason);
    } catch (error) {
      reason = error instanceof Error ? error.message : String(error);
      if (this.#stopReason !== null) {
        reason = this.#stopReason;
        this.#setStatus("ended", reason);
      } else {
        this.#setStatus("failed", reason);
        if (error instanceof TrainingError) diverged = error;
        throw error;
      }
    } finally {
      signal?.removeEventListener("abort", onAbort);
      const { aborted } = this.#stop.signal;
      const failed = this.#status === "failed";
      const stopped = this.#stopReason !== null;
      await endAll(this.#members, { reason, ending: this.ending, diverged, stopped, aborted, failed });
    }
  }

  /** Devices of the run that goes on; none in a new run. Those that were removed from it stay out. */
  #savedDevices(): Promise<readonly SavedDevice[]> {
    return this.#saved ??= (async () => {
      const { resume } = this.#options;
      const { devices = null, removed = [] } = await resume?.load(resume.steps.at(-1)!) ?? {};
      for (const device of removed) this.#door.close(device);
      return devices ?? [];
    })();
  }

  /** Devices that the host has removed, for a state. */
  protected get removed(): readonly RemovedDevice[] {
    return this.#door.removed;
  }

  /** Tells listeners what happened. */
  protected emit(event: EdgeServerEvent): void {
    if (event.type === "step") {
      this.#latest = event.record;
      this.#steppedAt = performance.now();
    }
    for (const listener of this.#listeners) listener(event);
  }

  #setStatus(status: RunStatus, reason: string): void {
    if (this.#status === status) return;
    this.#status = status;
    this.emit({ type: "status", status, reason });
  }

  #wake(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  /** Resolves when a device joins or leaves, or someone steers the run. */
  protected get changed(): Promise<void> {
    return this.#changed.promise;
  }

  async #waitForDevices(): Promise<void> {
    const { devices, joinTimeoutMs: limitMs = 600_000 } = this.#options;
    const saved = this.mostDataDevices > 1 ? await this.#savedDevices() : [];
    await waitForDevices(this.#members, {
      ...{ devices, owners: this.neededDataDevices, saved, limitMs, clock: this.clock },
      changed: () => this.#changed.promise,
      isOver: () => this.#stopReason !== null,
    });
  }

  /**
   * Checks what a kind of run asks of a device beyond what all do.
   *
   * @throws {HandshakeError} If the device cannot take part.
   */
  protected checkHello(_hello: MetaOf<"hello">): void {}

  /** True if the run can do without a device while it is away. */
  protected mayMiss(_member: RunMember): boolean {
    return false;
  }

  /**
   * What a hello means in this run.
   *
   * @param _saved Devices of the run that goes on.
   */
  protected heard(hello: MetaOf<"hello">, _saved: readonly SavedDevice[]): MetaOf<"hello"> {
    return hello;
  }

  /** Steps after which heads of a device that is away are free; `undefined` if they never are. */
  protected get adoptAfter(): number | undefined {
    return undefined;
  }

  /** Data devices that may take part: with several they come and go while the run goes on. */
  protected get mostDataDevices(): number {
    return 1;
  }

  /** Data devices that the run cannot begin without. */
  protected get neededDataDevices(): number {
    return 1;
  }

  /** True if a device that is known may come back while the run goes on. */
  protected mayReturn(_member: RunMember, _hello: MetaOf<"hello">): boolean {
    return false;
  }

  /** The device that stays away and whose heads a new one may take over; `null` if there is none. */
  protected orphanFor(_hello: MetaOf<"hello">): RunMember | null {
    return null;
  }

  /** A device has taken the place of another one. */
  protected replaced(_orphan: RunMember, _member: RunMember): void {}

  /**
   * Waits until a device joins, leaves or comes back, or somebody stops the run.
   *
   * @returns False if the run is to end.
   */
  protected async waitForChange(ms: number): Promise<boolean> {
    if (this.#stopReason === null) await raceTimeout(this.#changed.promise, ms, this.clock);
    return this.#stopReason === null;
  }

  /** Runs all steps; called once the devices have joined. Calls `setRunning` before it waits for any. */
  protected abstract runAll(): Promise<void>;

  /** All devices, in order of joining. */
  protected get members(): readonly RunMember[] {
    return this.#members;
  }

  /** Devices with heads, in an order that does not depend on when they joined. */
  protected get headMembers(): readonly RunMember[] {
    return headsInOrder(this.#members);
  }

  /** The codecs of the run. */
  protected get codecs(): RunCodecs {
    return this.#codecs;
  }

  /** The clock of step times, in milliseconds. */
  protected get now(): () => number {
    return this.#options.now ?? (() => performance.now());
  }

  /** Aborted when the run is to end at once. */
  protected get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** From now on the run has started: a device that leaves is missed. */
  protected setRunning(): void {
    this.#setStatus("running", "");
  }

  /** How often devices hear of a pause, in milliseconds: often enough for the shortest limit that makes sense. */
  protected get pauseIntervalMs(): number {
    return Math.min(1000, (this.#options.timeoutMs ?? 120_000) / 4);
  }

  /**
   * Waits while the run is paused, at most as long as a pause may be.
   *
   * @returns False if the run is to end.
   * @throws {ChannelClosedError} If a device has left meanwhile.
   */
  protected async waitWhilePaused(): Promise<boolean> {
    const intervalMs = this.pauseIntervalMs;
    const telling = new Map<RunMember, Promise<void>>();
    const until = performance.now() + this.#pauseTimeoutMs;
    while (this.#paused && this.#stopReason === null) {
      requireNoneLost(this.#members, (member) => this.mayMiss(member));
      this.#setStatus("paused", "");
      tellPaused(this.#members, telling);
      const leftMs = until - performance.now();
      if (leftMs <= 0) {
        this.stop(
          `a pause must be at most ${this.#pauseTimeoutMs / 1000} s long: nobody has resumed the run`,
        );
        break;
      }
      await raceTimeout(this.#changed.promise, Math.min(intervalMs, Math.ceil(leftMs)));
    }
    return this.#stopReason === null;
  }

  /** Milliseconds and bytes spent so far; `waits` are those who wait for devices. */
  protected counters(
    engine: Engine,
    ...waits: readonly { readonly waitMs: number }[]
  ): Readonly<Record<"readback" | "codec" | "wait" | "bytes", number>> {
    return countersOf(engine, { members: this.#members, waits, bytes: this.ledger.totalBytes });
  }

  /** It answers, so it is well: its steps are computed in this thread. */
  health(): RunHealth {
    return { silentMs: 0, sinceStepMs: this.#steppedAt && performance.now() - this.#steppedAt };
  }

  /** Lines of the ledger so far. */
  traffic(): LedgerEntry[] {
    return this.ledger.entries();
  }
}
