/**
 * A device in a run: joins, takes part, and comes back when the connection is lost.
 *
 * @module
 */

import type { Channel } from "../contracts/channel.ts";
import { WALL_CLOCK } from "../contracts/clock.ts";
import {
  ChannelClosedError,
  DeadlineError,
  HandshakeError,
  ModelFileError,
  RunStateError,
  TrainingError,
} from "../contracts/errors.ts";
import { plainText } from "../contracts/plain_text.ts";
import { adapterRange, loadIntoModules } from "../lora/adapter.ts";
import { requireFiniteHeads } from "../lora/finite.ts";
import { HeadModules } from "../lora/head_modules.ts";
import { findRunCodecs } from "../protocol/run_codecs.ts";
import type { ByteLedger } from "../protocol/ledger.ts";
import type { MetaOf } from "../protocol/messages.ts";
import { splitShape } from "../protocol/pass.ts";
import { Peer } from "../protocol/peer.ts";
import { BackgroundSaver, type SaveHooks } from "../train/saving.ts";
import { isSame, textOf } from "./_identity.ts";
import type { DataDevice, DataDeviceOptions } from "./data_device.ts";
import { proveDevice } from "./device_key.ts";
import { HeadDevice } from "./head_device.ts";
import { pause } from "./_race_timeout.ts";
import { absencesOf, leave, requireOrderlyEnd, type RunProgress, withLastWord } from "./run_end.ts";
import { type RunState, saveHeads } from "./run_state.ts";
import { requireSameRun } from "./same_run.ts";
import type { UserDeviceOptions, UserDeviceResult } from "./user_device_options.ts";
import { readWelcome, receiveWelcome, type Welcome } from "./welcome.ts";

/** Longest time for which a device tries to come back, in milliseconds, if nobody says. */
export const SERVER_LOST_MS = 900_000;
/** First and longest pause between two attempts. */
const PAUSES_MS = [100, 5000] as const;
/** Most steps that a device says it can be at. */
const MOST_STEPS = 64;

/** Makes the data side; handed in, so that devices without data do not load it. */
export type DataMaker = (options: DataDeviceOptions) => DataDevice;

/** A device that has joined. */
export class DeviceRun {
  readonly #options: UserDeviceOptions;
  readonly #id: string | undefined;
  readonly #ledger: ByteLedger;
  readonly #saver = new BackgroundSaver();
  readonly #progress: RunProgress;
  readonly #modules: HeadModules | null;
  readonly #makeData: DataMaker;
  readonly #save: (step: number) => Promise<void>;
  #peer: Peer;
  #heads: HeadDevice | null = null;
  #data: DataDevice | null = null;
  /** True where the heads go on with a step that is unfinished. */
  #isLate = false;
  /** What the edge server said last. */
  #welcome: Welcome;

  private constructor(
    { options, id, peer, makeData }: {
      readonly options: UserDeviceOptions;
      readonly id: string | undefined;
      readonly peer: Peer;
      readonly makeData: DataMaker;
    },
    welcome: Welcome,
    modules: HeadModules | null,
  ) {
    this.#options = options;
    this.#makeData = makeData;
    this.#id = id;
    this.#peer = peer;
    this.#ledger = peer.ledger;
    this.#welcome = welcome;
    this.#modules = modules;
    this.#progress = { steps: welcome.start, reason: "", ending: null, wasStopped: false };
    this.#save = saveOnce({ id, welcome, modules }, this.#saver, options);
  }

  /** What the edge server said. */
  get welcome(): Welcome {
    return this.#welcome;
  }

  /** Says hello, waits for the welcome, and makes the head modules; whatever goes wrong is said to the edge server. */
  static async join(options: UserDeviceOptions, makeData: DataMaker): Promise<DeviceRun> {
    const peer = openPeer(options.channel, options);
    const made: HeadModules[] = [];
    try {
      const id = await ownId(options);
      const { resume } = options;
      const states = resume === undefined ? undefined : { run: resume.run, steps: resume.steps };
      const welcome = await introduce(peer, { options, id, states });
      const state = await stateOf(welcome, options);
      requireOwnRun(welcome, options);
      const modules = makeModules(welcome, state, { options, made });
      return new DeviceRun({ options, id, peer, makeData }, welcome, modules);
    } catch (error) {
      made[0]?.[Symbol.dispose]();
      await refuse(peer, error, options.signal);
      throw error;
    }
  }

