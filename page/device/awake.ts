/**
 * The screen stays on while the device takes part, and the worker hears when the page is seen again or is about to go.
 *
 * @module
 */

import { effect } from "@preact/signals";
import { phase, tell, view } from "./view_state.ts";

interface Lock {
  release(): Promise<void>;
}

let lock: Promise<Lock | null> | null = null;

function ask(): Promise<Lock | null> {
  const { wakeLock } = navigator as { wakeLock?: { request(kind: "screen"): Promise<Lock> } };
  // Where the battery is low the browser refuses; the run goes on, and the screen may turn off.
  return wakeLock?.request("screen").catch(() => null) ?? Promise.resolve(null);
}

/** True while the screen is to stay on. */
function isBusy(): boolean {
  return view.value.name === "taking part" && !["paused", "ended"].includes(phase.value.phase);
}

/** Begins to look after it. */
export function stayAwake(): void {
  effect(() => {
    const held = lock;
    if (isBusy()) lock ??= ask();
    else if (held !== null) {
      lock = null;
      void held.then((lock) => lock?.release());
    }
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState !== "visible") return;
    // The browser lets go of the screen where a page is hidden.
    if (lock !== null) lock = ask();
    tell({ type: "wake" });
  });
  for (const event of ["resume", "online", "pageshow"]) {
    addEventListener(event, () => tell({ type: "wake" }));
    document.addEventListener(event, () => tell({ type: "wake" }));
  }
  // So the others hear of it at once. A page that is kept may come back.
  addEventListener("pagehide", ({ persisted }) => persisted || tell({ type: "bye" }));
}
