/**
 * What the dashboard knows, kept in signals: runs, the one that is looked at, and those that it is compared with.
 *
 * @module
 */

import { type Signal, signal } from "@preact/signals";
import type { JoinedDevice, LedgerEntry } from "@edgetuner/core";
import {
  ControlClient,
  ControlError,
  type HeadsJson,
  type JoinRequestJson,
  type RunEvent,
  type RunJson,
  type SeriesJson,
  type StepJson,
  type StoredEventJson,
  type StoredRunJson,
} from "@edgetuner/transport/control";

/** Most parts of figures that are asked for, and most points that are added before they are asked for anew. */
const POINTS = 1000;
/** Most steps of the map of heads. */
const MAPS = 240;
/** Steps that means of the last ones are taken over. */
const RECENT = 20;
/** Most events that are shown. */
const EVENTS = 200;

/** How far the page is with the server. */
export type View =
  | { readonly name: "looking" }
  | { readonly name: "signed out"; readonly why: string }
  | { readonly name: "runs" };

/** A run as the list has it. */
export interface ListedRun {
  readonly run: string;
  readonly status: StoredRunJson["status"];
  readonly steps: number;
  readonly planned: number;
  readonly loss: number | null;
  /** Milliseconds since 1970; `null` if it is not known. */
  readonly started: number | null;
  /** True if this server computes it. */
  readonly isLive: boolean;
}

/** All that is shown of a run. */
export interface RunState {
  readonly run: string;
  readonly status: Signal<StoredRunJson["status"]>;
  readonly live: Signal<RunJson | null>;
  readonly stored: Signal<StoredRunJson | null>;
  readonly series: Signal<SeriesJson | null>;
  readonly heads: Signal<HeadsJson | null>;
  readonly latest: Signal<StepJson | null>;
  /** The last training steps, the newest at the end. */
  readonly recent: Signal<readonly StepJson[]>;
  readonly devices: Signal<readonly JoinedDevice[]>;
  readonly traffic: Signal<readonly LedgerEntry[]>;
  readonly requests: Signal<readonly JoinRequestJson[]>;
  readonly events: Signal<readonly StoredEventJson[]>;
}

export const view = signal<View>({ name: "looking" });
export const listed = signal<readonly ListedRun[]>([]);
export const shown = signal<RunState | null>(null);
export const compared = signal<readonly SeriesJson[]>([]);
/** What went wrong last; empty if nothing did. */
export const failure = signal("");
/** What was done last, for screen readers. */
export const told = signal("");
/** True while events of the run that is shown come in. */
export const isConnected = signal(true);
/** True while the description of the API is shown. */
export const isReference = signal(false);
/** The time of day, every few seconds. */
export const now = signal(Date.now());

export const client = new ControlClient();
let watching: AbortController | null = null;
/** How often this browser has signed in. */
let signedIn = 0;

/** Looks at the server: signs in with the secret in the address, if it has one. */
export async function begin(): Promise<void> {
  setInterval(() => now.value = Date.now(), 5000);
  globalThis.addEventListener("hashchange", () => void follow());
  await follow();
}

async function follow(): Promise<void> {
  const secret = new URLSearchParams(location.hash.slice(1)).get("signin");
  isReference.value = location.hash === "#api";
  if (secret === null) {
    if (isReference.value && view.value.name === "looking") view.value = { name: "signed out", why: "" };
    return await (isReference.value ? undefined : look());
  }
  // It lets its holder in: it goes before anything else happens.
  history.replaceState(null, "", location.pathname);
  await signIn(secret);
}

/** Signs this browser in. */
export async function signIn(secret: string): Promise<void> {
  try {
    await client.call("POST /api/session", { body: { secret } });
  } catch (error) {
    // One that is signed in already may open an old link.
    const isKnown = await client.call("GET /api/session").then(() => true, () => false);
    if (!isKnown) {
      view.value = { name: "signed out", why: (error as Error).message };
      return;
    }
  }
  signedIn++;
  forget();
  view.value = { name: "looking" };
  await look();
}

/** Signs this browser out. */
export async function signOut(): Promise<void> {
  await client.call("DELETE /api/session").catch(() => {});
  forget();
}

