/**
 * An edge server that generates until it is stopped: the devices with heads stay, and those that ask come and go.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import { ChannelClosedError, HandshakeError } from "../contracts/errors.ts";
import { shapeForDevices } from "../contracts/model_shape.ts";
import { CachedLayers } from "../generation/cached_layers.ts";
import type { BaseLayers } from "../model/base.ts";
import type { MetaOf } from "../protocol/messages.ts";
import { requireProjections } from "../lora/base_projections.ts";
import type { HeadProjections } from "../lora/projections.ts";
import { splitShape } from "../protocol/pass.ts";
import { decodingPass, MAX_CACHE_BYTES } from "./_decoding_pass.ts";
import { endAll } from "./_end_all.ts";
import { type HeadAssignment, ownAssignment, requireOwnHeads } from "./_head_assignment.ts";
import type { DecodingRequest } from "./data_source.ts";
import { RemoteData } from "./remote_data.ts";
import { RemoteHeads } from "./remote_heads.ts";
import type { HeadMember } from "./head_members.ts";
import { Presence } from "./_presence.ts";
import type { RunMember } from "./run_member.ts";
import { RunServer } from "./run_server.ts";
import type { RunServerOptions } from "./run_server_options.ts";
import { Attempts, type LossPolicy } from "./step_attempts.ts";
import { tellPaused } from "./_tell_paused.ts";
import { checkWait } from "./wait_limits.ts";
import { WaitTimer } from "./wait_timer.ts";

/** Data devices that may be there at once, unless someone says another number. */
const MOST_DATA_DEVICES = 8;
/** Longest time without a request, unless someone says another one: a day. */
const IDLE_MS = 86_400_000;

/** Options of a `GenerationServer`; `settings.task` must be "generate". */
export interface GenerationServerOptions extends Omit<RunServerOptions, "resume"> {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** The base model's layers. */
  readonly base: BaseLayers;
  /** Frozen projections from the base model, where the LoRA settings ask for them: see `baseProjections`. */
  readonly projections?: HeadProjections | undefined;
  /** Most bytes of keys and values, those of all data devices together; one that asks for more is closed. @default {1073741824} */
  readonly maxCacheBytes?: number | undefined;
  /** Most data devices at once, at least 2. @default {8} */
  readonly maxDataDevices?: number | undefined;
  /** Longest time in milliseconds that a data device may ask nothing; then it is closed. @default {86400000} */
  readonly idleTimeoutMs?: number | undefined;
  /** What to do where a device with heads is lost: go on without them, wait for it first, or stop. @default {"prune"} */
  readonly onLoss?: LossPolicy | undefined;
  /** Longest wait in milliseconds for such a device where nobody else has heads, or the policy is to wait. @default {60000} */
  readonly lossWaitMs?: number | undefined;
}

/** A data device that has been welcomed. */
interface Asker {
  readonly member: RunMember;
  readonly data: RemoteData;
  /** Keys and values of its tokens. */
  readonly cached: CachedLayers;
  /** What it asks; `null` while it asks nothing, and in line where it has nothing more to ask or is gone. */
  request: DecodingRequest | null;
  /** Bytes on the wire when it was answered last. */
  bytesBefore: number;
}

/**
 * A run for generation that stays until it is stopped. It begins once all devices with heads have joined. Data devices
 * join and leave while it goes on, several at once: their requests take turns, a pass at a time.
 *
 * @category Generation
 *
 * @example
 * ```ts
 * import {
 *   type Adapter,
 *   type BaseLayers,
 *   defaultRunSettings,
 *   GenerationServer,
 *   type Listener,
 * } from "@edgetuner/core";
 * import type { Engine } from "@edgetuner/kernels";
 *
 * async function serve(engine: Engine, base: BaseLayers, model: { fingerprint: string }, adapter: Adapter, listener: Listener) {
 *   const settings = { ...defaultRunSettings(1), lora: adapter.lora, task: "generate" as const };
 *   const server = new GenerationServer({ engine, base, fingerprint: model.fingerprint, settings, devices: 1 });
 *   const running = server.start();
 *   for (let channel = await listener.accept(); channel !== null; channel = await listener.accept()) {
 *     void server.join(channel);
 *   }
 *   server.stop();
 *   await running;
 * }
 * void serve;
 * ```
 */
