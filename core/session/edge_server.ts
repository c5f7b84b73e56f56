/**
 * The edge server: holds the frozen base model, lets devices join, and runs the steps.
 *
 * @module
 */

import { shapeForDevices } from "../contracts/model_shape.ts";
import type { RunState, SavedDevice } from "./run_state.ts";
import { asOwnerAlone, mayAdopt } from "./_late.ts";
import { commonState, missedOf, trainedOf } from "./_common_state.ts";
import { BackgroundSaver, type SavingTimes } from "../train/saving.ts";
import { CachedLayers } from "../generation/cached_layers.ts";
import type { EmbeddedBatch } from "../contracts/ports.ts";
import { sampleSettings } from "../pruning/predictor/samples.ts";
import {
  DEVICE_STATISTICS,
  type DeviceStatistic,
  type Pruner,
  type PrunerContext,
} from "../contracts/pruner.ts";
import { type SavingPort, Trainer } from "../train/trainer.ts";
import type { MetaOf } from "../protocol/messages.ts";
import type { Peer } from "../protocol/peer.ts";
import { splitShape } from "../protocol/pass.ts";
import { PruningSession } from "../pruning/pruning_session.ts";
import {
  type HeadAssignment,
  newAssignment,
  ownAssignment,
  requireOwnHeads,
  savedAssignment,
} from "./_head_assignment.ts";
import { decodingPass, MAX_CACHE_BYTES } from "./_decoding_pass.ts";
import { DataOwners, type DataOwnersOptions } from "./data_owners.ts";
import { MOST_OWNERS } from "./data_sharing.ts";
import type { DataSource, DecodingRequest } from "./data_source.ts";
import { settingsWith } from "../train/run_settings.ts";
import { RemoteData } from "./remote_data.ts";
import { RemoteHeads } from "./remote_heads.ts";
import { Presence } from "./_presence.ts";
import { tellPaused } from "./_tell_paused.ts";
import { awayHeads, type HeadMember } from "./head_members.ts";
import { checkEdgeServer } from "./_edge_checks.ts";
import { type LossPolicy, StepAttempts } from "./step_attempts.ts";
import { StepMeter } from "./_step_meter.ts";
import { stepRecord } from "./step_record.ts";
import { type RunMember, savedDevice } from "./run_member.ts";
import { RunServer } from "./run_server.ts";
import type { EdgeServerOptions } from "./edge_server_options.ts";
import { WaitTimer } from "./wait_timer.ts";

/**
 * One run of an edge server. Devices join it over channels of any transport; the steps begin once as many have joined
 * as it waits for.
 *
 * @category Training
 *
 * @example
 * ```ts
 * import {
 *   defaultRunSettings,
 *   EdgeServer,
 *   Engine,
 *   greedyPruner,
 *   inProcessTransport,
 *   loadEmbeddingAndHead,
 *   loadLayers,
 *   loadTrainingData,
 *   openModel,
 *   runUserDevice,
 *   shuffledBatches,
 * } from "@edgetuner/edgetuner";
 *
 * const path = "cli/assets/tiny_gpt2";
 * const { model, tokenizer } = await openModel(path);
 * const { fingerprint } = model;
 * using engine = await Engine.create();
 * using base = loadLayers(engine, model);
 * const settings = defaultRunSettings(2);
 * const server = new EdgeServer({ engine, base, fingerprint, settings, pruner: greedyPruner(), devices: 1 });
 * server.subscribe((event) => {
 *   if (event.type === "step") console.log(event.record.step, event.record.kept);
 * });
 *
 * // A device of the same process; others come by webSocketListener or httpListener.
 * const { transport, listener } = inProcessTransport();
 * const set = await loadTrainingData("cli/assets/restaurant/valid.txt", { model: path, tokenizer, length: 24 });
 * const batches = shuffledBatches(set, { batch: 2, seed: 1 });
 * using ends = loadEmbeddingAndHead(engine, model);
 * const next = (step: number) => step < 2 ? { batch: batches.next(), mode: "train" as const } : null;
 * const data = { ends, loss: { labelSmoothing: 0.1 }, fingerprint, next };
 * const device = runUserDevice({ engine, channel: await transport.connect(), name: "laptop", capacity: 1, data });
 * void server.join((await listener.accept())!);
 * await server.start();
 * const { error, modules } = await device;
 * modules?.[Symbol.dispose]();
 * await listener[Symbol.asyncDispose]();
 * if (error !== null) throw error;
 * ```
 */
