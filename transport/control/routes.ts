/**
 * The control API, described once: routes, who may call them, parameters, bodies, answers and errors. The server
 * answers by it, and the client, `GET /openapi.json` and the reference are made of it.
 *
 * @module
 */

import type * as v from "valibot";
import type { ModelAbout, RunAbout } from "../run_about.ts";
import type {
  AskedJson,
  AskJson,
  HeadsJson,
  HealthJson,
  InviteJson,
  JoinRequestJson,
  RecordJson,
  RemovedJson,
  RunJson,
  SeriesJson,
  SessionJson,
  SignInJson,
  SignInLinkJson,
  SteeredJson,
  StoredEventJson,
  StoredRunJson,
} from "./types.ts";
import type { JoinedDevice } from "@edgetuner/core";
import * as schemas from "./schemas.ts";

/** All routes with the types of what they take and answer; the name of a route is its method and its path. */
export interface ControlRoutes {
  /** Says whether the runs are well. */
  readonly "GET /health": { readonly answer: HealthJson };
  /** This description. */
  readonly "GET /openapi.json": { readonly answer: Readonly<Record<string, unknown>> };
  /** Figures of the runs for programs that collect them. */
  readonly "GET /metrics": { readonly answer: string };
  /** Who the caller is. */
  readonly "GET /api/session": { readonly answer: SessionJson };
  /** Signs a browser in. */
  readonly "POST /api/session": { readonly body: SignInJson; readonly answer: SessionJson };
  /** Signs a browser out. */
  readonly "DELETE /api/session": { readonly answer: null };
  /** Makes a link that signs another browser in. */
  readonly "POST /api/sign-in-links": { readonly answer: SignInLinkJson };
  /** What a device may know of a run before it joins. */
  readonly "GET /join/about": { readonly answer: readonly RunAbout[] };
  /** What a device with data needs of a run's model. */
  readonly "GET /join/model/:run": { readonly answer: ModelAbout };
  /** Values of one of the tensors that it needs. */
  readonly "GET /join/model/:run/tensors/:name": { readonly answer: Uint8Array<ArrayBuffer> };
  /** Redeems an invite. */
  readonly "POST /join/requests": { readonly body: AskJson; readonly answer: AskedJson };
  /** What became of the request of the caller. */
  readonly "GET /join/request": { readonly answer: JoinRequestJson };
  /** All runs. */
  readonly "GET /api/runs": { readonly answer: readonly RunJson[] };
  /** One run. */
  readonly "GET /api/runs/:run": { readonly answer: RunJson };
  /** Devices of a run. */
  readonly "GET /api/runs/:run/devices": { readonly answer: readonly JoinedDevice[] };
  /** Removes a device. */
  readonly "POST /api/runs/:run/devices/:device/remove": { readonly answer: RemovedJson };
  /** Invites a device. */
  readonly "POST /api/runs/:run/invites": { readonly answer: InviteJson };
  /** Requests to join. */
  readonly "GET /api/runs/:run/requests": { readonly answer: readonly JoinRequestJson[] };
  /** Lets a device in. */
  readonly "POST /api/runs/:run/requests/:request/approve": { readonly answer: JoinRequestJson };
  /** Does not let a device in. */
  readonly "POST /api/runs/:run/requests/:request/refuse": { readonly answer: JoinRequestJson };
  /** What happens in a run. */
  readonly "GET /api/runs/:run/events": { readonly answer: string };
  /** Runs of now and before that records are kept of. */
  readonly "GET /api/history": { readonly answer: readonly StoredRunJson[] };
  /** Figures over a run. */
  readonly "GET /api/runs/:run/series": { readonly answer: SeriesJson };
  /** Head masks over a run. */
  readonly "GET /api/runs/:run/heads": { readonly answer: HeadsJson };
  /** What happened in a run. */
  readonly "GET /api/runs/:run/happened": { readonly answer: readonly StoredEventJson[] };
  /** Records of a run, a page at a time. */
  readonly "GET /api/runs/:run/records": { readonly answer: readonly RecordJson[] };
  /** All records of a run as a table. */
  readonly "GET /api/runs/:run/records.csv": { readonly answer: string };
  /** All that is kept of a run. */
  readonly "GET /api/runs/:run/records.json": { readonly answer: Readonly<Record<string, unknown>> };
  /** Holds a run. */
  readonly "POST /api/runs/:run/pause": { readonly answer: SteeredJson };
  /** Goes on with a run. */
  readonly "POST /api/runs/:run/resume": { readonly answer: SteeredJson };
  /** Ends a run. */
  readonly "POST /api/runs/:run/stop": { readonly answer: SteeredJson };
}