  /** Takes part until the run ends, over as many connections as it takes. */
  async toTheEnd(): Promise<UserDeviceResult> {
    let error = await this.#takePart();
    while (error !== null && this.#mayComeBack(error)) {
      this.#options.onLost?.(error as Error);
      const failure = await this.#comeBack(error as Error).then(() => null, (failure) => failure);
      if (failure !== null) {
        error = failure;
        break;
      }
      this.#options.onLost?.(null);
      error = await this.#takePart();
    }
    if (!(error instanceof TrainingError)) await this.#heads?.saveLast().catch(() => {});
    await Promise.allSettled([this.#saver.settled()]);
    const { steps, reason, ending, wasStopped } = this.#progress;
    const [ledger, modules, welcome] = [this.#ledger, this.#modules, this.#welcome];
    const [absences, saving] = [absencesOf(welcome, ending ?? {}), this.#saver.times];
    return { modules, welcome, steps, absences, ledger, saving, reason, ending, wasStopped, error };
  }

  /** Runs the lanes over the current connection; returns what went wrong. */
  async #takePart(): Promise<unknown> {
    const { data, signal } = this.#options;
    const [peer, progress, modules] = [this.#peer, this.#progress, this.#modules];
    let error: unknown = null;
    const lanes: Promise<void>[] = [];
    if (this.#isLate) this.#heads!.goOnOver(peer, this.#welcome.start);
    else this.#heads = modules === null ? null : this.#headDevice(modules);
    this.#isLate = false;
    try {
      if (this.#heads !== null) lanes.push(this.#heads.run());
      if (data !== undefined) lanes.push((this.#data ??= this.#dataDevice(data)).run(peer));
      await Promise.all(lanes);
      if (progress.ending !== null) {
        const { step, best } = progress.ending;
        const absences = absencesOf(this.#welcome, progress.ending);
        if (modules !== null && best) await this.#options.onBest?.(step, modules, absences);
        await this.#save(step);
        await this.#saver.settled();
      }
      requireOrderlyEnd(progress);
    } catch (cause) {
      error = await withLastWord(cause, peer, progress);
    }
    await leave(peer, error, signal);
    // The modules are the caller's from here on: no lane may use them any more.
    await Promise.allSettled(lanes);
    return error;
  }

  get #saves(): SaveHooks {
    return {
      // Nobody begins a step that is to be saved before the save before it is on every disk: so all parties have a
      // step in common, whenever they are killed.
      announced: () => this.#saver.settled(),
      trained: async (step, isSaved) => {
        if (isSaved) await this.#save(step);
      },
    };
  }

  #tell(step: number, mask: Uint8Array): void {
    this.#options.onStep?.(step, { mask, totalBytes: this.#ledger.totalBytes });
  }

  #headDevice(modules: HeadModules): HeadDevice {
    return new HeadDevice({
      ...{ peer: this.#peer, engine: this.#options.engine, modules, welcome: this.#welcome },
      ...{ state: this.#progress, saves: this.#saves, clock: this.#options.clock },
      onBest: (step, modules, away) =>
        this.#options.onBest?.(step, modules, absencesOf(this.#welcome, { away })),
      onStep: (step, mask) => this.#tell(step, mask),
    });
  }

  #dataDevice(data: NonNullable<UserDeviceOptions["data"]>): DataDevice {
    const { start, model, settings, turns } = this.#welcome;
    const run = splitShape(model, settings, { sharesLoss: data.shareLoss ?? false });
    // Where there are heads, their lane says when a step is done.
    const trained: SaveHooks["trained"] = async (steps, isSaved) => {
      this.#progress.steps = steps;
      // Among several owners a save comes after others' steps too.
      if (turns === null || !isSaved) this.#tell(steps - 1, new Uint8Array(0));
      await this.#saves.trained(steps, isSaved);
    };
    const { accumulate, microBatches } = settings;
    return this.#makeData({
      ...{ engine: this.#options.engine, data, run, state: this.#progress, start, accumulate, microBatches },
      takesTurns: turns !== null,
      clock: this.#options.clock,
      saves: this.#modules === null ? { ...this.#saves, trained } : undefined,
    });
  }

  /** True if only the connection is lost. */
  #mayComeBack(error: unknown): boolean {
    const { reconnect, signal } = this.#options;
    return reconnect !== undefined && this.#id !== undefined && signal?.aborted !== true &&
      !this.#peer.hasEnded && this.#data?.isGenerating !== true &&
      (error instanceof ChannelClosedError || error instanceof DeadlineError);
  }

  /** Connects again, with growing pauses, and is let in again. */
  async #comeBack(lost: Error): Promise<void> {
    const { signal, serverLostMs = SERVER_LOST_MS, clock = WALL_CLOCK } = this.#options;
    const until = clock.now() + serverLostMs;
    let [pauseMs] = PAUSES_MS as readonly [number, number];
    for (;;) {
      try {
        return await this.#joinAgain(await this.#options.reconnect!(signal));
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof ChannelClosedError || error instanceof DeadlineError)) throw error;
        if (clock.now() + pauseMs > until) throw lost;
      }
      await pause(pauseMs, clock, signal);
      signal?.throwIfAborted();
      pauseMs = Math.min(2 * pauseMs, PAUSES_MS[1]);
    }
  }

  async #joinAgain(channel: Channel): Promise<void> {
    const options = this.#options;
    const { run } = this.#welcome;
    const peer = openPeer(channel, options, this.#ledger);
    try {
      const saved = await options.savedStates?.() ?? null;
      const own = saved?.run === run ? saved.steps : [];
      const steps = [...new Set([...own, ...this.#steps()])].sort((a, b) => a - b);
      const welcome = await introduce(peer, {
        ...{ options, id: this.#id, states: { run, steps } },
        unfinished: this.#heads?.unfinished ?? undefined,
      });
      if (welcome.run !== run) {
        throw new HandshakeError(`Cannot come back as the run must be "${run}": it is "${welcome.run}"`);
      }
      await this.#goOnFrom(welcome);
      this.#peer = peer;
    } catch (error) {
      await refuse(peer, error, options.signal);
      throw error;
    }
  }

  /** Steps that this device can be at without a saved state. */
  #steps(): number[] {
    const { steps } = this.#progress;
    if (this.#modules !== null) return this.#modules.canGoBack && steps > 0 ? [steps - 1, steps] : [steps];
    const first = this.#options.data?.rewind === undefined ? steps : Math.max(0, steps - MOST_STEPS + 1);
    return Array.from({ length: steps - first + 1 }, (_, i) => first + i);
  }

  /** The device is as the edge server needs it. */
  async #goOnFrom(welcome: Welcome): Promise<void> {
    const { start, trained } = welcome;
    const [modules, progress, unsaved] = [this.#modules, this.#progress, this.#heads];
    this.#welcome = welcome;
    // The step counts with this device, which lacks the last that was sent: it is sent once more.
    this.#isLate = welcome.finishes !== undefined && welcome.finishes === unsaved?.unfinished;
    if (this.#isLate) return;
    modules?.discard();
    const limit = trained ?? start;
    if (modules !== null && progress.steps > limit) {
      if (progress.steps === limit + 1 && modules.canGoBack) modules.goBack();
      else await this.#restore(welcome, limit);
      unsaved?.forgetUnsaved();
    } else if (trained === null && progress.steps !== start) await this.#restore(welcome, start);
    await unsaved?.saveLast();
    if (trained === null && this.#data !== null && this.#data.step !== start) {
      this.#options.data?.rewind?.(start);
      this.#data = null;
    }
    // Weights that have missed steps stay as they are.
    if (progress.steps !== start) modules?.forgetCopy();
    progress.steps = start;
  }

  async #restore({ settings, range, trained }: Welcome, step: number): Promise<void> {
    if (this.#modules === null) return;
    const source = await this.#options.savedStates?.() ?? null;
    if (source === null) {
      throw new HandshakeError(
        `Cannot go on as this device must have its state of step ${step}: it has none that is saved`,
      );
    }
    // Of a device that was away the newest one of before counts.
    const state = await source.load(
      trained === null ? step : source.steps.findLast((s) => s <= step) ?? step,
    );
    requireSameRun(state, { settings, range });
    this.#modules.restore(state.heads!.state);
  }
}

function openPeer(channel: Channel, options: UserDeviceOptions, ledger?: ByteLedger): Peer {
  const { timeoutMs = 120_000, joinTimeoutMs = timeoutMs, signal, maxQueuedBytes, onPause } = options;
  const peer = new Peer(channel, {
    ...{ timeoutMs: joinTimeoutMs, signal, maxQueuedBytes, remote: "server", ledger },
    ...(onPause && { onPause: (paused: boolean) => options.onPause?.(paused) }),
  });
  peer.name = "the edge server";
  return peer;
}

/** Says hello, proves who this device is, and waits for the welcome. */
async function introduce(
  peer: Peer,
  { options, id, states, unfinished }: {
    readonly options: UserDeviceOptions;
    readonly id: string | undefined;
    readonly states: MetaOf<"hello">["states"];
    readonly unfinished?: number | undefined;
  },
): Promise<Welcome> {
  const { name, capacity, data, key, task = "train", adapter, timeoutMs = 120_000 } = options;
  await peer.send("hello", {
    meta: {
      name,
      ...(id !== undefined && { id }),
      ...(id !== undefined && key !== undefined && { key: key.publicKey }),
      capacity,
      data: data !== undefined,
      fingerprint: data?.fingerprint ?? adapter?.fingerprint ?? "",
      sharesLoss: data?.shareLoss ?? false,
      ...(states && { states }),
      ...(unfinished !== undefined && { unfinished }),
      task,
      ...(adapter === undefined || task === "train"
        ? {}
        : { learnt: { range: adapterRange(adapter), lora: adapter.lora } }),
    },
  });
  const prove = id === undefined || key === undefined
    ? undefined
    : (nonce: string) => proveDevice(key, id, nonce);
  const welcome = readWelcome(await receiveWelcome(peer, prove));
  peer.run = welcome.run;
  peer.codecs = findRunCodecs(welcome.settings.codec, options.codecs);
  peer.timeoutMs = timeoutMs;
  return welcome;
}

/** The edge server learns why this device does not take part. */
async function refuse(peer: Peer, error: unknown, signal: AbortSignal | undefined): Promise<void> {
  const reason = error instanceof Error ? error.message : String(error);
  const refuses = error instanceof HandshakeError || error instanceof ModelFileError ||
    error instanceof RunStateError;
  const told = refuses ? peer.send("refuse", { meta: { reason } }).catch(() => {}) : undefined;
  const waits = peer.isSilent || signal?.aborted ? { signal: AbortSignal.abort() } : {};
  await peer.close(plainText(reason, 100), waits);
  await told;
}

/** The state that the run goes on from; `null` in a new run. */
async function stateOf(
  welcome: Welcome,
  options: UserDeviceOptions,
): Promise<RunState | null> {
  const { start, settings, range, trained } = welcome;
  const { resume, data } = options;
  if (trained !== null) return await stateBefore(welcome, trained, options);
  if (resume === undefined) {
    if (start === 0) return null;
    throw new HandshakeError(
      `Cannot join as a run without states must start at step 0: current value is ${start}`,
    );
  }
  const state = await resume.load(start);
  requireSameRun(state, { settings, range, ...(data && { fingerprint: data.fingerprint }) });
  options.onResume?.(state);
  return state;
}

/** The newest state of a device that was away and has been started anew; `null` if it saved none of this run. */
async function stateBefore(
  { run, settings, range }: Welcome,
  trained: number,
  options: UserDeviceOptions,
): Promise<RunState | null> {
  const source = options.resume ?? await options.savedStates?.() ?? null;
  const step = source?.run === run ? source.steps.findLast((step) => step <= trained) : undefined;
  if (source === null || step === undefined) return null;
  const state = await source.load(step);
  requireSameRun(state, { settings, range });
  options.onResume?.(state);
  return state;
}

/** Checks that the run is for what this device joined for, with the heads that it has learnt. */
function requireOwnRun(
  { settings, range, turns }: Welcome,
  { task = "train", adapter, data }: UserDeviceOptions,
): void {
  if (turns !== null && data?.turn === undefined) {
    throw new HandshakeError(
      "Cannot take part as several people's data takes turns in this run: this data side has no `turn`",
    );
  }
  if (settings.task !== task) {
    throw new HandshakeError(
      `Cannot take part as the run must be for what this device joined for, "${task}": it is for "${settings.task}"`,
    );
  }
  if (adapter === undefined || task === "train") return;
  const learnt = adapterRange(adapter);
  if (range?.first === learnt.first && range.count === learnt.count) return;
  throw new HandshakeError(
    `Cannot take part as this device must have the heads that it learnt, ${
      JSON.stringify(learnt)
    }: the run gave it ${JSON.stringify(range)}`,
  );
}

/** The device's head modules, in `made` from the moment they exist; `null` for a device without heads. */
function makeModules(
  { settings, model, range, repeats }: Welcome,
  state: RunState | null,
  { options, made }: { readonly options: UserDeviceOptions; readonly made: HeadModules[] },
): HeadModules | null {
  if (range === null) return null;
  const { lora, optimizer, seed, steps, prunedFade } = settings;
  const modules = new HeadModules(options.engine, {
    lora,
    optimizer,
    ...model,
    range,
    seed,
    steps,
    prunedFade,
    keepsCopy: repeats,
  });
  made.push(modules);
  if (options.adapter !== undefined) loadIntoModules(options.adapter, modules);
  options.prepare?.(modules);
  if (state?.heads) modules.restore(state.heads.state);
  return modules;
}

/** Saves what the device needs to go on after a step, each step once. */
function saveOnce(
  { id, welcome, modules }: {
    readonly id: string | undefined;
    readonly welcome: Welcome;
    readonly modules: HeadModules | null;
  },
  saver: BackgroundSaver,
  options: UserDeviceOptions,
): (step: number) => Promise<void> {
  const { name, capacity, data } = options;
  const { run, settings, range } = welcome;
  let saved: number | null = null;
  return async (step) => {
    if (saved === step || options.onState === undefined || settings.task !== "train") return;
    saved = step;
    const read = async () => {
      const heads = modules === null ? null : await saveHeads(modules);
      if (heads !== null) requireFiniteHeads(step, heads.state);
      return heads;
    };
    await saver.save(read, (heads) =>
      options.onState!({
        run,
        step,
        settings,
        fingerprint: data?.fingerprint ?? "",
        heads,
        pruning: null,
        devices: [{ name, ...(id !== undefined && { id }), capacity, range }],
        data: null,
      }));
  };
}

/** The id that a device joins with: a state is of one device only. */
async function ownId({ name, id, resume }: UserDeviceOptions): Promise<string | undefined> {
  if (resume === undefined) return id;
  const [saved] = (await resume.load(resume.steps.at(-1)!)).devices ?? [];
  const own = { name, id: id ?? saved?.id };
  if (saved === undefined || isSame(saved, own)) return own.id;
  throw new RunStateError(
    `Cannot go on with run "${resume.run}" as the state must be of this device, ${textOf(own)}: it is of ${
      textOf(saved)
    }`,
  );
}