export class GenerationServer extends RunServer {
  readonly #options: GenerationServerOptions;
  readonly #mostDataDevices: number;
  readonly #idleTimeoutMs: number;
  readonly #askers = new Map<RunMember, Asker>();
  /** Data devices that have been welcomed, whether they are still there or not. */
  readonly #known = new WeakSet<RunMember>();
  /** Those whose request has come, in the order in which it did. */
  readonly #asking: Asker[] = [];
  readonly #telling = new Map<RunMember, Promise<void>>();
  #presence: Presence | null = null;
  #isOver = false;
  #wakeUp: PromiseWithResolvers<void> = Promise.withResolvers();

  /**
   * Prepares a run; devices may `join` at once.
   *
   * @param options See `GenerationServerOptions`.
   * @throws {RangeError} If settings or limits are out of range.
   * @throws {TypeError} If projections from the base model are asked for and not given.
   * @throws {HandshakeError} If the settings name a codec that is not known.
   */
  constructor(options: GenerationServerOptions) {
    super(options, { system: "split", maxDevices: options.base.shape.heads });
    const { maxCacheBytes = 0, maxDataDevices = MOST_DATA_DEVICES } = options;
    const refuse = (rule: string, value: unknown): never => {
      throw new RangeError(`Cannot start the edge server as ${rule}: current value is ${value}`);
    };
    if (!(maxCacheBytes >= 0)) refuse("maxCacheBytes must be 0 or more", maxCacheBytes);
    if (!Number.isInteger(maxDataDevices) || maxDataDevices < 2) {
      refuse("maxDataDevices must be an integer of at least 2", maxDataDevices);
    }
    const { task } = this.settings;
    if (task !== "generate") refuse('the task must be "generate"', task);
    requireProjections(this.settings.lora, options.base.shape, options.projections);
    this.#options = options;
    this.#mostDataDevices = maxDataDevices;
    this.#idleTimeoutMs = checkWait("idleTimeoutMs", options.idleTimeoutMs ?? IDLE_MS);
  }

  /** Several. */
  protected override get mostDataDevices(): number {
    return this.#mostDataDevices;
  }

  /** It begins without any. */
  protected override get neededDataDevices(): number {
    return 0;
  }

