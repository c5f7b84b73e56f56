/**
 * The server of a simulated run, also where it is lost and started again from its newest state.
 *
 * @module
 */

import type { LedgerEntry, RunServer, RunServerOptions, RunState } from "@edgetuner/core";
import type { RunStateSource } from "@edgetuner/core";
import { type Channel, RunStateError } from "@edgetuner/core/contracts";
import { devicesOf, FINGERPRINT, virtualStep } from "./_simulation.ts";
import { type Clock, until } from "./clock.ts";
import type { SimulatedNetwork } from "./network.ts";
import type { NetworkSimulationOptions, SimulatedStep } from "./simulation_options.ts";

/** What servers of all kinds get. */
export type ServerCommon =
  & Required<
    Pick<
      RunServerOptions,
      "fingerprint" | "settings" | "devices" | "run" | "timeoutMs" | "joinTimeoutMs" | "now"
    >
  >
  & Pick<RunServerOptions, "clock" | "resume" | "codecs">
  & { onState?(state: RunState): void };

/** States that a party keeps: the two newest, as in files. */
export class KeptStates {
  #states: readonly RunState[] = [];

  keep(state: RunState): void {
    this.#states = [...this.#states, state].slice(-2);
  }

  /** What can be gone on from; `null` while there is none. */
  get source(): RunStateSource | null {
    const states = this.#states;
    if (states.length === 0) return null;
    return {
      run: states[0]!.run,
      steps: states.map(({ step }) => step),
      load: (step) => Promise.resolve(states.find((state) => state.step === step)!),
    };
  }
}

/** Order among events of one time: a server that is lost hears of no link that is cut with it. */
const LOST_FIRST = -1;

/** What a kind of run does in its own way. */
interface LivesKind<S> {
  /** True if the server comes back. */
  readonly comesBack: boolean;
  /** Makes it. */
  open(common: ServerCommon): S;
}

/** One server after the other. */
export class ServerLives<S extends RunServer> {
  /** The one that runs, or ran last. */
  current: S;
  /** Training steps that count, in order. */
  readonly steps: SimulatedStep[] = [];
  readonly #network: SimulatedNetwork;
  readonly #options: NetworkSimulationOptions;
  readonly #kind: LivesKind<S>;
  readonly #states = new KeptStates();
  readonly #servers: S[] = [];
  readonly #started: number;
  #computed = 0;
  #isLost = false;
  #isOver = false;

  constructor(
    network: SimulatedNetwork,
    options: NetworkSimulationOptions,
    kind: LivesKind<S>,
  ) {
    this.#network = network;
    this.#options = options;
    this.#kind = kind;
    this.#started = network.clock.now();
    this.current = this.#begin();
  }

  /** A device connects. */
  join(channel: Channel): void {
    void this.current.join(channel);
  }

  /** @throws {RunStateError} If nobody can come back any more. */
  requireGoingOn(): void {
    if (this.#isOver) throw new RunStateError("Cannot come back as the run must go on: it is over");
  }

  /** Lines of all ledgers together. */
  traffic(): LedgerEntry[] {
    if (this.#servers.length === 1) return this.current.traffic();
    return sumOf(this.#servers.flatMap((server) => server.traffic()));
  }

  /** Runs to the end, whatever happens meanwhile; returns what went wrong. */
  async run(): Promise<unknown> {
    const { signal } = this.#options;
    const { clock, serverGone } = this.#network;
    try {
      for (const { fromMs, toMs } of this.#kind.comesBack ? serverGone : []) {
        const error = await this.#live(fromMs);
        if (error !== LOST) return error;
        if (toMs === Infinity) {
          return new RunStateError("Cannot go on as the edge server must come back: it is lost");
        }
        await until(clock, toMs, signal);
        if (this.#states.source === null) {
          return new RunStateError(
            "Cannot go on as the edge server must have saved a state: it was lost before the first",
          );
        }
        this.current = this.#begin();
      }
      return await this.#live(Infinity);
    } catch (error) {
      return error;
    } finally {
      this.#isOver = true;
    }
  }

  /** Runs the current server until it ends or is lost. */
  async #live(lostMs: number): Promise<unknown> {
    const { clock } = this.#network;
    const { signal } = this.#options;
    const loss = new AbortController();
    const cancel = scheduleAt(clock, lostMs, () => {
      this.#isLost = true;
      // Before it can say anything.
      this.#network.cutAll();
      loss.abort(new Error("the edge server is lost"));
    });
    const all = signal === undefined ? loss.signal : AbortSignal.any([signal, loss.signal]);
    const error = await this.current.start(all).then(() => null, (error: unknown) => error);
    cancel();
    return loss.signal.aborted ? LOST : error;
  }

  #begin(): S {
    const { settings, timeoutMs = 120_000, realTime = false } = this.#options;
    const { clock } = this.#network;
    this.#isLost = false;
    const resume = this.#states.source ?? undefined;
    const server = this.#kind.open({
      fingerprint: FINGERPRINT,
      settings,
      devices: devicesOf(this.#options.devices).filter((d) => d.capacity > 0).length,
      // Of equal length in every run: names of runs are part of all frames.
      run: "simulation",
      timeoutMs,
      joinTimeoutMs: timeoutMs,
      codecs: this.#options.codecs,
      now: () => realTime ? performance.now() : this.#network.edgeNow(),
      clock,
      onState: (state) => this.#states.keep(state),
      ...(resume && { resume }),
    });
    this.#servers.push(server);
    this.#record(server);
    return server;
  }

  /** Takes in every step of a server. */
  #record(server: S): void {
    const { realTime = false, onStep, onEvent } = this.#options;
    const { clock } = this.#network;
    server.subscribe((event) => {
      if (server !== this.current || this.#isLost) return;
      onEvent?.call(this.#options, event);
      if (event.type !== "step") return;
      const edgeComputeMs = this.#network.edgeComputeMs() - this.#computed;
      this.#computed += edgeComputeMs;
      const atMs = clock.now() - this.#started;
      const { record } = event;
      const step = realTime
        ? { ...record, edgeComputeMs, atMs }
        : virtualStep(record, { edgeComputeMs, atMs });
      // What was done before the server was lost and is done again does not count.
      const again = this.steps.findIndex((done) => done.step >= record.step);
      if (again >= 0) this.steps.length = again;
      this.steps.push(step);
      onStep?.call(this.#options, step);
    });
  }
}

/** What a server ended with that was lost. */
const LOST = Symbol("lost");

function scheduleAt(clock: Clock, atMs: number, callback: () => void): () => void {
  return atMs === Infinity ? () => {} : clock.schedule(atMs, callback, LOST_FIRST);
}

function sumOf(lines: readonly LedgerEntry[]): LedgerEntry[] {
  const sums = new Map<string, LedgerEntry>();
  for (const line of lines) {
    const key = `${line.kind} ${line.direction}`;
    const { frames = 0, tensorBytes = 0, frameBytes = 0 } = sums.get(key) ?? {};
    sums.set(key, {
      ...line,
      frames: frames + line.frames,
      tensorBytes: tensorBytes + line.tensorBytes,
      frameBytes: frameBytes + line.frameBytes,
    });
  }
  return [...sums.values()];
}