/** The browser is not signed in any more: nothing of the runs stays. */
function forget(): void {
  watching?.abort();
  shown.value = null;
  listed.value = [];
  compared.value = [];
  view.value = { name: "signed out", why: "" };
}

/** Reads which runs there are, and shows the one that the address names, or the newest. */
async function look(): Promise<void> {
  if (!await attempt(list)) return;
  const asked = new URLSearchParams(location.hash.slice(1)).get("run");
  const found = listed.value.find(({ run }) => run === asked) ?? listed.value[0];
  view.value = { name: "runs" };
  if (found !== undefined) await show(found.run);
}

/** Does something with the server; false if that failed, which is shown. */
export async function attempt(task: () => Promise<unknown>): Promise<boolean> {
  const before = signedIn;
  try {
    await task();
    failure.value = "";
    return true;
  } catch (error) {
    const { message } = error as Error;
    if (error instanceof ControlError && error.status === 401) {
      // An answer of before this browser signed in again says nothing of now.
      if (before === signedIn) forget();
    } else failure.value = error instanceof TypeError ? "The server does not answer." : message;
    return false;
  }
}

/** Reads the list of runs. */
export async function list(): Promise<void> {
  const [live, stored] = await Promise.all([
    client.call("GET /api/runs"),
    client.call("GET /api/history"),
  ]);
  const names = new Set(stored.map(({ run }) => run));
  const isLive = (run: string) => live.some((other) => other.run === run);
  listed.value = [
    ...live.filter(({ run }) => !names.has(run)).map(({ run, status, settings, latest }) => ({
      ...{ run, status, steps: latest === null ? 0 : latest.step + 1, planned: settings.steps },
      ...{ loss: latest?.loss ?? null, started: null, isLive: true },
    })),
    ...stored.map(({ run, status, steps, settings, loss, started }) => ({
      ...{ run, status, steps, planned: settings.steps, loss, started, isLive: isLive(run) },
    })),
  ].sort((a, b) => Number(b.isLive) - Number(a.isLive));
}

/** Shows a run, and follows it while it goes on. */
export async function show(run: string): Promise<void> {
  if (shown.value?.run === run) return;
  watching?.abort();
  const stop = watching = new AbortController();
  history.replaceState(null, "", `${location.pathname}#${new URLSearchParams({ run })}`);
  compared.value = compared.value.filter((series) => series.run !== run);
  const found = listed.value.find((other) => other.run === run);
  const state: RunState = {
    run,
    status: signal(found?.status ?? "waiting"),
    live: signal(null),
    stored: signal(null),
    series: signal(null),
    heads: signal(null),
    latest: signal(null),
    recent: signal([]),
    devices: signal([]),
    traffic: signal([]),
    requests: signal([]),
    events: signal([]),
  };
  shown.value = state;
  await attempt(() => readStored(state));
  if (found?.isLive === true) void watch(state, stop.signal);
}

/** `null` where the server keeps no records. */
async function ifKept<T>(answer: Promise<T>): Promise<T | null> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof ControlError && error.status === 404) return null;
    throw error;
  }
}

/** Reads what is kept of a run. */
async function readStored(state: RunState): Promise<void> {
  const params = { run: state.run };
  const [history, series, heads, events] = await Promise.all([
    client.call("GET /api/history"),
    ifKept(client.call("GET /api/runs/:run/series", { params, query: { points: `${POINTS}` } })),
    ifKept(client.call("GET /api/runs/:run/heads", { params, query: { points: `${MAPS}` } })),
    ifKept(client.call("GET /api/runs/:run/happened", { params })),
  ]);
  const stored = history.find(({ run }) => run === state.run) ?? null;
  state.stored.value = stored;
  state.series.value = series ?? emptySeries(state.run);
  state.heads.value = heads;
  state.events.value = events ?? [];
  if (stored !== null) await readRecent(state, stored.records);
  if (stored !== null && state.live.value === null) {
    state.devices.value = stored.devices;
    state.traffic.value = stored.traffic;
    state.status.value = stored.status;
  }
}

/** Runs that are read anew now. */
const readingAgain = new WeakSet<RunState>();

/** Reads a run anew as it has become long; once at a time, however many steps come meanwhile. */
async function readAgain(state: RunState): Promise<void> {
  if (readingAgain.has(state)) return;
  readingAgain.add(state);
  await attempt(() => readStored(state));
  readingAgain.delete(state);
}