/** Name of a route: method and path. */
export type RouteName = keyof ControlRoutes;

/** Who calls, as far as the server can tell. */
export type Role =
  | "anonymous"
  | "invite"
  | "waiting device"
  | "approved device"
  | "refused device"
  | "join token"
  | "session"
  | "admin token";

/** All who may call. */
export const ROLES: readonly Role[] = [
  "anonymous",
  "invite",
  "waiting device",
  "approved device",
  "refused device",
  "join token",
  "session",
  "admin token",
];

/** What a route takes as body; `never` without one. */
export type BodyOf<N extends RouteName> = ControlRoutes[N] extends { readonly body: infer B } ? B : never;

/** What a route answers where it does what was asked for. */
export type AnswerOf<N extends RouteName> = ControlRoutes[N]["answer"];

/** One answer of a route. */
export interface AnswerDescription<T> {
  /** What it says, in a sentence. */
  readonly what: string;
  /** Type of the body. @default {"application/json"} */
  readonly type?: string;
  /** The body; none if absent. */
  readonly body?: v.GenericSchema<unknown, T>;
}

/** A route. */
export interface RouteDescription<N extends RouteName = RouteName> {
  /** What it does, in a sentence. */
  readonly what: string;
  /** What else callers should know. */
  readonly more?: string;
  /** Who may call it; everyone may call what anonymous callers may. */
  readonly who: readonly Role[];
  /** What it takes in the query, by name. */
  readonly query?: Readonly<Record<string, string>>;
  /** What it takes as body, as JSON. */
  readonly body?: [BodyOf<N>] extends [never] ? undefined : v.GenericSchema<unknown, BodyOf<N>>;
  /** What it answers, by status. */
  readonly answers: Readonly<Record<number, AnswerDescription<AnswerOf<N>>>>;
  /** Errors of its own, by status: problem details (RFC 9457). */
  readonly problems: Readonly<Record<number, string>>;
}

/** Descriptions of all routes. */
export type RouteTable = { readonly [N in RouteName]: RouteDescription<N> };

/** Errors that every route may answer with. */
export const COMMON_PROBLEMS: Readonly<Record<number, string>> = {
  403:
    "The request comes from a page of an origin that is not allowed, or from a device that may not do this.",
  421: "The name of the host that was asked for is not one of this server.",
  429: "The address sends too many requests without a token; `Retry-After` says when to go on.",
  500: "Something failed within.",
};

/** Errors of routes that not everyone may call. */
export const GUARDED_PROBLEMS: Readonly<Record<number, string>> = {
  401: "The request carries nothing that allows the route.",
};

/** Errors of routes that read a body. */
export const BODY_PROBLEMS: Readonly<Record<number, string>> = {
  408: "The body comes too slowly.",
  413: "The body is too large.",
};

/** Errors that a route may answer with, its own and those of its kind. */
export function problemsOf(
  name: string,
  { who, body, problems }: RouteDescription,
): Readonly<Record<number, string>> {
  const invalid: Readonly<Record<number, string>> = { 400: "The body is not valid." };
  const none: Readonly<Record<number, string>> = {};
  return {
    ...(body === undefined ? none : invalid),
    ...(who.includes("anonymous") ? none : GUARDED_PROBLEMS),
    ...(name.startsWith("GET") ? none : BODY_PROBLEMS),
    ...COMMON_PROBLEMS,
    ...problems,
  };
}

const OWNERS: readonly Role[] = ["session", "admin token"];
const EVERYONE = ROLES;
const INVITED: readonly Role[] = ["waiting device", "approved device", "refused device"];
const JOINERS: readonly Role[] = ["join token", "approved device"];
const NO_RUN = { 404: "There is no such run." };
const OVER = { ...NO_RUN, 409: "The run is over." };
const NO_REQUEST = { 404: "There is no such run or request, or its device was removed." };
const NO_RECORDS = { 404: "No records are kept of such a run." };
const NO_PAGE = { ...NO_RECORDS, 400: "A number of the query is not one, or too large." };
const NOT_SERVED = { 404: "There is no such run for the caller, or it gives no parts of its model." };
const STEERED = {
  200: { what: "The run is in the state that was asked for.", body: schemas.steered },
  202: { what: "The run was told, and is not in that state yet.", body: schemas.steered },
};

/** What each parameter of a path is. */
export const PARAMETERS: Readonly<Record<string, string>> = {
  run: "Name of a run.",
  device: "Its id, or the first eight characters of it; its name if it has none.",
  request: "Number of a request to join.",
  name: "Name of a tensor.",
};

