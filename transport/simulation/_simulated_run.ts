/**
 * A run of an edge server and devices on a simulated network, whatever its kind.
 *
 * @module
 */

import type { DataSide, HeadModules, RunServer, UserDeviceOptions, UserDeviceResult } from "@edgetuner/core";
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
} from "./_simulation.ts";
import { KeptStates, type ServerCommon, ServerLives } from "./_server_lives.ts";
import { LearningCurve } from "./_learning_curve.ts";
import { virtualClock } from "./clock.ts";
import { TYPICAL_COMPUTE } from "./compute.ts";
import { LINK_PROFILES, type LinkProfile } from "./link_profile.ts";
import { type FrameRule, type NetworkDevice, SimulatedNetwork } from "./network.ts";
import type { NetworkSimulationOptions, SimulationOptions, SimulationResult } from "./simulation_options.ts";

/** What a kind of run does in its own way. */
export interface RunKind<S extends RunServer> {
  readonly rules: Readonly<Record<string, FrameRule>>;
  /** True if devices, and the server, come back. */
  readonly comesBack: boolean;
  /** Makes the server. */
  open(common: ServerCommon): S;
  /** Lets a device take part. */
  run(common: UserDeviceOptions, device: number): Promise<UserDeviceResult>;
  /** Head modules that the server holds itself at the end. */
  own(server: S): readonly HeadModules[];
}

/** A run that is put together. */
interface SimulatedRun<S extends RunServer> {
  readonly network: SimulatedNetwork;
  readonly server: ServerLives<S>;
  /** The devices' parties and what comes of each. */
  readonly parties: NetworkDevice[];
  readonly results: Promise<UserDeviceResult>[];
  /** What made a device leave before the start. */
  left: unknown;
  /** Evaluation in between. */
  readonly curve: LearningCurve;
  /** When the server or a device that took part to the end was done. */
  endedAt: number;
}

/** Puts a run together on a simulated network, and takes it to its end. */
export async function runSimulated<S extends RunServer>(
  given: NetworkSimulationOptions,
  kind: RunKind<S>,
): Promise<SimulationResult> {
  const curve = new LearningCurve(given);
  const options = { ...given, settings: curve.settings };
  const { model, settings, realTime = false, link } = options;
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
    links: devices.map((device) => linkOf(device, options)),
    ...(clock === null ? {} : { clock }),
  });
  requireSaves(network, options);
  const server = new ServerLives(network, options, kind);
  const before = await evaluate(options, []);
  const run: SimulatedRun<S> = { network, server, parties: [], results: [], left: null, endedAt: 0, curve };
  const started = network.clock.now();
  const running = server.run();
  await joinDevices(run, kind, options);
  hold?.[Symbol.dispose]();
  const settled = Promise.allSettled(run.results);
  const error = await running ?? run.left;
  run.endedAt = Math.max(run.endedAt, network.clock.now());
  const ended = await settled;
  const trained = [
    ...kind.own(server.current),
    ...ended.flatMap((r) => r.status === "fulfilled" && r.value.modules ? [r.value.modules] : []),
  ].sort((a, b) => a.options.range.first - b.options.range.first);
  try {
    const totalMs = run.endedAt - started;
    return { ...await resultOf(run, ended, options, { before, error, trained }), totalMs };
  } finally {
    for (const modules of trained) modules[Symbol.dispose]();
  }
}

function linkOf({ link }: { readonly link?: LinkProfile | undefined }, options: NetworkSimulationOptions) {
  return link ?? options.link ?? LINK_PROFILES["wifi-5"];
}

/** A server that is lost goes on from a state. */
function requireSaves(
  { serverGone }: SimulatedNetwork,
  { settings: { saveEvery = 0 } }: SimulationOptions,
): void {
  if (saveEvery > 0 || serverGone.every(({ toMs }) => toMs === Infinity)) return;
  throw new TypeError(
    `Cannot simulate as saveEvery must be at least 1 where the edge server comes back: current value is ${saveEvery}`,
  );
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
    rewind() {}, // batches depend on the step alone
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
  const { model: { engine, deviceEngine = engine }, timeoutMs = 120_000, signal } = options;
  const { data, counted } = dataOf(options);
  for (const [i, device] of devicesOf(options.devices).entries()) {
    const party = await network.connect({ link: linkOf(device, options), speed: device.speed, counted });
    parties.push(party);
    server.join(party.edge);
    const result = kind.run({
      engine: deviceEngine,
      channel: party.device,
      name: nameOf(i),
      capacity: device.capacity,
      data: device.data ? data : undefined,
      timeoutMs,
      codecs: options.codecs,
      signal,
      onState: (state) => run.curve.keep(i, state),
      ...(kind.comesBack && comingBack(run, party, i)),
    }, i);
    result.then(({ error }) => {
      if (error === null) run.endedAt = Math.max(run.endedAt, network.clock.now());
    }, (cause) => {
      // Nobody will come in its place, so there is nothing to wait for.
      if (server.current.status !== "waiting") return;
      run.left ??= cause;
      server.current.stop("a device left before the start");
    });
    results.push(result);
  }
}

/** What lets a device come back. */
function comingBack<S extends RunServer>(
  { network, server, curve }: SimulatedRun<S>,
  party: NetworkDevice,
  device: number,
): Partial<UserDeviceOptions> {
  const states = new KeptStates();
  return {
    id: `${String(device + 1).padStart(8, "0")}-simulated`,
    clock: network.clock,
    onState: (state) => {
      states.keep(state);
      curve.keep(device, state);
    },
    savedStates: () => Promise.resolve(states.source),
    async reconnect(signal) {
      server.requireGoingOn();
      const { device, edge } = await party.connectAgain(signal);
      server.join(edge);
      return device;
    },
  };
}

/** What came of a run, but for its time. */
async function resultOf(
  { server, parties, curve }: SimulatedRun<RunServer>,
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
  const learning = devicesOf(options.devices).filter(({ capacity }) => capacity > 0).length;
  return {
    ...summary(server.steps),
    ledger: server.traffic(),
    evaluation: before === null || after === null ? null : { before, after },
    curve: await curve.points(learning, { before, after }),
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