/** Reads the last training steps. */
async function readRecent(state: RunState, records: number): Promise<void> {
  const query = { from: `${Math.max(0, records - 2 * RECENT)}`, most: `${4 * RECENT}` };
  const page = await client.call("GET /api/runs/:run/records", { params: { run: state.run }, query });
  addRecent(state, page.map(({ record }) => record));
}

function addRecent(state: RunState, records: readonly StepJson[]): void {
  const trained = [...state.recent.value, ...records].filter(({ mode }) => mode === "train");
  const steps = new Map(trained.map((record) => [record.step, record]));
  state.recent.value = [...steps.values()].sort((a, b) => a.step - b.step).slice(-RECENT);
}

function emptySeries(run: string): SeriesJson {
  return {
    ...{ run, step: [], seconds: [], sumBytes: [], loss: [], lossMin: [], lossMax: [], bytes: [], kept: [] },
    times: { total: [], prune: [], readback: [], codec: [], wait: [] },
    validation: { step: [], seconds: [], sumBytes: [], loss: [] },
  };
}

/** Follows a run; after a break it goes on where it was. */
async function watch(state: RunState, signal: AbortSignal): Promise<void> {
  const { run } = state;
  const fetchWatched = async (request: Request) => {
    try {
      const response = await fetch(request);
      isConnected.value = response.ok;
      return response;
    } catch (error) {
      isConnected.value = signal.aborted;
      throw error;
    }
  };
  try {
    for await (const event of new ControlClient({ fetch: fetchWatched }).events(run, { signal })) {
      if (signal.aborted) return;
      isConnected.value = true;
      await hear(state, event);
    }
  } catch (error) {
    if (!signal.aborted) await attempt(() => Promise.reject(error));
  }
}

/** Events after which devices or requests may be others. */
const CHANGES = new Set(["joined", "left", "away", "back", "request"]);

async function hear(state: RunState, event: RunEvent): Promise<void> {
  if (event.event === "run") {
    const { data } = event;
    state.live.value = data;
    state.status.value = data.status;
    state.devices.value = data.devices;
    state.traffic.value = data.traffic;
    state.latest.value = data.latest;
    await attempt(() => readStored(state));
    await attempt(() => refresh(state));
    return;
  }
  if (event.event === "step") return addStep(state, event.data.record);
  const { event: type, data } = event;
  if (type === "decoding") return;
  if (type !== "request") {
    const happened = { at: Date.now(), type, data: data as unknown as Readonly<Record<string, unknown>> };
    state.events.value = [...state.events.value, happened].slice(-EVENTS);
  }
  if (type === "status") {
    state.status.value = data.status;
    told.value = `The run is ${data.status}`;
    await attempt(list);
  }
  if (type === "validation") addValidation(state, data.step, data.loss);
  if (CHANGES.has(type) || type === "status") await attempt(() => refresh(state));
}

/** Reads devices, traffic and requests. */
export async function refresh(state: RunState): Promise<void> {
  const params = { run: state.run };
  const [live, requests] = await Promise.all([
    client.call("GET /api/runs/:run", { params }),
    client.call("GET /api/runs/:run/requests", { params }),
  ]);
  state.live.value = live;
  state.devices.value = live.devices;
  state.traffic.value = live.traffic;
  state.requests.value = requests;
}

let refreshedAt = 0;