/** The routes. */
export const ROUTES: RouteTable = {
  "GET /health": {
    what: "Says whether the runs are well.",
    more: "It names nobody and tells no loss, so that every probe may ask.",
    who: EVERYONE,
    answers: {
      200: { what: "All runs are well.", body: schemas.health },
      503: { what: "A run has failed, or shows no sign of life.", body: schemas.health },
    },
    problems: {},
  },
  "GET /openapi.json": {
    what: "This description, as OpenAPI 3.1.",
    who: EVERYONE,
    answers: { 200: { what: "The description.", body: schemas.anyObject } },
    problems: {},
  },
  "GET /metrics": {
    what: "Figures of the runs as OpenMetrics text, for programs that collect them.",
    who: OWNERS,
    answers: {
      200: {
        what: "The figures.",
        type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
        body: schemas.text,
      },
    },
    problems: {},
  },
  "GET /api/session": {
    what: "Says who the caller is.",
    who: OWNERS,
    answers: { 200: { what: "The caller is known.", body: schemas.session } },
    problems: {},
  },
  "POST /api/session": {
    what: "Signs a browser in, once, with the secret of a link that the terminal printed.",
    more: "The answer sets a cookie that scripts cannot read and other sites cannot send.",
    who: EVERYONE,
    body: schemas.signIn,
    answers: { 200: { what: "The browser is signed in.", body: schemas.session } },
    problems: {
      401: "The secret is wrong, was used before, or is too old.",
    },
  },
  "DELETE /api/session": {
    what: "Signs the browser out.",
    who: OWNERS,
    answers: { 204: { what: "The session is over." } },
    problems: {},
  },
  "POST /api/sign-in-links": {
    what: "Makes a link that signs another browser in, once.",
    who: OWNERS,
    answers: { 201: { what: "The link.", body: schemas.signInLink } },
    problems: {},
  },
  "GET /join/about": {
    what:
      "Runs, as a device may see them before it joins: all with the join token, else the one it is invited to.",
    who: ["invite", "waiting device", ...JOINERS],
    answers: { 200: { what: "The runs.", body: schemas.runsAbout } },
    problems: {},
  },
  "GET /join/model/:run": {
    what:
      "What a device with data needs of the model of its run: configuration, tokenizer, digests of all weights, " +
      "and the names of those that it may have.",
    who: JOINERS,
    answers: { 200: { what: "The model.", body: schemas.modelAbout } },
    problems: NOT_SERVED,
  },
  "GET /join/model/:run/tensors/:name": {
    what: "Values of a tensor of embedding, final norm or LM head of the model of the device's run.",
    who: JOINERS,
    answers: {
      200: {
        what: "The values as float32, little-endian, row by row.",
        type: "application/octet-stream",
        body: schemas.bytes,
      },
    },
    problems: NOT_SERVED,
  },
  "POST /join/requests": {
    what: "Redeems an invite, once: the device asks to join.",
    more:
      "The answer has a key for this device and this run alone. It joins once the host approves the device: as " +
      "token of the WebSocket or the HTTP transport, and the device must prove that it has the secret half of its key.",
    who: EVERYONE,
    body: schemas.ask,
    answers: { 201: { what: "The device has asked.", body: schemas.asked } },
    problems: {
      401: "The invite is none of this server.",
      404: "The run of the invite is over.",
      410: "The invite was used before, or is too old.",
    },
  },
  "GET /join/request": {
    what: "What became of the request of the device that calls.",
    query: { wait: "Seconds to wait for an answer while the device waits, at most 25." },
    who: INVITED,
    answers: { 200: { what: "The request.", body: schemas.joinRequest } },
    problems: {},
  },
  "GET /api/runs": {
    what: "All runs.",
    who: OWNERS,
    answers: { 200: { what: "The runs.", body: schemas.runs } },
    problems: {},
  },
  "GET /api/runs/:run": {
    what: "One run: status, settings, devices, last step, traffic.",
    who: OWNERS,
    answers: { 200: { what: "The run.", body: schemas.run } },
    problems: NO_RUN,
  },
  "GET /api/runs/:run/devices": {
    what: "Devices of a run, in order of joining.",
    who: OWNERS,
    answers: { 200: { what: "The devices.", body: schemas.devices } },
    problems: NO_RUN,
  },
  "POST /api/runs/:run/devices/:device/remove": {
    what:
      "Removes a device from a run for good: it is told so, its heads are pruned, and it may not come back.",
    who: OWNERS,
    answers: { 200: { what: "The device was told.", body: schemas.removed } },
    problems: { 404: "There is no such run or device.", 409: "The run is over." },
  },
  "POST /api/runs/:run/invites": {
    what: "Makes an invite for one device.",
    who: OWNERS,
    answers: { 201: { what: "The invite.", body: schemas.invite } },
    problems: OVER,
  },
  "GET /api/runs/:run/requests": {
    what: "Requests to join of devices that were invited, in order of asking.",
    who: OWNERS,
    answers: { 200: { what: "The requests.", body: schemas.joinRequests } },
    problems: NO_RUN,
  },
  "POST /api/runs/:run/requests/:request/approve": {
    what: "Lets a device in that asked to join.",
    who: OWNERS,
    answers: { 200: { what: "The request as it is now.", body: schemas.joinRequest } },
    problems: NO_REQUEST,
  },
  "POST /api/runs/:run/requests/:request/refuse": {
    what: "Does not let a device in that asked to join; one that has joined stays: see remove.",
    who: OWNERS,
    answers: { 200: { what: "The request as it is now.", body: schemas.joinRequest } },
    problems: NO_REQUEST,
  },
  "GET /api/runs/:run/events": {
    what: "What happens in a run, as server-sent events, until it is over.",
    more: "It begins with the event `run`. Each event has an `id`; who comes back with the last one in " +
      "`Last-Event-ID` gets what happened since, without `run`, as long as the server keeps it.",
    who: OWNERS,
    answers: {
      200: { what: "The events.", type: "text/event-stream", body: schemas.text },
      204: { what: "The run is over, and nothing happened since the last event." },
    },
    problems: NO_RUN,
  },
  "GET /api/history": {
    what: "Runs of now and before that records are kept of, the newest first.",
    who: OWNERS,
    answers: { 200: { what: "The runs.", body: schemas.storedRuns } },
    problems: {},
  },
  "GET /api/runs/:run/series": {
    what: "Figures over a run, of now or before: means over equal parts of it.",
    query: { points: "Most parts." },
    who: OWNERS,
    answers: { 200: { what: "The figures.", body: schemas.series } },
    problems: NO_PAGE,
  },
  "GET /api/runs/:run/heads": {
    what: "Head masks and scores of steps over a run, of now or before, the last one among them.",
    query: { points: "Most steps." },
    who: OWNERS,
    answers: { 200: { what: "The masks.", body: schemas.heads } },
    problems: NO_PAGE,
  },
  "GET /api/runs/:run/happened": {
    what: "The last events of a run, of now or before, other than its steps.",
    who: OWNERS,
    answers: { 200: { what: "The events.", body: schemas.storedEvents } },
    problems: NO_RECORDS,
  },
  "GET /api/runs/:run/records": {
    what: "Records of the steps of a run, of now or before, in order, a page at a time.",
    query: { from: "Number of the first record.", most: "Most records, at most 500." },
    who: OWNERS,
    answers: { 200: { what: "The records; none after the last.", body: schemas.records } },
    problems: NO_PAGE,
  },
  "GET /api/runs/:run/records.csv": {
    what: "All records of the steps of a run, of now or before, as a table.",
    who: OWNERS,
    answers: { 200: { what: "The table.", type: "text/csv; charset=utf-8", body: schemas.text } },
    problems: NO_RECORDS,
  },
  "GET /api/runs/:run/records.json": {
    what: "All that is kept of a run, of now or before: the run, its events and the records of its steps.",
    who: OWNERS,
    answers: { 200: { what: "The file.", body: schemas.anyObject } },
    problems: NO_RECORDS,
  },
  "POST /api/runs/:run/pause": {
    what: "Holds a run before its next step.",
    who: OWNERS,
    answers: STEERED,
    problems: OVER,
  },
  "POST /api/runs/:run/resume": {
    what: "Resumes a run that is paused.",
    who: OWNERS,
    answers: STEERED,
    problems: OVER,
  },
  "POST /api/runs/:run/stop": {
    what: "Ends a run after the step that is under way; devices keep what they learnt.",
    who: OWNERS,
    answers: STEERED,
    problems: OVER,
  },
};

/** Where devices send frames: described for people, as no client but a transport calls them. */
export const TRANSPORT_ROUTES: Readonly<Record<string, Pick<RouteDescription, "what" | "who">>> = {
  "GET /join/ws": { what: "WebSocket of a device.", who: JOINERS },
  "POST /join/http/frames": {
    what: "Frames of a device through proxies that break WebSocket.",
    who: JOINERS,
  },
};
