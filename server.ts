/**
 * The control server: transports for devices, REST API and live events on Hono. Apart from the main
 * entry point, so that those who do not serve do not load Hono.
 *
 * @module
 */

export {
  type ConnectionInfo,
  type ControlAppOptions,
  createControlApp,
  eventJson,
  type FetchHandler,
  type JoinHandler,
  type Problem,
  problemResponse,
  serve,
  type ServeOptions,
  type Serving,
  stepJson,
} from "@edgetuner/transport/server";
