/**
 * A run of an edge server and devices on a simulated network, whatever its kind.
 *
 * @module
 */

import type {
  DataSide,
  HeadModules,
  RunServer,
  RunServerOptions,
  UserDeviceOptions,
  UserDeviceResult,
} from "@edgetuner/core";
import { TrainingError } from "@edgetuner/core/contracts";
import {
  checkEvaluation,
  devicesOf,
  evaluate,
  FINGERPRINT,
  nameOf,
  requireLinks,
  sizeOf,
  summary,
  virtualStep,
} from "./_simulation.ts";
import { virtualClock } from "./clock.ts";
import { TYPICAL_COMPUTE } from "./compute.ts";
import { LINK_PROFILES } from "./link_profile.ts";
import { type FrameRule, type NetworkDevice, SimulatedNetwork } from "./network.ts";
import type { NetworkSimulationOptions, SimulatedStep, SimulationResult } from "./simulation_options.ts";

/** What a kind of run does in its own way. */
export interface RunKind<S extends RunServer> {
  readonly rules: Readonly<Record<string, FrameRule>>;
  /** Makes the server. */
  open(
    common: Required<
      Pick<
        RunServerOptions,
        "fingerprint" | "settings" | "devices" | "run" | "timeoutMs" | "joinTimeoutMs" | "now"
      >
    >,
  ): S;
  /** Lets a device take part. */
  run(common: UserDeviceOptions, device: number): Promise<UserDeviceResult>;
  /** Head modules that the server holds itself at the end. */
  own(server: S): readonly HeadModules[];
}

/** A run that is put together. */
interface SimulatedRun<S extends RunServer> {
  readonly network: SimulatedNetwork;
  readonly server: S;
  /** Training steps so far. */
  readonly steps: SimulatedStep[];
  /** The devices' parties and what comes of each. */
  readonly parties: NetworkDevice[];
  readonly results: Promise<UserDeviceResult>[];
  /** What made a device leave before the start. */
  left: unknown;
}

/** Puts a run together on a simulated network, and takes it to its end. */
export async function runSimulated<S extends RunServer>(
  options: NetworkSimulationOptions,
  kind: RunKind<S>,
): Promise<SimulationResult> {
  const { model, settings, timeoutMs = 120_000, realTime = false, link, signal } = options;
  const { engine, deviceEngine = engine } = model;
  const devices = devicesOf(options.devices);
  requireLinks(link === undefined ? devices : [{ link }, ...devices], devices.length);
  checkEvaluation(options);
  using clock = realTime ? null : virtualClock({
    busy: () => engine.stats.pending + deviceEngine.stats.pending > 0,
  });
  // No time passes while the simulation is put together.
  const hold = clock?.hold();
  await using network = new SimulatedNetwork({
    size: sizeOf(model, settings),
    compute: options.compute ?? TYPICAL_COMPUTE,
    seed: options.linkSeed ?? 1,
    rules: { ...kind.rules, ...options.rules },
    overlap: settings.overlap ?? true,
    ...(clock === null ? {} : { clock }),
  });
  const server = kind.open({
    fingerprint: FINGERPRINT,
    settings,
    devices: devices.filter((d) => d.capacity > 0).length,
    // Of equal length in every run: names of runs are part of all frames.
    run: "simulation",
    timeoutMs,
    joinTimeoutMs: timeoutMs,
    now: () => realTime ? performance.now() : network.edgeNow(),
  });
  const before = await evaluate(options, []);
  const run: SimulatedRun<S> = { network, server, steps: [], parties: [], results: [], left: null };
  recordSteps(run, options);
  const started = network.clock.now();
  const running = server.start(signal).then(() => null, (error: unknown) => error);
  await joinDevices(run, kind, options);
  hold?.[Symbol.dispose]();
  const settled = Promise.allSettled(run.results);
  const error = await running ?? run.left;
  const ended = await settled;
  const totalMs = network.clock.now() - started;
  const trained = [
    ...kind.own(server),
    ...ended.flatMap((r) => r.status === "fulfilled" && r.value.modules ? [r.value.modules] : []),
  ].sort((a, b) => a.options.range.first - b.options.range.first);
  try {
    return { ...await resultOf(run, ended, options, { before, error, trained }), totalMs };
  } finally {
    for (const modules of trained) modules[Symbol.dispose]();
  }
}

