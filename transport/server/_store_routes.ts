/**
 * Routes of what a run store keeps, of runs now and before.
 *
 * @module
 */

import type { JoinedDevice } from "@edgetuner/core";
import { deviceTimes } from "../control/device_times.ts";
import type { RecordJson, StoredRunJson } from "../control/types.ts";
import { problemResponse } from "../problem.ts";
import type { Handlers } from "./_binding.ts";
import type { RunStore } from "./run_store.ts";

/** The routes of the store. */
export type StoreRoute =
  | "GET /api/history"
  | `GET /api/runs/:run/${"series" | "heads" | "happened" | "records" | "records.csv" | "records.json"}`;

/** Records that are read from the file at once. */
const PAGE = 500;
/** Most events of an answer. */
const MOST_EVENTS = 500;
/** Most points of figures and of masks, and those of who says none. */
const POINTS = { most: 5000, default: 500 } as const;

/** Handlers of these routes. */
export function storeHandlers(store: RunStore | undefined): Pick<Handlers, StoreRoute> {
  const of = <T>(name: string, read: (store: RunStore) => T | null): { readonly data: T } | Response => {
    const data = store === undefined ? null : read(store);
    return data === null ? noRecords(name) : { data };
  };
  return {
    "GET /api/history": () => ({ data: store?.runs() ?? [] }),
    "GET /api/runs/:run/series": ({ params: { run }, query }) => {
      const points = wholeNumber(query, "points", POINTS);
      return points instanceof Response ? points : of(run, (store) => store.series(run, points));
    },
    "GET /api/runs/:run/heads": ({ params: { run }, query }) => {
      const points = wholeNumber(query, "points", POINTS);
      return points instanceof Response ? points : of(run, (store) => store.heads(run, points));
    },
    "GET /api/runs/:run/happened": ({ params: { run } }) =>
      of(run, (store) => store.events(run, MOST_EVENTS)),
    "GET /api/runs/:run/records": ({ params: { run }, query }) => {
      const from = wholeNumber(query, "from", { most: Number.MAX_SAFE_INTEGER, default: 0 });
      if (from instanceof Response) return from;
      const most = wholeNumber(query, "most", { most: PAGE, default: PAGE });
      if (most instanceof Response) return most;
      return of(run, (store) => store.records(run, { from, most }));
    },
    "GET /api/runs/:run/records.csv": ({ params: { run } }) => download(store, run, "csv"),
    "GET /api/runs/:run/records.json": ({ params: { run } }) => download(store, run, "json"),
  };
}

function noRecords(run: string): Response {
  return problemResponse({
    status: 404,
    title: "No records",
    detail: `Cannot answer as records of run "${run}" must be kept: this server has none`,
  });
}

function wholeNumber(
  query: URLSearchParams,
  name: string,
  limits: { readonly most: number; readonly default: number },
): number | Response {
  const text = query.get(name);
  if (text === null) return limits.default;
  const value = /^\d{1,16}$/.test(text) ? Number(text) : -1;
  if (value >= 0 && value <= limits.most) return value === 0 && name !== "from" ? 1 : value;
  return problemResponse({
    status: 400,
    title: "Bad request",
    detail: `Cannot answer as "${name}" must be a whole number of at most ${limits.most}: it is ${
      JSON.stringify(text.slice(0, 40))
    }`,
  });
}

/** A file with all records of a run, read while it is sent. */
function download(store: RunStore | undefined, run: string, form: "csv" | "json"): Response {
  const stored = store?.run(run) ?? null;
  if (store === undefined || stored === null) return noRecords(run);
  const text = form === "csv" ? csvText(store, run, stored) : jsonText(store, run, stored);
  const bytes = ReadableStream.from(text).pipeThrough(new TextEncoderStream());
  const name = `${run.replace(/[^\w.-]/g, "_")}.${form}`;
  return new Response(bytes, {
    headers: {
      "content-type": form === "csv" ? "text/csv; charset=utf-8" : "application/json",
      "content-disposition": `attachment; filename="${name}"`,
    },
  });
}

