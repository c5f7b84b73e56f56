/**
 * The device of a tab: looks at a run, takes part, comes back, and keeps what its heads have learnt.
 *
 * @module
 */

import {
  adapterFiles,
  adapterOf,
  type Channel,
  ChannelClosedError,
  forgetRunStates,
  HandshakeError,
  type HeadModules,
  runHeadsDevice,
  storedRunStates,
  storeRunState,
  type UserDeviceOptions,
  type UserDeviceResult,
  warmUpHeads,
  type Welcome,
} from "@edgetuner/core/device";
import { Engine } from "@edgetuner/kernels";
import type { RunAbout } from "@edgetuner/transport";
import { webSocketTransport } from "@edgetuner/transport/web_socket";
import { forecastOf } from "./forecast.ts";
import type { ChosenData, FromWorker, KeptHeads, Phase, RunPlace, ToWorker } from "./messages.ts";
import type { openOwnModel, OwnModel } from "./model_data.ts";
import type { openOwnData, OwnData } from "./own_data.ts";
import {
  claimSlot,
  keptHeads,
  lastRun,
  noteRun,
  readJson,
  type Slot,
  type TakingPart,
  writeJson,
} from "./slot.ts";
import { approved, ownRequest, redeem } from "./invitation.ts";
import { CannotTakePart, explainGpu, requireBrowser, requireMemory } from "./usable.ts";

/** Frames of a large model that may be under way. */
const QUEUE_BYTES = 2 ** 28;
/** Longest time in milliseconds for the others to join, and for which this device tries to come back. */
const JOIN_MS = 3_600_000;
const LOST_MS = 3_600_000;
/** Longest time in milliseconds in which the edge server says nothing during a run. */
const QUIET_MS = 120_000;
/** Milliseconds between two questions for the loss. */
const LOSS_MS = 2000;
/** Pause in milliseconds between two attempts to come back. */
const RETRY_MS = 1000;

/** Where the texts of a run are kept. */
const CHOSEN = "chosen-data";

/** Files that are kept of a run. */
export const KEPT = { weights: "heads.safetensors", config: "heads.json", note: "kept.json" } as const;

/** What a tab does when it is told to join. */
type JoinMessage = Extract<ToWorker, { type: "join" }>;

/** What a worker knows that is larger than heads need. */
export interface MoreParts {
  /** Takes part, with data too. */
  runDevice?(options: UserDeviceOptions): Promise<UserDeviceResult>;
  /** Gets embedding and LM head. */
  openModel?: typeof openOwnModel;
  /** Makes batches of texts. */
  openData?: typeof openOwnData;
}

/** What a device with data has of its own. */
interface OwnParts extends Disposable {
  readonly model: OwnModel;
  readonly data: OwnData;
}

/** The device of a tab. */
export class TabDevice {
  readonly #say: (message: FromWorker) => void;
  readonly #more: MoreParts;
  #slot: Promise<Slot> | null = null;
  #engine: Promise<Engine> | null = null;
  #place: RunPlace | null = null;
  #invite: { readonly server: string; readonly invite: string } | null = null;
  #about: RunAbout | null = null;
  /** A look at the run that is under way. */
  #looking: Promise<void> = Promise.resolve();
  #abort = new AbortController();
  #channel: Channel | null = null;
  #isIn = false;
  #askedAt = -Infinity;
  /** Resolves when this device may go on, while it is paused. */
  #pause: PromiseWithResolvers<void> | null = null;
  /** Resolves when an attempt to come back is to be made at once. */
  #poke: PromiseWithResolvers<void> = Promise.withResolvers();

  /**
   * @param say Tells the page.
   * @param more What only the larger worker knows.
   */
  constructor(say: (message: FromWorker) => void, more: MoreParts = {}) {
    this.#say = say;
    this.#more = more;
  }

  /** Does what the page asks. */
  async hear(message: ToWorker): Promise<void> {
    try {
      if (message.type === "look") await (this.#looking = this.#look(message));
      else if (message.type === "ask") await this.#ask(message.name);
      else if (message.type === "join") await this.#join(message);
      else if (message.type === "pause") this.#setPaused(message.paused);
      else if (message.type === "wake") this.#wake();
      else if (message.type === "bye") void this.#channel?.close("the page was closed");
      else if (message.type === "leave") this.#abort.abort(new DOMException("left", "AbortError"));
      else await this.#forget();
    } catch (error) {
      this.#tell(error);
    }
  }

  /** An error, in words for people. */
  #tell(error: unknown): void {
    if (error instanceof CannotTakePart) {
      this.#say({ type: "cannot", why: error.message, help: error.help });
    } else this.#say({ type: "failed", what: (error as Error).message ?? String(error) });
  }

