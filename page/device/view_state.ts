/**
 * What the page shows, kept in signals, and how it talks to its worker.
 *
 * @module
 */

import { signal } from "@preact/signals";
import type { RunAbout } from "@edgetuner/transport";
import type { JoinRequestJson } from "@edgetuner/transport/control";
import type { ChosenData, Forecast, FromWorker, KeptHeads, Phase, ToWorker } from "./messages.ts";

/** How far this device is with a run. */
export interface Progress {
  readonly layers: number;
  /** Heads of every layer that this device has. */
  readonly count: number;
  readonly start: number;
  readonly total: number;
  readonly steps: number;
  /** [L * H_m], 1 = pruned; `null` before the first step. */
  readonly mask: Uint8Array | null;
  readonly totalBytes: number;
  readonly memoryBytes: number;
}

/** What is shown. */
export type View =
  | { readonly name: "looking" }
  | { readonly name: "cannot"; readonly why: string; readonly help: string }
  | { readonly name: "ask" }
  | { readonly name: "asked" }
  | { readonly name: "offer" }
  | { readonly name: "taking part" };

export const view = signal<View>({ name: "looking" });
export const about = signal<RunAbout | null>(null);
export const forecast = signal<Forecast | null>(null);
export const adapter = signal("");
export const asked = signal<JoinRequestJson | null>(null);
export const phase = signal<{ readonly phase: Phase; readonly text: string }>({ phase: "joining", text: "" });
export const progress = signal<Progress | null>(null);
export const loss = signal<{ readonly step: number; readonly loss: number } | null>(null);
export const loading = signal<
  { readonly what: string; readonly done: number; readonly total: number } | null
>(
  null,
);
export const kept = signal<KeptHeads | null>(null);
export const failure = signal("");
export const data = signal<ChosenData | null>(null);
export const deviceName = signal("");

/** A page that requires it lets scripts be named by policies alone. */
interface Policies {
  createPolicy(name: string, rules: { createScriptURL(url: string): string }): {
    createScriptURL(url: string): string;
  };
}

/** Scripts of workers. */
const WORKERS = ["./worker.js", "./data_worker.js", "./download_worker.js"] as const;

const policy = (() => {
  const { trustedTypes } = globalThis as { trustedTypes?: Policies };
  const rules = { createScriptURL: (url: string) => (WORKERS as readonly string[]).includes(url) ? url : "" };
  return trustedTypes?.createPolicy("edgetuner", rules) ?? rules;
})();

function openWorker(script: typeof WORKERS[number]): Worker {
  const worker = new Worker(policy.createScriptURL(script), { type: "module" });
  worker.addEventListener("message", ({ data }: MessageEvent<FromWorker>) => hear(data));
  worker.addEventListener(
    "error",
    (event) => failure.value = event.message || "The page's worker has stopped.",
  );
  return worker;
}

let worker = openWorker("./worker.js");
let knowsData = false;

/** Gives the device to the worker that knows data. */
function useDataWorker(): void {
  if (knowsData) return;
  knowsData = true;
  worker.terminate();
  worker = openWorker("./data_worker.js");
  look();
}

/** Takes part with a file, or without one again. */
export function choose(chosen: ChosenData | null): void {
  data.value = chosen;
  if (chosen !== null) useDataWorker();
}

/** Packs what is kept, and hands it to the browser. */
export function download(form: "peft" | "heads"): void {
  if (kept.value === null) return;
  const packer = openWorker("./download_worker.js");
  packer.addEventListener("message", () => packer.terminate());
  packer.postMessage({ store: kept.value.store, form });
}

/** Tells the worker. */
export function tell(message: ToWorker): void {
  worker.postMessage(message);
}

/** Takes the run's address out of the address bar: it lets its holder in. */
function takePlace(): Extract<ToWorker, { type: "look" }>["place"] {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const [token, invite] = [fragment.get("token"), fragment.get("invite")];
  if (token === null && invite === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  const server = fragment.get("server") ?? location.origin;
  return token !== null ? { server, token } : { server, invite: invite! };
}

/** Where the address led to. */
let given: Extract<ToWorker, { type: "look" }>["place"] = null;

/** Looks at the run, with the GPU that the address asks for. */
export function look(): void {
  const asked = new URLSearchParams(location.search);
  const gpu = Object.fromEntries(
    ["featureLevel", "limits", "adapterClass"].flatMap((name) => {
      const value = asked.get(name);
      return value === null ? [] : [[name, value]];
    }),
  );
  given = takePlace() ?? given;
  tell({ type: "look", place: given, gpu });
}

/** Asks the host to be let in. */
export function ask(name: string): void {
  failure.value = "";
  tell({ type: "ask", name });
}

/** Takes part. */
export function join(name: string, capacity: number): void {
  failure.value = "";
  view.value = { name: "taking part" };
  phase.value = { phase: "joining", text: "" };
  tell({ type: "join", name, capacity, data: data.value });
}

function hear(message: FromWorker): void {
  switch (message.type) {
    case "about": {
      about.value = message.about;
      forecast.value = message.forecast;
      adapter.value = message.adapter;
      kept.value = message.kept;
      if (view.value.name !== "taking part") view.value = { name: "offer" };
      const { returning } = message;
      if (returning === null) return;
      deviceName.value = returning.name;
      if (returning.withData && !knowsData) return useDataWorker();
      return join(returning.name, returning.capacity);
    }
    case "invited":
      view.value = { name: "ask" };
      return;
    case "asked":
      given = null; // the worker knows where
      asked.value = message.request;
      view.value = { name: "asked" };
      return;
    case "cannot":
      view.value = { name: "cannot", why: message.why, help: message.help };
      return;
    case "phase":
      phase.value = { phase: message.phase, text: message.text };
      if (message.phase !== "joining") loading.value = null;
      return;
    case "welcome":
      progress.value = {
        ...{ layers: message.layers, count: message.range?.count ?? 0, total: message.steps },
        ...{ start: message.start, steps: message.start, mask: null, totalBytes: 0, memoryBytes: 0 },
      };
      return;
    case "step":
      if (progress.value !== null) progress.value = { ...progress.value, ...message };
      return;
    case "loss":
      if (message.mode === "train") loss.value = { step: message.step, loss: message.loss };
      return;
    case "progress":
      loading.value = message;
      return;
    case "kept":
      kept.value = message.kept;
      return;
    case "file":
      return save(message.name, message.bytes);
    case "failed":
      failure.value = message.what;
  }
}

/** Hands a file to the browser, as a download. */
function save(name: string, bytes: Uint8Array<ArrayBuffer>): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes]));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
