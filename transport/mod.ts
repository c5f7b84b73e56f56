/**
 * Ways for an edge server and devices to exchange frames: inside one process, over WebSocket, over
 * plain HTTP through proxies, and an emulated slow link around any of them.
 *
 * All follow the `Transport` interface of `@edgetuner/core`, so that they can be swapped.
 *
 * @example Usage
 * ```ts
 * import { inProcessTransport } from "@edgetuner/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const { transport, listener } = inProcessTransport();
 * await using device = await transport.connect();
 * await using edge = await listener.accept();
 *
 * await device.send(new TextEncoder().encode("hello"));
 * assertEquals(await edge?.receive(), new TextEncoder().encode("hello"));
 * ```
 *
 * @module
 */

export { type ConnectAttempt, type ConnectOptions, connectWithin } from "./connect.ts";
export {
  type HttpListener,
  httpListener,
  type HttpListenerOptions,
  type HttpOptions,
  httpTransport,
  type HttpTransportOptions,
} from "./http.ts";
export type { PageFile } from "./page_file.ts";
export type { AboutDevice, ModelAbout, RunAbout } from "./run_about.ts";
export { type InProcessOptions, type InProcessPair, inProcessTransport } from "./in_process.ts";
export {
  type Clock,
  realClock,
  until,
  type VirtualClock,
  virtualClock,
  type VirtualClockOptions,
} from "./simulation/clock.ts";
export {
  emulateLink,
  emulateLinkChannel,
  type EmulationOptions,
  LinkMedium,
  type LinkOptions,
} from "./simulation/link.ts";
export {
  type FrameRule,
  type FrameWork,
  type NetworkDevice,
  type NetworkDeviceOptions,
  SimulatedNetwork,
  type SimulatedNetworkOptions,
} from "./simulation/network.ts";
export { simulate, type SplitSimulationOptions } from "./simulation/simulate.ts";
export { simulateServerTuner } from "./simulation/simulate_server_tuner.ts";
export {
  simulateTensorParallel,
  type TensorParallelSimulationOptions,
} from "./simulation/simulate_tensor_parallel.ts";
export type {
  CurvePoint,
  NetworkSimulationOptions,
  SimulatedDevice,
  SimulatedDeviceResult,
  SimulatedModel,
  SimulatedStep,
  SimulationOptions,
  SimulationResult,
} from "./simulation/simulation_options.ts";
export { splitLogits, type SplitLogitsOptions } from "./simulation/split_logits.ts";
export { type InvitedDevice, invitedDeviceOf } from "./_invited.ts";
export { type Authorize, requestToken, requireToken } from "./token.ts";
export {
  type HandleOptions,
  type WebSocketListener,
  webSocketListener,
  type WebSocketListenerOptions,
  type WebSocketOptions,
  webSocketTransport,
  type WebSocketTransportOptions,
} from "./web_socket.ts";
export { messagePortChannel, relay } from "./message_port.ts";
export * from "./simulation/plan.ts";
export * from "./simulation/even_mask.ts";
export * from "./simulation/availability.ts";
export * from "./simulation/link_profile.ts";
export * from "./simulation/compute.ts";
export { measureCompute, type MeasureOptions } from "./simulation/measure.ts";