  async #look({ place: given, gpu }: Extract<ToWorker, { type: "look" }>): Promise<void> {
    requireBrowser();
    const { states, learnt } = await this.#openSlot();
    const last = await lastRun(states);
    if (given !== null && "invite" in given) {
      this.#invite = given;
      return this.#say({ type: "invited" });
    }
    const place = given ?? last?.place ?? null;
    if (place === null) {
      throw new CannotTakePart(
        "This address names no run.",
        "Scan the code or open the link that the host of the run shows.",
      );
    }
    this.#place = place;
    const engine = await this.#openEngine(gpu);
    const isIn = last !== null && last.isIn && last.place.server === place.server;
    const about = this.#about = await this.#askAbout(place, { isIn });
    const isSame = isIn && last.run === about.run;
    const capacity = isSame ? last.capacity : 1;
    this.#say({
      type: "about",
      about,
      forecast: forecastOf(about, capacity),
      returning: isSame ? { name: last.name, capacity, withData: last.withData } : null,
      adapter: engine.adapterName,
      kept: await keptHeads(learnt),
    });
  }

  /** Asks the host, and looks at the run once this device is let in. */
  async #ask(name: string): Promise<void> {
    if (this.#invite === null) return;
    const { id, key, states } = await this.#openSlot();
    const { request, place } = await redeem(this.#invite, { name, id, key: key.publicKey });
    this.#invite = null;
    await noteRun(states, { place, run: request.run, name, capacity: 1, isIn: false, withData: false });
    await this.#look({ type: "look", place });
  }

  /** The run; while the host has not answered, this device waits, and so it does for a server that it was with. */
  async #askAbout(place: RunPlace, { isIn }: { readonly isIn: boolean }): Promise<RunAbout> {
    const request = place.isInvited === true ? await ownRequest(place).catch(() => null) : null;
    if (request !== null && request.state !== "approved") {
      this.#say({ type: "asked", request });
      await approved(place);
    }
    for (;;) {
      try {
        return await askAbout(place);
      } catch (error) {
        if (!isIn || !(error instanceof Unreachable)) throw error;
        this.#say({ type: "failed", what: `${error.message} Trying again.` });
      }
      await this.#wait();
    }
  }

  #openSlot(): Promise<Slot> {
    return this.#slot ??= claimSlot();
  }

  #openEngine(options: Extract<ToWorker, { type: "look" }>["gpu"] = {}): Promise<Engine> {
    return this.#engine ??= Engine.create(options).catch((error) => {
      this.#engine = null;
      throw explainGpu(error);
    });
  }

  async #join(message: JoinMessage): Promise<void> {
    await this.#looking;
    if (this.#isIn || this.#place === null || this.#about === null) return;
    this.#isIn = true;
    this.#abort = new AbortController();
    try {
      await this.#takePart(message, this.#place, this.#about);
    } catch (error) {
      if (error instanceof CannotTakePart) this.#tell(error);
      else this.#say({ type: "phase", phase: "ended", text: textOf(error) });
    } finally {
      this.#isIn = false;
      this.#channel = null;
    }
  }

  async #takePart(message: JoinMessage, place: RunPlace, { run }: RunAbout): Promise<void> {
    const { name, capacity } = message;
    const slot = await this.#openSlot();
    const engine = await this.#openEngine();
    const needed = forecastOf(this.#about!, capacity)?.memoryBytes ?? 0;
    requireMemory(needed, engine.device.limits);
    this.#phase("joining", "Getting the graphics processor ready");
    if (capacity > 0) await warmUpHeads(engine);
    const chosen = message.data ?? await keptData(slot.states, run);
    using own = chosen === null ? null : await this.#openOwn(engine, chosen, place, run);
    const noted: TakingPart = { place, run, name, capacity, isIn: true, withData: chosen !== null };
    await noteRun(slot.states, noted);
    // The texts stay until the run is over, so that a page that is reloaded comes back.
    if (message.data !== null) await writeJson(slot.states, CHOSEN, message.data);
    void navigator.storage.persist?.().catch(() => {});
    const states = await storedRunStates(slot.states, run);
    let lostAt = 0;
    const result = await this.#run(place, {
      ...{ engine, name, capacity, id: slot.id, key: slot.key, signal: this.#abort.signal },
      ...{ timeoutMs: QUIET_MS, joinTimeoutMs: JOIN_MS, serverLostMs: LOST_MS },
      ...(states === null ? {} : { resume: states }),
      ...(own === null ? {} : { data: own.data.side }),
      onResume: (state) => own?.data.resume(state),
      savedStates: () => storedRunStates(slot.states, run),
      onState: (state) => storeRunState(slot.states, { ...state, data: own?.data.saved(state.step) ?? null }),
      reconnect: (signal) => this.#comeBack(place, lostAt + LOST_MS, signal),
      onLost: (error) => {
        if (error === null) return this.#phase("running", "");
        lostAt = performance.now();
        if (this.#pause === null) this.#phase("lost", "The connection was lost; coming back");
      },
      onWelcome: (welcome) => {
        own?.data.plan.begin(welcome.settings);
        this.#welcome(welcome);
      },
      onPause: (paused) => this.#phase(paused ? "stopped" : "running", ""),
      onStep: (step, { mask, totalBytes }) => {
        const memoryBytes = engine.stats.allocatedBytes;
        this.#say({ type: "step", steps: step + 1, mask, totalBytes, memoryBytes });
        if (own === null) void this.#askLoss(place);
      },
    });
    await this.#end(result, slot, noted);
  }

  /** Takes part; a connection that is lost before the run has let this device in is made anew. */
  async #run(place: RunPlace, options: Omit<UserDeviceOptions, "channel">): Promise<UserDeviceResult> {
    for (;;) {
      const channel = await this.#comeBack(place, performance.now() + LOST_MS, this.#abort.signal);
      this.#phase("waiting", "Waiting until the run begins");
      try {
        return await (this.#more.runDevice ?? runHeadsDevice)({ ...options, channel });
      } catch (error) {
        if (!(error instanceof ChannelClosedError) || this.#abort.signal.aborted) throw error;
      }
      if (this.#pause === null) this.#phase("lost", "The connection was lost; coming back");
    }
  }

  #phase(phase: Phase, text: string): void {
    this.#say({ type: "phase", phase, text });
  }

  #welcome({ model, range, start, settings }: Welcome): void {
    const { layers, heads } = model;
    this.#say({ type: "welcome", layers, heads, range, start, steps: settings.steps });
    this.#phase("running", "");
  }

  async #connect({ server, token }: RunPlace): Promise<Channel> {
    const url = `${server.replace(/^http/, "ws")}/join/ws`;
    const transport = webSocketTransport({ url, token, queueBytes: QUEUE_BYTES });
    return this.#channel = await transport.connect({ signal: this.#abort.signal });
  }

  /** Tells the loss, if the data device shares it: the server says it to who asks. */
  async #askLoss(place: RunPlace): Promise<void> {
    const now = performance.now();
    if (now - this.#askedAt < LOSS_MS) return;
    this.#askedAt = now;
    const { step, loss } = await askAbout(place).catch(() => ({ step: 0, loss: null }));
    if (loss !== null) this.#say({ type: "loss", step: step - 1, loss, mode: "train" });
  }

  /** Connects again once this device may, until a time. */
  async #comeBack(place: RunPlace, until: number, signal: AbortSignal | undefined): Promise<Channel> {
    for (;;) {
      if (this.#pause !== null) {
        await this.#pause.promise;
        until = performance.now() + LOST_MS;
      }
      signal?.throwIfAborted();
      try {
        return await this.#connect(place);
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof HandshakeError || performance.now() > until) throw error;
      }
      await this.#wait();
    }
  }

  /** Waits a moment before the next attempt, or until the page is seen again. */
  async #wait(): Promise<void> {
    this.#poke = Promise.withResolvers();
    const timer = setTimeout(() => this.#poke.resolve(), RETRY_MS);
    await this.#poke.promise;
    clearTimeout(timer);
  }

  /** Rests without a connection: the others go on without this device's heads. */
  #setPaused(paused: boolean): void {
    if (paused === (this.#pause !== null) || !this.#isIn) return;
    if (paused) {
      this.#pause = Promise.withResolvers();
      this.#phase("paused", "Resting; the others go on without this device");
      void this.#channel?.close("this device rests");
    } else {
      this.#pause?.resolve();
      this.#pause = null;
      this.#phase("lost", "Coming back");
    }
  }

  #wake(): void {
    this.#poke.resolve();
  }

  async #end(result: UserDeviceResult, slot: Slot, noted: TakingPart): Promise<void> {
    const { modules, steps, error, reason, welcome: { run, settings: { steps: total } } } = result;
    using learnt = modules;
    this.#phase("saving", "Keeping what this device has learnt");
    if (learnt !== null && steps > 0) {
      const origin = { run, steps, base: this.#about?.base ?? null };
      const kept = await keep(slot, learnt, { ...origin, absences: result.absences });
      this.#say({ type: "kept", kept });
    }
    const hasLeft = this.#abort.signal.aborted;
    const isOver = hasLeft || error === null && steps >= total;
    // What a run may go on from stays.
    if (isOver && !hasLeft) await forgetRunStates(slot.states, run);
    if (isOver) await slot.states.remove(CHOSEN);
    await noteRun(slot.states, { ...noted, isIn: !isOver });
    const text = hasLeft
      ? "You have left the run."
      : error !== null
      ? textOf(error)
      : reason === ""
      ? "The run is over."
      : `The run is over: ${reason}`;
    this.#phase("ended", text);
  }

  /** What the texts need here: parts of the model, and batches. */
  async #openOwn(engine: Engine, chosen: ChosenData, place: RunPlace, run: string): Promise<OwnParts> {
    const { openModel, openData } = this.#more;
    if (openModel === undefined || openData === undefined) {
      throw new TypeError("Cannot take part with data here: the worker for data does it");
    }
    this.#phase("joining", "Getting embedding and LM head of the model");
    const tell = ({ done, total }: { readonly done: number; readonly total: number }) =>
      this.#say({ type: "progress", what: "Embedding and LM head", done, total });
    const model = await openModel(engine, { place, run, tell });
    try {
      const data = await openData(
        chosen,
        model,
        (step, mode, loss) => this.#say({ type: "loss", step, mode, loss }),
      );
      return { model, data, [Symbol.dispose]: () => model[Symbol.dispose]() };
    } catch (error) {
      model[Symbol.dispose]();
      throw error;
    }
  }

  async #forget(): Promise<void> {
    const { learnt } = await this.#openSlot();
    for (const name of Object.values(KEPT)) await learnt.remove(name);
    this.#say({ type: "kept", kept: null });
  }
}