export class EdgeServer extends RunServer {
  readonly #options: EdgeServerOptions;
  readonly #saver = new BackgroundSaver();
  /** Training steps before the current one. */
  #step = 0;
  #presence: Presence | null = null;
  /** Several people's data. */
  #owners: DataOwners | null = null;
  /** Heads that were away in the last validation. */
  readonly #validatedWithout = new Set<number>();

  /**
   * Prepares a run; devices may `join` at once, the steps begin with `start`.
   *
   * @param options See `EdgeServerOptions`.
   * @throws {RangeError} If settings are out of range.
   * @throws {TypeError} If projections from the base model are asked for and not given.
   * @throws {HandshakeError} If the settings name a codec that is not known.
   * @throws {PluginError} If the pruner is not one, see `checkPruner`.
   */
  constructor(options: EdgeServerOptions) {
    super({ ...options, settings: settingsWith(options.settings, options.pruner) }, {
      system: "split",
      maxDevices: options.base.shape.heads,
    });
    this.#options = options;
    checkEdgeServer(options, this.settings);
  }

  /** As of every server of a run; nothing is being written any more when it is over. */
  override async start(signal?: AbortSignal): Promise<void> {
    try {
      await super.start(signal);
    } finally {
      await this.#saver.settled().catch(() => {});
    }
  }

  /** Several, where their data is shared. */
  protected override get mostDataDevices(): number {
    return this.#options.sharing === undefined ? 1 : MOST_OWNERS;
  }

  /** As of every server of a run. */
  protected override get neededDataDevices(): number {
    return this.#options.sharing?.devices ?? 1;
  }

  /** What saving took on this server. */
  get saving(): SavingTimes {
    return this.#saver.times;
  }

  /** The newest state whose step all parties have; `null` in a new run. */
  async #state(): Promise<RunState | null> {
    const { resume, fingerprint, pruner: { name: pruner } } = this.#options;
    if (resume === undefined) return null;
    // Where an owner without heads is in its data is known here.
    const parties = this.members.filter((m) => !this.#isOwnerAlone(m));
    return await commonState({
      run: this.run,
      resume,
      parties,
      settings: this.settings,
      fingerprint,
      pruner,
    });
  }

