/**
 * The control server: transports for devices, REST API and live events on Hono; and an endpoint for texts. Apart from the main
 * entry point, so that those who do not serve do not load Hono.
 *
 * @module
 */

export {
  type AnsweredText,
  type AskingDevice,
  type ConnectionInfo,
  type ControlAppOptions,
  createControlApp,
  createTextApp,
  deviceCode,
  eventJson,
  type FetchHandler,
  type GenerateTextOptions,
  Invitations,
  type InvitationsOptions,
  type JoinHandler,
  type KeptRequest,
  MIN_TOKEN_LENGTH,
  openApi,
  PAGE_POLICY,
  type Problem,
  problemResponse,
  type RateOptions,
  requireKnown,
  RunStore,
  RunStoreError,
  type RunStoreOptions,
  serve,
  type ServeOptions,
  type Serving,
  Sessions,
  type SessionsOptions,
  type Shown,
  stepJson,
  StoreReader,
  type TextAppOptions,
  type TextGenerator,
  type TlsOptions,
  type WhoOptions,
} from "@edgetuner/transport/server";
