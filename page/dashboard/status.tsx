/**
 * The state of a run in a word.
 *
 * @module
 */

import type { JSX } from "preact";
import type { StoredRunJson } from "@edgetuner/transport/control";

const CLASSES: Readonly<Record<StoredRunJson["status"], string>> = {
  waiting: "calm",
  running: "good",
  paused: "calm",
  ended: "over",
  failed: "bad",
  lost: "bad",
};

/** The state. */
export function Status({ status }: { readonly status: StoredRunJson["status"] }): JSX.Element {
  return <span class={`status ${CLASSES[status]}`}>{status}</span>;
}
