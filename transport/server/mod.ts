/**
 * The control server of an edge server, on Hono: transports for devices, REST API, live events; and an endpoint for
 * texts in the form of the OpenAI API.
 * Imported as `@edgetuner/edgetuner/server`, so that those who do not serve do not load Hono.
 *
 * @module
 */

export {
  type ControlAppOptions,
  createControlApp,
  eventJson,
  type JoinHandler,
  MIN_TOKEN_LENGTH,
  stepJson,
} from "./control_app.ts";
export type { ServedModel } from "./device_routes.ts";
export type { RateOptions } from "./_callers.ts";
export { requireKnown, type WhoOptions } from "./_who.ts";
export {
  type AskingDevice,
  deviceCode,
  Invitations,
  type InvitationsOptions,
  type KeptRequest,
} from "./invitations.ts";
export type { Shown } from "./_one_time.ts";
export { openApi } from "./openapi.ts";
export { PAGE_POLICY } from "./pages.ts";
export { RunStore, type RunStoreOptions } from "./run_store.ts";
export { RunStoreError } from "./_store_file.ts";
export { StoreReader } from "./_store_reader.ts";
export { Sessions, type SessionsOptions } from "./sessions.ts";
export {
  type AnsweredText,
  createTextApp,
  type GenerateTextOptions,
  type TextAppOptions,
  type TextGenerator,
} from "./text_app.ts";
export {
  type ConnectionInfo,
  type FetchHandler,
  serve,
  type ServeOptions,
  type Serving,
  type TlsOptions,
} from "./serve.ts";
export { type Problem, problemResponse } from "../problem.ts";
