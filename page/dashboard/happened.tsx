/**
 * What happened in a run, in sentences.
 *
 * @module
 */

import type { StoredEventJson } from "@edgetuner/transport/control";
import type { JSX } from "preact";
import { figure, moment } from "./numbers.ts";
import type { RunState } from "./state.ts";

interface Told {
  readonly device?: { readonly name: string };
  readonly reason?: string;
  readonly status?: string;
  readonly peer?: string;
  readonly step?: number;
  readonly loss?: number;
}

function sentence({ type, data }: StoredEventJson): string {
  const { device, reason = "", status = "", peer = "", step = 0, loss = null } = data as Told;
  const name = device?.name ?? "A device";
  const why = reason === "" ? "" : `: ${reason}`;
  switch (type) {
    case "joined":
      return `${name} joined`;
    case "left":
      return `${name} left`;
    case "away":
      return `${name} is away from step ${step} on${why}`;
    case "back":
      return `${name} is back from step ${step} on`;
    case "refused":
      return `Refused ${peer}${why}`;
    case "status":
      return `The run is ${status}${why}`;
    case "validation":
      return `Validation before step ${step}: loss ${figure(loss)}`;
    default:
      return type;
  }
}

/** Events of the run, the newest first. */
export function Happened({ state }: { readonly state: RunState }): JSX.Element {
  const events = state.events.value.slice(-100).reverse();
  return (
    <section class="card" aria-labelledby="events-title">
      <h2 id="events-title">What happened</h2>
      {events.length === 0
        ? <p class="quiet">Nothing is kept.</p>
        : (
          <ol class="events" tabIndex={0} aria-label="Events, the newest first">
            {events.map((event, i) => (
              <li key={i}>
                <time class="quiet" dateTime={new Date(event.at).toISOString()}>{moment(event.at)}</time>{" "}
                {sentence(event)}
              </li>
            ))}
          </ol>
        )}
    </section>
  );
}