function addStep(state: RunState, record: StepJson): void {
  state.latest.value = record;
  if (record.mode === "train") addRecent(state, [record]);
  if (Date.now() - refreshedAt > 3000) {
    refreshedAt = Date.now();
    void attempt(() => refresh(state));
  }
  const series = state.series.value;
  if (series === null) return;
  const sumBytes = (series.sumBytes.at(-1) ?? 0) + record.bytes;
  const started = state.stored.value?.started;
  const seconds = Math.max(
    (series.seconds.at(-1) ?? 0) + record.times.total / 1000,
    started === undefined || series.step.length > 0 ? 0 : (Date.now() - started) / 1000,
  );
  if (record.mode === "evaluate") {
    if (record.loss === null || record.owners !== undefined) return;
    return addEvaluation(state, { ...record, loss: record.loss, seconds, sumBytes });
  }
  // It came with the figures already.
  if (record.step <= (series.step.at(-1) ?? -1)) return;
  if (series.step.length >= 4 * POINTS) return void readAgain(state);
  const { loss, times } = record;
  state.series.value = {
    ...series,
    step: [...series.step, record.step],
    seconds: [...series.seconds, seconds],
    sumBytes: [...series.sumBytes, sumBytes],
    loss: [...series.loss, loss],
    lossMin: [...series.lossMin, loss],
    lossMax: [...series.lossMax, loss],
    bytes: [...series.bytes, record.bytes],
    kept: [...series.kept, record.kept.reduce((a, b) => a + b, 0)],
    times: {
      total: [...series.times.total, times.total],
      prune: [...series.times.prune, times.prune],
      readback: [...series.times.readback, times.readback],
      codec: [...series.times.codec, times.codec],
      wait: [...series.times.wait, times.wait],
    },
  };
  addMap(state, record);
}

/** Tokens and weighted loss of a validation that is under way, by its step. */
let evaluated = { run: "", step: -1, tokens: 0, sum: 0 };

function addEvaluation(
  state: RunState,
  { step, loss, counted = 1, seconds, sumBytes }: {
    readonly step: number;
    readonly loss: number;
    readonly counted?: number;
    readonly seconds: number;
    readonly sumBytes: number;
  },
): void {
  const series = state.series.value!;
  const { validation } = series;
  const isNew = evaluated.run !== state.run || evaluated.step !== step;
  // It came with the figures already.
  if (isNew && (validation.step.at(-1) ?? -1) >= step) return;
  if (isNew) evaluated = { run: state.run, step, tokens: 0, sum: 0 };
  evaluated.tokens += counted;
  evaluated.sum += loss * counted;
  const at = isNew ? validation.step.length : validation.step.length - 1;
  const put = (values: readonly number[], value: number) => [...values.slice(0, at), value];
  state.series.value = {
    ...series,
    validation: {
      step: put(validation.step, step),
      seconds: put(validation.seconds, seconds),
      sumBytes: put(validation.sumBytes, sumBytes),
      loss: put(validation.loss, evaluated.sum / evaluated.tokens),
    },
  };
}

function addValidation(state: RunState, step: number, loss: number): void {
  const series = state.series.value;
  if (series === null || (series.validation.step.at(-1) ?? -1) >= step) return;
  const { validation } = series;
  state.series.value = {
    ...series,
    validation: {
      step: [...validation.step, step],
      seconds: [...validation.seconds, series.seconds.at(-1) ?? 0],
      sumBytes: [...validation.sumBytes, series.sumBytes.at(-1) ?? 0],
      loss: [...validation.loss, loss],
    },
  };
}

function addMap(state: RunState, { step, mask, scores, kept }: StepJson): void {
  const heads = state.heads.value ??
    { run: state.run, layers: kept.length, heads: 0, steps: [], pruned: [], scores: [] };
  if (heads.steps.length >= 2 * MAPS) return void readAgain(state);
  state.heads.value = {
    run: state.run,
    layers: kept.length,
    heads: mask.length / kept.length,
    steps: [...heads.steps, step],
    pruned: [...heads.pruned, mask.join("")],
    scores: [...heads.scores, scores],
  };
}

/** Lays another run over the one that is shown, or takes it away. */
export async function compare(run: string, { isWanted }: { readonly isWanted: boolean }): Promise<void> {
  compared.value = compared.value.filter((series) => series.run !== run);
  if (!isWanted) return;
  await attempt(async () => {
    const query = { points: `${POINTS}` };
    const series = await client.call("GET /api/runs/:run/series", { params: { run }, query });
    // Others may have come meanwhile.
    compared.value = [...compared.value.filter((other) => other.run !== run), series];
  });
}

/** Steers the run that is shown. */
export async function steer(action: "pause" | "resume" | "stop"): Promise<void> {
  const state = shown.value;
  if (state === null) return;
  await attempt(async () => {
    const { status } = await client.call(`POST /api/runs/:run/${action}`, { params: { run: state.run } });
    state.status.value = status;
    told.value = `The run is ${status}`;
    await list();
  });
}