/** Records of a run, a page at a time. */
async function* pagesOf(store: RunStore, run: string): AsyncGenerator<readonly RecordJson[]> {
  for (let from = 0;;) {
    const records = store.records(run, { from, most: PAGE }) ?? [];
    if (records.length === 0) return;
    yield records;
    from = records.at(-1)!.number + 1;
    // Frames of devices pass between two pages.
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

async function* jsonText(store: RunStore, run: string, stored: unknown): AsyncGenerator<string> {
  yield `{"run":${JSON.stringify(stored)},\n"events":${
    JSON.stringify(store.events(run) ?? [])
  },\n"records":[`;
  let separator = "\n";
  for await (const records of pagesOf(store, run)) {
    yield separator + records.map((record) => JSON.stringify(record)).join(",\n");
    separator = ",\n";
  }
  yield "\n]}\n";
}

/** Columns of the CSV, beside those of the bytes by kind. */
const COLUMNS: Readonly<Record<string, (record: RecordJson) => string | number | null | undefined>> = {
  step: ({ record }) => record.step,
  mode: ({ record }) => record.mode,
  time: ({ at }) => new Date(at).toISOString(),
  run_seconds: ({ seconds }) => seconds,
  loss: ({ record }) => record.loss,
  loss_tokens: ({ record }) => record.counted,
  seconds: ({ record }) => record.times.total / 1000,
  prune_seconds: ({ record }) => record.times.prune / 1000,
  readback_seconds: ({ record }) => record.times.readback / 1000,
  codec_seconds: ({ record }) => record.times.codec / 1000,
  wait_seconds: ({ record }) => record.times.wait / 1000,
  bytes: ({ record }) => record.bytes,
  run_bytes: ({ sumBytes }) => sumBytes,
  kept_heads: ({ record }) => record.kept.reduce((a, b) => a + b, 0),
  tokens: ({ record }) => record.tokens,
  sequences: ({ record }) => record.batch,
  gradient_norm: ({ record }) => record.gradientNorm,
  owners: ({ record }) => record.owners?.join("+"),
  heads_away: ({ record }) => record.away?.join("+"),
  pruned: ({ record }) => `z${record.mask.join("")}`,
};

/** Columns of each device: seconds in which it computed, was waited for by the wire, and waited. */
function deviceColumns(devices: readonly JoinedDevice[]): typeof COLUMNS {
  const columns: Record<string, typeof COLUMNS[string]> = {};
  for (const { name, capacity, data, range } of devices) {
    const sides = [...(capacity > 0 ? [true] : []), ...(data ? [false] : [])];
    for (const heads of sides) {
      const of = ({ record }: RecordJson) =>
        deviceTimes(record, devices).find((time) =>
          time.heads === heads && (heads ? time.first === range?.first : time.device === name)
        );
      const label = `${name}_${heads ? "heads" : "data"}`.replaceAll(" ", "_");
      columns[`compute_seconds_${label}`] = (record) => seconds(of(record)?.computeMs);
      columns[`answer_seconds_${label}`] = (record) => seconds(of(record)?.ms);
      columns[`wait_seconds_${label}`] = (record) => seconds(of(record)?.waitMs);
    }
  }
  return columns;
}

function seconds(ms: number | null | undefined): number | null {
  return ms === null || ms === undefined ? null : ms / 1000;
}

async function* csvText(
  store: RunStore,
  run: string,
  { traffic, devices }: Pick<StoredRunJson, "traffic" | "devices">,
): AsyncGenerator<string> {
  const kinds = traffic.map(({ kind, direction }) => `${kind} ${direction}`);
  const columns = { ...COLUMNS, ...deviceColumns(devices) };
  const heads = [...Object.keys(columns), ...kinds.map((kind) => `bytes ${kind}`.replaceAll(" ", "_"))];
  yield `${heads.map(cell).join(",")}\r\n`;
  for await (const records of pagesOf(store, run)) {
    yield records.map((record) => {
      const values = [
        ...Object.values(columns).map((value) => value(record)),
        ...kinds.map((kind) => record.kinds[kind] ?? 0),
      ];
      return `${values.map(cell).join(",")}\r\n`;
    }).join("");
  }
}

/** A cell of CSV (RFC 4180). Text that a spreadsheet would take for a formula is marked as text. */
function cell(value: string | number | null | undefined): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