  /** A device brings heads of its own, or data. */
  protected override checkHello(hello: MetaOf<"hello">): void {
    if (hello.capacity === 0) return;
    if (hello.data) {
      throw new HandshakeError(
        `Cannot admit "${hello.name}" as a device must have heads or data in a run that stays: it has both`,
      );
    }
    const { lora } = this.settings;
    requireOwnHeads(hello, { heads: this.#options.base.shape.heads, lora, headMembers: this.headMembers });
  }

  /** Answers data devices until someone ends the run. */
  protected override async runAll(): Promise<void> {
    const { engine, base } = this.#options;
    const assignment = ownAssignment(base.shape.heads, this.headMembers);
    this.setRunning();
    for (const [i, member] of assignment.members.entries()) {
      await this.#welcome(member, assignment.ranges[i]!);
    }
    const waits = new WaitTimer(engine);
    const { remote, attempts } = this.#ports(assignment, waits);
    using _remote = remote;
    const ticking = setInterval(() => this.#tellWaiting(assignment), this.pauseIntervalMs);
    const ended = aborted(this.signal);
    ended.catch(() => {}); // whoever waits hears it
    try {
      while (await this.waitWhilePaused()) {
        const changed = this.changed;
        this.#wakeUp = Promise.withResolvers();
        if (!this.#isPatient) requireAll(assignment);
        await attempts.decode(0, () => this.#welcomeNew(remote));
        const asker = this.#asking.shift();
        if (asker !== undefined) await this.#answer(asker, waits, attempts);
        else await Promise.race([changed, this.#wakeUp.promise, ended]);
      }
      // To be stopped is how it ends.
      this.ending = { step: 0, best: false };
    } finally {
      clearInterval(ticking);
      this.#isOver = true;
      for (const { request } of this.#asking) request?.embedding.dispose();
      for (const { cached } of this.#askers.values()) cached[Symbol.dispose]();
    }
  }

  /** The devices with heads, and what becomes of a pass where one is lost. */
  #ports({ members, ranges }: HeadAssignment, waits: WaitTimer) {
    const { engine, base, projections, onLoss: policy = "prune", lossWaitMs = 60_000 } = this.#options;
    const { overlap, lora, seed } = this.settings;
    const model = shapeForDevices(base.shape);
    const devices: HeadMember[] = members.map(({ peer }, i) => ({ peer, range: ranges[i]! }));
    const remote = new RemoteHeads({
      ...{ engine, model, lora, seed, projections, overlap, waits, statistics: [], devices },
      ...(policy === "stop" ? {} : {
        onLost: (device: HeadMember, error: Error) => {
          presence.loseHeads(device, 0, error);
          attempts.lose(error);
        },
      }),
    });
    const presence = this.#presence = new Presence({
      ...{ owners: [...members], devices, policy, lossWaitMs, clock: this.clock },
      dataMembers: () => [],
      needsData: false,
      goOnOver: () => {},
      headsGoOnOver: (device, unfinished) => remote.goOnOver(device, unfinished),
      welcome: ({ device: { range } }) => this.#welcomeOf(range),
      begin: (peer) => this.#begin(peer),
      emit: (event) => this.emit(event),
      waitForChange: (ms) => this.waitForChange(Math.min(ms, this.pauseIntervalMs)),
    });
    const attempts = new Attempts({
      ...{ devices, heads: remote },
      admit: (step) => presence.admit(step),
      goOn: (step, error) => presence.goOn(step, error),
    });
    return { remote, attempts };
  }

  /** A device with heads comes back as what it was. */
  protected override mayReturn(member: RunMember, hello: MetaOf<"hello">): boolean {
    const { hello: before } = member;
    const isSame = before.capacity === hello.capacity && hello.capacity > 0 && !hello.data &&
      JSON.stringify(before.learnt) === JSON.stringify(hello.learnt);
    return this.#isPatient && isSame && this.#presence?.isExcluded(member) !== true;
  }

  /** Whoever has learnt the same heads takes the place of a device that is away, such as one that was started anew. */
  protected override orphanFor(hello: MetaOf<"hello">): RunMember | null {
    if (!this.#isPatient || hello.capacity === 0 || hello.data || hello.learnt === undefined) return null;
    const learnt = JSON.stringify(hello.learnt);
    return this.headMembers.find((member) =>
      this.#presence?.isAway(member) === true && member.returning === null &&
      JSON.stringify(member.hello.learnt) === learnt
    ) ?? null;
  }

  /** As of every server of a run: passes ask the new device from now on. */
  protected override replaced(orphan: RunMember, member: RunMember): void {
    this.#presence?.replace(orphan, member);
  }

  /** Whoever is away is missed. */
  protected override mayMiss(): boolean {
    return this.#isPatient;
  }

  get #isPatient(): boolean {
    return this.#options.onLoss !== "stop";
  }

  /** Nobody who waits is to think that nobody is there: devices with heads, and data devices in line. */
  #tellWaiting({ members }: HeadAssignment): void {
    tellPaused([...members, ...this.#asking.map(({ member }) => member)], this.#telling);
  }

  /** Data devices that have joined since. */
  async #welcomeNew(remote: RemoteHeads): Promise<void> {
    const { engine, base } = this.#options;
    for (const member of this.members.filter((m) => m.device.data && !this.#known.has(m))) {
      this.#known.add(member);
      const run = splitShape(shapeForDevices(base.shape), this.settings, { sharesLoss: false });
      const asker: Asker = {
        member,
        // Its silence is no wait of the run's.
        data: new RemoteData({ engine, peer: member.peer, run, waits: new WaitTimer(engine) }),
        cached: new CachedLayers({ engine, layers: base, heads: remote }),
        ...{ request: null, bytesBefore: 0 },
      };
      this.#askers.set(member, asker);
      try {
        await this.#welcome(member, null);
        this.#await(asker);
      } catch {
        this.#forgetAsker(asker);
      }
    }
  }

  async #welcome(member: RunMember, range: RunMember["device"]["range"]): Promise<void> {
    member.device.range = range;
    await member.peer.send("welcome", { meta: { ...this.#welcomeOf(range), start: 0 } });
    this.#begin(member.peer);
  }

  #welcomeOf(range: RunMember["device"]["range"]): MetaOf<"welcome"> {
    const { run, settings } = this;
    return { run, settings, model: shapeForDevices(this.#options.base.shape), range, statistics: [] };
  }

  #begin(peer: RunMember["peer"]): void {
    peer.run = this.run;
    peer.codecs = this.codecs;
  }

  /** Waits for what a data device asks next, while others are answered. */
  #await(asker: Asker): void {
    asker.request = null;
    asker.bytesBefore = this.ledger.totalBytes;
    asker.data.request(0, this.#idleTimeoutMs).then((request) => {
      if (request === null) return;
      if (this.#isOver) return request.embedding.dispose();
      if ("parents" in request) {
        asker.request = request;
        return;
      }
      request.embedding.dispose();
      asker.data.refuse("a run for generation has no steps: a batch came");
    }).catch(() => {
      // It is gone, or broke the protocol and was closed.
      void asker.member.peer.close().catch(() => {});
    }).finally(() => {
      this.#asking.push(asker);
      this.#wakeUp.resolve();
    });
  }

  /** One pass of a data device, or its goodbye. */
  async #answer(asker: Asker, waits: WaitTimer, attempts: Attempts): Promise<void> {
    const { engine, maxCacheBytes = MAX_CACHE_BYTES } = this.#options;
    const { member, data, cached, request, bytesBefore } = asker;
    if (request === null || !member.device.connected) {
      request?.embedding.dispose();
      return this.#forgetAsker(asker);
    }
    const others = [...this.#askers.values()].filter((other) => other !== asker);
    const taken = others.reduce((sum, { cached: c }) => sum + c.bytesFor(c.rows, c.length), 0);
    try {
      const record = await decodingPass(request, {
        ...{ engine, cached, data, step: 0, now: this.now, bytesBefore, attempts },
        maxCacheBytes: Math.max(0, maxCacheBytes - taken),
        counters: () => this.counters(engine, waits),
      });
      this.emit({ type: "decoding", record });
      this.#await(asker);
    } catch (error) {
      // What the data device did wrong, or that it is gone, ends its part alone.
      const { failure, isSilent } = member.peer;
      if (failure === null && !isSilent) throw error;
      this.#forgetAsker(asker);
    }
  }

  /** A data device has nothing more to ask. */
  #forgetAsker({ member, cached }: Asker): void {
    cached[Symbol.dispose]();
    this.#askers.delete(member);
    const ending = { step: 0, best: false };
    void endAll([member], {
      reason: "",
      ending,
      diverged: null,
      stopped: false,
      aborted: false,
      failed: false,
    });
  }
}

/** The run cannot do without its devices with heads. */
function requireAll({ members }: HeadAssignment): void {
  const lost = members.find(({ device }) => !device.connected);
  if (lost === undefined) return;
  throw new ChannelClosedError(`Cannot go on as ${lost.peer.name} must stay in the run: it left`);
}

/** Rejects once a signal aborts. */
function aborted(signal: AbortSignal): Promise<never> {
  const { promise, reject } = Promise.withResolvers<never>();
  if (signal.aborted) reject(signal.reason);
  else signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  return promise;
}