/** Keeps what heads have learnt. */
async function keep(
  { learnt, store }: Slot,
  modules: HeadModules,
  { base, absences, ...origin }:
    & Pick<KeptHeads, "run" | "steps" | "base">
    & Pick<UserDeviceResult, "absences">,
): Promise<KeptHeads> {
  const files = await adapterFiles({ ...await adapterOf(modules), ...absences }, origin);
  const weights = files.get("adapter_model.safetensors")!;
  await learnt.write(KEPT.weights, weights);
  await learnt.write(KEPT.config, files.get("adapter_config.json")!);
  const kept = { ...origin, base, store, bytes: weights.length, at: Date.now() };
  await writeJson(learnt, KEPT.note, kept);
  return kept;
}

/** The texts of a run that this device was in; `null` if it had none. */
async function keptData(states: Slot["states"], run: string): Promise<ChosenData | null> {
  const last = await lastRun(states);
  return last?.isIn === true && last.run === run && last.withData
    ? await readJson<ChosenData>(states, CHOSEN)
    : null;
}

/** The server does not answer. */
class Unreachable extends CannotTakePart {}

/** Asks the server about its run. */
async function askAbout({ server, token }: RunPlace): Promise<RunAbout> {
  let response: Response;
  try {
    response = await fetch(`${server}/join/about`, { headers: { authorization: `Bearer ${token}` } });
  } catch {
    const { origin } = location;
    throw new Unreachable(
      `The server at ${server} cannot be reached.`,
      "Check that this device is in the same network, and that the run still goes on." +
        (origin === server
          ? ""
          : ` This page comes from elsewhere: the host must allow it, by --allow-origin ${origin}.`),
    );
  }
  if (response.status === 401) {
    throw new CannotTakePart("The invitation is not valid any more.", "Ask the host for a new link.");
  }
  if (!response.ok) throw new CannotTakePart(`The server answered ${response.status}.`, "Ask the host.");
  const [about] = await response.json() as RunAbout[];
  if (about === undefined) {
    throw new CannotTakePart("There is no run at this server.", "Ask the host for a new link.");
  }
  return about;
}

function textOf(error: unknown): string {
  return (error as Error).message ?? String(error);
}