/** Takes in every step of the server. */
function recordSteps(
  { server, network, steps }: SimulatedRun<RunServer>,
  options: NetworkSimulationOptions,
): void {
  let computed = 0;
  server.subscribe((event) => {
    if (event.type !== "step") return;
    const edgeComputeMs = network.edgeComputeMs() - computed;
    computed += edgeComputeMs;
    const step = options.realTime
      ? { ...event.record, edgeComputeMs }
      : virtualStep(event.record, edgeComputeMs);
    steps.push(step);
    options.onStep?.(step);
  });
}

/** The data side, and how many of a step's tokens have a loss. */
function dataOf(
  { model: { ends }, loss = { labelSmoothing: 0.1 }, settings, batches }: NetworkSimulationOptions,
): { readonly data: DataSide; counted(tokens: number): number } {
  let share = 0;
  const data: DataSide = {
    ends,
    loss,
    fingerprint: FINGERPRINT,
    shareLoss: true,
    next(step) {
      if (step >= settings.steps) return null;
      const batch = batches(step);
      // As if they lay evenly over the micro-batches.
      share = batch.mask.reduce((sum, m) => sum + (m === 0 ? 0 : 1), 0) / batch.mask.length;
      return { batch, mode: "train" };
    },
  };
  return { data, counted: (tokens) => Math.round(share * tokens) };
}

/** Connects all devices and lets them join. */
async function joinDevices<S extends RunServer>(
  run: SimulatedRun<S>,
  kind: RunKind<S>,
  options: NetworkSimulationOptions,
): Promise<void> {
  const { network, server, parties, results } = run;
  const { model: { engine, deviceEngine = engine }, timeoutMs = 120_000, link, signal } = options;
  const { data, counted } = dataOf(options);
  for (const [i, device] of devicesOf(options.devices).entries()) {
    const party = await network.connect({
      link: device.link ?? link ?? LINK_PROFILES["wifi-5"],
      speed: device.speed,
      counted,
    });
    parties.push(party);
    void server.join(party.edge);
    const result = kind.run({
      engine: deviceEngine,
      channel: party.device,
      name: nameOf(i),
      capacity: device.capacity,
      data: device.data ? data : undefined,
      timeoutMs,
      signal,
    }, i);
    result.catch((cause) => {
      // Nobody will come in its place, so there is nothing to wait for.
      if (server.status !== "waiting") return;
      run.left ??= cause;
      server.stop("a device left before the start");
    });
    results.push(result);
  }
}

/** What came of a run, but for its time. */
async function resultOf(
  { server, steps, parties }: SimulatedRun<RunServer>,
  ended: readonly PromiseSettledResult<UserDeviceResult>[],
  options: NetworkSimulationOptions,
  found: {
    readonly before: number | null;
    readonly error: unknown;
    readonly trained: readonly HeadModules[];
  },
): Promise<Omit<SimulationResult, "totalMs">> {
  const { before, trained } = found;
  let { error } = found;
  const after = error !== null ? NaN : await evaluate(options, trained).catch((cause) => {
    if (!(cause instanceof TrainingError)) throw cause;
    error = cause;
    return NaN;
  });
  await options.onTrained?.(trained);
  return {
    ...summary(steps),
    ledger: server.traffic(),
    evaluation: before === null || after === null ? null : { before, after },
    edgeMemoryBytes: options.model.engine.stats.allocatedBytes,
    devices: ended.map((result, i) => ({
      name: nameOf(i),
      computeMs: parties[i]!.computeMs(),
      ...(result.status === "fulfilled"
        ? { range: result.value.welcome.range, steps: result.value.steps, error: result.value.error }
        : { range: null, steps: 0, error: result.reason }),
    })),
    error,
  };
}
