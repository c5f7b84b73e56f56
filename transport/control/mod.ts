/**
 * The control API as its callers see it: a typed client, and the types of what it takes and answers. Runs in pages.
 *
 * @module
 */

export { askToJoin, type AskToJoinOptions, inviteOf, waitForApproval } from "./ask_to_join.ts";
export {
  type CallArguments,
  type CallInput,
  ControlClient,
  type ControlClientOptions,
  ControlError,
  type ParamsOf,
  type RunEvent,
  serverSentEvents,
} from "./client.ts";
export { type DeviceTime, deviceTimes } from "./device_times.ts";
export type { AnswerOf, BodyOf, ControlRoutes, Role, RouteName } from "./routes.ts";
export type * from "./types.ts";
