/**
 * What the page shows, kept in signals, and how it talks to its worker.
 *
 * @module
 */

import { signal } from "@preact/signals";
import type { RunAbout } from "@edgetuner/transport";
import type { ChosenData, Forecast, FromWorker, KeptHeads, Phase, RunPlace, ToWorker } from "./messages.ts";

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
  | { readonly name: "offer" }
  | { readonly name: "taking part" };

export const view = signal<View>({ name: "looking" });
export const about = signal<RunAbout | null>(null);
export const forecast = signal<Forecast | null>(null);
export const adapter = signal("");
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

function openWorker(): Worker {
  const { trustedTypes } = globalThis as { trustedTypes?: Policies };
  const own = "./worker.js";
  const rules = { createScriptURL: (url: string) => url === own ? url : "" };
  const policy = trustedTypes?.createPolicy("edgetuner", rules) ?? rules;
  return new Worker(policy.createScriptURL(own), { type: "module" });
}

const worker = openWorker();
worker.addEventListener("message", ({ data }: MessageEvent<FromWorker>) => hear(data));
worker.addEventListener(
  "error",
  (event) => failure.value = event.message || "The page's worker has stopped.",
);

/** Tells the worker. */
export function tell(message: ToWorker): void {
  worker.postMessage(message);
}

/** Takes the run's address out of the address bar: it lets its holder in. */
function takePlace(): RunPlace | null {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  return { server: fragment.get("server") ?? location.origin, token };
}

/** Looks at the run, with the GPU that the address asks for. */
export function look(): void {
  const asked = new URLSearchParams(location.search);
  const gpu = Object.fromEntries(
    ["featureLevel", "limits", "adapterClass"].flatMap((name) => {
      const value = asked.get(name);
      return value === null ? [] : [[name, value]];
    }),
  );
  tell({ type: "look", place: takePlace(), gpu });
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
      return join(returning.name, returning.capacity);
    }
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
