/**
 * A user device: joins an edge server, owns some head modules, and may be the data device.
 *
 * @module
 */

import { DataDevice } from "./data_device.ts";
import { runDevice } from "./heads_device.ts";
import type { UserDeviceOptions, UserDeviceResult } from "./user_device_options.ts";

/**
 * Joins an edge server and takes part in a run until it ends.
 *
 * If the connection is lost or the run is stopped, the head modules as they were after the last
 * step are returned with the error, so that nothing learnt is lost. If the run ended because a loss, a norm or
 * a weight was not finite, on whatever party, `error` is a `TrainingError`.
 *
 * @throws {HandshakeError} If the server refuses, or the run's codec is not known here.
 * @throws {ChannelClosedError} If the run ended before it began.
 * @throws {DeadlineError} If it did not begin in time.
 * @throws {ProtocolError} If the server's welcome is not valid.
 * @throws {ModelFileError} If the adapter does not fit the run.
 * @throws {TypeError} If an adapter is missing, or given where none is needed.
 * @throws {RangeError} If a limit of waiting cannot be kept.
 * @category Training
 *
 * @example A device that holds heads and no data
 * ```ts
 * import {
 *   adapterOf,
 *   Engine,
 *   runUserDevice,
 *   saveAdapter,
 *   warmUp,
 *   webSocketTransport,
 * } from "@edgetuner/edgetuner";
 *
 * async function join(url: string, token: string): Promise<void> {
 *   using engine = await Engine.create();
 *   await warmUp(engine, { heads: true }); // so that nobody waits for this device's shaders
 *   const channel = await webSocketTransport({ url, token }).connect();
 *   const { modules, error, steps } = await runUserDevice({ engine, channel, name: "laptop", capacity: 5 });
 *   using learnt = modules;
 *   if (learnt !== null) await saveAdapter("runs/laptop", await adapterOf(learnt));
 *   if (error !== null) throw error;
 *   console.log(`${steps} steps`);
 * }
 * // await join("wss://edge.example/join/ws", "join-token");
 * void join;
 * ```
 *
 * @example An edge server and a device in one process
 * ```ts
 * import {
 *   defaultRunSettings,
 *   EdgeServer,
 *   Engine,
 *   inProcessTransport,
 *   loadEmbeddingAndHead,
 *   loadLayers,
 *   noPruner,
 *   openModel,
 *   runUserDevice,
 * } from "@edgetuner/edgetuner";
 *
 * const { model: { fingerprint, ...model } } = await openModel("cli/assets/tiny_gpt2");
 * using engine = await Engine.create();
 * using base = loadLayers(engine, model);
 * using ends = loadEmbeddingAndHead(engine, model);
 * const settings = defaultRunSettings(1);
 * const server = new EdgeServer({ engine, base, fingerprint, settings, pruner: noPruner(), devices: 1 });
 * const tokens = Uint32Array.of(10, 20, 30, 40);
 * const batch = { tokens, targets: tokens, mask: new Float32Array(4).fill(1), batch: 1, length: 4 };
 * const { transport, listener } = inProcessTransport();
 * const device = runUserDevice({
 *   engine,
 *   channel: await transport.connect(),
 *   name: "laptop",
 *   capacity: 1,
 *   data: {
 *     ends,
 *     fingerprint,
 *     loss: { labelSmoothing: 0 },
 *     next: (step) => step < 1 ? { batch, mode: "train" } : null,
 *     onLoss: (step, _mode, loss) => console.log(step, loss),
 *   },
 * });
 * void server.join((await listener.accept())!);
 * await server.start();
 * const { modules, error } = await device;
 * modules?.[Symbol.dispose]();
 * await listener[Symbol.asyncDispose]();
 * if (error !== null) throw error;
 * ```
 */
export async function runUserDevice(options: UserDeviceOptions): Promise<UserDeviceResult> {
  return await runDevice(options, (options) => new DataDevice(options));
}