  /** True for an owner of data without heads, among several. */
  #isOwnerAlone({ device: { data, capacity } }: RunMember): boolean {
    return this.#options.sharing !== undefined && data && capacity === 0;
  }

  /** In generation a device brings heads of its own. */
  protected override checkHello(hello: MetaOf<"hello">): void {
    const { task, lora } = this.settings;
    if (task !== "generate" || hello.capacity === 0) return;
    requireOwnHeads(hello, { heads: this.#options.base.shape.heads, lora, headMembers: this.headMembers });
  }

  /** Which device has which heads. */
  #assignment(resumed: RunState | null): HeadAssignment {
    if (resumed !== null) return savedAssignment(this.run, resumed, this.headMembers);
    const { heads } = this.#options.base.shape;
    return this.settings.task === "train"
      ? newAssignment(heads, this.headMembers)
      : ownAssignment(heads, this.headMembers);
  }

  /** Tells every device its part in the run. */
  async #welcome({ members, ranges }: HeadAssignment, resumed: RunState | null): Promise<void> {
    for (const member of this.members) {
      const index = members.indexOf(member);
      member.device.range = index < 0 ? null : ranges[index]!;
      await this.#welcomeAt(member, resumed?.step ?? 0, resumed);
    }
  }

  /** Welcomes a device. One that was away goes on from what it has, and so does an owner without heads. */
  async #welcomeAt(member: RunMember, start: number, resumed: RunState | null = null): Promise<void> {
    const away = resumed === null ? undefined : trainedOf(resumed, member);
    const trained = this.#isOwnerAlone(member) && start > 0 ? start : away;
    const missed = resumed === null ? 0 : missedOf(resumed, member);
    const returns = { ...(trained !== undefined && { trained }), ...(missed > 0 && { missed }) };
    await member.peer.send("welcome", { meta: { ...this.#welcomeOf(member), start, ...returns } });
    this.#begin(member.peer);
  }

  #welcomeOf({ device: { range, data } }: RunMember): MetaOf<"welcome"> {
    const { base, pruner, sharing } = this.#options;
    return {
      run: this.run,
      settings: this.settings,
      model: shapeForDevices(base.shape),
      range,
      statistics: statisticsOf(pruner),
      repeats: this.#policy !== "stop" && this.settings.task === "train",
      ...(sharing !== undefined && data ? { turns: sharing.mix === true ? "parts" : "steps" } : {}),
    };
  }

  #begin(peer: Peer): void {
    peer.run = this.run;
    peer.codecs = this.codecs;
  }

  /** The ports of the steps behind the network. */
  #remotePorts({ members, ranges }: HeadAssignment, resumed: RunState | null) {
    const { engine, base, pruner, stepDeadlineMs, projections, outlierFactor } = this.#options;
    const { lossWaitMs = 60_000 } = this.#options;
    const model = shapeForDevices(base.shape);
    const statistics = statisticsOf(pruner);
    const { seed, overlap, clipNorm, lora, accumulate, microBatches } = this.settings;
    const waits = new WaitTimer(engine);
    const [dataMember] = this.members.filter((m) => m.device.data) as [RunMember];
    const run = (sharesLoss: boolean) =>
      splitShape(model, this.settings, { statistics: statistics.length, sharesLoss });
    const devices: HeadMember[] = members.map(({ peer }, i) => ({ peer, range: ranges[i]! }));
    const away = () => awayHeads(devices);
    const common = { engine, waits, accumulate, microBatches, clock: this.clock, away };
    const owners = this.#owners = this.#ownersOfData({ ...common, run, resumed });
    const { peer, sharesLoss, device: { name } } = dataMember;
    const single = owners === null ? new RemoteData({ ...common, peer, name, run: run(sharesLoss) }) : null;
    const data: DataSource = owners ?? single!;
    const remote = new RemoteHeads({
      ...{ engine, model, lora, seed, projections, devices },
      ...{ statistics, overlap, clipNorm, waits, stepDeadlineMs, outlierFactor, clock: this.clock },
      measuresLinks: pruner.needs.includes("links"),
      ...(this.#policy === "stop" ? {} : {
        onLost: (device: HeadMember, error: Error) => {
          presence.loseHeads(device, this.#step, error);
          attempts.lose(error);
        },
      }),
    });
    const telling = new Map<RunMember, Promise<void>>();
    const presence = this.#presence = new Presence({
      ...{ owners: [...members], devices, policy: this.#policy, lossWaitMs, clock: this.clock },
      dataMembers: () => owners === null ? [dataMember] : this.members.filter((m) => m.device.data),
      goOnOver: (member) => single?.goOnOver(member.peer) ?? owners?.goOnOver(member),
      headsGoOnOver: (device, unfinished) => remote.goOnOver(device, unfinished),
      welcome: (member) => this.#welcomeOf(member),
      begin: (peer) => this.#begin(peer),
      missed: (member) => resumed === null ? 0 : missedOf(resumed, member),
      emit: (event) => this.emit(event),
      waitForChange: (ms) => {
        // Those that are there wait too.
        tellPaused(this.members.filter((m) => m.device.connected), telling);
        return this.waitForChange(Math.min(ms, this.pauseIntervalMs));
      },
    });
    const attempts = new StepAttempts({
      step: { engine, base, heads: remote, data, microBatches },
      ...{ devices, heads: remote, data },
      admit: (step) => presence.admit(step),
      losesData: (step, error) => presence.losesData(step, error),
      goOn: (step, error) => presence.goOn(step, error),
    });
    return { waits, data, remote, attempts };
  }

  /** Several people's data; `null` where there is one data device. */
  #ownersOfData(
    { resumed, ...common }:
      & Pick<DataOwnersOptions, "engine" | "waits" | "accumulate" | "microBatches" | "run" | "away" | "clock">
      & {
        readonly resumed: RunState | null;
      },
  ): DataOwners | null {
    const { sharing, stepDeadlineMs } = this.#options;
    if (sharing === undefined) return null;
    const { steps, seed, overlap } = this.settings;
    return new DataOwners({
      ...{ ...common, sharing, steps, seed, overlap, saved: resumed?.sharing, stepDeadlineMs },
      tellEveryMs: this.pauseIntervalMs,
      members: () => this.members.filter((m) => m.device.data),
      isAway: (member) => this.#presence?.isAway(member) ?? false,
      welcome: (member, step) => this.#welcomeAt(member, step),
      waitForAway: (step) => this.#presence!.waitForData(step),
      onValidation: (event) => this.emit({ type: "validation", ...event }),
    });
  }

  get #policy(): LossPolicy {
    return this.#options.onLoss ?? "prune";
  }

  /** Whoever is away may come back; the next step waits for the data. */
  protected override mayMiss(): boolean {
    return this.#policy !== "stop";
  }

  /** Heads go to whoever joins late, where somebody has given them up or stays away. */
  protected override orphanFor(hello: MetaOf<"hello">): RunMember | null {
    const { adoptAfter, sharing, fingerprint } = this.#options;
    const owners = this.members.filter((m) => m.device.data).length;
    const run = { fingerprint, ownersLeft: sharing === undefined ? 0 : MOST_OWNERS - owners };
    if (adoptAfter === undefined || !mayAdopt(hello, run)) return null;
    return this.#presence?.orphan(this.#step, adoptAfter) ?? null;
  }

  /** See `RunServer`. */
  protected override get adoptAfter(): number | undefined {
    return this.#options.adoptAfter;
  }

  /** See `RunServer`. */
  protected override heard(hello: MetaOf<"hello">, saved: readonly SavedDevice[]): MetaOf<"hello"> {
    if (this.#options.sharing === undefined) return hello;
    const isFree = this.#presence === null ? null : this.orphanFor(hello) !== null;
    return asOwnerAlone(hello, { members: this.members, saved, isFree });
  }

  /** As of every server of a run: the steps ask the new device from now on. */
  protected override replaced(orphan: RunMember, member: RunMember): void {
    this.#presence?.replace(orphan, member);
  }

  /** A device comes back as what it was. */
  protected override mayReturn(member: RunMember, hello: MetaOf<"hello">): boolean {
    const { hello: before } = member;
    const isSame = (["capacity", "data", "fingerprint", "sharesLoss"] as const).every((k) =>
      before[k] === hello[k]
    );
    return this.#policy !== "stop" && isSame && this.#presence?.isExcluded(member) !== true &&
      [undefined, this.run].includes(hello.states?.run);
  }

  /** Runs the steps, with the pruner's decision in each. */
  protected override async runAll(): Promise<void> {
    const { engine, base, pruner, timeoutMs, baseNorm } = this.#options;
    const { layers, heads } = base.shape;
    const resumed = await this.#state();
    const assignment = this.#assignment(resumed);
    this.setRunning();
    await this.#welcome(assignment, resumed);
    const ports = this.#remotePorts(assignment, resumed);
    const { data, waits } = ports;
    using _owners = this.#owners;
    using remote = ports.remote;
    using cached = new CachedLayers({ engine, layers: base, heads: remote });
    const meter = new StepMeter(() => this.counters(engine, waits));
    const context: PrunerContext = {
      layers,
      heads,
      headsPerDevice: assignment.ranges.map((r) => r.count),
      capacities: assignment.members.map((m) => m.device.capacity),
      seed: this.settings.seed,
      settings: sampleSettings(this.settings),
    };
    const pruning = new PruningSession({
      ...{ pruner, context, baseNorm },
      links: () => remote.links,
      probe: (step, batch) => meter.probe(() => ports.attempts.probe(step, batch)),
      resumed: resumed?.pruning,
      timeoutMs,
      signal: this.signal,
    });
    let best = false;
    const trainer = new Trainer({
      waitWhilePaused: () => this.waitWhilePaused(),
      next: async (step) => {
        this.#step = step;
        const batch = await this.#nextBatch(step, { ...ports, cached, meter });
        best = batch === null && data.best;
        return batch;
      },
      step: (step, batch, { mask }) => ports.attempts.run(step, batch, mask),
      pruning,
      saving: this.#saving(pruning, (isSaved) => remote.saves = data.saves = isSaved),
    }, {
      start: resumed?.step,
      maskLength: layers * heads,
      now: this.now,
      onEvent: (event) => {
        if (event.type === "step") {
          if (event.mode === "train") this.#validatedWithout.clear();
          else for (const head of event.away ?? []) this.#validatedWithout.add(head);
          const [owners, { embeddingRows, dataAnswers }, { answers }] = [this.#owners?.names, data, remote];
          const seen = { owners, embeddingRows, answers, dataAnswers, now: this.now() };
          this.emit({ type: "step", record: stepRecord(event, { meter, shape: base.shape, ...seen }) });
        }
        // Before the last save: devices save what they have even if this server cannot.
        if (event.type === "finished") {
          this.ending = { step: event.step, best, ...this.#presence?.absences(event.step) };
        }
      },
    });
    await trainer.run();
  }

  /** Where this server's own state goes; devices hear of each save. */
  #saving(pruning: PruningSession, announce: (isSaved: boolean) => void): SavingPort<RunState> {
    const { onState, saveEveryMs: ms } = this.#options;
    return {
      every: { steps: this.settings.saveEvery, ms: onState && ms },
      saver: this.#saver,
      announce,
      read: (step) => ({
        run: this.run,
        step,
        settings: this.settings,
        fingerprint: this.#options.fingerprint,
        heads: null,
        pruning: pruning.saved,
        devices: this.members.map((m) => ({ ...savedDevice(m), ...this.#presence?.savedOf(m) })),
        data: null,
        ...(this.removed.length > 0 && { removed: this.removed }),
        ...(this.#owners === null ? {} : { sharing: this.#owners.savedAt(step) }),
      }),
      write: onState === undefined || this.settings.task !== "train"
        ? undefined
        : (state) => onState.call(this.#options, state),
    };
  }

  /** The next batch of the data device; what it asks for in generation is answered meanwhile. `null` ends the run. */
  async #nextBatch(
    step: number,
    ports: {
      readonly cached: CachedLayers;
      readonly data: DataSource;
      readonly waits: WaitTimer;
      readonly remote: RemoteHeads;
      readonly meter: StepMeter;
      readonly attempts: StepAttempts;
    },
  ): Promise<EmbeddedBatch | null> {
    const { cached, data, waits, remote, meter, attempts } = ports;
    const { engine, maxCacheBytes = MAX_CACHE_BYTES } = this.#options;
    for (;;) {
      meter.begin(this.now());
      const batch = await this.#request(step, data);
      if (batch === null) return null;
      if ("parents" in batch) {
        const record = await decodingPass(batch, {
          ...{ engine, cached, data, maxCacheBytes, step, now: this.now, attempts },
          counters: () => this.counters(engine, waits),
          bytesBefore: meter.bytesBefore,
        });
        this.emit({ type: "decoding", record });
        if (!await this.waitWhilePaused()) return null;
        continue;
      }
      cached.forget();
      if (batch.mode === "train" && this.settings.task !== "train") {
        batch.embedding.dispose();
        data.refuse(`a run for generation has no training steps: step ${step} came`);
      }
      remote.best = data.best ? [...this.#validatedWithout] : null;
      return batch;
    }
  }

  /** What the data device asks for next, also where it is lost and comes back meanwhile. */
  async #request(step: number, data: DataSource): Promise<EmbeddedBatch | DecodingRequest | null> {
    for (;;) {
      try {
        return await data.request(step);
      } catch (error) {
        // Who generates cannot begin again.
        if (this.settings.task !== "train" || this.#presence?.losesData(step, error) !== true) throw error;
        await this.#presence.goOn(step, error as Error);
      }
    }
  }
}

/** The statistics that a pruner needs from devices. */
function statisticsOf({ needs }: Pruner): DeviceStatistic[] {
  return DEVICE_STATISTICS.filter((name) => needs.includes(name));
}
